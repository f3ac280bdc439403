"""A group of processes as threads of this one."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import numpy as np

from twinseg.common.parallel.processes import Group


def together(size: int, work: Callable[[Group], Any]) -> list[Any]:
    """What ``work`` gives on every rank of a group."""
    barrier, values = threading.Barrier(size), [np.zeros(0)] * size

    def run(rank: int) -> Any:
        def all_gather(mine: np.ndarray) -> np.ndarray:
            values[rank] = mine
            barrier.wait(60)
            found = np.stack(values)
            barrier.wait(60)
            return found

        return work(Group(rank, size, all_gather))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
