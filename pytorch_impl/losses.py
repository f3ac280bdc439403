"""Losses of the recipes: logits (N, C, H, W) float32 against labels (N, H, W) integer in which 255 is ignored.

A classifier's logits (N, C) go with labels (N,) integer, of which none is ignored, or with soft targets (N, C).

Of several processes each has its part of the global batch: what counts pixels or picks hard ones looks at all of it, so that
the mean of the processes' losses is the loss of the global batch, and the mean of their gradients its gradient.
"""

from functools import reduce
from operator import add
from typing import Mapping, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from twinseg.common import config
from twinseg.common.data.base import IGNORE
from twinseg.common.plugins import PLUGINS, built
from twinseg.common.schedules import DETAIL_LIMIT
from twinseg.common.settings.groups.loss import DETAIL_KERNEL, LossName
from twinseg.common.training.loss_checks import check, divides_by_count
from twinseg.pytorch_impl import distributed, strips
from twinseg.pytorch_impl.data import constant
from twinseg.pytorch_impl.layers import resize

TINY = 1e-12  # smallest divisor, and base of a power with a finite slope
LAPLACIAN = ((-1.0, -1.0, -1.0), (-1.0, 8.0, -1.0), (-1.0, -1.0, -1.0))


def segmentation_loss(
    outputs: Mapping[str, Tensor],
    labels: Tensor,
    loss: config.Loss,
    align_corners: Mapping[str, bool],
    detail_kernel: Sequence[float] = DETAIL_KERNEL,
    counted: Optional[Tensor] = None,
) -> dict[str, Tensor]:
    """The loss of a network's outputs, each resized bilinearly to the labels (a classifier's (N, C) are not resized).

    Returns ``loss`` and its weighted parts, which sum to it: ``loss_logits`` and ``loss_<output>`` for every output in
    ``loss.weights``. ``detail_kernel``: see ``boundary_targets``. ``counted``: what ``count_pixels`` gives, as a mean over the
    batches that a step accumulates; by default these labels are all.
    """
    check(loss, align_corners)
    labels = labels.float() if labels.ndim == 2 else labels.long()
    if divides_by_count(loss) and labels.ndim == 3:
        assert not isinstance(loss.class_weight, str)  # counted before the training begins
        counted = distributed.mean(count_pixels(labels, loss.class_weight) if counted is None else counted)
    parts = {}
    for name, weight in loss.weights.items():
        logits, corners = outputs[name].float(), align_corners.get(name, False)
        if name == 'detail':
            bce, overlap = detail(resize(logits, labels.shape[1:], corners), labels, detail_kernel)
            value = loss.detail_weights[0] * bce + loss.detail_weights[1] * overlap
        else:
            terms = loss.by_output[name].items()
            value = reduce(add, (share * criterion(logits, labels, loss, term, corners, counted) for term, share in terms))
        parts[f'loss_{name}'] = weight * value
    return {'loss': reduce(add, parts.values()), **parts}


def criterion(
    logits: Tensor,
    labels: Tensor,
    loss: config.Loss,
    name: LossName,
    align_corners: bool,
    counted: Optional[Tensor],
) -> Tensor:
    """The loss of that name; of classifiers cross-entropy. Soft targets are taken as smoothed already."""
    if logits.ndim == 2:
        targets = labels if labels.ndim == 2 else class_targets(labels, logits.shape[1], loss.label_smoothing)
        return soft_cross_entropy(logits, targets)
    if name in PLUGINS.losses:
        return built(PLUGINS.losses, name, 'pytorch')(resize(logits, labels.shape[1:], align_corners), labels)
    weight, average = loss.class_weight, loss.avg_non_ignore
    assert not isinstance(weight, str)
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
    return torch.stack(((labels != IGNORE).sum().float(), _pixel_weights(labels, class_weight).sum()))


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
    if label_smoothing:
        weight = None if class_weight is None else _tensor(class_weight, logits)
        logits = resize(logits, labels.shape[1:], align_corners)
        total = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction='sum', label_smoothing=label_smoothing)
    else:
        total = strips.weighted_cross_entropy(logits, labels, _pixel_weights(labels, class_weight), align_corners)
    return total / _pixels(labels, class_weight, avg_non_ignore, counted)


def class_targets(labels: Tensor, classes: int, label_smoothing: float = 0.0) -> Tensor:
    """Class ids (N,) -> soft targets (N, ``classes``): a share of ``label_smoothing`` falls on all classes alike."""
    return F.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy of logits (N, C) against probabilities (N, C), averaged over the samples."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()


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
    losses = losses * (-torch.expm1(-losses)).clamp(min=TINY) ** gamma
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
    hard = _hard_pixels(losses, labels, thresh, min_kept * len(labels) * distributed.size())
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
    losses = (strips.cross_entropy(logits, labels, align_corners) * _pixel_weights(labels, class_weight)).flatten()
    hard = losses > -torch.log(constant(torch.tensor, thresh, device=losses.device))
    above = (losses * hard).sum() / _mean_count(hard)
    largest = _mean_of_largest(losses, max(min_kept, 1))
    return torch.where(distributed.mean(hard.sum()) * distributed.size() > min_kept, above, largest)


def softmax_dice(logits: Tensor, labels: Tensor, avg_non_ignore: bool = True, align_corners: bool = False) -> Tensor:
    """mmsegmentation's DiceLoss of a softmax and the one-hot labels, all classes of an image together, averaged over images.

    Of ignored pixels no class is right. mmsegmentation counts what is predicted there as wrong (``avg_non_ignore`` false);
    else they are left out.
    """
    probabilities = resize(logits, labels.shape[1:], align_corners).softmax(1)
    valid = labels != IGNORE
    if avg_non_ignore:
        probabilities = probabilities * valid[:, None]
    classes = torch.arange(logits.shape[1], device=labels.device)
    return dice(probabilities, (labels[:, None] == classes.view(1, -1, 1, 1)).float())


def lovasz(
    logits: Tensor, labels: Tensor, class_weight: Optional[Sequence[float]] = None, align_corners: bool = False
) -> Tensor:
    """Lovasz-softmax (Berman et al. 2018, section 3.1) over the pixels of the global batch that are not ignored, averaged over
    the classes that occur in it, each times its weight.
    """
    classes, valid = logits.shape[1], (labels != IGNORE).flatten()
    probabilities = resize(logits, labels.shape[1:], align_corners).softmax(1).transpose(0, 1).flatten(1)
    ids = torch.arange(classes, device=labels.device)[:, None]
    errors = (probabilities - (labels.flatten() == ids).float()).abs() * valid  # (C, N * H * W)
    everywhere = distributed.gather(errors.flatten()).view(-1, *errors.shape).transpose(0, 1).flatten(1)
    order = everywhere.argsort(1, descending=True)
    truth = (distributed.gather(labels.flatten()) == ids).gather(1, order)
    total = truth.sum(1, keepdim=True)
    right = truth.cumsum(1)
    wrong = torch.arange(1, order.shape[1] + 1, device=order.device) - right
    jaccard = 1 - (total - right) / (total + wrong)  # if the errors up to here are all
    slopes = jaccard.diff(dim=1, prepend=jaccard.new_zeros((classes, 1)))
    weights = torch.empty_like(slopes).scatter_(1, order, slopes).view(classes, -1, errors.shape[1])[:, distributed.rank()]
    occurs = (total > 0)[:, 0].float()
    shares = occurs if class_weight is None else occurs * _tensor(class_weight, logits)
    return ((errors * weights).sum(1) * shares).sum() * (distributed.size() / occurs.sum().clamp(min=1))


def dice(probabilities: Tensor, targets: Tensor, eps: float = 1e-3, squared: bool = True) -> Tensor:
    """1 - dice of (N, ...) probabilities and targets in 0..1, per image and averaged.

    ``squared``: mmsegmentation's DiceLoss, 2 ab / (aa + bb + 2 eps); else (2 ab + eps) / (a + b + eps), STDC's with eps 1.
    """
    a, b = probabilities.flatten(1), targets.flatten(1)
    common = 2 * (a * b).sum(1)
    if squared:
        return (1 - common / ((a * a).sum(1) + (b * b).sum(1) + 2 * eps)).mean()
    return (1 - (common + eps) / (a.sum(1) + b.sum(1) + eps)).mean()


def boundary_targets(labels: Tensor, kernel: Sequence[float] = DETAIL_KERNEL) -> Tensor:
    """Detail targets (N, H, W) float32 in {0, 1} of STDC (section 3.3): the Laplacian of the labels at strides 1, 2 and 4.

    The three maps are added with the weights of ``kernel``, and what exceeds DETAIL_LIMIT is a boundary. With DETAIL_KERNEL
    stride 1 or stride 2 decides and stride 4 never does, for 0.1 does not exceed itself in float32. Label 255 takes part as a
    value. Stride s reads every s-th pixel of stride 1, repeated (nearest).
    """
    laplacian = constant(torch.tensor, LAPLACIAN, device=labels.device)[None, None]
    fine = (F.conv2d(labels[:, None].float(), laplacian, padding=1)[:, 0] > 0).float()
    total = kernel[0] * fine
    for stride, weight in ((2, kernel[1]), (4, kernel[2])):
        rows, columns = (
            torch.arange(side, device=labels.device) * -(-side // stride) // side * stride for side in labels.shape[-2:]
        )
        total = total + weight * fine[:, rows][:, :, columns]
    return (total > DETAIL_LIMIT).float()


def detail(logits: Tensor, labels: Tensor, kernel: Sequence[float] = DETAIL_KERNEL) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice of detail logits at the labels' size against the boundary targets.

    One channel is the official head, two channels (not boundary, boundary) are mmsegmentation's.
    """
    targets = boundary_targets(labels, kernel)[:, None]
    official = logits.shape[1] == 1
    if not official:
        targets = torch.cat([1 - targets, targets], 1)
    bce = F.binary_cross_entropy_with_logits(logits, targets)
    overlap = dice(logits.sigmoid(), targets, eps=1.0, squared=False) if official else dice(logits.sigmoid(), targets)
    return bce, overlap


def _pixel_weights(labels: Tensor, class_weight: Optional[Sequence[float]] = None) -> Tensor:
    """Weights (N, H, W) float32 of the pixels' classes, 0 where they are ignored."""
    valid = (labels != IGNORE).float()
    return valid if class_weight is None else valid * _tensor(class_weight, valid)[labels.where(labels != IGNORE, 0)]


def _tensor(class_weight: Sequence[float], like: Tensor) -> Tensor:
    return constant(torch.tensor, tuple(class_weight), device=like.device, dtype=like.dtype)


def _pixels(
    labels: Tensor, class_weight: Optional[Sequence[float]], avg_non_ignore: bool, counted: Optional[Tensor] = None
) -> Tensor | int:
    """Divisor of the sum of the losses: the mean over the processes and the batches of a step."""
    if not avg_non_ignore:
        return labels.numel()
    if counted is None:
        counted = distributed.mean(count_pixels(labels, class_weight))
    return counted[0 if class_weight is None else 1].clamp(min=TINY)


def _mean_count(mask: Tensor) -> Tensor:
    """Number of true elements, at least 1: the mean over the processes."""
    return distributed.mean(mask.sum()).clamp(min=1 / distributed.size())


def _mean_of_largest(losses: Tensor, count: int) -> Tensor:
    """The mean of the ``count`` largest losses of all processes, of which each gets its share."""
    largest = losses.topk(min(count, len(losses)), sorted=False).values
    if distributed.size() == 1:
        return largest.mean()
    everywhere = distributed.gather(largest)
    count = min(count, len(losses) * distributed.size())
    smallest = everywhere.topk(count).values[-1]
    above, equal = everywhere > smallest, everywhere == smallest
    ties = (count - above.sum()) / equal.sum()  # share with which losses equal to the smallest one count
    weights = (largest > smallest) + ties * (largest == smallest)
    return (largest * weights).sum() * (distributed.size() / count)


def _kth_smallest(values: Tensor, count: int) -> Tensor:
    """The ``count``-th smallest of values (N,). CUDA's ``kthvalue`` searches all of them with one block of threads, which takes
    80 times as long (33 ms for 6.3 million, H200)."""
    return values.topk(count, largest=False, sorted=False).values.max()


def _hard_pixels(losses: Tensor, labels: Tensor, thresh: float, min_kept: int) -> Tensor:
    """Where cross-entropy (N, H, W) says that the right class has a probability below the larger of ``thresh`` and the
    ``min_kept``-th smallest one."""
    valid = labels != IGNORE
    probability = torch.exp(-losses.detach())
    smallest = probability.where(valid, 2).flatten()
    count = min(min_kept, labels.numel() * distributed.size() - 1) + 1
    if distributed.size() > 1:  # each process's smallest have the smallest of all among them
        smallest = distributed.gather(smallest.topk(min(count, labels.numel()), largest=False).values)
    largest = distributed.gather(probability.where(valid, 0).max()[None]).max()
    threshold = torch.minimum(_kth_smallest(smallest, count), largest).clamp(min=thresh)
    return valid & (probability < threshold)
