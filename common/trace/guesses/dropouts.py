"""Dropout that is active."""

from typing import Iterator, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.difference import difference
from twinseg.common.trace.guesses.guess import VANISHED, Guess, Variation
from twinseg.common.trace.reference import compute


def dropouts(layer: Layer, x: np.ndarray, theirs: np.ndarray) -> Iterator[Variation]:
    base = compute(layer, x)
    if base is None or base.shape != theirs.shape:
        return
    guess = dropout(base, theirs)
    if guess is not None:
        mask = _dropout_mask(base, theirs)
        yield Variation('dropout', guess.second, 'no dropout', None, lambda _: base * mask)


def _dropout_mask(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    present = theirs != 0
    ratios = theirs[present & (mine != 0)] / mine[present & (mine != 0)]
    return present * (float(np.median(ratios)) if ratios.size else 1.0)


def dropout(mine: np.ndarray, theirs: np.ndarray) -> Optional[Guess]:
    """Values that are zero or stretched by one factor."""
    mine = mine.astype(np.float64)
    gone = (theirs == 0) & (mine != 0)
    there = (theirs != 0) & (np.abs(mine) > 1e-3 * np.abs(mine).max(initial=0))
    if not gone.any() or there.sum() < 8:
        return None
    factor = float(np.median(theirs[there] / mine[there]))
    share = gone.sum() / (mine != 0).sum()
    if factor <= 1.0 + 1e-4 or abs(1 - 1 / factor - share) > 0.2:
        return None
    remains = difference(np.asarray(theirs), mine * (theirs != 0) * factor).relative
    return Guess('dropout', f'with dropout of {1 - 1 / factor:.2g} active', 'none', remains) if remains <= VANISHED else None
