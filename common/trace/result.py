"""What ``trace`` has to say: rows, causes, sections."""

from dataclasses import asdict, dataclass, field
from typing import Any, Optional

import numpy as np

from twinseg.common.trace.difference import Difference
from twinseg.common.trace.guesses import Guess
from twinseg.common.trace.recording import Event


@dataclass(frozen=True)
class Row:
    """One tensor compared."""

    event: Event
    parent: str  # the module whose code computes it, where it enters a module
    end_to_end: Optional[Difference]  # None: the second side does not have it
    own: Optional[Difference]
    floor: float  # noise floor of ``own``
    floor_end_to_end: float
    limit: float  # most of ``own`` that noise explains

    @property
    def parts(self) -> bool:
        """Whether the two sides part here."""
        return self.own is not None and not self.own.relative <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Flat; differences of the recorded side's largest magnitude."""
        return {
            'tensor': str(self.event),
            'layer': self.event.layer,
            'call': self.event.call,
            'side': self.event.side,
            'end_to_end': self.end_to_end and self.end_to_end.relative,
            'own': self.own and self.own.relative,
            'floor': self.floor,
            'floor_end_to_end': self.floor_end_to_end,
            'limit': self.limit,
            'parts': self.parts,
        }


@dataclass(frozen=True)
class Cause:
    """A layer, or what is computed before or after one outside of layers, at which the two sides part."""

    row: Row
    layer: str  # name of the layer; of what lies between layers, of the module whose code computes it
    between: bool  # whether it lies between layers
    inputs: float  # end-to-end difference of what goes in
    guess: Optional[Guess]
    sentence: str
    share: Optional[float] = None  # part of the final difference that it causes alone

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        return {
            'layer': self.layer,
            'tensor': str(self.row.event),
            'between': self.between,
            'sentence': self.sentence,
            'cause': self.guess and self.guess.cause,
            'guess': self.guess and str(self.guess),
            'remains': self.guess and self.guess.remains,
            'share': self.share,
        }


@dataclass(frozen=True)
class Section:
    """Gradients or training steps, compared beside the outputs of the layers."""

    name: str
    ok: bool
    sentence: str
    rows: list[dict[str, Any]]  # JSON


@dataclass(frozen=True)
class Trace:
    """What ``trace`` has to say."""

    first: str  # labels of the sides
    second: str
    rows: list[Row]
    causes: list[Cause]  # in the order of execution
    unmatched: dict[str, list[str]]  # label -> modules that the other side does not have
    conditions: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    pictures: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # worst channel of both sides, by cause

    @property
    def ok(self) -> bool:
        """Whether no layer parts."""
        return not self.causes and all(section.ok for section in self.sections)

    @property
    def worst(self) -> Optional[Row]:
        """The row with the largest own difference."""
        rows = [row for row in self.rows if row.own is not None]
        return max(rows, key=lambda row: row.own.relative if row.own else 0.0, default=None)

    @property
    def sentence(self) -> str:
        """The answer."""
        if self.causes:
            return self.causes[0].sentence
        worst = self.worst
        if worst is None or worst.own is None:
            return f'nothing could be compared: {self.first} and {self.second} have no tensor in common'
        return f'no layer parts; the largest own difference is {worst.own.relative:.1e}, at {worst.event}'

    def to_json(self) -> dict[str, Any]:
        """The answer first."""
        return {
            'ok': self.ok,
            'sentence': self.sentence,
            'first': self.first,
            'second': self.second,
            'causes': [cause.to_json() for cause in self.causes],
            'rows': [row.to_json() for row in self.rows],
            'unmatched': self.unmatched,
            'sections': [asdict(section) for section in self.sections],
            'conditions': self.conditions,
        }
