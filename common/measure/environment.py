"""Conditions of a measurement: versions and machine."""

import os
import platform
from importlib import metadata
from pathlib import Path

from twinseg.common.backend import Backend

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
