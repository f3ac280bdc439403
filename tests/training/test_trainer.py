"""What a trainer, its predictors and the loader promise, in both backends; the loop around them is in test_training.py."""

import contextlib
import importlib
import threading

import numpy as np
import pytest

from tests.conftest import operator_by_operator
from tests.support.tiny import batch, mixed_batch, tiny_classifier, tiny_network
from twinseg.common import config
from twinseg.common.backend import available, get_backend
from twinseg.common.errors import DataError, StateError, UserError

SETTINGS = {'with_ema': True, 'ema_decay': 0.5, 'weight_decay': 1e-3}


def trainer(backend, **settings):
    return backend.make_trainer(tiny_network(backend.name, dropout=0.5), config.from_flat({**SETTINGS, **settings}))


def test_predictions_between_steps_disturb_nothing(backend):
    quiet, disturbed = trainer(backend), trainer(backend)
    images, _ = batch(9)
    for seed in range(3):
        quiet.step([batch(seed)], 0.1)
        disturbed.step([batch(seed)], 0.1)
        predictor = disturbed.predictor()
        first = predictor.logits(images)
        assert np.array_equal(first, predictor.logits(images))
    tensors = disturbed.state()[0]
    for name, value in quiet.state()[0].items():
        assert np.array_equal(value, tensors[name]), name


def test_predictors_see_the_weights_of_now(backend):
    made = trainer(backend)
    images, _ = batch(9)
    predictor = made.predictor()
    logits = [predictor.logits(images)]
    for seed in range(2):
        made.step([batch(seed)], 0.1)
        logits.append(predictor.logits(images))
    assert not np.array_equal(logits[0], logits[1]) and not np.array_equal(logits[1], logits[2])
    network = tiny_network(backend.name)
    backend.load_state(network, backend.state(made.network))
    np.testing.assert_allclose(backend.make_predictor(network, config.Config()).logits(images), logits[2], atol=1e-6)
    backend.load_state(network, made.average.state())
    averaged = backend.make_predictor(network, config.Config()).logits(images)
    np.testing.assert_allclose(made.predictor(ema=True).logits(images), averaged, atol=1e-6)
    np.testing.assert_allclose(predictor.logits(images), logits[2], atol=1e-6)


def test_class_ids_are_the_largest_logits_at_the_size_asked(backend):
    predictor = trainer(backend).predictor()
    images, _ = batch(9)
    for size in (None, (20, 30)):
        ids = predictor.class_ids(images, size)
        logits = predictor.logits(images, size or (16, 24))
        assert ids.dtype == np.uint8 and ids.shape == (2, *(size or (16, 24)))
        assert np.array_equal(ids, logits.argmax(1))
    assert predictor.logits(images).shape == (2, 5, 8, 12)


def test_torch_compile(backend, monkeypatch):
    """The steps are those without, between predictions that are not compiled."""
    if backend.name == 'mindspore':
        for key in 'torch_compile', 'cuda_graphs':
            with pytest.raises(UserError, match="torch_compile and cuda_graphs are PyTorch's"):
                trainer(backend, **{key: True})
        return
    plain, compiled = trainer(backend), trainer(backend, torch_compile=True)
    images, _ = batch(9)
    for seed in range(3):
        losses = [made.step([batch(seed)], 0.1)['loss'] for made in (plain, compiled)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        np.testing.assert_allclose(compiled.predictor().logits(images), plain.predictor().logits(images), atol=1e-5)
    assert sorted(compiled.state()[0]) == sorted(plain.state()[0])
    counters = importlib.import_module('torch._dynamo.utils').counters
    assert counters['stats']['unique_graphs'] >= 1, 'it was compiled'
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(UserError, match='torch_compile: there is no C'):
        trainer(backend, torch_compile=True)


def test_the_quickest_kernels_are_looked_for_in_training_alone(monkeypatch):
    """Its batches have one size; images to predict have many."""
    cudnn = pytest.importorskip('torch').backends.cudnn
    made = trainer(get_backend('pytorch'))
    for _ in range(2):
        monkeypatch.setattr(cudnn, 'benchmark', False)
        made.step([batch(0)], 0.1)
        assert cudnn.benchmark
        made.predictor().logits(batch(0)[0])
        assert not cudnn.benchmark


@pytest.mark.parametrize(
    'device, keys, message',
    [
        ('cpu', {'torch_compile': True}, 'is for GPUs, and this is a training on the cpu'),
        ('cuda', {}, 'set torch_compile: true, too'),
        ('cuda', {'torch_compile': True, 'accumulation_step': 2}, 'for steps of one batch'),
        ('cuda', {'torch_compile': True, 'launcher': 'dp'}, 'for steps of one batch'),
    ],
)
def test_where_no_cuda_graph_can_be_recorded(monkeypatch, device, keys, message):
    torch = pytest.importorskip('torch')
    backend = get_backend('pytorch')
    monkeypatch.setattr(backend, '_device', torch.device(device))
    with pytest.raises(UserError, match=f'cuda_graphs: true .*{message}'):
        backend.make_trainer(tiny_network('pytorch'), config.from_flat({'cuda_graphs': True, **keys}))


def test_cuda_graphs_are_asked_for_and_begin_anew_with_each_step(monkeypatch):
    torch = pytest.importorskip('torch')
    get_backend('pytorch').setup('cpu', threads=1)
    modes, steps, compiled = [], [], torch.compile
    monkeypatch.setattr(torch, 'compile', lambda network, mode: modes.append(mode) or compiled(network, backend='eager'))
    monkeypatch.setattr(torch.compiler, 'cudagraph_mark_step_begin', lambda: steps.append(len(steps)))
    module = importlib.import_module('twinseg.pytorch_impl.trainer')
    made = module.Trainer(tiny_network('pytorch'), config.from_flat({'torch_compile': True, 'cuda_graphs': True}))
    plain = module.Trainer(tiny_network('pytorch'), config.from_flat({}))
    assert [made.step([batch(seed)], 0.1)['loss'] for seed in range(2)] == [
        plain.step([batch(seed)], 0.1)['loss'] for seed in range(2)
    ]
    assert modes == ['reduce-overhead'] and steps == [0, 1]


@pytest.mark.parametrize(
    'optimizer, accumulation_step',
    [('momentum', 1), ('momentum', 2), ('adam', 1), ('adamw', 1), ('rmsprop', 1), ('lamb', 2)],
)
def test_mindspores_device_counts_steps_as_the_host_does(backend, monkeypatch, optimizer, accumulation_step):
    """Steps are given to it without a look at those before, of which some overflow; PyTorch's are in test_device.py."""
    if backend.name != 'mindspore':
        pytest.skip('tested on a pretended device')
    keys = {'amp_level': 'O2', 'is_dynamic_loss_scale': True, 'loss_scale': 2.0**20, 'scale_window': 2, 'ema_decay': 0.9}
    keys |= {'optimizer': optimizer, 'eps': 1e-3, 'accumulation_step': accumulation_step}
    batches = [[batch(seed + place) for place in range(accumulation_step)] for seed in range(8)]
    with contextlib.nullcontext() if optimizer == 'adamw' else operator_by_operator():
        host = trainer(backend, **keys)
        monkeypatch.setattr('twinseg.mindspore_impl.trainer._on_cpu', lambda: False)
        device = trainer(backend, **keys)
        for made in (host, device):  # from a state in which some steps were taken
            made.step(batches[0], 0.1)
            made.load_state(*made.state())
        expected, steps = ([made.step(given, 0.1) for given in batches[1:]] for made in (host, device))
        assert device.ahead and not host.ahead
        overflows = [figures['overflow'] for figures in expected]
        assert 0 < sum(overflows) < len(overflows) - 2
        for figures, others in zip(steps, expected):
            assert dict(figures) == pytest.approx(dict(others), rel=1e-5, nan_ok=True)
        (tensors, meta), (others, other_meta) = device.state(), host.state()
    assert meta == other_meta
    assert device.on_device.counts.asnumpy().tolist() == [host.scaler.scale, host.scaler.good_steps, host.optimizer.steps]
    for name, value in others.items():
        np.testing.assert_allclose(tensors[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize('limit', [0.9, 0.9999])
@pytest.mark.parametrize('beta', [[0.9, 0.999], [0.0, 0.0]])
def test_numbers_of_a_step_on_a_device_are_the_hosts(backend, beta, limit):
    if backend.name != 'mindspore':
        pytest.skip("PyTorch's optimizers have their own")
    module = importlib.import_module('twinseg.mindspore_impl.trainer')
    made = trainer(backend, optimizer='adam', beta=beta, ema_decay=limit, loss_scale=1000.0)
    device = module.NumbersOnDevice(made.scaler, made.config)
    for steps in (0, 1, 2, 100, 12345, 10**6):
        made.optimizer.steps = steps
        device.start(made.scaler, steps)
        for ours, theirs in zip(device(0.05, 3), made._numbers(0.05, 3)):
            np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-6)


def test_states_are_copies(backend):
    made = trainer(backend)
    made.step([batch(0)], 0.1)
    tensors, _ = made.state()
    kept = {name: value.copy() for name, value in tensors.items()}
    made.step([batch(1)], 0.1)
    assert all(np.array_equal(value, kept[name]) for name, value in tensors.items())


@pytest.mark.parametrize(
    'optimizer, has_run',
    [('momentum', False), ('momentum', True), ('adamw', False), ('adamw', True), ('rmsprop', True), ('lamb', True)],
)
def test_a_loaded_state_continues_exactly(backend, optimizer, has_run):
    first, second = trainer(backend, optimizer=optimizer), trainer(backend, optimizer=optimizer)
    first.step([batch(0)], 0.1)
    if has_run:
        second.step([batch(5)], 0.3)
    second.load_state(*first.state())
    for made in (first, second):
        made.step([batch(1)], 0.1)
    (tensors, meta), (others, other_meta) = first.state(), second.state()
    assert meta == other_meta
    assert [name for name in tensors if not np.array_equal(tensors[name], others[name])] == []


@pytest.mark.parametrize('accumulation_step', [1, 2])
def test_a_step_on_mixed_batches(backend, accumulation_step):
    settings = config.from_flat({'momentum': 0.0, 'accumulation_step': accumulation_step})
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (settings.augment.mean, settings.augment.std))
    batches = [mixed_batch(number) for number in range(accumulation_step)]
    made = backend.make_trainer(tiny_classifier(backend.name), settings)
    before = backend.state(made.network)
    network = tiny_classifier(backend.name)
    found = [
        backend.loss_and_gradients(network, (images - mean) / std, targets, settings.loss, training=True)
        for images, targets in batches
    ]
    values = made.step(batches, 0.1)
    assert values['loss'] == pytest.approx(np.mean([loss for loss, _ in found]), rel=1e-6)
    after = backend.state(made.network)
    for name in found[0][1]:
        expected = before[name] - 0.1 * np.mean([gradients[name] for _, gradients in found], axis=0)
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
@pytest.mark.parametrize('drop_path_on', ['branch', 'shortcut'])
def test_twins_train_alike_on_mixed_batches_with_drop_path(drop_path_on):
    settings = config.from_flat({'optimizer': 'adamw', 'eps': 1e-3, 'with_ema': True})
    trainers = []
    for twin in map(get_backend, available()):
        twin.setup('cpu')
        trainers.append(twin.make_trainer(tiny_classifier(twin.name, 0.4, drop_path_on), settings))
    for step in range(3):
        ours, theirs = (trainer.step([mixed_batch(step)], 1e-2) for trainer in trainers)
        assert theirs == pytest.approx(ours, rel=1e-4)
    ours, theirs = (trainer.state()[0] for trainer in trainers)
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=name)


def test_a_state_without_averages_is_refused(backend):
    tensors, meta = trainer(backend, with_ema=False).state()
    with pytest.raises(StateError, match='with_ema'):
        trainer(backend).load_state(tensors, meta)


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'auxiliary_weights': {'aux': 0.4}}, "no auxiliary output 'aux'"),
        ({'loss': 'ohem', 'label_smoothing': 0.1}, 'label_smoothing'),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(backend, settings, message):
    with pytest.raises(UserError, match=message):
        trainer(backend, **settings).step([batch(0)], 0.1)


class Samples:
    def __getitem__(self, key):
        if key == (9, 9):
            raise DataError('broken.png: truncated')
        return np.full((3, 4, 5), key[1], np.uint8), np.full((4, 5), key[0], np.uint8)


@pytest.mark.parametrize('workers', [0, 2])
def test_loader_keeps_the_order(backend, workers):
    keys = [[(epoch, 2 * place), (epoch, 2 * place + 1)] for epoch in range(2) for place in range(4)]
    loaded = list(backend.make_loader(Samples(), iter(keys), workers))
    assert [[(int(label[0, 0]), int(image[0, 0, 0])) for image, label in zip(*item)] for item in loaded] == keys
    assert loaded[0][0].shape == (2, 3, 4, 5) and loaded[0][1].dtype == np.uint8


@pytest.mark.parametrize('workers', [0, 2])
def test_loader_passes_errors_on_and_can_be_left(backend, workers):
    with pytest.raises(DataError, match='truncated'):
        list(backend.make_loader(Samples(), iter([[(0, 0)], [(9, 9)]]), workers))
    before = threading.active_count()
    loader = backend.make_loader(Samples(), ([(0, index)] for index in range(10**9)), workers)
    next(iter(loader))
    loader.close()
    assert threading.active_count() <= before + workers  # workers end once their sample is made
