"""One layer in a lower precision."""

from typing import Callable, Mapping, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.reference import compute

ROUNDINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
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


def in_precision(layer: Layer, rounded: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> Optional[np.ndarray]:
    parameters = {key: rounded(value.astype(np.float32)) for key, value in layer.parameters.items()}
    y = compute(layer._replace(parameters=parameters), rounded(np.asarray(x, np.float32)))
    return y if y is None or rounded is ROUNDINGS['TF32'] else rounded(y.astype(np.float32))
