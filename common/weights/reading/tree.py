"""Tensors in dicts, lists and stand-ins of any depth -> tensors by dotted names."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, Optional

import numpy as np

from twinseg.common.errors import StateError
from twinseg.common.weights.reading.pickled import Inert, Unreadable

DEEPEST = 64  # dicts in dicts; what lies deeper is no network's
LONGEST_NAME = 1000
MOST_CHARACTERS = 64 << 20  # characters of all names together
MOST_REPEATED = 20_000  # containers that are looked into again because they have another name, too
MODULES = '_modules'
TENSORS = ('_parameters', '_buffers')
Leaf = Callable[[Any], Optional[np.ndarray | Unreadable]]


@dataclass
class Tensors:
    """Tensors of a file.

    ``arrays`` by dotted name; ``unreadable``: what the other tensors are; ``repeated``: names that two tensors have;
    ``pickled``: the arrays are of a module that was pickled whole; ``holders``: number of arrays by their container's prefix.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    pickled: bool = False
    holders: dict[str, int] = field(default_factory=dict)


def flatten(content: Any, leaf: Leaf) -> Tensors:
    """All tensors below ``content``, those in the upper containers first.

    ``leaf`` gives the array of a value that is a tensor, what it is where it is none that can be read, None for others. Nothing
    is recursive, and what two names share is looked into a limited number of times. StateError for names without end.
    """
    tensors = Tensors()
    characters, repeats = 0, MOST_REPEATED
    seen: set[int] = set()
    todo: deque[tuple[Any, str, int]] = deque([(content, '', 0)])
    while todo:
        container, prefix, depth = todo.popleft()
        tensors.pickled |= _is_module(container)
        for key, child in _children(container):
            array = leaf(child)
            if array is None and not isinstance(child, (Mapping, list, tuple, Inert)):
                continue
            name = f'{prefix}{key}'
            characters += len(name)
            if characters > MOST_CHARACTERS:
                raise StateError(f'the names of its tensors have more than {MOST_CHARACTERS} characters')
            if len(name) > LONGEST_NAME:
                continue
            if array is None:
                if id(child) in seen:
                    repeats -= 1
                if depth < DEEPEST and (id(child) not in seen or repeats > 0):
                    seen.add(id(child))
                    todo.append((child, f'{name}.', depth + 1))
            elif name in tensors.arrays or name in tensors.unreadable:
                tensors.repeated.add(name)
            elif isinstance(array, Unreadable):
                tensors.unreadable[name] = array.kind
            else:
                tensors.arrays[name] = array
                tensors.holders[prefix] = tensors.holders.get(prefix, 0) + 1
    return tensors


def _is_module(value: Any) -> bool:
    if not isinstance(value, Inert) or not isinstance(value.state, dict):
        return False
    return MODULES in value.state or value.name.startswith('__torch__')  # the second of TorchScript


def _children(container: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(container, Mapping):
        yield from _items(container)
    elif isinstance(container, (list, tuple)):
        for index, value in enumerate(container):
            yield str(index), value
    elif isinstance(container, Inert) and isinstance(container.state, dict) and MODULES in container.state:
        state = container.state
        skipped = _texts(state.get('_non_persistent_buffers_set'))
        for part in (*TENSORS, MODULES):
            yield from ((key, value) for key, value in _items(state.get(part)) if part != '_buffers' or key not in skipped)
    elif isinstance(container, Inert):
        yield from _items(container.entries)
        for index, value in enumerate(container.elements):
            yield str(index), value
        for state in container.state if type(container.state) is tuple else (container.state,):
            yield from _items(state)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    entries = value.entries if isinstance(value, Inert) else value
    if isinstance(entries, Mapping):
        for key, child in entries.items():
            yield (str(key) if isinstance(key, (str, int)) else '?'), child


def _texts(value: Any) -> set[str]:
    """The elements of a pickled set of texts."""
    if isinstance(value, Inert):
        value = value.elements or (value.arguments[0] if value.arguments else None)
    return {element for element in value if isinstance(element, str)} if isinstance(value, list) else set()
