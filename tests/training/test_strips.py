"""Losses in strips of rows against the plain form: resize, loss of every pixel, gradient."""

import numpy as np
import pytest

from tests.conftest import operator_by_operator
from tests.training.test_losses import framework  # noqa: F401  # a fixture
from twinseg.common import config

VALUE, GRADIENT = 2e-6, 1e-5  # relative; L2 of the gradient, also relative
CLASSES = 7
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0, 0.25, 1.0]
LOSSES = {
    'cross_entropy': {},
    'cross_entropy over all pixels': {'avg_non_ignore': False, 'class_weight': WEIGHTS},
    'cross_entropy, smoothed': {'label_smoothing': 0.1, 'class_weight': WEIGHTS},
    'sigmoid_cross_entropy': {'loss': 'sigmoid_cross_entropy', 'class_weight': WEIGHTS},
    'focal': {'loss': 'focal', 'class_weight': WEIGHTS},
    'focal, gamma below 1': {'loss': 'focal', 'focal_gamma': 0.5},
    'ohem': {'loss': 'ohem', 'ohem_thresh': 0.3, 'ohem_min_kept': 200, 'class_weight': WEIGHTS},
    'ohem, number of pixels': {'loss': 'ohem', 'ohem_thresh': 0.01, 'ohem_min_kept': 500},
    'ohem_pixel_sampler': {'loss': 'ohem_pixel_sampler', 'ohem_thresh': 0.3, 'ohem_min_kept': 100, 'class_weight': WEIGHTS},
    'stdc_ohem': {'loss': 'stdc_ohem', 'ohem_thresh': 0.3, 'ohem_min_kept': 100, 'class_weight': WEIGHTS},
    'stdc_ohem, number of pixels': {'loss': 'stdc_ohem', 'ohem_thresh': 0.01, 'ohem_min_kept': 900},
    'of several outputs': {
        'losses': {'logits': {'cross_entropy': 1.0, 'dice': 3.0}, 'aux': 'ohem'},
        'auxiliary_weights': {'aux': 0.4, 'detail': 1.0},
        'ohem_min_kept': 100,
    },
}
SIZES = {'enlarged': (13, 9), 'of the labels': (37, 29), 'as wide': (11, 29), 'reduced': (50, 41), 'one row': (1, 5)}


def scene(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two outputs and a detail output in one array, and labels; some are ignored, of one image all in some strips."""
    rng = np.random.default_rng(0)
    logits = 4 * rng.standard_normal((2, 2 * CLASSES + 1, *size)).astype(np.float32)
    logits[0, :, 0, 0] = 200 * np.sign(logits[0, :, 0, 0])  # exponentials of these are infinite
    labels = rng.integers(0, CLASSES, (2, 37, 29)).astype(np.int32)
    labels[rng.random(labels.shape) < 0.1] = 255
    labels[1, :20] = 255
    return logits, labels


def value_and_gradient(framework, keys, align_corners, size):  # noqa: F811
    names = ['logits', 'aux', 'detail']
    loss, corners = config.Loss(**keys), dict.fromkeys(names, align_corners)
    settings = framework.settings(loss, corners)

    def function(logits, labels):
        outputs = {
            'logits': logits[:, :CLASSES],
            'aux': logits[:, CLASSES : 2 * CLASSES],
            'detail': logits[:, 2 * CLASSES :],
        }
        parts = framework.losses.segmentation_loss(outputs, labels, settings, corners)
        return parts['loss'], parts['loss_logits']

    with operator_by_operator():
        values, gradient = framework.gradient(function, *scene(size))
    return values[0], gradient


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('name', LOSSES)
def test_strips_are_the_plain_form(framework, monkeypatch, name, align_corners):  # noqa: F811
    monkeypatch.setattr(framework.losses.strips, 'STRIP', 4 * CLASSES * 29)  # strips of four rows, and one of one row
    case = framework, LOSSES[name], align_corners, SIZES['enlarged']
    value, gradient = value_and_gradient(*case)
    monkeypatch.setattr(framework.losses.strips, '_in_strips', lambda *_: False)
    plain, slope = value_and_gradient(*case)
    assert value == pytest.approx(plain, rel=VALUE)
    assert np.linalg.norm(gradient - slope) <= GRADIENT * np.linalg.norm(slope)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', ['cross_entropy', 'sigmoid_cross_entropy', 'ohem'])
def test_sizes(framework, monkeypatch, name, size):  # noqa: F811
    monkeypatch.setattr(framework.losses.strips, 'STRIP', 1)  # a row each
    case = framework, LOSSES[name], size == 'reduced', SIZES[size]
    value, gradient = value_and_gradient(*case)
    monkeypatch.setattr(framework.losses.strips, '_in_strips', lambda *_: False)
    plain, slope = value_and_gradient(*case)
    assert value == pytest.approx(plain, rel=VALUE)
    assert np.linalg.norm(gradient - slope) <= GRADIENT * np.linalg.norm(slope)


def test_more_channels_than_a_product_holds(framework, monkeypatch):  # noqa: F811
    logits, labels = np.zeros((1, 200, 2, 3), np.float32), np.zeros((1, 2, 3), np.int32)
    settings = framework.settings(config.Loss(loss='sigmoid_cross_entropy'), {'logits': False})

    def function(logits, labels):
        parts = framework.losses.segmentation_loss({'logits': logits}, labels, settings, {'logits': False})
        return parts['loss'], parts['loss_logits']

    with operator_by_operator():
        (value, _), _ = framework.gradient(function, logits, labels)
    assert value == pytest.approx(np.log(2), rel=VALUE)


def test_autocast_leaves_them_in_float32(framework):  # noqa: F811
    torch = pytest.importorskip('torch')
    if framework.losses.__name__.startswith('twinseg.mindspore'):
        pytest.skip('of PyTorch')
    expected, slope = value_and_gradient(framework, {'loss': 'ohem', 'ohem_min_kept': 100}, False, (13, 9))
    with torch.autocast('cpu', torch.bfloat16):
        value, gradient = value_and_gradient(framework, {'loss': 'ohem', 'ohem_min_kept': 100}, False, (13, 9))
    assert value == expected and np.array_equal(gradient, slope)
