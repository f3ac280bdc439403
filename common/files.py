"""Files that appear whole or not at all: written under a temporary name, synced, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = '.part.'  # start of the temporary names: hidden, and no pattern of finished files fits them


@contextmanager
def written_beside(path: Path, synced: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix, that takes the place of ``path`` when the block ends well.

    The folder is made where it is absent, and shown to be writable before the block begins. When the block raises, or moves
    the temporary file elsewhere, ``path`` stays as it was and nothing is left beside it. Raises OSError.

    ``synced`` off is for thousands of small files that can be made again: they are whole or absent when the process is killed,
    though not when the machine fails.
    """
    part = path.with_name(f'{PART}{path.stem}.{os.getpid()}{path.suffix}')
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
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises OSError."""
    with written_beside(path) as part:
        part.write_text(text, encoding='utf-8')


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
