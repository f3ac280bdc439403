"""How far two tensors are apart, and how far they may be."""

from typing import NamedTuple

import numpy as np

FACTOR = 30.0  # multiple of its noise floor that a layer's own difference may reach: kernels add in other orders


HALF_FACTOR = 6.0  # the same below float32, where the rounding of inputs and results makes the most of the floor


EPSILON = {
    'float32': 2.0**-24,
    'float16': 2.0**-11,
    'bfloat16': 2.0**-8,
    'int8': 1 / 100,
}  # rounding errors, relative; int8: of input and weight
TINY = 1e-30  # magnitude below which a tensor counts as zero


class Difference(NamedTuple):
    """Largest difference of two tensors, and the channel (axis 1) where it is."""

    relative: float  # of the reference's largest magnitude; infinite for other shapes, and where one side alone is not finite
    absolute: float
    magnitude: float  # the reference's largest
    channel: int
    shape: tuple[int, ...]  # of the second tensor


def difference(reference: np.ndarray, other: np.ndarray) -> Difference:
    """Difference of ``other`` from ``reference``; NaN and infinity count as equal where both have them."""
    if reference.shape != other.shape:
        return Difference(float('inf'), float('inf'), float(np.abs(reference).max(initial=0)), 0, other.shape)
    largest = magnitude = 0.0
    channel = 0
    for a, b in zip(_by_image(reference), _by_image(other)):  # one image at a time: memory
        apart = np.abs(a.astype(np.float64) - b) if max(a.dtype.itemsize, b.dtype.itemsize) > 4 else np.abs(a - b)
        if not np.isfinite(apart).all():
            equal = (np.asarray(a) == b) | (np.isnan(a) & np.isnan(b))
            apart = np.where(equal, 0, np.where(np.isfinite(apart), apart, np.inf))
        if apart.size and apart.max() > largest:
            largest = float(apart.max())
            by_channel = apart.reshape(len(apart), -1).max(1) if apart.ndim > 1 else apart
            channel = int(by_channel.argmax())
        finite = np.abs(a[np.isfinite(a)]) if not np.isfinite(a).all() else np.abs(a)
        magnitude = max(magnitude, float(finite.max(initial=0)))
    relative = largest / magnitude if magnitude > TINY else (0.0 if largest <= TINY else float('inf'))
    return Difference(relative, largest, magnitude, channel, other.shape)


def _by_image(x: np.ndarray) -> np.ndarray:
    return x if x.ndim > 1 else x.reshape(1, -1)
