"""Guesses at what is wrong with a layer."""

from typing import Callable, Iterator, Optional, Sequence

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.difference import difference
from twinseg.common.trace.guesses.activations import ACTIVATIONS
from twinseg.common.trace.guesses.convolutions import convolutions, linears
from twinseg.common.trace.guesses.dropouts import dropouts
from twinseg.common.trace.guesses.guess import VANISHED, Guess, Step, Variation, shown, vanishes
from twinseg.common.trace.guesses.norms import norms
from twinseg.common.trace.guesses.pools import pools
from twinseg.common.trace.guesses.precisions import in_precisions, precision_of
from twinseg.common.trace.reference import compute

# share, as root mean square, that may remain after rounding to a half precision: the last bit depends on the order
ROUNDED = 0.35


def of_layer(steps: Sequence[Step], mine: np.ndarray, theirs: np.ndarray, other: Optional[Layer] = None) -> Optional[Guess]:
    """The variation of one of the layers ``steps`` (in a row, each with its recorded input) that turns their recorded output
    ``mine`` into ``theirs``; ``other``: the other side's last layer, whose variations are tried the other way round."""
    before = difference(mine, theirs).relative
    for position, (layer, x) in enumerate(steps):
        base = _chain(steps[position:], _computing(layer), x)
        if base is None or not vanishes(difference(mine, base).relative, max(before, VANISHED)):
            continue  # the layer is not what its settings say: nothing can be learnt from varying them
        twin = other if position == len(steps) - 1 or other is not None and other.kind == layer.kind else None
        for variation in _variations(layer, twin, x, theirs if position == len(steps) - 1 else None):
            y = _chain(steps[position:], variation.compute, x)
            if y is not None and _fits(variation, y, mine, theirs, before):
                return Guess(variation.cause, variation.this, variation.instead_of, difference(theirs, y).relative)
    if other is not None:
        base = compute(other, steps[0].x)
        if base is not None and vanishes(difference(theirs, base).relative, max(before, VANISHED)):
            for variation in _variations(other, None, steps[0].x, mine):
                y = variation.compute(steps[0].x)
                if y is not None and y.shape == mine.shape and vanishes(difference(mine, y).relative, before):
                    guess = Guess(variation.cause, variation.this, variation.instead_of, difference(mine, y).relative)
                    return (
                        guess if variation.cause in ('weight', 'channels') else guess.turned()
                    )  # a transposition is its inverse
        same = base is not None and vanishes(difference(mine, base).relative, max(before, VANISHED))
        for variation in in_precisions(other) if same and other.kind in ('conv', 'linear') else ():
            y = variation.compute(steps[0].x)
            if y is not None and _fits(variation, y, mine, theirs, before):
                return Guess(variation.cause, variation.this, variation.instead_of, difference(theirs, y).relative)
    return _constant(steps, mine, theirs, before) or precision_of(mine, theirs, before)


def _fits(variation: Variation, y: np.ndarray, mine: np.ndarray, theirs: np.ndarray, before: float) -> bool:
    """Whether ``theirs`` is what the variation gives."""
    if y.shape != theirs.shape:
        return False
    if variation.cause != 'precision':
        return vanishes(difference(theirs, y).relative, before)
    remaining, whole = _rms(y - theirs), _rms(mine.astype(np.float64) - theirs)
    return remaining <= ROUNDED * whole and vanishes(difference(y, theirs).relative / 1e3, before)


def _constant(steps: Sequence[Step], mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    """Without what the layers give for an input of zeros: a bias into which a norm may be folded."""
    if mine.shape != theirs.shape or mine.ndim < 2:
        return None
    zero = _chain(steps, lambda x: compute(steps[0].layer, x), np.zeros_like(steps[0].x[:1]))
    if zero is None or not zero.any():
        return None
    middle = zero.reshape(1, zero.shape[1], -1)[:, :, zero[0, 0].size // 2].reshape(1, -1, *(1,) * (mine.ndim - 2))
    remains = difference(theirs, mine - middle).relative
    return Guess('bias', 'without bias', 'with it', remains) if vanishes(remains, before) else None


def _computing(layer: Layer) -> Callable[[np.ndarray], Optional[np.ndarray]]:
    return lambda x: compute(layer, x)


def _chain(steps: Sequence[Step], first: Callable[[np.ndarray], Optional[np.ndarray]], x: np.ndarray) -> Optional[np.ndarray]:
    y = first(x)
    for layer, _ in steps[1:]:
        y = None if y is None else compute(layer, y)
    return y


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _variations(layer: Layer, other: Optional[Layer], x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    """Ways in which the layer may be wrong on the other side, the likelier first."""
    if other is not None and other.kind == layer.kind:
        yield from _as_the_other_says(layer, other)
    own = {'conv': convolutions, 'linear': linears, 'norm': norms, 'avg_pool': pools, 'max_pool': pools}.get(layer.kind)
    if own is not None:
        yield from own(layer, x, theirs)
    if layer.kind in ACTIVATIONS or layer.kind in ('relu', 'sigmoid', 'prelu'):
        for name, function in ACTIVATIONS.items():
            if name != layer.kind:
                yield Variation('activation', f'with {name if name != "none" else "no activation"}', layer.kind, None, function)
    if theirs is not None and layer.kind in ('dropout', 'identity', 'relu', 'norm'):
        yield from dropouts(layer, x, theirs)
    if layer.kind not in ('identity', 'dropout', 'relu'):
        yield Variation('missing', 'as if this layer were missing', 'with it', None, lambda x: x)
    if layer.kind in ('conv', 'linear'):
        yield from in_precisions(layer)


def _as_the_other_says(layer: Layer, other: Layer) -> Iterator[Variation]:
    """Settings and parameters that the other side's layer says it has."""
    for key, value in other.settings.items():
        if key in layer.settings and layer.settings[key] != value and key not in ('momentum', 'ratio'):
            changed = layer._replace(settings={**layer.settings, key: value})
            yield Variation(key, f'with {_WORDS.get(key, key)} {shown(value)}', shown(layer.settings[key]), changed)
    for key in dict.fromkeys((*layer.parameters, *other.parameters)):
        mine, theirs = layer.parameters.get(key), other.parameters.get(key)
        if mine is None or theirs is None or mine.shape != theirs.shape or np.array_equal(mine, theirs):
            continue
        relation = _relation(mine, theirs)
        changed = layer._replace(parameters={**layer.parameters, key: theirs})
        yield Variation(_cause_of(key), f'with a {key} {relation}', f'the same {key}', changed)
    differing = {
        key: value
        for key, value in other.parameters.items()
        if key not in layer.parameters
        or layer.parameters[key].shape != value.shape
        or not np.array_equal(layer.parameters[key], value)
    }
    missing = set(layer.parameters) - set(other.parameters)
    if differing or missing:
        parameters = {key: other.parameters.get(key, value) for key, value in layer.parameters.items() if key not in missing}
        names = sorted({*differing, *missing})
        if missing and not differing:
            yield Variation(
                _cause_of(names[0]), f'without {" and ".join(names)}', 'with it', layer._replace(parameters=parameters)
            )
        else:
            changed = layer._replace(parameters={**parameters, **differing})
            yield Variation(_cause_of(names[0]), f'with other values of {", ".join(names)}', 'the same', changed)


_WORDS = {'padding': 'padding', 'eps': 'epsilon', 'padding_mode': 'padding mode', 'ceil_mode': 'ceil mode'}


def _relation(mine: np.ndarray, theirs: np.ndarray) -> str:
    if not theirs.any():
        return 'of zeros (missing?)'
    if (theirs == 1).all():
        return 'of ones (missing?)'
    if mine.ndim >= 2 and mine.shape[0] == mine.shape[1] and np.allclose(mine.swapaxes(0, 1), theirs):
        return 'with inputs and outputs exchanged (transposed)'
    if mine.ndim == 4 and mine.shape[2] == mine.shape[3] and np.allclose(mine.swapaxes(2, 3), theirs):
        return 'with rows and columns exchanged (transposed)'
    if mine.ndim == 4 and np.allclose(mine[:, :, ::-1, ::-1], theirs):
        return 'turned by 180 degrees'
    if mine.ndim >= 2 and np.allclose(mine[:, ::-1], theirs):
        return 'with the input channels reversed (RGB and BGR)'
    return 'of other values (not loaded, or of another checkpoint?)'


def _cause_of(parameter: str) -> str:
    return 'statistics' if parameter.startswith('running') else parameter
