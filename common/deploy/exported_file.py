"""Exported files as networks: what their metadata says, and a predictor on images that needs no framework for ONNX."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Mapping, Optional

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twinseg.common import config as configuration
from twinseg.common.config import Augment, Config
from twinseg.common.deploy.engines import open_engine
from twinseg.common.errors import UserError
from twinseg.common.interpolation import class_ids, resize_bilinear

Size = tuple[int, int]
Side = Annotated[int, Field(gt=0)]
Level = Annotated[int, Field(ge=0, le=255)]
Channels = tuple[float, float, float]
Deviation = Annotated[float, Field(gt=0)]


class Facts(BaseModel):
    """What a file of ``twinseg export`` says about itself: how images are prepared, and what its output means."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    arch: str
    num_classes: Side
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[Level, Level, Level], ...] = ()
    mean: Channels
    std: tuple[Deviation, Deviation, Deviation]
    input_size: tuple[Side, Side]
    eval_size: Optional[tuple[Side, Side]] = None
    align_corners: Optional[bool] = Field(description='of the resize from the head to the image; none: a classifier')
    step: Optional[int] = None
    set: Optional[str] = None
    input: Literal['float32', 'uint8'] = Field(
        'float32', description='(N, 3, H, W) normalised, or (N, H, W, 3) as in the image'
    )
    output: Literal['logits', 'class_ids'] = 'logits'
    crop_pct: float = 0.875
    square_resize: bool = False
    interpolation: str = 'bicubic'

    @classmethod
    def read(cls, metadata: Mapping[str, str], path: Path) -> 'Facts':
        """From the strings in a file; UserError when they are not those of ``twinseg export``."""
        plain = ('arch', 'twinseg_version')
        try:
            return cls(
                **{key: text if key in plain else json.loads(text) for key, text in metadata.items() if key in cls.model_fields}
            )
        except (ValidationError, ValueError, RecursionError):
            raise UserError(
                f'{path}: does not say how images are normalised, or what its output means; expected a file of `twinseg export`'
            ) from None

    @property
    def task(self) -> Literal['segmentation', 'classification']:
        return 'classification' if self.align_corners is None else 'segmentation'

    @property
    def augment(self) -> Augment:
        """How evaluation prepares images for a classifier."""
        return Augment(crop_pct=self.crop_pct, square_resize=self.square_resize, interpolation=self.interpolation)  # type: ignore

    def configuration(self, base: Optional[Config] = None) -> Config:
        """The configuration of an evaluation: the data of ``base``, by default the data set of training; the rest from the
        file. UserError when the two are for different tasks."""
        if base is None:
            if self.set is None:
                raise UserError('the file does not say which data set it is for: give CONFIG, a recipe or a YAML file')
            base = configuration.from_flat({'set': self.set})
        if base.classifies != (self.task == 'classification'):
            raise UserError(f'set: {base.data.set} is not for {self.task}, which the file is for')
        keys: dict[str, Any] = {
            'arch': self.arch,
            'num_classes': self.num_classes,
            'mean': list(self.mean),
            'std': list(self.std),
        }
        if self.task == 'segmentation':
            keys['crop_size'] = list(self.input_size)
            if self.eval_size:
                keys['eval_size'] = list(self.eval_size)
        else:
            keys |= {
                'image_size': list(self.input_size),
                'crop_pct': self.crop_pct,
                'square_resize': self.square_resize,
                'interpolation': self.interpolation,
            }
        return base.replace(**keys)


class FilePredictor:
    """An exported file behind uint8 images (see ``common.backend.Predictor``).

    ``size`` is the only size (H, W) that the file takes, None for any: other images are scaled to it bilinearly. ``engine`` is
    one of ``host_engines.ENGINES``.
    """

    def __init__(self, path: Path, engine: Optional[str] = None, threads: int = 0):
        self.path, self.engine = path, open_engine(path, engine, threads)
        self.facts = Facts.read(self.engine.metadata, path)
        raw = self.facts.input == 'uint8'
        self.batch, height, width = (self.engine.shape[place] for place in ((0, 1, 2) if raw else (0, 2, 3)))
        self.size: Optional[Size] = (height, width) if height and width else None
        self._mean, self._std = (
            np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (self.facts.mean, self.facts.std)
        )

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 (N, h, w, 3) of the file's size."""
        channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        if self.size is None or images.shape[2:] == self.size:
            return channels_last
        return np.stack([cv2.resize(image, self.size[::-1]) for image in channels_last])

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """What ``pixels`` returns -> what the file takes, but for the number of images: float32 (N, 3, h, w), normalised, or
        uint8 as it is."""
        if self.facts.input == 'uint8':
            return pixels
        return np.ascontiguousarray((pixels.transpose(0, 3, 1, 2) - self._mean) / self._std)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """The file's output for any number of ``inputs``; the last batch is filled up by repeating."""
        step = self.batch or len(inputs)
        outputs = []
        for start in range(0, len(inputs), step):
            part = inputs[start : start + step]
            full = np.concatenate([part, np.repeat(part[-1:], step - len(part), 0)]) if len(part) < step else part
            outputs.append(self.engine(full)[: len(part)])
        return np.concatenate(outputs)

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> float32 logits (N, C, h, w), at the head's size or resized bilinearly to ``size``; of a
        classifier (N, C)."""
        if self.facts.output != 'logits':
            raise UserError(f'{self.path}: its output is class ids, but logits are needed here; export it without --argmax')
        found = self.run(self.inputs(self.pixels(images)))
        return found if size is None else resize_bilinear(found, size, bool(self.facts.align_corners))

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""
        return self.ids(self.run(self.inputs(self.pixels(images))), size or (images.shape[2], images.shape[3]))

    def ids(self, outputs: np.ndarray, size: Size) -> np.ndarray:
        """Outputs for several images -> uint8 class ids (N, h, w): logits are resized bilinearly, class ids to the nearest."""
        if self.facts.output == 'logits':
            return class_ids(outputs, size, bool(self.facts.align_corners))
        return np.stack([cv2.resize(ids.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) for ids in outputs])
