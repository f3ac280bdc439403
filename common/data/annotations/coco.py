"""Annotations in COCO's format: one JSON file for many images, drawn as pycocotools' ``annToMask`` draws them.

Objects lie in the order of the file, later ones over earlier ones; regions that stand for a crowd (``iscrowd``) lie below all
others and have their category's class, as in COCO's own maps of stuff and things.
"""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np

from twinseg.common.data.annotations.base import (
    MAX_PAINTED,
    AnnotatedImage,
    Annotations,
    ImageIndex,
    Point,
    Problems,
    check_effort,
    check_size,
    cut,
    entry,
    files_below,
    points,
    read_json,
    upright_size,
)
from twinseg.common.errors import DataError, require

MAX_SHIFT = 60  # bits of a packed count
MARGIN = 2  # pixels around an outline within which it is drawn, so that the edge of the part does not cut it


@dataclass(frozen=True)
class RunLengths:
    """A mask of the whole image as lengths of runs, int64, column by column: pixels outside, inside, outside, ..."""

    counts: np.ndarray


@dataclass(frozen=True)
class Object:
    """An object: its category's name and either the outlines of its parts or its mask."""

    label: str
    shape: Union[Sequence[Sequence[Point]], RunLengths]


def read_coco(root: Path) -> Annotations:
    """The images that the COCO files below a folder describe; or those of one file, with the images below its folder.

    BackendError where pycocotools is not installed.
    """
    require('pycocotools', 'coco')
    folder = root if root.is_dir() else root.parent
    files = files_below(folder)
    index, found, problems = ImageIndex(folder, files), Annotations(), Problems()
    documents = [path for path in files if path.suffix.lower() == '.json'] if root.is_dir() else [root]
    categories: dict[int, str] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for path in documents:
        content = read_json(path)
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ('images', 'annotations')):
            left_out['JSON files are none of COCO (with "images" and "annotations") and'].append(str(path))
            continue
        own = _categories(content, path)
        different = [key for key in own if key in categories and categories[key] != own[key]]
        if different:
            key = different[0]
            raise DataError(f'{path}: the category {key} is {cut(own[key])} here and {cut(categories[key])} in another file')
        categories |= own
        _add_images(content, own, path, index, found, left_out, problems)
    problems.raise_any(len(found.images) + len(problems.messages))
    if not found.images:
        raise DataError(f'{root}: no JSON file of COCO (with "images" and "annotations") {"in it or below" * root.is_dir()}')
    if not any(image.labels for image in found.images):
        raise DataError(f'{root}: no object has a segmentation; boxes and key points alone make no labels')
    found.classes = [categories[key] for key in sorted(categories)]
    found.remarks += [f'{len(names)} {what} are left out, first {names[0]}' for what, names in left_out.items()]
    found.remarks += index.remarks('an entry in a COCO file')
    return found


def _categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Names by id; what is nothing but the heading of the others (Roboflow's category 0) is none."""
    listed = entry(content, 'categories', list, path)
    names = {entry(item, 'id', int, path): entry(item, 'name', str, path) for item in listed}
    if len(names) < len(listed) or len(set(names.values())) < len(names):
        raise DataError(f'{path}: categories have equal ids or equal names')
    used = {
        item['category_id']
        for item in content['annotations']
        if isinstance(item, dict) and type(item.get('category_id')) is int
    }
    above = {str(item.get('supercategory')) for item in listed if item['name'] != item.get('supercategory')}
    return {key: name for key, name in names.items() if key in used or name not in above}


def _add_images(
    content: dict[str, Any],
    categories: Mapping[int, str],
    path: Path,
    index: ImageIndex,
    found: Annotations,
    left_out: dict[str, list[str]],
    problems: Problems,
) -> None:
    """Adds the images of one file to ``found``, what is not used to ``left_out``."""
    by_image: dict[int, list[Any]] = defaultdict(list)
    for item in content['annotations']:
        by_image[entry(item, 'image_id', int, path)].append(item)
    seen: set[int] = set()
    for item in content['images']:
        key, named = entry(item, 'id', int, path), entry(item, 'file_name', str, path)
        if key in seen:
            raise DataError(f'{path}: two images have the id {key}')
        seen.add(key)
        with problems:
            found.images.append(_annotated(item, named, by_image[key], categories, path, index, left_out))
    unknown = sorted(set(by_image) - seen)
    if unknown:
        raise DataError(f'{path}: {len(unknown)} image_id of annotations are no image, first {unknown[0]}')


def _annotated(
    item: dict[str, Any],
    named: str,
    annotations: Sequence[Any],
    categories: Mapping[int, str],
    path: Path,
    index: ImageIndex,
    left_out: dict[str, list[str]],
) -> AnnotatedImage:
    image = index.find(named, path)
    if image is None:
        raise DataError(f'{path}: its image {cut(named)} is not below {index.root}; put the images there')
    size = entry(item, 'height', int, path), entry(item, 'width', int, path)
    check_size(size, path)
    size = upright_size(image, size, path)
    objects: list[tuple[bool, Object]] = []
    for annotation in annotations:
        category = entry(annotation, 'category_id', int, path)
        if category not in categories:
            raise DataError(f'{path}: category_id {category} is none of the categories')
        shape = _shape(annotation.get('segmentation'), size, path)
        if shape is None:
            left_out['objects without a polygon of 3 points or a mask (boxes, key points)'].append(f'on {cut(named)}')
        else:
            objects.append((bool(annotation.get('iscrowd')), Object(categories[category], shape)))
    ordered = [thing for _, thing in sorted(objects, key=lambda pair: not pair[0])]
    outlines = [[(0, 0), *outline] for thing in ordered if not isinstance(thing.shape, RunLengths) for outline in thing.shape]
    check_effort(outlines, size, path)
    masks = sum(isinstance(thing.shape, RunLengths) for thing in ordered)
    if masks * size[0] * size[1] > MAX_PAINTED:
        raise DataError(f'{path}: {masks} masks on {cut(named)}, more than {MAX_PAINTED} pixels together')
    return AnnotatedImage(
        source=path,
        image=image,
        size=size,
        name=index.name(image),
        group='/'.join([*image.relative_to(index.root).parts[:-1], path.stem]),
        labels=[thing.label for thing in ordered],
        draw=partial(draw, size, ordered),
        digest=hashlib.sha256(
            json.dumps([[part.get(key) for key in ('category_id', 'segmentation', 'iscrowd')] for part in annotations]).encode()
        ).hexdigest(),
    )


def _shape(value: Any, size: tuple[int, int], path: Path) -> Optional[Union[list[list[Point]], RunLengths]]:
    """Outlines or a mask; None where there is none."""
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        if entry(value, 'size', list, path) != [*size]:
            raise DataError(f'{path}: a mask of size {str(value["size"])[:40]}; its image has {[*size]} (height, width)')
        counts = value.get('counts')
        if isinstance(counts, str):
            counts = unpacked(counts)
        if not isinstance(counts, list) or not all(type(number) is int and number >= 0 for number in counts):
            raise DataError(f'{path}: counts of a mask are neither a list of whole numbers nor such a list packed in a text')
        if sum(counts) != size[0] * size[1]:
            raise DataError(f'{path}: counts of a mask make {sum(counts):.9g} pixels; its image has {size[0] * size[1]}')
        return RunLengths(np.array(counts, np.int64))
    if not isinstance(value, list):
        raise DataError(f'{path}: a segmentation is a {type(value).__name__}; expected polygons, or a mask with counts')
    outlines = []
    for numbers in value:
        if not isinstance(numbers, list) or len(numbers) % 2:
            raise DataError(f'{path}: a polygon is no list of x, y, x, y, ...')
        outline = points([numbers[start : start + 2] for start in range(0, len(numbers), 2)], path)
        if len(outline) > 2:
            outlines.append(outline)
    return outlines or None


def draw(size: tuple[int, int], objects: Sequence[Object], values: Mapping[str, int], background: int) -> np.ndarray:
    """The label of an image (height, width), uint8 (H, W): the value of each object's label, later objects over earlier
    ones."""
    label = np.full(size, background, np.uint8)
    for thing in objects:
        if isinstance(thing.shape, RunLengths):
            inside = np.repeat(np.arange(len(thing.shape.counts)) % 2 == 1, thing.shape.counts)
            label[inside.reshape(size[::-1]).T] = values[thing.label]
        else:
            for outline in thing.shape:
                _paint(label, outline, values[thing.label])
    return label


def unpacked(text: str) -> Optional[list[int]]:
    """The counts that a text holds, as pycocotools packs them (maskApi.c, rleToString): 5 bits a character, the lowest
    first, of the difference to the count before the last one; None for a text that is not of this kind.

    pycocotools itself does not check them: for too few it returns memory that nobody has written.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > MAX_SHIFT:
            return None
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (1 << shift) * (code >> 4 & 1)
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return None if shift else counts


def _paint(label: np.ndarray, outline: Sequence[Point], value: int) -> None:
    """Fills an outline in ``label``, by pycocotools, in a part of the image that begins at its corner: elsewhere other sums
    would be rounded."""
    from pycocotools import mask as coco

    corners = np.array(outline)
    low = np.maximum(np.floor(corners.min(0)).astype(int) - MARGIN, 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + MARGIN + 1, label.shape[::-1])
    if (low >= high).any():
        return
    [packed] = coco.frPyObjects([corners.ravel().tolist()], high[1], high[0])
    mask = coco.decode(packed)[low[1] :, low[0] :].astype(bool)
    label[low[1] : high[1], low[0] : high[0]][mask] = value
