"""How images reach the network: their mean, standard deviation and order of channels, and how they were resized."""

from functools import partial
from typing import Callable, Iterator, NamedTuple, Optional, Sequence

import cv2
import numpy as np
from PIL import Image

from twinseg.common.trace.difference import difference
from twinseg.common.trace.guesses.guess import Guess, vanishes
from twinseg.common.trace.reference import resized


class Pictures(NamedTuple):
    """The images before they were resized."""

    images: Sequence[np.ndarray]  # uint8 (H, W, 3) RGB
    prepare: Callable[[np.ndarray], np.ndarray]  # uint8 or float (N, 3, H, W) RGB -> the network's input


def scale(mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    """Channels stretched and shifted, by few numbers: another mean and standard deviation of images."""
    if mine.ndim != 4 or mine.shape[1] > 4 or mine.shape[2] * mine.shape[3] < 16:
        return None
    for order in ('RGB', 'BGR') if mine.shape[1] == 3 else ('RGB',):
        x = np.asarray(mine[:, ::-1] if order == 'BGR' else mine, np.float64)
        fits = [np.polyfit(x[:, c].ravel(), theirs[:, c].ravel().astype(np.float64), 1) for c in range(x.shape[1])]
        y = np.stack([x[:, c] * fits[c][0] + fits[c][1] for c in range(x.shape[1])], 1)
        remains = difference(theirs, y).relative
        if vanishes(remains, before):
            factors, shifts = (', '.join(f'{fit[i]:.4g}' for fit in fits) for i in (0, 1))
            bgr = ', and in the order BGR' if order == 'BGR' else ''
            return Guess(
                'scale',
                f'with images multiplied by {factors} and {shifts} added{bgr} (another mean or std)',
                'as they are',
                remains,
            )
    return None


def resize_of(pictures: Pictures, mine: np.ndarray, theirs: np.ndarray) -> Optional[Guess]:
    """The same images, resized by another rule; also with another mean or standard deviation, or as BGR."""
    if mine.shape != theirs.shape or mine.ndim != 4 or all(image.shape[:2] == mine.shape[2:] for image in pictures.images):
        return None
    before, size = difference(mine, theirs).relative, (mine.shape[2], mine.shape[3])
    results = {name: pictures.prepare(np.stack([rule(image) for image in pictures.images])) for name, rule in _rules(size)}
    first = next((name for name, y in results.items() if difference(mine, y).relative <= VANISHING_PIXELS), None)
    if first is None:
        return None
    for name, y in results.items():
        remains = difference(theirs, y).relative
        if name != first and vanishes(remains, before):
            return Guess('resize', f'from images resized by {name}', f'from images resized by {first}', remains)
    for name, y in results.items():
        further = scale(y, theirs, before) if name != first else None
        if further is not None:
            second = f'from images resized by {name}, and {further.second}'
            return Guess('resize', second, f'from images resized by {first}', further.remains)
    return None


VANISHING_PIXELS = 1e-6  # difference of normalised pixels, of the largest, that the order of two operations may make


def _rules(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Name of a rule -> what resizes uint8 (H, W, 3) to (3, *size)."""
    for name in ('linear', 'nearest', 'cubic', 'area', 'lanczos4'):
        yield f'OpenCV ({name})', partial(_by_opencv, size, getattr(cv2, f'INTER_{name.upper()}'))
    for name in ('bilinear', 'nearest', 'bicubic', 'box', 'lanczos'):
        yield f'Pillow ({name})', partial(_by_pillow, size, Image.Resampling[name.upper()])
    for rule, name in (('half_pixel', 'align_corners: false'), ('align_corners', 'align_corners: true')):
        yield f'bilinear interpolation of floats ({name})', partial(_by_matrix, size, rule)


def _by_opencv(size: tuple[int, int], rule: int, image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, size[::-1], interpolation=rule).transpose(2, 0, 1)


def _by_pillow(size: tuple[int, int], rule: Image.Resampling, image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size[::-1], rule)).transpose(2, 0, 1)


def _by_matrix(size: tuple[int, int], rule: str, image: np.ndarray) -> np.ndarray:
    return resized(image.transpose(2, 0, 1)[None], size, rule)[0]
