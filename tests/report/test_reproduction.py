"""docs/reproduction.md is made of run folders by a program."""

import json
import re

from scripts import reproduction
from tests.golden import golden
from twinseg.common import config
from twinseg.common.data.classes import CAMVID_CLASSES
from twinseg.common.settings import recipes


def test_the_page_says_what_the_runs_did(tmp_path, monkeypatch):
    rng = golden.generator('reproduction')
    (tmp_path / 'docs').mkdir()
    folders = []
    for name in ('pytorch', 'mindspore'):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / 'config.yaml').write_text(config.dump(config.load(reproduction.RECIPE)))
        lines = []
        for epoch in (90, 100):
            scores = {name: {'IoU': float(rng.uniform(0, 100))} for name in CAMVID_CLASSES}
            at = {'step': 37 * epoch, 'epoch': float(epoch), 'elapsed': 7.2 * epoch}
            lines.append({'kind': 'train', **at, 'loss': 1.0, 'img_per_s': 12.5})
            lines.append({'kind': 'eval', **at, 'mIoU': 60.25, 'mAcc': 70.0, 'aAcc': 90.0, 'classes': scores})
        (folders[-1] / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    monkeypatch.setattr(reproduction, 'ROOT', tmp_path)
    for folder, note in zip(folders, ('On a card.', '')):
        monkeypatch.setattr('sys.argv', ['reproduction.py', f'{folder.name}={folder}', '--note', note])
        reproduction.main()
    page = (tmp_path / 'docs/reproduction.md').read_text()
    assert '| pytorch | 3700 | 100 of 300 | 0.20 | 12.5 | 60.25 |\n| mindspore | 3700 |' in page and '\n\nOn a card.\n' in page
    assert '| class | pytorch, epoch 100 | mindspore, epoch 100 | published (test) |' in page
    assert f'| sky | {json.loads(lines_of(folders[0])[-1])["classes"]["sky"]["IoU"]:.1f} | ' in page and '| **52.1** |' in page
    assert '| `drop_last` | False |' in page and 'mIoU 65.19 (val)' in page
    assert (tmp_path / 'docs' / reproduction.PICTURE).read_text().count('<polyline') == 2


def test_a_later_folder_of_a_run_follows_what_is_kept_before_its_first_evaluation():
    def run(step, note, *epochs):
        evaluations = [{'epoch': at, 'mIoU': step} for at in epochs]
        return reproduction.Training('mindspore', step, step / 37, 1.5, 3.0, note, evaluations)

    other = run(1, '', 3)._replace(name='pytorch')
    first, later = run(925, 'On two cores.', 10.0, 20.0, 25.0), run(1110, '', 20.0, 30.0)
    kept, joined = reproduction.joined(reproduction.joined([other], first), later)
    assert kept == other and joined.steps == 1110 and joined.note == 'On two cores.'
    assert joined.hours == 1.5 * 20 / 25 + 1.5
    assert [(one['epoch'], one['mIoU']) for one in joined.evaluations] == [(10.0, 925), (20.0, 1110), (30.0, 1110)]


def test_recipes_that_were_run_say_so():
    """Their hours and their score stand in the first comment (docs/style.md)."""
    docs = reproduction.ROOT / 'docs'
    ran = {reproduction.RECIPE, *re.findall(r'^\| \w+ \| ([\w/.-]+) ', (docs / 'results.md').read_text(), re.MULTILINE)} - {
        'recipe'
    }
    assert len(ran) > 3
    headers = {name: re.sub(r'(?m)^[^#].*', '', (recipes.RECIPES / f'{name}.yaml').read_text()) for name in ran}
    assert not [name for name, header in headers.items() if 'not yet run' in header]
    for run in json.loads((docs / reproduction.KEPT).read_text()):
        assert f'{max(one["mIoU"] for one in run["evaluations"]):.2f}' in headers[reproduction.RECIPE]


def lines_of(folder) -> list[str]:
    return (folder / 'metrics.jsonl').read_text().splitlines()
