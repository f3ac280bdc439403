"""Data sets: a list of samples, the reading of one of them, and the meaning of the labels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.data.listing import NO_FACTS, FileFacts
from twinseg.common.data.reading import read_image, read_label
from twinseg.common.errors import DataError

IGNORE = 255  # train id of the pixels that neither losses nor metrics count
UNMAPPED = 254  # marks pixels whose id the label map does not have, so train ids are 0 to 253, and IGNORE
OnProgress = Callable[[int, int], None]  # hears how much is done, of how much: samples, files or bytes


@dataclass(frozen=True)
class Description:
    """Meaning of the train ids: names and RGB colours (uint8 (C, 3)) of the classes."""

    classes: tuple[str, ...]
    palette: np.ndarray
    ignore_index: int = IGNORE

    @classmethod
    def of(cls, classes: Sequence[str], palette: Sequence[Sequence[int]], ignore_index: int = IGNORE) -> 'Description':
        """The description of some classes, from their names and their RGB colours."""
        return cls(tuple(classes), np.array(palette, np.uint8), ignore_index)


@dataclass(frozen=True)
class Sample:
    """One image with its label; without paths where the sample is drawn on the fly."""

    name: str
    image: Optional[Path]
    label: Optional[Path]


class Dataset(ABC):
    """A list of samples, each with a ``name``, and what their labels mean; ``file_facts`` say what is not used."""

    def __init__(self, name: str, split: str, description: Description, samples: list[Any], file_facts: FileFacts = NO_FACTS):
        self.name, self.split, self.description, self.samples = name, split, description, samples
        self.file_facts = file_facts

    def __len__(self) -> int:
        return len(self.samples)

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, Any]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids or the number of a class; DataError names a broken
        file."""

    def read_image(self, index: int) -> np.ndarray:
        """The image alone, uint8 (H, W, 3) RGB; DataError names a broken file."""
        return self.read(index)[0]


class FileDataset(Dataset):
    """Pairs of an image file and a label file.

    ``label_map`` maps the ids in the label files to train ids; ``colours``, uint8 (n, 3), are the RGB colours of the ids
    0 to n - 1 where labels may be RGB files.
    """

    def __init__(
        self,
        name: str,
        split: str,
        description: Description,
        samples: list[Sample],
        label_map: Mapping[int, int],
        colours: Optional[np.ndarray] = None,
        file_facts: FileFacts = NO_FACTS,
    ):
        super().__init__(name, split, description, samples, file_facts)
        self.label_map, self.colours = dict(label_map), colours
        self._table = np.full(256, UNMAPPED, np.uint8)
        self._table[list(label_map)] = list(label_map.values())

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids; DataError names a broken file, a label of another
        size than its image, or one with ids that are not in the label map."""
        sample = self.samples[index]
        image, label = self.read_image(index), self._read_label(sample)
        if image.shape[:2] != label.shape:
            raise DataError(
                f'{sample.image}: {_width_by_height(image)} pixels (width x height), but its label {sample.label} has '
                f'{_width_by_height(label)}; both must be of one size'
            )
        return image, label

    def read_image(self, index: int) -> np.ndarray:
        """The image alone, uint8 (H, W, 3) RGB; DataError names a broken file."""
        path = self.samples[index].image
        assert path is not None
        return read_image(path)

    def _read_label(self, sample: Sample) -> np.ndarray:
        path = sample.label
        assert path is not None
        label = read_label(path, self.colours)
        train_ids = cv2.LUT(label, self._table)
        if (train_ids == UNMAPPED).any():
            present = np.unique(label)
            outside = [int(i) for i in present if self._table[i] == UNMAPPED]
            raise DataError(
                f'{path}: ids outside the label map of {self.name}: {outside} (ids found: {present.tolist()}, '
                f'ids known: {_ranges(self.label_map)}); correct the label, or map the ids (set: custom, label_map)'
            )
        return train_ids


def _width_by_height(pixels: np.ndarray) -> str:
    return f'{pixels.shape[1]}x{pixels.shape[0]}'


def _ranges(ids: Mapping[int, int]) -> str:
    """The keys in short: 0 to 11, 255."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ', '.join(f'{first} to {last}' if first < last else str(first) for first, last in runs)
