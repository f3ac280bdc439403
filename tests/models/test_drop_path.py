"""Stochastic depth: which block drops how much, what is dropped, and that the twins drop the same."""

import importlib

import numpy as np
import pytest

from tests.conftest import operator_by_operator
from tests.support.tiny import parts
from twinseg.common.backend import available, get_backend
from twinseg.common.config import Loss
from twinseg.common.errors import UserError
from twinseg.common.training.dropout import drop_path_ratios, dropout_mask

KEY = (0, 3, 1)  # seed, step and batch of the step
LOSS, GRADIENT = 1e-5, 1e-3  # twin against twin, relative; the gradient as one vector


def layers(backend):
    return parts(backend.name)[0]


def ratios(backend, network) -> dict[str, float]:
    """Name of a block -> share of the samples that it drops."""
    modules = network.named_modules() if backend.name == 'pytorch' else network.cells_and_names()
    return {
        name.removesuffix('.drop_path'): module.ratio
        for name, module in modules
        if isinstance(module, layers(backend).DropPath)
    }


def test_ratios_rise_in_equal_steps():
    found = drop_path_ratios(0.6, 'branch', (2, 3, 2))
    assert [len(stage) for stage in found] == [2, 3, 2]
    np.testing.assert_allclose(sum(found, []), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_ratios_of_ddrnet_are_the_model_zoos(backend):
    """Eight blocks from 0 to 0.7; the zoo gives the high resolution those of the stage before, the bottlenecks all of it."""
    expected = {
        'layer1.1': 0.1,
        'layer2.0': 0.2,
        'layer2.1': 0.3,
        'low.0.0': 0.4,
        'low.0.1': 0.5,
        'low.1.0': 0.6,
        'low.1.1': 0.7,
        'high.0.0': 0.2,
        'high.0.1': 0.3,
        'high.1.0': 0.4,
        'high.1.1': 0.5,
        'last_low': 0.7,
        'last_high': 0.7,
    }
    found = ratios(backend, backend.build_model('ddrnet23_slim', drop_path_rate=0.7))
    assert found == pytest.approx({f'backbone.{name}': ratio for name, ratio in expected.items()})


def test_ratios_of_resnet_are_timms(backend):
    found = ratios(backend, backend.build_model('resnet18', drop_path_rate=0.7))
    names = [f'backbone.layer{stage}.{block}' for stage in range(1, 5) for block in range(2)]
    assert found == pytest.approx({name: place / 10 for place, name in enumerate(names) if place})


@pytest.mark.parametrize('arch', ['ddrnet23_slim', 'resnet18'])
def test_the_state_has_no_other_names(backend, arch):
    plain, dropping = (backend.build_model(arch, num_classes=3, drop_path_rate=rate) for rate in (0.0, 0.5))
    assert list(backend.state(plain)) == list(backend.state(dropping)) and not ratios(backend, plain)


@pytest.mark.parametrize('ratio', [0.1, 0.5])
def test_masks(ratio):
    mask = dropout_mask('block.drop_path', (20000, 1, 1, 1), ratio, KEY)
    np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - ratio)], rtol=1e-6)
    assert np.mean(mask == 0) == pytest.approx(ratio, abs=4 * np.sqrt(ratio * (1 - ratio) / mask.size))
    assert mask.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize('on', ['branch', 'shortcut'])
def test_what_is_dropped(backend, on):
    framework, train = {'pytorch': ('torch', 'train'), 'mindspore': ('mindspore', 'set_train')}[backend.name]
    branch, shortcut = np.random.default_rng(0).standard_normal((2, 64, 2, 3, 4)).astype(np.float32)
    mask = dropout_mask('0', (64, 1, 1, 1), 0.4, KEY)
    assert 0 < np.sum(mask == 0) < 64
    network = layers(backend).Sequential(layers(backend).DropPath(0.4, on), layers(backend).Linear(1, 1))
    parts(backend.name)[1].draw_dropout(network, 64, KEY)
    with operator_by_operator():
        for training, expected in (
            (True, mask * branch + shortcut if on == 'branch' else branch + mask * shortcut),
            (False, branch + shortcut),
        ):
            getattr(network, train)(training)
            found = network[0](*map(importlib.import_module(framework).tensor, (branch, shortcut)))
            np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
@pytest.mark.parametrize('arch, on, size', [('resnet18', 'branch', 32), ('ddrnet23_slim', 'shortcut', 64)])
def test_twins_drop_the_same(arch, on, size):
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((8, 3, size, size)).astype(np.float32), rng.integers(0, 10, 8)
    results = []
    with operator_by_operator():
        for twin in map(get_backend, available()):
            twin.setup('cpu', threads=1)
            network = twin.build_model(arch, num_classes=10, drop_path_rate=0.5, drop_path_on=on)
            parts(twin.name)[1].draw_dropout(network, len(images), KEY)
            loss, gradients = twin.loss_and_gradients(network, images, labels, Loss(), training=True)
            results.append((loss, np.concatenate([gradient.ravel() for gradient in gradients.values()])))
    (loss, ours), (other, theirs) = results
    assert other == pytest.approx(loss, rel=LOSS)
    assert np.linalg.norm(theirs - ours) <= GRADIENT * np.linalg.norm(ours)


@pytest.mark.parametrize(
    'arch, arguments, message',
    [
        ('ddrnet23_slim', {'drop_path_rate': 1.0}, 'drop_path_rate: 1.0 is not a share'),
        ('resnet18', {'drop_path_rate': 0.1, 'drop_path_on': 'both'}, "drop_path_on: 'both' is neither branch nor shortcut"),
        ('stdc1', {'drop_path_rate': 0.1}, "stdc1 has no argument 'drop_path_rate'"),
    ],
)
def test_what_cannot_be_is_refused(backend, arch, arguments, message):
    with pytest.raises(UserError, match=message):
        backend.build_model(arch, **arguments)
