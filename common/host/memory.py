"""Memory of this process: its largest, now, and what a piece of work takes, and may take."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEGABYTE = 1 << 20
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's numbers (malloc.h): bytes at the heap's end that are kept, blocks outside it
MORE = 'more memory than there is'
OUT_OF_MEMORY = (  # signs in the messages of libraries, in small letters
    *('bad_alloc', 'bad allocation', 'failed to allocate', 'cannot allocate', "can't allocate", 'out of memory'),
    *('unable to allocate', 'not enough memory', "memory isn't enough", MORE),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was lacking, also where a library says so by an exception of another class."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def keep_freed_memory() -> bool:
    """Has this process keep the blocks that it frees, which by default glibc gives back to the kernel where they are large: a
    step then has all its features faulted in again, page by page. True where that is so from now on; False on other
    libraries, where the environment says something of glibc's allocation, and where TWINSEG_KEEP_MEMORY is 0."""
    chosen = any(name.startswith('MALLOC_') for name in os.environ) or 'malloc' in os.environ.get('GLIBC_TUNABLES', '')
    if chosen or os.environ.get('TWINSEG_KEEP_MEMORY') == '0' or not _is_glibc():
        return False
    import ctypes  # which --help does without

    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def _is_glibc() -> bool:
    try:
        return (os.confstr('CS_GNU_LIBC_VERSION') or '').startswith('glibc')
    except (AttributeError, ValueError, OSError):  # no Unix, or another library
        return False


def reset_peak_memory() -> None:
    """Starts a new peak where the system can (Linux); elsewhere peaks are since the start of the process."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        pass


def peak_memory() -> float:
    """Largest resident memory of this process in MB."""
    status = Path('/proc/self/status')
    if status.is_file():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith('VmHWM'))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEGABYTE if sys.platform == 'darwin' else 1024)


@contextmanager
def limited_memory(extra: int) -> Iterator[None]:
    """Lets this process take ``extra`` bytes more than it has, or four fifths of what the machine has left, where that is less;
    beyond that an allocation in the block fails, as one of ``MemoryError`` or of the library's own errors. No effect where the
    system has no such limits (it is not Linux)."""
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)}
    sizes = _sizes(Path('/proc/self/status'), ('VmSize', 'VmData'))
    available = _sizes(Path('/proc/meminfo'), ('MemAvailable',))
    if not sizes or not available:
        yield
        return
    extra = min(extra, available[0] * 4 // 5)
    threads = (os.cpu_count() or 1) + 1
    slack = (threads * (72 << 20), threads * (8 << 20))  # address space and memory that an engine reserves for its threads
    try:
        for (kind, (soft, hard)), size, more in zip(before.items(), sizes, slack):
            limit = size + extra + more
            given = [one for one in (soft, hard) if one != resource.RLIM_INFINITY]
            resource.setrlimit(kind, (min([limit, *given]), hard))
        yield
    finally:
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)


def _sizes(table: Path, names: tuple[str, ...]) -> list[int]:
    """Bytes of rows of a table of the kernel, those of ``names`` in their order; none where one is missing."""
    try:
        rows = dict(line.split(':', 1) for line in table.read_text().splitlines() if ':' in line)
        return [int(rows[name].split()[0]) * 1024 for name in names]
    except (OSError, KeyError, ValueError):
        return []
