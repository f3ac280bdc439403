"""Which images a split has: those that a list names, or a share of all.

A list is a text file in UTF-8, with or without a byte order mark: an image a line, and, after a tab, a comma, a semicolon or
blanks, its label. Names may have blanks, and may lack their suffix; they are below the folder of the images or below the data
set's, and never lead out of it. Empty lines, lines that begin with ``#``, and a line of column names are ignored.
"""

import csv
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from twinseg.common import config
from twinseg.common.data.listing import Tally, same_name, some
from twinseg.common.errors import DataError
from twinseg.common.files import read_bounded

MAX_BYTES = 1 << 28  # bytes of a list
MAX_LINE = 1 << 13  # characters of a line that is looked at for columns: every blank in it may part two names
SHOWN = 3  # lines that an error quotes
REPEATED = 'repeated line(s) of a list'
SEPARATORS = ('\t', ',', ';', ' ')  # between an image and its label
COLUMN_NAMES = {  # in lower case: a first line of such words names no image
    *('image', 'images', 'img', 'file', 'files', 'filename', 'file_name', 'name', 'path', 'filepath', 'image_path', 'id'),
    *('label', 'labels', 'mask', 'masks', 'annotation', 'label_path', 'mask_path', 'gt', 'target', 'segmentation'),
}
WIDE = ((b'\xff\xfe\0\0', 'UTF-32'), (b'\0\0\xfe\xff', 'UTF-32'), (b'\xff\xfe', 'UTF-16'), (b'\xfe\xff', 'UTF-16'))
Find = Callable[[str], Optional[str]]  # a name in a list -> the file that it means, None where there is none


@dataclass(frozen=True)
class Line:
    """A line of a list, and its number from 1 on."""

    number: int
    text: str

    def __str__(self) -> str:
        return f'line {self.number} {self.text!r}'


@dataclass(frozen=True)
class Entry:
    """An image that a list names, and its label where the line names one: as the files are called, or as the line says where
    there is no such file."""

    line: Line
    image: str
    label: Optional[str]


def read_list(path: Path) -> list[Line]:
    """The lines of a list that are not empty; DataError where it cannot be read, is no UTF-8, or has none.

    Bytes that are no UTF-8 stay as they are, as they do in the names of files.
    """
    try:
        content = read_bounded(path, MAX_BYTES)
    except OSError as error:
        raise DataError(f'{path}: not readable ({error.strerror})') from None
    wide = next((name for mark, name in WIDE if content.startswith(mark)), 'UTF-16 or no text' if b'\0' in content else None)
    if wide:
        raise DataError(f'{path}: the list is {wide}; save it as UTF-8')
    text = content.removeprefix(b'\xef\xbb\xbf').decode('utf-8', 'surrogateescape')
    lines = [Line(number, line) for number, line in enumerate(re.split('\r\n|\n|\r', text), 1) if line.strip()]
    if not lines:
        raise DataError(f'{path}: names no image: the list is empty')
    return lines


def entries(path: Path, lines: Sequence[Line], image: Find, label: Find, tally: Tally) -> tuple[list[Entry], list[Line]]:
    """What the lines of a list name, each image once, in the list's order; and the lines that name no image.

    DataError for a name that leads out of the folder, and for an image that the list gives two labels.
    """
    named: dict[str, Entry] = {}
    unknown = []
    for line in lines:
        try:
            entry = _entry(line, image, label)
        except DataError as error:
            raise DataError(f'{path}: {line}: {error}') from None
        if entry is None:
            if not (line.text.lstrip().startswith('#') or (line is lines[0] and _has_column_names(line.text))):
                unknown.append(line)
            continue
        first = named.setdefault(entry.image, entry)
        if first.label != entry.label:
            raise DataError(f'{path}: {line} gives the image another label than {first.line}')
        if first is not entry:
            tally.add(REPEATED, line.text.strip())
    if not named and not unknown:
        raise DataError(f'{path}: names no image: every line is a comment or empty')
    return list(named.values()), unknown


def unnamed(path: Path, lines: Sequence[Line], count: int, what: str) -> str:
    """Text for an error: the lines of a list of ``count`` that do not name what they should, such as ``no image``."""
    dots = ', ...' if len(lines) > SHOWN else ''
    return f'{path}: {len(lines)} of {count} lines name {what}: {", ".join(map(str, lines[:SHOWN]))}{dots}'


class Names:
    """Finds the files that the names in a list mean, among those below a folder of the data set."""

    def __init__(self, root: Path, folder: Path, names: Sequence[str], stem: Callable[[str], Optional[str]]):
        """``names`` are the files below ``folder``; ``stem`` gives the name without its end, None for other files."""
        self._roots = [os.path.abspath(root) + '/', os.path.realpath(root) + '/']
        self._start = os.path.relpath(folder, root) + '/'
        self._folder = folder
        self._names = {same_name(name): name for name in names}
        self._names.update((name, name) for name in names)
        self._stems: dict[str, list[str]] = {}
        for name in names:
            for short in {os.path.splitext(name)[0], stem(name)} - {None}:
                self._stems.setdefault(same_name(str(short)), []).append(name)

    def __call__(self, text: str) -> Optional[str]:
        """The file of a name; None where there is none. DataError for a name that leads out of the folder, or that means
        several files."""
        for name in self._below(text):
            if found := self._names.get(name) or self._names.get(same_name(name)):
                return found
            several = self._stems.get(same_name(name)) or ([] if '/' in name else self._anywhere.get(same_name(name), []))
            if len(several) > 1:
                raise DataError(f'{name!r} means {len(several)} files in {self._folder}: {some(several)}; name one in full')
            if several:
                return several[0]
        return None

    @functools.cached_property
    def _anywhere(self) -> dict[str, list[str]]:
        """Files in folders below, by their own names, with and without their ends."""
        found: dict[str, list[str]] = {}
        for stem, names in self._stems.items():
            for key in {os.path.basename(stem), *(same_name(os.path.basename(name)) for name in names)}:
                found.setdefault(key, []).extend(name for name in names if name not in found.get(key, ()))
        return found

    def _below(self, text: str) -> Iterator[str]:
        """The name from the folder on, as it may be meant."""
        for name in dict.fromkeys((text, text.replace('\\', '/'))):
            name = next((name.removeprefix(root) for root in self._roots if name.startswith(root)), name)
            parts = [part for part in name.split('/') if part not in ('', '.')]
            if '..' in parts:
                raise DataError(f'{text!r} leads out of the folder')
            name = '/'.join(parts)
            yield name
            if name.startswith(self._start):
                yield name.removeprefix(self._start)


def check_share(data: config.Data, split: str) -> None:
    """DataError for a split that ``val_fraction`` does not make."""
    if len(data.train_splits) > 1:
        raise DataError(f'val_fraction: divides one split, but train_split names {len(data.train_splits)}; name one')
    if data.val_split is None:
        raise DataError('val_fraction: divides images for a validation split, but val_split is null; leave one of the two out')
    if data.train_split == data.val_split:
        raise DataError(f'val_fraction: train_split and val_split are both {data.train_split!r}; give them two names')
    if split not in (data.train_split, data.val_split):
        raise DataError(f'no split {split!r}: val_fraction divides the images into {data.train_split} and {data.val_split}')


def share(names: Iterable[str], fraction: float, seed: int) -> set[str]:
    """The names that are validated on: this fraction of all, rounded, at least one and not all.

    The choice depends on the names and the seed alone: names are ranked by SHA-256. DataError for fewer than two.
    """
    ranked = sorted(
        names,
        key=lambda name: hashlib.sha256(f'{seed}/{same_name(name)}'.encode('utf-8', 'surrogateescape')).digest(),
    )
    if len(ranked) < 2:
        raise DataError(f'val_fraction: {len(ranked)} image cannot be divided into training and validation')
    return set(ranked[: min(max(round(fraction * len(ranked)), 1), len(ranked) - 1)])


def _entry(line: Line, image: Find, label: Find) -> Optional[Entry]:
    """What a line names; None where it names no image."""
    incomplete = None
    for first, second in _columns(line.text):
        found = image(first)
        if found is None:
            continue
        if second is None:
            return Entry(line, found, None)
        named = label(second)
        if named is not None:
            return Entry(line, found, named)
        incomplete = incomplete or Entry(line, found, second)
    return incomplete


def _columns(text: str) -> Iterator[tuple[str, Optional[str]]]:
    """Image and label as a line may mean them: names have blanks, commas and quotes, too."""
    stripped = text.strip()
    yield from ((name, None) for name in dict.fromkeys((text, stripped)))
    if len(stripped) > MAX_LINE:
        return
    for separator in SEPARATORS:
        if separator in stripped:  # the csv module knows quotes
            row = [field.strip() for field in next(csv.reader([stripped], delimiter=separator, skipinitialspace=True))]
            while len(row) > 1 and not row[-1]:
                row.pop()
            if len(row) <= 2:
                yield row[0], row[1] if len(row) == 2 else None
    if stripped[:1] == stripped[-1:] == '"' and len(stripped) > 2:
        yield stripped[1:-1], None
    for between in re.finditer(r'\s*[,;]\s*|\s+', stripped):
        yield stripped[: between.start()], stripped[between.end() :]


def _has_column_names(text: str) -> bool:
    return {word.strip().lower() for word in re.split(r'[\t,; ]', text) if word.strip()} <= COLUMN_NAMES
