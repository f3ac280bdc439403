"""Views of an image that a network sees: the whole, overlapping windows, several scales; one predictor in front of another."""

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.backend import Predictor
from twinseg.common.config import Config
from twinseg.common.data.segmentation_transforms import scaled_size
from twinseg.common.interpolation import Size
from twinseg.common.tasks.base import PLAIN, EvalOptions

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # mmsegmentation's multi-scale test


@dataclass(frozen=True)
class TestTimeAugmentation:
    """A predictor (see ``common.backend.Predictor``) that shows another one several views of an image, and averages the
    probabilities that it gives."""

    predictor: Predictor
    scales: tuple[float, ...] = (1.0,)  # scales of the image, applied after ``size``
    flip: bool = False  # the mirrored image, too
    window: Optional[Size] = None  # size of overlapping windows; None: the whole image
    size: Optional[Sequence[int]] = None  # height and width that the image is scaled to fit into, proportions kept

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """The logits of ``predictor`` for the whole images: views are averaged as probabilities, not as logits."""
        return self.predictor.logits(images, size)

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""
        full = (images.shape[2], images.shape[3])
        images = _scaled(images, scaled_size(*full, self.size))
        if self.scales == (1.0,) and not self.flip and self.window is None:
            return self.predictor.class_ids(images, size or full)
        return self.probabilities(images, size or full).argmax(1).astype(np.uint8)

    def probabilities(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Mean class probabilities (N, C, h, w) at ``size`` over scales and flips of ``images``, uint8 (N, 3, H, W)."""
        total: Any = 0.0
        for scale in self.scales:
            view = _scaled(images, tuple(max(1, int(side * scale + 0.5)) for side in images.shape[2:]))
            for flipped in (False, True) if self.flip else (False,):
                shown = np.ascontiguousarray(view[..., ::-1]) if flipped else view
                logits = (
                    self.predictor.logits(shown, size)
                    if self.window is None
                    else slide_logits(self.predictor, shown, self.window, size)
                )
                probabilities = _softmax(logits)
                total += probabilities[..., ::-1] if flipped else probabilities
        total /= len(self.scales) * (2 if self.flip else 1)
        return total


def as_published(
    predictor: Predictor, config: Config, options: EvalOptions = PLAIN, window: Optional[Size] = None
) -> Predictor:
    """The predictor behind the views that scores are published for: at ``eval_size``, if asked at six scales and mirrored, or
    by windows of the crop size or another one."""
    height, width = window or config.augment.crop_size
    return shown(predictor, config.augment.eval_size, options, (height, width))


def shown(predictor: Predictor, size: Optional[Sequence[int]], options: EvalOptions, window: Size) -> Predictor:
    """The predictor behind the views that ``options`` name of images scaled to fit into ``size``."""
    if size is None and not options.ms_flip and not options.slide:
        return predictor
    return TestTimeAugmentation(
        predictor, SCALES if options.ms_flip else (1.0,), options.ms_flip, window if options.slide else None, size
    )


def _scaled(images: np.ndarray, size: Any) -> np.ndarray:
    """uint8 (N, 3, H, W) resized bilinearly to ``size``."""
    if images.shape[2:] == size:
        return images
    return np.stack([cv2.resize(image.transpose(1, 2, 0), size[::-1]).transpose(2, 0, 1) for image in images])


def slide_logits(predictor: Predictor, images: np.ndarray, window: Size, size: Size) -> np.ndarray:
    """Mean logits over windows that overlap by a third (mmsegmentation's slide mode), resized to ``size``."""
    sides = images.shape[2:]
    total: Any = None
    count = np.zeros(sides, np.float32)
    window = (min(window[0], sides[0]), min(window[1], sides[1]))
    for top in _starts(sides[0], window[0]):
        for left in _starts(sides[1], window[1]):
            part = np.s_[..., top : top + window[0], left : left + window[1]]
            logits = predictor.logits(np.ascontiguousarray(images[part]), window)
            if total is None:
                total = np.zeros((*logits.shape[:2], *sides), np.float32)
            total[part] += logits
            count[part] += 1
    total /= count
    if sides == size:
        return total
    return np.stack([np.stack([cv2.resize(plane, size[::-1]) for plane in logits]) for logits in total])


def _starts(side: int, window: int) -> list[int]:
    stride = max(1, window * 2 // 3)
    steps = max(0, -(-(side - window) // stride))
    return [min(i * stride, side - window) for i in range(steps + 1)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    power = logits - logits.max(1, keepdims=True)
    np.exp(power, out=power)
    power /= power.sum(1, keepdims=True)
    return power
