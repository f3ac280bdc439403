"""A trained network in Python: ``predict`` takes images and returns masks, or the likeliest classes (see ``twinseg.load``)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Sequence, overload

import numpy as np
import PIL.Image
import PIL.ImageOps

from twinseg.common import tasks
from twinseg.common.errors import DataError
from twinseg.common.inference import views
from twinseg.common.tasks.base import TrainedNetwork
from twinseg.common.tasks.classification import Classification
from twinseg.common.tasks.segmentation import Segmentation

Image = str | Path | np.ndarray | PIL.Image.Image  # an image file; uint8 (H, W, 3); or an image that Pillow opened
Result = Segmentation | Classification
Channels = Literal['rgb', 'bgr']


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
    def predict(self, images: Image, *, channels: Channels = 'rgb', probabilities: bool = False) -> Result: ...

    @overload  # a list is an Iterable, too
    def predict(  # type: ignore[overload-overlap]
        self, images: list[Any] | tuple[Any, ...], *, channels: Channels = 'rgb', probabilities: bool = False
    ) -> list[Result]: ...

    @overload
    def predict(
        self, images: Iterable[Any], *, channels: Channels = 'rgb', probabilities: bool = False
    ) -> Iterator[Result]: ...

    def predict(
        self, images: Image | Iterable[Any], *, channels: Channels = 'rgb', probabilities: bool = False
    ) -> Result | list[Result] | Iterator[Result]:
        """What the network sees in an image, in each of a list, or one after the other in those of an iterator.

        An image is a file, which is turned as its EXIF data says, a uint8 array (H, W, 3), or an image of Pillow's. Scaling and
        normalisation are the network's matter. ``channels`` is the order of an array's: ``bgr`` as OpenCV reads files. With
        ``probabilities`` the result of a segmentation holds those of all classes, too; a classifier's always does.
        DataError for what is no image.

        >>> import twinseg
        >>> model = twinseg.load('enet_camvid', device='cpu')
        >>> result = model.predict(np.zeros((96, 128, 3), np.uint8), probabilities=True)
        >>> result.mask.shape, result.probabilities.shape, result.classes[:2]
        ((96, 128), (11, 96, 128), ('sky', 'building'))
        """
        if isinstance(images, (list, tuple)):
            return [self._predict(image, channels, probabilities) for image in images]
        if isinstance(images, (str, Path, np.ndarray, PIL.Image.Image)) or not isinstance(images, Iterable):
            return self._predict(images, channels, probabilities)
        return (self._predict(image, channels, probabilities) for image in images)

    def _predict(self, image: Any, channels: Channels, probabilities: bool) -> Result:
        pixels, name = self._pixels(image, channels)
        task = tasks.of(self.network.task)
        if probabilities:
            return task.predict_probabilities(self.network, pixels, name, views.probabilities)
        return task.predict_image(self.network, pixels, name)

    def _pixels(self, image: Any, channels: Channels) -> tuple[np.ndarray, str]:
        """uint8 (H, W, 3) in RGB, and the name that the result is saved under."""
        if channels not in ('rgb', 'bgr'):
            raise DataError(f"channels: {channels!r}; expected 'rgb' or 'bgr'")
        if isinstance(image, (str, Path)):
            return self.network.read(Path(image)), Path(image).stem
        if isinstance(image, PIL.Image.Image):
            return np.array(PIL.ImageOps.exif_transpose(image).convert('RGB')), Path(
                getattr(image, 'filename', '')
            ).stem or 'image'
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
            given = f'{image.dtype} {image.shape}' if isinstance(image, np.ndarray) else type(image).__name__
            raise DataError(f'image: {given}; expected a file, a uint8 array (H, W, 3), or an image of Pillow')
        return np.ascontiguousarray(image[..., ::-1]) if channels == 'bgr' else image, 'image'
