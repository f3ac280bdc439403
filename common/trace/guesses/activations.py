"""Activations that may be missing, or others."""

from typing import Callable, Mapping, Optional

import numpy as np

from twinseg.common.trace.difference import difference
from twinseg.common.trace.guesses.guess import Guess, vanishes

ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
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


def activation(mine: np.ndarray, theirs: np.ndarray, before: float) -> Optional[Guess]:
    for name, function in ACTIVATIONS.items():
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
