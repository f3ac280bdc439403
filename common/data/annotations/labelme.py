"""Annotations of labelme: a JSON file for each image, drawn as labelme's ``shapes_to_label`` draws them.

Source: labelme/utils/shape.py of labelme 6.3.1, whose rules are those of its examples' labelme2voc.py since version 4: later
shapes over earlier ones, lines 10 pixels wide, points with a radius of 5.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from twinseg.common.data.annotations.base import (
    AnnotatedImage,
    Annotations,
    ImageIndex,
    Point,
    Problems,
    check_effort,
    cut,
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

LINE_WIDTH = 10  # pixels; defaults of labelme's shape_to_mask
POINT_RADIUS = 5
COUNTS: dict[str, tuple[int, Optional[int]]] = {  # fewest and most points of each kind of shape
    **dict.fromkeys(('circle', 'rectangle', 'line', 'mask'), (2, 2)),
    **{'point': (1, 1), 'oriented_rectangle': (4, 4), 'linestrip': (2, None), 'polygon': (3, None)},
}


@dataclass(frozen=True)
class Shape:
    """An object: its label, its kind, its points and, of the kind mask, the pixels of its box, bool (h, w)."""

    label: str
    kind: str
    points: Sequence[Point]
    mask: Optional[np.ndarray] = None


def read_labelme(root: Path) -> Annotations:
    """The images below a folder that a JSON file of labelme describes."""
    files = files_below(root)
    index, found, problems = ImageIndex(root, files), Annotations(), Problems()
    documents = [path for path in files if path.suffix.lower() == '.json']
    others: list[Path] = []
    degenerate: list[Path] = []
    for path in documents:
        with problems:
            content = read_json(path)
            if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
                others.append(path)
                continue
            found.images.append(_annotated(content, path, index, degenerate))
    problems.raise_any(len(documents))
    if not found.images:
        raise DataError(
            f'{root}: no JSON file of labelme (with "shapes") in it or below'
            + (f'; {others[0]} is none: is it --from coco?' if others else '')
        )
    found.remarks += index.remarks('a JSON file (to use one as background alone, save it in labelme without objects)')
    if others:
        found.remarks.append(f'{len(others)} JSON files are none of labelme and are left out, first {others[0]}')
    if degenerate:
        found.remarks.append(f'{len(degenerate)} polygons or lines of too few points are left out, first in {degenerate[0]}')
    return found


def _annotated(content: dict[str, Any], path: Path, index: ImageIndex, degenerate: list[Path]) -> AnnotatedImage:
    """The image that a JSON file describes; polygons and lines of too few points are added to ``degenerate``."""
    said = None
    if content.get('imageHeight') is not None and content.get('imageWidth') is not None:
        said = entry(content, 'imageHeight', int, path), entry(content, 'imageWidth', int, path)
    named = optional(content, 'imagePath', '', path)
    image = (index.find(named, path) if named else None) or index.find(path.stem, path)
    embedded: Optional[bytes] = None
    if image is None:
        embedded = _embedded(content, named, path)
        suffix = '.png' if embedded.startswith(b'\x89PNG') else '.jpg'
        image = path.with_suffix(suffix)
    size = upright_size(image if embedded is None else embedded, said, path)
    shapes = []
    for item in content['shapes']:
        shape = _shape(item, size, path)
        if shape is None:
            degenerate.append(path)
        else:
            shapes.append(shape)
    check_effort([_outline(shape) for shape in shapes], size, path)
    return AnnotatedImage(
        source=path,
        image=image,
        size=size,
        name=index.name(image),
        group=path.parent.relative_to(index.root).as_posix(),
        labels=[shape.label for shape in shapes],
        draw=partial(draw, size, shapes),
        digest=hashlib.sha256(json.dumps(content['shapes'], sort_keys=True).encode()).hexdigest(),
        content=None if embedded is None else partial(embedded_image, path),
    )


def _shape(item: Any, size: tuple[int, int], path: Path) -> Optional[Shape]:
    """A shape; None for a polygon or a line of too few points."""
    label = entry(item, 'label', str, path)
    if not label.strip():
        raise DataError(f'{path}: an object has no label')
    kind = optional(item, 'shape_type', 'polygon', path)
    if kind not in COUNTS:
        raise DataError(f'{path}: shape_type {cut(kind)} is none of {", ".join(sorted(COUNTS))}')
    corners = points(item.get('points'), path)
    fewest, most = COUNTS[kind]
    if kind in ('polygon', 'linestrip') and len(corners) < fewest:
        return None
    if len(corners) < fewest or (most and len(corners) > most):
        raise DataError(f'{path}: a shape of the kind {kind} has {len(corners)} points; expected {fewest}')
    return Shape(label, kind, corners, _mask(item, corners, size, path) if kind == 'mask' else None)


def _mask(item: dict[str, Any], corners: Sequence[Point], size: tuple[int, int], path: Path) -> np.ndarray:
    """The pixels of a mask within its box, bool (h, w)."""
    (left, top), (right, bottom) = [(int(x), int(y)) for x, y in corners]
    mask = png_mask(from_base64(entry(item, 'mask', str, path), f'{path}: mask'), f'{path}: mask')
    if mask.shape != (bottom - top + 1, right - left + 1) or min(left, top) < 0 or right >= size[1] or bottom >= size[0]:
        raise DataError(
            f'{path}: a mask of shape {mask.shape} in the box ({left}, {top}) to ({right}, {bottom}) of an image of '
            f'{size[1]}x{size[0]} pixels; they must fit'
        )
    return mask


def _embedded(content: dict[str, Any], named: str, path: Path) -> bytes:
    """The image file in a JSON file; DataError where there is none."""
    if content.get('imageData') is None:
        raise DataError(
            f'{path}: its image {cut(named or path.stem)} is not below the folder given, and imageData is empty; put the '
            'images into the folder, or give the folder that holds both'
        )
    return from_base64(entry(content, 'imageData', str, path), f'{path}: imageData')


def embedded_image(path: Path) -> bytes:
    """The image file in a JSON file; DataError where there is none."""
    return _embedded(read_json(path), '', path)


def _outline(shape: Shape) -> list[Point]:
    """The corners of what a shape covers, roughly."""
    if shape.kind == 'circle':
        (x, y), radius = shape.points[0], _radius(shape)
        return [(x - radius, y - radius), (x + radius, y - radius), (x + radius, y + radius), (x - radius, y + radius)]
    return [*shape.points]


def _radius(shape: Shape) -> float:
    (x, y), (edge_x, edge_y) = shape.points
    return math.sqrt((x - edge_x) ** 2 + (y - edge_y) ** 2)


def draw(size: tuple[int, int], shapes: Sequence[Shape], values: Mapping[str, int], background: int) -> np.ndarray:
    """The label of an image (height, width), uint8 (H, W): the value of each shape's label, later shapes over earlier ones."""
    picture = Image.new('L', size[::-1], background)
    canvas = ImageDraw.Draw(picture)
    for shape in shapes:
        value, corners = values[shape.label], list(shape.points)
        if shape.mask is not None:
            left, top = int(corners[0][0]), int(corners[0][1])
            picture.paste(value, (left, top), Image.fromarray(shape.mask))
        elif shape.kind in ('circle', 'point'):
            (x, y), radius = corners[0], _radius(shape) if shape.kind == 'circle' else POINT_RADIUS
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), outline=value, fill=value)
        elif shape.kind == 'rectangle':
            (x0, y0), (x1, y1) = corners
            canvas.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=value, fill=value)
        elif shape.kind in ('line', 'linestrip'):
            canvas.line(corners, fill=value, width=LINE_WIDTH)
        else:
            canvas.polygon(corners, outline=value, fill=value)
    return np.array(picture)
