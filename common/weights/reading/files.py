"""Weights from a file of any publisher, whatever its name ends in."""

from pathlib import Path
from typing import Any, Mapping

import numpy as np

from twinseg.common import checkpoint
from twinseg.common.checkpoint import RunMeta
from twinseg.common.errors import StateError
from twinseg.common.files import file_kind
from twinseg.common.weights.reading.ckpt_file import read_ckpt
from twinseg.common.weights.reading.safetensors_file import describe_safetensors, read_safetensors
from twinseg.common.weights.reading.torch_file import read_torch
from twinseg.common.weights.reading.tree import Tensors, flatten

NORM_LEAVES = {'gamma': 'weight', 'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}  # MindSpore
SAVE_PLAIN = 'save them as plain tensors of float32, float16 or bfloat16'
AROUND = ('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')  # PyTorch's wrappers of any module


class Weights(dict[str, np.ndarray]):
    """Arrays by name. ``meta`` is the metadata of our checkpoints, None for published weights."""

    def __init__(self, arrays: Mapping[str, np.ndarray], meta: RunMeta | None = None):
        super().__init__(arrays)
        self.meta = meta


class Contents:
    """All tensors of a file, or of an object that Python holds.

    ``arrays``: by the names below all wrappers, the tensors of norms under PyTorch's. ``stored``: those names -> the names in
    the file. ``unreadable``: what tensors are that cannot be read. ``repeated``: names of more than one tensor. ``pickled``: a
    module was saved whole. ``largest``: prefix of the stored names in the container that has the most. ``meta``: the metadata
    of our checkpoints; ``averaged``: one of them that holds averaged weights.
    """

    def __init__(self, tensors: Tensors, meta: RunMeta | None = None, averaged: bool = False):
        shorter = {name: _without_wrappers(name) for name in tensors.arrays}
        if len(set(shorter.values())) < len(shorter):  # then the words tell tensors apart
            shorter = {name: name for name in tensors.arrays}
        norms = {name.removesuffix('.moving_mean') for name in shorter.values() if name.endswith('.moving_mean')}
        names = {_canonical(name, norms): stored for stored, name in shorter.items()}
        if len(names) < len(shorter):
            raise StateError('two of its tensors have one name, one as PyTorch and one as MindSpore spells it')
        self.arrays = {name: tensors.arrays[stored] for name, stored in names.items()}
        self.stored = names
        self.unreadable = tensors.unreadable
        self.repeated = tensors.repeated
        self.pickled = tensors.pickled
        self.largest = '' if tensors.pickled else max(tensors.holders, key=lambda name: tensors.holders[name], default='')
        self.meta = meta
        self.averaged = averaged

    def why_empty(self) -> str:
        """Why there are no arrays, in words."""
        if not self.unreadable:
            return 'it holds no tensors by name'
        name, kind = next(iter(self.unreadable.items()))
        return f'its {len(self.unreadable)} tensors are {kind} ({name}, ...), which no network here loads; {SAVE_PLAIN}'


def contents(path: Path, ema: bool | None = None) -> Contents:
    """All tensors of a file: safetensors (ours or a published file), MindSpore's ``.ckpt``, what ``torch.save`` wrote.

    The kind is told by the content, and nothing in the file is executed. StateError when the file is unreadable or of another
    kind; the message says which and what to do. ``ema``: of our checkpoints the averaged weights (True), the last ones (False),
    the averaged ones where there are any (None).
    """
    kind = file_kind.kind_of(path)
    if not kind.is_weights:
        raise kind.refusal(path)
    described: Any = None
    if kind == file_kind.SAFETENSORS:
        names, metadata = describe_safetensors(path)
        if 'twinseg' in metadata:
            state, known = checkpoint.model_state(path, ema)
            return Contents(Tensors(dict(state)), known, any(name.startswith('ema.') for name in names))
        tensors = read_safetensors(path)
    elif kind == file_kind.MINDSPORE:
        arrays, texts = read_ckpt(path)
        tensors, described = Tensors(arrays), texts.get('twinseg')
    else:
        tensors, content = read_torch(path, kind)
        described = _described(content)
    meta = RunMeta.from_json(described, path) if isinstance(described, str) else None
    try:
        return Contents(tensors, meta)
    except StateError as error:
        raise StateError(f'{path}: {error}') from None


def of_object(state: Mapping[str, Any]) -> Contents:
    """All tensors of a dict, or of dicts in it."""
    return Contents(flatten(state, _array), getattr(state, 'meta', None))


def read(path: str | Path) -> Weights:
    """Arrays by name from safetensors (ours or a published file), MindSpore's ``.ckpt`` or what ``torch.save`` wrote.

    Nothing in the file is executed. Of several dicts with tensors these are those of the one that has the most;
    ``convert`` sees all of them, and takes off prefixes. The wrappers that PyTorch puts around modules (``module.``,
    ``_orig_mod.``) are taken off, and the tensors of norms have PyTorch's names. Raises StateError when the file is unreadable
    or holds no weights.
    """
    found = contents(Path(path))
    if not found.arrays:
        raise StateError(f'{path}: no weights in it: {found.why_empty()}')
    prefix = found.largest
    inner = _without_wrappers(f'{prefix}x')[:-1]
    arrays = {name.removeprefix(inner): array for name, array in found.arrays.items() if found.stored[name].startswith(prefix)}
    return Weights(arrays, found.meta)


def _array(value: Any) -> np.ndarray | None:
    return value if isinstance(value, np.ndarray) else None


def _without_wrappers(name: str) -> str:
    parts = name.split('.')
    return '.'.join(part for part in parts[:-1] if part not in AROUND) + ('.' if len(parts) > 1 else '') + parts[-1]


def _canonical(name: str, norms: set[str]) -> str:
    """MindSpore's names of a norm's tensors -> PyTorch's."""
    module, _, leaf = name.rpartition('.')
    return f'{module}.{NORM_LEAVES.get(leaf, leaf)}' if module in norms else name


def _described(content: Any) -> Any:
    """Metadata of one of our files, from the metadata of a PyTorch state dict."""
    metadata = getattr(content, 'metadata', None)
    network = metadata.get('') if isinstance(metadata, dict) else None
    return network.get('twinseg') if isinstance(network, dict) else None
