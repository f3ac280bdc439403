"""Metadata of a file of ``twinseg export``: the preparation of images, and the meaning of its output."""

import json
from pathlib import Path
from typing import Annotated, Literal, Mapping, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twinseg.common import config as configuration
from twinseg.common import tasks
from twinseg.common.config import Augment, Config
from twinseg.common.errors import UserError
from twinseg.common.facts import Facts, check, of_config
from twinseg.common.settings.limits import MAX_CLASS_IDS, MAX_CLASSES, MAX_PIXELS, MAX_SIDE
from twinseg.common.settings.of_task import TaskName

Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]
Classes = Annotated[int, Field(gt=0, le=MAX_CLASSES)]
Level = Annotated[int, Field(ge=0, le=255)]
Channels = tuple[float, float, float]
Above0 = Annotated[float, Field(gt=0)]


class ExportMetadata(BaseModel):
    """The metadata of an exported file, in which they are strings (lists as JSON)."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), allow_inf_nan=False)

    arch: str
    num_classes: Classes
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[Level, Level, Level], ...] = ()
    mean: Channels
    std: tuple[Above0, Above0, Above0]
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
    white_level: Optional[Above0] = None
    path: str = Field('the file', description='the file itself, which does not say it')

    @model_validator(mode='after')
    def _agrees(self) -> 'ExportMetadata':
        """ValueError where names or colours are not as many as the classes, or sizes are beyond the limits of images."""
        for given in (self.classes, self.palette):
            if len(given) not in (0, self.num_classes):
                raise ValueError('as many names and colours as classes')
        if self.align_corners is not None and self.num_classes > MAX_CLASS_IDS:
            raise ValueError('class ids are bytes')
        if any(size[0] * size[1] > MAX_PIXELS for size in (self.input_size, self.eval_size or (1, 1))):
            raise ValueError('sizes')
        assert self.augment  # has limits of its own
        return self

    @classmethod
    def read(cls, metadata: Mapping[str, str], path: Path) -> 'ExportMetadata':
        """The metadata from the strings in a file; UserError when they are not those of ``twinseg export``."""
        plain = ('arch', 'twinseg_version')
        try:
            known = {key: text for key, text in metadata.items() if key in cls.model_fields and key != 'path'}
            return cls(
                **{key: text if key in plain else json.loads(text) for key, text in known.items()},
                path=str(path),
            )
        except (ValidationError, ValueError, RecursionError):
            raise UserError(
                f'{path}: does not say how images are normalised, or what its output means; expected a file of `twinseg export`'
            ) from None

    @property
    def task(self) -> TaskName:
        """The task of the file."""
        return tasks.of_logits(self.align_corners).NAME

    @property
    def augment(self) -> Augment:
        """Settings by which evaluation prepares images."""
        return Augment(crop_pct=self.crop_pct, square_resize=self.square_resize, interpolation=self.interpolation)  # type: ignore

    @property
    def facts(self) -> Facts:
        """What the file says of its network."""
        keys = {'mean': 'mean', 'std': 'std', **tasks.of(self.task).EXPORTED_KEYS}
        values = {key: getattr(self, field) for field, key in keys.items()}
        return Facts(
            self.path,
            self.task,
            self.set,
            num_classes=self.num_classes,
            classes=self.classes,
            palette=self.palette,
            settings={key: list(value) if isinstance(value, tuple) else value for key, value in values.items()},
        )

    def configuration(self, base: Optional[Config] = None) -> Config:
        """The configuration of an evaluation: the data of ``base``, by default the data set of training; the rest from the
        file. UserError when the two are for different tasks, StateError when they are for other classes (``facts.check``)."""
        if base is None:
            if self.set is None:
                raise UserError('the file does not say which data set it is for: give CONFIG, a recipe or a YAML file')
            base = configuration.from_flat({'set': self.set, 'white_level': self.white_level})
        elif base.task == self.task:
            check(self.facts, of_config(base, stated_only=True))
        if base.task != self.task:
            raise UserError(f'set: {base.data.set} is not for {self.task}, which the file is for')
        described = {key: getattr(self, field) for field, key in tasks.of(self.task).EXPORTED_KEYS.items()}
        keys = {'arch': self.arch, 'num_classes': self.num_classes, 'mean': self.mean, 'std': self.std, **described}
        stored = {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items() if value is not None}
        return configuration.from_flat({**base.flat(), **stored}, 'the file', trusted=True)
