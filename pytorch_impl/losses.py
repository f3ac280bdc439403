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
from twinseg.common.config import DETAIL_KERNEL
from twinseg.common.data.base import IGNORE
from twinseg.common.schedules import DETAIL_LIMIT
from twinseg.common.training.loss_checks import check
from twinseg.pytorch_impl import distributed
from twinseg.pytorch_impl.data import constant
from twinseg.pytorch_impl.layers import resize

LAPLACIAN = ((-1.0, -1.0, -1.0), (-1.0, 8.0, -1.0), (-1.0, -1.0, -1.0))


def segmentation_loss(
    outputs: Mapping[str, Tensor],
    labels: Tensor,
    loss: config.Loss,
    align_corners: Mapping[str, bool],
    detail_kernel: Sequence[float] = DETAIL_KERNEL,
) -> dict[str, Tensor]:
    """The loss of a network's outputs, each resized bilinearly to the labels (a classifier's (N, C) are not resized).

    Returns ``loss`` and its weighted parts, which sum to it: ``loss_logits`` and ``loss_<output>`` for every output in
    ``loss.weights``. ``detail_kernel``: see ``boundary_targets``.
    """
    check(loss, align_corners)
    labels = labels.float() if labels.ndim == 2 else labels.long()
    parts = {}
    for name, weight in loss.weights.items():
        logits = outputs[name].float()
        if logits.ndim == 4:
            logits = resize(logits, labels.shape[-2:], align_corners[name])
        if name == 'detail':
            bce, overlap = detail(logits, labels, detail_kernel)
            value = loss.detail_weights[0] * bce + loss.detail_weights[1] * overlap
        else:
            value = criterion(logits, labels, loss, loss.by_output[name])
        parts[f'loss_{name}'] = weight * value
    return {'loss': reduce(add, parts.values()), **parts}


def criterion(logits: Tensor, labels: Tensor, loss: config.Loss, name: config.LossName) -> Tensor:
    """The loss of that name; of classifiers cross-entropy. Soft targets are taken as smoothed already."""
    if logits.ndim == 2:
        targets = labels if labels.ndim == 2 else class_targets(labels, logits.shape[1], loss.label_smoothing)
        return soft_cross_entropy(logits, targets)
    assert not isinstance(loss.class_weight, str)  # counted before the training begins
    if name == 'cross_entropy':
        return cross_entropy(logits, labels, loss.class_weight, loss.label_smoothing, loss.avg_non_ignore)
    if name == 'sigmoid_cross_entropy':
        return sigmoid_cross_entropy(logits, labels, loss.class_weight, loss.avg_non_ignore)
    if name == 'ohem':
        return ohem(logits, labels, loss.ohem_thresh, loss.ohem_min_kept, loss.class_weight)
    if name == 'ohem_pixel_sampler':
        return ohem_pixel_sampler(logits, labels, loss.ohem_thresh, loss.ohem_min_kept, loss.class_weight, loss.avg_non_ignore)
    return stdc_ohem(logits, labels, loss.ohem_thresh, loss.ohem_min_kept, loss.class_weight)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weight: Optional[Sequence[float]] = None,
    label_smoothing: float = 0.0,
    avg_non_ignore: bool = True,
) -> Tensor:
    """Softmax cross-entropy, divided by the weights of the pixels that are not ignored, or, as mmsegmentation does by
    default (``avg_non_ignore`` false), by the number of all pixels.
    """
    weight = _class_weights(class_weight, logits)
    total = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction='sum', label_smoothing=label_smoothing)
    return total / _pixels(labels, weight, avg_non_ignore)


def class_targets(labels: Tensor, classes: int, label_smoothing: float = 0.0) -> Tensor:
    """Class ids (N,) -> soft targets (N, ``classes``): a share of ``label_smoothing`` falls on all classes alike."""
    return F.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy of logits (N, C) against probabilities (N, C), averaged over the samples."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def sigmoid_cross_entropy(
    logits: Tensor, labels: Tensor, class_weight: Optional[Sequence[float]] = None, avg_non_ignore: bool = True
) -> Tensor:
    """Binary cross-entropy of every channel against the one-hot labels (mmsegmentation's ``use_sigmoid``), averaged over
    channels and pixels; class weights multiply the positive terms.
    """
    valid = labels != IGNORE
    truth = labels.where(valid, 0)
    right = logits.gather(1, truth[:, None])[:, 0]
    weight = 1.0 if class_weight is None else _tensor(class_weight, logits)[truth]
    losses = F.softplus(logits).sum(1) - F.softplus(right) + weight * F.softplus(-right)
    return (losses * valid).sum() / (logits.shape[1] * _pixels(labels, None, avg_non_ignore))


def ohem(
    logits: Tensor, labels: Tensor, thresh: float, min_kept: int, class_weight: Optional[Sequence[float]] = None
) -> Tensor:
    """mmsegmentation's OhemCrossEntropy: the mean of the weighted losses of the hard pixels of the batch."""
    losses, hard = _hard_pixels(logits, labels, thresh, min_kept, class_weight)
    return (losses * hard).sum() / _mean_count(hard)


def ohem_pixel_sampler(
    logits: Tensor,
    labels: Tensor,
    thresh: float,
    min_kept: int,
    class_weight: Optional[Sequence[float]] = None,
    avg_non_ignore: bool = True,
) -> Tensor:
    """mmsegmentation's OHEMPixelSampler with cross-entropy: ``min_kept`` is per image, and the divisor is cross-entropy's,
    the pixels that were not kept included.
    """
    losses, hard = _hard_pixels(logits, labels, thresh, min_kept * len(labels) * distributed.size(), class_weight)
    return (losses * hard).sum() / _pixels(labels, _class_weights(class_weight, logits), avg_non_ignore)


def stdc_ohem(
    logits: Tensor, labels: Tensor, thresh: float, min_kept: int, class_weight: Optional[Sequence[float]] = None
) -> Tensor:
    """The official STDC OhemCELoss: the mean of all losses above -log(thresh) if these are more than ``min_kept``, else of
    the ``min_kept`` largest, among which ignored pixels count as zeros.
    """
    weight = _class_weights(class_weight, logits)
    losses = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction='none').flatten()
    hard = losses > -torch.log(constant(torch.tensor, thresh, device=losses.device))
    above = (losses * hard).sum() / _mean_count(hard)
    largest = _mean_of_largest(losses, max(min_kept, 1))
    return torch.where(distributed.mean(hard.sum()) * distributed.size() > min_kept, above, largest)


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


def _class_weights(class_weight: Optional[Sequence[float]], like: Tensor) -> Optional[Tensor]:
    return None if class_weight is None else _tensor(class_weight, like)


def _tensor(class_weight: Sequence[float], like: Tensor) -> Tensor:
    return constant(torch.tensor, tuple(class_weight), device=like.device, dtype=like.dtype)


def _pixels(labels: Tensor, weight: Optional[Tensor], avg_non_ignore: bool) -> Tensor | int:
    """Divisor of the sum of the losses: the mean over the processes."""
    if not avg_non_ignore:
        return labels.numel()
    valid = labels != IGNORE
    if weight is None:
        return _mean_count(valid)
    return distributed.mean((weight[labels.where(valid, 0)] * valid).sum()).clamp(min=1e-12)


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


def _hard_pixels(
    logits: Tensor, labels: Tensor, thresh: float, min_kept: int, class_weight: Optional[Sequence[float]]
) -> tuple[Tensor, Tensor]:
    """Weighted losses (N, H, W), and where the right class has a probability below the larger of ``thresh`` and the
    ``min_kept``-th smallest one."""
    valid = labels != IGNORE
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction='none')
    probability = torch.exp(-losses.detach())
    smallest = probability.where(valid, 2).flatten()
    count = min(min_kept, labels.numel() * distributed.size() - 1) + 1
    if distributed.size() > 1:  # each process's smallest have the smallest of all among them
        smallest = distributed.gather(smallest.topk(min(count, labels.numel()), largest=False).values)
    largest = distributed.gather(probability.where(valid, 0).max()[None]).max()
    threshold = torch.minimum(_kth_smallest(smallest, count), largest).clamp(min=thresh)
    if class_weight is not None:
        losses = losses * _tensor(class_weight, logits)[labels.where(valid, 0)]
    return losses, valid & (probability < threshold)
