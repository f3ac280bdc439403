"""One training at a time in a run folder: a lock of the operating system, which ends with its process, however that ends."""

import contextlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Optional

from twinseg.common.errors import UserError
from twinseg.common.files import made_folder
from twinseg.common.files.locks import is_at, lock

NAME = '.lock'  # in the run folder; says who has the lock, and is gone after a training that could tidy up
_held: set[int] = set()  # descriptors of this process


@contextmanager
def training_alone(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Keeps other trainings out of a run folder during the block. The folder is made where it is absent, and gone after the
    block where nothing was put into it.

    UserError, which names host and process, where another training is in the folder, where the folder cannot be written, and
    where it holds links to files: in a folder that somebody packed, what is written would go elsewhere.
    On NFS the lock holds between hosts, unless it is mounted with ``nolock`` or ``local_lock``: then within each host. ``tell``
    hears of a file system without locks.
    """
    with contextlib.ExitStack() as at_end:
        try:
            at_end.enter_context(made_folder(folder))
            _refuse_links(folder)
            descriptor = _locked(folder / NAME, tell)
        except OSError as error:
            raise UserError(f'{folder}: cannot be written ({error.strerror}); choose another --work-dir') from None
        _held.add(descriptor)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / NAME).unlink()  # before the lock ends: nobody else has it
            _held.discard(descriptor)
            os.close(descriptor)


def _refuse_links(folder: Path) -> None:
    for path in folder.rglob('*'):
        if path.is_symlink() and not path.is_dir():
            raise UserError(f'{path}: a link to {os.readlink(path)}; a run writes its own files: remove the link')


def _locked(path: Path, tell: Callable[[str], None]) -> int:
    """A descriptor of the file, with the lock; UserError where another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, path, tell)
            if is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f'{os.getpid()} {platform.node()}\n'.encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path, tell: Callable[[str], None]) -> None:
    try:
        has_locks = lock(descriptor)
    except BlockingIOError:
        owner = _owner(descriptor) or 'another process'
        raise UserError(
            f'{path.parent}: {owner} is training in it; wait until that has ended, or choose another --work-dir'
        ) from None
    if not has_locks:
        tell(f'warning: {path.parent}: its file system has no locks: no second training in it would be noticed')


def _owner(descriptor: int) -> Optional[str]:
    """Who has the lock; None where that has not been written yet."""
    number, _, host = os.pread(descriptor, 300, 0).decode(errors='replace').strip().partition(' ')
    return f'process {number} on {host}' if number and host else None


def _leave_it_to_the_parent() -> None:
    """In a child, such as a loader's worker: it may live longer than the training, and the lock must not."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_it_to_the_parent)
