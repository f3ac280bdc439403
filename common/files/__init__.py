"""Paths as users give them; files that appear whole or not at all: written under a temporary name, synced, renamed; small
files, read up to a limit; and names of files in any bytes.

A file's name on Linux is any bytes but ``/`` and NUL, at most 255 of them. Python holds bytes that are no UTF-8 as surrogates
(PEP 383), which no encoder takes; ``printable`` shows them.
"""

import contextlib
import errno
import functools
import glob
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from twinseg.common.errors import UserError
from twinseg.common.printable import ESCAPED

PART = '.part.'  # start of the temporary names: hidden, and no pattern of finished files fits them
WRITER = re.compile(r'\.([0-9a-f]{8})-([0-9a-f]+)-([0-9a-f]+)-[0-9a-f]+(?:\.[^.]*)?$')  # end of them, as ``_writer`` makes it
DAY = 86400  # seconds
CROWDED = 1000  # files of a folder that is not looked through for every file that is written into it
PIPES = (Path('/dev'), Path('/dev/fd'), Path('/proc/self/fd'))  # folders of pipes that have a writer: <(...) of a shell
LONGEST_NAME = 255  # bytes of a file's name, in every usual file system
_numbers = itertools.count()
_crowded: set[Path] = set()  # folders of more files


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
    mark = '~' + _digest(content)[:8]
    start = content[: room - len(mark)]
    if is_text(stem):  # no half of a letter at the end
        return start.decode(errors='ignore') + mark + ending
    return os.fsdecode(start) + mark + ending


def home_expanded(path: str | Path) -> Path:
    """The path with the home folder instead of ``~`` or ``~user``; UserError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f'{path}: there is no home folder {Path(path).parts[0]}; give the path in full') from None


@contextmanager
def some_home() -> Iterator[None]:
    """A context in which there is a home folder, an empty one where the user has none: libraries ask for it at their import."""
    try:
        Path.home()
    except RuntimeError:
        with tempfile.TemporaryDirectory(prefix='twinseg-') as folder:
            os.environ['HOME'] = folder
            try:
                yield
            finally:
                del os.environ['HOME']
    else:
        yield


def resolved(path: Path) -> Path:
    """The path as an absolute one without links; OSError, which names it, for links that lead in a circle."""
    try:
        return path.resolve()
    except RuntimeError:  # of Python before 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


@contextmanager
def written_beside(path: Path, synced: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix, that replaces ``path`` when the block ends well.

    The folder is made where it is absent, and shown to be writable before the block begins. When the block raises, or moves
    the temporary file elsewhere, ``path`` stays as it was and nothing is left beside it. Where ``path`` is a link, the file
    that it leads to is written; into a device or a pipe the whole content goes at the end. Raises OSError, which names
    ``path``.

    Every block has a temporary name of its own, which says whose it is. What killed processes left in the folder is removed
    first, what running ones are writing is not (see ``remove_unfinished``).

    ``synced`` off is for thousands of small files that can be made again: they are whole or absent when the process is killed,
    though not when the machine fails.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with tempfile.TemporaryDirectory(prefix='twinseg-') as folder:
            part = Path(folder) / f'file{path.suffix}'
            yield part
            with part.open('rb') as source, path.open('wb') as target:
                shutil.copyfileobj(source, target)
        return
    target_path = resolved(path) if path.is_symlink() else path
    if path.is_symlink() and target_path.is_dir():  # before anything is written beside that folder
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part = target_path.with_name(_part_name(target_path))
    try:
        target_path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(target_path.parent)
        part.write_bytes(b'')
        part.unlink()  # some writers refuse a file that is there
        yield part
        if part.exists():
            if synced:
                _sync(part)
            os.replace(part, target_path)
            if synced:
                _sync(target_path.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part)):  # people know the file by its name
            error.filename = str(path)
        raise
    finally:
        _remove(part)


def _part_name(path: Path) -> str:
    """In UTF-8, and not too long: compiled libraries write to it."""
    ending = f'.{_writer()}{path.suffix}'
    name = fitting_name(PART + path.stem, ending)
    if is_text(name):
        return name
    digest = _digest(os.fsencode(path.name))[:16]
    return f'{PART}{digest}.{_writer()}{path.suffix if is_text(path.suffix) else ""}'


def _writer() -> str:
    """What tells a temporary name from those of other blocks, processes and hosts: host, process, its start, a number."""
    return f'{_host()}-{os.getpid():x}-{_started(os.getpid()) or 0:x}-{next(_numbers):x}'


@functools.cache
def _host() -> str:
    """Within which the numbers of processes mean something: this machine, since it was started, and this container."""
    import platform  # which --help does without

    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts += [Path('/proc/sys/kernel/random/boot_id').read_text(), os.readlink('/proc/self/ns/pid')]
    return _digest('\0'.join(facts).encode())[:8]


def _started(process: int) -> Optional[int]:
    """When a process of this machine started, in the kernel's ticks, 0 where that is not known; None where none is running."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # another user's
    try:
        fields = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return 0
    return None if fields[0] in 'ZX' else int(fields[19])  # ended, though its parent has not asked


def _remove(part: Path) -> None:
    """A temporary file, and what the library that wrote it put beside it under a name of its own."""
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
    if sys.exc_info()[0] is not None:
        with contextlib.suppress(OSError):
            for left in part.parent.glob(f'{glob.escape(part.stem)}.*'):
                left.unlink(missing_ok=True)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Makes a folder where it is absent, with those above it; what was made is gone after the block where nothing was put into
    it. Raises OSError."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:  # those within first
                path.rmdir()


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; bytes of file names that are no UTF-8 appear as escapes. Raises
    OSError."""
    with written_beside(path) as part:
        part.write_text(text, encoding='utf-8', errors=ESCAPED)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file that somebody wrote by hand, or a program for it; OSError where there are more than ``limit``, also
    of what says no size, such as a device, and for a named pipe, which may never have a writer."""
    if path.is_fifo() and path.parent not in PIPES:
        raise OSError(errno.EINVAL, 'a pipe, not a file', str(path))
    with path.open('rb') as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f'more than {limit} bytes', str(path))
    return content


def remove_unfinished(folder: Path) -> None:
    """Removes what writers that were killed left in a folder: processes of this machine that have ended; of others, which
    nobody here can ask, what was not written to for a day. A folder of many files is looked through once by a process."""
    if folder in _crowded:
        return
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            present = list(entries)
        for entry in present:
            if entry.name.startswith(PART) and _is_left(entry):
                with contextlib.suppress(OSError):
                    os.unlink(entry)
        if len(present) > CROWDED:
            _crowded.add(folder)


def _is_left(entry: os.DirEntry) -> bool:
    """Whether nobody is writing a temporary file any more."""
    writer = WRITER.search(entry.name)
    if writer is None:  # not one of TwinSeg
        return False
    if writer[1] != _host():
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY
    process, start = int(writer[2], 16), int(writer[3], 16)
    return _started(process) not in (start, 0)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(content: bytes) -> str:
    import hashlib  # loads OpenSSL, which --help does without

    return hashlib.sha256(content).hexdigest()
