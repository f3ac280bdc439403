"""The weights of a network as numpy arrays under canonical names, out and in."""

from pathlib import Path
from typing import Mapping

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from twinseg.common import checkpoint
from twinseg.common.checkpoint import RunMeta
from twinseg.common.files import plain_path
from twinseg.mindspore_impl.network import canonical_names


def state(network: nn.Cell) -> dict[str, np.ndarray]:
    """Copies of all parameters and running statistics, in order."""
    return {name: value.asnumpy().copy() for name, value in tensors(network).items()}


def load_state(network: nn.Cell, state: Mapping[str, np.ndarray], *, partial: bool = False) -> checkpoint.LoadReport:
    """Loads what matches and says so; StateError on a poor match unless ``partial``."""
    parameters = tensors(network)
    report = checkpoint.match({name: tuple(value.shape) for name, value in parameters.items()}, state, partial)
    for name in report.matched:
        assign(parameters[name], state[name])
    return report


def save_native(network: nn.Cell, path: Path, meta: RunMeta) -> None:
    """Writes a checkpoint for ``mindspore.load_checkpoint``. ``meta`` is one more entry, a text."""
    parameters = dict(network.parameters_and_names())
    content = [{'name': name, 'data': parameters[name]} for name in canonical_names(network)]
    with plain_path(path) as plain:
        ms.save_checkpoint(content, str(plain), append_dict={'twinseg': meta.to_json()})
    path.chmod(0o644)  # MindSpore writes files that only their owner may read


def assign(parameter: ms.Parameter, value: np.ndarray) -> None:
    """Copies a value in. With ``set_data`` a compiled graph would go on with the tensors that it updates in place (momenta)."""
    ops.assign(parameter, ms.Tensor.from_numpy(np.array(value, np.float32)))


def tensors(network: nn.Cell) -> dict[str, ms.Parameter]:
    """Parameters and running statistics by canonical name, in order."""
    parameters = dict(network.parameters_and_names())
    return {canonical: parameters[name] for name, canonical in canonical_names(network).items()}
