"""What could be wrong with a layer, or with what is computed between layers: every guess is tried on the recorded input, and
given only when it makes the difference vanish."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.difference import difference
from twinseg.common.trace.reference import compute, resized

VANISHED = 1e-5  # difference, of the largest magnitude, below which two tensors of float32 are equal
BETTER = 0.1  # share of the difference that may remain where it is small itself
ROUNDED = (
    0.35  # share, as root mean square, that may remain after rounding to a half precision: the last bit depends on the order
)
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-4, 1e-2, 1e-8, 0.0)
VISIBLE = 0.05  # least share of the values behind a relu that must be positive on both sides
MOST_CHANNELS = 4096  # most channels whose order is looked for
Channels = np.ndarray


@dataclass(frozen=True)
class Guess:
    """How the second side computes, and how the first does."""

    cause: str  # padding, eps, statistics, weight, bias, align_corners, ceil_mode, count_include_pad, activation, order, ...
    second: str  # 'padded 0,1,0,1'
    first: str  # 'padded 1,1,1,1'
    remains: float  # difference when it is applied

    def turned(self) -> 'Guess':
        """The same with the sides exchanged."""
        return replace(self, second=self.first, first=self.second)

    def __str__(self) -> str:
        return f'{self.second} instead of {self.first}'


class Variation(NamedTuple):
    """A layer that computes something else."""

    cause: str
    this: str
    instead_of: str
    layer: Optional[Layer]  # None: ``function``
    function: Optional[Callable[[np.ndarray], Optional[np.ndarray]]] = None

    def compute(self, x: np.ndarray) -> Optional[np.ndarray]:
        """The output for a recorded input."""
        with np.errstate(all='ignore'):
            return compute(self.layer, x) if self.layer is not None else self.function(x) if self.function else None


class Step(NamedTuple):
    """A layer and its recorded input."""

    layer: Layer
    x: np.ndarray


class Candidate(NamedTuple):
    """A recorded tensor that may take part in what is computed between layers."""

    name: str
    x: np.ndarray


def vanishes(apart: float, before: float) -> bool:
    """Whether a difference that was ``before`` is gone."""
    return apart <= min(VANISHED, BETTER * before) or apart <= 1e-3 * before


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
            if y is not None and y.shape == theirs.shape:
                if variation.cause == 'precision':
                    remaining, whole = _rms(y - theirs), _rms(mine.astype(np.float64) - theirs)
                    fits = remaining <= ROUNDED * whole and vanishes(difference(y, theirs).relative / 1e3, before)
                else:
                    fits = vanishes(difference(theirs, y).relative, before)
                if fits:
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
    return _constant(steps, mine, theirs, before)


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


def between(mine: np.ndarray, theirs: np.ndarray, candidates: Sequence[Candidate]) -> Optional[Guess]:
    """What turns a tensor computed outside of layers into the other side's: an activation, the order of a concatenation, the
    rule of a resize, a missing addition, another normalisation of images."""
    if mine.shape != theirs.shape:
        return None
    before = difference(mine, theirs).relative
    tried: list[Callable[[], Optional[Guess]]] = [
        lambda: _activation(mine, theirs, before),
        lambda: _order(mine, theirs, before),
        lambda: _resize(mine, theirs, before, candidates),
        lambda: _addition(mine, theirs, before, candidates),
        lambda: _scale(mine, theirs, before),
        lambda: _dropout(mine, theirs),
    ]
    return next((guess for attempt in tried if (guess := attempt()) is not None), None)


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
    own = {'conv': _convolutions, 'linear': _linears, 'norm': _norms, 'avg_pool': _pools, 'max_pool': _pools}.get(layer.kind)
    if own is not None:
        yield from own(layer, x, theirs)
    if layer.kind in _ACTIVATIONS or layer.kind in ('relu', 'sigmoid', 'prelu'):
        for name, function in _ACTIVATIONS.items():
            if name != layer.kind:
                yield Variation('activation', f'with {name if name != "none" else "no activation"}', layer.kind, None, function)
    if theirs is not None and layer.kind in ('dropout', 'identity', 'relu', 'norm'):
        yield from _dropouts(layer, x, theirs)
    if layer.kind not in ('identity', 'dropout', 'relu'):
        yield Variation('missing', 'as if this layer were missing', 'with it', None, lambda x: x)
    if layer.kind in ('conv', 'linear'):
        for name, rounded in _ROUNDINGS.items():
            yield Variation('precision', f'in {name}', 'in float32', None, partial(_in_precision, layer, rounded))


def _as_the_other_says(layer: Layer, other: Layer) -> Iterator[Variation]:
    """Settings and parameters that the other side's layer says it has."""
    for key, value in other.settings.items():
        if key in layer.settings and layer.settings[key] != value and key not in ('momentum', 'ratio'):
            changed = layer._replace(settings={**layer.settings, key: value})
            yield Variation(key, f'with {_WORDS.get(key, key)} {_shown(value)}', _shown(layer.settings[key]), changed)
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


def _with(layer: Layer, **settings: Any) -> Layer:
    return layer._replace(settings={**layer.settings, **settings})


def _but(layer: Layer, **parameters: Optional[np.ndarray]) -> Layer:
    merged = {**layer.parameters, **parameters}
    return layer._replace(parameters={key: value for key, value in merged.items() if value is not None})


def _convolutions(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    weight, settings = layer.parameters['weight'], layer.settings
    if 'bias' in layer.parameters:
        yield Variation('bias', 'without bias', 'with it', _but(layer, bias=None))
    yield from _weights(layer)
    said = _shown(settings['padding'])
    reach = [settings['dilation'][axis] * (weight.shape[2 + axis] - 1) for axis in (0, 1)]
    options = [
        dict.fromkeys(
            [
                (0, 0),
                (r // 2, r - r // 2),
                (r - r // 2, r // 2),
                *((p, p) for p in range(1, r + 1)),
                (0, r),
                (r, 0),
                *product(range(3), repeat=2),
            ]
        )
        for r in reach
    ]
    sides = [
        (*rows, *columns)
        for rows, columns in product(*options)
        if all(s <= max(r, 2) for s, r in zip((*rows, *columns), (reach[0], reach[0], reach[1], reach[1])))
    ]
    same = sorted(sides, key=lambda s: (s[:2] != s[2:], s[0] != s[1]))
    yield Variation('padding', "with padding 'same' (TensorFlow's rule)", said, _with(layer, padding='same'))
    for value in same[:64]:
        if value != settings['padding']:
            yield Variation('padding', f'with padding {_shown(value)}', said, _with(layer, padding=value))
    for mode in ('reflect', 'replicate', 'circular'):
        yield Variation(
            'padding', f'with padding mode {mode}', settings.get('padding_mode', 'zeros'), _with(layer, padding_mode=mode)
        )
    for dilation in (1, 2, 4, 6, 12, 18):
        if settings['padding'] != 'same' and (dilation, dilation) != settings['dilation']:
            moved = tuple(side * dilation // max(settings['dilation'][0], 1) for side in settings['padding'])
            yield Variation(
                'dilation',
                f'with dilation {dilation}',
                _shown(settings['dilation']),
                _with(layer, dilation=(dilation, dilation), padding=moved),
            )


def _weights(layer: Layer) -> Iterator[Variation]:
    weight = layer.parameters['weight']
    if weight.ndim == 2 and weight.shape[0] == weight.shape[1] or weight.ndim == 4 and weight.shape[0] == weight.shape[1]:
        yield Variation(
            'weight',
            'with its weight transposed (inputs and outputs exchanged)',
            'with its weight',
            _but(layer, weight=weight.swapaxes(0, 1)),
        )
    if weight.ndim == 4 and weight.shape[2] == weight.shape[3] > 1:
        yield Variation(
            'weight',
            'with its weight transposed (rows and columns exchanged)',
            'with its weight',
            _but(layer, weight=weight.swapaxes(2, 3)),
        )
        yield Variation(
            'weight', 'with its kernel turned by 180 degrees', 'with its weight', _but(layer, weight=weight[:, :, ::-1, ::-1])
        )
    if weight.ndim == 4 and weight.shape[1] == 3:
        yield Variation(
            'channels', 'with the input channels reversed (BGR)', 'in their order (RGB)', _but(layer, weight=weight[:, ::-1])
        )
    yield Variation('weight', 'with a weight of zeros (missing?)', 'with its weight', _but(layer, weight=np.zeros_like(weight)))


def _linears(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    if 'bias' in layer.parameters:
        yield Variation('bias', 'without bias', 'with it', _but(layer, bias=None))
    yield from _weights(layer)


def _norms(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    parameters, said = layer.parameters, f'{layer.settings["eps"]:g}'
    for value in EPSILONS:
        if value != layer.settings['eps']:
            yield Variation('eps', f'with epsilon {value:g}', said, _with(layer, eps=value))
    yield Variation(
        'statistics', 'with the statistics of the batch', 'with the running ones', _with(layer, batch_statistics=True)
    )
    if 'bias' in parameters:
        yield Variation('bias', 'without bias', 'with it', _but(layer, bias=np.zeros_like(parameters['bias'])))
    if 'weight' in parameters:
        yield Variation('weight', 'without weight', 'with it', _but(layer, weight=np.ones_like(parameters['weight'])))
    if 'running_mean' in parameters:
        mean, variance = parameters['running_mean'], parameters['running_var']
        zeros, ones = np.zeros_like(mean), np.ones_like(variance)
        yield Variation('statistics', 'with a running mean of 0', 'with its running mean', _but(layer, running_mean=zeros))
        yield Variation(
            'statistics', 'with a running variance of 1', 'with its running variance', _but(layer, running_var=ones)
        )
        fresh = _but(layer, running_mean=zeros, running_var=ones)
        yield Variation('statistics', 'with fresh statistics (mean 0, variance 1)', 'with its running statistics', fresh)
        yield Variation(
            'statistics',
            'with the variance taken for a standard deviation',
            'a variance',
            _with(layer, variance_as_deviation=True),
        )
    if theirs is not None and theirs.shape == x.shape and 'running_var' in parameters:
        eps = _fitted_epsilon(layer, x, theirs)
        if eps is not None:
            yield Variation('eps', f'with epsilon {eps:.3g}', said, _with(layer, eps=eps))


def _fitted_epsilon(layer: Layer, x: np.ndarray, theirs: np.ndarray) -> Optional[float]:
    """The epsilon with which a norm stretches its channels as the other side does."""
    axes = (0, *range(2, x.ndim))
    scale = layer.parameters.get('weight', np.ones(x.shape[1])).astype(np.float64)
    spread, wanted = x.std(axes, dtype=np.float64), theirs.std(axes, dtype=np.float64)
    usable = (spread > 0) & (wanted > 0) & (scale != 0)
    if not usable.any():
        return None
    values = (scale * spread / np.where(wanted > 0, wanted, 1))[usable] ** 2 - layer.parameters['running_var'][usable]
    eps = float(np.median(values))
    return eps if eps >= 0 else None


def _pools(layer: Layer, x: np.ndarray, theirs: Optional[np.ndarray]) -> Iterator[Variation]:
    settings = layer.settings
    if 'count_include_pad' in settings:
        value = settings['count_include_pad']
        words = {True: 'counting the padding', False: 'not counting the padding'}
        yield Variation('count_include_pad', words[not value], words[value], _with(layer, count_include_pad=not value))
    else:
        yield Variation('padding', 'padded with zeros that may win', 'by what never wins', _with(layer, padding_counts=True))
    words = {True: 'in ceil mode', False: 'in floor mode'}
    yield Variation(
        'ceil_mode',
        words[not settings['ceil_mode']],
        words[settings['ceil_mode']],
        _with(layer, ceil_mode=not settings['ceil_mode']),
    )
    kind = {'avg_pool': 'max_pool', 'max_pool': 'avg_pool'}[layer.kind]
    yield Variation('kind', f'as {kind.replace("_", " ")}', layer.kind.replace('_', ' '), layer._replace(kind=kind))
    reach = range(max(settings['kernel']))
    options = [
        (top, bottom, left, right) for top, bottom, left, right in product(reach, repeat=4) if top - bottom == left - right
    ]
    for value in ('same', *sorted(options, key=lambda s: (s[:2] != s[2:], s[0] != s[1]))):
        if value != settings['padding']:
            for ceil in (settings['ceil_mode'], not settings['ceil_mode']):
                yield Variation(
                    'padding',
                    f'with padding {_shown(value)}',
                    _shown(settings['padding']),
                    _with(layer, padding=value, ceil_mode=ceil),
                )


def _dropouts(layer: Layer, x: np.ndarray, theirs: np.ndarray) -> Iterator[Variation]:
    base = compute(layer, x)
    if base is None or base.shape != theirs.shape:
        return
    guess = _dropout(base, theirs)
    if guess is not None:
        mask = _dropout_mask(base, theirs)
        yield Variation('dropout', guess.second, 'no dropout', None, lambda _: base * mask)


def _dropout_mask(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    present = theirs != 0
    ratios = theirs[present & (mine != 0)] / mine[present & (mine != 0)]
    return present * (float(np.median(ratios)) if ratios.size else 1.0)


def _dropout(mine: np.ndarray, theirs: np.ndarray) -> Optional[Guess]:
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


_ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    'none': lambda x: x,
    'relu': lambda x: np.maximum(x, 0),
    'relu6': lambda x: np.clip(x, 0, 6),
    'leaky relu (0.01)': lambda x: np.where(x > 0, x, 0.01 * x),
    'leaky relu (0.1)': lambda x: np.where(x > 0, x, 0.1 * x),
    'leaky relu (0.2)': lambda x: np.where(x > 0, x, 0.2 * x),
    'hard swish': lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    'hard sigmoid (x / 6 + 1/2)': lambda x: np.clip(x / 6 + 0.5, 0, 1),
    'hard sigmoid (x / 5 + 1/2)': lambda x: np.clip(x / 5 + 0.5, 0, 1),
    'silu': lambda x: x / (1 + np.exp(-x)),
    'gelu (tanh)': lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    'elu': lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    'tanh': np.tanh,
    'sigmoid': lambda x: 1 / (1 + np.exp(-x)),
}


def _bits(x: np.ndarray, mantissa: int) -> np.ndarray:
    """float32 rounded to nearest with so many bits of the mantissa."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    drop = 23 - mantissa
    bits = bits + ((1 << (drop - 1)) - 1) + ((bits >> drop) & 1)
    return (bits >> drop << drop).view(np.float32)


_ROUNDINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    'float16': lambda x: x.astype(np.float16).astype(np.float32),
    'bfloat16': lambda x: _bits(x, 7),
    'TF32': lambda x: _bits(x, 10),
}


def _in_precision(layer: Layer, rounded: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> Optional[np.ndarray]:
    parameters = {key: rounded(value.astype(np.float32)) for key, value in layer.parameters.items()}
    y = compute(layer._replace(parameters=parameters), rounded(np.asarray(x, np.float32)))
    return y if y is None or rounded is _ROUNDINGS['TF32'] else rounded(y.astype(np.float32))


def _activation(mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    for name, function in _ACTIVATIONS.items():
        if name != 'none':
            for second, first, x, y in (
                ('with no activation', name, theirs, mine),
                (f'with {name}', 'no activation', mine, theirs),
            ):
                if name == 'relu' and (y < 0).any():
                    continue
                with np.errstate(all='ignore'):
                    remains = difference(y, function(x.astype(np.float64))).relative
                if vanishes(remains, before):
                    return Guess('activation', second, first, remains)
    return None


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


def _scale(mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    """Channels stretched and shifted, by few numbers: another mean and standard deviation of images."""
    if mine.ndim != 4 or mine.shape[1] > 4 or mine.shape[2] * mine.shape[3] < 16:
        return None
    for order in ('RGB', 'BGR') if mine.shape[1] == 3 else ('RGB',):
        x = np.asarray(mine[:, ::-1] if order == 'BGR' else mine, np.float64)
        fits = [np.polyfit(x[:, c].ravel(), theirs[:, c].ravel().astype(np.float64), 1) for c in range(x.shape[1])]
        y = np.stack([x[:, c] * fits[c][0] + fits[c][1] for c in range(x.shape[1])], 1)
        remains = difference(theirs, y).relative
        if vanishes(remains, before):
            factors, shifts = (', '.join(f'{fit[i]:.4g}' for fit in fits) for i in (0, 1))
            bgr = ', and in the order BGR' if order == 'BGR' else ''
            return Guess(
                'scale',
                f'with images multiplied by {factors} and {shifts} added{bgr} (another mean or std)',
                'as they are',
                remains,
            )
    return None


_WORDS = {'padding': 'padding', 'eps': 'epsilon', 'padding_mode': 'padding mode', 'ceil_mode': 'ceil mode'}


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        numbers = list(value)
        if len(set(numbers)) == 1:
            return str(numbers[0])
        if len(numbers) == 4 and numbers[:2] == numbers[2:]:
            numbers = numbers[:2]
        return ','.join(map(str, numbers))
    return f'{value:g}' if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
