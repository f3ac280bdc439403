"""Data sets: a list of samples, the reading of one of them, and the meaning of the labels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import numpy as np

from twinseg.common import config
from twinseg.common.data.labels import IGNORE, LabelRules
from twinseg.common.data.listing import NO_FACTS, FileFacts
from twinseg.common.data.packed import Joined, Packed, Texts
from twinseg.common.data.reading import AS_SEEN, ImageRules, read_extent, read_image
from twinseg.common.errors import DataError

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


def packed(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The same samples, in a tenth of the memory."""
    if isinstance(samples, Packed):
        return samples
    images, labels = (Texts(_text(path) for path in map(attrgetter(name), samples)) for name in ('image', 'label'))
    return packed_files(Texts(each.name for each in samples), images, labels)


def packed_files(names: Texts, images: Texts, labels: Texts) -> Sequence[Sample]:
    """Samples from their names and the paths of their files."""
    return Packed(_sample, names, images, labels)


def _text(path: Optional[Path]) -> Optional[str]:
    return None if path is None else str(path)


def _sample(name: str, image: Optional[str], label: Optional[str]) -> Sample:
    return Sample(name, None if image is None else Path(image), None if label is None else Path(label))


class Dataset(ABC):
    """A list of samples, each with a ``name``, and what their labels mean; ``file_facts`` say what is not used."""

    drawn = False  # whether the suite draws the images itself

    def __init__(
        self, name: str, split: str, description: Description, samples: Sequence[Any], file_facts: FileFacts = NO_FACTS
    ):
        self.name, self.split, self.description, self.samples = name, split, description, samples
        self.file_facts = file_facts

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def parts(self) -> Sequence['Dataset']:
        """The splits that it is made of."""
        return (self,)

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, Any]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids or the number of a class; DataError names a broken
        file."""

    def read_image(self, index: int) -> np.ndarray:
        """The image alone, uint8 (H, W, 3) RGB; DataError names a broken file."""
        return self.read(index)[0]

    def read_label(self, index: int) -> Any:
        """The label alone, uint8 (H, W) train ids or the number of a class; DataError names a broken file."""
        return self.read(index)[1]


class JoinedDataset(Dataset):
    """Several splits of a data set, whose samples follow each other; what their files are beside these is said by the parts."""

    def __init__(self, parts: Sequence[Dataset]):
        first = parts[0]
        name = '+'.join(part.split for part in parts)
        super().__init__(first.name, name, first.description, Joined(part.samples for part in parts))
        self.drawn, self._parts = first.drawn, tuple(parts)

    @property
    def parts(self) -> Sequence[Dataset]:
        return self._parts

    def read(self, index: int) -> tuple[np.ndarray, Any]:
        """The sample as its split reads it."""
        part, index = self._of_part(index)
        return part.read(index)

    def read_image(self, index: int) -> np.ndarray:
        part, index = self._of_part(index)
        return part.read_image(index)

    def read_label(self, index: int) -> Any:
        part, index = self._of_part(index)
        return part.read_label(index)

    def _of_part(self, index: int) -> tuple[Dataset, int]:
        """The split that has a sample, and its index there."""
        index = range(len(self))[index]
        for part in self._parts:
            if index < len(part):
                break
            index -= len(part)
        return part, index


def image_rules_of(data: config.Data) -> ImageRules:
    """How a data set's files are read: upright unless ``exif_rotate`` says otherwise; ImageNet's as timm reads them."""
    upright = data.set != 'imagenet' if data.exif_rotate is None else data.exif_rotate
    return ImageRules(upright, data.white_level)


class FileDataset(Dataset):
    """Pairs of an image file and a label file, and the rules by which these are read."""

    def __init__(
        self,
        name: str,
        split: str,
        description: Description,
        samples: Sequence[Sample],
        label_rules: LabelRules,
        image_rules: ImageRules = AS_SEEN,
        file_facts: FileFacts = NO_FACTS,
    ):
        super().__init__(name, split, description, packed(samples), file_facts)
        self.label_rules, self.image_rules = label_rules, image_rules

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids; DataError names a broken file, a label of another
        size than its image, or one with ids or colours that mean nothing."""
        sample = self.samples[index]
        image, label = self.read_image(index), self._read_label(sample)
        if image.shape[:2] != label.shape:
            raise DataError(
                f'{sample.image}: {_width_by_height(image)} pixels (width x height), but its label {sample.label} has '
                f'{_width_by_height(label)}; both must be of one size{self._turned(sample, image, label)}'
            )
        return image, label

    def read_image(self, index: int) -> np.ndarray:
        """The image alone, uint8 (H, W, 3) RGB; DataError names a broken file."""
        path = self.samples[index].image
        assert path is not None
        return read_image(path, rules=self.image_rules)

    def read_label(self, index: int) -> np.ndarray:
        """The label alone, uint8 (H, W) train ids, whatever size its image has; DataError names a broken file."""
        return self._read_label(self.samples[index])

    def _read_label(self, sample: Sample) -> np.ndarray:
        assert sample.label is not None
        return self.label_rules.read(sample.label, self.image_rules.upright)

    def _turned(self, sample: Sample, image: np.ndarray, label: np.ndarray) -> str:
        """The end of the message where image and label differ by a turn of 90 degrees."""
        if image.shape[:2] != label.shape[::-1]:
            return ''
        files = {'image': sample.image, 'label': sample.label}
        turns = {what: read_extent(path).orientation for what, path in files.items() if path}
        found = ', '.join(f"the {what}'s is {turn}" for what, turn in turns.items())
        if max(turns.values()) < 5:
            return f': one lies on its side, and no EXIF orientation says so ({found}); turn the one that is not upright'
        if not self.image_rules.upright:
            return f': one lies on its side, and EXIF orientations are not applied ({found}); leave exif_rotate out, or turn it'
        return (
            f': one lies on its side after EXIF orientations were applied ({found}); where labels were drawn on images as they '
            'are stored, set exif_rotate: false'
        )


def _width_by_height(pixels: np.ndarray) -> str:
    return f'{pixels.shape[1]}x{pixels.shape[0]}'
