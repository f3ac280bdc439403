"""Launchers start processes together and describe each one in its environment, which is read here without a framework.

A launcher starts the same command once for every device: ``torchrun`` (and ``python -m torch.distributed.launch``) for
PyTorch, ``msrun`` for MindSpore.
"""

import os
from typing import NamedTuple, Optional

from twinseg.common.errors import BackendError

LAUNCHERS = {'pytorch': 'torchrun', 'mindspore': 'msrun'}
CONNECT = 1800  # seconds until the first collective: a compilation for an Ascend takes minutes
GROUP_OF_ONE = (
    'TWINSEG_GROUP_OF_ONE'  # set to 1, one process of torchrun is a group, too: the collectives of a machine with one GPU
)


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
    several = int(environment.get('WORLD_SIZE', '1')) > 1 or environment.get(GROUP_OF_ONE) == '1'
    by = 'msrun' if 'MS_ROLE' in environment else 'torchrun' if several else None
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


def set_hccl_timeouts(seconds: Optional[int]) -> None:
    """How long processes with Ascend cards wait for each other: HCCL reads it in the environment at its first collective.

    HCCL_CONNECT_TIMEOUT, 120 to 7200 seconds: until all have come to the first collective, which follows on the data set and a
    compilation. HCCL_EXEC_TIMEOUT, 68 to 17340: in every collective; HCCL rounds it down to a multiple of 68. Without
    ``seconds`` the user's values stay, and the first one, by default 120, is CONNECT.
    """
    if seconds is None:
        os.environ.setdefault('HCCL_CONNECT_TIMEOUT', str(CONNECT))
        return
    os.environ['HCCL_CONNECT_TIMEOUT'] = str(min(max(seconds, 120), 7200))
    os.environ['HCCL_EXEC_TIMEOUT'] = str(min(-(-seconds // 68) * 68, 17340))


def rank() -> int:
    """The rank of this process, by its launcher; 0 without one."""
    return int(os.environ.get('RANK_ID' if 'MS_ROLE' in os.environ else 'RANK', '0'))


def error_prefix() -> str:
    """Beginning of an error of one of several processes: its rank. Empty without a launcher."""
    if os.environ.get('MS_ROLE') == 'MS_SCHED':
        return 'scheduler: '
    several = int(os.environ.get('MS_WORKER_NUM' if 'MS_ROLE' in os.environ else 'WORLD_SIZE', '1')) > 1
    return f'rank {rank()}: ' if several else ''
