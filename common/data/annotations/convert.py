"""Label files, lists of the splits and a recipe from the annotations of a labelling tool: ``twinseg prepare custom``.

The folder that is written holds ``images/`` (links to the images where they are, and those that the annotations alone hold),
``labels/`` (a palette PNG of class ids for each), ``train.txt``, ``val.txt`` and a recipe. Done again, it goes on where it
stopped, takes new annotations in, and replaces nothing that it did not write.
"""

import hashlib
import re
import shlex
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from twinseg.common.data.annotations.base import BYTES, AnnotatedImage, Annotations, Problems
from twinseg.common.data.annotations.classes import BACKGROUND, Classes, classes_of, similar
from twinseg.common.data.annotations.coco import read_coco
from twinseg.common.data.annotations.cvat import read_cvat
from twinseg.common.data.annotations.labelme import read_labelme
from twinseg.common.data.annotations.recipe import WRITTEN, recipe_text, write_recipe
from twinseg.common.data.annotations.supervisely import read_supervisely
from twinseg.common.data.base import OnProgress
from twinseg.common.data.classes import VOC_BORDER
from twinseg.common.data.labels import IGNORE
from twinseg.common.data.listing import list_files
from twinseg.common.errors import DataError
from twinseg.common.files import home_expanded, resolved, written_beside

READERS: dict[str, Callable[[Path], Annotations]] = {
    'labelme': read_labelme,
    'coco': read_coco,
    'cvat': read_cvat,
    'supervisely': read_supervisely,
}
SPLITS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}
VAL_FRACTION = 0.2
NEWLINE = '\n'


@dataclass(frozen=True)
class Options:
    """What a user asks for: names of the classes (``--classes``), by default those of the annotations; the share of the
    images that is validated on; the name of the class of pixels that no object covers, or that they are ignored."""

    classes: Optional[str] = None
    val_fraction: Optional[float] = None
    unlabelled: str = BACKGROUND


def convert_annotations(
    kind: str, source: Path, folder: Path, options: Options = Options(), progress: OnProgress = lambda done, total: None
) -> dict[str, str]:
    """Writes label files, lists and a recipe below ``folder`` from annotations of the tool ``kind``, a name of READERS, below
    ``source``; returns what a user is to know.

    Warns of what is left out. DataError, before anything is written, for annotations that cannot be drawn or do not fit their
    images, for unknown labels, and for files in the way; while it is written, for masks whose pixels are wrong, and for other
    images in the way. BackendError where an extra is missing.
    """
    source, folder = resolved(source), resolved(home_expanded(folder))
    if not source.exists():
        raise DataError(f'{source}: no such folder')
    if not source.is_dir() and kind != 'coco':
        raise DataError(f'{source}: no folder; give the one that holds the annotations and their images')
    if folder.is_relative_to(source):
        raise DataError(f'{folder}: lies in the folder of the annotations, whose images are looked up; choose another --folder')
    found = READERS[kind](source)
    _check_names(found.images)
    classes = classes_of(found, options.classes, options.unlabelled)
    for remark in [*found.remarks, *similar(classes.names)]:
        warnings.warn(remark, stacklevel=2)
    splits = _split(found.images, folder, options.val_fraction)
    recipe = folder / f'{source.stem if source.is_file() else source.name}.yaml'
    _check_targets(folder, found.images, [*(f'{split}.txt' for split in splits), recipe.name])
    for remark in _forgotten(folder, found.images):
        warnings.warn(remark, stacklevel=2)

    shares: Counter[int] = Counter()
    problems = Problems()
    for done, image in enumerate(found.images, 1):
        with problems:
            _place_image(image, folder / 'images' / _file_name(image))
            shares.update(_write_label(image, folder / 'labels' / f'{image.name}.png', classes))
        progress(done, len(found.images))
    problems.raise_any(len(found.images))
    for split, names in splits.items():
        with written_beside(folder / f'{split}.txt') as part:
            part.write_bytes(f'# {WRITTEN}\n{"".join(f"{name}{NEWLINE}" for name in names)}'.encode(*BYTES))
    kept = write_recipe(recipe, recipe_text(folder, classes, splits, found.images))
    return {
        'images': ', '.join(f'{len(names)} for {split}' for split, names in splits.items()),
        'classes': _class_shares(classes, shares),
        'labels': str(folder / 'labels'),
        'recipe': f'{recipe}{kept}',
        'next': f'twinseg browse {shlex.quote(str(recipe))}; twinseg train {shlex.quote(str(recipe))}',
    }


def _check_names(images: Sequence[AnnotatedImage]) -> None:
    """DataError where two annotations are of one image, two images would have one label file, or a list cannot hold a name."""
    first: dict[str, AnnotatedImage] = {}
    for image in images:
        if NEWLINE in str(image.image) or '\r' in str(image.image):
            raise DataError(f'{image.image}: a line break in the name of an image; rename it')
        other = first.setdefault(image.name, image)
        if other is not image:
            what = (
                'annotate one image' if other.image == image.image else f'have images of one name: {other.image}, {image.image}'
            )
            raise DataError(f'{other.source} and {image.source} {what}; remove one of them')


# Splits


def _split(images: Sequence[AnnotatedImage], folder: Path, fraction: Optional[float]) -> dict[str, list[str]]:
    """Files of the images by split: as folders, lists or files of the annotations are called, else a fraction for validation.

    Without a ``fraction`` the images that the lists of an earlier call name keep their splits. Some that are called ``test``
    are neither trained nor validated on.
    """
    named = {_file_name(image): _named_split(image.group) for image in images}
    if fraction is None and {'train', 'val'} <= {*named.values()}:
        splits: dict[str, list[str]] = {'train': [], 'val': [], 'test': []}
        for name, split in sorted(named.items()):
            splits[split or 'train'].append(name)
        return {split: names for split, names in splits.items() if names}
    test = sorted(name for name, split in named.items() if split == 'test')
    test = test if len(test) < len(named) else []  # all of them: the folder's name says nothing
    everything = sorted({*named} - {*test})
    if len(everything) < 2:
        raise DataError(f'{images[0].source}: 1 image cannot be divided into training and validation; annotate more')
    before = {split: _listed(folder / f'{split}.txt') if fraction is None else set() for split in ('train', 'val')}
    val = {name for name in everything if name in before['val']}
    wanted = min(max(round((VAL_FRACTION if fraction is None else fraction) * len(everything)), 1), len(everything) - 1)
    free = [name for name in everything if name not in before['train'] and name not in val]
    ranked = sorted(free, key=lambda name: hashlib.sha256(name.encode(*BYTES)).digest())
    val |= {*ranked[: max(wanted - len(val), 0)]}
    splits = {'train': [name for name in everything if name not in val], 'val': sorted(val), 'test': test}
    return {split: names for split, names in splits.items() if names}


def _named_split(group: str) -> Optional[str]:
    """The split that a folder, a list or a file is called after: instances_val2017 is val."""
    words = re.findall(r'[a-z]+', group.casefold())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), None)


def _listed(path: Path) -> set[str]:
    """The names in a list of ours; none where there is no such list."""
    if not path.is_file():
        return set()
    return {line for line in path.read_bytes().decode(*BYTES).split(NEWLINE) if line and not line.startswith(f'# {WRITTEN}')}


# Files


def _file_name(image: AnnotatedImage) -> str:
    """The path of an image below the folder of the images."""
    return image.name + image.image.suffix


def _check_targets(folder: Path, images: Sequence[AnnotatedImage], texts: Sequence[str]) -> None:
    """DataError where a file is in the way that this command did not write."""
    labels = [folder / 'labels' / f'{image.name}.png' for image in images]
    for path in [*labels, *(folder / name for name in texts)]:
        if path.exists() and not _is_ours(path):
            raise DataError(f'{path}: is there, and was not {WRITTEN}; choose another --folder')


def _forgotten(folder: Path, images: Sequence[AnnotatedImage]) -> list[str]:
    """A sentence on the label files of an earlier call whose images are no longer annotated, if there are any."""
    if not (folder / 'labels').is_dir():
        return []
    names = {f'{image.name}.png' for image in images}
    others = [name for name in list_files(folder / 'labels').names if name not in names]
    return [f'{len(others)} labels in {folder / "labels"} belong to no annotated image, first {others[0]}'] if others else []


def _is_ours(path: Path) -> bool:
    """Whether a file says that this command wrote it."""
    try:
        if path.suffix != '.png':
            with path.open(encoding='utf-8', errors='replace') as file:
                return WRITTEN in file.readline(1 << 12)
        return _digest_in(path) is not None
    except OSError:
        return False


def _digest_in(path: Path) -> Optional[str]:
    """What a label file that TwinSeg made was drawn from; None for any other file."""
    try:
        with Image.open(path, formats=('PNG',)) as picture:
            said = picture.info.get('Software')
            return str(picture.info.get('Comment', '')) if said == WRITTEN else None
    except Exception:  # whatever it is, it is not ours
        return None


def _write_label(image: AnnotatedImage, target: Path, classes: Classes) -> Counter[int]:
    """Draws a label unless that was done before; the pixels of each id."""
    facts = [image.digest, image.size, classes.names, classes.palette, sorted(classes.ids.items()), classes.background]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    label = _drawn(target, digest)
    if label is None:
        label = image.draw(classes.ids, classes.background)
        info = PngInfo()
        info.add_text('Software', WRITTEN)
        info.add_text('Comment', digest)
        colours = classes.palette + [[0, 0, 0]] * (IGNORE - len(classes.palette)) + [[*VOC_BORDER]]
        indexed = Image.fromarray(label, 'P')
        indexed.putpalette(np.ravel(colours).tolist())
        with written_beside(target, synced=False) as part:
            indexed.save(part, pnginfo=info)
    counts = np.bincount(label.ravel(), minlength=256)
    return Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})


def _drawn(path: Path, digest: str) -> Optional[np.ndarray]:
    """The ids of a label file that was drawn from the same; None for any other file."""
    if _digest_in(path) != digest:
        return None
    try:
        with Image.open(path, formats=('PNG',)) as picture:
            return np.array(picture)
    except Exception:  # broken since: drawn again
        return None


def _place_image(image: AnnotatedImage, target: Path) -> None:
    """Makes a link to an image where it is, or, where the file system has none, a copy; writes one that its annotation holds.
    DataError where another file is in the way."""
    if target.is_symlink() and resolved(target) == resolved(image.image):
        return
    if target.exists():
        content = image.image.read_bytes() if image.content is None else image.content()
        if target.is_symlink() or target.read_bytes() != content:
            raise DataError(f'{target}: is there, and is another image; choose another --folder')
        return
    with written_beside(target, synced=False) as part:
        if image.content is not None:
            part.write_bytes(image.content())
            return
        try:
            part.symlink_to(image.image)
        except OSError:
            part.write_bytes(image.image.read_bytes())


def _class_shares(classes: Classes, pixels: Mapping[int, int]) -> str:
    """Text: the classes with their shares of all pixels."""
    total = sum(pixels.values())
    rows = {**dict(enumerate(classes.names)), IGNORE: 'ignored'}
    return ', '.join(
        f'{value}: {name} {100 * pixels.get(value, 0) / total:.1f} %'
        for value, name in rows.items()
        if value < IGNORE or pixels.get(value)
    )
