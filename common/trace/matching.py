"""Which layer of one network is which layer of another."""

import hashlib
from typing import Mapping, Optional

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.errors import UserError
from twinseg.common.trace.recording import Event, Passage


def matched(
    first: Mapping[str, Layer], second: Mapping[str, Layer], table: Mapping[str, str], values: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Layers of the second network -> those of the first, and how each was matched: by ``table`` (first -> second), else by
    name, else those with parameters by their values, where ``values`` says that both sides have theirs, else by order, kind and
    shape of parameters."""
    names: dict[str, str] = {}
    how: dict[str, str] = {}
    for mine, theirs in table.items():
        for what, known in ((mine, first), (theirs, second)):
            if what not in known and not any(name.startswith(f'{what}.') for name in known):
                raise UserError(f'--names: there is no module {what!r}')
        names[theirs], how[theirs] = mine, 'table'
    for theirs in second:
        prefix = next((p for p in table.values() if theirs.startswith(f'{p}.')), None)
        if theirs in names:
            continue
        mine = theirs if prefix is None else names[prefix] + theirs[len(prefix) :]
        if mine in first and first[mine].kind == second[theirs].kind and mine not in names.values():
            names[theirs], how[theirs] = mine, 'table' if prefix is not None else 'name'
    rest = [name for name in first if name not in names.values() and first[name].parameters]
    waiting = [name for name in second if name not in names and second[name].parameters]
    if values:
        keys = {name: _values(first[name]) for name in rest}
        for theirs in waiting:
            alike = [name for name, key in keys.items() if key == _values(second[theirs])]
            if len(alike) == 1:
                names[theirs], how[theirs] = alike[0], 'weights'
                del keys[alike[0]]
        rest = list(keys)
    for theirs in waiting:
        same = next((mine for mine in rest if _alike(first[mine], second[theirs])), None)
        if theirs not in names and same is not None:
            names[theirs], how[theirs] = same, 'order'
            del rest[: rest.index(same) + 1]
    return names, how


class Flow(Passage):
    """What flows into the layers without parameters: the layer whose output it is."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        self.layers = layers
        self.makers: dict[str, str] = {}  # digest of a tensor -> the layer that computed it
        self.into: dict[str, Optional[str]] = {}  # layer without parameters -> the layer whose output enters it first

    def see(self, event: Event, array: np.ndarray) -> None:
        layer = self.layers.get(event.layer)
        if layer is None:
            return
        content = np.ascontiguousarray(array)
        digest = hashlib.blake2b(content.tobytes() + str(content.shape).encode(), digest_size=16).hexdigest()
        if event.side == 'output':
            self.makers.setdefault(digest, event.layer)
        elif not layer.parameters and event.layer not in self.into:
            self.into[event.layer] = self.makers.get(digest)


def match_by_flow(first: Flow, second: Flow, names: dict[str, str], how: dict[str, str]) -> None:
    """Adds the layers without parameters to ``names`` and ``how``: those that take the output of layers which are each other's.
    One that is used several times in one of the networks is none of the other's, whatever its name."""
    for theirs, mine in list(names.items()):
        if theirs in second.into and how[theirs] != 'table' and first.calls[mine] != second.calls[theirs]:
            del names[theirs], how[theirs]
    for theirs, maker in second.into.items():
        if theirs in names or second.calls[theirs] != 1 or maker not in names:
            continue
        kind = second.layers[theirs].kind
        alike = [
            mine
            for mine, origin in first.into.items()
            if origin == names[maker] and first.layers[mine].kind == kind and first.calls[mine] == 1
        ]
        if len(alike) == 1 and alike[0] not in names.values():
            names[theirs], how[theirs] = alike[0], 'flow'


def _values(layer: Layer) -> tuple[str, str]:
    content = b''.join(key.encode() + np.ascontiguousarray(layer.parameters[key]).tobytes() for key in sorted(layer.parameters))
    return layer.kind, hashlib.blake2b(content, digest_size=16).hexdigest()


def _alike(one: Layer, other: Layer) -> bool:
    shapes = ({key: value.shape for key, value in layer.parameters.items()} for layer in (one, other))
    return one.kind == other.kind and next(shapes) == next(shapes)
