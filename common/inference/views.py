"""Views of an image that a network sees: the whole, overlapping windows, several scales; one predictor in front of another."""

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.backend import Predictor
from twinseg.common.config import Augment, Config
from twinseg.common.data.segmentation_transforms import scaled_size
from twinseg.common.errors import UserError
from twinseg.common.images.interpolation import Size
from twinseg.common.settings.groups.augment import Average
from twinseg.common.tasks.base import PLAIN, EvalOptions


@dataclass(frozen=True)
class TestTimeAugmentation(Predictor):
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
        return self.predictor.averaging.class_ids(self._sum(images, size or full))

    def probabilities(self, images: np.ndarray, size: Size) -> np.ndarray:
        """float32 class probabilities (N, C, h, w) at ``size`` of uint8 (N, 3, H, W) RGB."""
        images = _scaled(images, scaled_size(images.shape[2], images.shape[3], self.size))
        averaging, total = self.predictor.averaging, self._sum(images, size)
        views = len(self.scales) * (1 + self.flip)
        if self.average == 'probabilities':
            return averaging.on_host(total) / views
        return averaging.on_host(averaging.softmax(total / views if self.average == 'logits' else total))

    def _sum(self, images: np.ndarray, size: Size) -> Any:
        """The sums (N, C, h, w) over the views of ``images`` of class probabilities, of logits, or the logarithms of sums of
        exponentials, where the predictor computes."""
        averaging, mirrored = self.predictor.averaging, (False, True) if self.flip else (False,)
        total: Any = None
        for scale in self.scales:
            view = _scaled(images, tuple(max(1, int(side * scale + 0.5)) for side in images.shape[2:]))
            scores: Any = None if self.average == 'exponentials' else total
            for flipped in mirrored:
                part = self._logits(np.ascontiguousarray(view[..., ::-1]) if flipped else view, size)
                if self.average == 'probabilities':
                    part = averaging.softmax(part)
                if flipped:
                    part = averaging.mirrored(part)
                scores = part if scores is None else averaging.add(scores, part)
            if self.average == 'exponentials':
                scores = scores / len(mirrored)
                scores = scores if total is None else averaging.log_add_exp(total, scores)
            total = scores
        return total

    def _logits(self, images: np.ndarray, size: Size) -> Any:
        """The logits at ``size`` of one view: of the whole or mean ones over windows, each ``stride`` from the next, the last
        ones at the edge (mmsegmentation's slide mode)."""
        averaging = self.predictor.averaging
        if self.window is None:
            return averaging.logits(images, size)
        sides = (images.shape[2], images.shape[3])
        height, width = (min(pair) for pair in zip(self.window, sides))
        down, right = self.stride or [max(1, side * 2 // 3) for side in (height, width)]
        total: Any = None
        for top in _starts(sides[0], height, down):
            for left in _starts(sides[1], width, right):
                part = np.s_[..., top : top + height, left : left + width]
                logits = averaging.logits(np.ascontiguousarray(images[part]), (height, width))
                if total is None:
                    total, count = averaging.zeros((*logits.shape[:2], *sides), logits), averaging.zeros(sides, logits)
                total[part] += logits
                count[part] += 1
        total /= count
        return total if sides == size else averaging.resized(total, size)


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
    shown = predictor if isinstance(predictor, TestTimeAugmentation) else TestTimeAugmentation(predictor)
    return shown.probabilities(images, (images.shape[2], images.shape[3]))


def _scaled(images: np.ndarray, size: Any) -> np.ndarray:
    """uint8 (N, 3, H, W) resized bilinearly to ``size``."""
    if images.shape[2:] == size:
        return images
    return np.stack([cv2.resize(image.transpose(1, 2, 0), size[::-1]).transpose(2, 0, 1) for image in images])


def _starts(side: int, window: int, stride: int) -> list[int]:
    steps = max(0, -(-(side - window) // stride))
    return [min(i * stride, side - window) for i in range(steps + 1)]
