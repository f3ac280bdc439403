"""Callbacks: what else is to happen while a training runs, as plugins and Python users write it.

A callback has any of four methods. They are called in the one process that writes the run folder, in the order in which the
callbacks were given; what they raise ends the training, as an error of its own would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingFacts:
    """What a training is, before its first step."""

    folder: Path  # the run folder
    config: Mapping[str, Any]  # flat keys of the configuration
    backend: str
    device: str
    classes: tuple[str, ...]
    first_step: int  # steps that were done before a resume; 0: a new run
    last_step: int  # steps of the whole training


class Callback:
    """Base class of callbacks; each method does nothing unless it is overridden."""

    def start(self, training: TrainingFacts) -> None:
        """The training begins, or goes on."""

    def step(self, step: int, figures: Mapping[str, Any]) -> None:
        """``step`` steps are done (from 1). ``figures``: ``loss`` and its parts, ``lr``, ``epoch``, ``grad_norm``,
        ``loss_scale``, ``img_per_s``, ``seconds_left``, ``data_share`` and ``overflows``. On an accelerator several steps are
        heard of together, when their figures are read."""

    def evaluation(self, step: int, scores: Mapping[str, Any]) -> None:
        """The validation split was scored after ``step`` steps: ``mIoU``, ``mAcc``, ``aAcc``, or ``top1``, ``top5``, ``loss``,
        in per cent, and ``classes``, class -> score -> value."""

    def end(self, step: int, scores: Mapping[str, Any]) -> None:
        """The training ends after ``step`` steps, also by a signal or an error; ``scores`` of the last evaluation, or none."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]):
        self.callbacks = tuple(callbacks)

    def start(self, training: TrainingFacts) -> None:
        for callback in self.callbacks:
            callback.start(training)

    def step(self, step: int, figures: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.step(step, figures)

    def evaluation(self, step: int, scores: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.evaluation(step, scores)

    def end(self, step: int, scores: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.end(step, scores)
