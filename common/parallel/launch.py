"""Launchers start processes together and describe each one in its environment, which is read here without a framework.

A launcher starts the same command once for every device: ``torchrun`` (and ``python -m torch.distributed.launch``) for
PyTorch, ``msrun`` for MindSpore.
"""

import os
from typing import NamedTuple, Optional

from twinseg.common.errors import BackendError

LAUNCHERS = {'pytorch': 'torchrun', 'mindspore': 'msrun'}


class Launch(NamedTuple):
    """A process as its launcher started it."""

    rank: int
    local_rank: int  # among the processes of its host: the number of its device
    size: int


def launched(backend_name: str) -> Optional[Launch]:
    """Facts about this process from the launcher of a backend; None without a launcher.

    BackendError when another backend's launcher has started it: its processes would not find each other.
    """
    environment = os.environ
    by = 'msrun' if 'MS_ROLE' in environment else 'torchrun' if int(environment.get('WORLD_SIZE', '1')) > 1 else None
    if by is None:
        return None
    if by != LAUNCHERS[backend_name]:
        raise BackendError(f'started by {by}, but --backend {backend_name} needs {LAUNCHERS[backend_name]}: start it with that')
    names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE') if by == 'torchrun' else ('RANK_ID', 'DEVICE_ID', 'MS_WORKER_NUM')
    rank, local_rank, size = (int(environment.get(name, '0')) for name in names)
    return Launch(rank, local_rank, size)


def pin(backend_name: str) -> None:
    """Keeps this process on its share of the host's cores where ``PIN_CORES=1`` and ``LOCAL_WORLD_SIZE``, the processes of
    the host, ask for it (``scripts/``); does nothing where there are fewer cores than processes."""
    launch, size = launched(backend_name), int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
    if launch is None or os.environ.get('PIN_CORES') != '1' or not hasattr(os, 'sched_setaffinity'):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= size:
        os.sched_setaffinity(0, cores[launch.local_rank * len(cores) // size : (launch.local_rank + 1) * len(cores) // size])


def rank() -> int:
    """The rank of this process, by its launcher; 0 without one."""
    return int(os.environ.get('RANK_ID' if 'MS_ROLE' in os.environ else 'RANK', '0'))


def error_prefix() -> str:
    """Beginning of an error of one of several processes: its rank. Empty without a launcher."""
    if os.environ.get('MS_ROLE') == 'MS_SCHED':
        return 'scheduler: '
    several = int(os.environ.get('MS_WORKER_NUM' if 'MS_ROLE' in os.environ else 'WORLD_SIZE', '1')) > 1
    return f'rank {rank()}: ' if several else ''
