"""A step of accumulated batches is the step of all their images at once, however their labels are distributed."""

import numpy as np
import pytest

from tests.conftest import operator_by_operator
from tests.support.tiny import CLASSES, batch, parts, tiny_network
from twinseg.common import config
from twinseg.common.training.accumulation import mean_count

LOSS, MOVE = 1e-5, 1e-4  # relative; L2 of a parameter's movement, also relative
LOSSES = {
    'cross_entropy': {'class_weight': [1.0, 2.0, 0.5, 1.0, 3.0]},
    'cross_entropy over all pixels': {'avg_non_ignore': False},
    'sigmoid_cross_entropy': {'loss': 'sigmoid_cross_entropy'},
    'focal': {'loss': 'focal'},
    'dice': {'loss': 'dice'},
    'lovasz': {'loss': 'lovasz'},
    'ohem': {'loss': 'ohem', 'ohem_min_kept': 300, 'ohem_thresh': 0.1},
    'ohem_pixel_sampler': {'loss': 'ohem_pixel_sampler', 'ohem_min_kept': 60, 'ohem_thresh': 0.1},
    'stdc_ohem': {'loss': 'stdc_ohem', 'ohem_min_kept': 300, 'ohem_thresh': 0.01},
    'of each output': {'losses': {'logits': {'ohem': 1.0, 'dice': 0.5}}, 'auxiliary_weights': {'aux': 0.4}},
}


def without_norms(backend_name: str):
    """Two convolutions and a second head: what a norm sees depends on the batch."""
    layers, network_module = parts(backend_name)

    class Plain(network_module.Network):
        def __init__(self):
            super().__init__({'logits': False, 'aux': True})
            self.first = layers.Conv2d(3, 4, 3, stride=2, padding=1, bias=True)
            self.classifier = layers.Conv2d(4, CLASSES, 1, bias=True)
            self.aux = layers.Conv2d(4, CLASSES, 1, bias=True)

        def forward(self, x):
            x = layers.relu(self.first(x))
            return {'logits': self.classifier(x), 'aux': self.aux(x)}

        def construct(self, x):
            x = layers.relu(self.first(x))
            return {'logits': self.classifier(x), 'aux': self.aux(x)}

    network = Plain()
    network_module.initialise(network, 0)
    return network


def mostly_void():
    images, labels = batch(3, 4)
    labels[2:, 2:] = 255
    return images, labels


def step(backend, network, accumulation_step: int, **keys):
    """The figures of a step and the weights after it."""
    mode = {'graph_mode': 1} if backend.name == 'mindspore' else {}
    settings = config.from_flat({'accumulation_step': accumulation_step, 'momentum': 0.0, **mode, **keys})
    trainer = backend.make_trainer(network, settings)
    images, labels = mostly_void()
    size = len(images) // accumulation_step
    batches = [(images[start : start + size], labels[start : start + size]) for start in range(0, len(images), size)]
    with operator_by_operator():
        return dict(trainer.step(batches, 0.1)), trainer.state()[0]


@pytest.mark.parametrize('name', LOSSES)
def test_accumulated_batches_are_the_large_one(backend, name):
    before = {f'model.{key}': value for key, value in backend.state(without_norms(backend.name)).items()}
    whole, parts_of_it = (step(backend, without_norms(backend.name), count, **LOSSES[name]) for count in (1, 2))
    assert parts_of_it[0] == pytest.approx(whole[0], rel=LOSS)
    for key, start in before.items():
        move = whole[1][key] - start
        assert np.linalg.norm(parts_of_it[1][key] - whole[1][key]) <= MOVE * np.linalg.norm(move), key


def test_norms_see_each_batch_once(backend):
    """Losses that compare all pixels of a step take the outputs from a forward pass of its own."""
    states = [step(backend, tiny_network(backend.name, 0.5), 2, loss=loss)[1] for loss in ('cross_entropy', 'ohem')]
    for name in (name for name in states[0] if 'running_' in name):
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)
    assert any(not np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_what_is_counted():
    labels = np.array([[[0, 1, 255], [2, 2, 255]]], np.uint8)
    images = np.zeros((1, 3, 2, 3), np.uint8)
    batches = [(images, labels), (images, np.full_like(labels, 255))]
    assert mean_count(batches).tolist() == [2.0, 2.0]
    assert mean_count(batches, [1.0, 0.5, 3.0]).tolist() == [2.0, 3.75]
