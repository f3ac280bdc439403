"""Images in a folder per class, for classifiers: ImageNet and its like, in folders or in tars that are read where they lie.

Below ``data_url``, ``<split>/<class>/**/<image>``, where any folder may be a tar of that name (``train.tar``,
``train/n01440764.tar``, the tar of tars that ImageNet is published as), or ``data_url`` itself is one. A tar is indexed when it
is opened and never unpacked: an image is read where it lies. Links and special files in it are not used.
"""

import functools
import io
import os
import reprlib
import sys
import tarfile
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Iterator, Optional, Sequence

import numpy as np
from pydantic import Strict, TypeAdapter, ValidationError

from twinseg.common import config
from twinseg.common.data import splits
from twinseg.common.data.base import Dataset, Description, image_rules_of
from twinseg.common.data.classes import default_palette
from twinseg.common.data.listing import (
    HIDDEN,
    IMAGE_SUFFIXES,
    NO_FACTS,
    FileFacts,
    Note,
    Tally,
    is_hidden,
    is_image,
    kind_of,
    list_files,
    list_folders,
    same_name,
)
from twinseg.common.data.packed import Packed, Texts
from twinseg.common.data.reading import AS_SEEN, ImageRules, read_image
from twinseg.common.errors import DataError
from twinseg.common.files import home_expanded, read_bounded
from twinseg.common.printable import listed

MAX_BYTES = 1 << 28  # bytes of an image's file in a tar
MAX_CLASS_FILE = 1 << 24  # bytes: 100,000 classes have less
MAX_HEADER = 1 << 20  # bytes of a tar's header: names of paths and the like
MAX_DEPTH = 16  # tars in tars, and folders in them
COMPRESSED = {b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'\x28\xb5\x2f\xfd': 'zstd'}
WHOLE = -1  # size of an image that is a file and not a part of a tar
UNREADABLE = -1  # label of an image that could not be read
PUBLISHED = 'ILSVRC2012_img_'  # beginning of the names of ImageNet's tars
LAYOUT = '{split}/<class>/<image>, with {split} or each class as a folder or an uncompressed tar'

CLASS_TABLE = TypeAdapter(dict[str, Annotated[int, Strict()] | tuple[str, str]])  # of a file that numbers the classes

Names = tuple[str, ...]  # the folders down to a file, and the file
Location = tuple[str, int, Optional[int]]  # a file on the disk, and, if it is a tar, the image's offset and size in it
Index = tuple[dict[Names, Location], tuple[Note, ...]]  # the images in a tar, and the count of what is not used


@dataclass(frozen=True, slots=True)
class ImageSample:
    """One image: a file, or ``size`` bytes from ``offset`` on in a tar."""

    name: str
    path: str
    offset: int = 0
    size: Optional[int] = None


class ImageFolder(Dataset):
    """Images and the numbers of their classes, ``labels`` int64 (N,)."""

    def __init__(
        self,
        name: str,
        split: str,
        description: Description,
        samples: Sequence[ImageSample],
        labels: np.ndarray,
        image_rules: ImageRules = AS_SEEN,
        file_facts: FileFacts = NO_FACTS,
    ):
        super().__init__(name, split, description, samples, file_facts)
        self.labels, self.image_rules = labels, image_rules

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Image, uint8 (H, W, 3) RGB, and the number of its class; DataError names a broken file."""
        return self.read_image(index), int(self.labels[index])

    def read_label(self, index: int) -> int:
        """The number of an image's class, without a look at the image."""
        return int(self.labels[index])

    def read_image(self, index: int) -> np.ndarray:
        """The image alone, uint8 (H, W, 3) RGB, read-only (see ``reading.read_image``). DataError names a broken file."""
        sample: ImageSample = self.samples[index]
        where = sample.path if sample.size is None else f'{sample.path}: {self.split}: {sample.name}'
        source = Path(sample.path) if sample.size is None else _member(sample, where)
        return read_image(source, where, self.image_rules)


def open_image_folder(root: Path, data: config.Data, split: str) -> ImageFolder:
    """The images of a split below the folder, or in the tar, ``root``, sorted by class and name.

    Classes are numbered by ``data.class_file``, or in the order of the names of the folders of ``data.train_splits``, so that
    another split that lacks some of them keeps the numbers; without these, of its own. DataError when the split, its images
    or a class are missing: it says what was found.
    """
    files = _split(root, split) if data.val_fraction is None else _share(root, data, split)
    images = sorted(files.images.items())
    if not images:
        unused = ''.join(f'; not used there: {note}' for note in files.tally.notes())
        raise DataError(
            f'{root}: no images of the split {split!r}; expected {LAYOUT.replace("{split}", split)}, images as '
            f'{" ".join(IMAGE_SUFFIXES)}; splits found: {listed(sorted(_splits(root))) or "none"}{unused}'
        )
    outside = [names for names, _ in images if len(names) == 1]
    if outside:
        raise DataError(
            f'{root}: {len(outside)} images of the split {split!r} lie in no class folder, first {outside[0][0]}; '
            f'expected {LAYOUT.replace("{split}", split)}'
        )
    samples = Packed(
        _sample,
        Texts('/'.join(names) for names, _ in images),
        Texts(path for _, (path, _, _) in images),
        array('q', (offset for _, (_, offset, _) in images)),
        array('q', (WHOLE if size is None else size for _, (_, _, size) in images)),
    )
    folders = [names[0] for names, _ in images]
    if data.class_file is not None:
        where = data.class_file
        numbers, readable = _read_classes(home_expanded(data.class_file), set(folders))
    else:
        trained = files.classes
        if data.val_fraction is None:
            trained = frozenset().union(*(_class_folders(root, name) for name in data.train_splits))
        where, readable = '+'.join(data.train_splits), sorted(trained)
        if not trained:
            where, readable = split, sorted(_class_folders(root, split))
        numbers = {folder: number for number, folder in enumerate(readable)}
        if where == split and len(numbers) > len(set(folders)):
            raise DataError(
                f'{root}: class folders of the split {split!r} without images: '
                f'{listed(sorted(set(numbers) - set(folders)))}; remove them, or give the classes by class_file'
            )
    by_name = {same_name(folder): number for folder, number in numbers.items()}
    if len(by_name) < len(numbers):
        twice = {folder for folder, number in numbers.items() if by_name[same_name(folder)] != number}
        raise DataError(f'{root}: class folders of one name, which differ in how accents are written: {listed(sorted(twice))}')
    unknown = {folder for folder in set(folders) if same_name(folder) not in by_name}
    if unknown:
        raise DataError(
            f'{root}: {len(unknown)} class folders of the split {split!r} are not among the {len(numbers)} classes '
            f'of {where}: {listed(sorted(unknown))}'
        )
    labels = np.array([by_name[same_name(folder)] for folder in folders], np.int64)
    description = Description.of(readable, default_palette(len(readable)), UNREADABLE)
    facts = FileFacts(files.tally.notes(), files.links)
    return ImageFolder(data.set, split, description, samples, labels, image_rules_of(data), facts)


def _sample(name: str, path: str, offset: int, size: int) -> ImageSample:
    return ImageSample(name, path, offset, None if size == WHOLE else size)


def _member(sample: ImageSample, where: str) -> io.BytesIO:
    """A file in a tar. The tar is opened again, so that nothing is shared between processes or threads."""
    assert sample.size is not None
    if sample.size > MAX_BYTES:
        raise DataError(f'{where}: {sample.size} bytes, more than the limit of {MAX_BYTES}')
    try:
        with open(sample.path, 'rb', buffering=0) as file:
            return io.BytesIO(os.pread(file.fileno(), sample.size, sample.offset))
    except OSError as error:
        raise DataError(f'{where}: not readable ({error.strerror})') from None


@dataclass(frozen=True)
class _Files:
    """Images by their names below a split; the count of what is no image; where images lead that are links, by path; and, of a
    share, the classes of all."""

    images: dict[Names, Location]
    tally: Tally
    links: dict[str, str]
    classes: frozenset[str] = frozenset()

    @classmethod
    def of_tar(cls, images: dict[Names, Location], notes: Sequence[Note]) -> '_Files':
        tally = Tally()
        tally.include(notes)
        return cls(images, tally, {})


def _share(root: Path, data: config.Data, split: str) -> _Files:
    """A split's share of the images of ``data.train_split``, or, where there is no such split, of all below the root, class by
    class; an image that is alone in its class is trained on."""
    assert data.val_fraction is not None
    splits.check_share(data, split)
    (train_split,) = data.train_splits
    files = _split(root, train_split)
    if files.images and data.val_split is not None and _split(root, data.val_split).images:
        raise DataError(
            f'{root}: val_fraction divides {train_split}, but there are images of the split {data.val_split!r}, too: '
            'leave out val_fraction'
        )
    if not files.images:
        files = _below(root) if root.is_dir() else _Files.of_tar(*_index(root))
    classes: dict[str, list[Names]] = {}
    for names in files.images:
        classes.setdefault(names[0], []).append(names)
    held_out: set[Names] = set()
    for images in classes.values():
        if len(images) > 1:
            chosen = splits.share(('/'.join(names) for names in images), data.val_fraction, data.split_seed)
            held_out.update(names for names in images if '/'.join(names) in chosen)
    kept = {names: place for names, place in files.images.items() if (names in held_out) == (split == data.val_split)}
    return replace(files, images=kept, classes=frozenset(classes))


def _split(root: Path, split: str) -> _Files:
    """The files of a split; none if there is no such split."""
    if root.is_file():
        images = {names[1:]: location for names, location in _unwrapped(root).items() if names[0] == split and len(names) > 1}
        return _Files.of_tar(images, _index(root)[1])
    if (root / split).is_dir():
        return _below(root / split)
    tar = next((path for path in _tars(root, split) if path.is_file()), None)
    if tar is None:
        return _Files.of_tar({}, ())
    index, notes = _index(tar)
    if all(names[0] == split and len(names) > 2 for names in index):
        index = {names[1:]: location for names, location in index.items()}
    return _Files.of_tar(index, notes)


def _splits(root: Path) -> set[str]:
    """Names that may be splits: folders and tars."""
    if root.is_file():
        return {names[0] for names in _unwrapped(root) if len(names) > 1}
    return {name.removeprefix(PUBLISHED) for name in _folders(root)}


def _class_folders(root: Path, split: str) -> set[str]:
    """The folders of the classes of a split; none if there is no such split."""
    if (root / split).is_dir():
        return _folders(root / split)
    return {names[0] for names in _split(root, split).images}


def _tars(root: Path, split: str) -> list[Path]:
    """The tars that a split may be."""
    return [root / f'{split}.tar', root / f'{PUBLISHED}{split}.tar']


def _folders(folder: Path) -> set[str]:
    """Names of the folders in a folder, and of the tars."""
    return {
        *list_folders(folder),
        *(name[: -len('.tar')] for name in list_files(folder, ('.tar',), recursive=False).names),
    }


def _below(folder: Path) -> _Files:
    """The images below a folder and in the tars there."""
    listing = list_files(folder, (*IMAGE_SUFFIXES, '.tar'))
    files = _Files({}, Tally(), {f'{folder}/{name}': target for name, target in listing.links.items()})
    files.tally.include(listing.notes)
    for name in listing.names:
        path = f'{folder}/{name}'
        if name.lower().endswith('.tar'):
            images, notes = _index(Path(path))
            above = tuple(name[: -len('.tar')].split('/'))
            files.images.update(((*above, *names), location) for names, location in images.items())
            files.tally.include(notes)
        else:
            files.images[tuple(name.split('/'))] = (path, 0, None)
    return files


def _unwrapped(tar: Path) -> dict[Names, Location]:
    """The images in a tar of splits, without the folders around all of the splits."""
    index, _ = _index(tar)
    while index and len({names[0] for names in index}) == 1 and min(map(len, index)) > 3:
        index = {names[1:]: location for names, location in index.items()}
    return index


def _index(tar: Path) -> Index:
    """The images in a tar, and what else is there, indexed once for as long as the file does not change."""
    status = tar.stat()
    return _indexed(str(tar), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _indexed(path: str, size: int, _time: int) -> Index:
    """The images in a tar, in one that holds a file twice the later one, and the count of what is not used."""
    tally = Tally()
    with open(path, 'rb', buffering=0) as file:
        images = dict(_members(path, _Part(file.fileno(), 0, size), tally))
    return images, tally.notes()


class _Part:
    """A part of a file, as tarfile reads one; only headers are read."""

    def __init__(self, descriptor: int, start: int, size: int):
        self.descriptor, self.start, self.size, self.position = descriptor, start, size, 0
        self.left = 2 * MAX_HEADER  # bytes that the headers of the next member may have

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        self.position = position

    def read(self, count: int) -> bytes:
        self.left -= count
        if not 0 <= count <= MAX_HEADER or self.left < 0:
            raise tarfile.ReadError(f'a header of more than {MAX_HEADER} bytes')
        count = max(min(count, self.size - self.position), 0)
        data = os.pread(self.descriptor, count, self.start + self.position)
        self.position += len(data)
        return data


def _members(path: str, part: _Part, tally: Tally, above: Names = ()) -> Iterator[tuple[Names, Location]]:
    """The images of a tar, and of the tars in it; what is no image is counted. DataError when it is broken or compressed."""
    where = '/'.join((path, *above))
    start = part.read(max(map(len, COMPRESSED)))
    part.seek(0)
    kind = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None)
    if kind is not None:
        raise DataError(f'{where}: compressed with {kind}; images are read where they lie, so decompress the tar')
    try:
        with tarfile.open(fileobj=part, mode='r:', encoding='utf-8', errors='replace') as tar:  # type: ignore[call-overload]
            last = -1
            while (member := tar.next()) is not None:
                tar.members = []  # by default the tar remembers all members
                part.left = 2 * MAX_HEADER
                if member.offset <= last or member.size < 0 or member.offset_data + member.size > part.size:
                    raise DataError(f'{where}: broken: {member.name!r} has {member.size} bytes from {member.offset_data} on')
                last = member.offset
                names = tuple(sys.intern(name) for name in member.name.split('/') if name not in ('', '.'))
                if not names or member.isdir():
                    continue
                stem, suffix = os.path.splitext(names[-1])
                begin = part.start + member.offset_data
                if any(map(is_hidden, names)):
                    tally.add(HIDDEN, '/'.join((*above, *names)))
                elif not member.isreg() or member.issparse():
                    tally.add('link(s) or special file(s) in a tar', '/'.join((*above, *names)))
                elif is_image(names[-1]):
                    yield (*above, *names), (path, begin, member.size)
                elif suffix.lower() == '.tar' and len(above) < MAX_DEPTH:
                    yield from _members(path, _Part(part.descriptor, begin, member.size), tally, (*above, *names[:-1], stem))
                else:
                    tally.add(kind_of(names[-1]), '/'.join((*above, *names)))
            part.seek(tar.offset)
            if any(part.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
                raise DataError(f'{where}: broken: no header at byte {tar.offset}')
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f'{where}: not readable as a tar, truncated or broken ({error})') from None


def _read_classes(path: Path, folders: set[str]) -> tuple[dict[str, int], list[str]]:
    """Number of each folder, and the readable names in the order of the numbers; DataError when the file is none of the three
    kinds, or its numbers are not 0 to n - 1."""
    try:
        text = read_bounded(path, MAX_CLASS_FILE).decode('utf-8-sig')
        entries = _from_json(text) if text.lstrip().startswith('{') else _from_lines(text, folders)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())
        raise DataError(
            f'class_file: {path}: not readable ({reason[:200]}); expected JSON {{"name": number}} or {{"number": '
            '["folder", "name"]}, or a line for each class'
        ) from None
    numbers = sorted(number for _, number, _ in entries)
    if numbers != list(range(len(numbers))):
        wrong = next(expected for expected, number in enumerate(numbers) if expected != number)
        raise DataError(f'class_file: {path}: expected the numbers 0 to {len(numbers) - 1}, each once; {wrong} is missing')
    by_folder = {folder: number for folder, number, _ in entries}
    if len(by_folder) < len(entries):
        raise DataError(f'class_file: {path}: {len(entries) - len(by_folder)} folders are listed more than once')
    return by_folder, [name for _, _, name in sorted(entries, key=lambda entry: entry[1])]


def _from_json(text: str) -> list[tuple[str, int, str]]:
    """Folder, number and readable name of each class; ValueError."""
    try:
        content = CLASS_TABLE.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first['loc']:
            raise ValueError(first['msg']) from None
        raise ValueError(f'found {reprlib.repr(first["loc"][0])}: {reprlib.repr(first["input"])}') from None
    return [(value[0], int(key), value[1]) if isinstance(value, tuple) else (key, value, key) for key, value in content.items()]


def _from_lines(text: str, folders: set[str]) -> list[tuple[str, int, str]]:
    """Folder, number and readable name of each class, from its line; a folder's name may hold blanks if it is one of the
    ``folders``."""
    entries = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines()))):
        folder, _, name = (line, '', '') if line in folders else line.replace('\t', ' ', 1).partition(' ')
        entries.append((folder, number, name.strip() or folder))
    return entries
