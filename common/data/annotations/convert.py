"""Label files, lists of the splits and a recipe from the annotations of a labelling tool: ``twinseg prepare custom``.

The folder that is written holds ``images/`` (links to the images where they are, and those that the annotations alone hold),
``labels/`` (a palette PNG of class ids for each), ``train.txt``, ``val.txt`` and a recipe. Done again, it goes on where it
stopped, takes new annotations in, and replaces nothing that it did not write.
"""

import hashlib
import os
import re
import shlex
import statistics
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from twinseg.common.data.annotations.base import AnnotatedImage, Annotations, Problems
from twinseg.common.data.annotations.coco import read_coco
from twinseg.common.data.annotations.cvat import read_cvat
from twinseg.common.data.annotations.labelme import read_labelme
from twinseg.common.data.annotations.supervisely import read_supervisely
from twinseg.common.data.base import OnProgress
from twinseg.common.data.classes import VOC_BORDER, default_palette
from twinseg.common.data.labels import IGNORE, UNMAPPED
from twinseg.common.data.listing import list_files
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import home_expanded, write_text, written_beside
from twinseg.common.settings import yaml_text

READERS: dict[str, Callable[[Path], Annotations]] = {
    'labelme': read_labelme,
    'coco': read_coco,
    'cvat': read_cvat,
    'supervisely': read_supervisely,
}
IGNORED = '__ignore__'  # labelme's label of pixels that are not to count
BACKGROUND = 'background'
BACKGROUNDS = ('background', '_background_', '__background__')  # as labelme and others call it
WRITTEN = 'written by twinseg prepare custom'  # how a file says that it may be replaced
SPLITS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}
VAL_FRACTION = 0.2
BASE = 'fastscnn/fast_scnn_camvid-360x480'
LONG_SIDE = 768  # pixels of the longer side at which the recipe trains and evaluates larger images
CROP = 384  # largest side of its crops
STRIDE = 32  # pixels of which the crops' sides are multiples
NEWLINE = '\n'
BYTES = ('utf-8', 'surrogateescape')  # as names of files are read: any bytes
STEPS, WARM_UP, INTERVAL, BATCH = 600, 50, 100, 4  # of its training: minutes on a CPU


@dataclass(frozen=True)
class Options:
    """What a user asks for: names of the classes (``--classes``), by default those of the annotations; the share of the
    images that is validated on; the name of the class of pixels that no object covers, or that they are ignored."""

    classes: Optional[str] = None
    val_fraction: Optional[float] = None
    unlabelled: str = BACKGROUND


@dataclass(frozen=True)
class Classes:
    """``names`` in the order of their ids, a colour for each, the id of every label, and that of the pixels without one."""

    names: list[str]
    palette: list[list[int]]
    ids: dict[str, int]
    background: int


def convert_annotations(
    kind: str, source: Path, folder: Path, options: Options = Options(), progress: OnProgress = lambda done, total: None
) -> dict[str, str]:
    """Writes label files, lists and a recipe below ``folder`` from annotations of the tool ``kind``, a name of READERS, below
    ``source``; returns what a user is to know.

    Warns of what is left out. DataError, before anything is written, for annotations that cannot be drawn or do not fit their
    images, for unknown labels, and for files in the way; BackendError where an extra is missing.
    """
    source, folder = source.resolve(), home_expanded(folder).resolve()
    if not source.exists():
        raise DataError(f'{source}: no such folder')
    if not source.is_dir() and kind != 'coco':
        raise DataError(f'{source}: no folder; give the one that holds the annotations and their images')
    if folder.is_relative_to(source):
        raise DataError(f'{folder}: lies in the folder of the annotations, whose images are looked up; choose another --folder')
    found = READERS[kind](source)
    _check_names(found.images)
    classes = _classes(found, options)
    for remark in [*found.remarks, *_similar(classes.names)]:
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
    text = _recipe(folder, classes, splits, found.images)
    kept = _write_recipe(recipe, text)
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


# Classes


def _classes(found: Annotations, options: Options) -> Classes:
    """The classes, and which label means which."""
    counts = Counter(label for image in found.images for label in image.labels)
    if options.classes is None:
        names = found.classes if found.classes is not None else sorted(counts)
        aliases: dict[str, str] = {}
    else:
        names, aliases = read_classes(options.classes, {*counts, *(found.classes or ())})
    names = [name for name in dict.fromkeys(names) if name != IGNORED]
    background = _background(names, options.unlabelled)
    if options.unlabelled == 'ignored':
        value = IGNORE
    else:
        names = names if background in names else [background, *names]
        value = names.index(background)
    ids = {IGNORED: IGNORE, **{name: names.index(name) for name in names}}
    wrong = sorted({target for target in aliases.values() if target not in ids})
    if wrong:
        raise UserError(f'--classes: {", ".join(map(repr, wrong))} after = is no class')
    ids |= {label: ids[target] for label, target in aliases.items()}
    unknown = {label: counts[label] for label in sorted({*counts, *(found.classes or ())}) if label not in ids}
    if unknown:
        listed = ', '.join(f'{label!r}{f" ({count} objects)" if count else ""}' for label, count in unknown.items())
        raise DataError(
            f'labels that --classes does not name: {listed}; add them, or say what they are with LABEL=CLASS or LABEL={IGNORED}'
        )
    if not names:
        raise DataError('no object has a label: there are no classes')
    if len(names) >= UNMAPPED:
        raise DataError(f'{len(names)} classes; at most {UNMAPPED - 1} fit into 8-bit labels')
    return Classes(names, _palette(names, background, found.colours), ids, value)


def read_classes(text: str, labels: set[str]) -> tuple[list[str], dict[str, str]]:
    """Names of classes, and LABEL=CLASS pairs, from a file with one a line or from a list with commas; a text that is one of
    the ``labels`` is a name whatever is in it. UserError where there is no name."""
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):  # False for a text that is too long for a path
        try:
            words = path.read_text(encoding='utf-8-sig').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'--classes: {path}: not readable ({getattr(error, "strerror", None) or error})') from None
    elif path.suffix in ('.txt', '.names', '.csv') or '/' in text and ',' not in text:
        raise UserError(f'--classes: {path}: no such file')
    else:
        words = text.split(',')
    names: list[str] = []
    aliases: dict[str, str] = {}
    for word in words:
        label, sign, target = word.rpartition('=')
        if word in labels or not sign:
            names.append(word if word in labels else word.strip())
        else:
            aliases[label if label in labels else label.strip()] = target.strip()
    names = [name for name in names if name]
    if not names:
        raise UserError(f'--classes {text!r}: names no class')
    return names, aliases


def _background(names: Sequence[str], unlabelled: str) -> str:
    """Name of the class of the pixels without an object."""
    usual = next((name for name in names if name.casefold() in BACKGROUNDS), BACKGROUND)
    if unlabelled in (BACKGROUND, 'ignored'):
        return usual
    if unlabelled not in names:
        raise UserError(f'--unlabelled {unlabelled}: expected background, ignored or a class: {", ".join(names)}')
    return unlabelled


def _palette(names: Sequence[str], background: str, colours: Mapping[str, tuple[int, int, int]]) -> list[list[int]]:
    """A colour for each class: the tool's, where all differ; else black for the background and Pascal VOC's series."""
    given = {name: colours.get(name, (0, 0, 0) if name == background else None) for name in names}
    if None not in given.values() and len({*given.values()}) == len(names):
        return [list(colour) for colour in given.values() if colour]
    series = iter(default_palette(len(names)))
    return [[0, 0, 0] if name == background else next(series) for name in names]


def _similar(names: Sequence[str]) -> list[str]:
    """A sentence for each class that another one's name differs from in case or blanks alone."""
    first: dict[str, str] = {}
    remarks = []
    for name in names:
        other = first.setdefault(' '.join(name.casefold().split()), name)
        if other != name:
            remarks.append(
                f'the labels {other!r} and {name!r} differ in case or blanks alone and are two classes; --classes with '
                f'{name}={other} makes them one'
            )
    return remarks


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
    """What a label file of ours was drawn from; None for any other file."""
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
    if target.is_symlink() and target.resolve() == image.image.resolve():
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


# The recipe


def _recipe(
    folder: Path,
    classes: Classes,
    splits: Mapping[str, Sequence[str]],
    images: Sequence[AnnotatedImage],
) -> str:
    """The recipe as YAML."""
    height, width = (round(statistics.median(sides)) for sides in zip(*(sorted(image.size) for image in images)))
    factor = min(LONG_SIDE / width, 1)
    base_size = [max(round(height * factor), 1), round(width * factor)]
    crop = min(max(-(-base_size[0] // STRIDE) * STRIDE, 2 * STRIDE), CROP)
    data: dict[str, Any] = {
        'set': 'custom',
        'data_url': str(folder),
        'image_dir': 'images',
        'label_dir': 'labels',
        'split_list': '{split}.txt',
        'classes': classes.names,
        'palette': classes.palette,
        'batch_size': max(min(BATCH, len(splits['train'])), 2),
    }
    sizes_of = {'base_size': base_size, 'eval_size': base_size, 'crop_size': [crop, crop]}
    schedule = {
        'max_iters': STEPS,
        'warmup_iters': WARM_UP,
        'ema_decay': 0.99,
        'class_weight': 'enet',
        'val_interval': INTERVAL,
        'checkpoint_interval': INTERVAL,
    }
    return '\n'.join(
        [
            f'base: {BASE}',
            'model_args: {bn_momentum: 0.1}  # quick statistics for few steps; of Fast-SCNN: another base may not have it',
            '# data',
            *_lines(data),
            f'# augment: images are scaled to {base_size[1]} pixels on their longer side, and cut',
            *_lines(sizes_of),
            '# schedule: in optimizer steps, with a quick average for so few; loss: weights for objects that are rare',
            *_lines(schedule),
            '',
        ]
    )


def _lines(keys: Mapping[str, Any]) -> list[str]:
    """YAML, a line for each key."""
    return [f'{key}: {yaml_text.written(value)}' for key, value in keys.items()]


def _write_recipe(path: Path, text: str) -> str:
    """Writes the recipe, unless a user changed the one that is there; what to say of it."""
    head = '# {} ({}); a recipe that is changed by hand is kept\n'
    new = head.format(WRITTEN, _short_digest(text)) + text
    if path.is_file():
        first, _, rest = path.read_text(encoding='utf-8', errors='replace').partition('\n')
        if _short_digest(rest) not in first:
            beside = path.with_name(f'{path.stem}.new.yaml')
            if rest != text:
                write_text(beside, new)
                return f' (changed by hand and kept; what it would be now: {beside})'
            return ''
    write_text(path, new)
    return ''


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode(*BYTES)).hexdigest()[:12]
