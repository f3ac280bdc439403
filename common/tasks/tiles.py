"""Images too large to be shown to a network at once: overlapping tiles, of which each keeps its middle.

Nothing of the size of the image exists but its pixels and its class ids. Tiles begin at multiples of ``ALIGNED``, where every
network's feature maps have their places, and those of an image have one size, for which MindSpore compiles once.
"""

import warnings
from typing import Callable

import numpy as np

from twinseg.common.host.memory import peak_memory, reset_peak_memory

MAX_WHOLE = 1 << 24  # pixels of the largest image that is predicted whole: 4096 x 4096, eight Cityscapes images
MAX_PREDICTED = 1 << 29  # pixels of the largest image that is predicted: 537 million, 1.6 GB; more is a decompression bomb
TILE = 2048  # pixels a side of a tile, or up to ALIGNED - 1 more
MARGIN = 256  # pixels at a tile's inner borders, at least, that the neighbour decides
ALIGNED = 64  # the largest output stride of a network, twice

Predict = Callable[[np.ndarray], np.ndarray]


def class_ids(predict: Predict, image: np.ndarray, name: str, on_host: bool = True) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 class ids (H, W), by a function that gives those of a part of the image.

    A warning says so, and about how much memory the whole image would have taken at once, by what the first tile took; not
    where that is an accelerator's memory (``on_host`` off).
    """
    height, width = image.shape[:2]
    rows, columns = spans(height), spans(width)
    ids = np.empty((height, width), np.uint8)
    told = False
    for top, bottom, first_row, last_row in rows:
        for left, right, first_column, last_column in columns:
            before = 0.0 if told else _start()
            part = predict(np.ascontiguousarray(image[top:bottom, left:right]))
            if not told:
                told = True
                whole = (peak_memory() - before) * image.shape[0] * image.shape[1] / part.size / 1024
                memory = f'; whole, it would take about {whole:.1f} GB of memory' if on_host and whole > 0 else ''
                warnings.warn(
                    f'{name}: {width}x{height} pixels are predicted in {len(rows) * len(columns)} overlapping tiles of '
                    f'{right - left}x{bottom - top}{memory}',
                    stacklevel=2,
                )
            ids[first_row:last_row, first_column:last_column] = part[
                first_row - top : last_row - top, first_column - left : last_column - left
            ]
    return ids


def spans(side: int) -> list[tuple[int, int, int, int]]:
    """Along an axis of ``side`` pixels: where each tile begins and ends, and what of it is kept, from where to before where."""
    if side <= TILE:
        return [(0, side, 0, side)]
    tile = TILE + (side - TILE) % ALIGNED
    last, step = side - tile, TILE - 2 * MARGIN
    starts = [*range(0, last, step), last]
    cuts = [0, *((start + tile + following) // 2 for start, following in zip(starts, starts[1:])), side]
    return [(start, start + tile, *kept) for start, kept in zip(starts, zip(cuts, cuts[1:]))]


def _start() -> float:
    reset_peak_memory()
    return peak_memory()
