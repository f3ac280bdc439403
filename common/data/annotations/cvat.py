"""Exports of CVAT in its format "Segmentation mask 1.1": ``labelmap.txt`` with the colours, ``SegmentationClass/*.png``
drawn in them, ``JPEGImages`` and lists in ``ImageSets/Segmentation``."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Mapping

import numpy as np

from twinseg.common.data.annotations.base import (
    AnnotatedImage,
    Annotations,
    ImageIndex,
    Problems,
    files_below,
    upright_size,
)
from twinseg.common.data.labels import LabelRules
from twinseg.common.errors import DataError
from twinseg.common.files import read_bounded

MASKS, LISTS = 'SegmentationClass', 'ImageSets'  # folders
MAX_TEXT = 1 << 24  # bytes of a list or a label map
Colours = Mapping[str, tuple[int, int, int]]


def read_cvat(root: Path) -> Annotations:
    """The images that an unpacked export holds."""
    files = files_below(root)
    folders = {path: path.relative_to(root).parts[:-1] for path in files}
    label_maps = [path for path in files if path.name == 'labelmap.txt']
    masks = [path for path in files if path.suffix.lower() == '.png' and MASKS in folders[path]]
    if not label_maps or not masks:
        other = next((path for path in files if path.name == 'annotations.xml'), None)
        hint = f'{other} is of the format "CVAT for images"; ' if other else ''
        raise DataError(
            f'{root}: {"no labelmap.txt" if not label_maps else f"no PNG files in {MASKS}"} in it or below; {hint}export '
            'from CVAT as "Segmentation mask 1.1" with "Save images", and unpack it (or as "COCO 1.0": --from coco)'
        )
    colours = read_label_map(label_maps[0])
    other = next((path for path in label_maps if read_label_map(path) != colours), None)
    if other:
        raise DataError(f'{other}: other labels or colours than in {label_maps[0]}; convert their folders one by one')
    texts = [path for path in files if path.suffix == '.txt' and LISTS in folders[path]]
    lists = {line.strip(): path.stem for path in texts for line in _lines(path)}
    index = ImageIndex(root, [path for path in files if not any(part.startswith('Segmentation') for part in folders[path])])
    found, problems = Annotations(classes=list(colours), colours=dict(colours)), Problems()
    for path in masks:
        with problems:
            name = path.parts[len(path.parts) - path.parts[::-1].index(MASKS) :]
            stem = '/'.join(name)[: -len(path.suffix)]
            image = index.find(f'JPEGImages/{stem}', path)
            if image is None:
                raise DataError(f'{path}: its image JPEGImages/{stem} is missing; export from CVAT with "Save images"')
            size = upright_size(image, None, path)
            found.images.append(
                AnnotatedImage(
                    source=path,
                    image=image,
                    size=size,
                    name=index.name(image),
                    group=lists.get(stem, ''),
                    labels=[],
                    draw=partial(draw, path, size, colours),
                    digest=f'{_digest(path)} {colours}',
                )
            )
    problems.raise_any(len(masks))
    found.remarks += index.remarks(f'a mask in {MASKS}')
    return found


def read_label_map(path: Path) -> dict[str, tuple[int, int, int]]:
    """RGB colours by label, from lines ``name:red,green,blue:parts:actions``."""
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith('#'):
            continue
        name, _, rest = line.strip().partition(':')
        channels = rest.split(':')[0].split(',')
        if not name or len(channels) != 3 or not all(channel.strip().isdecimal() for channel in channels):
            raise DataError(f'{path}: line {number} is {line[:80]!r}; expected name:red,green,blue::')
        red, green, blue = (int(channel[:4]) for channel in channels)
        if max(red, green, blue) > 255 or (red, green, blue) in colours.values() or name in colours:
            raise DataError(f'{path}: line {number}: {line[:80]!r}: a colour above 255, or one that is given twice')
        colours[name] = red, green, blue
    if not colours:
        raise DataError(f'{path}: no line name:red,green,blue::')
    return colours


def _lines(path: Path) -> list[str]:
    try:
        return read_bounded(path, MAX_TEXT).decode('utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: not readable ({getattr(error, "strerror", None) or error})') from None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f'{path}: not readable ({error.strerror or error})') from None


def draw(mask: Path, size: tuple[int, int], colours: Colours, values: Mapping[str, int], background: int) -> np.ndarray:
    """The label of an image (height, width), uint8 (H, W): the value of each pixel's colour; black that is no label is
    ``background``."""
    known = {(0, 0, 0): background} | {colour: values[name] for name, colour in colours.items()}
    label = LabelRules('labelmap.txt', {}, [], known, 'colors').read(mask)
    if label.shape != size:
        raise DataError(
            f'{mask}: {label.shape[1]}x{label.shape[0]} pixels, but its image has {size[1]}x{size[0]}; both must be of one size'
        )
    return label
