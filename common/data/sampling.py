"""Which samples a step sees, and the random numbers of each: pure functions of seed, epoch and index.

Nothing here depends on the number of workers, on the backend, or on what was drawn before, so a run that is resumed at
step N, or spread over other processes, sees the batches that it would have seen.
"""

from collections import Counter
from typing import Callable, Iterator, Optional

import numpy as np

from twinseg.common.errors import DataError
from twinseg.common.parallel.processes import places

_ORDER, _SAMPLE, _MIXING = 0, 1, 2  # kinds of generators, so that no order shares its numbers with a sample
_AGAIN = 1 << 24  # epochs between the first and the second time that an epoch shows a sample


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of every random choice for sample ``index`` in ``epoch``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SAMPLE, epoch, index)))


def mixing_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of every random choice when the batch of a step is mixed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_MIXING, step)))


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of 0..length-1, int64."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORDER, epoch))).permutation(length)


def steps_per_epoch(length: int, batch_size: int, world_size: int = 1) -> int:
    """Whole batches in an epoch; the rest of each epoch's order is left out. DataError when not even one is whole."""
    steps = length // (batch_size * world_size)
    if not steps:
        raise DataError(
            f'{length} samples do not fill one batch of {batch_size * world_size} '
            f'(batch_size {batch_size} x {world_size} processes); make batch_size smaller'
        )
    return steps


def training_batches(
    length: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    stop: Optional[int] = None,
    rank: int = 0,
    world_size: int = 1,
    order: Optional[Callable[[int], np.ndarray]] = None,
    repeat: int = 1,
) -> Iterator[list[tuple[int, int]]]:
    """The keys ``(epoch, index)`` of batches ``start`` to ``stop - 1``, counted over epochs without end.

    A global batch has ``batch_size * world_size`` samples; process ``rank`` takes its ``places``, so that the processes
    together see what one process with the whole batch sees. ``order`` gives the samples of an epoch, by default
    ``epoch_order``; an epoch with ``repeat`` has that many orders, one after the other. Where a sample comes again in an
    epoch, the key says another epoch, so that it is augmented anew.
    """
    steps, total = steps_per_epoch(length * repeat, batch_size, world_size), batch_size * world_size
    own = places(batch_size, rank, world_size)
    batch = start
    while stop is None or batch < stop:
        epoch, step = divmod(batch, steps)
        keys = [
            key
            for part in range(epoch * repeat, (epoch + 1) * repeat)
            for key in _keys(order(part) if order else epoch_order(length, seed, part), part)
        ]
        for place in range(step, steps if stop is None else min(steps, step + stop - batch)):
            yield [keys[index] for index in place * total + own]
            batch += 1


def _keys(order: np.ndarray, epoch: int) -> list[tuple[int, int]]:
    seen: Counter[int] = Counter()
    keys = []
    for index in order.tolist():
        keys.append((epoch + seen[index] * _AGAIN, index))
        seen[index] += 1
    return keys
