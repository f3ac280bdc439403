"""Decoded images in one memory-mapped file, from which a crop reads only the rows that it needs.

``build`` writes, for each split, ``<name>.bin`` (for every sample its RGB image, then its label of train ids) and
``<name>.json`` (where each lies, and of which files). They live in ``$TWINSEG_CACHE``, by default ``~/.cache/twinseg``. A cache
whose files have changed since is not used.
"""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from twinseg.common.config import Config
from twinseg.common.data.layouts import IMAGE_FOLDERS, Dataset, FileDataset, open_files
from twinseg.common.errors import DataError

VERSION = 1
Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)


class CachedDataset(Dataset):
    """A data set whose pixels are read from the cache; images and labels are read-only views of the file.

    A sample that is not in the cache, because it was broken, is read from its files.
    """

    def __init__(self, files: Dataset, path: Path, places: list[Optional[tuple[int, int, int]]]):
        super().__init__(files.name, files.split, files.description, files.samples)
        self.files, self.path, self.places = files, path, places  # places: offset, height, width
        self._pixels: Optional[np.memmap] = None  # opened where it is used: a pickled memmap is a copy of the whole file

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        place = self.places[index]
        if place is None:
            return self.files.read(index)
        if self._pixels is None:
            self._pixels = np.memmap(self.path, np.uint8, 'r')
        offset, height, width = place
        middle = offset + 3 * height * width
        image, label = self._pixels[offset:middle], self._pixels[middle : middle + height * width]
        return np.asarray(image).reshape(height, width, 3), np.asarray(label).reshape(height, width)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_pixels': None}


def folder() -> Path:
    """Where caches live."""
    return Path(os.environ.get('TWINSEG_CACHE') or '~/.cache/twinseg').expanduser()


def attach(dataset: Dataset) -> Dataset:
    """The data set, read from its cache if there is a good one."""
    if not isinstance(dataset, FileDataset):
        return dataset
    pixels, index = _paths(dataset)
    if not index.is_file():
        return dataset
    try:
        found = json.loads(index.read_text())
        facts = {'version': VERSION, 'fingerprint': fingerprint(dataset), 'bytes': pixels.stat().st_size}
        if facts == {key: found[key] for key in facts}:
            return CachedDataset(dataset, pixels, [place and tuple(place) for place in found['places']])
        reason = 'is of other or older files'
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f'is unreadable ({error})'
    log.warning('the cache %s %s and is not used; make it again with `twinseg prepare --cache`', pixels, reason)
    return dataset


def build(config: Config, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Writes the caches of the training and the validation split; ``progress`` hears (samples done, all).

    Returns, per split, the file, its bytes, the samples in it, and what is wrong with the others: a broken sample is
    DataError unless ``data.on_error`` is ``skip``. DataError, too, when the folder cannot be written.
    """
    data = config.data
    if data.set == 'toy_street':
        raise DataError('toy_street is drawn on the fly: there is nothing to cache')
    if data.set in IMAGE_FOLDERS:
        raise DataError(f'set: {data.set}: only images with label images are cached; those of classifiers are read as is')
    datasets = [open_files(data, split) for split in dict.fromkeys([data.train_split, data.val_split])]
    total, summary = sum(map(len, datasets)), {}
    done = 0
    for dataset in datasets:
        assert isinstance(dataset, FileDataset)
        try:
            folder().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder()) as unfinished:
                summary[dataset.split] = _write(dataset, Path(unfinished), data.on_error, done, total, progress)
        except OSError as error:
            raise DataError(
                f'{folder()}: the cache cannot be written ({error.strerror}); choose another folder with the '
                'environment variable TWINSEG_CACHE'
            ) from None
        done += len(dataset)
    return summary


def _write(dataset: FileDataset, unfinished: Path, on_error: str, done: int, total: int, progress: Progress) -> dict[str, Any]:
    """Writes both files into the folder ``unfinished``, then moves them to their places, the index last."""
    pixels, index = _paths(dataset)
    facts: dict[str, Any] = {'version': VERSION, 'fingerprint': fingerprint(dataset)}
    places: list[Optional[tuple[int, int, int]]] = []
    problems = []
    with open(unfinished / pixels.name, 'wb') as file:
        for number in range(len(dataset)):
            try:
                image, label = dataset.read(number)
            except DataError as error:
                if on_error == 'raise':
                    raise
                places.append(None)
                problems.append(str(error))
            else:
                places.append((file.tell(), label.shape[0], label.shape[1]))
                file.write(image.tobytes())
                file.write(label.tobytes())
            progress(done + number + 1, total)
        facts['bytes'] = file.tell()
    (unfinished / index.name).write_text(json.dumps({**facts, 'places': places}))
    for path in (pixels, index):
        os.replace(unfinished / path.name, path)
    return {'file': str(pixels), 'bytes': facts['bytes'], 'samples': len(dataset) - len(problems), 'problems': problems}


def fingerprint(dataset: FileDataset) -> str:
    """A digest of the files' names, sizes and times, and of what their ids mean."""
    colours = None if dataset.colours is None else dataset.colours.tolist()
    digest = hashlib.sha256(json.dumps([sorted(dataset.ids.items()), colours]).encode())
    for sample in dataset.samples:
        for path in (sample.image, sample.label):
            assert path is not None
            status = path.stat() if path.exists() else None
            digest.update(f'{path}\0{status and (status.st_size, status.st_mtime_ns)}\0'.encode())
    return digest.hexdigest()


def _paths(dataset: Dataset) -> tuple[Path, Path]:
    first = dataset.samples[0].image
    assert first is not None
    place = hashlib.sha256(str(first.parent.resolve()).encode()).hexdigest()[:12]
    stem = f'{dataset.name}-{dataset.split.replace(os.sep, "_")}-{place}'
    return folder() / f'{stem}.bin', folder() / f'{stem}.json'
