"""Augmentation of whole images for classifiers, as timm does it: Pillow, every random number from the generator given.

Images are uint8 (H, W, 3) RGB and stay so: the network normalises on its device, so what timm erases after normalisation is
erased here with the same colours, rounded to grey levels.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageEnhance

from twinseg.common.config import Augment
from twinseg.common.data.rand_augment import RandAugment

CROP_TRIES = 10  # random boxes; then the largest one in the centre that has an allowed ratio (torchvision)
ERASE_TRIES = 10  # random boxes until one fits
ERASED_AREA = (0.02, 1 / 3)  # share of the image, divided by the number of boxes (timm/data/random_erasing.py)
ERASED_ASPECT = (0.3, 1 / 0.3)  # height to width of a box
MAX_ASPECT = 64  # longer to shorter side of an image that is evaluated; the rest is far from the crop
INTERPOLATIONS = {
    'nearest': (Image.Resampling.NEAREST,),
    'bilinear': (Image.Resampling.BILINEAR,),
    'bicubic': (Image.Resampling.BICUBIC,),
    'lanczos': (Image.Resampling.LANCZOS,),
    'random': (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}
# Pillow moves pixels with at most bicubic interpolation.
MOVES = {**INTERPOLATIONS, 'lanczos': INTERPOLATIONS['bicubic']}
JITTERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
Box = tuple[int, int, int, int]  # top, left, height, width

rand_augment = functools.lru_cache(RandAugment)


def check_augmentation(augment: Augment) -> None:
    """UserError where ``train_image`` could not do what is asked, before the first image."""
    if augment.auto_augment:
        rand_augment(augment.auto_augment)


def train_image(image: np.ndarray, augment: Augment, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """An augmented image uint8 (h, w, 3) of ``size`` (h, w): random resized crop, flip, RandAugment or colour jitter, random
    erasing."""
    top, left, height, width = crop_box(image.shape[0], image.shape[1], augment, rng)
    choices = INTERPOLATIONS[augment.interpolation]
    picture = Image.fromarray(image).crop((left, top, left + width, top + height))  # slices are slow
    picture = picture.resize((size[1], size[0]), choices[rng.integers(len(choices))])
    if rng.random() < augment.flip_prob:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augment.auto_augment:
        red, green, blue = map(round, augment.mean)
        operations = rand_augment(augment.auto_augment, (red, green, blue))
        picture = operations(picture, rng, MOVES[augment.interpolation])
    elif augment.color_jitter:
        picture = color_jitter(picture, augment.color_jitter, rng)
    pixels = np.array(picture)
    erase(pixels, augment, rng)
    return pixels


def eval_image(image: np.ndarray, augment: Augment, size: tuple[int, int]) -> np.ndarray:
    """The centre of the resized image uint8 (H, W, 3): uint8 (h, w, 3) of ``size`` (h, w).

    The shorter side becomes the size / ``crop_pct`` (timm), or both do (``square_resize``, the model zoo).
    """
    scaled_height, scaled_width = (int(side / augment.crop_pct) for side in size)
    if not augment.square_resize:
        image = _without_ends(image)
        height, width = image.shape[:2]
        if height * scaled_width <= width * scaled_height:
            scaled_width = scaled_height * width // height
        else:
            scaled_height = scaled_width * height // width
    picture = Image.fromarray(image).resize((scaled_width, scaled_height), INTERPOLATIONS[augment.interpolation][-1])
    top, left = round((scaled_height - size[0]) / 2), round((scaled_width - size[1]) / 2)
    return np.array(picture.crop((left, top, left + size[1], top + size[0])))


def _without_ends(image: np.ndarray) -> np.ndarray:
    """The middle of an image too long to be resized as a whole: a line of pixels would fill the memory."""
    longest = MAX_ASPECT * min(image.shape[:2])
    top, left = (max(side - longest, 0) // 2 for side in image.shape[:2])
    return image[top : top + longest, left : left + longest]


def crop_box(height: int, width: int, augment: Augment, rng: np.random.Generator) -> Box:
    """A random box in an image: ``augment.scale`` of its area, width to height in ``augment.ratio`` (torchvision's
    RandomResizedCrop)."""
    (smallest, largest), (low, high) = augment.scale, augment.ratio
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(smallest, largest)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            return (int(rng.integers(height - box_height + 1)), int(rng.integers(width - box_width + 1)), box_height, box_width)
    box_height = max(min(height, round(width / low)), 1)
    box_width = max(min(width, round(height * high)), 1)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def color_jitter(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation in random order, each times a factor of 1 - strength (at least 0) to 1 + strength
    (torchvision's ColorJitter)."""
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, len(JITTERS))
    for index in rng.permutation(len(JITTERS)):
        picture = JITTERS[index](picture).enhance(factors[index])
    return picture


def erase(pixels: np.ndarray, augment: Augment, rng: np.random.Generator) -> None:
    """Erases boxes of ``pixels`` uint8 (H, W, 3) with probability ``re_prob``, in place: to the mean colour, to one random
    colour, or to noise (Zhong et al., arXiv 1708.04896)."""
    if rng.random() >= augment.re_prob:
        return
    for top, left, height, width in erased_boxes(pixels.shape[0], pixels.shape[1], augment.re_count, rng):
        shape = {'const': (), 'rand': (3,), 'pixel': (height, width, 3)}[augment.re_mode]
        noise = rng.standard_normal(shape, np.float32) if shape else 0
        colours = np.array(augment.mean, np.float32) + np.array(augment.std, np.float32) * noise
        pixels[top : top + height, left : left + width] = np.clip(np.rint(colours), 0, 255)


def erased_boxes(height: int, width: int, most: int, rng: np.random.Generator) -> list[Box]:
    """One to ``most`` random boxes, smaller than the image; fewer when ten tries find none that fits."""
    count = int(rng.integers(1, most + 1))
    boxes = []
    for _ in range(count):
        for _ in range(ERASE_TRIES):
            area = height * width * rng.uniform(*ERASED_AREA) / count
            aspect = math.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
            box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if box_height < height and box_width < width:
                boxes.append(
                    (
                        int(rng.integers(height - box_height + 1)),
                        int(rng.integers(width - box_width + 1)),
                        box_height,
                        box_width,
                    )
                )
                break
    return boxes
