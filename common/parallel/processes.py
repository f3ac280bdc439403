"""Processes that train together: who they are, from the launcher's environment, and how they agree. Knows neither framework.

A launcher starts the same command once for every device: ``torchrun`` (and ``python -m torch.distributed.launch``) for
PyTorch, ``msrun`` for MindSpore. Rank 0 alone writes.
"""

import hashlib
import os
import re
import signal
import threading
from contextlib import contextmanager
from typing import Callable, Iterator, Mapping, NamedTuple, Optional

import numpy as np

from twinseg.common.errors import BackendError, LostError, UserError

LOST = re.compile('connection|peer|socket|timed? ?out|All(Gather|Reduce)', re.IGNORECASE)  # in the errors of collectives
LAUNCHERS = {'pytorch': 'torchrun', 'mindspore': 'msrun'}


class Launch(NamedTuple):
    """A process as its launcher started it."""

    rank: int
    local_rank: int  # among the processes of its host: the number of its device
    size: int


class Group(NamedTuple):
    """All processes of a training, seen from one of them."""

    rank: int = 0
    size: int = 1
    all_gather: Callable[[np.ndarray], np.ndarray] = lambda values: values[None]  # (...) -> (size, ...); int64, float64
    missing: Callable[[], list[int]] = list  # after a collective failed: the ranks that ended or hang; none: not known

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Integers, summed over the processes: the same on each of them."""
        return self.all_gather(np.asarray(values, np.int64)).sum(0)


ALONE = Group()


@contextmanager
def losing_no_process(group: Group) -> Iterator[None]:
    """LostError where a collective fails because another process is gone, or hangs; it says which, where that is known."""
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not LOST.search(str(error)):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of the launcher, which ends all when one is gone: first say why
        others = [rank for rank in group.missing() or range(group.size) if rank != group.rank]
        names = ('rank ' if len(others) == 1 else 'one of ranks ') + ', '.join(map(str, others))
        reason = next((line for line in str(error).splitlines() if LOST.search(line)), '').split('. ')[0]
        raise LostError(
            f'lost the other processes: {names} has ended, or hangs for longer '
            f'than collective_timeout ({reason}); its own log says why; continue with --resume'
        ) from error


def launched(backend_name: str) -> Optional[Launch]:
    """What the launcher of a backend says of this process; None without a launcher.

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
    """Of this process, by its launcher; 0 without one."""
    return int(os.environ.get('RANK_ID' if 'MS_ROLE' in os.environ else 'RANK', '0'))


def who() -> str:
    """What an error of one of several processes begins with."""
    if os.environ.get('MS_ROLE') == 'MS_SCHED':
        return 'scheduler: '
    several = int(os.environ.get('MS_WORKER_NUM' if 'MS_ROLE' in os.environ else 'WORLD_SIZE', '1')) > 1
    return f'rank {rank()}: ' if several else ''


def check_agreement(group: Group, facts: Mapping[str, bytes]) -> None:
    """UserError when a fact (name -> what it consists of) is not the same in all processes; says which and where."""
    if group.size == 1:
        return
    digests = [np.frombuffer(hashlib.blake2b(content, digest_size=8).digest(), np.int64) for content in facts.values()]
    found = group.all_gather(np.concatenate(digests))
    for name, column in zip(facts, found.T):
        if others := np.flatnonzero(column != column[0]).tolist():
            raise UserError(
                f'{name} of rank {", ".join(map(str, others))} and of rank 0 differ: all processes need the same '
                'configuration, weights and, when they continue, the same --work-dir'
            )
