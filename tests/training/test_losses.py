"""Losses against the publishers' recorded values and gradients, in both backends."""

import importlib
import json

import numpy as np
import pytest

from tests.conftest import operator_by_operator
from tests.golden import golden
from twinseg.common import config
from twinseg.common.errors import UserError
from twinseg.common.training import loss_checks

VALUE, GRADIENT = 5e-6, 2e-5  # relative; both computed in float32, where MindSpore's softmax on a CPU is good to 3e-6

CITYSCAPES = [
    0.8373,
    0.918,
    0.866,
    1.0345,
    1.0166,
    0.9969,
    0.9754,
    1.0489,
    0.8786,
    1.0023,
    0.9539,
    0.9843,
    1.1116,
    0.9037,
    1.0865,
    1.0955,
    1.0865,
    1.1529,
    1.0507,
]
CASES = {  # recorded case -> settings of ours
    'cross_entropy': {},
    'cross_entropy_weighted': {'class_weight': CITYSCAPES},
    'mmseg_cross_entropy': {'avg_non_ignore': False},
    'mmseg_cross_entropy_sigmoid': {'loss': 'sigmoid_cross_entropy', 'avg_non_ignore': False},
    'mmseg_ohem_pixel_sampler': {'loss': 'ohem_pixel_sampler', 'ohem_min_kept': 500, 'avg_non_ignore': False},
    'mmseg_ohem_cross_entropy': {'loss': 'ohem', 'ohem_thresh': 0.9, 'ohem_min_kept': 1000, 'class_weight': CITYSCAPES},
    'mmseg_ohem_cross_entropy_min_kept': {
        'loss': 'ohem',
        'ohem_thresh': 0.1,
        'ohem_min_kept': 3000,
        'class_weight': CITYSCAPES,
    },
    'stdc_ohem': {'loss': 'stdc_ohem', 'ohem_thresh': 0.7, 'ohem_min_kept': 1000},
    'stdc_ohem_n_min': {'loss': 'stdc_ohem', 'ohem_thresh': 0.05, 'ohem_min_kept': 4000},
    'mmseg_dice': {'loss': 'dice', 'avg_non_ignore': False},
    'mmseg_lovasz_softmax': {'loss': 'lovasz'},
    'yassouali_lovasz': {'loss': 'lovasz'},
    'yassouali_focal': {'loss': 'focal', 'avg_non_ignore': False},
}
DETAIL = {'stdc_detail': 1, 'mmseg_stdc_detail': 2}  # recorded case -> channels of the head


class PyTorch:
    """Values and gradients of functions of the loss modules, numpy in and out."""

    def __init__(self):
        import torch

        self.losses = importlib.import_module('twinseg.pytorch_impl.losses')
        self.tensor = torch.from_numpy
        self.softmax = torch.nn.Softmax(1)
        self.resize = importlib.import_module('twinseg.pytorch_impl.layers').resize

    def settings(self, loss, align_corners):
        return loss

    def gradient(self, function, *arrays):
        first = self.tensor(arrays[0]).requires_grad_()
        values = function(first, *map(self.tensor, arrays[1:]))
        values[0].backward()
        return [float(value.detach()) for value in values], first.grad.numpy()


class MindSpore:
    def __init__(self):
        importlib.import_module('twinseg.mindspore_impl.backend').setup('cpu')
        import mindspore

        self.mindspore = mindspore
        self.losses = importlib.import_module('twinseg.mindspore_impl.losses')
        self.tensor = mindspore.Tensor
        self.softmax = mindspore.nn.Softmax(1)
        self.resize = importlib.import_module('twinseg.mindspore_impl.layers').resize
        self.settings = self.losses.constants

    def gradient(self, function, *arrays):
        class Whole(self.mindspore.nn.Cell):
            def construct(self, *tensors):
                return function(*tensors)

        values, gradient = self.mindspore.value_and_grad(Whole(), 0, has_aux=True)(*map(self.tensor, arrays))
        return [float(value.asnumpy()) for value in values], gradient.asnumpy()


@pytest.fixture(scope='module')
def framework(backend_name):
    return {'pytorch': PyTorch, 'mindspore': MindSpore}[backend_name]()


@pytest.fixture(scope='module')
def recorded(golden_folder):
    return {case['name']: case for case in json.loads((golden_folder / 'losses.json').read_text())['losses']}


@pytest.fixture(scope='module')
def scores():
    labels = golden.label('losses', [2, 48, 64], 19, block=8)
    return golden.scores('losses', labels, 19), labels.astype(np.int32)


def agree(case, values, gradient):
    assert values == pytest.approx(list(case['values'].values()), rel=VALUE)
    assert np.linalg.norm(gradient) == pytest.approx(case['gradient_norm'], rel=GRADIENT)


@pytest.mark.parametrize('name', CASES)
def test_pixel_losses(framework, recorded, scores, name):
    settings = framework.settings(config.Loss(**CASES[name]), {'logits': False})

    def function(logits, labels):
        parts = framework.losses.segmentation_loss({'logits': logits}, labels, settings, {'logits': False})
        return parts['loss'], parts['loss_logits']

    (value, part), gradient = framework.gradient(function, *scores)
    assert value == part
    agree(recorded[name], [value], gradient)


def test_losses_are_added(framework, recorded, scores):
    """Of mmsegmentation's recorded losses, each of which has its own gradient."""
    chosen = framework.settings(config.Loss(loss={'cross_entropy': 0.5, 'lovasz': 2.0}), {'logits': False})

    def function(logits, labels):
        parts = framework.losses.segmentation_loss({'logits': logits}, labels, chosen, {'logits': False})
        return parts['loss'], parts['loss_logits']

    (value, _), _ = framework.gradient(function, *scores)
    expected = 0.5 * recorded['cross_entropy']['values']['loss'] + 2.0 * recorded['mmseg_lovasz_softmax']['values']['loss']
    assert value == pytest.approx(expected, rel=VALUE)


def test_class_weights_of_lovasz(framework, recorded, scores):
    """mmsegmentation's class_weight: of each class's loss before their mean."""
    classes = np.unique(scores[1][scores[1] != 255])
    weights = [float(number) for number in np.arange(19)]

    def value(class_weight):
        function = lambda logits, labels: (framework.losses.lovasz(logits, labels, class_weight),) * 2  # noqa: E731
        with operator_by_operator():
            return framework.gradient(function, *scores)[0][0]

    alone = [value([float(number == chosen) for number in range(19)]) for chosen in classes[:3]]
    without = value([0.0 if number in classes[:3] else 1.0 for number in range(19)])
    assert sum(alone) + without == pytest.approx(recorded['mmseg_lovasz_softmax']['values']['loss'], rel=VALUE)
    assert value(weights) > value(None)


def test_what_dice_makes_of_ignored_pixels(framework):
    """Left out, they are as good as not there."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 4, 6, 5)).astype(np.float32), rng.integers(0, 4, (2, 6, 5)).astype(np.int32)
    hidden = np.concatenate([labels, np.full((2, 3, 5), 255, np.int32)], 1)
    more = np.concatenate([logits, rng.standard_normal((2, 4, 3, 5)).astype(np.float32)], 2)

    def value(logits, labels, avg_non_ignore):
        function = lambda logits, labels: (framework.losses.softmax_dice(logits, labels, avg_non_ignore),) * 2  # noqa: E731
        with operator_by_operator():
            return framework.gradient(function, logits, labels)[0][0]

    assert value(more, hidden, True) == pytest.approx(value(logits, labels, True), rel=VALUE)
    assert value(more, hidden, False) > value(more, hidden, True) + 0.01


@pytest.mark.parametrize('key', ['loss', 'losses'])
@pytest.mark.parametrize(
    'value, message',
    [
        ('dise', "there is no loss 'dise'; did you mean 'dice'"),
        ({'cross_entropy': 1.0, 'huber': 1.0}, "there is no loss 'huber'; there are cross_entropy, "),
        ({'dice': 0}, 'expected a loss, or weights above 0, such as'),
        ({}, 'expected a loss, or weights above 0, such as'),
        (3, 'expected a loss, or weights above 0, such as'),
    ],
)
def test_other_losses_are_refused(key, value, message):
    with pytest.raises(UserError, match=f'{key}: .*{message}'):
        config.from_flat({key: value if key == 'loss' else {'logits': value}})


HRNET = {  # of each output its own: experiments/cityscapes/ddrnet23_slim.yaml, BALANCE_WEIGHTS
    'losses': {'logits': 'ohem'},
    'logits_weight': 0.4,
    'auxiliary_weights': {'aux': 1.0},
    'class_weight': CITYSCAPES,
    'avg_non_ignore': False,
    'ohem_thresh': 0.05,
    'ohem_min_kept': 100,
}


@pytest.mark.parametrize('settings', [HRNET, {**HRNET, 'loss': 'ohem', 'losses': {'aux': 'cross_entropy'}}])
def test_each_output_has_its_loss_and_weight(framework, recorded, settings):
    labels = golden.label('losses', [2, 48, 64], 19, block=8).astype(np.int32)
    corners = {'logits': False, 'aux': False}
    chosen = framework.settings(config.Loss(**settings), corners)

    def function(logits, labels):
        outputs = {'logits': logits[2:], 'aux': logits[:2]}
        parts = framework.losses.segmentation_loss(outputs, labels, chosen, corners)
        return parts['loss'], parts['loss_logits'], parts['loss_aux']

    (value, main, extra), gradient = framework.gradient(function, golden.input('loss:two outputs', [4, 19, 12, 16]), labels)
    agree(recorded['hrnet_ohem_and_cross_entropy'], [value, main / 0.4, extra], gradient)


@pytest.mark.parametrize('name', DETAIL)
def test_detail_loss(framework, recorded, name):
    labels = golden.label('detail', [2, 96, 128], 19, block=16, ignored=0.01).astype(np.int32)
    logits = golden.input(f'loss:detail{DETAIL[name]}', [2, DETAIL[name], 12, 16])

    def function(logits, labels):
        bce, dice = framework.losses.detail(framework.resize(logits, (96, 128), True), labels)
        return bce + dice, bce, dice

    values, gradient = framework.gradient(function, logits, labels)
    agree(recorded[name], values[1:], gradient)


def published_boundaries(labels, kernel):
    """loss/detail_loss.py of STDC-Seg, written again with numpy: Laplacians at strides 1, 2 and 4, enlarged to the nearest and
    added by the kernel, in float32."""
    height, width = labels.shape[1:]
    padded = np.pad(labels.astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    around = sum(padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3))
    edges, total = 9 * labels.astype(np.float32) - around, np.zeros(labels.shape, np.float32)
    for stride, weight in zip((1, 2, 4), np.array(kernel, np.float32)):
        coarse = (edges[:, ::stride, ::stride].clip(0) > np.float32(0.1)).astype(np.float32)
        rows, columns = (
            np.floor(np.arange(side) * np.float32(len_ / side)).astype(int)
            for side, len_ in zip((height, width), coarse.shape[1:])
        )
        total += weight * coarse[:, rows][:, :, columns]
    return total > np.float32(0.1)


KERNELS = [(0.6, 0.3, 0.1), (0.4, 0.2, 0.0667), (0.19, 0.095, 0.0317), (0.126, 0.063, 0.021)]  # start, then as it decays


@pytest.mark.parametrize('size', [(96, 128), (45, 61), (38, 51)])
def test_boundary_targets_of_a_decaying_kernel(framework, size):
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 4, (2, 12, 16)), np.ones((1, 8, 8), int))[:, : size[0], : size[1]].astype(np.int32)
    labels[:, 5:9, 3:30], labels[:, 21, 33] = 255, 2
    with operator_by_operator():
        found = [np.asarray(framework.losses.boundary_targets(framework.tensor(labels), kernel)) for kernel in KERNELS]
    for targets, kernel in zip(found, KERNELS):
        assert np.array_equal(targets > 0.5, published_boundaries(labels, kernel)), kernel
    shares = [targets.mean() for targets in found]
    assert shares[0] == shares[1] > shares[2] > shares[3] > 0.01, 'strides 1 and 2; 1, or 2 with 4; 1'


def test_detail_loss_of_another_shape_before(framework):
    """A function of MindSpore's own kept, operator by operator, the divisor of the gradients that it had computed first."""
    labels = np.zeros((1, 24, 32), np.int32)
    with operator_by_operator():
        for channels in (2, 1):
            gradient = framework.gradient(framework.losses.detail, np.zeros((1, channels, 24, 32), np.float32), labels)[1]
            np.testing.assert_allclose(np.abs(gradient), 0.5 / gradient.size, rtol=1e-6)


def test_dice(framework, recorded, scores):
    logits, labels = scores
    targets = (np.arange(19)[:, None, None] == labels[:, None]).astype(np.float32)

    def function(logits, targets):
        loss = framework.losses.dice(framework.softmax(logits), targets)
        return loss, loss

    (value, _), gradient = framework.gradient(function, logits, targets)
    agree(recorded['mmseg_dice'], [value], gradient)


@pytest.mark.parametrize(
    'name', ['cross_entropy', 'sigmoid_cross_entropy', 'ohem', 'ohem_pixel_sampler', 'stdc_ohem', 'focal', 'lovasz']
)
@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_nothing_to_learn_from(framework, name, avg_non_ignore):
    settings = framework.settings(config.Loss(loss=name, avg_non_ignore=avg_non_ignore, ohem_min_kept=3), {'logits': False})
    logits = np.random.default_rng(0).standard_normal((1, 4, 2, 3)).astype(np.float32)

    def function(logits, labels):
        parts = framework.losses.segmentation_loss({'logits': logits}, labels, settings, {'logits': False})
        return parts['loss'], parts['loss_logits']

    (value, _), gradient = framework.gradient(function, logits, np.full((1, 4, 6), 255, np.int32))
    assert value == 0 and not gradient.any()


def test_label_smoothing(framework):
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 4, 3, 5)).astype(np.float32), rng.integers(0, 4, (2, 3, 5))
    labels[0, 0] = 255
    weight = [1.0, 2.0, 0.5, 3.0]

    def function(logits, labels):
        loss = framework.losses.cross_entropy(logits, labels, weight, 0.1)
        return loss, loss

    values, _ = framework.gradient(function, logits, labels)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), torch.tensor(weight), ignore_index=255, label_smoothing=0.1
    )
    assert values[0] == pytest.approx(float(expected), rel=VALUE)


def test_soft_targets(framework):
    """Values and gradients against the formula; settings that class ids need, smoothing, do not touch them."""
    rng = np.random.default_rng(0)
    logits, targets = 3 * rng.standard_normal((6, 300)).astype(np.float32), rng.dirichlet(np.ones(300), 6).astype(np.float32)
    settings = framework.settings(config.Loss(label_smoothing=0.1), {})

    def function(logits, targets):
        parts = framework.losses.segmentation_loss({'logits': logits}, targets, settings, {})
        return parts['loss'], parts['loss_logits']

    (value, _), gradient = framework.gradient(function, logits, targets)
    expected, slope = soft_cross_entropy(logits, targets)
    assert value == pytest.approx(expected, rel=VALUE)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=GRADIENT * np.abs(slope).max())


@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_class_ids_of_images(framework, label_smoothing):
    """A share of the smoothing falls on all classes alike; class 255 is one of them."""
    logits, labels = 3 * np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32), np.array([0, 255, 299, 7])
    settings = framework.settings(config.Loss(label_smoothing=label_smoothing), {})

    def function(logits, labels):
        parts = framework.losses.segmentation_loss({'logits': logits}, labels, settings, {})
        return parts['loss'], parts['loss_logits']

    (value, _), gradient = framework.gradient(function, logits, labels)
    expected, slope = soft_cross_entropy(logits, np.eye(300)[labels] * (1 - label_smoothing) + label_smoothing / 300)
    assert value == pytest.approx(expected, rel=VALUE)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=GRADIENT * np.abs(slope).max())


def soft_cross_entropy(logits, targets):
    """Mean over the samples, and its gradient, in float64."""
    exponentials, targets = np.exp(logits.astype(np.float64)), targets.astype(np.float64)
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    slope = (targets.sum(1, keepdims=True) * probabilities - targets) / len(logits)
    return -np.mean(np.sum(targets * np.log(probabilities), 1)), slope


@pytest.mark.parametrize(
    'settings, classes, message',
    [
        ({'auxiliary_weights': {'aux33': 0.4}}, 19, "no auxiliary output 'aux33'; it has: aux16, detail"),
        ({'class_weight': [1.0, 2.0]}, 19, '2 weights for 19 classes'),
        ({'loss': 'stdc_ohem', 'label_smoothing': 0.1}, 19, 'label_smoothing works with'),
        ({'losses': {'logits': 'ohem'}, 'label_smoothing': 0.1}, 19, 'cross_entropy, not with ohem'),
        ({'losses': {'aux16': 'ohem'}}, 19, "losses: ohem has no effect on 'aux16': outputs with a loss are logits"),
        (
            {'losses': {'detail': 'ohem'}, 'auxiliary_weights': {'detail': 1.0}},
            19,
            "losses: ohem has no effect on 'detail': its loss is always binary cross-entropy and dice",
        ),
        ({'loss': 'dice', 'class_weight': CITYSCAPES}, 19, 'class_weight has no effect on dice'),
        ({'detail_target': 'decaying'}, 19, 'detail_target: decaying needs the output detail'),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, classes, message):
    with pytest.raises(UserError, match=message):
        loss_checks.check(config.Loss(**settings), ['logits', 'aux16', 'detail'], classes)
