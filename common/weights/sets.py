"""The sets of weights in a file (the network's, averaged ones, a teacher's), and which of them is meant.

A set is what lies below a prefix of any words under which the names of a publisher's network are there.
"""

import re
from dataclasses import dataclass, replace
from typing import Mapping, Optional

import numpy as np

from twinseg.common.errors import StateError
from twinseg.common.weights.publishers import TABLES
from twinseg.common.weights.publishers.table import Arrays, Table
from twinseg.common.weights.reading.files import Contents

EMA, LAST = 'ema', 'last'  # what ``--weights-of`` takes beside the name of a set
MOST_SETS = 32
AVERAGED = {'ema', 'swa', 'avg', 'averaged', 'average', 'polyak', 'shadow', 'swad', 'lawa'}  # words in names of averages
COUNTERS = ('n_averaged', 'steps', 'initted')  # beside the weights of averages: of PyTorch, mmengine, ema-pytorch
TRAINING = {  # words in names of what training keeps of each parameter
    *('optimizer', 'optimizers', 'optimizer_states', 'optim', 'grad', 'grads', 'gradients', 'exp_avg', 'exp_avg_sq'),
    *('accum', 'moments', 'moment1', 'moment2', 'stats'),
}
MMCV_AVERAGE = 'ema_'  # mmcv's averages lie in the network as buffers: ema_backbone_conv1_weight


@dataclass(frozen=True)
class WeightSet:
    """Weights below ``prefix`` (with its dot) that have the names of ``table``. ``label``: the prefix as the file has it.

    ``averaged``: whether they are averages over training; None for a teacher, which may be one.
    """

    prefix: str
    label: str
    table: Table
    arrays: Arrays
    averaged: Optional[bool]

    @property
    def name(self) -> str:
        return self.label or 'the top of the file'

    @property
    def known_as(self) -> str:
        return f'{self.name} ({self.table.arch} of {self.table.source})'


def find(contents: Contents, source: Optional[str]) -> list[WeightSet]:
    """All sets of networks of a publisher, or of all. StateError where there are more than anyone needs."""
    arrays = contents.arrays
    prefixes = _prefixes(arrays, source)
    sets: list[WeightSet] = []
    for prefix, tables in prefixes.items():
        outer = [other for other in sets if prefix.startswith(other.prefix)]
        if any(_belongs(f'{prefix}{tables[0].marks[0]}', other) for other in outer):
            continue  # part of a larger network
        below = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        table = next((table for table in tables if _is_of(table, below)), None)
        if table is not None:
            mark = contents.stored[f'{prefix}{table.marks[0]}']
            label = mark.removesuffix(f'.{table.marks[0]}') if mark.endswith(f'.{table.marks[0]}') else prefix.rstrip('.')
            sets.append(WeightSet(prefix, '' if mark == table.marks[0] else label, table, below, None))
    sets = [_without_others(one, sets) for one in sets]
    return _with_averages(_without_copies(_of_networks(sets)), arrays)


def _without_others(one: WeightSet, sets: list[WeightSet]) -> WeightSet:
    """The set without the tensors of others that lie inside it."""
    inner = tuple(other.prefix for other in sets if other.prefix != one.prefix and other.prefix.startswith(one.prefix))
    names = [name for name in one.arrays if not f'{one.prefix}{name}'.startswith(inner)]
    return replace(one, arrays={name: one.arrays[name] for name in names})


def choose(sets: list[WeightSet], weights_of: Optional[str]) -> tuple[WeightSet, str]:
    """The set that is meant, and a sentence about it where there was a choice, or where the weights are averages.

    ``weights_of``: 'ema', 'last' or the name of a set; by default the averaged ones, whose score publishers state, where there
    are these and the last ones. StateError where there are others, or none that is asked for.
    """
    if weights_of not in (None, EMA, LAST):
        named = [one for one in sets if _is_called(one, weights_of)]
        if len(named) != 1:
            raise StateError(f'--weights-of {weights_of}: {len(named) or "no"} sets of weights are called so; {_listed(sets)}')
        return named[0], f'{named[0].name}, as --weights-of says'
    chosen = sets
    if weights_of == EMA:
        chosen = [one for one in sets if one.averaged] or [one for one in sets if one.averaged is None]
    elif weights_of == LAST:
        chosen = [one for one in sets if one.averaged is False]
    elif len(sets) == 2 and len({(one.table.source, one.table.arch) for one in sets}) == 1:
        chosen = [one for one in sets if one.averaged] if {one.averaged for one in sets} == {True, False} else sets
    if not chosen:
        kind = 'averaged weights' if weights_of == EMA else 'weights but averaged ones'
        raise StateError(f'--weights-of {weights_of}: holds no {kind}; {_listed(sets)}')
    if len(chosen) > 1:
        raise StateError(f'{_listed(chosen)}: choose one by --weights-of NAME')
    (one,) = chosen
    others = ', '.join(other.name for other in sets if other is not one)
    if one.averaged and others and weights_of is None:
        return one, f'the averaged ones ({one.name}), to which published scores belong; --weights-of last takes {others}'
    if one.averaged:
        return one, f'the averaged ones ({one.name})' + (f', not {others}' if others else '')
    return one, f'the last ones ({one.name}), not {others}' if others else ''


def _prefixes(arrays: Mapping[str, np.ndarray], source: Optional[str]) -> dict[str, list[Table]]:
    """Prefixes below which all marks of tables are, the shortest first, and these tables."""
    by_end: dict[str, list[str]] = {}
    for name in arrays:
        by_end.setdefault(_end(name), []).append(name)
    prefixes: dict[str, list[Table]] = {}
    for table in TABLES:
        if source not in (None, table.source):
            continue
        first = max(table.marks, key=lambda mark: mark.count('.'))
        for name in by_end.get(_end(first), ()):
            if name == first or name.endswith(f'.{first}'):
                prefix = name[: len(name) - len(first)]
                if all(f'{prefix}{mark}' in arrays for mark in table.marks):
                    prefixes.setdefault(prefix, []).append(table)
    if len(prefixes) > MOST_SETS:
        first = ', '.join(list(prefixes)[:3])
        raise StateError(f'holds {len(prefixes)} sets of weights ({first}, ...); save the one that is meant alone')
    return dict(sorted(prefixes.items(), key=lambda item: item[0].count('.')))


def _end(name: str) -> str:
    return '.'.join(name.rsplit('.', 2)[-2:])


def _is_of(table: Table, arrays: Arrays) -> bool:
    try:
        return table.fits(arrays)
    except (TypeError, IndexError, KeyError):  # tensors of other shapes
        return False


def _belongs(name: str, outer: WeightSet) -> bool:
    """Whether a tensor is one of the larger network, read or not."""
    return outer.table.takes(name.removeprefix(outer.prefix))


def is_training(name: str) -> bool:
    """Whether a name says that it is of what an optimizer keeps."""
    return bool(TRAINING & set(name.split('.')))


def _of_networks(sets: list[WeightSet]) -> list[WeightSet]:
    """Without what an optimizer keeps of each parameter: it has no running statistics, or says so."""

    def statistics(one: WeightSet) -> bool:
        return any(name.endswith('running_mean') for name in one.arrays)

    complete = {one.table.arch for one in sets if statistics(one)}
    return [one for one in sets if not is_training(one.label) and (statistics(one) or one.table.arch not in complete)]


def _without_copies(sets: list[WeightSet]) -> list[WeightSet]:
    """Each set once, though it has several names."""
    unique: list[WeightSet] = []
    for one in sets:
        if not any(_equal(one, other) for other in unique):
            unique.append(one)
    return unique


def _equal(one: WeightSet, other: WeightSet) -> bool:
    return one.arrays.keys() == other.arrays.keys() and all(
        array is other.arrays[name] or np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items()
    )


def _words(label: str) -> set[str]:
    return set(re.split(r'[^a-z]+', re.sub('(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', label).lower()))


def _with_averages(sets: list[WeightSet], arrays: Mapping[str, np.ndarray]) -> list[WeightSet]:
    """The sets, with what their names and counters beside them tell of averaging."""
    known: list[WeightSet] = []
    for one in sets:
        words = _words(one.label)
        glued = any(word.endswith(('modelema', 'netema')) or word.startswith(('emamodel', 'emanet')) for word in words)
        counted = any(f'{one.prefix}{counter}' in arrays for counter in COUNTERS)
        averaged = True if words & AVERAGED or glued or counted else None if 'teacher' in words else False
        shadows = {name: f'{MMCV_AVERAGE}{name.replace(".", "_")}' for name in one.arrays}
        shadows = {name: shadow for name, shadow in shadows.items() if shadow in one.arrays}
        if shadows:  # mmcv exchanges both before it saves: the network has the averages
            plain = {name: array for name, array in one.arrays.items() if name not in set(shadows.values())}
            last = {name: one.arrays[shadows.get(name, name)] for name in plain}
            label = f'{one.label}.{MMCV_AVERAGE}*'.lstrip('.')
            known += [replace(one, arrays=plain, averaged=True), replace(one, arrays=last, label=label, averaged=False)]
        else:
            known.append(replace(one, averaged=averaged))
    exchanged = {  # so does mmengine
        one.label
        for one in known
        if _words(one.label) >= {'ema', 'state', 'dict'} and f'{one.prefix}steps' in arrays
        if any(other.label == 'state_dict' for other in known)
    }
    if exchanged:
        known = [
            replace(one, averaged=one.label == 'state_dict') if one.label in exchanged or one.label == 'state_dict' else one
            for one in known
        ]
    return known


def _is_called(one: WeightSet, name: str) -> bool:
    label, name = f'.{one.label}.', f'.{name.strip(".")}.'
    return name in label


def _listed(sets: list[WeightSet]) -> str:
    return f'holds {len(sets)} set{"s" if len(sets) > 1 else ""} of weights: {", ".join(one.known_as for one in sets)}'
