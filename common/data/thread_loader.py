"""A loader in threads, which needs no framework: for MindSpore and for exported files."""

import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generator, Iterable, Optional

import numpy as np

from twinseg.common.errors import LostError

AHEAD = 2  # batches in the making while one is in use
NAME = 'samples'  # beginning of the names of the threads
PATIENCE = 5.0  # seconds in which a thread that reads a sample is to end with the command


def make_loader(
    samples: Any, batches: Iterable[list], workers: int, timeout: Optional[int] = None
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Batches of ``samples[key]``, stacked: images (N, 3, H, W) and labels (N, H, W), both uint8, in the order of ``batches``.

    ``batches`` yields lists of keys. With ``workers`` > 0 samples are made ahead in that many threads. LostError where they
    give no batch within ``timeout`` seconds.
    """
    if not workers:
        for keys in batches:
            yield _stack([samples[key] for key in keys])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix=NAME)
    waiting: deque[list[Future]] = deque()
    try:
        for keys in batches:
            waiting.append([pool.submit(samples.__getitem__, key) for key in keys])
            if len(waiting) > AHEAD:
                yield _stack(_results(waiting.popleft(), timeout))
        while waiting:
            yield _stack(_results(waiting.popleft(), timeout))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def leave_hanging(status: int) -> None:
    """Ends the process with ``status`` where a thread hangs in a read, for which Python would wait at the end, for ever."""
    end = time.monotonic() + PATIENCE
    for thread in threading.enumerate():
        if thread.name.startswith(NAME):
            thread.join(max(end - time.monotonic(), 0))
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)


def nothing_came(timeout: Optional[int]) -> str:
    """The message where no batch came in time."""
    return (
        f'no batch came within {timeout} seconds (data_timeout): a read hangs, or takes that long; see to the disk or '
        'the mount of the images, or set a longer data_timeout; continue with --resume'
    )


def _results(futures: list[Future], timeout: Optional[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The samples of a batch."""
    end = None if timeout is None else time.monotonic() + timeout
    try:
        return [future.result(None if end is None else max(end - time.monotonic(), 0)) for future in futures]
    except FutureTimeout as error:
        if any(future.done() and future.exception() is error for future in futures):  # a sample's own
            raise
        raise LostError(nothing_came(timeout)) from None


def _stack(samples: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*samples)
    return np.stack(images), np.stack(labels)
