"""What a network was made for, compared with what it is used on: refused, warned of, or equal; at every command."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support import photos, streets
from twinseg.common import checkpoint, config, facts
from twinseg.common.checkpoint import RunMeta
from twinseg.common.cli import main
from twinseg.common.errors import StateError, UserError
from twinseg.common.facts import Facts
from twinseg.common.inference.runs import load_run
from twinseg.common.settings.groups.augment import IMAGENET_MEAN, IMAGENET_STD
from twinseg.common.training import loop

STORED = Facts(
    'run',
    'segmentation',
    'custom',
    '/data',
    3,
    ('ground', 'box', 'traffic light'),
    ((0, 0, 0), (9, 9, 9), (7, 7, 7)),
    {0: 0, 1: 1, 2: 2},
    {'mean': [1.0, 2.0, 3.0], 'std': [4.0, 5.0, 6.0], 'crop_size': [64, 96], 'eval_size': None},
)


def changed(**fields) -> Facts:
    return replace(STORED, source='data', **fields)


def test_equal_facts_say_nothing():
    assert facts.compare(STORED, changed()) == facts.compare(STORED, changed(), continued=True) == ([], [])


WRONG = {
    'task': (
        {'task': 'classification', 'set': 'image_folder'},
        'run: a network for segmentation, but set: image_folder of data is for image classification',
    ),
    'more classes': (
        {'classes': ('a', 'b', 'c', 'd'), 'palette': ()},
        'run: a network of 3 classes (ground, box, traffic light), but data has 4 (a, b, c, d); use data of its classes, or '
        'train on these (pretrained, reset_classifier: true)',
    ),
    'fewer classes': ({'classes': ('ground', 'box')}, 'run: a network of 3 classes .*, but data has 2 .ground, box.'),
    'another count, without names': ({'classes': (), 'num_classes': 19}, 'run: a network of 3 classes .*, but data has 19;'),
    'other outputs': ({'num_classes': 19}, 'run: a network of 3 outputs, but data says num_classes: 19'),
    'another order': (
        {'classes': ('traffic light', 'ground', 'box')},
        'run: has classes of data in another order: ground is its class 0, there class 1, box is its class 1, there class 2, '
        'traffic light is its class 2, there class 0; on these files it was trained with classes: [ground, box, traffic light]',
    ),
    'another order of other files': (
        {'classes': ('traffic light', 'ground', 'box'), 'folder': '/other'},
        '.*; in its order they are classes: .ground, box, traffic light., label_map: .0: 2, 1: 0, 2: 1.$',
    ),
    'another order, spelt otherwise': ({'classes': ('Box', 'ground ', 'traffic-light')}, 'ground is its class 0, there .* 1,'),
    'one class elsewhere': ({'classes': ('box', 'sky', 'traffic light')}, 'another order: box is its class 1, there class 0$'),
}  # fmt: skip


@pytest.mark.parametrize('continued', [False, True])
@pytest.mark.parametrize('case', WRONG)
def test_what_cannot_be_right_is_refused(case, continued):
    fields, line = WRONG[case]
    pattern = line if '.*' in line or line.endswith('$') else f'^{_escaped(line)}'
    with pytest.raises(StateError, match=pattern):
        facts.check(STORED, changed(**fields), continued)


def _escaped(line: str) -> str:
    return ''.join(f'\\{letter}' if letter in '()[]{}.' else letter for letter in line)


DOUBTFUL = {  # fields, line, whether a training is continued with it
    'names': (
        {'classes': ('road', 'box', 'traffic light')},
        "run: other names of classes than data: class 0 is 'ground', there 'road'; are they the same classes?",
        False,
    ),
    'spelling': (
        {'classes': ('Ground', 'box ', 'traffic_light')},
        "run: other names of classes than data: class 0 is 'ground', there 'Ground', class 1 is 'box', there 'box ', class 2 "
        "is 'traffic light', there 'traffic_light'",
        True,
    ),
    'mean': (
        {'settings': {**STORED.settings, 'mean': [0.0, 0.0, 0.0]}},
        'run: was made with mean: [1.0, 2.0, 3.0], but data says mean: [0.0, 0.0, 0.0]; the network expects its own',
        False,
    ),
    'size': (
        {'settings': {**STORED.settings, 'eval_size': [32, 48]}},
        'run: was made with eval_size: None, but data says eval_size: [32, 48]',
        None,
    ),
    'colours': (
        {'palette': ((0, 0, 0), (9, 9, 8), (7, 7, 7))},
        'run: other colours than those of data: class 1 (box) is [9, 9, 9], there [9, 9, 8]',
        None,
    ),
    'ids': (
        {'label_map': {0: 1, 1: 0, 2: 2}},
        'run: label_map: ids of the label files meant other classes: 0 was ground, is box, 1 was box, is ground',
        False,
    ),
}


@pytest.mark.parametrize('case', DOUBTFUL)
def test_what_may_be_right_is_warned_of(case):
    fields, line, goes_on = DOUBTFUL[case]
    told: list[str] = []
    facts.check(STORED, changed(**fields), tell=told.append)
    assert told == [line]
    facts.check(STORED, changed(**fields), tell=told.append, quiet=True)
    assert told == [line]
    if goes_on is False:
        with pytest.raises(StateError, match='run: '):
            facts.check(STORED, changed(**fields), continued=True)
    else:  # None: among the settings that a continued training lists
        facts.check(STORED, changed(**fields), True, told.append)
        assert told == [line] * (1 + bool(goes_on))


def test_new_ids_and_other_folders_are_no_renumbering():
    assert facts.compare(STORED, changed(label_map={0: 0, 1: 1, 2: 255, 7: 2})) == ([], [])
    assert facts.compare(STORED, changed(label_map={0: 1, 1: 0, 2: 2}, folder='/other')) == ([], [])


def test_a_file_that_says_no_names_is_said_to_have_none():
    line = 'run: says no names of its classes: whether they are those of data (ground, box, traffic light) is not known'
    nameless = replace(STORED, classes=(), palette=())
    assert facts.compare(nameless, changed(folder='/other')).doubtful == [line]
    assert facts.compare(replace(nameless, set='voc'), changed()).doubtful == [line]
    assert facts.compare(nameless, changed()) == ([], [])  # its own data
    outputs = facts.compare(replace(nameless, num_classes=9), changed(num_classes=9))
    assert len(outputs.doubtful) == 1 and 'a network of 9 classes, but data has 3' in outputs.doubtful[0]


def test_many_differences_are_cut():
    names = tuple(f'class {index}' for index in range(1000))
    stored = Facts('run', num_classes=1000, classes=names)
    (line,) = facts.compare(stored, Facts('data', num_classes=1000, classes=names[1:] + names[:1])).wrong
    assert len(line) < 500 and line.endswith('... (1000 in all)')
    twice = Facts('data', num_classes=3, classes=('a', 'a', 'b'))
    assert facts.compare(twice, replace(twice, source='x')) == ([], [])


def test_a_run_states_its_defaults_and_a_published_file_does_not():
    run = facts.of_checkpoint(RunMeta(config={'arch': 'fcn', 'set': 'voc'}, num_classes=21), 'x')
    assert (run.settings['mean'], run.settings['std'], run.task) == (IMAGENET_MEAN, IMAGENET_STD, 'segmentation')
    assert run.classes[:2] == ('background', 'aeroplane')
    published = facts.of_checkpoint(RunMeta(config={'arch': 'fcn'}, num_classes=21, source='mmseg'), 'x')
    assert published == Facts('x', num_classes=21)
    assert facts.of_checkpoint(RunMeta(config={'of an': 'older version'}, num_classes=3), 'x') == Facts('x', num_classes=3)


# --- the commands


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return streets.make(tmp_path_factory.mktemp('streets'), count=2)


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    pytest.importorskip('torch')
    folder = tmp_path_factory.mktemp('trained') / 'run'
    loop.train(config.from_flat(settings(data)), 'pytorch', 'cpu', folder)
    return folder


def settings(data, **changes) -> dict:
    return streets.settings(data, **{'batch_size': 2, 'max_iters': 1, 'val_interval': 1, 'checkpoint_interval': 1, **changes})


def recipe(folder, data, **changes):
    path = folder / f'{"-".join(changes)}.yaml'
    path.write_text(config.dump(config.from_flat(settings(data, **changes))), encoding='utf-8')
    return str(path)


ORDER = {'classes': ['sky', 'road', 'building']}
MORE = {'classes': ['a', 'b', 'c', 'd'], 'palette': None}
COMMANDS = {
    'eval': ['eval', 'RECIPE', '--checkpoint', 'RUN'],
    'predict': ['predict', 'RECIPE', 'IMAGE', '--checkpoint', 'RUN'],
    'submit': ['submit', 'RECIPE', '--checkpoint', 'RUN'],
    'export': ['export', 'RECIPE', '--checkpoint', 'RUN'],
    'benchmark': ['benchmark', 'RECIPE', '--checkpoint', 'RUN'],
    'train --checkpoint': ['train', 'RECIPE', '--checkpoint', 'FILE'],
    'train --resume': ['train', 'RECIPE', '--resume', '--work-dir', 'RUN'],
}


def words(command, path, run, data):
    names = {
        'RECIPE': path,
        'RUN': str(run),
        'FILE': str(checkpoint.latest(run / 'checkpoints')),
        'IMAGE': str(data / 'images/val/000.png'),
    }
    return [names.get(word, word) for word in COMMANDS[command]]


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize(
    'keys, message',
    [
        (ORDER, 'in another order: road is its class 0, there class 1'),
        (MORE, 'of 3 classes (road, building, sky), but the con'),
    ],
    ids=['order', 'more'],
)
def test_every_command_refuses_other_classes(command, keys, message, run, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words(command, recipe(tmp_path, data, **keys), run, data)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('twinseg: error')]
    assert message in line


def test_evaluation_with_another_normalisation_is_warned_of_once(run, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = recipe(tmp_path, data, mean=[0.0, 0.0, 0.0])
    assert main(['eval', path, '--checkpoint', str(run)]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if 'warning' in line]
    assert warned == [
        f'twinseg: warning: {run}: was made with mean: {IMAGENET_MEAN}, but the configuration says mean: [0.0, 0.0, 0.0]; '
        'the network expects its own'
    ]
    assert main(['eval', '--checkpoint', str(run), '--set', 'std=[1.0,1.0,1.0]']) == 0
    assert 'was made with std' in capsys.readouterr().err
    assert main(['eval', '--checkpoint', str(run)]) == 0
    assert 'warning' not in capsys.readouterr().err
    assert main(['train', path, '--resume', '--work-dir', str(run)]) == 2
    assert 'a run is continued with the settings that it began with' in capsys.readouterr().err


def test_an_exported_file_is_compared_too(run, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    assert main(['export', '--checkpoint', str(run), '--out', 'x.onnx']) == 0
    plain = recipe(tmp_path, data, base_lr=0.05)
    for keys, message in ((ORDER, 'x.onnx: has classes of the conf'), (MORE, 'x.onnx: a network of 3 classes')):
        path = recipe(tmp_path, data, **keys)
        image = str(data / 'images/val/000.png')
        for line in (
            ['eval', path, '--model', 'x.onnx'],
            ['predict', path, image, '--model', 'x.onnx'],
            ['quantize', 'x.onnx', path],
        ):
            capsys.readouterr()
            assert main(line) == 2
            assert message in capsys.readouterr().err
    assert main(['eval', plain, '--model', 'x.onnx', '--set', 'mean=[0.0,0.0,0.0]']) == 0
    assert 'x.onnx: was made with mean: [123.675' in capsys.readouterr().err
    assert main(['eval', recipe(tmp_path, data, std=[9.0, 9.0, 9.0]), '--model', 'x.onnx']) == 0
    assert 'x.onnx: was made with std: [58.395' in capsys.readouterr().err
    assert main(['eval', plain, '--model', 'x.onnx']) == 0
    assert 'warning' not in capsys.readouterr().err


def test_a_continued_run_lists_the_settings_that_have_changed(run, data, tmp_path):
    settings = config.load(recipe(tmp_path, data, base_lr=0.025, flip_prob=0.0), ['max_iters=2'])
    file = checkpoint.latest(run / 'checkpoints')
    with pytest.raises(StateError, match=r'changed: base_lr: 0.025 .was 0.05.; .* --allow-changed base_lr$'):
        loop.train(settings, 'pytorch', 'cpu', tmp_path / 'on', start_from=file, allow_changed=['flip_prob'])
    loop.train(settings, 'pytorch', 'cpu', tmp_path / 'on', start_from=file, allow_changed=['flip_prob', 'base_lr'])
    text = (tmp_path / 'on/log.txt').read_text()
    assert 'which --allow-changed names: flip_prob: 0.0 (was 0.5); base_lr: 0.025 (was 0.05)' in text
    assert 'continues with other settings than it began with: max_iters: 2 (was 1)' in text
    assert '2 steps (were 1): learning rates follow the new length' in text
    changes = checkpoint.load(checkpoint.latest(tmp_path / 'on/checkpoints'))[1].changes
    assert [(one.step, one.key, one.before, one.now) for one in changes] == [
        (1, 'flip_prob', 0.5, 0.0),
        (1, 'base_lr', 0.05, 0.025),
        (1, 'max_iters', 1, 2),
    ]


def test_initial_weights_of_another_normalisation_are_warned_of(run, data, tmp_path):
    changes = {'pretrained': str(run / 'checkpoints/best.safetensors'), 'mean': [0.0, 0.0, 0.0], **ORDER}
    with pytest.warns(UserWarning) as told:
        loop.train(config.from_flat(settings(data, **changes)), 'pytorch', 'cpu', tmp_path / 'run')
    lines = [str(one.message) for one in told]
    assert any('was made with mean' in line for line in lines) and any('in another order' in line for line in lines)


def test_folders_of_a_classifier_are_compared_with_its_names(tmp_path):
    pytest.importorskip('torch')
    folder = photos.make(tmp_path / 'data', train=2, val=1)
    keys = photos.settings(folder, batch_size=2, max_iters=1)
    loop.train(config.from_flat(keys), 'pytorch', 'cpu', tmp_path / 'run')
    for split in ('train', 'val'):
        (folder / split / 'red').rename(folder / split / 'amber')
    from twinseg.common.inference.evaluate import evaluate_run

    with pytest.raises(StateError, match='blue is its class 0, there class 1, green is its class 1, there class 2'):
        evaluate_run(load_run(tmp_path / 'run', 'pytorch', 'cpu'))


# --- numbers that are not finite


def test_weights_that_are_not_finite_are_named(run, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tensors, meta = checkpoint.load(checkpoint.latest(run / 'checkpoints'))
    name = next(name for name in tensors if name.startswith('model.') and tensors[name].ndim == 4)
    tensors[name] = tensors[name].copy()
    tensors[name].ravel()[:3] = np.nan, np.inf, -np.inf
    checkpoint.save(tmp_path / 'nan.safetensors', tensors, meta)
    found = f'first {name.removeprefix("model.")} (3 of {tensors[name].size} are NaN or infinite)'
    for line in (
        ['eval', '--checkpoint', 'nan.safetensors'],
        ['convert', 'nan.safetensors', '--out', 'y.safetensors'],
        ['export', '--checkpoint', 'nan.safetensors'],
        ['train', recipe(tmp_path, data, pretrained=str(tmp_path / 'nan.safetensors'))],
    ):
        capsys.readouterr()
        assert main(line) == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('twinseg: error')]
        assert 'nan.safetensors: ' in error and '1 of ' in error and found in error and 'use another checkpoint' in error
    assert not (tmp_path / 'y.safetensors').exists()
    assert main(['train', recipe(tmp_path, data), '--checkpoint', 'nan.safetensors']) == 2
    assert f'first {name} (3 of' in capsys.readouterr().err


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e300])
def test_a_network_takes_no_such_state(backend, value):
    network = backend.build_model('fast_scnn', num_classes=3)
    state = {name: array.astype(np.float64) for name, array in backend.state(network).items()}
    name = list(state)[3]
    state[name].flat[0] = value
    with pytest.raises(checkpoint.NotFiniteError, match=f'1 of {len(state)} tensors hold .* first {name} .1 of'):
        backend.load_state(network, state)


def test_what_a_newer_version_added_is_named(run, data, tmp_path):
    tensors, meta = checkpoint.load(checkpoint.latest(run / 'checkpoints'))
    checkpoint.save(tmp_path / 'x.safetensors', {**tensors, 'muon.x': np.zeros(3)}, meta)
    with pytest.raises(StateError, match='training state muon.x: not a part that is known here .model, optimizer, ema'):
        loop.train(config.from_flat(settings(data)), 'pytorch', 'cpu', tmp_path / 'on', start_from=tmp_path / 'x.safetensors')


@pytest.mark.parametrize('keys', [{'set': ['voc']}, {'set': {}}, {'arch': 3}, {'model_args': []}])
def test_a_configuration_of_wrong_kinds_in_a_checkpoint(run, tmp_path, keys):
    tensors, meta = checkpoint.load(checkpoint.latest(run / 'checkpoints'))
    meta = meta.model_copy(update={'config': {**meta.config, **keys}})
    checkpoint.save(tmp_path / 'x.safetensors', tensors, meta)
    with pytest.raises(UserError, match=f'x.safetensors: {next(iter(keys))}: '):
        load_run(tmp_path / 'x.safetensors', 'pytorch', 'cpu')


def test_a_run_of_an_earlier_version_says_how_it_normalised():
    """... also where such a normalisation is refused today."""
    meta = checkpoint.RunMeta(config={'set': 'camvid', 'mean': [0.5] * 3, 'std': [0.2] * 3, 'ratio_range': [2.0, 0.5]})
    assert facts.of_checkpoint(meta, 'x').settings['mean'] == [0.5] * 3
