"""One layer in a lower precision."""

from functools import partial
from typing import Callable, Iterator, Mapping, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.difference import EPSILON, HALF_FACTOR
from twinseg.common.trace.guesses.guess import Guess, Variation
from twinseg.common.trace.reference import compute

Rounding = Callable[[np.ndarray], np.ndarray]
FEWEST = 64  # values below which it says nothing that all of them are numbers of a half precision

ROUNDINGS: Mapping[str, Rounding] = {
    'float16': lambda x: x.astype(np.float16).astype(np.float32),
    'bfloat16': lambda x: _bits(x, 7),
    'TF32': lambda x: _bits(x, 10),
}


def _bits(x: np.ndarray, mantissa: int) -> np.ndarray:
    """float32 rounded to nearest with so many bits of the mantissa."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    drop = 23 - mantissa
    bits = bits + ((1 << (drop - 1)) - 1) + ((bits >> drop) & 1)
    return (bits >> drop << drop).view(np.float32)


def in_precisions(layer: Layer) -> Iterator[Variation]:
    """The layer with weights in a lower precision, with inputs too, and with results too; its sums are in float32."""
    for name, rounded in ROUNDINGS.items():
        kinds = [('with inputs and weights', True, False), ('with weights', False, False)]
        for words, inputs, results in [('', True, True), *kinds] if name != 'TF32' else [('', True, False)]:
            said = f'{words} in {name}'.strip()
            yield Variation('precision', said, 'in float32', None, partial(_in_precision, layer, rounded, inputs, results))


def _in_precision(layer: Layer, rounded: Rounding, inputs: bool, results: bool, x: np.ndarray) -> Optional[np.ndarray]:
    parameters = {key: rounded(value.astype(np.float32)) for key, value in layer.parameters.items()}
    y = compute(layer._replace(parameters=parameters), rounded(np.asarray(x, np.float32)) if inputs else x)
    return rounded(y.astype(np.float32)) if y is not None and results else y


def precision_of(mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    """A layer that was computed in half precision, with sums in an order of its own: all of its results are numbers of that
    precision, those of the other side are not, and they differ by its rounding."""
    if mine.shape != theirs.shape or np.count_nonzero(theirs) < FEWEST:
        return None
    for name in ('bfloat16', 'float16'):
        rounded = ROUNDINGS[name]
        with np.errstate(over='ignore'):
            same = [np.array_equal(rounded(np.asarray(x, np.float32)), x) for x in (mine, theirs)]
        if same != [True, True] and any(same) and before <= HALF_FACTOR * EPSILON[name]:
            evidence = f'all values are numbers of {name}, and they differ by its rounding'
            words = (f'in {name}', 'in float32')
            second, first = words if same[1] else words[::-1]
            return Guess('precision', second, first, before, evidence)
    return None
