"""Carries the samples that ``twinseg.common.data`` makes: PyTorch's DataLoader, and copies to the device."""

import copy
import functools
import logging
import multiprocessing.connection
import os
import signal
import threading
import warnings
from typing import Any, Callable, Generator, Iterable, Optional

import numpy as np
import torch
from torch.utils.data import DataLoader

from twinseg.common.backend import Batch
from twinseg.common.data.thread_loader import nothing_came
from twinseg.common.errors import LostError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # what a terminal, Slurm and systemd send to all processes
CAUSES = {  # signal that ends a worker -> its usual cause, and what to change
    signal.SIGKILL: 'the kernel does that when memory runs out (see dmesg); lower num_parallel_workers or batch_size',
    signal.SIGBUS: 'shared memory (/dev/shm) is full, or a file was cut while it was read; lower num_parallel_workers',
}
SHARED = '/dev/shm'  # where Linux keeps shared memory: of 64 MB in a Docker container
SMALL = 'they go through pipes, which is slower (docker run --shm-size=1g makes it larger)'
AHEAD = 2  # batches that each worker makes ahead, PyTorch's prefetch_factor
TIMED_OUT = 'DataLoader timed out'
PATIENCE = 1.0  # seconds in which the end of a process shows after its connections have broken
_logger = logging.getLogger(__name__)
_waiting: list['_Workers'] = []  # whose next batch this process waits for


def make_loader(
    samples: Any, batches: Iterable[list], workers: int, timeout: Optional[int] = None
) -> Generator[Batch, None, None]:
    """Batches of ``samples[key]``, stacked: images (N, 3, H, W) and labels (N, H, W), both uint8, in the order of ``batches``.

    ``batches`` yields lists of keys. With ``workers`` > 0 samples are made ahead in that many processes. Whatever a sample
    raises comes out of a worker unchanged; LostError where a worker is killed, or no batch comes within ``timeout`` seconds.
    However the batches end, no worker is left. Beside a GPU the batches lie in memory from which it copies by itself. They come
    through shared memory, or where that is too small through pipes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'This DataLoader will create')  # more than cores: the training says so, once
        loader = DataLoader(
            _Keyed(samples),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_stack,
            worker_init_fn=_leave_signals_to_the_trainer,
            multiprocessing_context=_context() if workers else None,
            pin_memory=torch.cuda.is_initialized(),
            timeout=(timeout or 0) if workers else 0,
        )
        iterator = iter(loader)
    made = _Workers(iterator, timeout)
    told = False
    try:
        while (batch := made.next()) is not None:
            if isinstance(batch, Exception):
                raise batch
            images, labels = batch
            if workers and isinstance(images, np.ndarray) and not told:
                _logger.warning('%s is too small for batches of %d MB: %s', SHARED, _bytes(batch) >> 20, SMALL)
                told = True
            yield np.asarray(images), np.asarray(labels)
    finally:
        made.end()


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device. A GPU copies it while it computes what it was given before, and the host waits for neither."""
    tensor = torch.from_numpy(array)
    if device.type != 'cuda':
        return tensor.to(device, non_blocking=True)
    copies, now = _copies(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        copied = (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
    now.wait_stream(copies)
    copied.record_stream(now)
    return copied


def constant(
    make: Callable[..., torch.Tensor], *arguments: Any, device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """``make(*arguments)`` on a device, where it stays: an upload in every step would make the host wait for the device."""
    if device.type == 'cpu' or torch.compiler.is_compiling():
        return make(*arguments).to(device, dtype)
    return _resident(make, arguments, device, dtype)


@functools.lru_cache(maxsize=512)
def _resident(make: Callable[..., torch.Tensor], arguments: tuple, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    with torch.inference_mode(False):  # a prediction may be the first to ask for what a training step needs
        return make(*arguments).to(device, dtype)


@functools.cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class _Keyed(torch.utils.data.Dataset):
    def __init__(self, samples: Any):
        self.samples = samples

    def __getitem__(self, key):
        try:
            return self.samples[key]
        except Exception as error:  # given back: the loader would raise another one, with the worker's stack in its message
            return error


class _Workers:
    """The processes of an iterator; none where the trainer itself makes the samples.

    PyTorch raises as soon as it hears that one was killed, which may be in the middle of a step or of a checkpoint. Here that
    comes up where the next batch is asked for.
    """

    def __init__(self, iterator: Any, timeout: Optional[int] = None):
        self.iterator, self.processes = iterator, getattr(iterator, '_workers', [])
        self.timeout = timeout
        if self.processes and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, _hear_of_an_end)  # instead of PyTorch's

    def next(self) -> Any:
        """The next batch, None after the last one; LostError where a process was killed, or none came in time."""
        self.check()
        _waiting.append(self)
        try:
            return next(self.iterator, None)
        except (
            RuntimeError,
            OSError,
            EOFError,
        ) as error:  # also where it was killed between making a batch and handing it over
            ended = multiprocessing.connection.wait([process.sentinel for process in self.processes], PATIENCE)
            for process in self.processes:
                if process.sentinel in ended:
                    process.join(PATIENCE)
            self.check()
            if str(error).startswith(TIMED_OUT):
                raise LostError(nothing_came(self.timeout)) from None
            raise
        finally:
            _waiting.remove(self)

    def check(self) -> None:
        """LostError where a process was killed."""
        for process in self.processes:
            if process.exitcode and not self.iterator._shutdown:
                raise LostError(_reason(process.pid, process.exitcode))

    def end(self) -> None:
        """Ends the processes now: an error would hold the iterator, and with it them, for as long as somebody looks at it."""
        if self.processes:
            self.iterator._shutdown_workers()


class _Worker(multiprocessing.Process):
    """A process that is killed where others are asked to end: it leaves SIGTERM to the trainer."""

    def start(self) -> None:
        super().start()
        popen: Any = self._popen  # type: ignore[attr-defined]
        popen.terminate = popen.kill  # what multiprocessing calls before it waits for a process, at exit


def _context() -> Any:
    context = copy.copy(multiprocessing.get_context())
    context.Process = _Worker  # type: ignore[assignment,misc]
    return context


def _hear_of_an_end(_number: int, _frame: Any) -> None:
    if _waiting:  # else the next request for a batch looks
        _waiting[-1].check()


def _reason(process: int, status: int) -> str:
    end = f'ended with status {status}'
    cause = 'num_parallel_workers: 0 shows why'
    if status < 0:
        number = signal.Signals(-status)
        end, cause = f'was ended by {number.name}', CAUSES.get(number, cause)
    return f'process {process}, which reads images, {end}: {cause}; continue with --resume'


def _leave_signals_to_the_trainer(worker: int) -> None:
    for number in SIGNALS:  # workers end with the process that started them
        signal.signal(number, signal.SIG_IGN)


def _stack(samples: list) -> tuple[Any, Any] | Exception:
    """A batch, of tensors, which PyTorch hands over in shared memory, or where there is too little of that of arrays, which it
    pickles."""
    for sample in samples:
        if isinstance(sample, Exception):
            return sample
    images, labels = zip(*samples)
    batch = np.stack(images), np.stack(labels)
    worker = torch.utils.data.get_worker_info()
    if worker is not None and not _fits_shared_memory(_bytes(batch) * worker.num_workers):
        return batch
    return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])


def _bytes(batch: tuple[Any, Any]) -> int:
    return sum(part.nbytes for part in batch)


def _fits_shared_memory(each: int) -> bool:
    """Whether all processes of the host may put AHEAD times ``each`` bytes into shared memory now."""
    try:
        space = os.statvfs(SHARED)
    except OSError:  # no such folder: nothing goes through it
        return False
    return space.f_bavail * space.f_frsize > AHEAD * each * int(os.environ.get('LOCAL_WORLD_SIZE') or 1)
