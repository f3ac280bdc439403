"""What a trainer, its predictors and the loader promise, in both backends; the loop around them is in test_training.py."""
import threading

import numpy as np
import pytest

from common import config
from common.errors import DataError, StateError, UserError
from tests.tiny import batch, tiny_network

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


def test_states_are_copies(backend):
    made = trainer(backend)
    made.step([batch(0)], 0.1)
    tensors, _ = made.state()
    kept = {name: value.copy() for name, value in tensors.items()}
    made.step([batch(1)], 0.1)
    assert all(np.array_equal(value, kept[name]) for name, value in tensors.items())


@pytest.mark.parametrize('optimizer, has_run', [('momentum', False), ('momentum', True), ('adamw', False), ('adamw', True),
                                                ('rmsprop', True), ('lamb', True)])
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


def test_a_state_without_averages_is_refused(backend):
    tensors, meta = trainer(backend, with_ema=False).state()
    with pytest.raises(StateError, match='with_ema'):
        trainer(backend).load_state(tensors, meta)


@pytest.mark.parametrize('settings, message', [({'auxiliary_weights': {'aux': 0.4}}, "no auxiliary output 'aux'"),
                                               ({'loss': 'ohem', 'label_smoothing': 0.1}, 'label_smoothing')])
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
    loader = backend.make_loader(Samples(), ([(0, index)] for index in range(10 ** 9)), workers)
    next(iter(loader))
    loader.close()
    assert threading.active_count() <= before + workers  # workers end once their sample is made
