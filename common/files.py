"""Paths as users give them; files that appear whole or not at all: written under a temporary name, synced, renamed; small
files, read up to a limit; and names of files in any bytes.

A file's name on Linux is any bytes but ``/`` and NUL, at most 255 of them. Python holds bytes that are no UTF-8 as surrogates
(PEP 383), which no encoder takes; ``printable`` shows them.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinseg.common.errors import UserError
from twinseg.common.printable import ESCAPED

PART = '.part.'  # start of the temporary names: hidden, and no pattern of finished files fits them
LONGEST_NAME = 255  # bytes of a file's name, in every usual file system


def is_text(path: str | Path) -> bool:
    """Whether a path is UTF-8: compiled libraries take no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def plain_path(path: Path, copied: bool = False) -> Iterator[Path]:
    """A path for compiled libraries, which take UTF-8 only: itself, or a temporary link to the file or to its folder. With
    ``copied`` it is a copy of the file, for libraries that follow links to their end before they read."""
    if is_text(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix='twinseg-') as folder:
        if copied:
            yield Path(shutil.copyfile(path, Path(folder) / f'file{path.suffix}'))
        elif not is_text(path.name):
            link = Path(folder) / (f'file{path.suffix}' if is_text(path.suffix) else 'file')
            link.symlink_to(path.absolute())
            yield link
        else:  # it may be a file that is to be written
            (Path(folder) / 'folder').symlink_to(path.parent.absolute())
            yield Path(folder) / 'folder' / path.name


def fitting_name(stem: str, ending: str, longest: int = LONGEST_NAME) -> str:
    """``stem + ending`` where that is not more than ``longest`` bytes; else the stem is cut, and a digest of it follows, so
    that different stems make different names."""
    content, room = os.fsencode(stem), longest - len(os.fsencode(ending))
    if len(content) <= room:
        return stem + ending
    mark = '~' + hashlib.sha256(content).hexdigest()[:8]
    start = content[: room - len(mark)]
    if is_text(stem):  # no half of a letter at the end
        return start.decode(errors='ignore') + mark + ending
    return os.fsdecode(start) + mark + ending


def home_expanded(path: str | Path) -> Path:
    """The path with the home folder in place of ``~`` or ``~user``; UserError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f'{path}: there is no home folder {Path(path).parts[0]}; give the path in full') from None


@contextmanager
def written_beside(path: Path, synced: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix, that takes the place of ``path`` when the block ends well.

    The folder is made where it is absent, and shown to be writable before the block begins. When the block raises, or moves
    the temporary file elsewhere, ``path`` stays as it was and nothing is left beside it. Raises OSError.

    ``synced`` off is for thousands of small files that can be made again: they are whole or absent when the process is killed,
    though not when the machine fails.
    """
    part = path.with_name(_part_name(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(b'')
        part.unlink()  # some writers refuse a file that is there
        yield part
        if part.exists():
            if synced:
                _sync(part)
            os.replace(part, path)
            if synced:
                _sync(path.parent)
    except OSError as error:
        if error.filename == str(part):  # people know the file by its name
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def _part_name(path: Path) -> str:
    """In UTF-8, and not too long: compiled libraries write to it."""
    ending = f'.{os.getpid()}{path.suffix}'
    name = fitting_name(PART + path.stem, ending)
    return (
        name
        if is_text(name)
        else PART
        + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        + f'.{os.getpid()}'
        + (path.suffix if is_text(path.suffix) else '')
    )


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; bytes of file names that are no UTF-8 appear as escapes. Raises
    OSError."""
    with written_beside(path) as part:
        part.write_text(text, encoding='utf-8', errors=ESCAPED)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file that somebody wrote by hand, or a program for it; OSError where there are more than ``limit``, also
    of what says no size, such as a device."""
    with path.open('rb') as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f'more than {limit} bytes', str(path))
    return content


def remove_unfinished(folder: Path) -> None:
    """Removes what writers that were killed left in a folder; nobody else may be writing there."""
    for part in folder.glob(f'{PART}*'):
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
