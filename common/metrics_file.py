"""``metrics.jsonl`` of a run, read: a line of JSON for each step that was logged and each evaluation, validated."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twinseg.common.errors import UserError, reason_of
from twinseg.common.settings.messages import Said, first_problem, shown

NAME = 'metrics.jsonl'
LARGEST = 1e40  # largest number: beyond all of float32, and small enough to compute with
Number = Annotated[
    float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False), Said(f'a number from {-LARGEST:g} to {LARGEST:g}')
]
Count = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
Scores = Annotated[dict[str, dict[str, Optional[Number]]], Said('a table of scores by class')]
Line = dict[str, Any]


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra='allow')

    kind: Literal['train', 'eval']
    step: Count
    epoch: Number = 0.0
    elapsed: Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)] = 0.0


class StepLine(_Line):
    """A step, with what was logged of it; numbers that were not finite are null."""

    loss: Optional[Number] = None
    lr: Optional[Number] = None
    img_per_s: Optional[Number] = None
    overflows: Count = 0


class EvaluationLine(_Line):
    """An evaluation: scores of the whole beside these keys, and of each class."""

    classes: Scores
    confusion: Optional[list[list[Count]]] = None

    @model_validator(mode='after')
    def _square(self) -> 'EvaluationLine':
        sides = {len(row) for row in self.confusion or ()}
        if self.confusion is not None and sides | {len(self.confusion)} != {len(self.classes)}:
            raise ValueError(f'confusion: not of {len(self.classes)} rows and columns, as there are classes')
        return self


class Metrics(NamedTuple):
    """The lines by kind, in the order of the file; what is not set is left out."""

    steps: list[Line]
    evaluations: list[Line]
    all: list[Line]


KINDS: dict[str, type[_Line]] = {'train': StepLine, 'eval': EvaluationLine}


def read(path: Path, figures: tuple[str, ...] = (), class_figure: Optional[str] = None) -> Metrics:
    """The lines of a metrics file; one that a kill cut off is left out.

    Evaluations have the scores ``figures``, and of each class the ``class_figure``. UserError, with the line's number, for what
    no run writes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: not read: {reason_of(error)}') from None
    found = Metrics([], [], [])
    texts = content.split(b'\n')
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        kind: type[_Line] = _Line
        try:
            kind = KINDS[_Line.model_validate_json(text).kind]
            values = kind.model_validate_json(text).model_dump(exclude_unset=True)
            if kind is EvaluationLine:
                _check_scores(values, figures, class_figure)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first['type'] != 'json_invalid':
                problem = first_problem(error, kind)
                reason = (f'{problem.key}: ' if problem.key else '') + problem.text
            elif number == len(texts) or 'EOF while parsing' in first['msg']:
                continue
            else:
                reason = f'not readable as JSON: begins with {shown(text[:20].decode(errors="backslashreplace"))}'
            raise UserError(f'{path}: line {number}: {reason}; not a line of a run') from None
        except ValueError as error:
            raise UserError(f'{path}: line {number}: {error}; not a line of a run') from None
        (found.evaluations if kind is EvaluationLine else found.steps).append(values)
        found.all.append(values)
    return found


def _check_scores(values: Line, figures: tuple[str, ...], class_figure: Optional[str]) -> None:
    missing = [key for key in figures if key not in values]
    if class_figure is not None:
        missing += [f'{class_figure} of {name}' for name, scores in values['classes'].items() if class_figure not in scores]
    if missing:
        raise ValueError(f'without {missing[0]}')
    for key in figures:
        score = values[key]
        if score is not None and (type(score) not in (int, float) or not abs(score) <= LARGEST):
            raise ValueError(f'{key}: expected a number or null, found {shown(score)}')
