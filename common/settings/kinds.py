"""Kinds of values that several groups of keys have, with their limits and words, and the base of the groups."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, ValidatorFunctionWrapHandler

from twinseg.common.errors import UserError
from twinseg.common.files import home_expanded
from twinseg.common.plugins import PLUGINS
from twinseg.common.settings.limits import MAX_PIXELS, MAX_SIDE
from twinseg.common.settings.messages import MAX_NUMBER, Said, refuse

MAX_STEPS = 100_000_000  # steps, whose learning rates are computed at once; epochs and samples of toy_street, too
MAX_WORKERS = 1024  # processes and threads: more than a host has cores
MAX_SECONDS = 10_000_000  # four months


def is_trusted(info: ValidationInfo) -> bool:
    """Whether a run was trained with the value, so that what is only unreasonable about it is a fact."""
    return info.field_name in ((info.context or {}).get('trusted') or ())


def _not_too_large(sides: list[int]) -> list[int]:
    if sides[0] * sides[1] > MAX_PIXELS:
        refuse(f'expected at most {MAX_PIXELS} pixels, such as [8192, 8192], found {sides}')
    return sides


def _at_home(path: str, info: ValidationInfo) -> str:
    if not is_trusted(info):
        try:
            home_expanded(path)
        except UserError as error:
            refuse(str(error))
    return path


def or_of_a_plugin(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """A name that a plugin has registered is as good as one of the suite's."""
    registered = PLUGINS.datasets if info.field_name == 'set' else PLUGINS.losses
    return value if isinstance(value, str) and value in registered else check(value)


Positive = Annotated[int, Field(gt=0, le=MAX_NUMBER)]
Steps = Annotated[int, Field(gt=0, le=MAX_STEPS)]
Seconds = Annotated[int, Field(gt=0, le=MAX_SECONDS)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Sides = Annotated[
    list[Annotated[int, Field(gt=0, le=MAX_SIDE)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_not_too_large),
    Said(f'[height, width] in pixels, such as [512, 1024], each from 1 to {MAX_SIDE}'),
]
Colour = Annotated[
    list[Annotated[int, Field(ge=0, le=255)]],
    Field(min_length=3, max_length=3),
    Said('[red, green, blue], each from 0 to 255'),
]
PathText = Annotated[str, AfterValidator(_at_home)]


class Group(BaseModel):
    model_config = ConfigDict(extra='forbid', strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
