"""Images and labels from files: one rule for every kind of file."""

import struct
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np
from PIL import Image, ImageOps

from twinseg.common.errors import DataError

MAX_PIXELS = 1 << 26  # pixels of an image: 67 million, thirty Cityscapes images; more is taken for a decompression bomb
IMAGE_MODES = ('RGB', 'L', 'P', 'RGBA', 'LA', 'CMYK', '1')  # Pillow's names of the kinds of 8-bit pixels


def decode(source: Path | BinaryIO, name: str | Path, exif_rotate: bool = False) -> Image.Image:
    """The decoded image of a file; DataError, with the ``name``, when it is missing, broken or too large. ``exif_rotate`` turns
    it as its EXIF data says."""
    try:
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f'{name}: {image.width}x{image.height} pixels, more than the limit of {MAX_PIXELS}')
            image.load()
            if exif_rotate:
                ImageOps.exif_transpose(image, in_place=True)
            return image
    except FileNotFoundError:
        raise DataError(f'{name}: no such file') from None
    except Image.DecompressionBombError as error:
        raise DataError(f'{name}: {error}') from None
    except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:  # errors that Pillow raises for a broken file
        raise DataError(f'{name}: not readable as an image, truncated or broken ({error})') from None


def to_rgb(image: Image.Image, name: str | Path) -> Image.Image:
    """The image in RGB: grey is repeated, transparency dropped, 16 bits are cut to 8, as Pillow does it. DataError, with the
    ``name``, for pixels that cannot be converted."""
    try:
        return image if image.mode == 'RGB' else image.convert('RGB')
    except ValueError as error:
        raise DataError(f'{name}: pixels of kind {image.mode} cannot be made RGB ({error})') from None


def read_image(path: Path) -> np.ndarray:
    """Any 8-bit image file as RGB, uint8 (H, W, 3), in the orientation it is stored in. DataError names a broken one, and
    one of other pixels."""
    image = decode(path, path)
    if image.mode not in IMAGE_MODES:
        raise DataError(f'{path}: pixels of kind {image.mode}; expected an 8-bit RGB or grey image')
    return np.array(to_rgb(image, path))


def read_label(path: Path, colours: Optional[np.ndarray] = None) -> np.ndarray:
    """A label file as ids, uint8 (H, W): grey values or palette indices; with ``colours``, uint8 (n, 3), also RGB files,
    where the id is the colour's row. DataError names a broken file, and the colours that are not among them."""
    image = decode(path, path)
    if image.mode == 'L' or (image.mode == 'P' and colours is None):
        return np.array(image)
    if colours is None or image.mode not in ('RGB', 'RGBA', 'P'):
        raise DataError(
            f'{path}: pixels of kind {image.mode}; expected a label with one 8-bit channel of class ids '
            f'(grey or palette){"" if colours is None else " or RGB colours"}'
        )
    pixels = np.array(image.convert('RGB'))
    codes, class_codes = _colour_codes(pixels), _colour_codes(colours)
    order = np.argsort(class_codes)
    row = np.minimum(np.searchsorted(class_codes[order], codes), len(class_codes) - 1)
    ids = order[row].astype(np.uint8)
    unknown = class_codes[ids] != codes
    if unknown.any():
        strange = np.unique(pixels[unknown], axis=0)
        raise DataError(
            f'{path}: {len(strange)} colours that belong to no class: {strange[:8].tolist()}'
            f'{" ..." if len(strange) > 8 else ""}; expected the colours of label_colors.txt'
        )
    return ids


def _colour_codes(pixels: np.ndarray) -> np.ndarray:
    """RGB colours (..., 3) as one integer each, int32 (...)."""
    return (pixels.astype(np.int32) * np.array([1 << 16, 1 << 8, 1], np.int32)).sum(-1, dtype=np.int32)
