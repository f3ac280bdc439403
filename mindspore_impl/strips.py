"""Losses of pixels: logits (N, C, h, w) float32, resized bilinearly to labels (N, H, W), against these; label 255 is ignored.

On a CPU the resize, the loss and its gradient are computed in strips of rows, which stay in the processor's cache; logits at
full size, several times as large as all features of a network, never exist. They are functions of NumPy that the graph calls,
since MindSpore's kernels of a CPU take three to six times as long. An accelerator takes the plain form: the same numbers but
for rounding. There cross-entropy is log-sum-exp minus the right logit, a third of the time of ``ops.cross_entropy``.

Twin of ``pytorch_impl/strips.py``: same names, same arguments, same numbers.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Callable, Iterator, NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.operations._pyfunc_registry import add_pyfunc

from twinseg.common.data.base import IGNORE
from twinseg.common.images.interpolation import strips
from twinseg.mindspore_impl.layers import resize
from twinseg.mindspore_impl.layers.functional import _on_cpu as _in_strips

STRIP = 1 << 18  # logits of a strip: 1 MB
CHANNELS = 64  # numbers from 1 to 2 whose product float32 can hold
threads: Optional[int] = None  # number of CPU threads; by default the cores


def cross_entropy(logits: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
    """Softmax cross-entropy of every pixel, (N, H, W) float32; 0 where it is ignored."""
    if _in_strips():
        return _cross_entropy(_widen(logits, labels, align_corners), labels, Tensor([align_corners], ms.int32))[0]
    logits = resize(logits, labels.shape[1:], align_corners)
    return ops.cast(labels != IGNORE, ms.float32) * (_log_sum_exp(logits) - _right(logits, labels))


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool = False) -> Tensor:
    """The sum of softmax cross-entropy times constant weights (N, H, W), which are 0 where a pixel is ignored."""
    if _in_strips():
        wide, corners = _widen(logits, labels, align_corners), Tensor([align_corners], ms.int32)
        return _weighted_softmax(wide, labels, weights, corners)[0].sum()  # one number
    return (weights * cross_entropy(logits, labels, align_corners)).sum()


def weighted_sigmoid(
    logits: Tensor, labels: Tensor, weights: Tensor, positive: Optional[Tensor] = None, align_corners: bool = False
) -> Tensor:
    """The sum over pixels and channels of binary cross-entropy against the one-hot labels, times constant weights (N, H, W),
    which are 0 where a pixel is ignored. ``positive`` (N, H, W) multiplies the terms of the right classes."""
    if _in_strips():
        wide, corners = _widen(logits, labels, align_corners), Tensor([align_corners], ms.int32)
        factors = Tensor([1], ms.float32) if positive is None else positive
        return _weighted_sigmoid(wide, labels, weights, factors, corners)[0].sum()
    logits = resize(logits, labels.shape[1:], align_corners)
    right = _right(logits, labels)
    losses = ops.softplus(logits).sum(1) - right
    if positive is not None:
        losses = losses + (positive - 1) * ops.softplus(-right)
    return (weights * losses).sum()


def _widen(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """The logits at the labels' width, which are still few: (N, C, h, W)."""
    height, width = logits.shape[2], labels.shape[2]
    return logits if logits.shape[3] == width else resize(logits, (height, width), align_corners)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, H, W) of the right classes."""
    truth = ops.select(labels != IGNORE, labels, ops.zeros_like(labels))
    return ops.gather_elements(logits, 1, ops.expand_dims(truth, 1))[:, 0]


def _log_sum_exp(logits: Tensor) -> Tensor:
    largest = ops.stop_gradient(logits.max(1, keepdims=True))
    return ops.log(ops.exp(logits - largest).sum(1)) + largest[:, 0]


class _Strip(NamedTuple):
    """A strip of an image of logits at the labels' width."""

    pixels: tuple[Any, ...]  # its place in (N, H, W)
    rows: tuple[Any, ...]  # the place of the rows that it is made of in (N, C, h, W)
    matrix: Optional[np.ndarray]  # the strip's interpolation; None where the logits have the labels' height
    memory: np.ndarray  # (C, rows, W), of which all strips of an image make use

    def logits(self, wide: np.ndarray) -> np.ndarray:
        """(C, rows, W); the next strip's overwrite them."""
        if self.matrix is not None:
            return np.matmul(self.matrix, wide[self.rows], out=self.memory)
        self.memory[:] = wide[self.rows]
        return self.memory

    def truth(self, labels: np.ndarray) -> np.ndarray:
        """Right classes (1, rows, W), 0 where they are ignored."""
        truth = labels[self.pixels]
        return np.where(truth != IGNORE, truth, 0)[None]

    def add_gradient(self, gradient: np.ndarray, total: np.ndarray) -> None:
        """Adds the gradient of the strip's logits to that of the rows that they are made of."""
        total[self.rows] += gradient if self.matrix is None else np.matmul(self.matrix.T, gradient)


def _strips(wide: np.ndarray, labels: np.ndarray, corners: np.ndarray, image: int) -> Iterator[_Strip]:
    _, classes, height, width = wide.shape
    parts = strips(height, labels.shape[1], bool(corners[0]), max(STRIP // (classes * width), 1))
    memory = np.empty(len(parts[0].matrix) * classes * width, np.float32)
    for part in parts:
        rows = image, slice(None), slice(part.first, part.last)
        shape = classes, part.stop - part.start, width
        matrix = None if height == labels.shape[1] else part.matrix
        yield _Strip((image, slice(part.start, part.stop)), rows, matrix, memory[: np.prod(shape)].reshape(shape))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)))


def _for_each(work: Callable[[int], None], images: int) -> None:
    """``work`` with the number of each image, in threads: NumPy leaves Python's lock to others while it computes."""
    if images == 1:
        work(0)
    else:
        list(_threads().map(work, range(images)))


def _losses(wide: np.ndarray, labels: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy of every pixel, and the logarithms of the sums of exponentials."""
    losses, normalisers = np.empty(labels.shape, np.float32), np.empty(labels.shape, np.float32)

    def of_image(image: int) -> None:
        for strip in _strips(wide, labels, corners, image):
            logits = strip.logits(wide)
            right = np.take_along_axis(logits, strip.truth(labels), 0)[0]
            largest = logits.max(0)
            np.exp(np.subtract(logits, largest, out=logits), out=logits)
            normaliser = np.log(logits.sum(0)) + largest
            losses[strip.pixels], normalisers[strip.pixels] = normaliser - right, normaliser

    _for_each(of_image, len(wide))
    return losses * (labels != IGNORE), normalisers


def _gradient(
    wide: np.ndarray, labels: np.ndarray, normalisers: np.ndarray, slopes: np.ndarray, corners: np.ndarray
) -> np.ndarray:
    """The gradient of a function of the losses, whose slopes by them are given."""
    slopes, gradient = slopes * (labels != IGNORE), np.zeros_like(wide)

    def of_image(image: int) -> None:
        for strip in _strips(wide, labels, corners, image):
            slope = slopes[strip.pixels]
            if not slope.any():  # this strip has no hard pixels
                continue
            logits = strip.logits(wide)
            np.exp(np.subtract(logits, normalisers[strip.pixels], out=logits), out=logits)
            logits *= slope
            _add_at(logits, strip.truth(labels), -slope)
            strip.add_gradient(logits, gradient)

    _for_each(of_image, len(wide))
    return gradient


def _softmax_sum(
    wide: np.ndarray, labels: np.ndarray, weights: np.ndarray, corners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sum of cross-entropy, and its gradient."""

    def of_strip(strip: _Strip) -> np.ndarray:
        logits, truth, weight = strip.logits(wide), strip.truth(labels), weights[strip.pixels]
        right, largest = np.take_along_axis(logits, truth, 0)[0], logits.max(0)
        np.exp(np.subtract(logits, largest, out=logits), out=logits)
        total = logits.sum(0)
        logits *= weight / total
        _add_at(logits, truth, -weight)
        return np.log(total) + largest - right

    return _sum_and_gradient(of_strip, wide, labels, weights, corners)


def _sigmoid_sum(
    wide: np.ndarray, labels: np.ndarray, weights: np.ndarray, positive: np.ndarray, corners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sum of binary cross-entropy, and its gradient; ``positive``: a single 1, or (N, H, W)."""

    def of_strip(strip: _Strip) -> np.ndarray:
        logits, truth, weight = strip.logits(wide), strip.truth(labels), weights[strip.pixels]
        right, losses = np.take_along_axis(logits, truth, 0)[0], np.maximum(logits, 0).sum(0)
        spare = np.abs(logits)
        np.exp(np.negative(spare, out=spare), out=spare)
        spare += 1
        for channel in range(0, len(spare), CHANNELS):  # softplus(x) = max(x, 0) + log(1 + exp(-|x|)), with few logarithms
            losses += np.log(spare[channel : channel + CHANNELS].prod(0))
        np.divide(np.exp(np.minimum(logits, 0, out=logits), out=logits), spare, out=logits)
        slope = -weight
        if positive.size > 1:
            factor = positive[strip.pixels] - 1
            slope += weight * factor * (np.take_along_axis(logits, truth, 0)[0] - 1)
            losses += factor * np.logaddexp(0, -right)
        logits *= weight
        _add_at(logits, truth, slope)
        return losses - right  # softplus(-x) = softplus(x) - x

    return _sum_and_gradient(of_strip, wide, labels, weights, corners)


def _sum_and_gradient(
    of_strip: Callable[[_Strip], np.ndarray], wide: np.ndarray, labels: np.ndarray, weights: np.ndarray, corners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``of_strip`` gives a strip's losses and leaves the gradient of their weighted sum where its logits were."""
    losses, gradient = np.empty(labels.shape, np.float32), np.zeros_like(wide)

    def of_image(image: int) -> None:
        for strip in _strips(wide, labels, corners, image):
            losses[strip.pixels] = of_strip(strip)
            strip.add_gradient(strip.memory, gradient)

    _for_each(of_image, len(wide))
    return (losses * weights).sum(keepdims=True).reshape(1), gradient


def _add_at(logits: np.ndarray, truth: np.ndarray, values: np.ndarray) -> None:
    """Adds to the numbers (C, rows, W) of the right classes."""
    flat = truth.ravel() * values.size + np.arange(values.size)
    logits.reshape(-1)[flat] += values.ravel()


def _operator(function: Callable[..., Any], shapes: Callable[..., Any], dtypes: Callable[..., Any]) -> ops.Custom:
    """An operator of a graph that calls a function. Its number is the same in every process: graphs are kept between runs."""
    operator = ops.Custom(function, shapes, dtypes, 'pyfunc')
    number = int.from_bytes(function.__name__.encode()[:7], 'big')
    add_pyfunc(number, function)
    operator.add_prim_attr('fn_id', number)
    return operator


class _CrossEntropy(nn.Cell):
    """Cross-entropy of every pixel; the logits at full size are made twice, since the gradient needs weights that follow from
    the losses."""

    def __init__(self):
        super().__init__()
        self.losses = _operator(_losses, lambda wide, labels, _: (labels, labels), lambda wide, labels, _: (wide, wide))
        self.gradient = _operator(_gradient, lambda wide, *_: wide, lambda wide, *_: wide)

    def construct(self, wide, labels, corners):
        return self.losses(wide, labels, corners)

    def bprop(self, wide, labels, corners, out, dout):
        return self.gradient(wide, labels, out[1], dout[0], corners), ops.zeros_like(labels), ops.zeros_like(corners)


class _WeightedSoftmax(nn.Cell):
    """The weighted sum of cross-entropy. The gradient is computed with the loss."""

    def __init__(self):
        super().__init__()
        self.sum = _operator(_softmax_sum, lambda wide, *_: ((1,), wide), lambda wide, *_: (wide, wide))

    def construct(self, wide, labels, weights, corners):
        return self.sum(wide, labels, weights, corners)

    def bprop(self, wide, labels, weights, corners, out, dout):
        return out[1] * dout[0], ops.zeros_like(labels), ops.zeros_like(weights), ops.zeros_like(corners)


class _WeightedSigmoid(nn.Cell):
    """The weighted sum of binary cross-entropy. The gradient is computed with the loss."""

    def __init__(self):
        super().__init__()
        self.sum = _operator(_sigmoid_sum, lambda wide, *_: ((1,), wide), lambda wide, *_: (wide, wide))

    def construct(self, wide, labels, weights, positive, corners):
        return self.sum(wide, labels, weights, positive, corners)

    def bprop(self, wide, labels, weights, positive, corners, out, dout):
        zeros = ops.zeros_like(labels), ops.zeros_like(weights), ops.zeros_like(positive), ops.zeros_like(corners)
        return (out[1] * dout[0], *zeros)


_cross_entropy, _weighted_softmax, _weighted_sigmoid = _CrossEntropy(), _WeightedSoftmax(), _WeightedSigmoid()
