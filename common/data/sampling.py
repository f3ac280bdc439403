"""The samples of a step, and the random numbers of each sample: pure functions of seed, epoch and index.

Nothing here depends on the number of workers, on the backend, or on earlier random numbers, so a run that is resumed at
step N, or spread over other processes, sees the batches that it would have seen.
"""

from typing import Callable, Iterator, Optional

import numpy as np

from twinseg.common.errors import DataError

_ORDER, _SAMPLE, _MIXING, _BALANCED_ORDER = 0, 1, 2, 3  # kinds of generators: no order shares its numbers with a sample
_REPEATED = 1 << 24  # epochs between the keys of the first and the second time that an epoch shows a sample


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of every random choice for sample ``index`` in ``epoch``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SAMPLE, epoch, index)))


def mixing_rng(seed: int, step: int) -> np.random.Generator:
    """The generator of every random choice when the batch of a step is mixed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_MIXING, step)))


def balanced_order_rng(seed: int, epoch: int) -> np.random.Generator:
    """The generator of the class-balanced order of an epoch (``balance.py``)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_BALANCED_ORDER, epoch)))


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of 0..length-1, int64."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORDER, epoch))).permutation(length)


def steps_per_epoch(length: int, batch_size: int, world_size: int = 1, drop_last: bool = True) -> int:
    """Batches in an epoch; with ``drop_last`` whole ones: the rest of each epoch's order is left out. DataError when not even
    one is whole."""
    steps, rest = divmod(length, batch_size * world_size)
    if not drop_last:
        return steps + (rest > 0)
    if not steps:
        raise DataError(
            f'{length} samples do not fill one batch of {batch_size * world_size} '
            f'(batch_size {batch_size} x {world_size} processes); make batch_size smaller'
        )
    return steps


def rank_positions(batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Positions in the global batch of the ``batch_size`` samples that the process ``rank`` takes, int64 (batch_size,).

    They come from both ends of it, so that a sample and its partner in the reversed batch, with which it is mixed, are in
    one process; the middle ones, where ``batch_size`` is odd, are not.
    """
    half = batch_size // 2
    front = np.arange(rank * half, (rank + 1) * half)
    middle = [world_size * half + rank] * (batch_size % 2)
    return np.concatenate([front, middle, world_size * batch_size - 1 - front[::-1]]).astype(np.int64)


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
    drop_last: bool = True,
) -> Iterator[list[tuple[int, int]]]:
    """The keys ``(epoch, index)`` of batches ``start`` to ``stop - 1``, counted over epochs without end.

    A global batch has ``batch_size * world_size`` samples; process ``rank`` takes its ``rank_positions``, so that the
    processes together see what one process with the whole batch sees. ``order`` gives the samples of an epoch, by default
    ``epoch_order``; an epoch with ``repeat`` has that many orders, one after the other. Where a sample comes again in an
    epoch, the key says another epoch, so that it is augmented differently. Without ``drop_last`` the last batch of an epoch
    holds the rest; for several processes it is filled up from the beginning of the epoch, to equal parts, even ones where
    ``batch_size`` is even. DataError when an epoch does not fill one batch that it must. The parameters are ten because a
    batch depends on all of them and on nothing else.
    """
    steps, total = steps_per_epoch(length * repeat, batch_size, world_size, drop_last), batch_size * world_size
    part_of_rest = -(-(length * repeat % total) // world_size) or batch_size
    if world_size > 1 and batch_size % 2 == 0:  # samples are mixed in pairs
        part_of_rest += part_of_rest % 2
    batch = start
    while stop is None or batch < stop:
        epoch, step = divmod(batch, steps)
        parts = range(epoch * repeat, (epoch + 1) * repeat)
        keys = np.concatenate([_keys(order(part) if order else epoch_order(length, seed, part), part) for part in parts])
        for number in range(step, steps if stop is None else min(steps, step + stop - batch)):
            size = part_of_rest if (number + 1) * total > len(keys) else batch_size
            chosen = keys[(number * total + rank_positions(size, rank, world_size)) % len(keys)]
            yield [(key_epoch, index) for key_epoch, index in chosen.tolist()]
            batch += 1


def _keys(order: np.ndarray, epoch: int) -> np.ndarray:
    """The key of each sample of an order, int64 (N, 2): epoch and index."""
    keys = np.empty((len(order), 2), np.int64)
    keys[:, 0], keys[:, 1] = epoch, order
    if len(order) and np.bincount(order).max() > 1:
        by_index = np.argsort(order, kind='stable')
        ordered = order[by_index]
        firsts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))  # where the samples begin in ``ordered``
        before = np.arange(len(order)) - np.repeat(firsts, np.diff(firsts, append=len(order)))
        keys[by_index, 0] += before * _REPEATED
    return keys
