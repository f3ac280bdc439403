"""Compiled graphs are kept between runs under keys that cover what they depend on; MindSpore's own cache does not ask.

Keys are proven from both sides: what changes a graph changes its key, and what is kept under a key is what runs.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import batch, mixed_batch, tiny_classifier, tiny_network
from twinseg.common import config
from twinseg.common.backend import available, get_backend
from twinseg.common.files import graph_cache

KEY = 'k' * 32
STEPS = """
import hashlib
import numpy as np
from tests.support.tiny import batch, tiny_network
from twinseg.common import config
from twinseg.common.backend import get_backend
backend = get_backend('mindspore')
backend.setup('cpu', seed=0, threads=1)
trainer = backend.make_trainer(tiny_network('mindspore', dropout=0.5), config.Config())
for seed in range(2):
    trainer.step([batch(seed)], 0.1)
arrays = [*trainer.state()[0].values(), trainer.predictor().logits(batch(9)[0])]
print(hashlib.sha256(b''.join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest())
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of MindSpore's graphs in an empty cache."""
    monkeypatch.setenv('TWINSEG_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv(graph_cache.SWITCH, raising=False)
    return tmp_path / 'cache' / 'graphs' / 'mindspore'


@pytest.fixture(scope='module')
def mindspore():
    pytest.importorskip('mindspore')
    backend = get_backend('mindspore')
    backend.setup('cpu', seed=0, threads=1)
    return backend


def contents(folder: Path) -> dict[str, bytes]:
    """Keys and what is kept under them."""
    return {path.name.partition('-')[0]: path.read_bytes() for path in folder.glob('*')}


def test_a_folder_of_the_users_own(cache):
    folder = graph_cache.graph_folder('mindspore')
    assert folder == cache and stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize('mode', [0o770, 0o707, 0o1777])
def test_a_folder_that_others_write_in_is_not_used(cache, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    assert graph_cache.graph_folder('mindspore') is None


def test_somebody_elses_folder_is_not_used(cache, monkeypatch):
    graph_cache.graph_folder('mindspore')
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
    assert graph_cache.graph_folder('mindspore') is None


def test_no_folder_where_it_is_switched_off_or_cannot_be_made(cache, monkeypatch, tmp_path):
    monkeypatch.setenv(graph_cache.SWITCH, '0')
    assert graph_cache.graph_folder('mindspore') is None
    monkeypatch.setenv(graph_cache.SWITCH, '1')
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TWINSEG_CACHE', str(tmp_path / 'file' / 'below'))
    assert graph_cache.graph_folder('mindspore') is None


def test_what_was_written_is_read(tmp_path):
    assert graph_cache.read(tmp_path, KEY) is None
    for content in (b'first', b'second'):
        graph_cache.write(tmp_path, KEY, content)
        assert graph_cache.read(tmp_path, KEY) == content
    assert len(list(tmp_path.iterdir())) == 1
    graph_cache.remove(tmp_path, KEY)
    assert graph_cache.read(tmp_path, KEY) is None


@pytest.mark.parametrize('broken', [b'', b'firs', b'First', b'first '])
def test_a_broken_file_is_removed(tmp_path, broken):
    graph_cache.write(tmp_path, KEY, b'first')
    next(tmp_path.iterdir()).write_bytes(broken)
    assert graph_cache.read(tmp_path, KEY) is None
    assert not list(tmp_path.iterdir())


def test_what_was_not_used_for_longest_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, 'LIMIT', 25)
    for age, key in enumerate('abc'):
        graph_cache.write(tmp_path, key * 32, bytes(10))
        for path in tmp_path.glob(f'{key}*'):
            os.utime(path, (1000 + age, 1000 + age))
        if key == 'b':
            assert graph_cache.read(tmp_path, 'a' * 32) is not None  # used now
    assert {name[0] for name in contents(tmp_path)} == {'a', 'c'}


def steps(backend, network, settings, number=2):
    """The state after steps that are compiled, as in training, and a prediction."""
    trainer = backend.make_trainer(network, config.from_flat(settings))
    taken = mixed_batch if hasattr(network, 'linear') else batch
    for seed in range(number):
        trainer.step([taken(10 * seed + part) for part in range(settings.get('accumulation_step', 1))], 0.1)
    return {**trainer.state()[0], 'logits': trainer.predictor().logits(batch(9)[0])}


def assert_equal(ours, theirs) -> None:
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    'build, settings, graphs',
    [
        (
            tiny_network,
            {
                'with_ema': True,
                'clip_global_norm': True,
                'accumulation_step': 2,
                'optimizer': 'adamw',
                'weight_decay': 1e-3,
                'loss': 'ohem',
                'ohem_min_kept': 100,
                'class_weight': [1, 2, 3, 4, 5],
            },
            5,  # outputs of a batch, losses of all, a batch but the last, the last one, predictions
        ),
        (tiny_classifier, {'optimizer': 'lamb', 'amp_level': 'O2', 'dtype': 'float16', 'loss_scale': 1024.0}, 2),
    ],
)
def test_results_are_the_same_bits(mindspore, cache, monkeypatch, build, settings, graphs):
    monkeypatch.setenv(graph_cache.SWITCH, '0')
    expected = steps(mindspore, build('mindspore'), settings)
    assert not cache.exists()
    monkeypatch.delenv(graph_cache.SWITCH)
    assert_equal(steps(mindspore, build('mindspore'), settings), expected)
    made = contents(cache)
    assert len(made) == graphs
    monkeypatch.setattr(graph_cache, 'write', lambda *_: pytest.fail('it was compiled again'))
    assert_equal(steps(mindspore, build('mindspore'), settings), expected)
    assert contents(cache) == made


def predictor(mindspore, classes=5, **settings):
    return mindspore.make_predictor(tiny_network('mindspore', classes=classes), config.from_flat(settings))


def test_what_is_kept_under_a_key_is_what_runs(mindspore, cache):
    """So that the other tests see graphs that were read; and a key that covers too little would be seen in numbers."""
    images, _ = batch(9)
    bright = predictor(mindspore, mean=[0, 0, 0]).logits(images)
    ((key, graph),) = contents(cache).items()
    dark = predictor(mindspore, mean=[200, 200, 200]).logits(images)
    (other,) = set(contents(cache)) - {key}
    graph_cache.write(cache, other, graph)
    again = predictor(mindspore, mean=[200, 200, 200]).logits(images)
    assert np.array_equal(again, bright) and not np.array_equal(dark, bright)


def test_a_graph_sees_the_weights_of_now(mindspore, cache, monkeypatch):
    images, _ = batch(9)
    predictor(mindspore).logits(images)
    monkeypatch.setattr(graph_cache, 'write', lambda *_: pytest.fail('it was compiled again'))
    network = tiny_network('mindspore')
    read = mindspore.make_predictor(network, config.Config())
    first = read.logits(images)
    mindspore.load_state(network, {name: 2 * value for name, value in mindspore.state(network).items()})
    second = read.logits(images)
    monkeypatch.setenv(graph_cache.SWITCH, '0')
    assert np.array_equal(mindspore.make_predictor(network, config.Config()).logits(images), second)
    assert not np.array_equal(first, second)


def test_an_evaluation_reads_the_graphs_of_its_training(mindspore, cache, monkeypatch):
    network, images = tiny_network('mindspore', dropout=0.5), batch(9)[0]
    trainer = mindspore.make_trainer(network, config.Config())
    trainer.step([batch(0)], 0.1)
    expected = trainer.predictor().logits(images)
    later = tiny_network('mindspore', dropout=0.5)
    mindspore.load_state(later, mindspore.state(network))
    monkeypatch.setattr(graph_cache, 'write', lambda *_: pytest.fail('it was compiled again'))
    assert np.array_equal(mindspore.make_predictor(later, config.Config()).logits(images), expected)


def test_a_graph_that_cannot_be_read_is_compiled(mindspore, cache):
    images, _ = batch(9)
    expected = predictor(mindspore).logits(images)
    ((key, graph),) = contents(cache).items()
    for content in (graph[: len(graph) // 2], b'', b'no graph at all' * 1000):
        graph_cache.write(cache, key, content)
        assert np.array_equal(predictor(mindspore).logits(images), expected)
        assert len(contents(cache)[key]) == pytest.approx(len(graph), rel=0.01)


def key_of(backend, settings=None, build=tiny_network, images=(2, 3, 16, 24), labels=(2, 16, 24), before=lambda made: None):
    """The key of the graph of a training step."""
    from mindspore import Tensor

    from twinseg.mindspore_impl import compile_cache
    from twinseg.mindspore_impl.network import draw_dropout

    made = backend.make_trainer(build('mindspore'), config.from_flat(settings or {}))
    before(made)
    made.network.set_train(True)
    draw_dropout(made.network, images[0], (0, 0, 0))
    arguments = [Tensor(np.zeros(shape, np.uint8)) for shape in (images, labels)]
    return compile_cache.key_of(made.train_step, (*arguments, Tensor(np.float32(1))))


@pytest.mark.parametrize(
    'changes',
    [
        {'settings': {'loss': 'ohem'}},
        {'settings': {'class_weight': [1, 1, 1, 1, 2]}},
        {'settings': {'label_smoothing': 0.1}},
        {'settings': {'mean': [1, 2, 3]}},
        {'settings': {'std': [1, 2, 3]}},
        {'settings': {'momentum': 0.8}},
        {'settings': {'weight_decay': 0.01}},
        {'settings': {'use_nesterov': True}},
        {'settings': {'optimizer': 'adam'}},
        {'settings': {'with_ema': True}},
        {'settings': {'clip_global_norm': True}},
        {'settings': {'amp_level': 'O2', 'dtype': 'float16'}},
        {'settings': {'sync_bn': False}},
        {'build': lambda name: tiny_network(name, classes=6)},
        {'build': lambda name: tiny_network(name, dropout=0.5)},
        {'build': tiny_classifier, 'labels': (2, 5)},
        {'images': (2, 3, 24, 16), 'labels': (2, 24, 16)},
        {'images': (4, 3, 16, 24), 'labels': (4, 16, 24)},
        {'before': lambda made: made.network.align_corners.update(logits=True)},
        {'before': lambda made: setattr(made.network.block.conv.weight, 'requires_grad', False)},
    ],
)
def test_what_a_graph_depends_on_changes_its_key(mindspore, changes):
    assert key_of(mindspore) != key_of(mindspore, **changes) is not None


def test_versions_change_the_key(mindspore, monkeypatch):
    from twinseg.mindspore_impl import compile_cache

    keys = {key_of(mindspore)}
    for owner, name, value in [
        (compile_cache.ms, '__version__', '2.10.9'),
        (compile_cache, '_sources', lambda: 'an edited file of this package'),
        (compile_cache, '_source', lambda module: 'an edited file of the network'),
    ]:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, value)
            keys.add(key_of(mindspore))
    monkeypatch.setenv('MS_JIT_MODULES', 'tests')
    keys.add(key_of(mindspore))
    assert len(keys) == 5
    sources = compile_cache._sources.__wrapped__
    before = sources()
    monkeypatch.setattr(Path, 'read_bytes', lambda path: b'' if path.name == 'losses.py' else b'same')
    edited = sources()
    monkeypatch.setattr(Path, 'read_bytes', lambda path: b'same')
    assert len({before, edited, sources()}) == 3


def test_what_no_graph_depends_on_keeps_the_key(mindspore):
    def lived(made):
        """Another seed, weights of now, steps that were taken."""
        made.step([batch(0)], 0.1)
        made.step([batch(1)], 0.2)

    key = key_of(mindspore)
    assert key == key_of(mindspore) == key_of(mindspore, {'base_lr': 0.5, 'seed': 3}) == key_of(mindspore, before=lived)


@pytest.mark.parametrize('something', [object(), lambda x: x], ids=['an object', 'a lambda'])
def test_what_cannot_be_described_is_not_kept(mindspore, cache, something):
    network = tiny_network('mindspore')
    network.block.something = something
    expected = predictor(mindspore).logits(batch(9)[0])
    assert len(contents(cache)) == 1
    assert np.array_equal(mindspore.make_predictor(network, config.Config()).logits(batch(9)[0]), expected)
    assert len(contents(cache)) == 1


def test_another_process_reads_it(mindspore, cache):
    """Started by ``python -c``, in which MindSpore finds no script to compare."""
    printed = []
    for _ in range(2):
        done = subprocess.run([sys.executable, '-c', STEPS], capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0 and done.stderr == ''
        printed.append((done.stdout, contents(cache), [path.stat().st_ctime_ns for path in sorted(cache.iterdir())]))
    assert printed[0][:2] == printed[1][:2] and len(printed[0][1]) == 2


@pytest.mark.skipif('pytorch' not in available(), reason='pytorch is not installed')
def test_pytorch_keeps_compiled_code_there(cache, monkeypatch):
    from twinseg.pytorch_impl import compile_cache

    monkeypatch.delenv('TORCHINDUCTOR_CACHE_DIR', raising=False)
    compile_cache.choose_folder()
    assert os.environ['TORCHINDUCTOR_CACHE_DIR'] == str(cache.with_name('pytorch'))
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', 'chosen')
    compile_cache.choose_folder()
    assert os.environ['TORCHINDUCTOR_CACHE_DIR'] == 'chosen'
