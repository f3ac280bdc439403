"""Decoded images in one memory-mapped file, from which a crop reads only the rows that it needs.

``build_cache`` writes, for each split, ``<name>.bin`` (for every sample its RGB image, then its label of train ids) and
``<name>.json`` (where each begins, its checksum, and of which files they are). They are in the folder of all caches
(``folders.cache_folder``). A cache whose files have changed since is not used; a sample whose bytes in the cache have changed
is read from its files.
"""

import hashlib
import json
import logging
import os
import zlib
from dataclasses import astuple, dataclass
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, Optional, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twinseg.common.data.base import Dataset, FileDataset, OnProgress
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import resolved, write_text, written_beside
from twinseg.common.files.folders import cache_folder
from twinseg.common.settings.messages import first_problem

VERSION = 3  # version of the files' form, and of the rules of reading
ADVICE = 'make it again with `twinseg prepare --cache`'
UNCHECKED, GOOD, CHANGED = range(3)  # states of a sample
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Side = Annotated[int, Field(gt=0, lt=1 << 31)]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheSummary:
    """The cache of one split: its file, how many bytes and samples it holds, and what is wrong with the other samples."""

    split: str
    file: Path
    bytes: int
    samples: int
    problems: list[str]


class Block(NamedTuple):
    """A sample in the file: where it begins, in bytes, its size in pixels, and the CRC-32 of all of this and of its bytes."""

    offset: Count
    height: Side
    width: Side
    checksum: Count

    @property
    def end(self) -> int:
        """Where it ends in the file, in bytes."""
        return self.offset + 4 * self.height * self.width


class _Index(BaseModel):
    """``<name>.json``."""

    model_config = ConfigDict(strict=True)

    version: int
    fingerprint: str
    bytes: Count
    blocks: list[Optional[Block]]


class CachedDataset(Dataset):
    """A data set whose pixels are read from the cache; images and labels are read-only views of the file.

    A sample's checksum is compared when it is first read, once for all processes of a loader. A sample that is not in the
    cache, because it was broken, or not as it was written is read from its files.
    """

    def __init__(self, files: Dataset, path: Path, blocks: list[Optional[Block]]):
        super().__init__(files.name, files.split, files.description, files.samples, files.file_facts)
        self.files, self.path, self.blocks = files, path, blocks
        self._start()

    def _start(self) -> None:
        self._states = RawArray('B', len(self.blocks))  # shared memory
        self._file: Optional[BinaryIO] = None  # opened where it is used: a pickled memmap is a copy of the whole file
        self._pixels: Optional[np.memmap] = None

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids, both read-only; DataError names a broken file."""
        block = self.blocks[index]
        if block is None or not self._is_good(index, block):
            return self.files.read(index)
        assert self._pixels is not None
        label_offset = block.offset + 3 * block.height * block.width
        image, label = self._pixels[block.offset : label_offset], self._pixels[label_offset : block.end]
        return np.asarray(image).reshape(block.height, block.width, 3), np.asarray(label).reshape(block.height, block.width)

    def _is_good(self, index: int, block: Block) -> bool:
        """Whether a sample can be read from the file, and is as it was written."""
        try:
            if self._file is None or self._pixels is None:
                self._file = self.path.open('rb', buffering=0)
                self._pixels = np.memmap(self._file, np.uint8, 'r')
            if self._states[index] == UNCHECKED:  # by pread: a fault of the disk below a memmap would end the process
                content = os.pread(self._file.fileno(), block.end - block.offset, block.offset)
                if _checksum(block, content) == block.checksum:
                    self._states[index] = GOOD
                else:
                    self._leave_out(index, 'was changed')
        except (OSError, ValueError) as error:
            self._leave_out(index, f'is unreadable ({getattr(error, "strerror", None) or error})')
        return self._states[index] == GOOD

    def _leave_out(self, index: int, reason: str) -> None:
        if CHANGED not in bytes(self._states):  # one line, not one for each sample
            name = self.samples[index].name
            log.warning('the cache %s %s, first seen at %s; its files are read instead; %s', self.path, reason, name, ADVICE)
        self._states[index] = CHANGED

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ('_states', '_file', '_pixels')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def use_cache(dataset: Dataset) -> Dataset:
    """The data set, read from its cache if there is one of its files as they are now; else the data set itself."""
    if not isinstance(dataset, FileDataset):
        return dataset
    try:
        pixels, index = _paths(dataset)
    except UserError:
        if os.environ.get('TWINSEG_CACHE'):
            raise
        return dataset  # no home folder, and so no cache in it
    if not index.is_file():
        return dataset
    try:
        reason = _stale(stored := _Index.model_validate_json(index.read_bytes()), dataset, pixels)
        if reason is None:
            return CachedDataset(dataset, pixels, stored.blocks)
    except ValidationError as error:
        problem = first_problem(error, _Index)
        reason = f'is unreadable, or of another version ({problem.key or index.name}: {problem.text})'
    except OSError as error:
        reason = f'is unreadable ({error.strerror or error})'
    log.warning('the cache %s %s and is not used; %s', pixels, reason, ADVICE)
    return dataset


def _stale(stored: _Index, dataset: FileDataset, pixels: Path) -> Optional[str]:
    """Why a cache cannot be used for a data set; None: it can."""
    if stored.version != VERSION:
        return 'is of another version'
    if stored.fingerprint != fingerprint(dataset) or len(stored.blocks) != len(dataset):
        return 'is of other or older files'
    ends = [block.end for block in stored.blocks if block]
    if pixels.stat().st_size != stored.bytes or max(ends, default=0) > stored.bytes:
        return 'has changed'
    return None


def build_cache(
    datasets: Sequence[FileDataset], on_error: Literal['raise', 'skip'], progress: OnProgress = lambda done, total: None
) -> list[CacheSummary]:
    """Writes a cache for each of the data sets; ``progress`` hears (samples done, all).

    A broken sample is DataError unless ``on_error`` is ``skip``: then it is left out, and the summary says what is wrong with
    it. DataError, too, when the folder cannot be written.
    """
    total, done, summaries = sum(map(len, datasets)), 0, []
    for dataset in datasets:
        try:
            summaries.append(_write(dataset, on_error, done, total, progress))
        except OSError as error:
            raise DataError(
                f'{cache_folder()}: the cache cannot be written ({error.strerror}); choose another folder with the '
                'environment variable TWINSEG_CACHE'
            ) from None
        done += len(dataset)
    return summaries


def _write(
    dataset: FileDataset, on_error: Literal['raise', 'skip'], done: int, total: int, progress: OnProgress
) -> CacheSummary:
    """Writes both files, the index last; of the ``total`` samples of all data sets, ``done`` are in other caches."""
    pixels, index = _paths(dataset)
    facts: dict[str, Any] = {'version': VERSION, 'fingerprint': fingerprint(dataset)}
    blocks: list[Optional[Block]] = []
    problems = []
    with written_beside(pixels) as part, part.open('wb') as file:
        for number in range(len(dataset)):
            try:
                image, label = dataset.read(number)
            except DataError as error:
                if on_error == 'raise':
                    raise
                blocks.append(None)
                problems.append(str(error))
            else:
                content = image.tobytes() + label.tobytes()
                block = Block(file.tell(), label.shape[0], label.shape[1], 0)
                blocks.append(block._replace(checksum=_checksum(block, content)))
                file.write(content)
            progress(done + number + 1, total)
        facts['bytes'] = file.tell()
    write_text(index, json.dumps({**facts, 'blocks': blocks}))
    return CacheSummary(dataset.split, pixels, facts['bytes'], len(dataset) - len(problems), problems)


def _checksum(block: Block, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(f'{block[:3]}'.encode()))


def fingerprint(dataset: FileDataset) -> str:
    """A digest of the files' names, sizes and times, and of what their pixels mean."""
    digest = hashlib.sha256(json.dumps([dataset.label_rules.facts(), astuple(dataset.image_rules)]).encode())
    for sample in dataset.samples:
        for path in (sample.image, sample.label):
            assert path is not None
            status = path.stat() if path.exists() else None
            digest.update(os.fsencode(path) + f'\0{status and (status.st_size, status.st_mtime_ns)}\0'.encode())
    return digest.hexdigest()


def _paths(dataset: FileDataset) -> tuple[Path, Path]:
    """The files of pixels and of the index: their name tells data sets apart by the folder of their images."""
    first = dataset.samples[0].image
    assert first is not None
    digest = hashlib.sha256(os.fsencode(resolved(first.parent))).hexdigest()[:12]
    stem = f'{dataset.name}-{dataset.split.replace(os.sep, "_")}-{digest}'
    return cache_folder() / f'{stem}.bin', cache_folder() / f'{stem}.json'
