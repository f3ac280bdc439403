"""A loader in threads, which needs no framework: for MindSpore and for exported files."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generator, Iterable

import numpy as np

AHEAD = 2  # batches in the making while one is in use


def make_loader(samples: Any, batches: Iterable[list], workers: int) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Batches of ``samples[key]``, stacked: images (N, 3, H, W) and labels (N, H, W), both uint8, in the order of ``batches``.

    ``batches`` yields lists of keys. With ``workers`` > 0 samples are made ahead in that many threads.
    """
    if not workers:
        for keys in batches:
            yield _stack([samples[key] for key in keys])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix='samples')
    waiting: deque[list[Future]] = deque()
    try:
        for keys in batches:
            waiting.append([pool.submit(samples.__getitem__, key) for key in keys])
            if len(waiting) > AHEAD:
                yield _stack([future.result() for future in waiting.popleft()])
        while waiting:
            yield _stack([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _stack(samples: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*samples)
    return np.stack(images), np.stack(labels)
