"""Bilinear resizing and adaptive pooling as matrices: what the frameworks' operators compute, written as numbers.

A resize of an image is ``rows @ image @ columns.T``; exports use it where an operator does not exist, and programs
without a framework (ONNX Runtime, OpenVINO) use it to bring logits to the size of the image.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

Size = tuple[int, int]  # height, width
MAX_LOGITS = 1 << 24  # numbers of logits at full size that are made at once (64 MB): Cityscapes has 40 million an image
STRIP_LOGITS = 1 << 22  # logits of a strip, where strips are needed; their interpolation takes three times as much
STRIP_ROWS = 64  # rows of a strip of one class on the host: 2048 float32 wide, three of them fit into 2 MB of cache


def bilinear_matrix(size: int, new_size: int, align_corners: bool, half_pixel: bool = True) -> np.ndarray:
    """(new_size, size) float32 weights of a bilinear resize along one axis.

    ``align_corners``: the first and last samples of both coincide; otherwise pixels are areas (half-pixel centres) and
    samples beyond the outer centres repeat them, as ``torch.nn.functional.interpolate`` does; without ``half_pixel``, output
    i lies at i * size / new_size, as in TensorFlow 1.
    """
    if align_corners:
        position = np.arange(new_size) * ((size - 1) / (new_size - 1) if new_size > 1 else 0.0)
    elif not half_pixel:
        position = np.arange(new_size) * (size / new_size)
    else:
        position = np.maximum((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0)
    low = np.minimum(position.astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    matrix, rows = np.zeros((new_size, size)), np.arange(new_size)
    matrix[rows, low] = 1 - (position - low)
    matrix[rows, high] += position - low  # torch.compile traces this, and not np.add.at
    return matrix.astype(np.float32)


def pooling_matrix(size: int, bins: int) -> np.ndarray:
    """(bins, size) float32 weights of adaptive average pooling along one axis: bin i averages floor(i size / bins) to
    ceil((i + 1) size / bins)."""
    matrix = np.zeros((bins, size), np.float32)
    for i in range(bins):
        start, stop = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def resize_bilinear(images: np.ndarray, size: Size, align_corners: bool) -> np.ndarray:
    """float32 (..., H, W) -> (..., h, w)."""
    rows = bilinear_matrix(images.shape[-2], size[0], align_corners)
    columns = bilinear_matrix(images.shape[-1], size[1], align_corners)
    return rows @ (images @ columns.T)


def row_strips(images: int, classes: int, size: Size) -> list[tuple[int, int]]:
    """First and last row (exclusive) of the strips in which the classes of the pixels of ``size`` (H, W) are found: one, or as
    many as it takes that not more than STRIP_LOGITS exist at once; a strip has at least one row."""
    height, width = size
    in_a_row = images * classes * width
    rows = height if height * in_a_row <= MAX_LOGITS else min(max(STRIP_LOGITS // in_a_row, 1), height)
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]


class Strip(NamedTuple):
    """Rows ``start`` to ``stop`` (exclusive) of a resized image: ``matrix`` @ rows ``first`` to ``last`` (exclusive) of it."""

    start: int
    stop: int
    first: int
    last: int
    matrix: np.ndarray  # (stop - start, last - first) float32


@lru_cache(maxsize=64)
def strips(size: int, new_size: int, align_corners: bool, rows: int) -> tuple[Strip, ...]:
    """A bilinear resize of ``size`` rows to ``new_size`` in strips of ``rows`` rows."""
    matrix, parts = bilinear_matrix(size, new_size, align_corners), []
    for start in range(0, new_size, rows):
        part = matrix[start : start + rows]
        used = np.flatnonzero(part.any(0))
        first, last = int(used[0]), int(used[-1]) + 1
        parts.append(Strip(start, start + len(part), first, last, np.ascontiguousarray(part[:, first:last])))
    return tuple(parts)


def class_ids(logits: np.ndarray, size: Size, align_corners: bool) -> np.ndarray:
    """float32 logits (N, C, h, w) -> uint8 class ids (N, H, W) of their bilinear resize to ``size``, the first of equal ones.

    Class by class, in strips of rows: the logits at full size never exist, and what is compared stays in the processor's cache.
    """
    ids = np.zeros((len(logits), *size), np.uint8)
    for image, result in zip(logits, ids):
        for rows, planes in _resized(np.ascontiguousarray(image, np.float32), size, align_corners):
            largest(planes, result[rows])
    return ids


def largest(planes: Iterable[np.ndarray], ids: np.ndarray) -> None:
    """Fills ``ids``, uint8 zeros (H, W), with the numbers of the largest of up to 256 ``planes``, float (H, W), at every pixel,
    the first of equal ones, as ``argmax`` over them has it. A plane is used up before the next one is asked for."""
    planes = iter(planes)
    best = next(planes).copy()
    larger = np.empty(ids.shape, np.uint8)
    for number, plane in enumerate(planes, 1):
        np.greater(plane, best, out=larger.view(bool))
        np.maximum(plane, best, out=best)
        np.multiply(larger, np.uint8(number), out=larger)
        np.maximum(ids, larger, out=ids)  # numbers grow


def _resized(image: np.ndarray, size: Size, align_corners: bool) -> Iterator[tuple[slice, Iterator[np.ndarray]]]:
    """(C, h, w) -> strips of the rows of its resize to ``size``: which rows they are, and the planes of their channels, each
    valid until the next one. OpenCV resizes a strip where its rows meet whole rows of the logits, else all rows at once;
    it knows no ``align_corners``."""
    (height, width), new_height = image.shape[1:], size[0]
    if align_corners:
        image = image @ bilinear_matrix(width, size[1], True).T
        for part in strips(height, new_height, True, STRIP_ROWS):
            yield slice(part.start, part.stop), (part.matrix @ plane[part.first : part.last] for plane in image)
        return
    factor, rest = divmod(new_height, height)
    step = max(1, STRIP_ROWS // factor) if rest == 0 else height
    for first in range(0, height, step):
        last = min(first + step, height)
        inside = slice(max(first - 1, 0), min(last + 1, height))  # a row's neighbours have a share in it
        resized = np.empty(((inside.stop - inside.start) * new_height // height, size[1]), np.float32)
        rows_of_strip = slice(first * new_height // height, last * new_height // height)
        above = (first - inside.start) * factor
        strip = resized[above : above + rows_of_strip.stop - rows_of_strip.start]
        yield rows_of_strip, _filled(image[:, inside], resized, strip)


def _filled(planes: np.ndarray, resized: np.ndarray, strip: np.ndarray) -> Iterator[np.ndarray]:
    """``strip``, a part of ``resized``, which is filled from each of the planes in turn."""
    for plane in planes:
        cv2.resize(plane, resized.shape[::-1], dst=resized)
        yield strip
