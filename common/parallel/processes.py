"""Processes that train together: how they talk, agree and lose each other. Knows neither framework. Rank 0 alone writes."""

import hashlib
import re
import signal
import threading
from contextlib import contextmanager
from typing import Callable, Iterator, Mapping, NamedTuple

import numpy as np

from twinseg.common.errors import LostError, UserError

LOST = re.compile('connection|peer|socket|timed? ?out|All(Gather|Reduce)', re.IGNORECASE)  # words in the errors of collectives


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
def naming_lost_ranks(group: Group) -> Iterator[None]:
    """Raises LostError where a collective fails because another process is gone or hangs; says which, where that is known."""
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not LOST.search(str(error)):
            raise
        if threading.current_thread() is threading.main_thread():
            # The launcher ends all processes when one is gone: this one first says why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        others = [rank for rank in group.missing() or range(group.size) if rank != group.rank]
        names = ('rank ' if len(others) == 1 else 'one of ranks ') + ', '.join(map(str, others))
        reason = next((line for line in str(error).splitlines() if LOST.search(line)), '').split('. ')[0]
        raise LostError(
            f'lost the other processes: {names} has ended, or hangs for longer '
            f'than collective_timeout ({reason}); its own log says why; continue with --resume'
        ) from error


def check_agreement(group: Group, facts: Mapping[str, bytes]) -> None:
    """UserError when a fact (name -> what it consists of) is not the same in all processes; says which and where."""
    if group.size == 1:
        return
    digests = [np.frombuffer(hashlib.blake2b(content, digest_size=8).digest(), np.int64) for content in facts.values()]
    digest_of_ranks = group.all_gather(np.concatenate(digests))
    for name, column in zip(facts, digest_of_ranks.T):
        if others := np.flatnonzero(column != column[0]).tolist():
            raise UserError(
                f'{name} of rank {", ".join(map(str, others))} and of rank 0 differ: all processes need the same '
                'configuration, weights and, when they continue, the same --work-dir'
            )
