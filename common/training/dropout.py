"""Masks of dropout and stochastic depth: random numbers from numpy, the same for both backends."""

import zlib
from typing import Sequence

import numpy as np

from twinseg.common.data.sampling import rank_positions
from twinseg.common.errors import UserError


def dropout_mask(
    name: str, shape: tuple[int, ...], ratio: float, key: Sequence[int], rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """float32 factors of a dropout layer: 0 with probability ``ratio``, else 1 / (1 - ratio). A function of name and key.

    Each of several processes gets the rows of its ``rank_positions`` in the global batch of ``shape[0] * world_size``.
    """
    rng = np.random.default_rng((*key, zlib.crc32(name.encode())))
    survives = rng.random((shape[0] * world_size, *shape[1:]))[rank_positions(shape[0], rank, world_size)] >= ratio
    return (survives / (1 - ratio)).astype(np.float32)


def drop_path_ratios(rate: float, on: str, blocks: Sequence[int]) -> list[list[float]]:
    """The share of the samples that skip a block, for every block of every stage: from 0 in the first to ``rate`` in the last
    block, in equal steps (Huang et al. 2016, arXiv:1603.09382, section 3). UserError for a bad ``rate`` or ``on``."""
    if not 0 <= rate < 1:
        raise UserError(f'drop_path_rate: {rate} is not a share of the samples from 0 to below 1')
    if on not in ('branch', 'shortcut'):
        raise UserError(f'drop_path_on: {on!r} is neither branch nor shortcut')
    return [part.tolist() for part in np.split(np.linspace(0, rate, sum(blocks)), np.cumsum(blocks)[:-1])]
