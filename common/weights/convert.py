"""Weights under their publisher's names -> weights under ours, and which network of which publisher they are."""

from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np
from pydantic import ValidationError

from twinseg.common.checkpoint import RunMeta
from twinseg.common.config import Model
from twinseg.common.errors import StateError, nearest
from twinseg.common.settings.messages import first_problem
from twinseg.common.settings.presets import without_heads
from twinseg.common.weights import sets
from twinseg.common.weights.by_name import find_weights
from twinseg.common.weights.nearest import nearest_network
from twinseg.common.weights.publishers import PUBLISHERS
from twinseg.common.weights.publishers.table import COUNTERS, Arrays, Table
from twinseg.common.weights.reading.files import SAVE_PLAIN, Contents, contents, of_object
from twinseg.common.weights.sets import EMA, LAST, WeightSet

OURS = 'twinseg'
SOURCES = (*PUBLISHERS, OURS)
MOST_NAMED = 8  # names or groups of tensors in a line
LEAST_COUNTED = 3  # tensors of a group that are named one by one
NETWORK_KEYS = ('arch', 'num_classes', 'backbone', 'model_args')  # keys that one of our files has in its configuration


@dataclass(frozen=True)
class Converted:
    """Weights in our names and what they belong to: ``build_model(arch, **arguments)`` makes the network they fit."""

    source: str
    arch: str
    arguments: dict[str, Any]
    state: dict[str, np.ndarray]
    num_classes: Optional[int]  # None: a backbone without classifier, for ``pretrained``
    names: dict[str, str]  # our name -> the publisher's
    ignored: list[str]  # names of the tensors that were left out
    meta: Optional[RunMeta] = None  # metadata, where the file is one of our checkpoints
    chosen: str = ''  # which weights of the file these are, where there was a choice
    left_out: str = ''  # what was left out, in one line

    def __str__(self) -> str:
        classes = 'backbone only' if self.num_classes is None else f'{self.num_classes} classes'
        return f'{self.arch} of {self.source}, {classes}: {len(self.state)} tensors'


def convert(state: Mapping[str, Any], source: Optional[str] = None, weights_of: Optional[str] = None) -> Converted:
    """Publisher's names -> ours, whatever dicts and prefixes are around them.

    ``source``: one of ``SOURCES``; None: recognised from the names. ``weights_of``: 'ema', 'last', or the name of the dict or
    module, where there are several sets of weights; None: the averaged ones, if there are these and the last.

    Raises StateError when the publisher is not known, when a tensor of the network has a name that its table does not take, or
    when it is not clear which weights are meant.
    """
    return _converted(of_object(state), source, weights_of)


def load(path: str | Path, source: Optional[str] = None, weights_of: Optional[str] = None) -> Converted:
    """The weights of a file or a name, ours or a published one, as ``convert`` gives them."""
    path = find_weights(path)
    found = contents(path, {EMA: True, LAST: False}.get(weights_of or ''))
    try:
        return _converted(found, source, weights_of)
    except StateError as error:
        raise StateError(f'{path}: {error}') from None


def _converted(found: Contents, source: Optional[str], weights_of: Optional[str]) -> Converted:
    if source is not None and source not in SOURCES:
        near = nearest(source, SOURCES)
        hint = f'; did you mean {near!r}?' if near else f': choose {", ".join(SOURCES)}'
        raise StateError(f'no publisher {source!r}{hint}')
    if found.meta is not None and source in (None, OURS):
        return _ours(found, found.meta, weights_of)
    known = sets.find(found, source)
    if not known:
        raise StateError(_unknown(found, source))
    one, chosen = sets.choose(known, weights_of)
    inside = {f'{one.prefix}{name}' for name in one.arrays}
    outside = [name for name in found.arrays if name not in inside]
    if one.table.classes is None and weights_of is None:
        _check_alone(one, [name for name in outside if found.arrays[name].ndim > 2 and not sets.is_training(name)])
    _check_readable(one, found)
    converted = _by_table(one.table, one.arrays)
    beside = [found.stored[name] for name in outside]
    left_out = _summary([*(found.stored[f'{one.prefix}{name}'] for name in converted.ignored), *beside], one.label)
    return replace(converted, ignored=[*converted.ignored, *beside], chosen=chosen, left_out=left_out)


def _summary(names: list[str], label: str) -> str:
    """Names in one line: each, or of many in one module, or of one kind, their number. ``label``: around the network."""
    groups: dict[str, list[str]] = {}
    for name in names:
        parts, leaf = name.split('.'), name.rpartition('.')[2]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, label.split('.'))))
        groups.setdefault(leaf if leaf in COUNTERS else '.'.join(parts[: shared + 1]), []).append(name)
    shown: list[str] = []
    for group, members in groups.items():
        shown += members if len(members) <= LEAST_COUNTED else [f'{group} ({len(members)} tensors)']
    return ', '.join(shown[:MOST_NAMED]) + (f' and {len(shown) - MOST_NAMED} more' if len(shown) > MOST_NAMED else '')


def _unknown(found: Contents, source: Optional[str]) -> str:
    """Why a file is no network that is known, and what can be done."""
    if not found.arrays:
        return f'no weights in it: {found.why_empty()}'
    if source is not None and (found.meta is not None or source == OURS):
        return f'not weights of {source}' + (': a checkpoint of twinseg; leave out --from' if found.meta is not None else '')
    others = sets.find(found, None) if source is not None else []
    if others:
        return f'not weights of {source}, but {others[0].known_as}: leave out --from, or give --from {others[0].table.source}'
    first = ', '.join(list(found.arrays)[:3])
    whose = f' of {source}' if source else ''
    text = f'no network{whose} that is known here: {len(found.arrays)} tensors ({first}, ...); '
    text += nearest_network(found.arrays, source)
    if found.unreadable:
        name, kind = next(iter(found.unreadable.items()))
        text += f'; {len(found.unreadable)} more are {kind} ({name}, ...): {SAVE_PLAIN}'
    if found.pickled:
        text += '; a module was saved whole: torch.save(model.state_dict(), FILE) saves its weights'
    return text


def _check_alone(one: WeightSet, kernels: list[str]) -> None:
    """StateError where the weights of a backbone are part of a network that is not known."""
    if kernels:
        raise StateError(
            f'{one.known_as} is a part of a network that is not known here: {len(kernels)} more kernels '
            f'({", ".join(kernels[:3])}, ...); --weights-of {one.name} takes the part alone'
        )


def _check_readable(one: WeightSet, found: Contents) -> None:
    """StateError where tensors of the network are of a kind that cannot be read, or occur twice under one name."""
    for name, kind in found.unreadable.items():
        if name.startswith(one.label) and one.table.takes(name.removeprefix(one.label).lstrip('.')):
            raise StateError(f'{name} is a tensor {kind}; {SAVE_PLAIN}')
    for name, stored in found.stored.items():
        if stored in found.repeated and name.startswith(one.prefix):
            raise StateError(f'{stored}: two tensors have this name')


def _ours(found: Contents, meta: RunMeta, weights_of: Optional[str]) -> Converted:
    state, keys = found.arrays, {key: meta.config[key] for key in NETWORK_KEYS if meta.config.get(key) is not None}
    if weights_of not in (None, EMA, LAST):
        raise StateError(f'--weights-of {weights_of}: a checkpoint of twinseg holds the weights ema and last')
    if weights_of == EMA and not found.averaged:
        raise StateError(f'--weights-of {EMA}: holds no averaged weights')
    try:
        model = Model.model_validate(keys)
    except ValidationError as error:
        problem = first_problem(error, Model)
        raise StateError(
            f'one of our files, but what it says of its network is damaged: {problem.key}: {problem.text}'
        ) from None
    num_classes = model.num_classes or meta.num_classes
    if 'arch' not in keys or num_classes is None:
        raise StateError('one of our files, but it does not say which network (arch) and how many classes it has')
    arguments = {'num_classes': num_classes, **model.arguments()}
    counters = [name for name in state if name.endswith('num_batches_tracked')]
    tensors = {name: array for name, array in state.items() if name not in counters}
    names = {name: name for name in tensors}
    chosen = ''
    if found.averaged:
        chosen = 'the last ones' if weights_of == LAST else 'the averaged ones; --weights-of last takes the last'
    return Converted(OURS, model.arch, arguments, tensors, num_classes, names, counters, meta, chosen, _summary(counters, ''))


def _by_table(table: Table, arrays: Arrays) -> Converted:
    try:
        return _renamed(table, arrays)
    except (KeyError, IndexError, TypeError) as error:
        reason = f'{error} is missing' if isinstance(error, KeyError) else 'a tensor has another number of dimensions'
        raise StateError(f'{table.arch} of {table.source}: {reason}') from None


def _renamed(table: Table, arrays: Arrays) -> Converted:
    names, ignored = table.rename(arrays)
    arguments, num_classes = table.arguments, None
    if table.classes is not None:
        if table.classes not in arrays:
            raise StateError(f'{table.arch} of {table.source}: {table.classes} is missing')
        num_classes = arguments['num_classes'] = arrays[table.classes].shape[table.classes_axis]
    if table.heads:
        arguments['auxiliary'] = all(f'{head}.classifier.weight' in names for head in table.heads)
        if not arguments['auxiliary']:  # the rest of incomplete heads is of no use
            prefixes = tuple(f'{head}.' for head in table.heads)
            ignored += [theirs for ours, theirs in names.items() if ours.startswith(prefixes)]
            names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(prefixes)}
            arguments = without_heads(arguments)
    shards = [theirs for theirs in names.values() if not arrays[theirs].size]
    if shards:
        shown = ', '.join(shards[:3])
        raise StateError(f'{len(shards)} tensors are empty ({shown}): one of several files with shards; join them first')
    floats: dict[int, np.ndarray] = {}  # a tensor that has several names is turned into float32 once
    for theirs in names.values():
        floats.setdefault(id(arrays[theirs]), np.asarray(arrays[theirs], np.float32))
    state = {ours: table.values(ours, floats[id(arrays[theirs])]) for ours, theirs in names.items()}
    return Converted(table.source, table.arch, {**arguments, **table.more_arguments(state)}, state, num_classes, names, ignored)
