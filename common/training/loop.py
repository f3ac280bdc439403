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
import threading
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from twinseg.common import checkpoint, schedules
from twinseg.common import config as configuration
from twinseg.common.backend import Backend, Predictor, Trainer, get_backend
from twinseg.common.config import Config
from twinseg.common.data.balance import balanced_order, class_counts, class_weights
from twinseg.common.data.base import Dataset
from twinseg.common.data.mixing import Mixing, is_active
from twinseg.common.data.open import open_dataset
from twinseg.common.data.samples import TrainImages, TrainSamples
from twinseg.common.data.sampling import steps_per_epoch, training_batches
from twinseg.common.errors import DivergedError, Interrupted, StateError, UserError
from twinseg.common.inference.evaluate import evaluate, evaluate_images, figures, network_arguments, published_views
from twinseg.common.metrics import Scores
from twinseg.common.parallel.launch import pin
from twinseg.common.parallel.processes import Group, check_agreement, naming_lost_ranks
from twinseg.common.training import loss_checks
from twinseg.common.training.log import Clock, Log, Silence

MAX_CONFUSION = 100  # classes of a confusion matrix that is kept
MAX_SKIPPED = 100  # consecutive steps skipped for overflow before a run counts as diverged
ADVICE = 'lower base_lr, use a warm-up or clip_global_norm, and continue from the last checkpoint'
FULL = (errno.ENOSPC, errno.EDQUOT)
STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}  # of an interrupted training; 75 (EX_TEMPFAIL): to be resumed
RUN_KEYS = (
    'arch',
    'num_classes',
    'backbone',
    'model_args',
    'batch_size',
    'accumulation_step',
    'optimizer',
    'seed',
)  # kept by a resume


def train(
    config: Config,
    backend_name: str,
    device: Optional[str],
    work_dir: Path,
    *,
    resume: bool = False,
    start_from: Optional[Path] = None,
) -> dict[str, Any]:
    """Trains to the end of the schedule and returns the last evaluation.

    ``resume`` continues from the newest readable checkpoint of ``work_dir``, ``start_from`` from a given one of either
    backend; both continue exactly. Without them a ``work_dir`` that already holds checkpoints is refused.
    Of several processes, as torchrun or msrun start them, each trains on its part of every global batch; rank 0 alone writes,
    and all read what they continue from.
    Raises UserError for bad input, when the processes disagree, when one of them is lost, and when the loss is no longer
    finite and ``nan_policy`` does not help.
    """
    pin(backend_name)  # before the framework counts the cores
    runtime, backend = config.runtime, get_backend(backend_name)
    device = backend.setup(
        device or runtime.device_target, seed=runtime.seed, threads=runtime.threads, timeout=runtime.collective_timeout
    )
    group = backend.group()
    if group.size > 1:
        print(f'rank {group.rank} of {group.size}: process {os.getpid()} on {platform.node()}', flush=True)
    with naming_lost_ranks(group):
        try:
            return _train(config, backend, device, work_dir, resume, start_from, group)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StateError(
                f'{error.filename or work_dir}: not written: {error.strerror}; free space and continue with --resume'
            ) from None


def _train(
    config: Config, backend: Backend, device: str, work_dir: Path, resume: bool, start_from: Optional[Path], group: Group
) -> dict[str, Any]:
    training, validation = (open_dataset(config.data, split) for split in (config.data.train_split, config.data.val_split))
    config = _counted_weights(config, training)
    network = build(backend, config, training, quiet=group.rank > 0)
    loss_checks.check(config.loss, network.align_corners, num_classes(config, training))
    trainer = backend.make_trainer(network, config)

    images = global_batch(config, group.size)
    epoch_steps = steps_per_epoch(len(training) * config.data.repeat, images)
    rates = schedules.learning_rates(config.optimizer, config.schedule, epoch_steps, images)
    folder = _open_folder(work_dir, resume or start_from is not None, group)
    notes: list[str] = []  # for log.txt, which begins where the run does
    found = start_from or (checkpoint.latest(folder, notes.append) if resume else None)
    progress: dict[str, Any] = {'step': 0, 'best': None, 'left_out': 0, 'rollbacks': 0}
    if found:
        _same_run(config, checkpoint.load(found)[1], found, group)
        _take(trainer, progress, found)
        if start_from is not None:
            progress['best'] = None

    check_agreement(
        group,
        {
            'the configuration': configuration.dump(config).encode(),
            'the step': str(progress['step']).encode(),
            'the state': _content(trainer),
        },
    )
    if group.rank == 0:
        (work_dir / 'config.yaml').write_text(configuration.dump(config), encoding='utf-8')
    from twinseg.common.measure.benchmark import machine, measures  # here: it builds on this module

    facts = {
        'config': config.flat(),
        'backend': backend.name,
        'device': device,
        'versions': versions(),
        'machine': {**machine(), **measures(backend.name).accelerator()},
        'num_classes': num_classes(config, training),
        'classes': list(training.description.classes),
        'palette': training.description.palette.tolist(),
        'steps_per_epoch': epoch_steps,
        'world_size': group.size,
    }
    with Silence() if group.rank else Log(work_dir, progress['step'], resumed=bool(found)) as log:
        if not found and config.schedule.start_epoch:
            progress['step'] = _first_step(config, epoch_steps, len(rates))
            log.line(f'start_epoch: {config.schedule.start_epoch}: starts at step {progress["step"]}')
        log.line(
            f'{config.model.arch} on {backend.name} ({device}): {len(training)} training and {len(validation)} validation '
            f'images of {training.name}, {epoch_steps} steps an epoch, {len(rates)} steps'
        )
        if group.size > 1:
            log.line(f'{group.size} processes with batches of {config.data.batch_size}')
        for note in notes:
            log.line(note)
        if config.optimizer.lr_batch_size not in (0, images):
            log.line(
                f'a global batch of {images}: learning rates, made for {config.optimizer.lr_batch_size}, are multiplied '
                f'by {images / config.optimizer.lr_batch_size:.4g}'
            )
        if found:
            log.line(f'continues from {found} at step {progress["step"]}')
        elif resume:
            log.line('no checkpoint to continue from: starts at step 0')
        with Stop(group) as stop:
            while True:
                try:
                    return _loop(
                        config,
                        backend,
                        trainer,
                        training,
                        validation,
                        rates,
                        epoch_steps,
                        folder,
                        progress,
                        facts,
                        log,
                        group,
                        stop,
                    )
                except DivergedError as error:
                    log.line(str(error))
                    _roll_back(trainer, progress, error, config, folder, log)
                    check_agreement(group, {'the step': str(progress).encode(), 'the state': _content(trainer)})


def _loop(
    config: Config,
    backend: Backend,
    trainer: Trainer,
    training: Dataset,
    validation: Dataset,
    rates: np.ndarray,
    epoch_steps: int,
    folder: Path,
    progress: dict,
    facts: dict,
    log: 'Log',
    group: Group,
    stop: 'Stop',
) -> dict[str, Any]:
    runtime, data, accumulation = config.runtime, config.data, config.optimizer.accumulation_step
    if config.classifies:
        samples: TrainSamples = TrainImages(
            training, config.augment, data.image_size, runtime.seed, data.on_error, data.max_errors
        )
    else:
        samples = TrainSamples(training, config.augment, runtime.seed, data.on_error, data.max_errors)
    mixing = None
    if is_active(config.augment):
        mixing = Mixing(
            config.augment, num_classes(config, training), config.loss.label_smoothing, runtime.seed, group.rank, group.size
        )
    keys = training_batches(
        len(training),
        data.batch_size,
        runtime.seed,
        start=(progress['step'] + progress['left_out']) * accumulation,
        stop=(len(rates) + progress['left_out']) * accumulation,
        rank=group.rank,
        world_size=group.size,
        order=_order(config, training),
        repeat=data.repeat,
    )
    clock = Clock(data.batch_size * accumulation * group.size, len(rates))
    key = figures(config)[0]  # the score that decides which checkpoint is the best
    skipped, scores = 0, {}
    with closing(backend.make_loader(samples, keys, data.num_parallel_workers)) as batches:
        for step in range(progress['step'], len(rates)):
            with clock.waiting():
                batch = [next(batches) for _ in range(accumulation)]
                if mixing:
                    batch = [
                        mixing(images, labels, step * accumulation + part, step / epoch_steps)
                        for part, (images, labels) in enumerate(batch)
                    ]
            values = trainer.step(batch, float(rates[step]))
            clock.tick()
            done = step + 1
            stopped, broken = stop.asked(len(samples.broken))
            skipped = skipped + 1 if values['overflow'] else 0
            _check_finite(values, done, skipped, config)
            record: dict[str, Any] = {
                'kind': 'train',
                'step': done,
                'epoch': round(done / epoch_steps, 4),
                'lr': float(rates[step]),
                **values,
                **clock.figures(done),
                'broken': broken,
            }
            log.step(record, keep=done % runtime.log_interval == 0 or done == len(rates), last=len(rates))

            if _due(done, runtime.val_interval or epoch_steps, len(rates)):
                scores = _evaluate(backend, trainer, config, validation, done, record['epoch'], log, group)
                clock.restart()
            best = bool(scores) and scores['step'] == done and (progress['best'] is None or scores[key] > progress['best'])
            if best:
                progress['best'] = scores[key]
            if best or stopped or _due(done, runtime.checkpoint_interval or runtime.save_every * epoch_steps, len(rates)):
                meta = {**facts, **progress, 'step': done, 'epoch': done / epoch_steps, 'scores': scores}
                _save(folder, trainer, meta, best, runtime.max_keep_ckpts, group)
                clock.restart()
            if stopped and done < len(rates):
                log.line(f'stopped by {stopped.name} after step {done}')
                raise Interrupted(
                    f'stopped by {stopped.name} after step {done}, which is saved: continue with --resume', STATUS[stopped]
                )
    return scores


def build(backend: Backend, config: Config, dataset: Dataset, quiet: bool = False) -> Any:
    """The network of a configuration for a data set, initialised from the seed or from ``pretrained``; says what it read."""
    from twinseg.common import weights

    arguments = network_arguments(config, num_classes(config, dataset))
    network = backend.build_model(config.model.arch, seed=config.runtime.seed, **arguments)
    if config.model.pretrained:
        path = Path(config.model.pretrained).expanduser()
        report = weights.load_pretrained(backend, network, config.model.arch, path, config.model.reset_classifier)
        if not quiet:
            print(report)
    return network


def global_batch(config: Config, devices: int) -> int:
    """Images of a step: of all devices and accumulated batches."""
    return config.data.batch_size * config.optimizer.accumulation_step * devices


def _counted_weights(config: Config, training: Dataset) -> Config:
    """The configuration with numbers for class weights that are to be counted on the labels."""
    if not isinstance(config.loss.class_weight, str):
        return config
    return config.replace(class_weight=class_weights(class_counts(training), config.loss.class_weight))


def _order(config: Config, training: Dataset) -> Optional[Callable[[int], np.ndarray]]:
    """The order of an epoch where it is not the plain one."""
    if config.data.sampling == 'shuffle':
        return None
    return balanced_order(class_counts(training), config.runtime.seed)


def num_classes(config: Config, dataset: Dataset) -> int:
    """Classes of the network: the configuration's, else the data set's; UserError if the data set has more."""
    classes = len(dataset.description.classes)
    if config.model.num_classes is None:
        return classes
    if config.model.num_classes < classes:
        raise UserError(f'num_classes: {config.model.num_classes}, but {dataset.name} has {classes} classes')
    return config.model.num_classes


def versions() -> dict[str, str]:
    """Versions of Python and of what computes."""
    found = {'python': platform.python_version()}
    for name in ('twinseg', 'numpy', 'opencv-python-headless', 'torch', 'mindspore'):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def _open_folder(work_dir: Path, may_exist: bool, group: Group) -> Path:
    folder = work_dir / 'checkpoints'
    if group.rank:
        return folder
    if not may_exist and folder.is_dir() and (checkpoint.steps(folder) or (folder / checkpoint.BEST).exists()):
        raise UserError(f'{work_dir}: holds checkpoints already; continue with --resume or choose another --work-dir')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / '.writable'
        probe.write_bytes(b'')
        probe.unlink()
    except OSError as error:
        raise UserError(f'{work_dir}: cannot be written ({error.strerror}); choose another --work-dir') from None
    return folder


def _content(trainer: Trainer) -> bytes:
    """A sum over all that a trainer starts from."""
    digest = hashlib.blake2b()
    for name, value in sorted(trainer.state()[0].items()):
        digest.update(name.encode() + value.tobytes())
    return digest.digest()


def _same_run(config: Config, meta: checkpoint.RunMeta, path: Path, group: Group) -> None:
    """A resume continues the same run: what decides its course must not have changed; the number of processes may, as long
    as the global batch stays what it was."""
    before, now = configuration.from_flat(meta.config, str(path)), config
    for key in RUN_KEYS:
        settings = configuration.KEYS[key]
        was, asked = (getattr(getattr(c, settings), key) for c in (before, now))
        if key == 'batch_size' and (processes := meta.world_size) != group.size:
            if was * processes == asked * group.size:
                continue
            was, asked = f'{was} in each of {processes} processes', f'{asked} in each of {group.size}'
        if was != asked:
            raise StateError(
                f'{path}: was trained with {key}: {was!r}, the configuration says {asked!r}; '
                'a run is continued with the settings that it began with'
            )


def _check_finite(values: dict[str, float], step: int, skipped: int, config: Config) -> None:
    """DivergedError where a loss is not finite, or gradients, unless a scale is there to lower: then when too many are skipped.

    All processes have the same values."""
    scaled = config.precision.amp_level != 'O0'
    if not math.isfinite(values['loss']) or values['overflow'] and not scaled or skipped >= MAX_SKIPPED:
        raise DivergedError(
            step,
            f'step {step}: the loss is {values["loss"]} and the gradient norm {values["grad_norm"]}: '
            f'training has diverged{f" ({skipped} steps skipped in a row)" if skipped > 1 else ""}; {ADVICE}',
        )


def _take(trainer: Trainer, progress: dict[str, Any], path: Path) -> None:
    """The trainer and the progress of a checkpoint."""
    tensors, meta = checkpoint.load(path)
    if meta.trainer is None or meta.step is None:
        raise StateError(f'{path}: holds weights alone: it continues no training; give it as pretrained')
    trainer.load_state(tensors, meta.trainer)
    progress.update(step=meta.step, best=meta.best, left_out=meta.left_out, rollbacks=meta.rollbacks)


def _roll_back(
    trainer: Trainer, progress: dict[str, Any], error: DivergedError, config: Config, folder: Path, log: 'Log'
) -> None:
    """Goes back to the last checkpoint, and on behind the batch of ``error``; raises it where there is no way."""
    rollbacks = progress['rollbacks'] + 1
    if config.runtime.nan_policy == 'stop' or rollbacks > config.runtime.max_rollbacks:
        raise error
    found = checkpoint.latest(folder, log.line)
    if found is None:
        raise error
    _take(trainer, progress, found)
    progress.update(left_out=progress['left_out'] + error.step - progress['step'], rollbacks=rollbacks)
    log.rewind(progress['step'])
    log.line(
        f'nan_policy: rollback: back to {found} at step {progress["step"]}, and on behind the batches since; '
        f'rollback {rollbacks} of {config.runtime.max_rollbacks}'
    )


def _due(step: int, interval: int, last: int) -> bool:
    return step % interval == 0 or step == last


def _first_step(config: Config, epoch_steps: int, total: int) -> int:
    step = config.schedule.start_epoch * epoch_steps
    if step >= total:
        raise UserError(f'start_epoch: {config.schedule.start_epoch} epochs of {epoch_steps} steps leave none of the {total}')
    return step


def _evaluate(
    backend: Backend, trainer: Trainer, config: Config, validation: Dataset, step: int, epoch: float, log: 'Log', group: Group
) -> dict[str, Any]:
    """Scores of the current weights, or of the averaged ones with the current ones' as ``current`` beside them."""
    began = time.perf_counter()
    scores, matrix = _score(backend, trainer.predictor(ema=config.optimizer.with_ema), config, validation, group)
    record = {'kind': 'eval', 'step': step, 'epoch': epoch, **scores}
    text = _figures(scores, config)
    if config.optimizer.with_ema:
        current = _score(backend, trainer.predictor(), config, validation, group)[0]
        record['current'] = {key: current[key] for key in figures(config)}
        text += f'  (weights not averaged: {_figures(current, config)})'
    record['seconds'] = round(time.perf_counter() - began, 2)
    if len(matrix) <= MAX_CONFUSION:
        record['confusion'] = matrix.tolist()
    log.record(record)
    log.scalars('eval', {key: scores[key] for key in figures(config)}, step)
    log.line(f'step {step}  epoch {epoch:.1f}  {text}')
    return {key: value for key, value in record.items() if key != 'confusion'}


def _score(
    backend: Backend, predictor: Predictor, config: Config, validation: Dataset, group: Group
) -> tuple[dict[str, Any], np.ndarray]:
    if config.classifies:
        scores, matrix = evaluate_images(predictor, validation, config, backend.make_loader, group=group)
        return scores.to_json(), matrix
    matrix = evaluate(
        predictor,
        validation,
        batch_size=config.data.eval_batch_size,
        views=published_views(config),
        make_loader=backend.make_loader,
        workers=config.data.num_parallel_workers,
        group=group,
    ).matrix
    return Scores.from_matrix(matrix, validation.description.classes).to_json(), matrix


def _figures(scores: dict[str, Any], config: Config) -> str:
    return '  '.join(f'{key} {scores[key]:.4f}' if key == 'loss' else f'{key} {scores[key]:.2f}' for key in figures(config))


def _save(folder: Path, trainer: Trainer, meta: dict[str, Any], best: bool, keep: int, group: Group) -> None:
    """Rank 0 writes; the others wait for it. DivergedError in all of them when there is nothing good to keep.

    StateError where rank 0 cannot write: the others miss it then.
    """
    broken: list[str] = []
    if group.rank == 0:
        tensors, state = trainer.state()
        broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
        if not broken:
            said = checkpoint.RunMeta(**meta, trainer=state)
            checkpoint.save(checkpoint.step_path(folder, meta['step']), tensors, said)
            if best:
                checkpoint.save(folder / checkpoint.BEST, tensors, said)
            checkpoint.rotate(folder, keep)
    if count := int(group.sum(np.array(len(broken)))):
        names = f' ({broken[0]})' if broken else ''
        raise DivergedError(
            meta['step'], f'step {meta["step"]}: {count} tensors are not finite{names}: training has diverged; {ADVICE}'
        )


class Stop:
    """Lets SIGTERM and SIGINT end a training after the step at hand instead of at once; of a single process the second one
    ends it at once."""

    def __init__(self, group: Group):
        self.group, self.number = group, 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> 'Stop':
        if threading.current_thread() is threading.main_thread():  # signals go there
            self.before = {number: signal.signal(number, self._note) for number in STATUS}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def asked(self, count: int) -> tuple[Optional[signal.Signals], int]:
        """The signal that any process got, and the sum of their counts; the same answer on all."""
        for number in self.before:  # when it compiles, MindSpore has put a handler in place that makes SIGTERM of SIGINT
            signal.signal(number, self._note)
        numbers, counts = self.group.all_gather(np.array([self.number, count])).T
        return (signal.Signals(numbers.max()) if numbers.any() else None), int(counts.sum())

    def _note(self, number: int, _: Any) -> None:
        if self.number and self.group.size == 1:
            raise KeyboardInterrupt
        self.number = number
