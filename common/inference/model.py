"""A trained network in Python: ``predict`` takes images and returns masks, or the likeliest classes (see ``twinseg.load``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence, overload

import numpy as np

from twinseg.common import tasks
from twinseg.common.errors import DataError
from twinseg.common.tasks.base import TrainedNetwork
from twinseg.common.tasks.classification import Classification
from twinseg.common.tasks.segmentation import Segmentation

Image = str | Path | np.ndarray  # an image file, or uint8 (H, W, 3) in RGB
Result = Segmentation | Classification


@dataclass(frozen=True, eq=False)
class Model:
    """A network that takes images of any size."""

    network: TrainedNetwork

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.network.classes

    def logits(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 logits (1, C, h, w) at the head's size, of a classifier (1, C)."""
        return tasks.of(self.network.task).logits(self.network, image)

    @overload
    def predict(self, images: Image) -> Result: ...

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...]) -> list[Result]: ...

    def predict(self, images: Image | list[Any] | tuple[Any, ...]) -> Result | list[Result]:
        """The result for an image, or the results for a list of them: files, or uint8 arrays (H, W, 3) in RGB. DataError for
        what is neither."""
        if isinstance(images, (list, tuple)):
            return [self.predict(image) for image in images]
        pixels, name = images, 'image'
        if isinstance(images, (str, Path)):
            pixels, name = self.network.read(Path(images)), Path(images).stem
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
            given = f'{pixels.dtype} {pixels.shape}' if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise DataError(f'image: {given}; expected a file, or a uint8 array (H, W, 3) in RGB')
        return tasks.of(self.network.task).predict_image(self.network, pixels, name)
