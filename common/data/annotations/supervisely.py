"""Projects of Supervisely: ``meta.json`` with the classes, and for every image of ``<data set>/img`` a JSON file in
``<data set>/ann``, drawn as its SDK draws them.

Source: supervisely/geometry of supervisely 6.74.51: corners are rounded down, bitmaps lie at their origin, outlines are filled
by OpenCV, and later objects lie over earlier ones.
"""

import hashlib
import json
import math
import re
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.data.annotations.base import (
    AnnotatedImage,
    Annotations,
    ImageIndex,
    Problems,
    check_effort,
    entry,
    files_below,
    from_base64,
    optional,
    png_mask,
    points,
    read_json,
    upright_size,
)
from twinseg.common.errors import DataError
from twinseg.common.settings.limits import MAX_PIXELS

COLOUR = re.compile('#[0-9A-Fa-f]{6}')
SPLIT_TAGS = ('train', 'val', 'validation', 'test')  # tags of an image that name its split
Corners = list[tuple[int, int]]  # x, y of pixels


@dataclass(frozen=True)
class Figure:
    """An object: the pixels of a bitmap, bool (h, w), from ``origin`` (x, y) on; or else an outline with its holes."""

    label: str
    origin: tuple[int, int] = (0, 0)
    bitmap: Optional[np.ndarray] = None
    outline: Sequence[tuple[int, int]] = ()
    holes: Sequence[Corners] = ()


def read_supervisely(root: Path) -> Annotations:
    """The images of the data sets of a project."""
    files = files_below(root)
    index, found, problems = ImageIndex(root, files), Annotations(), Problems()
    meta = next((path for path in files if path.name == 'meta.json'), None)
    if meta is None:
        raise DataError(f"{root}: no meta.json in it or below; give the folder of a project in Supervisely's format")
    for item in entry(read_json(meta), 'classes', list, meta):
        name, colour = entry(item, 'title', str, meta), str(item.get('color'))
        found.classes = [*(found.classes or []), name]
        if COLOUR.fullmatch(colour):
            found.colours[name] = int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
    documents = [path for path in files if path.suffix.lower() == '.json' and path.parent.name == 'ann']
    left_out: dict[str, int] = {}
    for path in documents:
        with problems:
            found.images.append(_annotated(path, index, left_out))
    problems.raise_any(len(documents))
    if not found.images:
        raise DataError(f'{root}: no JSON file in a folder ann; expected <data set>/ann/*.json with <data set>/img')
    found.remarks += [f'{count} objects of the kind {kind} cover no area and are left out' for kind, count in left_out.items()]
    found.remarks += index.remarks('a JSON file in ann')
    return found


def _annotated(path: Path, index: ImageIndex, left_out: dict[str, int]) -> AnnotatedImage:
    content = read_json(path)
    folder = path.parent.with_name('img')
    image = index.find(f'{folder.parent.name}/img/{path.stem}', path)
    if image is None:
        raise DataError(f'{path}: its image {folder / path.stem} is missing; download the project with its images')
    said = None
    if stated := optional(content, 'size', {}, path):
        said = entry(stated, 'height', int, path), entry(stated, 'width', int, path)
    size = upright_size(image, said, path)
    objects = entry(content, 'objects', list, path)
    figures = [figure for item in objects if (figure := _figure(item, size, path, left_out)) is not None]
    check_effort([_corners(figure, size) for figure in figures], size, path)
    tags = [item.get('name') for item in optional(content, 'tags', [], path) if isinstance(item, dict)]
    return AnnotatedImage(
        source=path,
        image=image,
        size=size,
        name=index.name(image),
        group=next((tag for tag in tags if tag in SPLIT_TAGS), folder.parent.name),
        labels=[figure.label for figure in figures],
        draw=partial(draw, size, figures),
        digest=hashlib.sha256(json.dumps(objects, sort_keys=True).encode()).hexdigest(),
    )


def _figure(item: Any, size: tuple[int, int], path: Path, left_out: dict[str, int]) -> Optional[Figure]:
    """An object; None for one of a kind that covers no area, which ``left_out`` counts."""
    label = entry(item, 'classTitle', str, path)
    kind = item.get('geometryType') or ('bitmap' if item.get('bitmap') else 'polygon')
    if kind == 'bitmap':
        bitmap = entry(item, 'bitmap', dict, path)
        [(x, y)] = points([bitmap.get('origin')], path)
        return Figure(label, (math.floor(x), math.floor(y)), _bitmap(entry(bitmap, 'data', str, path), size, path))
    if kind not in ('polygon', 'rectangle'):
        left_out[str(kind)[:40]] = left_out.get(str(kind)[:40], 0) + 1
        return None
    corners = entry(item, 'points', dict, path)
    outline = _floored(corners.get('exterior'), path)
    if len(outline) < 2 or (kind == 'rectangle' and len(outline) != 2):
        raise DataError(f'{path}: a {kind} has {len(outline)} points')
    if kind == 'rectangle':
        (x0, y0), (x1, y1) = outline
        return Figure(label, outline=[(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return Figure(label, outline=outline, holes=[_floored(hole, path) for hole in optional(corners, 'interior', [], path)])


def _floored(value: Any, path: Path) -> Corners:
    return [(math.floor(x), math.floor(y)) for x, y in points(value, path)]


def _bitmap(text: str, size: tuple[int, int], path: Path) -> np.ndarray:
    """The pixels of a bitmap, bool (h, w): a PNG, as a rule packed once more."""
    name = f'{path}: the data of a bitmap'
    packed = from_base64(text, name)
    try:
        unpacked = packed if packed.startswith(b'\x89PNG') else zlib.decompressobj().decompress(packed, MAX_PIXELS)
    except zlib.error:
        raise DataError(f'{name} are no packed PNG') from None
    mask = png_mask(unpacked, name)
    if mask.shape[0] > size[0] or mask.shape[1] > size[1]:
        raise DataError(f'{name} have {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[1]}x{size[0]}')
    return mask


def _corners(figure: Figure, size: tuple[int, int]) -> list[tuple[float, float]]:
    """The corners of a figure, and of the pixels that drawing it looks at."""
    if figure.bitmap is not None:
        x, y = figure.origin
        return [(x, y), (x + figure.bitmap.shape[1], y + figure.bitmap.shape[0])]
    return [(0, 0), (size[1], size[0]), *(point for outline in (figure.outline, *figure.holes) for point in outline)]


def draw(size: tuple[int, int], figures: Sequence[Figure], values: Mapping[str, int], background: int) -> np.ndarray:
    """The label of an image (height, width), uint8 (H, W): the value of each figure's label, later figures over earlier
    ones."""
    label = np.full(size, background, np.uint8)
    for figure in figures:
        x, y = figure.origin
        if figure.bitmap is not None:
            part = label[max(y, 0) : max(y + figure.bitmap.shape[0], 0), max(x, 0) : max(x + figure.bitmap.shape[1], 0)]
            left, top = max(-x, 0), max(-y, 0)
            part[figure.bitmap[top : top + part.shape[0], left : left + part.shape[1]]] = values[figure.label]
            continue
        mask = np.zeros(size, np.uint8)  # whole, for OpenCV rounds an outline otherwise where the image begins elsewhere
        cv2.fillPoly(mask, [np.array(figure.outline, np.int32)], [1])
        if figure.holes:
            cv2.fillPoly(mask, [np.array(hole, np.int32) for hole in figure.holes if hole], [0])
        label[mask.astype(bool)] = values[figure.label]
    return label
