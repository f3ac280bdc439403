"""The processes of a training: MindSpore's world group, and what they compute together.

With one process every function gives back what it got.
"""

import contextlib
import functools
import os
import re
import signal
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init

from twinseg.common.errors import LostError
from twinseg.common.parallel.processes import ALONE, Group

BACKENDS = {'cpu': 'mccl', 'gpu': 'nccl', 'ascend': 'hccl'}
HEARTBEAT = 30  # seconds without one from a process after which MindSpore's scheduler takes it for lost, unless told otherwise
GRACE = 15  # seconds in which the scheduler notices by itself that the workers have ended
_rank, _size = 0, 1


def join(device: str, timeout: int | None = None) -> None:
    """Meets the other processes, as msrun says; msrun's scheduler stays in here and ends with the training.

    LostError where a process does not come, or where the scheduler loses one.
    """
    global _rank, _size
    if _size > 1:
        return
    if timeout:
        os.environ.update(
            {
                'MS_RECEIVE_MSG_TIMEOUT': str(timeout),
                'MS_NODE_TIMEOUT': str(min(timeout, HEARTBEAT)),
            }
        )
    if os.environ.get('MS_ROLE') == 'MS_SCHED':
        _end_with_the_workers()
    try:
        init(BACKENDS[device])
    except RuntimeError as error:
        if lost := re.search(r'Timed out node list is: .*?\{(.*?)\}', str(error)):
            raise LostError(
                f'the scheduler lost rank {lost[1]}, which has ended or hangs: its own log says why; continue with --resume'
            ) from None
        if 'not successfully spawned' in str(error):
            raise LostError(
                'did not meet the other processes: one of them has ended, or MS_WORKER_IP should be the address by '
                'which the hosts reach each other'
            ) from None
        raise
    _rank, _size = get_rank(), get_group_size()


def _end_with_the_workers() -> None:
    """Has the scheduler ended by a child of it once msrun's workers are gone, for which it would wait for minutes."""
    scheduler, msrun = os.getpid(), os.getppid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal sends it; the workers finish their step and end
    if os.fork():
        return
    since = time.monotonic()
    while os.getppid() == scheduler and time.monotonic() - since < GRACE:  # the parent changes once the scheduler has ended
        time.sleep(1)
        if _has_workers(msrun):
            since = time.monotonic()
    if os.getppid() == scheduler:
        os.kill(scheduler, signal.SIGTERM)
    os._exit(0)


def _has_workers(msrun: int) -> bool:
    for number in filter(str.isdecimal, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            parent = int(Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[1])
            if parent == msrun and b'MS_ROLE=MS_WORKER' in Path(f'/proc/{number}/environ').read_bytes():
                return True
    return False


def size() -> int:
    """Number of processes."""
    return _size


def rank() -> int:
    """Number of this process, from 0."""
    return _rank


def group() -> Group:
    """All processes, for ``common``."""
    return Group(rank(), size(), _all_gather) if size() > 1 else ALONE


def stack(x: Tensor) -> Tensor:
    """(...) of every process -> (size, ...), in the order of the ranks; differentiable: gradients are summed over them."""
    if size() == 1:
        return x[None]
    is_own_rank = Tensor(np.arange(size()) == rank(), x.dtype).reshape(-1, *[1] * x.ndim)
    return ops.AllReduce()(is_own_rank * x[None])  # AllGather's gradient, ReduceScatter, does not run on CPUs


def mean(x: Tensor) -> Tensor:
    """The mean over all processes, as a constant."""
    if size() == 1:
        return x
    return ops.AllReduce()(ops.stop_gradient(ops.cast(x, ms.float32))) / size()


def gather(x: Tensor) -> Tensor:
    """(N,) of every process -> (size * N,), in the order of the ranks, as a constant."""
    return ops.AllGather()(ops.stop_gradient(x)) if size() > 1 else x


def reducer(parameters: ParameterTuple) -> nn.Cell | None:
    """A cell that averages the gradients of ``parameters`` over all processes; None with one process."""
    return nn.DistributedGradReducer(parameters, mean=True, degree=size()) if size() > 1 else None


class _Gather(nn.Cell):
    def __init__(self):
        super().__init__()
        self.gather = ops.AllGather()

    def construct(self, x: Tensor) -> Tensor:
        return self.gather(x)


@functools.cache
def _gather() -> _Gather:
    return _Gather()  # a single cell: every new one is compiled again


def _all_gather(values: np.ndarray) -> np.ndarray:
    gathered = _gather()(Tensor(np.ascontiguousarray(values).reshape(1, -1)))
    return gathered.asnumpy().copy().reshape(size(), *values.shape)
