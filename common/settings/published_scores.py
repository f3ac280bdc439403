"""What publishers report for a recipe: the key ``published`` of its file, and the lines of its comment that are made of it.

Each score says what it was counted on and who says so. A recipe for which there is none says why:
``published: {none: ...}``. The key is of the file alone: what names the recipe as its base does not take it over, and no
checkpoint holds it.
"""

import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from twinseg.common.errors import UserError
from twinseg.common.settings import recipes, yaml_text
from twinseg.common.settings.messages import Said, first_problem, shown

KEY = 'published'
SOURCE = (
    r'[\w.-]+/[\w.-]+@[0-9a-f]{7,40} \S+'  # file of a repository
    r'|[\w-]+ [0-9]+(\.[0-9]+)+ \S+'  # file of a released package
    r'|arXiv:[0-9]{4}\.[0-9]{5}(v[0-9]+)? (abstract|table [0-9]+|section [0-9.]+)'
)
WIDTH = 128  # characters of a line of the comment
LABEL = '# published: '

Text = Annotated[str, StringConstraints(min_length=3, max_length=200)]


class PublishedScore(BaseModel):
    """One published score."""

    model_config = ConfigDict(extra='forbid', strict=True, frozen=True, allow_inf_nan=False)

    metric: Literal['mIoU', 'top1', 'top5'] = Field(description='what was measured, in per cent')
    score: Annotated[float, Field(gt=0, le=100)] = Field(description='the score in per cent')
    split: Literal['val', 'test'] = Field(description='images that it was counted on; test: a test server, or test images')
    scales: Annotated[list[Annotated[float, Field(gt=0, le=4)]], Field(min_length=1)] = Field(
        [1.0], description='factors of the size of evaluation whose predictions were averaged'
    )
    flip: bool = Field(False, description='whether the mirrored image was predicted, too')
    eval_size: Union[None, Literal['file'], Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(
        None,
        description="[height, width] into which the images were scaled, or file: not at all, where it is not the recipe's "
        'eval_size',
    )
    protocol: Optional[Text] = Field(
        None, description='what was counted otherwise than `twinseg eval` of the recipe counts; then scores are not comparable'
    )
    settings: Optional[Text] = Field(None, description='what was trained otherwise than the recipe says')
    source: Annotated[
        str,
        StringConstraints(pattern=rf'^({SOURCE})$'),
        Said(
            "owner/repository@commit and a file, a package's name, version and file, or 'arXiv:NUMBER table N', "
            'section or abstract'
        ),
    ] = Field(description='where the score is published')

    @property
    def text(self) -> str:
        """The score and its conditions in words."""
        if len(self.scales) > 1:
            scales = f'{len(self.scales)} scales of {min(self.scales):g} to {max(self.scales):g}'
        else:
            scales = '' if self.scales == [1.0] else f'scale {self.scales[0]:g}'
        views = ' and '.join([*([scales] if scales else []), *(['flip'] if self.flip else [])])
        size = f'images of {self.eval_size[0]}x{self.eval_size[1]}' if isinstance(self.eval_size, list) else self.eval_size
        size = "the file's size" if size == 'file' else size
        conditions = [self.split, views, size, self.protocol, self.settings and f'trained otherwise: {self.settings}']
        return f'{self.metric} {self.score} ({"; ".join(filter(None, conditions))})'


class Published(NamedTuple):
    """All published scores of a recipe; where there is none, the ``reason``."""

    scores: tuple[PublishedScore, ...] = ()
    reason: Optional[str] = None

    @property
    def comment(self) -> list[str]:
        """The lines of the recipe's opening comment that say it."""
        texts = [score.text for score in self.scores] or [f'none: {self.reason}']
        lines = [line for text in texts for line in textwrap.wrap(text, WIDTH - len(LABEL), break_on_hyphens=False)]
        return [(LABEL if number == 0 else '#'.ljust(len(LABEL))) + line for number, line in enumerate(lines)]


def parse(value: Any, where: str) -> Published:
    """The key's value; UserError, which begins with ``where``, for another form, a wrong value or a score without a source."""
    if isinstance(value, dict) and set(value) == {'none'} and isinstance(value['none'], str) and value['none'].strip():
        return Published(reason=value['none'])
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise UserError(f'{where}: expected a list of scores, or {{none: reason}}, found {shown(value)}')
    scores = []
    for number, entry in enumerate(value, start=1):
        try:
            scores.append(PublishedScore.model_validate(entry))
        except ValidationError as error:
            problem = first_problem(error, PublishedScore)
            raise UserError(f'{where}: score {number}: {problem.key}: {problem.text}') from None
    return Published(tuple(scores))


def of_file(path: Path) -> Optional[Published]:
    """What a recipe's file says; None where it says nothing. UserError for a file that is none of YAML, or a wrong value."""
    keys = yaml_text.parse(path.read_text(encoding='utf-8'), str(path))
    return parse(keys[KEY], f'{path}: {KEY}') if isinstance(keys, dict) and KEY in keys else None


def of_recipe(name: Optional[str]) -> Published:
    """The published scores of a recipe by its name with its folder; nothing where there is no such recipe any more."""
    path = recipes.RECIPES / f'{name}.yaml'  # a run's configuration may name any path
    return (of_file(path) if path in recipes.recipes() else None) or Published()
