"""Augmentation of one image and its label: numpy, OpenCV and Pillow, every random number from the generator given.

Images are uint8 (H, W, 3) RGB and stay so: the network normalises on its device. The order is mmsegmentation's: random
scale, crop, rotation, flip, blur, photometric distortion, cutout, padding; colour factors come before all of it, as in
STDC-Seg. ``rotate_before_crop`` and ``padding: background`` are yassouali's: scale, rotation, padding, crop, flip, blur.
Numbers are drawn in an order that does not depend on the pixels.
"""

import math
from dataclasses import dataclass
from typing import Optional, Sequence

import cv2
import numpy as np
from PIL import Image

from twinseg.common.config import Augment
from twinseg.common.data.base import IGNORE
from twinseg.common.data.classification_transforms import JITTERS

cv2.setNumThreads(0)  # loaders work in parallel by samples; OpenCV's own threads do not survive a fork

CROP_TRIES = 10  # random boxes; the last is taken whatever it holds (mmsegmentation, RandomCrop)


@dataclass(frozen=True)
class Crop:
    """A box in the scaled image, all in pixels: the scaled image's size, and the box in it.

    ``small``: height and width that the image had before it was enlarged to the scaled size.
    """

    scaled_height: int
    scaled_width: int
    top: int
    left: int
    height: int
    width: int
    small: Optional[tuple[int, int]] = None


def train_transform(
    image: np.ndarray, label: np.ndarray, augment: Augment, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An augmented image uint8 (h, w, 3) and label uint8 (h, w) of ``augment.crop_size``."""
    if augment.color_factors:
        image = scale_colors(image, augment.color_factors, rng)
    crop = random_crop(label, augment, rng)
    degrees = rng.uniform(-augment.rotate, augment.rotate) if augment.rotate else 0.0
    black = augment.padding != 'ignore'
    colour, class_id = [0.0] * 3 if black else augment.mean, 0 if augment.padding == 'background' else IGNORE
    if degrees and augment.rotate_before_crop:
        image = warp_rotated(image, crop, degrees, cv2.INTER_LINEAR, colour)
        label = warp_rotated(label, crop, degrees, cv2.INTER_NEAREST, [class_id])
    else:
        image = antialiased(image, crop) if augment.antialias else warp(image, crop, cv2.INTER_LINEAR)
        label = warp(label, crop, cv2.INTER_NEAREST)
        if augment.rotate:
            image, label = rotate(image, label, degrees, colour, class_id)
    if black:  # it is mirrored and blurred with the rest
        image, label = pad(image, augment.crop_size, colour), pad(label, augment.crop_size, [class_id])
    if rng.random() < augment.flip_prob:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    if augment.blur_sigma:
        image = blur(image, rng.uniform(0, augment.blur_sigma))
    if augment.photometric_distortion and not augment.color_factors:
        image = photometric_distortion(image, augment, rng)
    if augment.cutout_prob:
        image, label = cutout(image, label, augment, rng)
    return pad(image, augment.crop_size, colour), pad(label, augment.crop_size, [class_id])


def scaled_size(height: int, width: int, base: Optional[Sequence[int]], ratio: float = 1.0) -> tuple[int, int]:
    """Height and width after scaling: the largest that keep the image's proportions and fit into ``base * ratio``, by default
    its own size times ``ratio``, long side to long side (mmsegmentation's Resize and RandomResize with keep_ratio)."""
    base = base or (height, width)
    long, short = max(base) * ratio, min(base) * ratio
    factor = min(int(long) / max(height, width), int(short) / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def covering_size(height: int, width: int, crop: Sequence[int]) -> Optional[tuple[int, int]]:
    """Height and width to which an image smaller than ``crop`` (height, width) is enlarged, proportions kept: one pixel more
    than covers it (STDC-Seg, transform.py, whose factor covers where crop and image have the same proportions). None for an
    image that covers it."""
    factor = max(crop[0] / height, crop[1] / width)
    return (int(height * factor + 1), int(width * factor + 1)) if factor > 1 else None


def random_crop(label: np.ndarray, augment: Augment, rng: np.random.Generator) -> Crop:
    """A random scale and a random box for a label (H, W), of ``crop_size`` or as large as the scaled image, which with
    ``small_image: enlarge`` is large enough.

    A box passes if it holds more than one class, and none has ``cat_max_ratio`` of its pixels or more; ignored pixels
    do not count.
    """
    scales = augment.scale_set
    low, high = augment.ratio_range
    ratio = scales[rng.integers(len(scales))] if scales else rng.uniform(low, high)
    corners = rng.random((CROP_TRIES, 2))  # corners as shares of the free height and width
    scaled_height, scaled_width = scaled_size(label.shape[0], label.shape[1], augment.base_size, ratio)
    small = None
    if augment.small_image == 'enlarge' and (covering := covering_size(scaled_height, scaled_width, augment.crop_size)):
        small, (scaled_height, scaled_width) = (scaled_height, scaled_width), covering
    height, width = min(augment.crop_size[0], scaled_height), min(augment.crop_size[1], scaled_width)
    boxes = [(int(y * (scaled_height - height + 1)), int(x * (scaled_width - width + 1))) for y, x in corners]
    crops = [Crop(scaled_height, scaled_width, top, left, height, width, small) for top, left in dict.fromkeys(boxes)]
    if augment.cat_max_ratio >= 1:
        return crops[0]
    for crop in crops[:-1]:
        if is_varied(warp(label, crop, cv2.INTER_NEAREST), augment.cat_max_ratio):
            return crop
    return crops[-1]


def is_varied(label: np.ndarray, cat_max_ratio: float) -> bool:
    """True where a label, uint8 (H, W), holds several classes, none of them with ``cat_max_ratio`` of the pixels or more."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256])[:IGNORE]
    return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < cat_max_ratio)


def warp(pixels: np.ndarray, crop: Crop, interpolation: int) -> np.ndarray:
    """The box of the scaled image, from the part of ``pixels`` (H, W) or (H, W, 3) that it needs, in one step.

    Equal to scaling everything, pixel centre to pixel centre, and cutting the box out; only the rows that are needed are
    read, which counts when ``pixels`` is mapped from a file.
    """
    if crop.small:
        pixels = warp(pixels, _whole(*crop.small), interpolation)
    scale_y, scale_x = pixels.shape[0] / crop.scaled_height, pixels.shape[1] / crop.scaled_width
    y, x = (crop.top + 0.5) * scale_y - 0.5, (crop.left + 0.5) * scale_x - 0.5  # centre of the box's first pixel
    top, left = max(math.floor(y), 0), max(math.floor(x), 0)
    bottom, right = math.ceil(y + (crop.height - 1) * scale_y) + 1, math.ceil(x + (crop.width - 1) * scale_x) + 1
    part = pixels[top:bottom, left:right]
    if scale_x == scale_y == 1:
        return np.array(part)
    matrix = np.array([[scale_x, 0, x - left], [0, scale_y, y - top]])
    return cv2.warpAffine(
        part, matrix, (crop.width, crop.height), flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def antialiased(image: np.ndarray, crop: Crop) -> np.ndarray:
    """``warp`` by Pillow's bilinear filter, which averages over all pixels that a smaller one covers. Equal to scaling an image
    uint8 (H, W, 3) whole and cutting the box out, but that a value halfway between two grey levels may become the other one.
    """
    if crop.small:
        image = antialiased(image, _whole(*crop.small))
    scale_y, scale_x = image.shape[0] / crop.scaled_height, image.shape[1] / crop.scaled_width
    left, right = crop.left * scale_x, (crop.left + crop.width) * scale_x
    top, bottom = crop.top * scale_y, (crop.top + crop.height) * scale_y
    first_row, first_column = max(math.floor(top - scale_y) - 1, 0), max(math.floor(left - scale_x) - 1, 0)
    part = image[first_row : math.ceil(bottom + scale_y) + 2, first_column : math.ceil(right + scale_x) + 2]
    box = (
        left - first_column,
        top - first_row,
        min(right - first_column, part.shape[1]),
        min(bottom - first_row, part.shape[0]),
    )
    return np.array(Image.fromarray(part).resize((crop.width, crop.height), Image.Resampling.BILINEAR, box))


def _whole(height: int, width: int) -> Crop:
    return Crop(height, width, 0, 0, height, width)


def scale_colors(image: np.ndarray, factors: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of an image uint8 (H, W, 3), in this order, each times a factor between the two of
    ``factors``: Pillow's ImageEnhance (STDC-Seg's ColorJitter, transform.py)."""
    picture = Image.fromarray(image)
    for enhance, factor in zip(JITTERS, rng.uniform(factors[0], factors[1], len(JITTERS))):
        picture = enhance(picture).enhance(factor)
    return np.array(picture)


def warp_rotated(pixels: np.ndarray, crop: Crop, degrees: float, interpolation: int, fill: Sequence[float]) -> np.ndarray:
    """The box of the scaled image turned about its middle, anticlockwise, in its size; ``fill``: what is beyond its edges.

    Equal to scaling ``pixels`` (H, W) or (H, W, 3), turning them and cutting the box out, in one step.
    """
    scale_y, scale_x = pixels.shape[0] / crop.scaled_height, pixels.shape[1] / crop.scaled_width
    middle = ((crop.scaled_width - 1) / 2, (crop.scaled_height - 1) / 2)
    turned = np.vstack([cv2.getRotationMatrix2D(middle, -degrees, 1.0), [0, 0, 1]])  # of the turned image -> of the scaled one
    box = np.array([[1, 0, crop.left], [0, 1, crop.top], [0, 0, 1]])
    scaled = np.array([[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5]])  # pixel centre to pixel centre
    return cv2.warpAffine(
        pixels,
        scaled @ turned @ box,
        (crop.width, crop.height),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=[round(v) for v in fill],
    )


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of ``sigma`` pixels, in a kernel of 3.3 of them, made odd (yassouali, base_dataset.py:114-119)."""
    side = int(3.3 * sigma) // 2 * 2 + 1
    return cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101) if side > 1 else image


def photometric_distortion(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast (before or after the rest), saturation and hue, each with probability 1/2 (mmsegmentation's
    PhotoMetricDistortion). uint8 (H, W, 3) RGB in and out."""
    brighten, adjust, adjust_last, saturate, turn = rng.random(5) < 0.5
    (low_contrast, high_contrast), (low_saturation, high_saturation) = augment.contrast_range, augment.saturation_range
    brightness, contrast, saturation, hue = rng.uniform(
        [-augment.brightness_delta, low_contrast, low_saturation, -augment.hue_delta],
        [augment.brightness_delta, high_contrast, high_saturation, augment.hue_delta],
    )

    levels = np.arange(256.0)
    first = _levels(levels + brightness) if brighten else levels.astype(np.uint8)
    contrasted = _levels(levels * contrast)
    image = cv2.LUT(image, contrasted[first] if adjust and not adjust_last else first)
    if saturate or turn:
        hues = (levels + round(hue) * turn) % 180  # OpenCV: 8-bit hue is 0..179
        saturations = _levels(levels * (saturation if saturate else 1))
        table = np.stack([hues, saturations, levels], -1).astype(np.uint8)[None]
        image = cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)
    return cv2.LUT(image, contrasted) if adjust and adjust_last else image


def rotate(
    image: np.ndarray, label: np.ndarray, degrees: float, colour: Sequence[float], class_id: int = IGNORE
) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and label (H, W), both turned about their middle, anticlockwise, in their size; the corners get the
    ``colour`` and the class."""
    height, width = label.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return (
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=[round(v) for v in colour]),
        cv2.warpAffine(label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=[class_id]),
    )


def cutout(image: np.ndarray, label: np.ndarray, augment: Augment, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Erases with ``cutout_prob`` a box to the mean colour; its labels are ignored (mmsegmentation's RandomCutOut, 1 hole)."""
    chance, top, left = rng.random(3)
    shares = rng.uniform(augment.cutout_ratio[0], augment.cutout_ratio[1], 2)
    if chance >= augment.cutout_prob:
        return image, label
    height, width = (max(round(share * side), 1) for share, side in zip(shares, label.shape))
    top, left = int(top * (label.shape[0] - height + 1)), int(left * (label.shape[1] - width + 1))
    box = np.s_[top : top + height, left : left + width]
    image, label = image.copy(), label.copy()
    image[box], label[box] = [round(v) for v in augment.mean], IGNORE
    return image, label


def class_mix(
    image: np.ndarray, label: np.ndarray, other: np.ndarray, other_label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Half of the classes of the other sample, drawn at random, are pasted over the first, pixels and labels (ClassMix,
    Olsson et al., WACV 2021, section 3.1, with true labels). Images uint8 (H, W, 3), labels uint8 (H, W), all of one size."""
    present = np.flatnonzero(cv2.calcHist([other_label], [0], None, [256], [0, 256])[:IGNORE])
    pasted = np.zeros(256, bool)
    pasted[rng.permutation(present)[: (len(present) + 1) // 2]] = True
    mask = pasted[other_label]
    return np.where(mask[..., None], other, image), np.where(mask, other_label, label)


def pad(pixels: np.ndarray, size: list[int], value: Sequence[float]) -> np.ndarray:
    """``pixels`` with a border to the right and below, up to ``size`` (height, width): uint8 (H, W) or (H, W, 3). An image
    is padded with the mean colour, which is zero after normalisation."""
    bottom, right = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    if not bottom and not right:
        return pixels
    return cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=[round(v) for v in value])


def channels_first(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> C-contiguous (3, H, W)."""
    planes = np.empty((3, *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))
    return planes


def _levels(values: np.ndarray) -> np.ndarray:
    """Rounded to grey levels, uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
