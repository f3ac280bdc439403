"""Weights under their publisher's names -> weights under ours, and which network of which publisher they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np

from twinseg.common.checkpoint import RunMeta
from twinseg.common.config import nearest
from twinseg.common.errors import StateError
from twinseg.common.presets import without_heads
from twinseg.common.weights.by_name import find_weights
from twinseg.common.weights.publishers import PUBLISHERS, TABLES
from twinseg.common.weights.publishers.table import Table
from twinseg.common.weights.reading.files import read, unwrap

OURS = 'twinseg'
SOURCES = (*PUBLISHERS, OURS)


@dataclass(frozen=True)
class Converted:
    """Weights in our names and what they belong to: ``build_model(arch, **arguments)`` makes the network they fit."""

    source: str
    arch: str
    arguments: dict[str, Any]
    state: dict[str, np.ndarray]
    num_classes: Optional[int]  # None: a backbone without classifier, for ``pretrained``
    names: dict[str, str]  # our name -> the publisher's
    ignored: list[str]  # the publisher's names that were left out on purpose
    meta: Optional[RunMeta] = None  # metadata, where the file is one of our checkpoints

    def __str__(self) -> str:
        left = f'; {len(self.ignored)} known to be unused were left out' if self.ignored else ''
        classes = 'backbone only' if self.num_classes is None else f'{self.num_classes} classes'
        return f'{self.arch} of {self.source}, {classes}: {len(self.state)} tensors{left}'


def convert(state: Mapping[str, Any], source: Optional[str] = None) -> Converted:
    """Publisher's names -> ours. ``source``: one of ``SOURCES``; None: recognised from the names.

    Raises StateError when the publisher is not known, or when a tensor has a name that its table does not take.
    """
    if source is not None and source not in SOURCES:
        near = nearest(source, SOURCES)
        hint = f'; did you mean {near!r}?' if near else f': choose {", ".join(SOURCES)}'
        raise StateError(f'no publisher {source!r}{hint}')
    meta = getattr(state, 'meta', None)
    if meta is not None and source in (None, OURS):
        return _ours(state, meta)
    arrays = unwrap(state)
    for table in TABLES:
        if source in (None, table.source) and table.fits(arrays):
            return _by_table(table, arrays)
    known, first = ', '.join([source] if source else SOURCES), ', '.join(list(arrays)[:3])
    raise StateError(f'no network that is known here ({known}): {len(arrays)} tensors, {first}, ...')


def load(path: str | Path, source: Optional[str] = None) -> Converted:
    """The weights of a file or a name, ours or published; the averaged (EMA) ones where ours has them."""
    path = find_weights(path)
    published = read(path)
    try:
        return convert(published, source)
    except StateError as error:
        raise StateError(f'{path}: {error}') from None


def _ours(state: Mapping[str, np.ndarray], meta: RunMeta) -> Converted:
    config = meta.config
    num_classes = config.get('num_classes') or meta.num_classes
    if 'arch' not in config or num_classes is None:
        raise StateError('one of our files, but it does not say which network (arch) and how many classes it has')
    backbone = {'backbone': config['backbone']} if config.get('backbone') else {}
    arguments = {'num_classes': num_classes, **backbone, **config.get('model_args', {})}
    counters = [name for name in state if name.endswith('num_batches_tracked')]
    tensors = {name: array for name, array in state.items() if name not in counters}
    names = {name: name for name in tensors}
    return Converted(OURS, config['arch'], arguments, tensors, num_classes, names, counters, meta)


def _by_table(table: Table, arrays: Mapping[str, np.ndarray]) -> Converted:
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
    state = {ours: table.values(ours, np.array(arrays[theirs], np.float32)) for ours, theirs in names.items()}
    return Converted(table.source, table.arch, {**arguments, **table.more_arguments(state)}, state, num_classes, names, ignored)
