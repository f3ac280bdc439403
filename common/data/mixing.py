"""Mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899) of a batch, drawn on the host as timm does
(timm/data/mixup.py), so that both backends train on the same mixed batch."""

import math
from typing import Optional

import cv2
import numpy as np

from twinseg.common.config import Augment
from twinseg.common.data.sampling import mixing_rng, rank_positions
from twinseg.common.errors import UserError

Corners = tuple[int, int, int, int]  # a box in pixels: top, left, bottom, right


def is_active(augment: Augment) -> bool:
    """True where batches are mixed and their targets are shares of the classes."""
    return augment.mix_up > 0 or augment.cutmix > 0


class Mixing:
    """Mixes every sample of a batch with its partner in the reversed batch.

    A mixed sample keeps a share lambda of itself, drawn from Beta(alpha, alpha): mixup blends the pixels, cutmix replaces a
    box of 1 - lambda of the area, and lambda is then corrected to the area that the box has in the image. ``mixup_mode``
    draws once for the ``batch``, for each ``pair`` (the middle sample of an odd batch is not mixed), or for each ``elem``.
    Of several processes each mixes its ``rank_positions`` as one process would mix the global batch; their batches must be
    even.
    """

    def __init__(
        self, augment: Augment, num_classes: int, label_smoothing: float, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.augment, self.num_classes, self.label_smoothing, self.seed = augment, num_classes, label_smoothing, seed
        self.rank, self.world_size = rank, world_size

    def __call__(self, images: np.ndarray, labels: np.ndarray, step: int, epoch: float) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (N, 3, H, W) and labels int (N,) -> mixed images, and targets float32 (N, num_classes). UserError where
        several processes have odd batches.

        ``step`` counts the batches of the run and chooses the random numbers; from epoch ``mixup_off_epoch`` on, if it is
        above 0, the images stay as they are.
        """
        targets = smoothed(labels, self.num_classes, self.label_smoothing)
        if not is_active(self.augment) or 0 < self.augment.mixup_off_epoch <= epoch:
            return images, targets
        positions = rank_positions(len(images), self.rank, self.world_size)
        if self.world_size > 1 and len(images) % 2:
            raise UserError(
                f'batch_size: {len(images)}: an odd batch in each of {self.world_size} processes cannot be mixed; make it even'
            )
        global_batch = self._draw(len(images) * self.world_size, images.shape[2], images.shape[3], mixing_rng(self.seed, step))
        shares, boxes = ([values[position] for position in positions] for values in global_batch)
        mixed = np.empty(images.shape, np.uint8)
        for image, partner, share, box, result in zip(images, images[::-1], shares, boxes, mixed):
            if box is None:
                cv2.addWeighted(image.reshape(1, -1), share, partner.reshape(1, -1), 1 - share, 0, result.reshape(1, -1))
            else:
                top, left, bottom, right = box
                result[:] = image
                result[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
        weights = np.array(shares, np.float32)[:, None]
        return mixed, targets * weights + targets[::-1] * (1 - weights)

    def _draw(
        self, count: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[list[float], list[Optional[Corners]]]:
        """The share that each sample keeps, and for cutmix the box to replace."""
        draws = {'batch': 1, 'pair': (count + 1) // 2, 'elem': count}[self.augment.mixup_mode]
        cut = rng.random(draws) < (self.augment.switch_prob if self.augment.mix_up else 1)
        cut &= self.augment.cutmix > 0
        alpha = np.where(cut, self.augment.cutmix, self.augment.mix_up)
        shares = np.where(rng.random(draws) < self.augment.mixup_prob, rng.beta(alpha, alpha), 1.0)
        if self.augment.mixup_mode == 'pair' and count % 2:
            shares[-1] = 1.0
        boxes = [random_box(share, height, width, rng) if is_cut else None for share, is_cut in zip(shares, cut)]
        exact = [share if box is None else 1 - area(box) / (height * width) for share, box in zip(shares.tolist(), boxes)]
        pair = self.augment.mixup_mode == 'pair'
        draw_of = [(min(sample, count - 1 - sample) if pair else sample) % draws for sample in range(count)]
        return [exact[draw] for draw in draw_of], [boxes[draw] for draw in draw_of]


def random_box(share: float, height: int, width: int, rng: np.random.Generator) -> Corners:
    """A box with the image's proportions and 1 - share of its area, centred anywhere, cut off at the image's edges."""
    side = math.sqrt(1 - share)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    return (max(y - half_height, 0), max(x - half_width, 0), min(y + half_height, height), min(x + half_width, width))


def area(box: Corners) -> int:
    """Pixels of a box."""
    top, left, bottom, right = box
    return (bottom - top) * (right - left)


def smoothed(labels: np.ndarray, num_classes: int, smoothing: float) -> np.ndarray:
    """Targets float32 (N, num_classes) of labels int (N,): smoothing / K, and 1 - smoothing more for the sample's class."""
    targets = np.full((len(labels), num_classes), smoothing / num_classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets
