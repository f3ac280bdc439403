"""The processes of a training: MindSpore's world group, and what they compute together.

With one process every function gives back what it got.
"""
import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init

from common.distributed import ALONE, Group

BACKENDS = {'cpu': 'mccl', 'gpu': 'nccl', 'ascend': 'hccl'}
_rank, _size = 0, 1


def join(device: str) -> None:
    """Meets the other processes, as msrun says; msrun's scheduler stays in here and ends with the training."""
    global _rank, _size
    if _size == 1:
        init(BACKENDS[device])
        _rank, _size = get_rank(), get_group_size()


def size() -> int:
    """Number of processes."""
    return _size


def rank() -> int:
    """Number of this process, from 0."""
    return _rank


def group() -> Group:
    """All processes, for ``common``."""
    return Group(rank(), size(), _all_gather) if size() > 1 else ALONE


def all_sum(x: Tensor) -> Tensor:
    """The sum over all processes; differentiable: gradients are summed, too."""
    return ops.AllReduce()(x) if size() > 1 else x


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


def _all_gather(values: np.ndarray) -> np.ndarray:
    found = _Gather()(Tensor(np.ascontiguousarray(values).reshape(1, -1)))
    return found.asnumpy().copy().reshape(size(), *values.shape)
