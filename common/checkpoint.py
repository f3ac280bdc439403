"""The checkpoint file that both backends write and read: one ``.safetensors`` file.

Tensors are named ``model.*``, ``optimizer.<slot>.*`` and ``ema.*``. The file's metadata has one entry, ``twinseg``: JSON with
``meta`` (``RunMeta``, as text) and ``checksum``, a CRC-32 of ``meta`` and all tensors with their names; in files of format 1 a
BLAKE2 sum of the same.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Callable, Mapping, Optional

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from twinseg.common.errors import StateError, reason_of
from twinseg.common.files import written_beside
from twinseg.common.files.file_kind import CHECKPOINTS, SAFETENSORS, kind_of
from twinseg.common.settings.limits import MAX_CLASSES
from twinseg.common.settings.messages import first_problem

FORMAT = 2  # format that this version writes, and the newest that it reads; files without a number have format 1
FOLDER = CHECKPOINTS  # name of a run's folder of checkpoints
BEST = 'best.safetensors'
STEP_NAME = re.compile(r'step_(\d{8,})\.safetensors')
KINDS = {'f': 'F', 'i': 'I', 'u': 'U'}  # NumPy's kinds of numbers -> safetensors'
State = dict[str, np.ndarray]


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
PARTS = ('model', 'optimizer', 'ema')  # beginnings of the names of tensors


class NewerFormatError(StateError):
    """A file that a newer version of this suite has written."""


class NotFiniteError(StateError):
    """Weights among which some numbers are NaN or infinite."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra='ignore', protected_namespaces=())


class LossScale(_Stored):
    """The scale of the loss, and for how many steps in a row it has been good."""

    scale: float
    good_steps: Count


class TrainerState(_Stored):
    """State of a trainer beside its tensors."""

    steps: Count  # steps, with those that were skipped for overflow
    optimizer_steps: Count  # steps without the skipped ones
    loss_scale: LossScale


class Change(_Stored):
    """A setting with which a training was continued that was another before."""

    step: Count  # steps done with the value before
    key: str
    before: Any = None
    now: Any = None


class RunMeta(_Stored):
    """Metadata of a checkpoint; a file has as much of it as its writer knew."""

    format: Positive = FORMAT
    config: dict[str, Any] = {}  # flat keys, as ``config.from_flat`` takes them
    num_classes: Optional[Annotated[int, Field(gt=0, le=MAX_CLASSES)]] = None
    classes: list[str] = []  # names, in the order of the class ids
    palette: list[Colour] = []  # RGB per class
    # The run.
    backend: Optional[str] = None
    device: Optional[str] = None
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    steps_per_epoch: Optional[Positive] = None
    world_size: Positive = 1  # processes that trained together
    images: Optional[Count] = None  # training images
    image_names: Optional[str] = None  # a sum over their names
    changes: list[Change] = []  # settings that were others before, oldest first
    # Progress of the run.
    step: Optional[Count] = None
    epoch: Optional[float] = None
    best: Optional[float] = None  # the highest score so far
    best_at: dict[str, float] = {}  # the highest score so far at each of more_eval_sizes, named <height>x<width>
    since_best: Count = 0  # evaluations since the one with the highest score
    left_out: Count = 0  # steps whose batches rollbacks have skipped
    rollbacks: Count = 0
    scores: dict[str, Any] = {}  # scores of the last evaluation
    trainer: Optional[TrainerState] = None
    # Origin of converted weights.
    source: Optional[str] = None  # publisher
    file: Optional[str] = None

    @model_validator(mode='after')
    def _one_number_of_classes(self) -> 'RunMeta':
        """As many colours as names, and no more of them than outputs."""
        names, colours = len(self.classes), len(self.palette)
        if names and colours and names != colours:
            raise ValueError(f'palette: {colours} colours for {names} classes')
        if self.num_classes is not None and max(names, colours) > self.num_classes:
            raise ValueError(f'classes: {max(names, colours)} for a network of {self.num_classes}')
        return self

    @classmethod
    def from_json(cls, text: str, where: str | Path) -> 'RunMeta':
        """Reads what ``to_json`` gave, of this or an earlier format. NewerFormatError, StateError; ``where`` is the file."""
        try:
            content = {'format': 1, **json.loads(text)}
            number = content['format']
            if isinstance(number, int) and number > FORMAT:
                raise NewerFormatError(
                    f'{where}: has format {number}, written by a newer version of twinseg; this one reads formats up to '
                    f'{FORMAT}: install a newer version'
                )
            return cls.model_validate(content)
        except ValidationError as error:
            problem = first_problem(error, cls)
            reason = (f'{problem.key}: ' if problem.key else '') + problem.text
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = reason_of(error)
        raise StateError(f'{where}: damaged: what it says of itself is not readable: {reason}')

    def to_json(self) -> str:
        """All that was set and the format that is written now, as JSON."""
        return json.dumps({**self.model_dump(exclude_unset=True), 'format': FORMAT}, sort_keys=True)


def save(path: str | Path, tensors: Mapping[str, np.ndarray], meta: RunMeta) -> None:
    """Writes a checkpoint, whole or not at all.

    Raises StateError when the folder cannot be written or the disk is full; a file that was there before is then untouched.
    """
    path, text = Path(path), meta.to_json()
    arrays = {name: np.asarray(array, order='C') for name, array in tensors.items()}
    entry = json.dumps({'meta': text, 'checksum': _checksum(arrays, text)})
    with _naming_failure(path), written_beside(path) as part:
        _write(part, arrays, {'twinseg': entry})


def link(path: Path, name: Path) -> None:
    """Gives the checkpoint ``path`` another name in its folder, also where a file has that name: a hard link, which costs
    nothing, or a copy where the file system has no links. Raises what ``save`` raises."""
    with _naming_failure(name), written_beside(name) as part:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)


@contextmanager
def _naming_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f'{path}: not written: {reason_of(error)}; free space or choose another folder') from None


def _write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the safetensors format: the header's length, uint64, the header, JSON padded to a multiple of 8 bytes, and the
    arrays one after the other, those of wide numbers first, so that all are aligned.

    The library's ``save`` holds the whole file in memory, and its ``save_file`` writes under a temporary name of its own, for
    this user alone, and raises no OSError.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {'__metadata__': metadata}
    end = 0
    for name in order:
        kind, start, end = arrays[name].dtype, end, end + arrays[name].nbytes
        code = 'BOOL' if kind.kind == 'b' else f'{KINDS[kind.kind]}{8 * kind.itemsize}'
        header[name] = {'dtype': code, 'shape': arrays[name].shape, 'data_offsets': [start, end]}
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)
    with path.open('wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for name in order:
            file.write(arrays[name].reshape(-1).data)


def load(path: str | Path) -> tuple[State, RunMeta]:
    """Reads a checkpoint: tensors and meta.

    StateError when it is truncated, changed, or not one of TwinSeg; NewerFormatError, before anything else is looked at.
    """
    return _read(Path(path), True)


def read_meta(path: str | Path) -> RunMeta:
    """What a checkpoint says of itself, from its first bytes. Raises what ``load`` raises, but for changes behind them."""
    return _read(Path(path), False)[1]


def _read(path: Path, whole: bool) -> tuple[State, RunMeta]:
    if not path.exists():
        raise StateError(f'{path}: no such checkpoint')
    kind = kind_of(path)
    if not kind.is_weights:
        raise kind.refusal(path)
    if kind != SAFETENSORS:
        raise StateError(f'{path}: {kind.name}, not a checkpoint of twinseg: {_to_convert(path)}')
    try:
        with safe_open(path, 'np') as file:  # checks all sizes against the file's before anything is allocated
            entry = (file.metadata() or {}).get('twinseg')
            if entry is None:
                raise StateError(f'{path}: a safetensors file, but not one of TwinSeg: {_to_convert(path)}')
            header = json.loads(entry)
            text = header['meta']
            meta = RunMeta.from_json(text, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if whole else {}
            checksum = header['checksum']
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = reason_of(error)
        raise StateError(f'{path}: not a readable checkpoint (truncated, or another kind of file): {reason}') from None
    if whole and checksum != _checksum(tensors, text, meta.format):
        raise StateError(f'{path}: damaged: its checksum does not agree with its content; use an earlier checkpoint')
    return tensors, meta


def _to_convert(path: Path) -> str:
    """What to do with somebody's weights instead of a checkpoint: the whole command."""
    out = f'{path.stem}_twinseg.safetensors' if path.suffix == '.safetensors' else f'{path.stem}.safetensors'
    return f'`twinseg convert {shlex.quote(str(path))} --out {shlex.quote(out)}` makes one of published weights'


def model_state(path: str | Path, ema: Optional[bool] = None) -> tuple[State, RunMeta]:
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


def best_path(folder: Path, size: Optional[str] = None) -> Path:
    """The best checkpoint of a run, at ``eval_size`` or at another size, named <height>x<width>."""
    return folder / (BEST if size is None else f'best_{size}.safetensors')


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; the best ones are not among them."""
    numbered = [(match, path) for path in folder.glob('step_*.safetensors') if (match := STEP_NAME.fullmatch(path.name))]
    return [path for _, path in sorted((int(match[1]), path) for match, path in numbered)]


def rotate(folder: Path, keep: int) -> None:
    """Removes all but the last ``keep`` checkpoints."""
    for path in steps(folder)[:-keep]:
        path.unlink(missing_ok=True)


def latest(folder: Path, tell: Callable[[str], None] = warnings.warn) -> Optional[Path]:
    """The newest checkpoint that can be read; None when there is none. ``tell`` gets a message for each one that it skips.

    Raises StateError when there are checkpoints and none can be read, NewerFormatError when one is of a newer format.
    """
    paths = steps(folder)
    for path in reversed(paths):
        try:
            load(path)
            return path
        except NewerFormatError:
            raise
        except StateError as error:
            tell(f'skipped a broken checkpoint: {error}')
    if paths:
        raise StateError(f'{folder}: none of the {len(paths)} checkpoints can be read')
    return None


@dataclass(frozen=True)
class LoadReport:
    """Comparison of a state with a network, by tensor names; batch norm's ``num_batches_tracked`` are left out."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        expected = len(self.matched) + len(self.missing) + len(self.mismatched)
        left = {_module(name) for name in self.missing} | {_module(line) for line in self.mismatched}
        filled = [part for part in dict.fromkeys(map(_module, self.matched)) if part not in left]
        parts = [f'{len(self.matched)} of {expected} tensors matched']
        if left and filled:
            parts[0] += f' (all of {", ".join(filled)})'
        for kind in ('missing', 'unexpected', 'mismatched'):
            names = getattr(self, kind)
            if names:
                parts.append(f'{len(names)} {kind} ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})')
        return '; '.join(parts)


def match(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, np.ndarray], partial: bool = False) -> LoadReport:
    """Compares a network's tensors (name -> shape) with a state.

    StateError when a tensor is missing or has another shape, or when the state has more tensors in a module that the network
    has: then it belongs to another network. Whole modules that the network was built without (auxiliary heads) are only
    reported. ``partial`` takes what fits, as long as something does. NotFiniteError for what is taken
    and not finite.
    """
    wanted = {name: tuple(shape) for name, shape in shapes.items() if not name.endswith('num_batches_tracked')}
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
    check_finite({name: state[name] for name in report.matched})
    return report


def check_finite(tensors: Mapping[str, np.ndarray]) -> None:
    """NotFiniteError where numbers are NaN or infinite, as float32: it names the first tensor, and counts."""
    broken = {}
    for name, array in tensors.items():
        if array.dtype.kind == 'f':
            with np.errstate(over='ignore'):
                finite = np.isfinite(array if array.dtype.itemsize <= 4 else array.astype(np.float32))
            if not finite.all():
                broken[name] = finite
    if broken:
        name, finite = next(iter(broken.items()))
        raise NotFiniteError(
            f'{len(broken)} of {len(tensors)} tensors hold numbers that are not finite, first {name} '
            f'({finite.size - np.count_nonzero(finite)} of {finite.size} are NaN or infinite): the training that made them has '
            'diverged, or the file is damaged: use another checkpoint'
        )


def _module(name: str) -> str:
    return name.partition('.')[0]


def _below(prefix: str, tensors: Mapping[str, np.ndarray]) -> State:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _checksum(tensors: Mapping[str, np.ndarray], text: str, number: int = FORMAT) -> str:
    """As files of format ``number`` have it."""
    if number == 1:
        digest = hashlib.blake2b(digest_size=16)
        for part in _parts(tensors, text):
            digest.update(part)
        return digest.hexdigest()
    checksum = 0
    for part in _parts(tensors, text):
        checksum = zlib.crc32(part, checksum)
    return f'{checksum:08x}'


def _parts(tensors: Mapping[str, np.ndarray], text: str) -> Iterator[bytes | memoryview]:
    """What a checksum is of."""
    yield text.encode()
    for name in sorted(tensors):
        array = tensors[name]
        yield f'\n{name} {array.dtype} {array.shape} '.encode()
        yield array.reshape(-1).data
