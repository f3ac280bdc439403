"""Street scenes drawn on the fly, in Cityscapes' form: the data set that needs no download."""

from typing import Any

import numpy as np

from twinseg.common import config
from twinseg.common.data.base import Dataset, Description, Sample
from twinseg.common.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from twinseg.common.data.sampling import sample_rng
from twinseg.common.data.toy_street.scene import draw
from twinseg.common.errors import DataError

SEEDS = {'train': 1, 'val': 2}
MAX_STORED = 1 << 27  # bytes of drawn scenes that a process stores for the next epoch


class ToyStreet(Dataset):
    """``data.train_samples`` or ``data.val_samples`` scenes of ``data.image_size``; DataError for other splits."""

    drawn = True

    def __init__(self, data: config.Data, split: str):
        lengths = {'train': data.train_samples, 'val': data.val_samples}
        if split not in lengths:
            raise DataError(f'toy_street has no split {split!r}; choose {" or ".join(lengths)}')
        samples = [Sample(f'{split}_{i:05d}', None, None) for i in range(lengths[split])]
        super().__init__('toy_street', split, Description.of(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE), samples)
        self.height, self.width = data.image_size
        self._scenes: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids, both read-only."""
        index = range(len(self))[index]
        if index in self._scenes:
            return self._scenes[index]
        image, label = draw(sample_rng(SEEDS[self.split], 0, index), self.height, self.width)
        for pixels in (image, label):
            pixels.setflags(write=False)
        if (len(self._scenes) + 1) * (image.nbytes + label.nbytes) <= MAX_STORED:
            self._scenes[index] = image, label
        return image, label

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_scenes': {}}
