"""Evaluation protocols of publishers: what becomes of an image and its label before they are scored."""

import cv2
import numpy as np
from PIL import Image

from twinseg.common.config import Augment
from twinseg.common.images.interpolation import Size


def eval_transform(image: np.ndarray, label: np.ndarray, augment: Augment) -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8 (H, W, 3), and label, uint8 (H, W), as they are scored.

    ``eval_resized``: of that size, as davidtvs/PyTorch-ENet's main.py has them: Pillow's antialiased bilinear filter, and the
    nearest pixel of the label. ``eval_center_crop``: the centre of that size, as yassouali's and DeepHM's base_dataset.py have
    it: OpenCV's bilinear resize until both sides cover it, the longer one rounded down, and the nearest pixel of the label.
    """
    if augment.eval_resized:
        height, width = augment.eval_resized
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        return np.array(small), _nearest(label, (height, width))
    if augment.eval_center_crop is None:
        return image, label
    height, width = augment.eval_center_crop
    full_height, full_width = label.shape
    if height * full_width >= width * full_height:
        scaled = height, int(height * full_width / full_height)
    else:
        scaled = int(width * full_height / full_width), width
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    box = np.s_[top : top + height, left : left + width]
    return np.ascontiguousarray(cv2.resize(image, scaled[::-1])[box]), np.ascontiguousarray(_nearest(label, scaled)[box])


def _nearest(label: np.ndarray, size: Size) -> np.ndarray:
    """The label (H, W) of another size, by the nearest pixel."""
    return np.array(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))
