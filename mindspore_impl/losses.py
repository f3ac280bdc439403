"""Losses of the recipes: logits (N, C, H, W) float32 against labels (N, H, W) integer in which 255 is ignored.

A classifier's logits (N, C) go with labels (N,) integer, of which none is ignored, or with soft targets (N, C).

Of several processes each has its part of the global batch: what counts pixels or picks hard ones looks at all of it, so that
the mean of the processes' losses is the loss of the global batch, and the mean of their gradients its gradient.
"""

from types import SimpleNamespace
from typing import Mapping, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, ops

from twinseg.common import config
from twinseg.common.data.base import IGNORE
from twinseg.common.plugins import PLUGINS, built
from twinseg.common.schedules import DETAIL_LIMIT
from twinseg.common.settings.groups.loss import DETAIL_KERNEL, LossName
from twinseg.common.training.loss_checks import check, divides_by_count
from twinseg.mindspore_impl import distributed, strips
from twinseg.mindspore_impl.layers import resize

TINY = 1e-12  # smallest divisor, and base of a power with a finite slope
LAPLACIAN = ((-1.0, -1.0, -1.0), (-1.0, 8.0, -1.0), (-1.0, -1.0, -1.0))


def constants(loss: config.Loss, align_corners: Mapping[str, bool]) -> SimpleNamespace:
    """The settings in the form that graph mode reads; UserError when they do not fit a network's outputs."""
    check(loss, align_corners)
    terms = {name: tuple(terms.items()) for name, terms in loss.by_output.items()}
    return SimpleNamespace(**loss.model_dump(), weights=loss.weights, terms=terms, divides_by_count=divides_by_count(loss))


def segmentation_loss(
    outputs: Mapping[str, Tensor],
    labels: Tensor,
    loss: SimpleNamespace,
    align_corners: Mapping[str, bool],
    detail_kernel: Tensor | Sequence[float] = DETAIL_KERNEL,
    counted: Optional[Tensor] = None,
) -> dict[str, Tensor]:
    """The loss of a network's outputs, each resized bilinearly to the labels (a classifier's (N, C) are not resized).

    Returns ``loss`` and its weighted parts, which sum to it: ``loss_logits`` and ``loss_<output>`` for every output in
    ``loss.weights``. ``loss``: of ``constants``; ``detail_kernel``: see ``boundary_targets``. ``counted``: what
    ``count_pixels`` gives, as a mean over the batches that a step accumulates; by default these labels are all.
    """
    labels = ops.cast(labels, ms.float32 if labels.ndim == 2 else ms.int32)
    if loss.divides_by_count and labels.ndim == 3:
        counted = distributed.mean(count_pixels(labels, loss.class_weight) if counted is None else counted)
    parts, total = {}, 0.0
    for name, weight in loss.weights.items():
        logits, corners = ops.cast(outputs[name], ms.float32), align_corners.get(name, False)
        value = 0.0
        if name == 'detail':
            bce, overlap = detail(resize(logits, labels.shape[1:], corners), labels, detail_kernel)
            value = loss.detail_weights[0] * bce + loss.detail_weights[1] * overlap
        else:
            for term, share in loss.terms[name]:
                value = value + share * criterion(logits, labels, loss, term, corners, counted)
        parts['loss_' + name] = weight * value
        total = total + weight * value
    parts['loss'] = total
    return parts


def criterion(
    logits: Tensor,
    labels: Tensor,
    loss: SimpleNamespace,
    name: LossName,
    align_corners: bool,
    counted: Optional[Tensor],
) -> Tensor:
    """The loss of that name; of classifiers cross-entropy. Soft targets are taken as smoothed already."""
    if logits.ndim == 2:
        targets = labels if labels.ndim == 2 else class_targets(labels, logits.shape[1], loss.label_smoothing)
        return soft_cross_entropy(logits, targets)
    if name in PLUGINS.losses:
        return built(PLUGINS.losses, name, 'mindspore')(resize(logits, labels.shape[1:], align_corners), labels)
    weight, average = loss.class_weight, loss.avg_non_ignore
    if name == 'cross_entropy':
        return cross_entropy(logits, labels, weight, loss.label_smoothing, average, align_corners, counted)
    if name == 'sigmoid_cross_entropy':
        return sigmoid_cross_entropy(logits, labels, weight, average, align_corners, counted)
    if name == 'focal':
        return focal(logits, labels, loss.focal_gamma, weight, average, align_corners, counted)
    if name == 'dice':
        return softmax_dice(logits, labels, average, align_corners)
    if name == 'lovasz':
        return lovasz(logits, labels, weight, align_corners)
    if name == 'ohem':
        return ohem(logits, labels, loss.ohem_thresh, loss.ohem_min_kept, weight, align_corners)
    if name == 'ohem_pixel_sampler':
        return ohem_pixel_sampler(logits, labels, loss.ohem_thresh, loss.ohem_min_kept, weight, average, align_corners)
    return stdc_ohem(logits, labels, loss.ohem_thresh, loss.ohem_min_kept, weight, align_corners)


def count_pixels(labels: Tensor, class_weight: Optional[Sequence[float]] = None) -> Tensor:
    """(2,) float32: the number of the pixels (N, H, W) that are not ignored, and the sum of their classes' weights."""
    count = ops.cast(ops.cast(labels != IGNORE, ms.int32).sum(), ms.float32)
    return ops.stack((count, _pixel_weights(labels, class_weight).sum()))


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weight: Optional[Sequence[float]] = None,
    label_smoothing: float = 0.0,
    avg_non_ignore: bool = True,
    align_corners: bool = False,
    counted: Optional[Tensor] = None,
) -> Tensor:
    """Softmax cross-entropy, divided by the weights of the pixels that are not ignored, or, as mmsegmentation does by
    default (``avg_non_ignore`` false), by the number of all pixels.
    """
    total = strips.weighted_cross_entropy(logits, labels, _pixel_weights(labels, class_weight), align_corners)
    if label_smoothing > 0:
        logits = resize(logits, labels.shape[1:], align_corners)
        scale = Tensor(class_weight or [1.0] * logits.shape[1], ms.float32).reshape(1, -1, 1, 1)
        largest = ops.stop_gradient(logits.max(1, keepdims=True))
        normaliser = ops.log(ops.exp(logits - largest).sum(1, keepdims=True)) + largest
        spread = (_pixel_weights(labels) * ((normaliser - logits) * scale).sum(1)).sum()
        total = (1 - label_smoothing) * total + label_smoothing / logits.shape[1] * spread
    return total / _pixels(labels, class_weight, avg_non_ignore, counted)


def class_targets(labels: Tensor, classes: int, label_smoothing: float = 0.0) -> Tensor:
    """Class ids (N,) -> soft targets (N, ``classes``): a share of ``label_smoothing`` falls on all classes alike."""
    return ops.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy of logits (N, C) against probabilities (N, C), averaged over the samples."""
    largest = ops.stop_gradient(logits.max(1, keepdims=True))
    normaliser = ops.log(ops.exp(logits - largest).sum(1, keepdims=True)) + largest
    return (targets * (normaliser - logits)).sum(1).mean()


def sigmoid_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weight: Optional[Sequence[float]] = None,
    avg_non_ignore: bool = True,
    align_corners: bool = False,
    counted: Optional[Tensor] = None,
) -> Tensor:
    """Binary cross-entropy of every channel against the one-hot labels (mmsegmentation's ``use_sigmoid``), averaged over
    channels and pixels; class weights multiply the positive terms.
    """
    positive = None if class_weight is None else _pixel_weights(labels, class_weight)
    total = strips.weighted_sigmoid(logits, labels, _pixel_weights(labels), positive, align_corners)
    return total / (logits.shape[1] * _pixels(labels, None, avg_non_ignore, counted))


def focal(
    logits: Tensor,
    labels: Tensor,
    gamma: float,
    class_weight: Optional[Sequence[float]] = None,
    avg_non_ignore: bool = True,
    align_corners: bool = False,
    counted: Optional[Tensor] = None,
) -> Tensor:
    """Cross-entropy times (1 - probability of the right class) ** ``gamma`` (Lin et al. 2017, equation 4, of a softmax),
    averaged over the pixels; class weights multiply it (their alpha).
    """
    losses = strips.cross_entropy(logits, labels, align_corners)
    losses = losses * ops.maximum(-ops.expm1(-losses), Tensor(TINY, ms.float32)) ** gamma
    return (losses * _pixel_weights(labels, class_weight)).sum() / _pixels(labels, None, avg_non_ignore, counted)


def ohem(
    logits: Tensor,
    labels: Tensor,
    thresh: float,
    min_kept: int,
    class_weight: Optional[Sequence[float]] = None,
    align_corners: bool = False,
) -> Tensor:
    """mmsegmentation's OhemCrossEntropy: the mean of the weighted losses of the hard pixels of the batch."""
    losses = strips.cross_entropy(logits, labels, align_corners)
    hard = _hard_pixels(losses, labels, thresh, min_kept)
    return (losses * _pixel_weights(labels, class_weight) * hard).sum() / _mean_count(hard)


def ohem_pixel_sampler(
    logits: Tensor,
    labels: Tensor,
    thresh: float,
    min_kept: int,
    class_weight: Optional[Sequence[float]] = None,
    avg_non_ignore: bool = True,
    align_corners: bool = False,
) -> Tensor:
    """mmsegmentation's OHEMPixelSampler with cross-entropy: ``min_kept`` is per image, and the divisor is cross-entropy's,
    the pixels that were not kept included.
    """
    losses = strips.cross_entropy(logits, labels, align_corners)
    hard = _hard_pixels(losses, labels, thresh, min_kept * labels.shape[0] * distributed.size())
    return (losses * _pixel_weights(labels, class_weight) * hard).sum() / _pixels(labels, class_weight, avg_non_ignore)


def stdc_ohem(
    logits: Tensor,
    labels: Tensor,
    thresh: float,
    min_kept: int,
    class_weight: Optional[Sequence[float]] = None,
    align_corners: bool = False,
) -> Tensor:
    """The official STDC OhemCELoss: the mean of all losses above -log(thresh) if these are more than ``min_kept``, else of
    the ``min_kept`` largest, among which ignored pixels count as zeros.
    """
    losses = (strips.cross_entropy(logits, labels, align_corners) * _pixel_weights(labels, class_weight)).reshape(-1)
    hard = ops.stop_gradient(losses > -ops.log(Tensor(thresh, ms.float32)))  # booleans have no gradients to add up
    above = (losses * hard).sum() / _mean_count(hard)
    largest = _mean_of_largest(losses, max(min_kept, 1))
    return ops.where(distributed.mean(ops.cast(hard, ms.int32).sum()) * distributed.size() > min_kept, above, largest)


def softmax_dice(logits: Tensor, labels: Tensor, avg_non_ignore: bool = True, align_corners: bool = False) -> Tensor:
    """mmsegmentation's DiceLoss of a softmax and the one-hot labels, all classes of an image together, averaged over images.

    Of ignored pixels no class is right. mmsegmentation counts what is predicted there as wrong (``avg_non_ignore`` false);
    else they are left out.
    """
    probabilities = ops.softmax(resize(logits, labels.shape[1:], align_corners), 1)
    if avg_non_ignore:
        probabilities = probabilities * ops.expand_dims(_pixel_weights(labels), 1)
    classes = ops.arange(0, logits.shape[1], dtype=ms.int32).reshape(1, -1, 1, 1)
    return dice(probabilities, ops.cast(ops.expand_dims(labels, 1) == classes, ms.float32))


def lovasz(
    logits: Tensor, labels: Tensor, class_weight: Optional[Sequence[float]] = None, align_corners: bool = False
) -> Tensor:
    """Lovasz-softmax (Berman et al. 2018, section 3.1) over the pixels of the global batch that are not ignored, averaged over
    the classes that occur in it, each times its weight.
    """
    classes, valid = logits.shape[1], _pixel_weights(labels).reshape(1, -1)
    probabilities = ops.softmax(resize(logits, labels.shape[1:], align_corners), 1)
    probabilities = probabilities.transpose(1, 0, 2, 3).reshape(classes, -1)
    ids = ops.arange(0, classes, dtype=ms.int32).reshape(-1, 1)
    mine = labels.reshape(-1)
    errors = ops.abs(probabilities - ops.cast(mine == ids, ms.float32)) * valid  # (C, N * H * W)
    everywhere = distributed.gather(errors.reshape(-1)).reshape(-1, classes, mine.shape[0])
    everywhere = ops.stop_gradient(everywhere.transpose(1, 0, 2).reshape(classes, -1))
    order = ops.argsort(everywhere, 1, descending=True)
    truth = ops.gather_elements(ops.cast(distributed.gather(mine) == ids, ms.float32), 1, order)
    total = truth.sum(1, keepdims=True)
    right = ops.cumsum(truth, 1)
    wrong = ops.cast(ops.arange(1, order.shape[1] + 1), ms.float32) - right
    jaccard = 1 - (total - right) / (total + wrong)  # if the errors up to here are all
    slopes = ops.cat((jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]), 1)
    weights = ops.tensor_scatter_elements(ops.zeros_like(slopes), order, slopes, 1)
    weights = ops.stop_gradient(weights.reshape(classes, -1, mine.shape[0])[:, distributed.rank()])
    occurs = ops.cast(total > 0, ms.float32)[:, 0]
    shares = occurs if class_weight is None else occurs * Tensor(class_weight, ms.float32)
    return ((errors * weights).sum(1) * shares).sum() * distributed.size() / ops.maximum(occurs.sum(), Tensor(1, ms.float32))


def dice(probabilities: Tensor, targets: Tensor, eps: float = 1e-3, squared: bool = True) -> Tensor:
    """1 - dice of (N, ...) probabilities and targets in 0..1, per image and averaged.

    ``squared``: mmsegmentation's DiceLoss, 2 ab / (aa + bb + 2 eps); else (2 ab + eps) / (a + b + eps), STDC's with eps 1.
    """
    a, b = probabilities.reshape(probabilities.shape[0], -1), targets.reshape(targets.shape[0], -1)
    common = 2 * (a * b).sum(1)
    if squared:
        return (1 - common / ((a * a).sum(1) + (b * b).sum(1) + 2 * eps)).mean()
    return (1 - (common + eps) / (a.sum(1) + b.sum(1) + eps)).mean()


def boundary_targets(labels: Tensor, kernel: Tensor | Sequence[float] = DETAIL_KERNEL) -> Tensor:
    """Detail targets (N, H, W) float32 in {0, 1} of STDC (section 3.3): the Laplacian of the labels at strides 1, 2 and 4.

    The three maps are added with the weights of ``kernel``, and what exceeds DETAIL_LIMIT is a boundary. With DETAIL_KERNEL
    stride 1 or stride 2 decides and stride 4 never does, for 0.1 does not exceed itself in float32. Label 255 takes part as a
    value. Stride s reads every s-th pixel of stride 1, repeated (nearest).
    """
    laplacian = Tensor(LAPLACIAN, ms.float32).reshape(1, 1, 3, 3)
    fine = ops.conv2d(ops.cast(ops.expand_dims(labels, 1), ms.float32), laplacian, pad_mode='pad', padding=1)[:, 0] > 0
    fine = ops.cast(fine, ms.float32)
    height, width = labels.shape[1], labels.shape[2]
    total = kernel[0] * fine
    for stride, weight in ((2, kernel[1]), (4, kernel[2])):
        rows = ops.arange(height) * -(-height // stride) // height * stride
        columns = ops.arange(width) * -(-width // stride) // width * stride
        total = total + weight * ops.gather(ops.gather(fine, rows, 1), columns, 2)
    return ops.cast(total > Tensor(DETAIL_LIMIT, ms.float32), ms.float32)


def detail(logits: Tensor, labels: Tensor, kernel: Tensor | Sequence[float] = DETAIL_KERNEL) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice of detail logits at the labels' size against the boundary targets.

    One channel is the official head, two channels (not boundary, boundary) are mmsegmentation's.
    """
    targets = ops.expand_dims(boundary_targets(labels, kernel), 1)
    if logits.shape[1] == 1:
        overlap = dice(ops.sigmoid(logits), targets, eps=1.0, squared=False)
    else:
        targets = ops.cat((1 - targets, targets), 1)
        overlap = dice(ops.sigmoid(logits), targets)
    # Run operator by operator, ops.binary_cross_entropy_with_logits keeps the first shape's divisor for gradients
    return (ops.softplus(logits) - logits * targets).mean(), overlap


def _pixel_weights(labels: Tensor, class_weight: Optional[Sequence[float]] = None) -> Tensor:
    """Weights (N, H, W) float32 of the pixels' classes, 0 where they are ignored."""
    valid = ops.cast(labels != IGNORE, ms.float32)
    if class_weight is None:
        return valid
    truth = ops.select(labels != IGNORE, labels, ops.zeros_like(labels))
    return valid * ops.gather(Tensor(class_weight, ms.float32), truth, 0)


def _mean_count(mask: Tensor) -> Tensor:
    """Number of true elements, at least 1: the mean over the processes."""
    count = ops.cast(mask, ms.int32).sum()
    if distributed.size() == 1:
        return ops.maximum(count, Tensor(1, ms.int32))
    return ops.maximum(distributed.mean(count), Tensor(1 / distributed.size(), ms.float32))


def _mean_of_largest(losses: Tensor, count: int) -> Tensor:
    """The mean of the ``count`` largest losses of all processes, of which each gets its share."""
    largest = ops.topk(losses, min(count, losses.shape[0]))[0]
    if distributed.size() == 1:
        return largest.mean()
    everywhere = distributed.gather(largest)
    count = min(count, losses.shape[0] * distributed.size())
    smallest = ops.topk(everywhere, count)[0].min()
    above, equal = ops.cast(everywhere > smallest, ms.float32), ops.cast(everywhere == smallest, ms.float32)
    ties = (count - above.sum()) / equal.sum()  # share with which losses equal to the smallest one count
    weights = ops.cast(largest > smallest, ms.float32) + ties * ops.cast(largest == smallest, ms.float32)
    return (largest * weights).sum() * (distributed.size() / count)


def _pixels(
    labels: Tensor, class_weight: Optional[Sequence[float]], avg_non_ignore: bool, counted: Optional[Tensor] = None
) -> Tensor:
    """Divisor of the sum of the losses: the mean over the processes and the batches of a step."""
    if not avg_non_ignore:
        return Tensor(labels.size, ms.float32)
    if counted is None:
        counted = distributed.mean(count_pixels(labels, class_weight))
    chosen = Tensor([1, 0] if class_weight is None else [0, 1], ms.float32)  # PyNative mode refuses some indices
    return ops.maximum((counted * chosen).sum(), Tensor(TINY, ms.float32))


def _hard_pixels(losses: Tensor, labels: Tensor, thresh: float, min_kept: int) -> Tensor:
    """Where cross-entropy (N, H, W) says that the right class has a probability below the larger of ``thresh`` and the
    ``min_kept``-th smallest one."""
    valid = labels != IGNORE
    probability = ops.stop_gradient(ops.exp(-losses))
    count = min(min_kept, labels.size * distributed.size() - 1) + 1
    smallest = ops.topk(ops.where(valid, -probability, -2.0).reshape(-1), min(count, labels.size))[0]
    if distributed.size() > 1:  # each process's smallest have the smallest of all among them
        smallest = ops.topk(distributed.gather(smallest), count)[0]
    largest = distributed.gather(ops.where(valid, probability, 0.0).max().reshape(1)).max()
    threshold = ops.minimum(-smallest.min(), largest)
    threshold = ops.maximum(threshold, Tensor(thresh, ms.float32))
    return ops.logical_and(valid, probability < threshold)
