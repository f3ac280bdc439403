"""Memory of this process: its largest, now, and what a piece of work takes."""

import platform
from pathlib import Path

MEGABYTE = 1 << 20


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
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEGABYTE if platform.system() == 'Darwin' else 1024)
