"""``trace --backward`` and ``--steps`` on a network of three layers."""

import numpy as np
import pytest

from tests.support.tiny import CLASSES, tiny_network
from tests.trace.mutations import STATISTICS
from twinseg.common import config as configuration
from twinseg.common.backend import get_backend
from twinseg.common.trace.backward import trace_backward
from twinseg.common.trace.sources import NetworkSource
from twinseg.common.trace.steps import trace_steps

RECIPE = {
    'arch': 'fast_scnn',
    'num_classes': CLASSES,
    'optimizer': 'sgd',
    'momentum': 0.9,
    'weight_decay': 1e-3,
    'base_lr': 0.01,
}


def source(name, **changes):
    pytest.importorskip({'pytorch': 'torch'}.get(name, name))
    backend = get_backend(name)
    backend.setup('cpu')
    side = NetworkSource(f'tiny@{name}', backend, tiny_network(name), STATISTICS)
    backend.set_training(side.network, False)
    side.config, side.rebuild = configuration.from_flat({**RECIPE, **changes}), lambda: tiny_network(name)
    return side


def images():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 32, 48), np.uint8)


@pytest.mark.parametrize('second', ['pytorch', 'mindspore'])
def test_gradients_of_twins_do_not_part(second):
    section = trace_backward(source('pytorch'), source(second), {}, images())
    assert section.ok, section.sentence
    assert {row['kind'] for row in section.rows} == {'activation', 'parameter'}


def test_a_gradient_that_is_cut_off_is_named():
    first, second = source('pytorch'), source('pytorch')
    norm = second.network.block.bn
    forward = norm.forward
    norm.forward = lambda x: 0.5 * forward(x) + 0.5 * forward(x).detach()
    section = trace_backward(first, second, {}, images())
    assert not section.ok
    assert section.sentence.startswith('backward: block.bn: ')


def test_a_frozen_parameter_is_named():
    first, second = source('pytorch'), source('pytorch')
    second.network.classifier.bias.requires_grad_(False)
    section = trace_backward(first, second, {}, images())
    assert not section.ok
    assert 'classifier' in section.sentence


ADAM = {'optimizer': 'adam', 'base_lr': 1e-3}
ADAMW = {'optimizer': 'adamw', 'base_lr': 1e-3, 'weight_decay': 0.1}
STEPS = [  # both sides' configuration, what the second one has instead, and what is said of it
    ({}, {}, 'nothing has moved differently'),
    ({}, {'weight_decay': 2e-3}, 'a weight decay larger by 0.001'),
    ({}, {'norm_bias_decay': False}, 'a weight decay of norms and biases smaller by 0.001'),
    ({}, {'momentum': 0.8}, 'a momentum smaller by 0.1'),
    ({}, {'base_lr': 0.005}, 'a learning rate 0.5 times as large'),
    ({}, {'use_nesterov': True}, "or Nesterov's momentum"),
    ({}, {'clip_global_norm': True, 'clip_global_norm_value': 0.1}, 'another clipping, scale or mean of the loss'),
    ({}, ADAM, 'another optimizer: it has exp_avg and exp_avg_sq for every parameter, not momentum'),
    (ADAM, {}, 'nothing has moved differently'),
    (ADAM, {'beta': [0.8, 0.999]}, 'a first beta of 0.8 instead of 0.9'),
    (ADAM, {'beta': [0.9, 0.99]}, 'a second beta of 0.99 instead of 0.999'),
    (ADAM, {'eps': 1e-3}, 'an epsilon of 0.001 instead of 1e-08'),
    (ADAM, {'weight_decay': 2e-3}, 'a weight decay larger by 0.001'),
    (ADAM, {'optimizer': 'adamw'}, 'no weight decay in the gradient (AdamW adds it to the update)'),
    (ADAM, {'clip_global_norm': True, 'clip_global_norm_value': 0.1}, 'another clipping, scale or mean of the loss'),
    (ADAMW, {'optimizer': 'adam'}, 'a weight decay of 0.1 that is added to the gradient (Adam), not to the update (AdamW)'),
    (ADAMW, {'weight_decay': 0.2}, 'a weight decay of the update larger by 0.1'),
    (ADAMW, {'base_lr': 5e-4}, 'a learning rate 0.5 times as large'),
    ({'optimizer': 'rmsprop', 'base_lr': 1e-3}, {'decay': 0.99}, 'a decay of squares of 0.99 instead of 0.9'),
]


@pytest.mark.parametrize(('both', 'changes', 'said'), STEPS)
def test_what_moves_differently_is_named(both, changes, said):
    section = trace_steps(source('pytorch', **both), source('pytorch', **{**both, **changes}), 2)
    assert section.ok is (not changes), section.sentence
    assert said in section.sentence


def test_the_momentum_of_a_norm_is_named():
    first, second = source('pytorch'), source('pytorch')

    def rebuild():
        network = tiny_network('pytorch')
        network.block.bn.momentum = 0.03
        return network

    second.rebuild = rebuild
    section = trace_steps(first, second, 1)
    assert not section.ok
    assert 'a momentum of batch norm 0.3 times as large' in section.sentence
