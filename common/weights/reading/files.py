"""Weights from a file of any publisher, whatever its name ends in."""

from pathlib import Path
from typing import Any, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from twinseg.common import checkpoint
from twinseg.common.checkpoint import RunMeta
from twinseg.common.errors import StateError
from twinseg.common.weights.reading.ckpt_file import is_ckpt, read_ckpt
from twinseg.common.weights.reading.torch_file import read_torch

WRAPPERS = ('state_dict', 'model_state_dict', 'model', 'net', 'network', 'module')  # keys that hold the weights

NORM_LEAVES = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}  # MindSpore
PREFIXES = ('module.', 'model.')  # prefixes from DataParallel and from trainers


class Weights(dict[str, np.ndarray]):
    """Arrays by name. ``meta`` is the metadata of our checkpoints, None for published weights."""

    def __init__(self, arrays: Mapping[str, np.ndarray], meta: RunMeta | None = None):
        super().__init__(arrays)
        self.meta = meta


def read(path: str | Path) -> Weights:
    """Arrays by name from safetensors (ours or a published file), MindSpore's ``.ckpt`` or what ``torch.save`` wrote.

    Nothing in the file is executed. The wrapper that holds the weights (``state_dict``, ``model``, ...) and a common prefix
    (``module.``, ``model.``) are taken off, and the tensors of norms get PyTorch's names. Raises StateError when the file is
    unreadable or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise StateError(f'{path}: no such file')
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    content: Any
    if is_ckpt(path):
        content, texts = read_ckpt(path)
        described = texts.get('twinseg')
    else:
        content = read_torch(path)
        described = _described(content)
    return Weights(unwrap(content, str(path)), None if described is None else RunMeta.from_json(described, path))


def unwrap(content: Any, where: str = 'weights') -> dict[str, np.ndarray]:
    """The arrays of a loaded object, without wrapper and prefix."""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    items = content.items() if isinstance(content, Mapping) else ()
    arrays = {key: value for key, value in items if isinstance(key, str) and isinstance(value, np.ndarray)}
    if not arrays:
        what = f'a dict of {list(content)[:5]}' if isinstance(content, Mapping) else type(content).__name__
        raise StateError(f'{where}: no weights in it: found {what}, expected arrays by name, or below one of {list(WRAPPERS)}')
    for prefix in PREFIXES:
        if all(key.startswith((prefix, 'loss.')) for key in arrays):  # training code may keep its loss beside the network
            arrays = {key.removeprefix(prefix): value for key, value in arrays.items()}
    norms = {key.removesuffix('.moving_mean') for key in arrays if key.endswith('.moving_mean')}
    return {_canonical(key, norms): value for key, value in arrays.items()}


def _canonical(name: str, norms: set[str]) -> str:
    """MindSpore's names of a norm's tensors -> PyTorch's."""
    module, _, leaf = name.rpartition('.')
    return f'{module}.{NORM_LEAVES.get(leaf, leaf)}' if module in norms else name


def _described(content: Any) -> Any:
    """Metadata of one of our files, from the metadata of a PyTorch state dict."""
    metadata = getattr(content, 'metadata', None)
    network = metadata.get('') if isinstance(metadata, dict) else None
    return network.get('twinseg') if isinstance(network, dict) else None


def _read_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, 'np') as file:
            if 'twinseg' not in (file.metadata() or {}):
                return Weights(unwrap({name: file.get_tensor(name) for name in file.keys()}, str(path)))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise StateError(f'{path}: not a readable safetensors file: {" ".join(str(error).split())}') from None
    return Weights(*checkpoint.model_state(path))
