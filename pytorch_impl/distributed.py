"""The processes of a training: PyTorch's process group, and what they compute together.

With one process every function gives back what it got.
"""

import atexit
import gc
import os
import time
import warnings
from contextlib import suppress
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from twinseg.common.errors import LostError, UserError, first_line_of
from twinseg.common.parallel.processes import ALONE, Group

BACKENDS = {  # features and gradients go from device to device; what the hosts tell each other waits for no device
    'cpu': 'gloo',
    'cuda': 'cpu:gloo,cuda:nccl',
    'npu': 'cpu:gloo,npu:hccl',
}
KERNEL_DEVICES = ('cuda',)  # devices with the kernels of PyTorch's SyncBatchNorm
TIMEOUT = 1800  # seconds of a collective: longer than an evaluation's slowest shard waits for the others
GRACE = 3  # seconds within which all processes notice that one is gone


def join(device: torch.device, timeout: int | None = None) -> None:
    """Meets the other processes, at ``MASTER_ADDR`` and ``MASTER_PORT``; LostError where they do not come, UserError
    where another program listens there."""
    if not dist.is_initialized():
        try:
            dist.init_process_group(BACKENDS[device.type], timeout=timedelta(seconds=timeout or TIMEOUT))
        except RuntimeError as error:
            if 'EADDRINUSE' in str(error):
                raise UserError(
                    f'MASTER_PORT={os.environ["MASTER_PORT"]} is in use here: set it to a free port, the same for all processes'
                ) from None
            raise LostError(
                f'did not meet the other processes: {first_line_of(error)}; one of them has ended, or '
                'GLOO_SOCKET_IFNAME should name the network interface between the hosts'
            ) from None
        atexit.register(_leave)


def _leave() -> None:
    gc.collect()  # modules in cycles hold the group, whose threads abort the process when they outlive Python
    dist.destroy_process_group()


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def group() -> Group:
    """All processes, for ``common``."""
    return Group(rank(), size(), _all_gather, missing) if dist.is_initialized() else ALONE


def missing() -> list[int]:
    """The ranks of the processes that have not noticed a failed collective: they have ended, or they hang.

    The others report to the store at which they met, and leave: a process that waits for one of them then notices, too.
    """
    here, all_ranks, store = rank(), size(), None
    with suppress(dist.DistError, RuntimeError):  # the store may be gone as well
        store = dist.TCPStore(
            os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), is_master=False, timeout=timedelta(seconds=GRACE)
        )
        store.set(f'noticed/{here}', '')  # before the group is left, which may take long over NCCL
    dist.destroy_process_group()
    atexit.unregister(_leave)
    if store is not None:
        time.sleep(GRACE)
        with suppress(dist.DistError, RuntimeError):
            return [other for other in range(all_ranks) if not store.check([f'noticed/{other}'])]
    return []


def mean(x: Tensor) -> Tensor:
    """The mean over all processes, as a constant."""
    if not dist.is_initialized():
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / size()


def gather(x: Tensor) -> Tensor:
    """(N,) of every process -> (size * N,), in the order of the ranks, as a constant."""
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def parallel(module: nn.Module, unused: bool) -> nn.Module:
    """A module that gives the loss: with several processes inside DistributedDataParallel, which averages the gradients.

    All processes have the same weights, and batch norm keeps the same statistics in all, so neither is sent around.
    ``unused``: whether the loss leaves out some parameters.
    """
    if not dist.is_initialized():
        return module
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # broadcast_buffers has another name in PyTorch 2.13 and later
        return DistributedDataParallel(
            module,
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=unused,
            gradient_as_bucket_view=True,
        )


def spread(network: nn.Module) -> nn.Module:
    """The network on all GPUs of this process, each of which gets a part of the batch (``launcher: dp``); UserError beside
    other processes. Without a GPU it is the network alone."""
    if size() > 1:
        raise UserError(f'launcher: dp is for one process, but torchrun started {size()}: leave it out')
    return DataParallel(network)


class DataParallel(nn.DataParallel):
    """PyTorch's ``DataParallel``, which also splits the dropout masks: they are made for the whole batch."""

    def replicate(self, module, device_ids):
        replicas = super().replicate(module, device_ids)
        for index, (replica, device) in enumerate(zip(replicas, device_ids)):
            for part in replica.modules():
                if getattr(part, 'mask', None) is not None:
                    part.mask = part.mask.chunk(len(self.device_ids))[index].to(device)
        return replicas


def _all_gather(values: np.ndarray) -> np.ndarray:
    mine = torch.from_numpy(np.ascontiguousarray(values))
    parts = [torch.empty_like(mine) for _ in range(size())]
    dist.all_gather(parts, mine)
    return torch.stack(parts).numpy()
