"""Optimizers, clipping, averaging and accumulation against the same written in numpy, in both backends."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.support.tiny import batch, tiny_network
from twinseg.common import config
from twinseg.common.backend import get_backend
from twinseg.common.errors import StateError, UserError
from twinseg.common.host.version import FRAMEWORKS
from twinseg.common.training.norms import synchronised_norms
from twinseg.common.training.parameter_groups import followers, parameter_groups

TOLERANCE = 1e-6  # relative to the largest number of a tensor: float32 against float64
RATES = [0.1, 0.05, 0.2]

SETTINGS = {
    'sgd': {'momentum': 0.0},
    'momentum': {},
    'nesterov': {'use_nesterov': True, 'weight_decay': 1e-2},
    'groups': {'use_nesterov': True, 'weight_decay': 1e-2, 'norm_bias_decay': False, 'lr_mult': {'classifier': 10.0}},
    'adam': {'optimizer': 'adam', 'eps': 1e-6},
    'adam_groups': {'optimizer': 'adam', 'weight_decay': 1e-2, 'norm_bias_decay': False, 'lr_mult': {'classifier': 10.0}},
    'adamw': {'optimizer': 'adamw', 'eps': 1e-6},
    'adamw_groups': {'optimizer': 'adamw', 'weight_decay': 1e-2, 'norm_bias_decay': False, 'lr_mult': {'classifier': 10.0}},
    'rmsprop': {'optimizer': 'rmsprop', 'eps': 1e-3, 'momentum': 0.0},
    'rmsprop_groups': {
        'optimizer': 'rmsprop',
        'decay': 0.8,
        'weight_decay': 1e-2,
        'norm_bias_decay': False,
        'lr_mult': {'classifier': 10.0},
    },
    'lamb': {'optimizer': 'lamb', 'eps': 1e-6},
    'lamb_decay': {'optimizer': 'lamb', 'eps': 1e-6, 'weight_decay': 1e-2},
    'lamb_groups': {'optimizer': 'lamb', 'weight_decay': 1e-2, 'norm_bias_decay': False, 'lr_mult': {'classifier': 10.0}},
}
ADAM = ('exp_avg', 'exp_avg_sq')
SLOTS = {'adam': ADAM, 'adamw': ADAM, 'lamb': ADAM, 'rmsprop': ('momentum', 'square_avg')}


def reference(parameters, gradients, settings):
    """Parameters and slots after a step for each of ``gradients``."""
    parameters = {name: value.astype(np.float64) for name, value in parameters.items()}
    first, second = ({name: np.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    for step, (gradient, rate) in enumerate(zip(gradients, RATES), 1):
        for name, p in parameters.items():
            lr = rate * (settings.lr_mult['classifier'] if settings.lr_mult and name.startswith('classifier') else 1.0)
            decay = settings.weight_decay if settings.norm_bias_decay or p.ndim > 1 else 0.0
            g = gradient[name].astype(np.float64)
            if settings.optimizer in ('adam', 'adamw', 'lamb'):
                b1, b2 = settings.beta
                if settings.optimizer == 'adam':
                    g, decay = g + decay * p, 0.0
                first[name] = b1 * first[name] + (1 - b1) * g
                second[name] = b2 * second[name] + (1 - b2) * g * g
                m, v = first[name] / (1 - b1**step), second[name] / (1 - b2**step)
                update = m / (np.sqrt(v) + settings.eps) + decay * p
                lengths = np.sqrt(np.sum(p**2)), np.sqrt(np.sum(update**2))
                if settings.optimizer == 'lamb' and decay and min(lengths) > 0:
                    update *= lengths[0] / lengths[1]
                parameters[name] = p - lr * update
            elif settings.optimizer == 'rmsprop':
                g = g + decay * p
                second[name] = settings.decay * second[name] + (1 - settings.decay) * g * g
                first[name] = settings.momentum * first[name] + g / (np.sqrt(second[name]) + settings.eps)
                parameters[name] = p - lr * first[name]
            else:
                g = g + decay * p
                first[name] = settings.momentum * first[name] + g
                parameters[name] = p - lr * (g + settings.momentum * first[name] if settings.use_nesterov else first[name])
    slots = zip(SLOTS.get(settings.optimizer, ('momentum',)), (first, second))
    return parameters, {f'{slot}.{name}': value for slot, values in slots for name, value in values.items()}


class PyTorch:
    def __init__(self):
        import torch

        self.torch = torch
        self.optim = importlib.import_module('twinseg.pytorch_impl.optim')

    def run(self, optimizer, gradients):
        for gradient, rate in zip(gradients, RATES):
            for name, value in optimizer.parameters.items():
                value.grad = self.torch.from_numpy(gradient[name].copy())
            optimizer.step(rate)
            optimizer.steps += 1

    def clip(self, gradients, limit):
        tensors = [self.torch.from_numpy(gradient.copy()) for gradient in gradients]
        norm = self.optim.global_norm(tensors)
        self.optim.clip_by_global_norm(tensors, norm, limit)
        return float(norm), [tensor.numpy() for tensor in tensors]


class MindSpore:
    def __init__(self):
        import mindspore

        self.mindspore = mindspore
        self.optim = importlib.import_module('twinseg.mindspore_impl.optim')

    def run(self, optimizer, gradients):
        for gradient, rate in zip(gradients, RATES):
            optimizer(tuple(self.mindspore.Tensor(gradient[name]) for name in optimizer.names), optimizer.rates(rate))
            optimizer.steps += 1

    def clip(self, gradients, limit):
        tensors = [self.mindspore.Tensor(gradient) for gradient in gradients]
        norm = self.optim.global_norm(tensors)
        return float(norm.asnumpy()), [tensor.asnumpy() for tensor in self.optim.clip_by_global_norm(tensors, norm, limit)]


@pytest.fixture(scope='module')
def framework(backend):
    return {'pytorch': PyTorch, 'mindspore': MindSpore}[backend.name]()


def random_like(arrays, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in arrays.items()}


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=TOLERANCE * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize('name', SETTINGS)
def test_steps(backend, framework, name):
    settings = config.Optimizer(**SETTINGS[name])
    network = tiny_network(backend.name)
    optimizer = framework.optim.Optimizer(network, settings)
    before = {key: value for key, value in backend.state(network).items() if 'running' not in key}
    gradients = [random_like(before, seed) for seed in range(len(RATES))]
    parameters, slots = reference(before, gradients, settings)
    framework.run(optimizer, gradients)
    after = backend.state(network)
    assert_close({key: after[key] for key in before}, parameters)
    if settings.momentum:
        assert_close(optimizer.state(), slots)


@pytest.mark.parametrize('name', ['adamw', 'rmsprop', 'lamb'])
def test_a_state_continues_exactly(backend, framework, name):
    settings = config.Optimizer(optimizer=name, weight_decay=1e-2)
    network, other = tiny_network(backend.name), tiny_network(backend.name)
    optimizer, continued = (framework.optim.Optimizer(item, settings) for item in (network, other))
    gradients = [random_like(optimizer_parameters(backend, network), seed) for seed in range(2)]
    framework.run(optimizer, gradients[:1])
    backend.load_state(other, backend.state(network))
    continued.load_state(optimizer.state(), optimizer.steps)
    for item in (optimizer, continued):
        framework.run(item, gradients[1:])
    for key, value in backend.state(network).items():
        assert np.array_equal(value, backend.state(other)[key]), key


@pytest.mark.parametrize('name', ['adamw_groups', 'rmsprop_groups', 'lamb_groups'])
def test_a_state_continues_in_the_other_backend(name):
    ours, theirs = (pytest.importorskip(package) and get_backend(key) for key, package in FRAMEWORKS.items())
    settings, results = config.Optimizer(**SETTINGS[name]), []
    for pair in ((ours, ours), (ours, theirs), (theirs, ours)):
        networks = [tiny_network(backend.name) for backend in pair]
        sides = [{'pytorch': PyTorch, 'mindspore': MindSpore}[backend.name]() for backend in pair]
        first, second = (side.optim.Optimizer(network, settings) for side, network in zip(sides, networks))
        gradients = [random_like(optimizer_parameters(pair[0], networks[0]), seed) for seed in range(3)]
        sides[0].run(first, gradients[:2])
        pair[1].load_state(networks[1], pair[0].state(networks[0]))
        second.load_state(first.state(), first.steps)
        sides[1].run(second, gradients[2:])
        results.append(pair[1].state(networks[1]) | second.state())
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


def optimizer_parameters(backend, network):
    return {key: value for key, value in backend.state(network).items() if 'running' not in key}


def test_a_foreign_state_is_refused(backend, framework):
    optimizer = framework.optim.Optimizer(tiny_network(backend.name), config.Optimizer())
    name = 'momentum.block.conv.weight'
    for state, mistake in (({}, 'found nothing'), ({**optimizer.state(), name: np.zeros(3, np.float32)}, r'found \(3,\)')):
        with pytest.raises(StateError, match=f'{name}: expected shape .*{mistake}'):
            optimizer.load_state(state, 1)


@pytest.mark.parametrize('limit', [1.0, 1e3])
def test_clip_by_global_norm(framework, limit):
    gradients = [np.array([3.0, 4.0], np.float32), np.full((2, 3), 2.0, np.float32)]
    norm, clipped = framework.clip(gradients, limit)
    assert norm == pytest.approx(7.0, rel=TOLERANCE)
    for found, gradient in zip(clipped, gradients):
        np.testing.assert_allclose(found, gradient * min(1.0, limit / 7.0), rtol=TOLERANCE)


def test_average_of_parameters_and_running_statistics(backend):
    settings = {'with_ema': True, 'ema_decay': 0.25}
    trainer = backend.make_trainer(tiny_network(backend.name), config.from_flat(settings))
    expected = backend.state(trainer.network)
    for seed, decay in enumerate([2 / 11, 3 / 12, 0.25]):  # less than ema_decay at first
        trainer.step([batch(seed)], 0.1)
        current = backend.state(trainer.network)
        expected = {name: decay * value + (1 - decay) * current[name] for name, value in expected.items()}
    assert any('running_mean' in name for name in expected)
    assert_close(trainer.average.state(), expected)


def test_accumulation_averages_the_gradients(backend):
    """By the number of pixels that are not ignored: test_accumulation.py has the other losses."""
    settings = config.from_flat({'momentum': 0.0, 'accumulation_step': 3})
    trainer = backend.make_trainer(tiny_network(backend.name), settings)
    before = backend.state(trainer.network)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (settings.augment.mean, settings.augment.std))
    batches = [batch(seed) for seed in range(6)]
    for start in (0, 3):  # the second step shows that nothing is left of the first
        network = tiny_network(backend.name)
        backend.load_state(network, before)
        gradients = [
            backend.loss_and_gradients(network, (images - mean) / std, labels, settings.loss, training=True)[1]
            for images, labels in batches[start : start + 3]
        ]
        pixels = [(labels != 255).sum() for _, labels in batches[start : start + 3]]
        trainer.step(batches[start : start + 3], 0.1)
        after = backend.state(trainer.network)
        for name in gradients[0]:
            expected = before[name] - 0.1 * np.average([gradient[name] for gradient in gradients], axis=0, weights=pixels)
            np.testing.assert_allclose(after[name], expected, rtol=0, atol=2e-6, err_msg=name)
        before = after


def test_groups():
    parameters = {'a.weight': 4, 'a.bias': 1, 'ab.bn.weight': 1, 'ab.conv.weight': 4}
    settings = config.Optimizer(weight_decay=0.5, norm_bias_decay=False, lr_mult={'a': 2.0, 'ab': 3.0})
    groups = [(group.names, group.lr_mult, group.weight_decay) for group in parameter_groups(parameters, settings)]
    assert groups == [
        (('a.weight',), 2.0, 0.5),
        (('a.bias',), 2.0, 0.0),
        (('ab.bn.weight',), 3.0, 0.0),
        (('ab.conv.weight',), 3.0, 0.5),
    ]


def test_a_pattern_fits_whole_names():
    parameters = {'backbone.0.bn.weight': 1, 'backbone.0.conv.weight': 4, 'backbone.bn.bias': 1, 'head.bn.weight': 1}
    settings = config.Optimizer(lr_mult={'backbone*.bn.*': 0.0, 'backbone': 0.5, 'head': 10.0, 'head.bn': 2.0})
    groups = {name: group.lr_mult for group in parameter_groups(parameters, settings) for name in group.names}
    assert groups == {
        'backbone.0.bn.weight': 0.0,
        'backbone.0.conv.weight': 0.5,
        'backbone.bn.bias': 0.0,
        'head.bn.weight': 2.0,
    }
    assert followers(parameters, settings.lr_mult) == {'backbone*.bn.*': 2, 'backbone': 1, 'head': 0, 'head.bn': 1}


@pytest.mark.parametrize('name', ['groups', 'adamw', 'lamb'])
def test_a_factor_of_zero_keeps_parameters(backend, framework, name):
    settings = config.Optimizer(**{'weight_decay': 1e-2, **SETTINGS[name], 'lr_mult': {'block*.bn.*': 0.0}})
    network = tiny_network(backend.name)
    optimizer = framework.optim.Optimizer(network, settings)
    before = optimizer_parameters(backend, network)
    framework.run(optimizer, [random_like(before, seed) for seed in range(3)])
    after = backend.state(network)
    kept = {key for key, value in before.items() if np.array_equal(value, after[key])}
    assert kept == {'block.bn.weight', 'block.bn.bias'}


@pytest.mark.parametrize('sync', [True, False, 'heads'])
def test_norms_are_synchronised_everywhere_nowhere_or_beside_the_backbone(backend, sync):
    network = backend.build_model('stdc1_seg', seed=None)
    importlib.import_module(f'twinseg.{backend.name}_impl.network').synchronise_norms(network, sync)
    modules = network.named_modules() if backend.name == 'pytorch' else network.cells_and_names()
    flags = {name: module.sync for name, module in modules if hasattr(module, 'sync')}
    assert flags == {name: sync is True or sync == 'heads' and not name.startswith('backbone.') for name in flags}
    assert {name.partition('.')[0] for name in flags} > {'backbone', 'arm32', 'ffm', 'head', 'detail'}


@pytest.mark.parametrize('names', [['stem.bn', 'head.bn'], ['backbone.bn'], []])
def test_heads_need_a_backbone(names):
    with pytest.raises(UserError, match='sync_bn: heads is for networks with norms in a backbone and beside it'):
        synchronised_norms(names, 'heads')


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'lr_mult': {'hea*.bn': 2.0}}, "fits 'hea.*.bn'; a name is for example head.weight"),
        ({'lr_mult': {'hea*weight': 2.0, 'head.we*ht': 1.0}}, "'hea.*weight' and 'head.we.*ht' both fit head.weight"),
        (
            {'lr_mult': {'hea*weight': 2.0, 'head.w*ght': 2.0, 'head.wei*t': 1.0}},
            "'hea.*weight' and 'head.wei.*t' both fit head.weight",
        ),
        ({'lr_mult': {'hed': 2.0}}, "starts with 'hed'"),
        ({'use_nesterov': True, 'momentum': 0.0}, 'use_nesterov needs a momentum'),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        parameter_groups({'head.weight': 4}, config.Optimizer(**settings))


STEPS = """
import sys
from tests.support.tiny import batch, tiny_network
from twinseg.common import config
from twinseg.common.backend import get_backend
backend = get_backend('pytorch')
backend.setup('cpu', threads=1)
for name in ('sgd', 'adam', 'adamw', 'rmsprop', 'lamb'):
    backend.make_trainer(tiny_network('pytorch'), config.from_flat({'optimizer': name})).step([batch(0)], 0.1)
    assert 'torch._dynamo' not in sys.modules, name
"""


def test_a_training_does_not_import_pytorchs_compiler():
    pytest.importorskip('torch')
    done = subprocess.run([sys.executable, '-c', STEPS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
