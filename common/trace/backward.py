"""Gradients compared: of every parameter and activation end to end, and of every module by itself, which is given the recorded
inputs and the recorded gradient of its output."""

from typing import Any, Mapping, Optional, Sequence

import numpy as np

from twinseg.common.activations import Arrays
from twinseg.common.trace.difference import FACTOR, difference
from twinseg.common.trace.result import Section
from twinseg.common.trace.sources import NetworkSource

FLOOR = 2.0**-23  # least noise floor of a gradient by itself
NUDGES, NUDGE = 6, 2.0**-21  # runs of a module that seems to part, and by how much its inputs are changed for them, relative
MOST_ROWS = 12  # parameters with the largest difference end to end that are listed

Gradients = tuple[Arrays, dict[str, np.ndarray]]  # of a module: by input, by parameter


def trace_backward(first: NetworkSource, second: NetworkSource, names: Mapping[str, str], images: np.ndarray) -> Section:
    """Compares the gradients of the outputs, weighted by fixed random numbers. ``names``: module of the second network -> that
    of the first; empty: they are equal. One of the two should be PyTorch's: its float64 is the noise floor."""
    sides = {'first': _Side(first, {}), 'second': _Side(second, names)}
    recorded, other = (sides['second'], sides['first']) if second.has_double and not first.has_double else sides.values()
    inputs = recorded.source.prepare(images)
    gradients, parameters, entered = recorded.gradients(inputs)
    their_gradients, their_parameters, _ = other.gradients(other.source.prepare(images))
    double = recorded.double()
    floor_of: dict[str, float] = {}
    if double is not None:
        exact_gradients, exact_parameters, _ = double.gradients(inputs)
        for mine, exact in ((gradients, exact_gradients), (parameters, exact_parameters)):
            floor_of |= {name: difference(value, exact[name]).relative for name, value in mine.items() if name in exact}
    rows = []
    parts: dict[str, tuple[str, float, float]] = {}
    for name in reversed(list(gradients)):  # children before their parents
        apart = _own(name, gradients[name], entered.get(name, []), recorded, other, double)
        if apart is None:
            continue
        what, own, limit = apart
        rows.append(_row('activation', name, gradients[name], their_gradients.get(name), floor_of.get(name), own, limit))
        if own > limit and not any(inner.startswith(f'{name}.') for inner in parts):
            parts[name] = apart
    worst = sorted(parameters, key=lambda name: -_apart(parameters[name], their_parameters.get(name)))
    rows += [
        _row('parameter', name, parameters[name], their_parameters.get(name), floor_of.get(name), None, None)
        for name in worst[:MOST_ROWS]
    ]
    missing = sorted(set(parameters) ^ set(their_parameters))
    layers = recorded.source.layers()
    largest = max((row['own'] or 0.0 for row in rows if row['name'] in layers), default=0.0)
    sentence = f'backward: no layer parts; the largest own difference of a gradient is {largest:.1e}'
    if parts:
        name = next(name for name in gradients if name in parts)  # gradients arrive from the output: the first in that order
        what, own, limit = parts[name]
        inner = '' if name in recorded.source.layers() else ', outside of its layers'
        where = f'{name or "network"}{inner}: given the same inputs and gradient of its output'
        sentence = f'backward: {where}, the gradient of {what} differs by {own:.2g} of its largest magnitude'
        sentence += f' (noise explains {limit:.1e})'
    elif missing:
        sentence = f'backward: {", ".join(missing[:4])}: has a gradient on one side only (frozen, or cut off?)'
    return Section('backward', not parts and not missing, sentence, rows)


class _Side:
    def __init__(self, source: NetworkSource, names: Mapping[str, str]) -> None:
        self.source, self.names = source, names
        self.originals = {name: original for original, name in names.items()}

    def gradients(self, inputs: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Arrays]]:
        """As ``Backend.activation_gradients``, under the first network's names; activations in the order of arrival."""
        source = self.source
        gradients = source.backend.activation_gradients(source.network, inputs, _cotangents, auxiliary=source.auxiliary)
        activations, parameters, entered = ({self._renamed(name): value for name, value in part.items()} for part in gradients)
        return activations, parameters, entered  # type: ignore[return-value]

    def module(self, name: str, inputs: Arrays, gradient: np.ndarray) -> Optional[Gradients]:
        original = self.originals.get(name, name)
        try:
            by_input, by_parameter = self.source.backend.module_gradients(self.source.network, original, inputs, gradient)
        except Exception:  # a module that takes more than tensors cannot be run by itself
            return None
        return by_input, {self._renamed(key): value for key, value in by_parameter.items()}

    def double(self) -> Optional['_Side']:
        source = self.source.double()
        return None if source is None else _Side(source, self.names)

    def _renamed(self, name: str) -> str:
        module, _, leaf = name.rpartition('.')
        return self.names.get(name, f'{self.names[module]}.{leaf}' if module in self.names else name)


def _cotangents(shapes: Sequence[tuple[int, ...]]) -> Arrays:
    return [np.random.default_rng(number).standard_normal(shape, np.float32) for number, shape in enumerate(shapes)]


def _own(
    name: str, gradient: np.ndarray, inputs: Arrays, recorded: _Side, other: _Side, double: Optional[_Side]
) -> Optional[tuple[str, float, float]]:
    """The gradient of a module that differs most, by how much, and the most that noise explains."""
    if not inputs or not name:
        return None
    mine, theirs = recorded.module(name, inputs, gradient), other.module(name, inputs, gradient)
    if mine is None or theirs is None:
        return None
    exact = None if double is None else double.module(name, inputs, gradient)
    worst = ('its input', 0.0, FACTOR * FLOOR)
    for what, a, b, c in (
        *(('its input', x, theirs[0][i], None if exact is None else exact[0][i]) for i, x in enumerate(mine[0])),
        *((key, x, theirs[1].get(key), None if exact is None else exact[1].get(key)) for key, x in mine[1].items()),
    ):
        limit = FACTOR * max(FLOOR, 0.0 if c is None else difference(a, c).relative)
        own = _apart(a, b)
        if own / limit > worst[1] / worst[2]:
            worst = (what, own, limit)
    if worst[1] > worst[2] and name not in recorded.source.layers():
        what, own, limit = worst
        return what, own, max(limit, 2 * _at_kinks(what, name, gradient, inputs, recorded, mine))
    return worst


def _at_kinks(what: str, name: str, gradient: np.ndarray, inputs: Arrays, side: _Side, exact: Gradients) -> float:
    """The largest difference that inputs a rounding error apart make in a gradient of a module: inside of it, values that are
    zero but for rounding pass a relu on one side alone, and the largest of a window is one value or the other."""
    rng, largest = np.random.default_rng(0), 0.0
    for _ in range(NUDGES):
        nudged = [x * (1 + NUDGE * rng.choice(np.array([-1, 1], np.float32), x.shape)) for x in inputs]
        again = side.module(name, nudged, gradient)
        if again is not None:
            apart = [difference(a, b).relative for a, b in zip(exact[0], again[0])] if what == 'its input' else []
            apart += [difference(exact[1][what], again[1][what]).relative] if what in exact[1] else []
            largest = max(largest, *apart)
    return largest


def _apart(mine: np.ndarray, theirs: Optional[np.ndarray]) -> float:
    return float('inf') if theirs is None else difference(mine, theirs).relative


def _row(
    kind: str,
    name: str,
    mine: np.ndarray,
    theirs: Optional[np.ndarray],
    floor: Optional[float],
    own: Optional[float],
    limit: Optional[float],
) -> dict[str, Any]:
    """A row of JSON; its parameters are its keys."""
    return {
        'kind': kind,
        'name': name,
        'end_to_end': _apart(mine, theirs),
        'floor_end_to_end': floor,
        'own': own,
        'limit': limit,
    }
