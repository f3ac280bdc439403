"""The weights of a network as numpy arrays under canonical names, out and in."""

from pathlib import Path
from typing import Any, Mapping

import numpy as np
import torch
from torch import nn

from twinseg.common import checkpoint
from twinseg.common.checkpoint import RunMeta
from twinseg.pytorch_impl.network import canonical_names


def state(network: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all parameters and running statistics, in order."""
    return {name: value.detach().cpu().numpy().copy() for name, value in tensors(network).items()}


def load_state(network: nn.Module, state: Mapping[str, np.ndarray], *, partial: bool = False) -> checkpoint.LoadReport:
    """Loads what matches and says so; StateError on a poor match unless ``partial``."""
    parameters = tensors(network)
    report = checkpoint.match({name: tuple(value.shape) for name, value in parameters.items()}, state, partial)
    with torch.no_grad():
        for name in report.matched:
            parameters[name].copy_(torch.from_numpy(np.array(state[name], np.float32)))
    return report


def save_native(network: nn.Module, path: Path, meta: RunMeta) -> None:
    """Writes a plain state dict for ``torch.load``. ``meta`` is in its metadata, like the modules' versions."""
    content: Any = network.state_dict()
    content._metadata['']['twinseg'] = meta.to_json()
    torch.save(content, path)


def tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and running statistics by canonical name, in order."""
    parameters = network.state_dict()
    return {canonical: parameters[name] for name, canonical in canonical_names(network).items()}
