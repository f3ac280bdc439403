"""Plugins: the examples of ``examples/`` at work in both backends, and what is said of plugins that fail."""

import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support import streets
from twinseg.common import checkpoint, cli, config, plugins
from twinseg.common.backend import available, get_backend, load_plugin
from twinseg.common.errors import UserError

EXAMPLES = Path(__file__).parents[1] / 'examples'
CLOSE = 1e-5  # twin against twin, of the largest magnitude


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    for kind in ('networks', 'losses', 'datasets'):
        monkeypatch.setattr(plugins.PLUGINS, kind, {})
    monkeypatch.setattr(plugins.PLUGINS, 'callbacks', [])
    known = {name: dict(get_backend(name).MODELS) for name in available()}
    yield plugins.PLUGINS
    for name, models in known.items():
        current = get_backend(name).MODELS
        for arch in set(current) - set(models):
            del current[arch]


@pytest.fixture(scope='module')
def flat(tmp_path_factory) -> Path:
    """The layout of ``examples/flat_folder.py``."""
    made, folder = streets.make(tmp_path_factory.mktemp('made')), tmp_path_factory.mktemp('flat')
    for path in sorted(made.glob('images/*/*.png')):
        split = path.parent.name
        cv2.imwrite(str(folder / f'{split}_{path.stem}.jpg'), cv2.imread(str(path)))
        label = cv2.imread(str(made / 'labels' / split / path.name), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(folder / f'{split}_{path.stem}_mask.png'), label)
    return folder


def test_the_four_examples_train_together(flat, backend_name, tmp_path, capsys):
    """From the command line, and the checkpoint is predicted from with the plugin again."""
    given = [word for path in sorted(EXAMPLES.glob('*.py')) for word in ('--plugin', str(path))]
    assert len(given) == 8
    keys = ['arch=tiny', 'set=flat_folder', f'data_url={flat}', 'loss=squared', 'max_iters=2', 'val_interval=1', 'batch_size=4']
    keys += ['crop_size=[64,96]', 'num_parallel_workers=0', 'threads=1', 'log_interval=1', 'tensorboard_images=0']
    keys += ['graph_mode=1'] if backend_name == 'mindspore' else []
    (tmp_path / 'empty.yaml').write_text('{}')
    words = ['train', str(tmp_path / 'empty.yaml'), '--backend', backend_name, '--device', 'cpu']
    assert cli.main([*words, '--work-dir', str(tmp_path / 'run'), *given, '--set', *keys]) == 0
    assert (tmp_path / 'run' / 'best_scores.txt').read_text().startswith('step 1: ')
    meta = checkpoint.read_meta(tmp_path / 'run' / 'checkpoints' / 'best.safetensors')
    assert meta.classes == ['road', 'building', 'sky'] and meta.config['arch'] == 'tiny'
    image = next(flat.glob('val_*.jpg'))
    words = ['predict', str(image), '--checkpoint', str(tmp_path / 'run'), '--device', 'cpu', '--out', str(tmp_path / 'seen')]
    assert cli.main([*words, '--backend', backend_name]) == 0


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
def test_the_networks_of_the_example_are_twins(registry):
    load_plugin(EXAMPLES / 'tiny_network.py')
    outputs = []
    state = None
    for name in ('pytorch', 'mindspore'):
        backend = get_backend(name)
        backend.setup('cpu', threads=1)
        network = backend.build_model('tiny', num_classes=3, width=8)
        state = backend.state(network) if state is None else state
        backend.load_state(network, state)
        outputs.append(backend.forward(network, np.random.default_rng(0).standard_normal((1, 3, 32, 48), np.float32))['logits'])
    assert outputs[0].shape == (1, 3, 8, 12) and np.abs(outputs[0] - outputs[1]).max() <= CLOSE * np.abs(outputs[0]).max()


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
def test_the_losses_of_the_example_are_numpys(registry):
    load_plugin(EXAMPLES / 'squared_loss.py')
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 3, 4, 5), np.float32), rng.integers(0, 3, (2, 4, 5))
    labels[0, 0] = 255
    power = np.exp(logits)
    shares, truth = power / power.sum(1, keepdims=True), np.eye(4)[np.minimum(labels, 3)][..., :3].transpose(0, 3, 1, 2)
    expected = ((shares - truth) ** 2).sum(1)[labels != 255].mean()
    import mindspore
    import torch

    values = [
        plugins.built(registry.losses, 'squared', 'pytorch')(torch.from_numpy(logits), torch.from_numpy(labels)).item(),
        plugins.built(registry.losses, 'squared', 'mindspore')(mindspore.Tensor(logits), mindspore.Tensor(labels))
        .asnumpy()
        .item(),
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


BROKEN = {
    'no file': (None, 'no such file'),
    'no register': ('x = 1', r'has no function register\(plugins\)'),
    'a mistake': ('1 / 0', 'ZeroDivisionError'),
    'a name twice': (
        'def register(plugins):\n for _ in 1, 2:\n  plugins.network("a", pytorch=dict)',
        'one of this name already',
    ),
    'no backend': ('def register(plugins): plugins.loss("a")', 'give it for pytorch, mindspore or both'),
    'a wrong name': ('def register(plugins): plugins.network("a b", pytorch=dict)', 'a name of letters'),
    'colours': ('def register(plugins): plugins.dataset("a", None, ["x"], palette=[])', 'as many colours'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_plugin_is_one_line(case, tmp_path, capsys):
    text, said = BROKEN[case]
    if text is not None:
        (tmp_path / 'mine.py').write_text(text)
    assert cli.main(['list', 'networks', '--plugin', str(tmp_path / 'mine.py')]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'mine.py' in error
    assert re.search(said, error)


def test_a_network_of_one_backend_says_so_in_the_other(registry):
    registry.network('lonely', mindspore=dict)
    with pytest.raises(UserError, match='lonely: its plugin has it for mindspore alone, not for pytorch'):
        plugins.built(registry.networks, 'lonely', 'pytorch')


def test_names_of_plugins_are_unknown_without_them():
    for key, value in (('set', 'flat_folder'), ('loss', 'squared')):
        with pytest.raises(UserError, match=value):
            config.from_flat({key: value})


def test_an_entry_point_registers_a_plugin(tmp_path, registry, monkeypatch):
    """As an installed package has it: metadata beside a module."""
    (tmp_path / 'mine_for_twinseg.py').write_text('def register(plugins): plugins.callback("hears")\n')
    about = tmp_path / 'mine-1.0.dist-info'
    about.mkdir()
    (about / 'METADATA').write_text('Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n')
    (about / 'entry_points.txt').write_text('[twinseg.plugins]\nmine = mine_for_twinseg:register\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    from twinseg.common.backend import load_installed_plugins

    load_installed_plugins.cache_clear()
    load_installed_plugins()
    load_installed_plugins.cache_clear()
    sys.modules.pop('mine_for_twinseg', None)
    assert registry.callbacks == ['hears']
