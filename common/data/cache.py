"""Decoded images in one memory-mapped file, from which a crop reads only the rows that it needs.

``build_cache`` writes, for each split, ``<name>.bin`` (for every sample its RGB image, then its label of train ids) and
``<name>.json`` (where each begins, and of which files). They are in the folder of all caches
(``folders.cache_folder``). A cache whose files have changed since is not used.
"""

import hashlib
import json
import logging
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Sequence

import numpy as np

from twinseg.common.data.base import Dataset, FileDataset, OnProgress
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import write_text, written_beside
from twinseg.common.folders import cache_folder

VERSION = 2  # of the files' form, and of the rules of reading
Extent = tuple[int, int, int]  # position of a sample in the file: offset in bytes, height, width
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheSummary:
    """The cache of one split: its file, how many bytes and samples it holds, and what is wrong with the other samples."""

    split: str
    file: Path
    bytes: int
    samples: int
    problems: list[str]


class CachedDataset(Dataset):
    """A data set whose pixels are read from the cache; images and labels are read-only views of the file.

    A sample that is not in the cache, because it was broken, is read from its files.
    """

    def __init__(self, files: Dataset, path: Path, extents: list[Optional[Extent]]):
        super().__init__(files.name, files.split, files.description, files.samples, files.file_facts)
        self.files, self.path, self.extents = files, path, extents
        self._pixels: Optional[np.memmap] = None  # opened where it is used: a pickled memmap is a copy of the whole file

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids, both read-only; DataError names a broken file."""
        extent = self.extents[index]
        if extent is None:
            return self.files.read(index)
        if self._pixels is None:
            self._pixels = np.memmap(self.path, np.uint8, 'r')
        offset, height, width = extent
        label_offset = offset + 3 * height * width
        image, label = self._pixels[offset:label_offset], self._pixels[label_offset : label_offset + height * width]
        return np.asarray(image).reshape(height, width, 3), np.asarray(label).reshape(height, width)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_pixels': None}


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
        stored = json.loads(index.read_text())
        facts = {'version': VERSION, 'fingerprint': fingerprint(dataset), 'bytes': pixels.stat().st_size}
        if facts == {key: stored[key] for key in facts}:
            return CachedDataset(dataset, pixels, [extent and tuple(extent) for extent in stored['places']])
        reason = 'is of other or older files'
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f'is unreadable ({error})'
    log.warning('the cache %s %s and is not used; make it again with `twinseg prepare --cache`', pixels, reason)
    return dataset


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
    extents: list[Optional[Extent]] = []
    problems = []
    with written_beside(pixels) as part, part.open('wb') as file:
        for number in range(len(dataset)):
            try:
                image, label = dataset.read(number)
            except DataError as error:
                if on_error == 'raise':
                    raise
                extents.append(None)
                problems.append(str(error))
            else:
                extents.append((file.tell(), label.shape[0], label.shape[1]))
                file.write(image.tobytes())
                file.write(label.tobytes())
            progress(done + number + 1, total)
        facts['bytes'] = file.tell()
    write_text(index, json.dumps({**facts, 'places': extents}))
    return CacheSummary(dataset.split, pixels, facts['bytes'], len(dataset) - len(problems), problems)


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
    digest = hashlib.sha256(os.fsencode(first.parent.resolve())).hexdigest()[:12]
    stem = f'{dataset.name}-{dataset.split.replace(os.sep, "_")}-{digest}'
    return cache_folder() / f'{stem}.bin', cache_folder() / f'{stem}.json'
