"""Losses of pixels: logits (N, C, h, w) float32, resized bilinearly to labels (N, H, W), against these; label 255 is ignored.

On a CPU the resize, the loss and its gradient are computed in strips of rows, which stay in the processor's cache; logits at
full size, several times as large as all features of a network, never exist. An accelerator, whose kernels would wait for so
many small pieces to be launched, and what ``torch.compile`` compiles take the plain form: the same numbers but for rounding.

Twin of ``mindspore_impl/strips.py``: same names, same arguments, same numbers.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from twinseg.common.data.base import IGNORE
from twinseg.common.images.interpolation import strips
from twinseg.pytorch_impl.layers import resize

STRIP = 1 << 18  # logits of a strip: 1 MB
CHANNELS = 64  # numbers from 0.5 to 1 whose product float32 can hold


def cross_entropy(logits: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
    """Softmax cross-entropy of every pixel, (N, H, W) float32; 0 where it is ignored."""
    if _in_strips(logits):
        return _CrossEntropy.apply(_widen(logits, labels, align_corners), labels, align_corners)
    logits = resize(logits, labels.shape[1:], align_corners)
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction='none')


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool = False) -> Tensor:
    """The sum of softmax cross-entropy times constant weights (N, H, W), which are 0 where a pixel is ignored."""
    if _in_strips(logits):
        return _WeightedSum.apply(_widen(logits, labels, align_corners), labels, weights, _softmax, None, align_corners)
    return (weights * cross_entropy(logits, labels, align_corners)).sum()


def weighted_sigmoid(
    logits: Tensor, labels: Tensor, weights: Tensor, positive: Optional[Tensor] = None, align_corners: bool = False
) -> Tensor:
    """The sum over pixels and channels of binary cross-entropy against the one-hot labels, times constant weights (N, H, W),
    which are 0 where a pixel is ignored. ``positive`` (N, H, W) multiplies the terms of the right classes."""
    if _in_strips(logits):
        return _WeightedSum.apply(_widen(logits, labels, align_corners), labels, weights, _sigmoid, positive, align_corners)
    logits = resize(logits, labels.shape[1:], align_corners)
    right = logits.gather(1, labels.where(labels != IGNORE, 0)[:, None])[:, 0]
    losses = F.softplus(logits).sum(1) - right
    if positive is not None:
        losses = losses + (positive - 1) * F.softplus(-right)
    return (weights * losses).sum()


def _in_strips(logits: Tensor) -> bool:
    return logits.device.type == 'cpu' and not torch.compiler.is_compiling()


def _widen(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """The logits at the labels' width, which are still few: (N, C, h, W)."""
    height, width = logits.shape[2], labels.shape[2]
    return (logits if logits.shape[3] == width else resize(logits, (height, width), align_corners)).contiguous()


class _Strip(NamedTuple):
    """A strip of an image of logits at the labels' width."""

    pixels: tuple[Any, ...]  # its place in (N, H, W)
    rows: tuple[Any, ...]  # the place of the rows that it is made of in (N, C, h, W)
    matrix: Optional[Tensor]  # the strip's interpolation, for every channel; None where the logits have the labels' height
    memory: Tensor  # (C, rows, W), of which all strips make use

    def logits(self, wide: Tensor) -> Tensor:
        """(C, rows, W); the next strip's overwrite them."""
        if self.matrix is None:
            return self.memory.copy_(wide[self.rows])
        return torch.bmm(self.matrix, wide[self.rows], out=self.memory)

    def truth(self, labels: Tensor) -> Tensor:
        """Right classes (1, rows, W), 0 where they are ignored."""
        truth = labels[self.pixels]
        return truth.where(truth != IGNORE, 0)[None]

    def add_gradient(self, gradient: Tensor, total: Tensor) -> None:
        """Adds the gradient of the strip's logits to that of the rows that they are made of."""
        if self.matrix is None:
            total[self.rows] += gradient
        else:
            total[self.rows].baddbmm_(self.matrix.mT, gradient)


def _strips(wide: Tensor, labels: Tensor, align_corners: bool) -> Iterator[_Strip]:
    images, classes, height, width = wide.shape
    parts = strips(height, labels.shape[1], align_corners, max(STRIP // (classes * width), 1))
    same = height == labels.shape[1]
    matrices = [None if same else torch.from_numpy(part.matrix).expand(classes, -1, -1) for part in parts]
    memory = wide.new_empty((len(parts[0].matrix) * classes * width,))
    for image in range(images):
        for part, matrix in zip(parts, matrices):
            rows = image, slice(None), slice(part.first, part.last)
            shape = classes, part.stop - part.start, width
            yield _Strip((image, slice(part.start, part.stop)), rows, matrix, memory[: math.prod(shape)].view(shape))


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of every pixel; the logits at full size are made twice, since the gradient needs weights that follow from
    the losses."""

    @staticmethod
    @custom_fwd(device_type='cpu', cast_inputs=torch.float32)
    def forward(ctx: Any, wide: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
        losses, normalisers = wide.new_empty(labels.shape), wide.new_empty(labels.shape)
        for strip in _strips(wide, labels, align_corners):
            logits = strip.logits(wide)
            right = logits.gather(0, strip.truth(labels))[0]
            largest = logits.amax(0)
            normaliser = logits.sub_(largest).exp_().sum(0).log_().add_(largest)
            losses[strip.pixels], normalisers[strip.pixels] = normaliser - right, normaliser
        ctx.save_for_backward(wide, labels, normalisers)
        ctx.align_corners = align_corners
        return losses.mul_(labels != IGNORE)

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type='cpu')
    def backward(ctx: Any, slopes: Tensor) -> tuple[Optional[Tensor], ...]:  # type: ignore[override]  # decorated
        wide, labels, normalisers = ctx.saved_tensors
        slopes, gradient = slopes * (labels != IGNORE), torch.zeros_like(wide)
        for strip in _strips(wide, labels, ctx.align_corners):
            slope = slopes[strip.pixels]
            if not slope.any():  # this strip has no hard pixels
                continue
            probabilities = strip.logits(wide).sub_(normalisers[strip.pixels]).exp_()
            strip.add_gradient(probabilities.mul_(slope).scatter_add_(0, strip.truth(labels), -slope[None]), gradient)
        return gradient, None, None


class _WeightedSum(torch.autograd.Function):
    """The weighted sum of a loss, whose gradient is computed with it. ``of_strip``: ``_softmax`` or ``_sigmoid``."""

    @staticmethod
    @custom_fwd(device_type='cpu', cast_inputs=torch.float32)
    def forward(
        ctx: Any,
        wide: Tensor,
        labels: Tensor,
        weights: Tensor,
        of_strip: Callable[..., Tensor],
        positive: Optional[Tensor],
        align_corners: bool,
    ) -> Tensor:
        losses, gradient = wide.new_empty(labels.shape), torch.zeros_like(wide)
        for strip in _strips(wide, labels, align_corners):
            logits, factor = strip.logits(wide), None if positive is None else positive[strip.pixels]
            losses[strip.pixels] = of_strip(logits, strip.truth(labels), weights[strip.pixels], factor)
            strip.add_gradient(logits, gradient)
        ctx.save_for_backward(gradient)
        return losses.mul_(weights).sum()

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type='cpu')
    def backward(ctx: Any, slope: Tensor) -> tuple[Optional[Tensor], ...]:  # type: ignore[override]  # decorated
        (gradient,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None, None


def _softmax(logits: Tensor, truth: Tensor, weight: Tensor, _: None) -> Tensor:
    """Cross-entropy (rows, W) of logits (C, rows, W), which become the gradient of its weighted sum."""
    right, largest = logits.gather(0, truth)[0], logits.amax(0)
    total = logits.sub_(largest).exp_().sum(0)
    logits.mul_(weight / total).scatter_add_(0, truth, -weight[None])
    return total.log_().add_(largest).sub_(right)


def _sigmoid(logits: Tensor, truth: Tensor, weight: Tensor, positive: Optional[Tensor]) -> Tensor:
    """Binary cross-entropy (rows, W), summed over the channels of logits (C, rows, W), which become its gradient."""
    right, spare = logits.gather(0, truth)[0], torch.empty_like(logits)
    losses = torch.clamp(logits, min=0, out=spare).sum(0)
    torch.sub(logits.sigmoid_(), 0.5, out=spare).abs_().add_(0.5)
    for part in spare.split(CHANNELS):  # softplus(x) = max(x, 0) - log(sigmoid(|x|)), with few logarithms
        losses.sub_(part.prod(0).log_())
    slope = -weight
    if positive is not None:
        slope.add_(weight * (positive - 1) * (logits.gather(0, truth)[0] - 1))
        losses.add_((positive - 1) * F.softplus(-right))
    logits.mul_(weight).scatter_add_(0, truth, slope[None])
    return losses.sub_(right)  # softplus(-x) = softplus(x) - x
