"""A guess at a cause, and what one is made of."""

from dataclasses import dataclass, replace
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace.reference import compute

VANISHED = 1e-5  # difference, of the largest magnitude, below which two tensors of float32 are equal


BETTER = 0.1  # share of the difference that may remain where it is small itself


@dataclass(frozen=True)
class Guess:
    """How the second side computes, and how the first does."""

    cause: str  # padding, eps, statistics, weight, bias, align_corners, ceil_mode, count_include_pad, activation, order, ...
    second: str  # 'padded 0,1,0,1'
    first: str  # 'padded 1,1,1,1'
    remains: float  # difference when it is applied
    evidence: str = ''  # what shows it, where the order of its sums cannot be repeated

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


def with_settings(layer: Layer, **settings: Any) -> Layer:
    return layer._replace(settings={**layer.settings, **settings})


def with_parameters(layer: Layer, **parameters: Optional[np.ndarray]) -> Layer:
    merged = {**layer.parameters, **parameters}
    return layer._replace(parameters={key: value for key, value in merged.items() if value is not None})


def shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        numbers = list(value)
        if len(set(numbers)) == 1:
            return str(numbers[0])
        if len(numbers) == 4 and numbers[:2] == numbers[2:]:
            numbers = numbers[:2]
        return ','.join(map(str, numbers))
    return f'{value:g}' if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
