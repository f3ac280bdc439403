"""The checkpoint file that both backends write and read: one ``.safetensors`` file.

Tensors are named ``model.*``, ``optimizer.<slot>.*`` and ``ema.*``. The file's metadata has one entry, ``twinseg``: JSON with
``meta`` (step, configuration, versions, ...) and ``checksum``, a BLAKE2 sum over ``meta`` and all tensors with their names.
"""

import hashlib
import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from twinseg.common.errors import StateError

BEST = 'best.safetensors'
STEP_NAME = re.compile(r'step_(\d{8,})\.safetensors')
State = dict[str, np.ndarray]


def save(path: str | Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint: to a temporary name, synced, renamed. ``meta`` is JSON-able.

    Raises StateError when the folder cannot be written or the disk is full; a file that was there before is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(path.name + '.tmp')
    text = json.dumps(dict(meta), sort_keys=True)
    arrays = {name: np.asarray(array, order='C') for name, array in tensors.items()}
    content = serialize(arrays, {'twinseg': json.dumps({'meta': text, 'checksum': _checksum(arrays, text)})})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, 'wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StateError(f'{path}: not written: {error.strerror or error}; free space or choose another folder') from None


def load(path: str | Path) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint: tensors and meta. StateError when it is truncated, changed, or not one of ours."""
    path = Path(path)
    if not path.is_file():
        raise StateError(f'{path}: no such checkpoint')
    try:
        with safe_open(path, 'np') as file:  # checks all sizes against the file's before anything is allocated
            entry = (file.metadata() or {}).get('twinseg')
            if entry is None:
                raise StateError(f'{path}: a safetensors file, but not one of ours; `twinseg convert` reads published ones')
            header = json.loads(entry)
            text, checksum = header['meta'], header['checksum']
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            meta = json.loads(text)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise StateError(f'{path}: not a readable checkpoint (truncated, or another kind of file): {reason}') from None
    if not isinstance(meta, dict) or checksum != _checksum(tensors, text):
        raise StateError(f'{path}: damaged: its checksum does not agree with its content; use an earlier checkpoint')
    return tensors, meta


def model_state(path: str | Path, ema: Optional[bool] = None) -> tuple[State, dict[str, Any]]:
    """Only the weights, without the prefix, those in half precision as float32, and the meta.

    ``ema``: True takes the averaged weights (StateError where there are none), False the last ones, None the averaged ones
    where there are any.
    """
    tensors, meta = load(path)
    state, averaged = _below('model.', tensors), _below('ema.', tensors)
    if ema and not averaged:
        raise StateError(f'{path}: holds no averaged weights: it was trained without with_ema')
    chosen = state if ema is False else {**state, **averaged}
    return {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in chosen.items()}, meta


def step_path(folder: Path, step: int) -> Path:
    """The checkpoint after ``step`` steps."""
    return folder / f'step_{step:08d}.safetensors'


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; ``best.safetensors`` is not among them."""
    found = [(match, path) for path in folder.glob('step_*.safetensors') if (match := STEP_NAME.fullmatch(path.name))]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found)]


def rotate(folder: Path, keep: int) -> None:
    """Removes all but the last ``keep`` checkpoints, and what a save that was cut short left behind."""
    for path in [*steps(folder)[:-keep], *folder.glob('*.safetensors.tmp')]:
        path.unlink(missing_ok=True)


def latest(folder: Path, tell: Callable[[str], None] = warnings.warn) -> Optional[Path]:
    """The newest checkpoint that can be read; None when there is none. ``tell`` hears of each one that it passes over.

    Raises StateError when there are checkpoints and none can be read.
    """
    paths = steps(folder)
    for path in reversed(paths):
        try:
            load(path)
            return path
        except StateError as error:
            tell(f'skipped a broken checkpoint: {error}')
    if paths:
        raise StateError(f'{folder}: none of the {len(paths)} checkpoints can be read')
    return None


@dataclass(frozen=True)
class LoadReport:
    """How a state fits a network, by tensor names; counters of batch norm (``num_batches_tracked``) are not counted."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        own = len(self.matched) + len(self.missing) + len(self.mismatched)
        left = {_module(name) for name in self.missing} | {_module(line) for line in self.mismatched}
        filled = [part for part in dict.fromkeys(map(_module, self.matched)) if part not in left]
        parts = [f'{len(self.matched)} of {own} tensors matched']
        if left and filled:
            parts[0] += f' (all of {", ".join(filled)})'
        for kind in ('missing', 'unexpected', 'mismatched'):
            names = getattr(self, kind)
            if names:
                parts.append(f'{len(names)} {kind} ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})')
        return '; '.join(parts)


def match(own: Mapping[str, tuple[int, ...]], state: Mapping[str, np.ndarray], partial: bool = False) -> LoadReport:
    """Compares a network's tensors (name -> shape) with a state.

    StateError when a tensor is missing or has another shape, or when the state has more tensors in a module that the network
    has: then it belongs to another network. Whole modules that the network was built without (auxiliary heads) are only
    reported. ``partial`` takes what fits, as long as something does.
    """
    wanted = {name: tuple(shape) for name, shape in own.items() if not name.endswith('num_batches_tracked')}
    given = {name: tuple(array.shape) for name, array in state.items() if not name.endswith('num_batches_tracked')}
    modules = {_module(name) for name in wanted}
    report = LoadReport(
        matched=[name for name, shape in wanted.items() if given.get(name) == shape],
        missing=[name for name in wanted if name not in given],
        unexpected=[name for name in given if name not in wanted],
        mismatched=[
            f'{name} {given[name]}, the network has {shape}'
            for name, shape in wanted.items()
            if name in given and given[name] != shape
        ],
    )
    foreign = [name for name in report.unexpected if _module(name) in modules]
    if not report.matched or not partial and (report.missing or report.mismatched or foreign):
        raise StateError(f'the weights do not fit the network: {report}')
    return report


def _module(name: str) -> str:
    return name.partition('.')[0]


def _below(prefix: str, tensors: Mapping[str, np.ndarray]) -> State:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _checksum(tensors: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f'\n{name} {array.dtype} {array.shape} '.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
