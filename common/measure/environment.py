"""Conditions of a measurement: versions, machine, and the memory that a process took."""

import os
import platform
from importlib import metadata
from pathlib import Path

from twinseg.common.backend import Backend

MEGABYTE = 1 << 20
PACKAGES = ('twinseg', 'numpy', 'opencv-python-headless', 'torch', 'mindspore')


def versions() -> dict[str, str]:
    """Versions of Python and of what computes."""
    installed = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return installed


def machine() -> dict[str, str | int | None]:
    """The CPU (``cpu``, ``cores`` that this process may use) and the ``system``."""
    model = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith('model name')]
        model = lines[0].partition(':')[2].strip() if lines else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return {'cpu': model, 'cores': cores, 'system': f'{platform.system()} {platform.machine()}'}


def machine_of(backend: Backend) -> dict[str, str | int | None]:
    """The machine, and the accelerator (``gpu``, ``ascend``) or CPU ``threads`` of a backend that is set up."""
    return {**machine(), **backend.accelerator()}


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
