"""Augmented training samples by key: what the frameworks' loaders carry to the networks."""

import logging
from multiprocessing.sharedctypes import RawArray
from typing import Any, Callable, Iterable, Iterator, Literal, Optional

import numpy as np

from twinseg.common.config import Augment
from twinseg.common.data.base import Dataset
from twinseg.common.data.classification_transforms import check_augmentation, eval_image, train_image
from twinseg.common.data.protocols import eval_transform
from twinseg.common.data.sampling import sample_rng
from twinseg.common.data.segmentation_transforms import channels_first, class_mix, train_transform
from twinseg.common.errors import DataError

BLANK = 32  # pixels a side of the black image instead of a broken one, where no size is given
log = logging.getLogger(__name__)


class TrainSamples:
    """``samples[epoch, index]`` is image uint8 (3, h, w) of ``augment.crop_size`` and label uint8 (h, w), with
    ``augment.label_stride`` smaller, the same whoever asks, and when.

    With ``on_error='skip'`` a broken sample is replaced by the next readable one (its random numbers stay), and
    remembered; more than ``max_errors`` broken ones raise DataError. Loader processes share what they remember.
    """

    def __init__(
        self, dataset: Dataset, augment: Augment, seed: int, on_error: Literal['raise', 'skip'] = 'raise', max_errors: int = 10
    ):
        self.dataset, self.augment, self.seed = dataset, augment, seed
        self.on_error, self.max_errors = on_error, max_errors
        self._broken = RawArray('B', len(dataset))  # shared memory: a mark per sample

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        epoch, index = key
        return self._augmented(*self._read(index), sample_rng(self.seed, epoch, index))

    @property
    def broken(self) -> list[str]:
        """Names of the samples that were skipped so far, by any worker."""
        marks = np.frombuffer(self._broken, bool)  # asked for after every step: of a million samples only these are looked at
        return [self.dataset.samples[index].name for index in np.flatnonzero(marks)]

    def _augmented(self, image: np.ndarray, label: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, label = train_transform(image, label, self.augment, rng)
        if self.augment.class_mix and rng.random() < self.augment.class_mix:
            other = self._read(int(rng.integers(len(self.dataset))))
            image, label = class_mix(image, label, *train_transform(*other, self.augment, rng), rng)
        stride = self.augment.label_stride
        return channels_first(image), label if stride == 1 else label[::stride, ::stride].copy()

    def _read(self, index: int) -> tuple[np.ndarray, Any]:
        """The sample as stored; instead of a broken one the next that is readable, if those are skipped."""
        for offset in range(len(self.dataset)):
            candidate = (index + offset) % len(self.dataset)
            if self._broken[candidate]:
                continue
            try:
                return self.dataset.read(candidate)
            except DataError as error:
                if self.on_error == 'raise':
                    raise
                self._broken[candidate] = 1
                count = np.count_nonzero(np.frombuffer(self._broken, bool))
                log.warning('skipped (%d broken so far): %s', count, error)
                if count > self.max_errors:
                    raise DataError(
                        f'{count} broken samples, more than max_errors: {self.max_errors}; the last: {error}'
                    ) from None
        raise DataError(f'{self.dataset.name} {self.dataset.split}: no readable sample among {len(self.dataset)}')


class TrainImages(TrainSamples):
    """The same for classifiers: image uint8 (3, h, w) of ``size`` (h, w) and label int64 (). UserError where the augmentation
    cannot be done."""

    def __init__(
        self,
        dataset: Dataset,
        augment: Augment,
        size: list[int],
        seed: int,
        on_error: Literal['raise', 'skip'] = 'raise',
        max_errors: int = 10,
    ):
        super().__init__(dataset, augment, seed, on_error, max_errors)
        self.size = (size[0], size[1])
        check_augmentation(augment)

    def _augmented(self, image: np.ndarray, label: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return channels_first(train_image(image, self.augment, self.size, rng)), np.array(label, np.int64)


class LabelledImages:
    """``samples[index]`` is image uint8 (3, H, W) and label uint8 (H, W), as stored, or as a publisher's protocol
    has them (``data/protocols.py``)."""

    def __init__(self, dataset: Dataset, augment: Augment):
        self.dataset, self.augment = dataset, augment

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = eval_transform(*self.dataset.read(index), self.augment)
        return channels_first(image), label


def loaded_images(
    make_loader: Callable[..., Iterator], samples: LabelledImages, indices: Iterable[int], batch_size: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 (N, 3, H, W) and labels uint8 (N, H, W) in order, read by the ``workers`` of a backend's loader.

    The loader carries them one by one, since sizes differ; images of different size are not put into one batch.
    """
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for image, label in make_loader(samples, [[index] for index in indices], workers):
        if images and (len(images) == batch_size or image.shape != images[0].shape):
            yield np.concatenate(images), np.concatenate(labels)
            images, labels = [], []
        images.append(image)
        labels.append(label)
    if images:
        yield np.concatenate(images), np.concatenate(labels)


class EvaluationImages:
    """``samples[index]`` is image uint8 (3, h, w) of ``size`` (h, w) and label int64 () as a classifier's evaluation sees them;
    without ``size``, as stored.

    With ``on_error='skip'`` a broken image is black and has the label -1; else it is DataError.
    """

    def __init__(self, dataset: Dataset, augment: Augment, size: Optional[list[int]], on_error: Literal['raise', 'skip']):
        self.dataset, self.augment, self.on_error = dataset, augment, on_error
        self.size = size and (size[0], size[1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            image, label = self.dataset.read(index)
        except DataError as error:
            if self.on_error == 'raise':
                raise
            log.warning('skipped: %s', error)
            return np.zeros((3, *(self.size or (BLANK, BLANK))), np.uint8), np.array(-1)
        if self.size:
            image = eval_image(image, self.augment, self.size)
        return channels_first(image), np.array(label, np.int64)
