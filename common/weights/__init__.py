"""Published checkpoints in this suite's names, for both backends.

``read`` opens a file safely, ``convert`` recognises the publisher and renames, ``load`` does both, and ``load_pretrained``
fills a network as far as the weights go. Each publisher has a module with its table of names.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

import numpy as np

from twinseg.common import checkpoint
from twinseg.common.config import nearest
from twinseg.common.errors import StateError
from twinseg.common.weights.publishers import ddrnet, deephm, enet, mmseg, smp, stdc_seg, torchvision, tramac, yassouali
from twinseg.common.weights.publishers.table import Table
from twinseg.common.weights.reading.files import Weights, read, unwrap

__all__ = ['Converted', 'SOURCES', 'TABLES', 'Weights', 'convert', 'load', 'load_pretrained', 'read']
TABLES: tuple[Table, ...] = tuple(
    table
    for publisher in (mmseg, tramac, stdc_seg, ddrnet, enet, smp, yassouali, deephm, torchvision)
    for table in publisher.TABLES
)
OURS = 'twinseg'
SOURCES = (*dict.fromkeys(table.source for table in TABLES), OURS)


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
    meta: dict[str, Any] = field(default_factory=dict)  # what one of our own checkpoints says of itself

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
        raise StateError(f'no publisher {source!r}' + (f'; did you mean {near!r}?' if near else f': choose {_list(SOURCES)}'))
    meta = getattr(state, 'meta', {})
    if meta and source in (None, OURS):
        return _ours(state, meta)
    arrays = unwrap(state)
    for table in TABLES:
        if source in (None, table.source) and table.fits(arrays):
            return _by_table(table, arrays)
    known = [source] if source else SOURCES
    raise StateError(f'no network that is known here ({_list(known)}): {len(arrays)} tensors, {_list(list(arrays)[:3])}, ...')


def load(path: str | Path, source: Optional[str] = None) -> Converted:
    """The weights of a file, ours or a published one; the averaged (EMA) ones where ours has them."""
    try:
        return convert(read(path), source)
    except StateError as error:
        message = str(error)
        raise StateError(message if message.startswith(str(path)) else f'{path}: {message}') from None


def load_pretrained(
    backend: Any, network: Any, arch: str, path: str | Path, reset_classifier: bool = False
) -> checkpoint.LoadReport:
    """Fills a network, an ``arch``, as far as a file's weights go, and reports what was filled.

    Parts (``backbone``, ``head``, ...) that only one side has are left alone, and so are stages of the file's
    backbone that the network's backbone ends before. A part that both have must agree tensor by tensor, StateError otherwise;
    only a classifier for another number of classes may stay as it was drawn, with ``reset_classifier``.
    """
    converted = load(path)
    state = converted.state
    own = backend.state(network)
    stages = {_stage(name) for name in own}
    state = {name: array for name, array in state.items() if _part(name) != 'backbone' or _stage(name) in stages}
    shared = {_part(name) for name in own} & {_part(name) for name in state}
    wrong = [
        name
        for name in {**own, **state}
        if _part(name) in shared
        and (name not in own or name not in state or not _same_but_classes(name, own[name].shape, state[name].shape))
    ]
    if not shared or wrong:
        what = f'{len(wrong)} tensors differ: {_list(wrong[:3])}' if shared else 'they share no part'
        made = _list(f'{key}: {value}' for key, value in converted.arguments.items() if key not in ('num_classes', 'auxiliary'))
        raise StateError(
            f'{path}: weights of {converted.arch} do not fit {arch}: {what}'
            + (f' (the file was made with model_args {{{made}}})' if made else '')
        )
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    if other and not reset_classifier:
        raise StateError(
            f'{path}: made for another number of classes: {other[0]} is {state[other[0]].shape}, the network has '
            f'{own[other[0]].shape}; reset_classifier: true draws the {len(other)} tensors anew'
        )
    return backend.load_state(network, {name: state[name] for name in state if _part(name) in shared}, partial=True)


def _list(names: Iterable[str]) -> str:
    return ', '.join(names)


def _part(name: str) -> str:
    return name.partition('.')[0]


def _stage(name: str) -> tuple[str, ...]:
    return tuple(name.split('.')[:2])


def _same_but_classes(name: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """The first dimension may differ; a classifier that is a transposed convolution counts its classes in the second."""
    axis = 1 if name == 'classifier.weight' and ours[:1] == theirs[:1] else 0
    return ours[:axis] + ours[axis + 1 :] == theirs[:axis] + theirs[axis + 1 :]


def _ours(state: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Converted:
    config = meta.get('config') or {}
    num_classes = config.get('num_classes') or meta.get('num_classes')
    if 'arch' not in config or num_classes is None:
        raise StateError('one of our files, but it does not say which network (arch) and how many classes it has')
    backbone = {'backbone': config['backbone']} if config.get('backbone') else {}
    arguments = {'num_classes': num_classes, **backbone, **config.get('model_args', {})}
    counters = [name for name in state if name.endswith('num_batches_tracked')]
    kept = {name: array for name, array in state.items() if name not in counters}
    return Converted(OURS, config['arch'], arguments, kept, num_classes, {name: name for name in kept}, counters, dict(meta))


def _by_table(table: Table, arrays: Mapping[str, np.ndarray]) -> Converted:
    names, ignored = table.rename(arrays)
    arguments, num_classes = dict(table.arguments), None
    if table.classes is not None:
        if table.classes not in arrays:
            raise StateError(f'{table.arch} of {table.source}: {table.classes} is missing')
        num_classes = arguments['num_classes'] = arrays[table.classes].shape[table.classes_axis]
    if table.heads:
        arguments['auxiliary'] = all(f'{head}.classifier.weight' in names for head in table.heads)
        if not arguments['auxiliary']:
            ignored += [theirs for ours, theirs in names.items() if _part(ours) in table.heads]
            names = {ours: theirs for ours, theirs in names.items() if _part(ours) not in table.heads}
    state = {ours: table.values(ours, np.array(arrays[theirs], np.float32)) for ours, theirs in names.items()}
    return Converted(table.source, table.arch, {**arguments, **table.more_arguments(state)}, state, num_classes, names, ignored)
