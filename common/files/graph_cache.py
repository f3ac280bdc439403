"""Compiled graphs as files between runs, under keys; the backends say what a key covers and what a file holds.

A file has the digest of its content in its name, so that one that was cut off or changed is recognised and made again. Files
are used in a folder that belongs to the user alone.
"""

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Optional

from twinseg.common.errors import UserError
from twinseg.common.files import written_beside
from twinseg.common.files.folders import cache_folder

SWITCH = 'TWINSEG_COMPILE_CACHE'  # environment variable; 0: every run compiles
LIMIT = 1 << 29  # bytes of all files; the ones that were not used for longest go first


def graph_folder(backend: str) -> Optional[Path]:
    """The folder of a backend's compiled graphs, made where it is absent; None where it is switched off, cannot be made, or
    where somebody else could have written in it."""
    if os.environ.get(SWITCH) == '0':
        return None
    try:
        folder = cache_folder() / 'graphs' / backend
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, UserError):
        return None
    mine = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if mine else None


def read(folder: Path, key: str) -> Optional[bytes]:
    """The content that was written under a key; None where there is none. A broken file is removed."""
    for path in folder.glob(f'{key}-*'):
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if path.name == _name(key, content):
                os.utime(path)
                return content
            path.unlink()
    return None


def write(folder: Path, key: str, content: bytes) -> None:
    """Keeps the content under a key, instead of what was there, where the folder can be written."""
    with contextlib.suppress(OSError):
        remove(folder, key)
        with written_beside(folder / _name(key, content), synced=False) as part:
            part.write_bytes(content)
        _shrink(folder)


def remove(folder: Path, key: str) -> None:
    """Forgets what was written under a key."""
    for path in folder.glob(f'{key}-*'):
        path.unlink(missing_ok=True)


def _name(key: str, content: bytes) -> str:
    return f'{key}-{hashlib.sha256(content).hexdigest()}'


def _shrink(folder: Path) -> None:
    files = [
        (status.st_mtime, status.st_size, path) for path in folder.iterdir() if stat.S_ISREG((status := path.stat()).st_mode)
    ]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size
