"""Locks of the operating system on open files: one process has it, and it ends with that process, however that ends."""

import errno
import fcntl
import os
from pathlib import Path

LOCKLESS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # a file system without locks, such as Lustre's by default


def lock(descriptor: int, wait: bool = False) -> bool:
    """Takes the lock of an open file. BlockingIOError where another process has it, unless that is to be waited for; False
    where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of this path still: the process that had its lock may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
