"""The files of a folder: one set of rules for every data set, both tasks, and prediction.

An image is known by its suffix, in any case. What begins with a dot, and what systems leave in folders, is no data. Links to
files and folders are followed. Whatever is not used is counted, with the reason.
"""

import errno
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from twinseg.common.errors import DataError
from twinseg.common.printable import printable

IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.dib', '.gif', '.tif', '.tiff', '.webp'),
    *('.ppm', '.pgm', '.pbm', '.pnm', '.jp2', '.j2k', '.avif', '.mpo'),
)
SYSTEM_NAMES = {  # what Windows, macOS and network storages leave in folders, in lower case
    *('thumbs.db', 'ehthumbs.db', 'desktop.ini', '$recycle.bin', 'system volume information'),
    *('__macosx', 'icon\r', '@eadir', '#recycle', 'lost+found', '__pycache__'),
}
MAX_DEPTH = 32  # folders in folders
MAX_FOLDERS = 1 << 20  # folders below one folder: links that lead crosswise multiply them
SHOWN = 3  # names that a note gives
HIDDEN = 'hidden'
LOOP = 'link(s) to a folder above'
NOWHERE = 'link(s) to nothing'
NO_FILE = 'special file(s)'
FOLDERS = 'folder(s)'


@dataclass(frozen=True)
class Note:
    """``count`` files that a data set does not use: the reason, as a noun with ``(s)`` for many, and the first names."""

    reason: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        reason = self.reason.replace('(s)', '' if self.count == 1 else 's')
        return f'{self.count} {reason} ({some(self.first, self.count)})'


@dataclass(frozen=True)
class FileFacts:
    """What is known of the files of a data set beside its samples: ``unused`` ones, counted by reason, and where images lead
    that are ``links``, by path."""

    unused: tuple[Note, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def only_hidden(self) -> bool:
        """Whether no other files are unused than those that nobody takes for data."""
        return all(note.reason == HIDDEN for note in self.unused)

    def __str__(self) -> str:
        """Files that are not used, by reason; empty where there are none."""
        if not self.unused:
            return ''
        count = sum(note.count for note in self.unused)
        return f'{count} file{" is" if count == 1 else "s are"} not used: {", ".join(map(str, self.unused))}'


NO_FACTS = FileFacts()


class Tally:
    """Counts files that are not used by reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}

    def add(self, reason: str, *names: str) -> None:
        """Counts some files for one reason."""
        self._count(reason, len(names), names)

    def include(self, notes: Iterable[Note]) -> None:
        """Counts what another count has found."""
        for note in notes:
            self._count(note.reason, note.count, note.first)

    def _count(self, reason: str, count: int, names: Sequence[str]) -> None:
        if count:
            self._counts[reason] = self._counts.get(reason, 0) + count
            first = self._first.setdefault(reason, [])
            first.extend(names[: SHOWN - len(first)])

    def notes(self) -> tuple[Note, ...]:
        """One note for each reason, the most frequent first."""
        ordered = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return tuple(Note(reason, self._counts[reason], tuple(self._first[reason])) for reason in ordered)


@dataclass(frozen=True)
class Listing:
    """The files below a folder: ``names`` from there, with ``/`` between folders, sorted folder by folder; ``notes`` of what
    is not used; and where files lead that are ``links``, by name."""

    folder: Path
    names: list[str]
    notes: tuple[Note, ...] = ()
    links: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The path of one of the names."""
        return self.folder / name


def list_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES, recursive: bool = True) -> Listing:
    """The files below a folder whose names end in one of the ``suffixes``, given in lower case; without ``recursive``, only
    those in the folder itself.

    Hidden files and folders, and what systems leave, are ignored; a link to a folder above is not followed. DataError for
    a folder that cannot be read, or that is more than 32 deep.
    """
    tally, endings = Tally(), tuple(suffixes)
    names: list[str] = []
    links: dict[str, str] = {}
    for name, entry in _walk(folder, recursive, tally, endings, names):
        if not name.lower().endswith(endings):
            tally.add(kind_of(name), name)
        elif not _is(entry.is_file):
            tally.add(NOWHERE if entry.is_symlink() else NO_FILE, name)
        else:
            names.append(name)
            if entry.is_symlink():
                links[name] = os.path.realpath(entry.path)
    return Listing(folder, names, tally.notes(), links)


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones and those of the system left out, sorted. DataError when it cannot be
    read."""
    return [entry.name for entry in _entries(folder) if not is_hidden(entry.name) and _is(entry.is_dir)]


def is_image(name: str) -> bool:
    """Whether a file's name ends as those of images do."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems leave: no data."""
    return name.startswith('.') or name.lower() in SYSTEM_NAMES


def kind_of(name: str) -> str:
    """The suffix of a file's name in lower case, for a note."""
    return os.path.splitext(name)[1].lower() or 'file(s) without a suffix'


def same_name(name: str) -> str:
    """A name in the form in which names are compared: macOS writes accents as characters of their own (NFD), others do not."""
    return name if name.isascii() else unicodedata.normalize('NFC', name)


def some(names: Sequence[str], count: int = 0) -> str:
    """The first names as printable text, for a message, and dots where there are more."""
    return ', '.join(map(printable, names[:SHOWN])) + (', ...' if max(count, len(names)) > SHOWN else '')


def _walk(
    folder: Path, recursive: bool, tally: Tally, endings: tuple[str, ...], names: list[str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Goes through a folder and those below it, sorted; folders are read when their turn comes. Names with one of the endings
    that are files and no links, nearly all there are, are appended to ``names``; others that are no folders are yielded."""
    stack: list[tuple[str, Iterator[os.DirEntry[str]], set[tuple[int, int]]]] = [
        ('', iter(_entries(folder)), {_identity(folder)})
    ]
    read = 1
    while stack:
        above, entries, parents = stack[-1]
        for entry in entries:
            name = above + entry.name
            if is_hidden(entry.name):
                tally.add(HIDDEN, name)
            elif name.lower().endswith(endings) and entry.is_file(follow_symlinks=False):
                names.append(name)
            elif not _is(entry.is_dir):
                yield name, entry
            elif not recursive:
                tally.add(FOLDERS, name)
            elif (identity := _identity(Path(entry.path))) in parents:
                tally.add(LOOP, name)
            else:
                read += 1
                if len(stack) > MAX_DEPTH:
                    raise DataError(f'{entry.path}: more than {MAX_DEPTH} folders deep')
                if read > MAX_FOLDERS:
                    raise DataError(f'{folder}: more than {MAX_FOLDERS} folders below it; do links lead crosswise?')
                stack.append((name + '/', iter(_entries(entry.path)), parents | {identity}))
                break
        else:
            stack.pop()


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; DataError when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=attrgetter('name'))
    except OSError as error:
        raise DataError(f'{folder}: not readable ({error.strerror})') from None


def _is(test: Callable[[], bool]) -> bool:
    """What ``is_file`` or ``is_dir`` of an entry says; False for a link that leads to itself."""
    try:
        return test()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise DataError(f'{error.filename}: not readable ({error.strerror})') from None


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from every other, by whatever name; DataError when it cannot be read."""
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f'{folder}: not readable ({error.strerror})') from None
    return status.st_dev, status.st_ino
