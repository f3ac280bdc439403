"""RandAugment (Cubuk et al., arXiv 1909.13719) from its description string, with the operations, the ranges of their levels
and the spelling of timm (timm/data/auto_augment.py)."""

import math
import re
from typing import Callable, Optional

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from twinseg.common.errors import UserError

LEVELS = 10  # magnitude of the strongest level
UNIFORM_STD = 100  # above it, magnitudes are drawn uniformly from 0 to m
SOLARIZE_ADD_BELOW = 128

# Level in 0..1 and sign, -1 or 1 -> argument of the operation: degrees, bits, grey levels, factors or shares.
Level = Callable[[float, int], float]
BASE_LEVELS: dict[str, Optional[Level]] = {
    'AutoContrast': None,
    'Equalize': None,
    'Invert': None,
    'Rotate': lambda level, sign: sign * level * 30,
    'Posterize': lambda level, sign: int(level * 4),
    'Solarize': lambda level, sign: int(level * 256),
    'SolarizeAdd': lambda level, sign: int(level * 110),
    'Color': lambda level, sign: level * 1.8 + 0.1,
    'Contrast': lambda level, sign: level * 1.8 + 0.1,
    'Brightness': lambda level, sign: level * 1.8 + 0.1,
    'Sharpness': lambda level, sign: level * 1.8 + 0.1,
    'ShearX': lambda level, sign: sign * level * 0.3,
    'ShearY': lambda level, sign: sign * level * 0.3,
    'TranslateXRel': lambda level, sign: sign * level * 0.45,
    'TranslateYRel': lambda level, sign: sign * level * 0.45,
}
# inc1: operations that a higher level weakens above are strengthened by it here.
INCREASING_LEVELS: dict[str, Optional[Level]] = {
    **BASE_LEVELS,
    'Posterize': lambda level, sign: max(4 - int(level * 4), 0),
    'Solarize': lambda level, sign: max(256 - int(level * 256), 0),
    **dict.fromkeys(('Color', 'Contrast', 'Brightness', 'Sharpness'), lambda level, sign: max(0.1, 1 + sign * level * 0.9)),
}
WEIGHTS = {  # w0: probabilities of the operations; those that are not here are never chosen
    'Rotate': 0.3,
    'ShearX': 0.2,
    'ShearY': 0.2,
    'TranslateXRel': 0.1,
    'TranslateYRel': 0.1,
    'Color': 0.025,
    'Sharpness': 0.025,
    'AutoContrast': 0.025,
    'Solarize': 0.005,
    'SolarizeAdd': 0.005,
    'Contrast': 0.005,
    'Brightness': 0.005,
    'Equalize': 0.005,
}
ENHANCERS = {
    'Color': ImageEnhance.Color,
    'Contrast': ImageEnhance.Contrast,
    'Brightness': ImageEnhance.Brightness,
    'Sharpness': ImageEnhance.Sharpness,
}
PARTS = {  # key of a part of the description -> what it may be
    'm': 'magnitude, a whole number',
    'n': 'operations per image, 1 or more',
    'w': 'weights of the choice, 0',
    'p': 'probability of each operation, 0 to 1',
    'mstd': 'standard deviation of the magnitude',
    'mmax': 'largest magnitude, 1 or more',
    'inc': '0 or 1',
}


class RandAugment:
    """``n`` random operations on an image, each with probability ``p`` and a magnitude near ``m``.

    ``description`` is ``rand`` and parts joined by hyphens, in any order, such as ``rand-m9-mstd0.5-inc1``: ``m`` magnitude
    (10), ``n`` operations per image (2), ``w0`` chosen by WEIGHTS without repetition instead of evenly with it, ``p``
    probability of each (0.5), ``mstd`` standard deviation of the magnitude (0; above 100 it is uniform in 0..m), ``mmax``
    largest magnitude (10), ``inc1`` operations that all get stronger with the magnitude. UserError names a part that is none
    of these. ``fill`` is the RGB colour of what moves in from outside.
    """

    def __init__(self, description: str, fill: tuple[int, int, int] = (124, 116, 104)):
        self.description, self.fill = description, fill
        parts = _parse(description)
        self.magnitude, self.std, self.largest = parts.get('m', LEVELS), parts.get('mstd', 0), parts.get('mmax', LEVELS)
        self.count, self.probability = int(parts.get('n', 2)), parts.get('p', 0.5)
        self.levels = INCREASING_LEVELS if parts.get('inc') else BASE_LEVELS
        self.names = list(self.levels)
        self.weights = np.array([WEIGHTS.get(name, 0) for name in self.names]) if 'w' in parts else None
        if self.weights is not None:
            if self.count > len(WEIGHTS):
                raise UserError(
                    f'auto_augment: {description!r}: n{self.count} is more than the {len(WEIGHTS)} operations that '
                    'w0 chooses from'
                )
            self.weights /= self.weights.sum()

    def __call__(
        self,
        image: Image.Image,
        rng: np.random.Generator,
        interpolations: tuple[Image.Resampling, ...] = (Image.Resampling.BICUBIC,),
    ) -> Image.Image:
        """The augmented RGB image. Operations that move pixels draw one of the ``interpolations``."""
        for index in rng.choice(len(self.names), self.count, replace=self.weights is None, p=self.weights):
            if rng.random() < self.probability:
                level, sign = self._magnitude(rng) / LEVELS, 1 if rng.random() < 0.5 else -1
                interpolation = interpolations[rng.integers(len(interpolations))]
                image = self.apply(image, self.names[index], level, sign, interpolation)
        return image

    def apply(
        self, image: Image.Image, name: str, level: float, sign: int, interpolation: Image.Resampling = Image.Resampling.BICUBIC
    ) -> Image.Image:
        """One operation on an RGB image, at a level of 0..1; the sign, -1 or 1, turns those that have two directions."""
        function = self.levels[name]
        return operate(image, name, function(level, sign) if function else 0, self.fill, interpolation)

    def _magnitude(self, rng: np.random.Generator) -> float:
        magnitude = self.magnitude
        if self.std > UNIFORM_STD:
            magnitude = rng.uniform(0, magnitude)
        elif self.std:
            magnitude = rng.normal(magnitude, self.std)
        return min(max(magnitude, 0.0), self.largest)


def operate(
    image: Image.Image, name: str, argument: float, fill: tuple[int, int, int], interpolation: Image.Resampling
) -> Image.Image:
    """An operation of BASE_LEVELS on an RGB image: Pillow's own, with ``argument`` as the levels give it."""
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(argument)
    if name == 'AutoContrast':
        return ImageOps.autocontrast(image)
    if name == 'Equalize':
        return ImageOps.equalize(image)
    if name == 'Invert':
        return ImageOps.invert(image)
    if name == 'Posterize':
        return image.point([value & (0xFF00 >> int(argument)) for value in range(256)] * 3)  # Pillow's refuses 0 bits: black
    if name == 'Solarize':
        return ImageOps.solarize(image, int(argument))
    if name == 'SolarizeAdd':
        table = [min(255, value + int(argument)) if value < SOLARIZE_ADD_BELOW else value for value in range(256)]
        return image.point(table * 3)
    if name == 'Rotate':
        return image.rotate(argument, interpolation, fillcolor=fill)
    matrix = {
        'ShearX': (1, argument, 0, 0, 1, 0),
        'ShearY': (1, 0, 0, argument, 1, 0),
        'TranslateXRel': (1, 0, argument * image.width, 0, 1, 0),
        'TranslateYRel': (1, 0, 0, 0, 1, argument * image.height),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, interpolation, fillcolor=fill)


def _parse(description: str) -> dict[str, float]:
    """``rand-m9-mstd0.5`` -> {'m': 9, 'mstd': 0.5}; UserError names a part that is not in PARTS."""
    family, *rest = description.split('-')
    if family != 'rand':
        raise UserError(f'auto_augment: {description!r} starts with {family!r}; expected rand, as in rand-m9-mstd0.5-inc1')
    parts: dict[str, float] = {}
    for part in rest:
        match = re.fullmatch(r'([a-z]+)([0-9]+(?:\.[0-9]*)?)', part)
        key, value = (match[1], float(match[2])) if match else ('', math.nan)
        whole = value.is_integer()
        good = {
            'm': whole,
            'n': whole and value >= 1,
            'w': value == 0,
            'p': value <= 1,
            'mstd': True,
            'mmax': whole and value >= 1,
            'inc': value in (0, 1),
        }
        if key not in PARTS or not good[key]:
            raise UserError(
                f'auto_augment: {description!r}: cannot read the part {part!r}; expected '
                + (f'{key}: {PARTS[key]}' if key in PARTS else ', '.join(f'{key} ({what})' for key, what in PARTS.items()))
            )
        if key in parts:
            raise UserError(f'auto_augment: {description!r}: the part {key} is given twice')
        parts[key] = value
    return parts
