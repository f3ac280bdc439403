"""Experiment trackers behind one small interface: each is a callback that sends figures on. ``tracker`` of the configuration
chooses one; where it sends them, or whether it stays on this machine, is set as its own documentation says (``WANDB_MODE``,
``MLFLOW_TRACKING_URI``, ``SWANLAB_MODE``).
"""

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Optional

from twinseg.common.errors import UserError, first_line_of, require
from twinseg.common.files import write_text
from twinseg.common.training.callbacks import Callback, TrainingFacts

PROJECT = 'twinseg'
ID_FILE = 'tracker_id'  # in the run folder: a resumed training goes on with the tracker's run
LONGEST = 250  # characters of a parameter: MLflow's limit was 250 until version 1.28, 6000 since


class Tracker(Callback, ABC):
    """Sends scalars and the configuration on; ``open``, ``log`` and ``close`` are a tracker's own."""

    package: str
    extra = 'track'

    def __init__(self, interval: int):
        require(self.package, self.extra)
        self.interval, self.last = interval, 0

    def start(self, training: TrainingFacts) -> None:
        self.last = training.last_step
        path = training.folder / ID_FILE
        resumed = path.is_file() and training.first_step > 0
        identity = path.read_text(encoding='utf-8').strip() if resumed else uuid.uuid4().hex[:16]
        try:
            write_text(path, self.open(training, identity, resumed) + '\n')
        except Exception as error:  # each library has exceptions of its own
            raise UserError(
                f'tracker: {self.package} does not start: {first_line_of(error)}; set it up, or leave tracker out'
            ) from None

    def step(self, step: int, figures: Mapping[str, Any]) -> None:
        if step % self.interval == 0 or step == self.last:
            self.log(_scalars('train', figures), step)

    def evaluation(self, step: int, scores: Mapping[str, Any]) -> None:
        values = _scalars('eval', scores)
        for name, of_class in scores['classes'].items():
            values.update(_scalars(f'eval/{name}', of_class))
        self.log(values, step)

    def end(self, step: int, scores: Mapping[str, Any]) -> None:
        self.close()

    @abstractmethod
    def open(self, training: TrainingFacts, identity: str, resumed: bool) -> str:
        """Begins a run, or goes on with that of ``identity``; returns the identity for a later resume."""

    @abstractmethod
    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars of a step."""

    @abstractmethod
    def close(self) -> None:
        """Ends the run."""


class Wandb(Tracker):
    """Weights & Biases."""

    package = 'wandb'
    run: Any = None

    def open(self, training: TrainingFacts, identity: str, resumed: bool) -> str:
        import wandb

        self.run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', PROJECT),
            name=training.folder.name,
            dir=str(training.folder),
            config=dict(training.config),
            id=identity,
            resume='allow' if resumed else None,
        )
        return identity

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()


class Mlflow(Tracker):
    """MLflow; without ``MLFLOW_TRACKING_URI`` its files are in the run folder."""

    package = 'mlflow'
    client: Any = None
    run_id = ''

    def open(self, training: TrainingFacts, identity: str, resumed: bool) -> str:
        from mlflow.tracking import MlflowClient

        local = (training.folder / 'mlruns').absolute()
        if 'MLFLOW_TRACKING_URI' not in os.environ:
            os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')
        self.client = MlflowClient(os.environ.get('MLFLOW_TRACKING_URI') or local.as_uri())
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        if resumed:
            self.run_id = identity
            self.client.update_run(self.run_id, status='RUNNING')
            return identity
        self.run_id = self.client.create_run(experiment_id, run_name=training.folder.name).info.run_id
        for key, value in training.config.items():
            self.client.log_param(self.run_id, key, str(value)[:LONGEST])
        return self.run_id

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run_id, _plain(name), value, step=step)

    def close(self) -> None:
        if self.run_id:
            self.client.set_terminated(self.run_id)


class Swanlab(Tracker):
    """SwanLab."""

    package = extra = 'swanlab'
    is_open = False

    def open(self, training: TrainingFacts, identity: str, resumed: bool) -> str:
        import swanlab

        folder = training.folder / 'swanlog'
        folder.mkdir(exist_ok=True)
        swanlab.init(
            project=os.environ.get('SWANLAB_PROJECT', PROJECT),
            experiment_name=training.folder.name,
            config=dict(training.config),
            logdir=str(folder),
        )
        self.is_open = True
        return identity

    def log(self, values: dict[str, float], step: int) -> None:
        import swanlab

        swanlab.log(values, step=step)

    def close(self) -> None:
        if self.is_open:
            import swanlab

            swanlab.finish()


TRACKERS: dict[str, type[Tracker]] = {'wandb': Wandb, 'mlflow': Mlflow, 'swanlab': Swanlab}


def tracker(name: str, interval: int) -> Optional[Tracker]:
    """The tracker of that name, which hears of every ``interval``-th step; none for ``none``. BackendError where its package is
    not installed."""
    return TRACKERS[name](interval) if name != 'none' else None


def _scalars(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    kinds = (int, float)
    return {f'{group}/{key}': value for key, value in values.items() if isinstance(value, kinds) and key != 'step'}


def _plain(name: str) -> str:
    """A name of letters that MLflow takes."""
    return ''.join(letter if letter.isalnum() or letter in '_-. /' else '_' for letter in name)
