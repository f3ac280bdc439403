"""Carries the samples that ``twinseg.common.data`` makes: PyTorch's DataLoader, nothing else."""

import signal
from typing import Any, Generator, Iterable

import numpy as np
import torch
from torch.utils.data import DataLoader

from twinseg.common.backend import Batch
from twinseg.common.errors import UserError


def make_loader(samples: Any, batches: Iterable[list], workers: int) -> Generator[Batch, None, None]:
    """Batches of ``samples[key]``, stacked: images (N, 3, H, W) and labels (N, H, W), both uint8, in the order of ``batches``.

    ``batches`` yields lists of keys. With ``workers`` > 0 samples are made ahead in that many processes. What a sample that
    cannot be read raises, a UserError, comes out of a worker unchanged.
    """
    loader = DataLoader(
        _Keyed(samples),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_stack,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        images, labels = batch
        yield images.numpy(), labels.numpy()


class _Keyed(torch.utils.data.Dataset):
    def __init__(self, samples: Any):
        self.samples = samples

    def __getitem__(self, key):
        try:
            return self.samples[key]
        except UserError as error:  # given back: the loader would raise another one, with the worker's stack in its message
            return error


def _leave_signals_to_the_trainer(worker: int) -> None:
    # A terminal and Slurm send signals to all processes; workers end with the process that started them.
    for number in signal.SIGTERM, signal.SIGINT:
        signal.signal(number, signal.SIG_IGN)


def _stack(samples: list) -> tuple[torch.Tensor, torch.Tensor] | UserError:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, labels = zip(*samples)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))
