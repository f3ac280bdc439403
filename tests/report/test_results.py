"""The page of results says what run folders hold, and nothing else."""

import json
import shutil

import pytest

from twinseg.common.cli import main
from twinseg.common.config import load
from twinseg.common.errors import UserError
from twinseg.common.report import results_table
from twinseg.common.report.records import read_run
from twinseg.common.training.log import Log


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A short run of a recipe, with an evaluation at several scales beside it."""
    pytest.importorskip('torch')
    folder = tmp_path_factory.mktemp('results')
    words = [
        'train_samples=4',
        'val_samples=2',
        'image_size=[64, 96]',
        'crop_size=[64, 96]',
        'epochs=null',
        'max_iters=4',
        'warmup_iters=1',
        'val_interval=2',
        'checkpoint_interval=4',
        'threads=1',
        'num_parallel_workers=0',
    ]
    assert (
        main(
            [
                'train',
                'fast_scnn_toy_street',
                '--backend',
                'pytorch',
                '--device',
                'cpu',
                '--work-dir',
                str(folder / 'run'),
                '--set',
                *words,
            ]
        )
        == 0
    )
    assert (
        main(
            [
                'eval',
                '--checkpoint',
                str(folder / 'run'),
                '--device',
                'cpu',
                '--ms-flip',
                '--json',
                str(folder / 'run/several.json'),
            ]
        )
        == 0
    )
    return folder / 'run'


def cells(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith('|')]
    keys, *rows = [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines if '---' not in line]
    return [dict(zip(keys, row)) for row in rows]


def test_a_row_is_what_the_run_says(run, tmp_path):
    assert main(['results', str(run), '--out', str(tmp_path / 'new/results.md')]) == 0
    (found,) = cells(tmp_path / 'new/results.md')
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    best = max(line['mIoU'] for line in lines if line['kind'] == 'eval')
    assert (found['data'], found['backend'], found['seed'], found['steps']) == ('toy_street', 'pytorch', '0', '4')
    assert found['score'] == f'mIoU {best:.2f}'
    assert found['multi-scale, flip'] == f'{json.loads((run / "several.json").read_text())["mIoU"]:.2f}'
    assert found['recipe'].startswith('fastscnn/fast_scnn_toy_street with train_samples=4')
    assert 'num_parallel_workers' not in found['recipe'] and 'max_iters=4' in found['recipe']
    assert (found['parameters, M'], found['at'], found['published']) == ('1.457', '64x96', '-')
    assert found['hardware'].endswith('1 threads') and float(found['hours']) < 0.1


def test_weights_to_start_from_are_named_without_their_place(run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    config = tmp_path / 'run/config.yaml'
    config.write_text(config.read_text().replace('pretrained: null', 'pretrained: /far/weighted/checkpoints/best.safetensors'))
    assert main(['results', str(tmp_path / 'run'), '--out', str(tmp_path / 'results.md')]) == 0
    assert 'pretrained=weighted/checkpoints/best.safetensors' in cells(tmp_path / 'results.md')[0]['recipe']


def test_a_score_of_another_protocol_says_so(run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    path = tmp_path / 'run/config.yaml'
    text = path.read_text()
    for line, other in (
        ('resized: null', 'resized: [48, 64]'),
        ('scales: [1.0]', 'scales: [0.5, 1.0]'),
        ('flip: false', 'flip: true'),
    ):
        text = text.replace(f'eval_{line}', f'eval_{other}')
    path.write_text(text)
    found = results_table.row(tmp_path / 'run')
    assert found['score'].endswith(' (resized 48x64; scales 0.5, 1; flip)')
    assert found['multi-scale, flip'] is None, 'the evaluation beside it was counted on the full labels'


CONDITIONS = '"conditions": {"ms_flip": true, "split": "val"}'


@pytest.mark.parametrize(
    'content, score',
    [
        (f'{{"mIoU": 50, {CONDITIONS}}}', '50.00'),
        *(
            (text, None)
            for text in ('{', '[]', '{"conditions": []}', '{"conditions": "text"}', f'{{"mIoU": [], {CONDITIONS}}}')
        ),
    ],
)
def test_files_of_another_kind_are_passed_over(tmp_path, content, score):
    (tmp_path / 'x.json').write_text(content)
    assert results_table._several_scales(tmp_path, load('fast_scnn_toy_street'), 'mIoU') == score


def test_rows_are_in_order_and_runs_are_checked(run, tmp_path):
    shutil.copytree(run, tmp_path / 'b')
    text = (tmp_path / 'b/config.yaml').read_text()
    (tmp_path / 'b/config.yaml').write_text(text.replace('recipe: fastscnn/fast_scnn_toy_street', 'recipe: null'))
    (tmp_path / 'b/several.json').write_text('[1, 2]')
    results_table.write_results([run, tmp_path / 'b'], tmp_path / 'x.md')
    found = cells(tmp_path / 'x.md')
    assert [row['recipe'][:10] for row in found] == ['fast_scnn', 'fastscnn/f'] and found[0]['multi-scale, flip'] == '-'
    with pytest.raises(UserError, match='not a run folder'):
        results_table.write_results([tmp_path], tmp_path / 'x.md')
    (tmp_path / 'b/metrics.jsonl').write_text('')
    with pytest.raises(UserError, match='has no evaluation yet'):
        results_table.write_results([tmp_path / 'b'], tmp_path / 'x.md')


def test_rows_of_other_runs_stay(run, tmp_path):
    page, other = tmp_path / 'x.md', tmp_path / 'b'
    shutil.copytree(run, other)
    (other / 'config.yaml').write_text((run / 'config.yaml').read_text().replace('seed: 0', 'seed: 10'))
    add = ['results', '--add', '--out', str(page)]
    assert main([*add, str(other)]) == 0 and len(cells(page)) == 1
    alone = page.read_text()
    assert main([*add, str(run)]) == 0
    assert [row['seed'] for row in cells(page)] == ['0', '10'] and alone.splitlines()[-1] == page.read_text().splitlines()[-1]
    page.write_text(page.read_text().replace(cells(page)[0]['score'], 'mIoU 99.00', 1))
    assert main([*add, str(run)]) == 0 and '99.00' not in page.read_text() and len(cells(page)) == 2
    written = page.read_bytes()
    for content in (
        b'',
        b'my notes',
        b'\xff',
        written.replace(b' G MACs |', b'', 1),
        written + b'| a | b |\n',
        written.replace(b'| 10 |', b'| ten |'),
    ):
        page.write_bytes(content)
        assert main([*add, str(run)]) == 2 and page.read_bytes() == content


@pytest.mark.parametrize(
    'recipe, keys, expected',
    [
        (
            'stdc/stdc1_4xb12-80k_cityscapes-512x1024',
            {},
            'mIoU 71.82 (val); mIoU 73.89 (val; 6 scales of 0.5 to 1.75 and flip)',
        ),
        ('stdc/stdc1_4xb12-80k_cityscapes-512x1024', {'eval_size': [512, 1024]}, None),
        ('stdc/stdc1_4xb12-80k_cityscapes-512x1024', {'val_split': 'train'}, None),
        ('stdc/stdc1_4xb12-80k_cityscapes-512x1024', {'set': 'toy_street'}, None),
        ('enet/enet_davidtvs_camvid-360x480', {}, 'mIoU 65.19 (val)'),
        ('enet/enet_cityscapes-512x1024', {}, 'mIoU 59.5 (val)'),
        ('enet/enet_cityscapes-512x1024', {'eval_resized': None}, None),  # labels at full size
        ('enet/enet_davidtvs_camvid-360x480', {'val_split': 'test'}, 'mIoU 52.1 (test)'),
        ('enet/enet_camvid-360x480', {'eval_size': [720, 960]}, None),
        ('ddrnet/ddrnet_23-slim_in1k-pre_camvid-720x960', {'val_split': 'test'}, None),  # other classes
        ('pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512', {}, 'mIoU 76.78 (val)'),
        (
            'pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512',
            {'eval_size': None},
            "mIoU 77.61 (val; 6 scales of 0.5 to 1.75 and flip; the file's size)",
        ),
        ('stdc/stdc1_toy_street', {}, None),
    ],
)
def test_published_scores_stand_beside_those_that_are_counted_alike(recipe, keys, expected):
    assert results_table.published(load(recipe).replace(**keys)) == expected


def test_a_run_of_no_recipe_has_no_published_score():
    config = load('stdc/stdc1_4xb12-80k_cityscapes-512x1024')
    assert results_table.published(config.replace(recipe=None)) is results_table.published(config.replace(recipe='no/such'))


def test_hours_are_those_of_all_processes_of_the_run(run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    path = tmp_path / 'run/metrics.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line['elapsed'] for line in lines] == sorted(line['elapsed'] for line in lines)
    path.write_text('\n'.join(json.dumps({**line, 'elapsed': 5400 + line['elapsed']}) for line in lines))
    with Log(tmp_path / 'run', 2, resumed=True) as log:
        log.record({'kind': 'train', 'step': 3})
    assert [json.loads(line)['elapsed'] >= 5400 for line in path.read_text().splitlines()][-1], 'it goes on after a resume'
    assert results_table.hours(read_run(tmp_path / 'run')) == '1.50'
    path.write_text('\n'.join(json.dumps({key: line[key] for key in line if key != 'elapsed'}) for line in lines))
    assert results_table.hours(read_run(tmp_path / 'run')) is None
