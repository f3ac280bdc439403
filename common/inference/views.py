"""Views of an image that a network sees: the whole, overlapping windows, several scales; one predictor in front of another."""

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.backend import Predictor
from twinseg.common.config import Augment, Config
from twinseg.common.data.segmentation_transforms import scaled_size
from twinseg.common.errors import UserError
from twinseg.common.images.interpolation import Size, largest
from twinseg.common.settings.groups.augment import Average
from twinseg.common.tasks.base import PLAIN, EvalOptions


@dataclass(frozen=True)
class TestTimeAugmentation:
    """A predictor (see ``common.backend.Predictor``) that shows another one several views of an image, and averages what
    it gives: probabilities, logits, or over scales the exponentials of logits that were averaged over the mirrored image."""

    predictor: Predictor
    scales: tuple[float, ...] = (1.0,)  # scales of the image, applied after ``size``
    flip: bool = False  # the mirrored image, too
    window: Optional[Size] = None  # size of overlapping windows; None: the whole image
    size: Optional[Sequence[int]] = None  # height and width that the image is scaled to fit into, proportions kept
    stride: Optional[Size] = None  # from a window to the next; None: two thirds of it
    average: Average = 'probabilities'

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """The logits of ``predictor`` for the whole images: no average of views."""
        return self.predictor.logits(images, size)

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""
        full = (images.shape[2], images.shape[3])
        images = _scaled(images, scaled_size(*full, self.size))
        if self.scales == (1.0,) and not self.flip and self.window is None:
            return self.predictor.class_ids(images, size or full)
        averages = self.averages(images, size or full)
        ids = np.zeros((len(images), *averages.shape[2:]), np.uint8)
        for planes, result in zip(averages, ids):
            largest(planes, result)
        return ids

    def averages(self, images: np.ndarray, size: Size) -> np.ndarray:
        """Mean class probabilities, logits or exponentials (N, C, h, w) at ``size``, over scales and flips of ``images``, uint8
        (N, 3, H, W)."""
        total: Any = 0.0
        mirrored = (False, True) if self.flip else (False,)
        exponentials = self.average == 'exponentials'
        for scale in self.scales:
            view = _scaled(images, tuple(max(1, int(side * scale + 0.5)) for side in images.shape[2:]))
            scores: Any = 0.0 if exponentials else total
            for flipped in mirrored:
                shown = np.ascontiguousarray(view[..., ::-1]) if flipped else view
                logits = (
                    self.predictor.logits(shown, size)
                    if self.window is None
                    else slide_logits(self.predictor, shown, self.window, size, self.stride)
                )
                part = _softmax(logits) if self.average == 'probabilities' else logits
                scores += part[..., ::-1] if flipped else part
            if exponentials:  # float32 ends at logits of 88
                total = total + np.exp(scores / len(mirrored), dtype=np.float64)
            else:
                total = scores
        total /= len(self.scales) * (1 if exponentials else len(mirrored))
        return total


def as_published(
    predictor: Predictor, config: Config, options: EvalOptions = PLAIN, window: Optional[Size] = None
) -> Predictor:
    """The predictor behind the views that scores are published for: at ``eval_size``, at the scales and mirrored as the
    configuration or ``options`` say, or by windows of ``slide_window``, the crop size or another one."""
    augment = config.augment
    height, width = window or augment.slide_window or augment.crop_size
    return shown(predictor, augment.eval_size, options, (height, width), augment)


def shown(
    predictor: Predictor, size: Optional[Sequence[int]], options: EvalOptions, window: Size, augment: Augment
) -> Predictor:
    """The predictor behind the views that ``options`` name, or else ``augment``, of images scaled to fit into ``size``.
    UserError for a stride that leaves pixels between windows out."""
    chosen = options.of(augment)
    if size is None and chosen.scales == (1.0,) and not chosen.flip and not chosen.slide:
        return predictor
    if chosen.slide and chosen.stride and any(step > side for step, side in zip(chosen.stride, window)):
        steps, sides = ('x'.join(map(str, sizes)) for sizes in (chosen.stride, window))
        raise UserError(f'slide_stride (--stride) {steps}: steps over pixels between windows of {sides}; give at most that')
    return TestTimeAugmentation(
        predictor,
        chosen.scales,
        chosen.flip,
        window if chosen.slide else None,
        size,
        chosen.stride,
        augment.eval_average,
    )


def probabilities(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """The class probabilities (N, C, H, W), float32, that a predictor, also one behind views, sees in images, uint8
    (N, 3, H, W). UserError of an exported file that returns class ids."""
    size = (images.shape[2], images.shape[3])
    if not isinstance(predictor, TestTimeAugmentation):
        return _softmax(predictor.logits(images, size))
    values = predictor.averages(_scaled(images, scaled_size(*size, predictor.size)), size)
    if predictor.average == 'logits':
        values = _softmax(values)
    elif predictor.average == 'exponentials':
        values = values / values.sum(1, keepdims=True)
    return values.astype(np.float32)


def _scaled(images: np.ndarray, size: Any) -> np.ndarray:
    """uint8 (N, 3, H, W) resized bilinearly to ``size``."""
    if images.shape[2:] == size:
        return images
    return np.stack([cv2.resize(image.transpose(1, 2, 0), size[::-1]).transpose(2, 0, 1) for image in images])


def slide_logits(
    predictor: Predictor, images: np.ndarray, window: Size, size: Size, stride: Optional[Size] = None
) -> np.ndarray:
    """Mean logits over windows, each ``stride`` from the next, by default two thirds of a window, the last ones at the edge
    (mmsegmentation's slide mode), resized to ``size``."""
    sides = images.shape[2:]
    total: Any = None
    count = np.zeros(sides, np.float32)
    window = (min(window[0], sides[0]), min(window[1], sides[1]))
    down, right = stride or [max(1, side * 2 // 3) for side in window]
    for top in _starts(sides[0], window[0], down):
        for left in _starts(sides[1], window[1], right):
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


def _starts(side: int, window: int, stride: int) -> list[int]:
    steps = max(0, -(-(side - window) // stride))
    return [min(i * stride, side - window) for i in range(steps + 1)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    power = logits - logits.max(1, keepdims=True)
    np.exp(power, out=power)
    power /= power.sum(1, keepdims=True)
    return power
