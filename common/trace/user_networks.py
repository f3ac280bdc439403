"""Networks that a user wrote: a class or function in a Python file, which is executed, as the user asks by naming it."""

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np

from twinseg.common import weights as weight_files
from twinseg.common.activations import Layer
from twinseg.common.backend import Backend
from twinseg.common.errors import UserError
from twinseg.common.trace.sources import NetworkSource, Statistics


def open_network(
    label: str, file: Path, name: str, backend: Backend, weights: Optional[Path], statistics: Statistics
) -> NetworkSource:
    """The network that ``name``, a class or function without required arguments, or an object, makes; in evaluation mode."""
    if not file.is_file():
        raise UserError(f'{file}: no such file')
    backend.setup('cpu')
    specification = importlib.util.spec_from_file_location(f'twinseg_trace_{file.stem}', file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str(file.absolute().parent))  # what the file imports from beside it
    try:
        specification.loader.exec_module(module)
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
    if weights is not None:
        source.unloaded = load_weights(source, read_state(weights))
    return source


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of weights by canonical name, whatever network they are of."""
    return {name: array for name, array in weight_files.read(path).items()}


def load_weights(source: NetworkSource, state: Mapping[str, np.ndarray]) -> list[str]:
    """Loads what has the same names and shapes; the names of the network's tensors that got nothing."""
    own = source.backend.state(source.network)
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    source.backend.load_state(source.network, {**own, **fitting})
    return sorted(set(own) - set(fitting))


def matched(first: Mapping[str, Layer], second: Mapping[str, Layer], table: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Layers of the second network -> those of the first: by ``table`` (first -> second), else by name, else by order, kind and
    shape of parameters; and how each was matched."""
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
    rest = [name for name in first if name not in names.values()]
    for theirs, layer in second.items():
        if theirs in names:
            continue
        same = next((mine for mine in rest if _alike(first[mine], layer)), None)
        if same is not None:
            names[theirs], how[theirs] = same, 'order'
            del rest[: rest.index(same) + 1]
    return names, how


def _alike(one: Layer, other: Layer) -> bool:
    shapes = ({key: value.shape for key, value in layer.parameters.items()} for layer in (one, other))
    return one.kind == other.kind and next(shapes) == next(shapes)
