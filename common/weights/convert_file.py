"""``twinseg convert``: a published checkpoint as one of TwinSeg, which then carries all that the other commands need."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np

from twinseg.common import checkpoint, tasks, weights
from twinseg.common.backend import Network, available, get_backend, used_arguments
from twinseg.common.errors import StateError, UserError, reason_of
from twinseg.common.files import written_beside

SUFFIX = '.safetensors'
# left out: users of the weights may lack them
TRAINING_KEYS = ('amp_level', 'dtype', 'threads', 'torch_compile', 'cuda_graphs', 'pretrained')
NATIVE = {'.pth': 'pytorch', '.ckpt': 'mindspore'}  # files of one framework, and the backend that writes them


@dataclass(frozen=True)
class Conversion:
    """The weights that were recognised, the tensors that each backend's network took, and the file that was written."""

    recognised: str
    chosen: str  # which weights of the file were taken, where there was a choice
    left_out: str  # tensors of the file that were not
    loaded: dict[str, str]  # load reports by backend
    written: Path

    def facts(self) -> dict[str, str]:
        notes = {'weights': self.chosen, 'left out': self.left_out}
        said = {key: note for key, note in notes.items() if note}
        return {'recognised': self.recognised, **said, **self.loaded, 'written': str(self.written)}


def convert_file(
    file: Path,
    source: Optional[str] = None,
    out: Optional[Path] = None,
    arguments: Optional[Mapping[str, Any]] = None,
    half: bool = False,
    weights_of: Optional[str] = None,
) -> Conversion:
    """Reads weights, published or our own, loads them into the network of every installed backend, and writes ``out``.

    ``source`` is one of ``weights.SOURCES``, None: recognised. ``out`` is by default the file's name in the current folder,
    ending in .safetensors; .pth is a state dict of our PyTorch network, .ckpt a checkpoint of our MindSpore network. All three
    say which network they belong to. ``arguments``: settings of the network that the weights do not reveal. ``half``:
    kernels are written in float16, which halves a .safetensors file. ``weights_of``: 'ema', 'last' or a name, where the file
    has several sets of weights.

    The averaged weights are taken where there are these and the last ones. Of ours, what the file says of its data and training
    is kept, but for precision and threads. A published classifier is taken for one of ImageNet, a network of 19 classes for one
    of Cityscapes. Raises StateError for a file that is unreadable or does not fit, BackendError when ``out`` needs an absent
    framework.
    """
    out = out or Path(file.stem + SUFFIX)
    if out.suffix not in (SUFFIX, *NATIVE):
        raise UserError(f'{out}: a converted checkpoint is named *{SUFFIX}, or *.pth for PyTorch alone, *.ckpt for MindSpore')
    if half and out.suffix != SUFFIX:
        raise UserError(f"{out}: --half is for *{SUFFIX}: the frameworks' own files are float32")
    if out.exists() and out.samefile(file):
        raise UserError(f'{out}: would be written over itself; give another --out')
    if out.suffix in NATIVE:
        get_backend(NATIVE[out.suffix])
    converted = weights.load(file, source, weights_of)
    converted = replace(converted, arguments={**converted.arguments, **(arguments or {})})
    try:
        checkpoint.check_finite(converted.state)
    except StateError as error:
        raise StateError(f'{file}: {error}') from None
    loaded, networks = {}, {}
    for name in available():
        backend = get_backend(name)
        backend.setup('cpu')
        if converted.meta:  # earlier versions took arguments that have no effect
            used = used_arguments(backend.MODELS, converted.arch, converted.arguments)
            converted = replace(converted, arguments={**used, **(arguments or {})})
        networks[name] = backend.build_model(converted.arch, seed=None, **converted.arguments)
        try:
            loaded[name] = str(backend.load_state(networks[name], converted.state))
        except StateError as error:
            raise StateError(f'{file}: {converted}: {error}') from None
    model_args = {key: value for key, value in converted.arguments.items() if key != 'num_classes'}
    if converted.meta:
        said = converted.meta.model_dump(exclude_unset=True, exclude={'trainer'})  # the state of an optimizer left out
        config = {key: value for key, value in said['config'].items() if key not in TRAINING_KEYS}
        meta = checkpoint.RunMeta(**{**said, 'config': {**config, 'model_args': model_args}})
    else:
        align_corners = next((network.align_corners.get('logits') for network in networks.values()), False)
        meta = _meta(converted, model_args, align_corners, file.name)
    if out.suffix in NATIVE:
        _save_native(NATIVE[out.suffix], networks[NATIVE[out.suffix]], out, meta)
    else:
        checkpoint.save(
            out, {f'model.{name}': _halved(name, array) if half else array for name, array in converted.state.items()}, meta
        )
    return Conversion(str(converted), converted.chosen, converted.left_out, loaded, out)


def _meta(
    converted: weights.Converted, model_args: dict[str, Any], align_corners: Optional[bool], name: str
) -> checkpoint.RunMeta:
    """Metadata of our file for published weights from the file ``name``."""
    data = tasks.of_logits(align_corners).data_of_published(converted.num_classes)
    config: dict[str, Any] = {'arch': converted.arch, 'num_classes': converted.num_classes, 'model_args': model_args}
    if data.set:
        config['set'] = data.set
    return checkpoint.RunMeta(
        config=config,
        num_classes=converted.num_classes,
        classes=list(data.classes),
        palette=[list(colour) for colour in data.palette],
        source=converted.source,
        file=name,
    )


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    """A kernel in float16; norms and biases, which are few, as they are."""
    if array.ndim < 2:
        return array
    if np.abs(array).max() > np.finfo(np.float16).max:
        raise StateError(f'{name}: holds {np.abs(array).max():.4g}, too large for float16: leave out --half')
    return array.astype(np.float16)


def _save_native(backend: str, network: Network, out: Path, meta: checkpoint.RunMeta) -> None:
    try:
        with written_beside(out) as part:
            get_backend(backend).save_native(network, part, meta)
    except (OSError, RuntimeError) as error:
        raise StateError(f'{out}: not written: {reason_of(error)}; free space or choose another folder') from None
