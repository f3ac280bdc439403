"""Networks that a user wrote: a class or function in a Python file, which is executed, as the user asks by naming it."""

import inspect
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any, Mapping, Optional

import numpy as np

from twinseg.common import weights as weight_files
from twinseg.common.activations import Arrays, Layer, Watcher
from twinseg.common.backend import Backend
from twinseg.common.errors import UserError, first_line_of, reason_of
from twinseg.common.settings.yaml_text import parse
from twinseg.common.trace.matching import Flow, match_by_flow, matched
from twinseg.common.trace.sources import NetworkSource, Statistics


def open_network(
    label: str, file: Path, name: str, backend: Backend, weights: Optional[Path], statistics: Statistics
) -> NetworkSource:
    """The network that ``name``, a class or function without required arguments, or an object, makes; in evaluation mode."""
    if not file.is_file():
        raise UserError(f'{file}: no such file')
    backend.setup('cpu')
    module = ModuleType(f'twinseg_trace_{file.stem}')
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where the classes are looked up
    sys.path.insert(0, str(file.absolute().parent))  # what the file imports from beside it
    try:
        exec(compile(file.read_bytes(), str(file), 'exec'), vars(module))
        network: Any = module
        for part in name.split('.'):
            network = getattr(network, part)
        network = network() if inspect.isclass(network) or inspect.isfunction(network) else network
    except AttributeError as error:
        raise UserError(f'{file}: {name}: {error}') from None
    except Exception as error:  # whatever the user's code raises
        raise UserError(f'{file}: {name}: {type(error).__name__}: {error}') from error
    finally:
        sys.path.pop(0)
    backend.set_training(network, False)
    source = NetworkSource(label, backend, network, statistics)
    source.written_by_user, source.knows_statistics = True, False
    if weights is not None:
        source.unloaded = load_weights(source, read_state(weights))
    return source


class RenamedSource:
    """A side whose modules have the other side's names; modules without a partner are skipped."""

    def __init__(self, source: NetworkSource, names: Mapping[str, str]) -> None:
        self.source, self.names = source, {'': '', **names}
        self.label, self.precision, self.runs, self.has_double = source.label, source.precision, True, source.has_double

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> the network's input, float32."""
        return self.source.prepare(images)

    def run(self, inputs: np.ndarray, watcher: Watcher) -> None:
        """Computes while ``watcher`` looks on."""
        self.source.run(inputs, _Renaming(watcher, self.names))

    def layers(self) -> Mapping[str, Layer]:
        """The layers by the other side's names."""
        return {self.names[name]: layer for name, layer in self.source.layers().items() if name in self.names}

    def unmatched(self, layers: Mapping[str, Layer]) -> tuple[list[str], list[str]]:
        """Layers with parameters of the other network ``layers``, and of this one, that have no partner."""
        mine = [name for name, layer in layers.items() if layer.parameters and name not in self.names.values()]
        theirs = [name for name, layer in self.source.layers().items() if layer.parameters and name not in self.names]
        return mine, theirs

    def double(self) -> Optional['RenamedSource']:
        """The same in float64, where the backend has it."""
        double = self.source.double()
        return None if double is None else RenamedSource(double, self.names)


class _Renaming:
    def __init__(self, watcher: Watcher, names: Mapping[str, str]) -> None:
        self.watcher, self.names = watcher, names

    def enter(self, name: str, inputs: Arrays) -> Optional[Arrays]:
        return self.watcher.enter(self.names.get(name, f'{name} (here alone)'), inputs)

    def leave(self, name: str, outputs: Arrays) -> Optional[Arrays]:
        return self.watcher.leave(self.names.get(name, f'{name} (here alone)'), outputs)


def pair(
    first: NetworkSource, second: NetworkSource, table: Mapping[str, str], carry: bool, images: np.ndarray
) -> tuple[RenamedSource, dict[str, int]]:
    """The second network under the first one's names, and how many layers were matched how. ``carry``: with the first one's
    weights. ``images``: uint8 (N, 3, H, W), from which it is seen what flows into which layer. UserError where its weights
    do not fit, and where it does not run."""
    names, how = matched(first.layers(), second.layers(), table, values=not carry)
    if carry:
        state, own = first.backend.state(first.network), second.backend.state(second.network)
        carried = {}
        for name, value in own.items():
            layer, _, leaf = name.rpartition('.')
            source = f'{names[layer]}.{leaf}' if layer in names else name
            if source in state and state[source].shape == value.shape:
                carried[name] = state[source]
        if not carried:
            raise UserError(
                f'{second.label}: takes no weights of {first.label}: no module of both has one name, or kind and shape'
            )
        second.backend.load_state(second.network, {**own, **carried})
    flows = [Flow(source.layers()) for source in (first, second)]
    for side, flow in zip((first, second), flows):
        try:
            side.run(side.prepare(images), flow)
        except UserError:
            raise
        except Exception as error:  # whatever a user's network raises
            raise UserError(f'{side.label}: cannot be run on these images: {first_line_of(error)}') from error
    match_by_flow(flows[0], flows[1], names, how)
    if all(name == other for name, other in names.items()):
        names = {name: name for name in _modules(second)}  # modules with parts, too, are each other's
    return RenamedSource(second, names), dict(Counter(how.values()))


def _modules(source: NetworkSource) -> list[str]:
    names = dict.fromkeys(source.layers())
    for name in list(names):
        while name := name.rpartition('.')[0]:
            names.setdefault(name)
    return list(names)


def read_names(path: Optional[Path]) -> dict[str, str]:
    """Module of the first network -> module of the second, from a YAML file; UserError for anything else."""
    if path is None:
        return {}
    try:
        content = parse(path.read_text(encoding='utf-8'), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: not readable: {reason_of(error)}') from None
    if not isinstance(content, dict) or not all(isinstance(word, str) for item in content.items() for word in item):
        raise UserError(f'{path}: expected lines of the kind "module of A: module of B"')
    return content


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of weights by canonical name, whatever network they are of."""
    return {name: array for name, array in weight_files.read(path).items()}


def load_weights(source: NetworkSource, state: Mapping[str, np.ndarray]) -> list[str]:
    """Loads what has the same names and shapes; the names of the network's tensors that got nothing."""
    own = source.backend.state(source.network)
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    source.backend.load_state(source.network, {**own, **fitting})
    return sorted(set(own) - set(fitting))
