"""The training loop, the same for both backends: order of samples, schedule, evaluation, checkpoints, logs.

A backend's ``Trainer`` does one step; everything here is framework-free. A run folder holds ``config.yaml``, ``log.txt``,
``metrics.jsonl``, ``tensorboard/`` and ``checkpoints/``.
"""

import errno
import hashlib
import math
import os
import platform
import signal
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Generator, Iterator, Mapping, NoReturn, Optional, Sequence

import numpy as np

from twinseg.common import checkpoint, console, facts, schedules, tasks
from twinseg.common import config as configuration
from twinseg.common.backend import Backend, Batch, Predictor, Trainer, get_backend
from twinseg.common.config import Config
from twinseg.common.data import label_faults
from twinseg.common.data.mixing import Mixing, is_active
from twinseg.common.data.open import open_splits, shared_images, unused_files
from twinseg.common.data.sampling import steps_per_epoch, training_batches
from twinseg.common.errors import DataError, DivergedError, Interrupted, LostError, StateError, UserError
from twinseg.common.files import write_text
from twinseg.common.host.memory import peak_memory
from twinseg.common.inference import views
from twinseg.common.measure.environment import machine, machine_of, versions
from twinseg.common.parallel.launch import pin
from twinseg.common.parallel.processes import Group, check_agreement, naming_lost_ranks
from twinseg.common.plugins import PLUGINS
from twinseg.common.settings.groups.runtime import DEVICES
from twinseg.common.training import input_wait, loss_checks
from twinseg.common.training.callbacks import Callback, Callbacks, TrainingFacts
from twinseg.common.training.lock import training_alone
from twinseg.common.training.log import Clock, Log, Silence
from twinseg.common.training.pictures import validation_pictures
from twinseg.common.training.resume import adapt, compare, finished_line, length_line, names_of
from twinseg.common.training.setup import build, classes_of, counted_weights, first_step, global_batch, order_of
from twinseg.common.training.signals import STATUS, Stop, Stopped
from twinseg.common.training.summary import last_lines
from twinseg.common.training.trackers import tracker
from twinseg.common.weights import by_name

MAX_CONFUSION = 100  # classes of the largest confusion matrix that is written to metrics.jsonl
MAX_SKIPPED = 100  # consecutive steps skipped for overflow before a run counts as diverged
STOP_INTERVAL = 10  # steps after which processes whose devices run ahead ask each other for signals
ADVICE = 'lower base_lr, use a warm-up or clip_global_norm, and continue from the last checkpoint'
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAULTS = tuple(  # errors of disks, and of mounts whose server or process is gone
    getattr(errno, name)
    for name in 'EIO EROFS ESTALE ENOTCONN ENODEV ENXIO EREMOTEIO EHOSTDOWN EHOSTUNREACH ETIMEDOUT'.split()
    if hasattr(errno, name)
)
Batches = Generator[Batch, None, None]


@dataclass
class Progress:
    """Progress of a run."""

    step: int = 0  # steps done
    best: Optional[float] = None  # highest score so far
    best_at: dict[str, float] = field(default_factory=dict)  # at each of more_eval_sizes, named <height>x<width>
    since_best: int = 0  # evaluations since the one with the highest score
    left_out: int = 0  # steps whose batches rollbacks have skipped
    rollbacks: int = 0


def train(
    config: Config,
    backend_name: str,
    device: Optional[str],
    work_dir: Path,
    *,
    resume: bool = False,
    start_from: Optional[Path] = None,
    allow_changed: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Trains to the end of the schedule and returns the last evaluation; ``callbacks`` hear of it, on rank 0.

    ``resume`` continues from the newest readable checkpoint of ``work_dir``, ``start_from`` from a given one of either
    backend; both continue exactly, so that settings which decide the course must be those of the beginning, but for those that
    ``allow_changed`` names (``training/resume.py``). Without them a ``work_dir`` that already holds checkpoints is refused.
    With several processes, started by torchrun or msrun, each trains on its part of every global batch; rank 0 alone writes,
    and all read what they continue from.
    Of its parameters the last four are for one kind of caller each, so they are given by name.
    Raises UserError for bad input, when the processes disagree, when one of them is lost, and when the loss is no longer
    finite and ``nan_policy`` does not help.
    """
    pin(backend_name)  # before the framework counts the cores
    runtime, backend = config.runtime, get_backend(backend_name)
    if device and runtime.device_target:  # what is written says where the run was trained, not where it was to be
        config = config.replace(device_target=DEVICES.get(device, device))
    device = backend.setup(
        device or runtime.device_target, seed=runtime.seed, threads=runtime.threads, timeout=runtime.collective_timeout
    )
    group, began = backend.group(), time.monotonic()
    callbacks = [*callbacks, *PLUGINS.callbacks]
    if group.rank == 0 and (sent := tracker(runtime.tracker, runtime.log_interval)):
        callbacks = [*callbacks, sent]
    if group.size > 1:
        print(f'rank {group.rank} of {group.size}: process {os.getpid()} on {platform.node()}', flush=True)
    notes: list[str] = []  # lines for log.txt, which opens only when the run begins
    alone = training_alone(work_dir, notes.append) if group.rank == 0 else nullcontext()  # rank 0 alone writes
    with console.outliving_readers(), naming_lost_ranks(group), _naming_faults(work_dir), alone:
        path = by_name.find_checkpoint(start_from) if start_from else None
        if resume and not path:
            path = checkpoint.latest(work_dir / checkpoint.FOLDER, notes.append)
        run = Run(config, backend, device, work_dir, group, continued=path is not None)
        run.allowed = tuple(allow_changed)
        run.began = began
        notes += run.look_at_labels()
        run.open_folder(may_exist=resume or start_from is not None)
        if path:
            run.resume(path, notes.append, same_folder=start_from is None)
        run.check_agreement({'the configuration': configuration.dump(run.config).encode()})
        run.write_config()
        with Silence() if group.rank else Log(work_dir, run.progress.step, resumed=bool(path)) as run.log:
            run.introduce(path, resume, notes)
            with Stop(group) as stop, run.heard_by(() if group.rank else callbacks):
                while True:
                    try:
                        scores = run.to_the_end(stop)
                        run.close()
                        return scores
                    except DivergedError as error:
                        run.log.line(str(error))
                        run.roll_back(error)


class Run:
    """A training in a folder."""

    log: Log
    callbacks: Callback = Callback()
    began: float  # when this process began, by time.monotonic

    def __init__(self, config: Config, backend: Backend, device: str, work_dir: Path, group: Group, continued: bool):
        """Opens the data sets and builds the network and its trainer; one that is ``continued`` gets its weights later, and not
        from ``pretrained``. UserError where they do not fit the configuration."""
        self.training, self.validation = open_splits(config.data)
        config = self.config = counted_weights(config, self.training)
        self.backend, self.group, self.task = backend, group, tasks.of(config.task)
        self.work_dir, self.folder = work_dir, work_dir / checkpoint.FOLDER
        start = config.replace(pretrained=None) if continued else config
        network = build(backend, start, self.training, quiet=group.rank > 0)
        classes = classes_of(config, self.training)
        loss_checks.check(config.loss, network.align_corners, classes)
        self.trainer = backend.make_trainer(network, config)
        self.images = global_batch(config, group.size)
        self.epoch_steps = steps_per_epoch(
            len(self.training) * config.data.repeat, self.images, drop_last=config.data.drop_last
        )
        self.rates = schedules.learning_rates(config.optimizer, config.schedule, self.epoch_steps, self.images)
        decays = config.loss.detail_target == 'decaying'
        self.detail_kernels = schedules.detail_kernels(config.optimizer, self.rates) if decays else None
        self.mixing = None
        if is_active(config.augment):
            self.mixing = Mixing(
                config.augment, classes, config.loss.label_smoothing, config.runtime.seed, group.rank, group.size
            )
        self.progress = Progress()
        self.allowed: tuple[str, ...] = ()  # keys that may differ from those of the checkpoint that is continued
        self.scores: dict[str, Any] = {}  # scores of the last evaluation
        sizes = (size for size in config.augment.more_eval_sizes if size != config.augment.eval_size)
        self.input_advice: Optional[str] = None
        self.more_sizes = {f'{height}x{width}': [height, width] for height, width in sizes}
        self.meta = checkpoint.RunMeta(
            config=config.flat(),
            backend=backend.name,
            device=device,
            versions=versions(),
            machine=machine_of(backend),
            num_classes=classes,
            classes=list(self.training.description.classes),
            palette=self.training.description.palette.tolist(),
            steps_per_epoch=self.epoch_steps,
            world_size=group.size,
            images=len(self.training),
            image_names=None if self.training.drawn else names_of(self.training),
        )

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.progress.step / self.epoch_steps

    def look_at_labels(self) -> list[str]:
        """Warnings about what the labels of both splits show, by rank 0; DataError where the loss would be one over nothing or
        over one class, or the scores those of nothing."""
        lines = []
        for dataset in (self.training, self.validation) if self.group.rank == 0 else ():
            if dataset is None or dataset.drawn:
                continue
            for fault in label_faults.faults(dataset, label_faults.look(dataset), training=dataset is self.training):
                if fault.fatal:
                    raise DataError(fault.line)
                lines.append(f'warning: {fault.line}')
        return lines

    def open_folder(self, may_exist: bool) -> None:
        """Makes the folder; UserError where it cannot be written, or holds checkpoints although it may not."""
        if self.group.rank:
            return
        if not may_exist and (checkpoint.steps(self.folder) or (self.folder / checkpoint.BEST).exists()):
            raise UserError(f'{self.work_dir}: holds checkpoints already; continue with --resume or choose another --work-dir')
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / '.writable'
            probe.write_bytes(b'')
            probe.unlink()
        except OSError as error:
            raise UserError(f'{self.work_dir}: cannot be written ({error.strerror}); choose another --work-dir') from None

    def resume(self, path: Path, tell: Callable[[str], None], same_folder: bool = True) -> None:
        """Continues from a checkpoint; the best score so far counts in the ``same_folder`` alone. ``tell`` hears what differs
        from what the run began with.

        StateError where the checkpoint belongs to another run, is of a later step than the last one, holds weights alone, or
        numbers that are not finite.
        """
        tensors, meta = checkpoint.load(path)
        if meta.trainer is None or meta.step is None:
            raise StateError(f'{path}: holds weights alone, from which no training continues; give it as pretrained')
        compared = compare(meta, self.meta, path)
        facts.check(facts.of_checkpoint(meta, path), facts.of_checkpoint(self.meta, 'the configuration'), True, _warning(tell))
        compared.check(path, self.allowed)
        total = len(self.rates)
        if meta.step > total:
            raise StateError(
                f'{path}: {meta.step} steps are done, more than the {total} of the configuration; set a greater length '
                '(epochs, max_iters), or start a new training'
            )
        for line in (*compared.lines(), *length_line(meta, self.config, self.rates, self.images, meta.step)):
            tell(line)
        try:
            checkpoint.check_finite(tensors)
        except StateError as error:
            raise StateError(f'{path}: {error}: once it is removed, --resume takes the one before it') from None
        self.trainer.load_state(*adapt(tensors, meta.trainer, self.trainer.state(), compared.changed))
        if meta.step == total and not same_folder:
            raise StateError(finished_line(path, meta.step))
        self.meta = self.meta.model_copy(update={'changes': [*meta.changes, *compared.history(meta.step)]})
        comparable = same_folder and not compared.scores
        best, best_at, since_best = (meta.best, dict(meta.best_at), meta.since_best) if comparable else (None, {}, 0)
        self.progress = Progress(meta.step, best, best_at, since_best, meta.left_out, meta.rollbacks)
        self.scores = meta.scores

    def check_agreement(self, facts: Optional[dict[str, bytes]] = None) -> None:
        """UserError where the processes differ in ``facts``, their progress or their state."""
        if self.group.size > 1:
            step, state = str(self.progress).encode(), _content(self.trainer)
            check_agreement(self.group, {**(facts or {}), 'the step': step, 'the state': state})

    def write_config(self) -> None:
        """Leaves the configuration in the folder."""
        if self.group.rank == 0:
            write_text(self.work_dir / 'config.yaml', configuration.dump(self.config))

    def introduce(self, path: Optional[Path], resume: bool, notes: list[str]) -> None:
        """Logs what is trained, and from where it goes on: ``path``, a checkpoint, or ``start_epoch``."""
        config, log, total = self.config, self.log, len(self.rates)
        if not path and config.schedule.start_epoch:
            self.progress.step = first_step(config, self.epoch_steps, total)
            log.line(f'start_epoch: {config.schedule.start_epoch}: starts at step {self.progress.step}')
        log.line(
            f'{config.model.arch} on {self.backend.name} ({self.meta.device}): {len(self.training)} training '
            f'and {len(self.validation or ()) or "no"} validation images of {self.training.name}, '
            f'{self.epoch_steps} steps an epoch, {total} steps'
        )
        if self.meta.device != 'cpu':
            log.line(', '.join(f'{key}: {value}' for key, value in self.backend.accelerator().items()))
        if config.precision.tf32 and self.meta.device != 'cpu':
            log.line('tf32: float32 numbers are multiplied with 10 bits')
        if self.group.size > 1:
            log.line(f'{self.group.size} processes with batches of {config.data.batch_size}')
        for note in notes:
            log.line(note)
        if self.validation is None:
            log.line('val_split: null: nothing is scored, and the last checkpoint is the result')
        datasets = [dataset for dataset in (self.training, self.validation) if dataset is not None]
        for warning in [*unused_files(*datasets), *shared_images(self.training, self.validation)]:
            log.line(f'warning: {warning}')
        if line := input_wait.too_many(config.data.num_parallel_workers, int(machine()['cores'] or 1)):
            log.line(line)
        if config.optimizer.lr_batch_size not in (0, self.images):
            log.line(
                f'a global batch of {self.images}: learning rates, made for {config.optimizer.lr_batch_size}, are multiplied '
                f'by {self.images / config.optimizer.lr_batch_size:.4g}'
            )
        for key, count in self.trainer.lr_mult_followers().items():
            log.line(f'lr_mult: {key}: {config.optimizer.lr_mult[key]:g}: {count} parameters')
        for key, count in self.trainer.frozen().items():
            log.line(f'freeze: {key}: {count} parameters and their running statistics keep their values')
        if self.detail_kernels is not None:
            alone, together = schedules.detail_strides(self.detail_kernels)
            log.line(f'detail_target: stride 2 counts in the first {alone} steps, strides 2 and 4 in the first {together}')
        if path:
            log.line(f'continues from {path} at step {self.progress.step}')
            if self.progress.step == total:
                log.line(finished_line(path, total))
        elif resume:
            log.line('no checkpoint to continue from: starts at step 0')

    @contextmanager
    def heard_by(self, callbacks: Sequence[Callback]) -> Iterator[None]:
        """A block in which callbacks hear of the training, of its end, too, however it comes."""
        self.callbacks = Callbacks(callbacks)
        self.callbacks.start(
            TrainingFacts(
                self.work_dir,
                self.config.flat(),
                self.backend.name,
                self.meta.device or '',
                tuple(self.meta.classes),
                self.progress.step,
                len(self.rates),
            )
        )
        try:
            yield
        finally:
            self.callbacks.end(self.progress.step, self.scores)

    def to_the_end(self, stop: Stop) -> dict[str, Any]:
        """Trains from the progress to the last step; returns the last evaluation.

        Raises DivergedError where numbers are not finite, and Interrupted after a signal, when the step is saved; an evaluation
        that was due then is made up for when the run is continued.
        """
        runtime, done = self.config.runtime, self.progress
        self.skipped = 0  # steps in a row, for overflow
        self.broken = 0  # samples
        self.unlogged: list[tuple[dict[str, Any], Mapping[str, float]]] = []  # steps whose figures nobody has looked at
        self.clock = Clock(self.images, len(self.rates), runtime.log_interval)
        self.samples = self.task.training_samples(self.training, self.config)
        with closing(self._batches()) as batches:
            try:
                if done.step and self._is_evaluation_due() and self.scores.get('step') != done.step:
                    self.save(self.evaluate(stop))  # a signal came before it
                while done.step < len(self.rates) and not self.is_out_of_patience:
                    try:
                        self.step(batches, stop)
                    except (DataError, LostError):
                        self.save_before_the_end()
                        raise
                    best: list[Optional[str]] = []
                    if self._is_evaluation_due():
                        best = self.evaluate(stop)
                        self.clock.restart()
                    if best or self._is_due(runtime.checkpoint_interval or runtime.save_every * self.epoch_steps):
                        self.save(best)
                        self.clock.restart()
            except Stopped as stopped:
                self.leave(stopped.signal)
        if self.is_out_of_patience and done.step < len(self.rates):
            self.log.line(f'patience: {done.since_best} evaluations without a better score: ends after step {done.step}')
        if self.validation is None:
            self.log.line(f'the result is the last checkpoint, {checkpoint.step_path(self.folder, done.step)}')
        return self.scores

    @property
    def is_out_of_patience(self) -> bool:
        """Whether as many evaluations as ``patience`` have brought no better score."""
        return 0 < self.config.runtime.patience <= self.progress.since_best

    @property
    def is_overtime(self) -> bool:
        """Whether this process has trained for ``max_hours``."""
        hours = self.config.runtime.max_hours
        return hours is not None and time.monotonic() - self.began > 3600 * hours

    def leave(self, number: signal.Signals) -> NoReturn:
        """Saves the last step that was done, and raises Interrupted."""
        step, by = self.progress.step, number.name
        if self.is_overtime:
            by = f'max_hours: {self.config.runtime.max_hours:g}'
        if not step:
            raise Interrupted(f'stopped by {by} before the first step', STATUS[number])
        self.save()
        self.log.line(f'stopped by {by} after step {step}')
        raise Interrupted(f'stopped by {by} after step {step}, which is saved: continue with --resume', STATUS[number])

    def close(self) -> None:
        """Leaves what a reader wants to know of the whole run: in TensorBoard, and on the terminal with the next commands."""
        if self.group.rank:
            return
        figure, best = self.task.FIGURES[0], self.progress.best
        self.log.settings(self.config.flat(), figure, best)
        for line in last_lines(self.work_dir, figure, best):
            self.log.line(line)

    def step(self, batches: Batches, stop: Stop) -> None:
        """Takes and logs one optimizer step; Stopped where the run is to end before or after it."""
        index, accumulation = self.progress.step, self.config.optimizer.accumulation_step
        with self.clock.waiting(), stop.at_once():
            batch = [next(batches) for _ in range(accumulation)]
            if self.mixing:
                batch = [
                    self.mixing(images, labels, index * accumulation + part, self.epoch)
                    for part, (images, labels) in enumerate(batch)
                ]
        kernel = () if self.detail_kernels is None else (self.detail_kernels[index].tolist(),)
        figures = self.trainer.step(batch, float(self.rates[index]), *kernel)
        self.progress.step += 1
        is_logged, stopped = self._is_due(self.config.runtime.log_interval), None
        if self.is_overtime:
            stop.end()
        if self.group.size == 1 or is_logged or not self.trainer.ahead or self._is_due(STOP_INTERVAL):
            # before the device is waited for: this names a lost process, for which a device would only wait
            stopped, self.broken = stop.asked(len(self.samples.broken))
        if is_logged:
            self.trainer.settle()
        self.clock.tick()
        record = {'step': self.progress.step, 'epoch': round(self.epoch, 4), 'lr': float(self.rates[index])}
        self.unlogged.append((record, figures))
        if not self.trainer.ahead:
            self.log_steps()
        if stopped:
            raise Stopped(stopped)

    def log_steps(self) -> None:
        """Logs the steps that are not yet logged; DivergedError for the first whose numbers are not finite."""
        unlogged, self.unlogged = self.unlogged, []
        for record, figures in unlogged:
            self._check_finite(record['step'], figures)
            memory = round(self.backend.device_memory() or peak_memory())
            speed = self.clock.figures(record['step'])
            values = {'kind': 'train', **record, **figures, **speed, 'memory_mb': memory, 'broken': self.broken}
            due = self._is_due(self.config.runtime.log_interval, record['step'])
            self.log.step(values, keep=due, last=len(self.rates))
            self.callbacks.step(record['step'], values)
            if self.input_advice is None:  # one line a run
                waited, steps, recipe = speed['data_share'], len(self.clock.spans), self.work_dir / 'config.yaml'
                self.input_advice = input_wait.advice(waited, steps, self.training, self.config.data, recipe)
                if self.input_advice:
                    self.log.line(self.input_advice)

    def evaluate(self, stop: Stop) -> list[Optional[str]]:
        """Scores the current weights, or the averaged ones, with the current ones' scores as ``current`` beside them, and their
        scores at further sizes as ``sizes``.

        Returns the sizes at which the score is the highest so far; None: ``eval_size``. Stopped where a signal comes before the
        scores are known.
        """
        self.log_steps()
        config, step, began = self.config, self.progress.step, time.perf_counter()
        headline = self.task.FIGURES
        try:
            predictor = self.trainer.predictor(ema=config.optimizer.with_ema)
        except checkpoint.NotFiniteError as error:
            raise DivergedError(step, f'step {step}: {error}; {ADVICE}') from None
        with stop.at_once():
            scores, matrix = self._score(predictor, config)
        record = {'kind': 'eval', 'step': step, 'epoch': round(self.epoch, 4), **scores}
        text = _headline(scores, headline)
        if config.optimizer.with_ema:
            with stop.at_once():
                current, _ = self._score(self.trainer.predictor(), config)
            record['current'] = {key: current[key] for key in headline}
            text += f'  (weights not averaged: {_headline(current, headline)})'
        with stop.at_once():
            sizes = {name: self._score(predictor, config.replace(eval_size=size))[0] for name, size in self.more_sizes.items()}
        if sizes:
            record['sizes'] = {name: {key: others[key] for key in headline} for name, others in sizes.items()}
            text += ''.join(f'  (at {name}: {_headline(others, headline)})' for name, others in sizes.items())
        record['seconds'] = round(time.perf_counter() - began, 2)
        self.scores = dict(record)
        if len(matrix) <= MAX_CONFUSION:
            record['confusion'] = matrix.tolist()
        self.log.record(record)
        self.log.scalars('eval', {key: scores[key] for key in headline}, step)
        self._show(predictor, scores, step)
        self.callbacks.evaluation(step, self.scores)
        self.log.line(f'step {step}  epoch {record["epoch"]:.1f}  {text}')
        improved: list[Optional[str]] = []
        score, best = scores[headline[0]], self.progress.best
        self.progress.since_best += 1
        if best is None or score > best:
            self.progress.best, self.progress.since_best = score, 0
            improved.append(None)
        self.log.scores = f'{headline[0]} {score:.2f}, best {self.progress.best:.2f}'
        for name, others in sizes.items():
            if others[headline[0]] > self.progress.best_at.get(name, -math.inf):
                self.progress.best_at[name] = others[headline[0]]
                improved.append(name)
        return improved

    def _show(self, predictor: Predictor, scores: dict[str, Any], step: int) -> None:
        """Scores of the classes and pictures for TensorBoard, by rank 0."""
        if self.group.rank or self.validation is None:
            return
        figure, count = self.task.CLASS_FIGURE, self.config.runtime.tensorboard_images
        by_class = {name: values[figure] for name, values in scores['classes'].items() if values[figure] is not None}
        if len(by_class) <= MAX_CONFUSION:
            self.log.scalars(figure, by_class, step)
        shown = views.as_published(predictor, self.config)
        pictures = validation_pictures(shown, self.validation, self.config, count) if count else {}
        self.log.pictures(pictures, step)

    def save(self, best: Sequence[Optional[str]] = ()) -> None:
        """Writes a checkpoint, by rank 0; the others wait for it. DivergedError in all of them when tensors are not finite.

        StateError where rank 0 cannot write: the others miss it then.
        """
        self.log_steps()
        step = self.progress.step
        broken: list[str] = []
        if self.group.rank == 0:
            tensors, state = self.trainer.state()
            broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
            if not broken:
                changed = {**asdict(self.progress), 'epoch': self.epoch, 'scores': self.scores, 'trainer': state}
                meta = self.meta.model_copy(update=changed)
                for size in best:
                    if size is not None:  # the file says that it is to be evaluated at its size
                        at_size = _evaluated_at(meta, self.more_sizes[size])
                        checkpoint.save(checkpoint.best_path(self.folder, size), tensors, at_size)
                path = checkpoint.step_path(self.folder, step)  # last: it says that all is written
                if None in best:
                    checkpoint.save(checkpoint.best_path(self.folder), tensors, meta)
                    checkpoint.link(checkpoint.best_path(self.folder), path)
                else:
                    checkpoint.save(path, tensors, meta)
                checkpoint.rotate(self.folder, self.config.runtime.max_keep_ckpts)
        if count := int(self.group.sum(np.array(len(broken)))):
            names = f' ({broken[0]})' if broken else ''
            raise DivergedError(step, f'step {step}: {count} tensors are not finite{names}: training has diverged; {ADVICE}')

    def save_before_the_end(self) -> None:
        """Writes a checkpoint where a sample or a process that reads them ends a training of one process between two steps; of
        several the others may be in the middle of one."""
        step = self.progress.step
        if self.group.size == 1 and step and not checkpoint.step_path(self.folder, step).exists():
            with suppress(UserError):  # what ends the training is the error to be told
                self.save()
                self.log.line(f'ends after step {step}, which is saved')

    def roll_back(self, error: DivergedError) -> None:
        """Goes back to the last checkpoint and skips the batches up to that of ``error``; raises it where ``nan_policy`` or the
        number of rollbacks does not allow it, or there is no checkpoint."""
        runtime, rollbacks = self.config.runtime, self.progress.rollbacks + 1
        if runtime.nan_policy == 'stop' or rollbacks > runtime.max_rollbacks:
            raise error
        path = checkpoint.latest(self.folder, self.log.line)
        if path is None:
            raise error
        self.resume(path, self.log.line)
        step = self.progress.step
        self.progress.left_out += error.step - step
        self.progress.rollbacks = rollbacks
        self.log.rewind(step)
        self.log.line(
            f'nan_policy: rollback: back to {path} at step {step}, the batches used since then are skipped; '
            f'rollback {rollbacks} of {runtime.max_rollbacks}'
        )
        self.check_agreement()

    def _batches(self) -> Batches:
        """The batches of this process from the progress to the end."""
        data, accumulation = self.config.data, self.config.optimizer.accumulation_step
        keys = training_batches(
            len(self.training),
            data.batch_size,
            self.config.runtime.seed,
            start=(self.progress.step + self.progress.left_out) * accumulation,
            stop=(len(self.rates) + self.progress.left_out) * accumulation,
            rank=self.group.rank,
            world_size=self.group.size,
            order=order_of(self.config, self.training),
            repeat=data.repeat,
            drop_last=data.drop_last,
        )
        return self.backend.make_loader(self.samples, keys, data.num_parallel_workers, data.data_timeout)

    def _score(self, predictor: Predictor, config: Config) -> tuple[dict[str, Any], np.ndarray]:
        """Scores on the validation split as a configuration evaluates it, and the confusion matrix."""
        shown = views.as_published(predictor, config)
        assert self.validation is not None
        make_loader = partial(self.backend.make_loader, timeout=config.data.data_timeout)
        evaluation = self.task.evaluate(shown, self.validation, config, make_loader, group=self.group)
        return evaluation.scores.to_json(), evaluation.matrix

    def _is_evaluation_due(self) -> bool:
        return self.validation is not None and self._is_due(self.config.runtime.val_interval or self.epoch_steps)

    def _is_due(self, interval: int, step: Optional[int] = None) -> bool:
        """True where the step, by default the last one taken, is a multiple of ``interval``, or the last of all."""
        step = step or self.progress.step
        return step % interval == 0 or step == len(self.rates)

    def _check_finite(self, step: int, values: Mapping[str, float]) -> None:
        """DivergedError where a loss is not finite; where gradients are not, at once without a loss scale to lower, else after
        MAX_SKIPPED steps in a row. All processes have the same values."""
        self.skipped = self.skipped + 1 if values['overflow'] else 0
        scaled = self.config.precision.amp_level != 'O0'
        if math.isfinite(values['loss']) and (not values['overflow'] or scaled) and self.skipped < MAX_SKIPPED:
            return
        raise DivergedError(
            step,
            f'step {step}: the loss is {values["loss"]} and the gradient norm {values["grad_norm"]}: '
            f'training has diverged{f" ({self.skipped} steps skipped in a row)" if self.skipped > 1 else ""}; {ADVICE}',
        )


@contextmanager
def _naming_faults(work_dir: Path) -> Iterator[None]:
    """StateError instead of the OSError of a disk that is full, or of a disk or mount that fails or is gone."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, *FAULTS):
            raise
        what, advice = ('not written: ', 'free space') if error.errno in FULL else ('', 'see to the disk or the mount')
        raise StateError(f'{error.filename or work_dir}: {what}{error.strerror}; {advice} and continue with --resume') from None


def _content(trainer: Trainer) -> bytes:
    """A sum over all that a trainer starts from."""
    digest = hashlib.blake2b()
    for name, value in sorted(trainer.state()[0].items()):
        digest.update(name.encode() + value.tobytes())
    return digest.digest()


def _warning(tell: Callable[[str], None]) -> Callable[[str], None]:
    """``tell`` for lines that a reader must not miss."""
    return lambda line: tell(f'warning: {line}')


def _evaluated_at(meta: checkpoint.RunMeta, size: list[int]) -> checkpoint.RunMeta:
    """Metadata whose configuration evaluates at another size."""
    return meta.model_copy(update={'config': {**meta.config, 'eval_size': size}})


def _headline(scores: dict[str, Any], keys: tuple[str, ...]) -> str:
    """The scores that a reader sees first, as text."""
    return '  '.join(f'{key} {scores[key]:.4f}' if key == 'loss' else f'{key} {scores[key]:.2f}' for key in keys)
