"""The part of both backends' trainers that needs no framework: the state that a checkpoint keeps, and predictors."""

import copy
from abc import ABC, abstractmethod
from typing import Any, Iterator, Mapping, Optional, Protocol, Sequence

import numpy as np

from twinseg.common.backend import Network, Predictor, State, StepFigures
from twinseg.common.checkpoint import PARTS, LoadReport, TrainerState
from twinseg.common.config import Config
from twinseg.common.errors import StateError
from twinseg.common.training.loss_scaling import LossScaler, check_overflow_is_seen
from twinseg.common.training.parameter_groups import followers


class Optimizer(Protocol):
    """A backend's optimizer."""

    steps: int
    names: tuple[str, ...]  # canonical names of the parameters that it moves

    def state(self) -> State:
        """Copies of its tensors, by slot and parameter."""

    def load_state(self, tensors: Mapping[str, np.ndarray], steps: int) -> None:
        """Takes back what ``state`` gave; StateError when it belongs to another optimizer."""


class Average(Protocol):
    """A backend's moving average of the weights."""

    def state(self) -> State:
        """Copies of the averaged parameters."""

    def load_state(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes back what ``state`` gave; StateError where there is none."""


class StatefulTrainer(ABC):
    """A trainer's state and predictors (see ``common.backend.Trainer``)."""

    def __init__(self, network: Network, config: Config, optimizer: Optimizer, average: Optional[Average]):
        self.network, self.config, self.optimizer, self.average = network, config, optimizer, average
        self.scaler = LossScaler(config.precision)
        check_overflow_is_seen(config.precision, self.overflows)
        self.steps = 0  # steps, with those that were skipped for overflow
        self.unread: list[tuple[StepFigures, Any]] = []  # steps whose figures are on the device, and where
        self.predictors: dict[bool, tuple[Network, Predictor]] = {}  # True: predictor of the averaged weights

    @staticmethod
    @abstractmethod
    def network_state(network: Network) -> State:
        """Copies of all parameters and buffers."""

    @staticmethod
    @abstractmethod
    def load_network_state(network: Network, state: Mapping[str, np.ndarray]) -> LoadReport:
        """Loads what matches and says so; StateError on a poor match."""

    @abstractmethod
    def make_predictor(self, network: Network) -> Predictor:
        """A predictor of a network."""

    def lr_mult_followers(self) -> dict[str, int]:
        """Key of ``lr_mult`` -> number of the parameters that take its factor."""
        return followers(self.optimizer.names, self.config.optimizer.lr_mult)

    def frozen(self) -> dict[str, int]:
        """Pattern of ``freeze`` -> number of the parameters that keep their values."""
        return {key: len(names) for key, names in self.network.frozen.items()}

    @abstractmethod
    def overflows(self) -> bool:
        """Whether numbers of the half precision become infinite on the device: it says so, and float16 is tried."""

    @abstractmethod
    def read(self, steps: Sequence[Any]) -> Iterator[tuple[dict[str, float], float]]:
        """The losses and the gradient norm of steps, from what ``figures_of`` was given: one read of the device."""

    def figures_of(self, on_device: Any) -> StepFigures:
        """The figures of a step that was given to the device."""
        self.steps += 1
        figures = StepFigures(self.settle)
        self.unread.append((figures, on_device))
        return figures

    @property
    def ahead(self) -> bool:
        """Whether figures of steps are still on the device."""
        return bool(self.unread)

    def settle(self) -> None:
        """Reads the figures of all steps at once, and counts those steps: only then are the loss scale and the number of steps
        taken right."""
        unread, self.unread = self.unread, []
        for (figures, _), (losses, norm) in zip(unread, self.read([numbers for _, numbers in unread]) if unread else ()):
            finite = bool(np.isfinite(norm))
            figures.figures = {
                **losses,
                'loss_scale': self.scaler.scale,
                'overflow': float(not finite),
                'grad_norm': norm,
            }
            self.scaler.update(finite)
            self.optimizer.steps += finite

    def state(self) -> tuple[State, TrainerState]:
        """Copies of all that a later step depends on (see ``common.backend.Trainer``)."""
        self.settle()
        tensors = {f'model.{name}': value for name, value in self.network_state(self.network).items()}
        tensors |= {f'optimizer.{name}': value for name, value in self.optimizer.state().items()}
        if self.average is not None:
            tensors |= {f'ema.{name}': value for name, value in self.average.state().items()}
        return tensors, TrainerState(steps=self.steps, optimizer_steps=self.optimizer.steps, loss_scale=self.scaler.state())

    def load_state(self, tensors: Mapping[str, np.ndarray], meta: TrainerState) -> None:
        """Takes back what ``state`` of either backend gave; StateError when it belongs to another network or optimizer."""
        self.settle()
        parts: dict[str, State] = {part: {} for part in PARTS}
        for name, value in tensors.items():
            part, _, rest = name.partition('.')
            if part not in parts:
                raise StateError(f'training state {name}: not a part that is known here ({", ".join(PARTS)})')
            parts[part][rest] = value
        self.load_network_state(self.network, parts['model'])
        self.optimizer.load_state(parts['optimizer'], meta.optimizer_steps)
        if self.average is not None:
            self.average.load_state(parts['ema'])
        self.scaler.load_state(meta.loss_scale)
        self.steps = meta.steps

    def predictor(self, ema: bool = False) -> Predictor:
        """A predictor that shares the current weights, or one of a copy with the averaged ones."""
        average = self.average if ema else None
        averaged = average is not None
        if averaged not in self.predictors:
            network = copy.deepcopy(self.network) if averaged else self.network
            self.predictors[averaged] = network, self.make_predictor(network)
        network, predictor = self.predictors[averaged]
        if average is not None:
            self.load_network_state(network, average.state())
        return predictor


def fitting(tensors: Mapping[str, np.ndarray], name: str, shape: Sequence[int], condition: str) -> np.ndarray:
    """The tensor ``name`` of a training state; StateError, which names the ``condition``, when it is missing or has another
    shape."""
    array = tensors.get(name)
    if array is None or array.shape != tuple(shape):
        raise StateError(
            f'training state {name}: expected shape {tuple(shape)}, found {"nothing" if array is None else array.shape}; '
            f'training continues only with {condition}'
        )
    return array
