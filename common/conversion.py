"""``twinseg convert``: a published checkpoint as one of ours, which then carries all that the other commands need."""
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Optional

from common import checkpoint, weights
from common.backend import available, get_backend
from common.data.datasets import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from common.errors import StateError, UserError

SUFFIX = '.safetensors'
NATIVE = {'.pth': 'pytorch', '.ckpt': 'mindspore'}  # files of one framework, and the backend that writes them


def convert(file: Path, source: Optional[str] = None, out: Optional[Path] = None,
            arguments: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """Reads published weights, loads them into the network of every installed backend, and writes ``out``.

    ``source`` is one of ``weights.SOURCES``, None: recognised. ``out`` is by default the file's name in the current folder,
    ending in .safetensors; .pth is a state dict of our PyTorch network, .ckpt a checkpoint of our MindSpore network. All three
    say which network they belong to. ``arguments``: of the network, where the publisher's weights do not tell. A classifier is
    taken for one of ImageNet, a network of 19 classes for one of Cityscapes. Returns what was found, read and written;
    StateError for a file that is unreadable or does not fit, BackendError when ``out`` needs an absent framework.
    """
    out = out or Path(file.stem + SUFFIX)
    if out.suffix not in (SUFFIX, *NATIVE):
        raise UserError(f'{out}: a converted checkpoint is named *{SUFFIX}, or *.pth for PyTorch alone, *.ckpt for MindSpore')
    if out.exists() and out.samefile(file):
        raise UserError(f'{out}: would be written over itself; give another --out')
    if out.suffix in NATIVE:
        get_backend(NATIVE[out.suffix])
    converted = weights.load(file, source)
    converted = replace(converted, arguments={**converted.arguments, **(arguments or {})})
    loaded, networks = {}, {}
    for name in available():
        backend = get_backend(name)
        backend.setup('cpu')
        networks[name] = backend.build_model(converted.arch, **converted.arguments)
        loaded[name] = str(backend.load_state(networks[name], converted.state))
    classifies = any(not network.align_corners for network in networks.values())
    classes = CITYSCAPES_CLASSES if converted.num_classes == len(CITYSCAPES_CLASSES) and not classifies else ()
    kept = {key: value for key, value in converted.arguments.items() if key != 'num_classes'}
    config: dict[str, Any] = {'arch': converted.arch, 'num_classes': converted.num_classes, 'model_args': kept}
    if classes or classifies:
        config['set'] = 'cityscapes' if classes else 'imagenet'
    meta = {'config': config, 'num_classes': converted.num_classes,
            'classes': list(classes), 'palette': [list(colour) for colour in CITYSCAPES_PALETTE] if classes else [],
            'source': converted.source, 'file': file.name}
    if out.suffix in NATIVE:
        _save_native(NATIVE[out.suffix], networks[NATIVE[out.suffix]], out, meta)
    else:
        checkpoint.save(out, {f'model.{name}': array for name, array in converted.state.items()}, meta)
    return {'found': str(converted), **loaded, 'written': str(out)}


def _save_native(backend: str, network: Any, out: Path, meta: dict[str, Any]) -> None:
    temporary = out.with_name(f'{out.stem}.part{out.suffix}')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        get_backend(backend).save_native(network, temporary, meta)
        os.replace(temporary, out)
    except (OSError, RuntimeError) as error:
        raise StateError(f'{out}: not written: {" ".join(str(error).split())}; free space or choose another folder') from None
    finally:
        temporary.unlink(missing_ok=True)
