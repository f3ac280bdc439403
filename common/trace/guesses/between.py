"""Guesses at what is computed outside of layers: orders of concatenations, resizes, additions."""

from itertools import product
from typing import Callable, Optional, Sequence

import numpy as np

from twinseg.common.trace.difference import difference
from twinseg.common.trace.guesses.activations import activation
from twinseg.common.trace.guesses.dropouts import dropout
from twinseg.common.trace.guesses.guess import VANISHED, Candidate, Guess, vanishes
from twinseg.common.trace.guesses.images import scale
from twinseg.common.trace.reference import resized

VISIBLE = 0.05  # least share of the values behind a relu that must be positive on both sides


MOST_CHANNELS = 4096  # most channels whose order is looked for


def between(mine: np.ndarray, theirs: np.ndarray, candidates: Sequence[Candidate]) -> Optional[Guess]:
    """What turns a tensor computed outside of layers into the other side's: an activation, the order of a concatenation, the
    rule of a resize, a missing addition, another normalisation of images."""
    if mine.shape != theirs.shape:
        return None
    before = difference(mine, theirs).relative
    tried: list[Callable[[], Optional[Guess]]] = [
        lambda: activation(mine, theirs, before),
        lambda: _order(mine, theirs, before),
        lambda: _resize(mine, theirs, before, candidates),
        lambda: _addition(mine, theirs, before, candidates),
        lambda: scale(mine, theirs, before),
        lambda: dropout(mine, theirs),
    ]
    return next((guess for attempt in tried if (guess := attempt()) is not None), None)


def _order(mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    """The same channels in another order."""
    if mine.ndim < 2 or not 1 < mine.shape[1] <= MOST_CHANNELS:
        return None
    a, b = (np.moveaxis(np.asarray(x), 1, 0).reshape(x.shape[1], -1).astype(np.float64) for x in (mine, theirs))
    keys = np.random.default_rng(0).standard_normal((a.shape[1], 2)) / np.sqrt(a.shape[1])
    first, second = a @ keys, b @ keys
    used: set[int] = set()
    source: list[int] = []
    for index in range(len(b)):
        near = np.argsort(np.abs(first - second[index]).sum(1), kind='stable')
        ties = [int(i) for i in near if int(i) not in used][:64]
        if not ties:
            return None
        following = source[-1] + 1 if source else index
        best = (
            following if following in ties and np.allclose(first[following], second[index], rtol=1e-5, atol=1e-6) else ties[0]
        )
        used.add(best)
        source.append(best)
    if source == list(range(len(b))):
        return None
    remains = difference(theirs, np.take(mine, source, 1)).relative
    if not vanishes(remains, before):
        return None
    blocks = [[source[0], source[0]]]
    for index in source[1:]:
        if index == blocks[-1][1] + 1:
            blocks[-1][1] = index
        else:
            blocks.append([index, index])
    if source == list(range(len(b)))[::-1] and len(b) == 3:
        return Guess('channels', 'with the channels in the order BGR', 'RGB', remains)
    shown = ', '.join(f'{low}-{high}' for low, high in blocks[:6]) + (', ...' if len(blocks) > 6 else '')
    return Guess('order', f'with the channels in the order {shown}', f'0-{len(b) - 1} (the order of a concatenation)', remains)


_RULES = ('half_pixel', 'align_corners', 'asymmetric', 'nearest')


def _resize(mine: np.ndarray, theirs: np.ndarray, before: float, candidates: Sequence[Candidate]) -> Optional[Guess]:
    """Tensors resized by another rule, alone, in a sum or in a concatenation, also behind a relu."""
    if mine.ndim != 4:
        return None
    # Behind a relu the change is seen where both sides are positive.
    behind_relu = mine.min() >= 0 and theirs.min() >= 0
    seen = (mine > 0) & (theirs > 0) if behind_relu else np.ones(mine.shape, bool)
    if seen.mean() < VISIBLE:
        return None
    apart = (theirs.astype(np.float64) - mine) * seen
    scale = float(np.abs(mine).max())
    size = (mine.shape[2], mine.shape[3])
    smaller = [
        one
        for one in candidates
        if one.x.ndim == 4
        and one.x.shape[2:] != size
        and 1 < one.x.shape[2] * one.x.shape[3]
        and one.x.shape[1] <= mine.shape[1]
        and len(one.x) == len(mine)
    ]
    for rule, other in product(_RULES, repeat=2):
        if rule == other:
            continue
        rest, used = apart.copy(), []
        for name, x in smaller:
            change = None
            for start in range(mine.shape[1] - x.shape[1] + 1):
                if not rest[:, start : start + x.shape[1]].any():
                    continue
                one = (resized(x[:, :1], size, other) - resized(x[:, :1], size, rule)) * seen[:, start : start + 1]
                if float(np.abs(rest[:, start : start + 1] - one).max()) > max(VANISHED, 0.01 * before) * scale:
                    continue
                change = resized(x, size, other) - resized(x, size, rule) if change is None else change
                visible = change * seen[:, start : start + x.shape[1]]
                if float(np.abs(rest[:, start : start + x.shape[1]] - visible).max()) <= max(VANISHED, 0.01 * before) * scale:
                    rest[:, start : start + x.shape[1]] -= visible
                    used.append(name)
                    break
        remains = float(np.abs(rest).max()) / scale if scale else 0.0
        if used and vanishes(remains, before):
            words = {'align_corners': 'align_corners: true', 'half_pixel': 'align_corners: false'}
            cause = 'align_corners' if {rule, other} == set(words) else 'interpolation'
            what = ' and '.join(dict.fromkeys(used))
            return Guess(cause, f'with {what} resized by {words.get(other, other)}', words.get(rule, rule), remains)
    return None


def _addition(mine: np.ndarray, theirs: np.ndarray, before: float, candidates: Sequence[Candidate]) -> Optional[Guess]:
    for name, x in candidates:
        if x.shape == mine.shape and np.any(x):
            for second, first, left, right in (
                (f'without the addition of {name}', 'with it', mine, theirs.astype(np.float64) + x),
                (f'with the addition of {name}', 'without it', theirs, mine.astype(np.float64) + x),
            ):
                remains = difference(left, right).relative
                if vanishes(remains, before):
                    return Guess('addition', second, first, remains)
    return None
