"""The training loop, the same for both backends: order of samples, schedule, evaluation, checkpoints, logs.

A backend's ``Trainer`` does one step; everything here is framework-free. A run folder holds ``config.yaml``, ``log.txt``,
``metrics.jsonl``, ``tensorboard/`` and ``checkpoints/``.
"""
import hashlib
import json
import math
import platform
import re
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import numpy as np
from rich.console import Console
from rich.live import Live
from tensorboardX import SummaryWriter

from common import checkpoint, losses, schedules
from common import config as configuration
from common.backend import Backend, Predictor, Trainer, get_backend
from common.config import Config
from common.data.balance import balanced_order, class_counts, class_weights
from common.data.datasets import Dataset, open_dataset
from common.data.mixing import Mixing, is_active
from common.data.pipeline import TrainImages, TrainSamples
from common.data.sampling import steps_per_epoch, training_batches
from common.distributed import Group, check_agreement
from common.errors import Interrupted, StateError, UserError
from common.evaluation import evaluate, evaluate_images, figures, network_arguments, published_views
from common.metrics import Scores

MAX_CONFUSION = 100  # classes of a confusion matrix that is kept
MAX_SKIPPED = 100  # consecutive steps skipped for overflow before a run counts as diverged
STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}  # of an interrupted training; 75 (EX_TEMPFAIL): to be resumed
LOST = re.compile('connection|peer|socket|timed? ?out', re.IGNORECASE)  # in the errors of collectives
RUN_KEYS = ('arch', 'num_classes', 'backbone', 'model_args', 'batch_size', 'accumulation_step', 'optimizer',
            'seed')  # kept by a resume


def train(config: Config, backend_name: str, device: Optional[str], work_dir: Path, *, resume: bool = False,
          start_from: Optional[Path] = None) -> dict[str, Any]:
    """Trains to the end of the schedule and returns the last evaluation.

    ``resume`` continues from the newest readable checkpoint of ``work_dir``, ``start_from`` from a given one of either
    backend; both continue exactly. Without them a ``work_dir`` that already holds checkpoints is refused.
    Of several processes, as torchrun or msrun start them, each trains on its part of every global batch; rank 0 alone writes,
    and all read what they continue from.
    Raises UserError for bad input, when the processes disagree, and when the loss is no longer finite.
    """
    backend = get_backend(backend_name)
    device = backend.setup(device or config.runtime.device_target, seed=config.runtime.seed, threads=config.runtime.threads)
    group = backend.group()
    training, validation = (open_dataset(config.data, split) for split in (config.data.train_split, config.data.val_split))
    config = _counted_weights(config, training)
    network = build(backend, config, training, quiet=group.rank > 0)
    losses.check(config.loss, network.align_corners, num_classes(config, training))
    trainer = backend.make_trainer(network, config)

    images = global_batch(config, group.size)
    epoch_steps = steps_per_epoch(len(training), images)
    rates = schedules.learning_rates(config.optimizer, config.schedule, epoch_steps, images)
    folder = _open_folder(work_dir, resume or start_from is not None, group)
    found = start_from or (checkpoint.latest(folder) if resume else None)
    progress: dict[str, Any] = {'step': 0, 'best': None}
    if found:
        tensors, meta = checkpoint.load(found)
        _same_run(config, meta, found, group)
        trainer.load_state(tensors, meta['trainer'])
        progress.update(step=meta['step'], best=meta['best'] if start_from is None else None)

    check_agreement(group, {'the configuration': configuration.dump(config).encode(),
                            'the step': str(progress['step']).encode(), 'the state': _content(trainer)})
    if group.rank == 0:
        (work_dir / 'config.yaml').write_text(configuration.dump(config), encoding='utf-8')
    from common.benchmark import machine, measures  # here: it builds on this module
    facts = {'config': config.flat(), 'backend': backend_name, 'device': device, 'versions': versions(),
             'machine': {**machine(), **measures(backend_name).accelerator()},
             'num_classes': num_classes(config, training), 'classes': list(training.description.classes),
             'palette': training.description.palette.tolist(), 'steps_per_epoch': epoch_steps, 'world_size': group.size}
    with (Silence() if group.rank else Log(work_dir, progress['step'], resumed=bool(found))) as log:
        if not found and config.schedule.start_epoch:
            progress['step'] = _first_step(config, epoch_steps, len(rates))
            log.line(f'start_epoch: {config.schedule.start_epoch}: starts at step {progress["step"]}')
        log.line(f'{config.model.arch} on {backend_name} ({device}): {len(training)} training and {len(validation)} validation '
                 f'images of {training.name}, {epoch_steps} steps an epoch, {len(rates)} steps')
        if group.size > 1:
            log.line(f'{group.size} processes with batches of {config.data.batch_size}')
        if config.optimizer.lr_batch_size not in (0, images):
            log.line(f'a global batch of {images}: learning rates, made for {config.optimizer.lr_batch_size}, are multiplied '
                     f'by {images / config.optimizer.lr_batch_size:.4g}')
        if found:
            log.line(f'continues from {found} at step {progress["step"]}')
        elif resume:
            log.line('no checkpoint to continue from: starts at step 0')
        with Stop(group) as stop, _losing_no_process(group):
            return _loop(config, backend, trainer, training, validation, rates, epoch_steps, folder, progress, facts, log,
                         group, stop)


def _loop(config: Config, backend: Backend, trainer: Trainer, training: Dataset, validation: Dataset, rates: np.ndarray,
          epoch_steps: int, folder: Path, progress: dict, facts: dict, log: 'Log', group: Group,
          stop: 'Stop') -> dict[str, Any]:
    runtime, data, accumulation = config.runtime, config.data, config.optimizer.accumulation_step
    if config.classifies:
        samples: TrainSamples = TrainImages(training, config.augment, data.image_size, runtime.seed, data.on_error,
                                            data.max_errors)
    else:
        samples = TrainSamples(training, config.augment, runtime.seed, data.on_error, data.max_errors)
    mixing = None
    if is_active(config.augment):
        mixing = Mixing(config.augment, num_classes(config, training), config.loss.label_smoothing, runtime.seed,
                        group.rank, group.size)
    keys = training_batches(len(training), data.batch_size, runtime.seed,
                            start=progress['step'] * accumulation, stop=len(rates) * accumulation,
                            rank=group.rank, world_size=group.size, order=_order(config, training))
    batches = iter(backend.make_loader(samples, keys, data.num_parallel_workers))
    clock = Clock(data.batch_size * accumulation * group.size, len(rates))
    key = figures(config)[0]  # the score that decides which checkpoint is the best
    skipped, scores = 0, {}
    for step in range(progress['step'], len(rates)):
        with clock.waiting():
            batch = [next(batches) for _ in range(accumulation)]
            if mixing:
                batch = [mixing(images, labels, step * accumulation + part, step / epoch_steps)
                         for part, (images, labels) in enumerate(batch)]
        values = trainer.step(batch, float(rates[step]))
        clock.tick()
        done = step + 1
        stopped, broken = stop.asked(), int(group.sum(np.array(len(samples.broken))))
        skipped = skipped + 1 if values['overflow'] else 0
        _check_finite(values, done, skipped, config)
        record: dict[str, Any] = {'kind': 'train', 'step': done, 'epoch': round(done / epoch_steps, 4),
                                  'lr': float(rates[step]), **values, **clock.figures(done), 'broken': broken}
        log.step(record, keep=done % runtime.log_interval == 0 or done == len(rates), last=len(rates))

        if _due(done, runtime.val_interval or epoch_steps, len(rates)):
            scores = _evaluate(backend, trainer, config, validation, done, record['epoch'], log, group)
            clock.restart()
        best = bool(scores) and scores['step'] == done and (progress['best'] is None or scores[key] > progress['best'])
        if best:
            progress['best'] = scores[key]
        if best or stopped or _due(done, runtime.checkpoint_interval or runtime.save_every * epoch_steps, len(rates)):
            if group.rank == 0:
                _save(folder, trainer, done, epoch_steps, progress['best'], best, scores, facts, runtime.max_keep_ckpts)
            clock.restart()
        if stopped and done < len(rates):
            group.sum(np.array(0))  # the launcher kills the others when the first one ends: not before rank 0 has saved
            log.line(f'stopped by {stopped.name} after step {done}')
            raise Interrupted(f'stopped by {stopped.name} after step {done}, which is saved: continue with --resume',
                              STATUS[stopped])
    return scores


def build(backend: Backend, config: Config, dataset: Dataset, quiet: bool = False) -> Any:
    """The network of a configuration for a data set, initialised from the seed or from ``pretrained``; says what it read."""
    from common import weights
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
    if not may_exist and folder.is_dir() and any(folder.glob('*.safetensors')):
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


def _same_run(config: Config, meta: dict, path: Path, group: Group) -> None:
    """A resume continues the same run: what decides its course must not have changed; the number of processes may, as long
    as the global batch stays what it was."""
    before, now = configuration.from_flat(meta['config'], str(path)), config
    for key in RUN_KEYS:
        settings = configuration.KEYS[key]
        was, asked = (getattr(getattr(c, settings), key) for c in (before, now))
        if key == 'batch_size' and (processes := meta.get('world_size', 1)) != group.size:
            if was * processes == asked * group.size:
                continue
            was, asked = f'{was} in each of {processes} processes', f'{asked} in each of {group.size}'
        if was != asked:
            raise StateError(f'{path}: was trained with {key}: {was!r}, the configuration says {asked!r}; '
                             'a run is continued with the settings that it began with')


def _check_finite(values: dict[str, float], step: int, skipped: int, config: Config) -> None:
    scaled = config.precision.amp_level != 'O0'
    if (not math.isfinite(values['loss']) or values['overflow']) and (not scaled or skipped >= MAX_SKIPPED):
        raise UserError(f'step {step}: the loss is {values["loss"]} and the gradient norm {values["grad_norm"]}: training has '
                        f'diverged{f" ({skipped} steps skipped in a row)" if scaled else ""}; lower base_lr, use a warm-up or '
                        'clip_global_norm, and continue from the last checkpoint')


def _due(step: int, interval: int, last: int) -> bool:
    return step % interval == 0 or step == last


def _first_step(config: Config, epoch_steps: int, total: int) -> int:
    step = config.schedule.start_epoch * epoch_steps
    if step >= total:
        raise UserError(f'start_epoch: {config.schedule.start_epoch} epochs of {epoch_steps} steps leave none of the {total}')
    return step


def _evaluate(backend: Backend, trainer: Trainer, config: Config, validation: Dataset, step: int, epoch: float,
              log: 'Log', group: Group) -> dict[str, Any]:
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


def _score(backend: Backend, predictor: Predictor, config: Config, validation: Dataset,
           group: Group) -> tuple[dict[str, Any], np.ndarray]:
    if config.classifies:
        scores, matrix = evaluate_images(predictor, validation, config, backend.make_loader, group=group)
        return scores.to_json(), matrix
    matrix = evaluate(predictor, validation, batch_size=config.data.eval_batch_size, views=published_views(config),
                      group=group).matrix
    return Scores.from_matrix(matrix, validation.description.classes).to_json(), matrix


def _figures(scores: dict[str, Any], config: Config) -> str:
    return '  '.join(f'{key} {scores[key]:.4f}' if key == 'loss' else f'{key} {scores[key]:.2f}' for key in figures(config))


def _save(folder: Path, trainer: Trainer, step: int, epoch_steps: int, best_score: Optional[float], best: bool, scores: dict,
          facts: dict, keep: int) -> None:
    tensors, meta = trainer.state()
    meta = {**facts, 'step': step, 'epoch': step / epoch_steps, 'trainer': meta, 'best': best_score, 'scores': scores}
    checkpoint.save(checkpoint.step_path(folder, step), tensors, meta)
    if best:
        checkpoint.save(folder / checkpoint.BEST, tensors, meta)
    checkpoint.rotate(folder, keep)


@contextmanager
def _losing_no_process(group: Group) -> Iterator[None]:
    """UserError where a collective fails because another process is gone, or hangs."""
    try:
        yield
    except RuntimeError as error:
        if group.size == 1 or not LOST.search(str(error)):
            raise
        raise UserError(f'rank {group.rank} lost the other processes ({str(error).splitlines()[0]}): one of them has ended, or '
                        'hangs; its own log says why; continue with --resume') from error


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

    def asked(self) -> Optional[signal.Signals]:
        """The signal that any process got; the same answer on all."""
        number = int(self.group.all_gather(np.array(self.number)).max())
        return signal.Signals(number) if number else None

    def _note(self, number: int, _: Any) -> None:
        if self.number and self.group.size == 1:
            raise KeyboardInterrupt
        self.number = number


class Clock:
    """Images a second, time left and the share of time spent waiting for data, over the last steps."""

    def __init__(self, images: int, last: int):
        self.images, self.last = images, last
        self.spans: deque[tuple[float, float]] = deque(maxlen=50)  # (seconds of the step, of which waiting)
        self.restart()

    def restart(self) -> None:
        """Leaves out the time since the last step (evaluation, a checkpoint)."""
        self.mark, self.waited = time.perf_counter(), 0.0

    def waiting(self) -> '_Waiting':
        """A context whose duration counts as waiting for data."""
        return _Waiting(self)

    def tick(self) -> None:
        """Ends a step."""
        now = time.perf_counter()
        self.spans.append((now - self.mark, self.waited))
        self.mark, self.waited = now, 0.0

    def figures(self, done: int) -> dict[str, float]:
        seconds, waited = (sum(column) for column in zip(*self.spans))
        per_step = seconds / len(self.spans)
        return {'img_per_s': round(self.images / per_step, 2), 'seconds_left': round(per_step * (self.last - done)),
                'data_share': round(waited / seconds, 4)}


class _Waiting:
    def __init__(self, clock: Clock):
        self.clock = clock

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self.clock.waited += time.perf_counter() - self.began


class Log:
    """``log.txt``, ``metrics.jsonl``, TensorBoard events and the progress line of a run."""

    def __init__(self, work_dir: Path, step: int, resumed: bool):
        self.console = Console()
        path = work_dir / 'metrics.jsonl'
        kept = [line for line in _lines(path) if line['step'] <= step] if resumed else []
        path.write_text(''.join(json.dumps(line) + '\n' for line in kept), encoding='utf-8')
        self.overflows = max((line.get('overflows', 0) for line in kept), default=0)
        self.metrics = path.open('a', encoding='utf-8')
        self.text = (work_dir / 'log.txt').open('a', encoding='utf-8')
        self.events = SummaryWriter(str(work_dir / 'tensorboard'), purge_step=step + 1 if resumed else None)
        self.live = Live(console=self.console, transient=True, refresh_per_second=4) if self.console.is_terminal else None

    def __enter__(self) -> 'Log':
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live:
            self.live.stop()
        self.metrics.close()
        self.text.close()
        self.events.close()

    def line(self, text: str) -> None:
        """A line for people: on the terminal and in log.txt."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.text.write(time.strftime('%Y-%m-%d %H:%M:%S  ') + text + '\n')
        self.text.flush()

    def record(self, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl; figures that are not finite are written as null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self.metrics.write(json.dumps(clean) + '\n')
        self.metrics.flush()

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """TensorBoard scalars."""
        for name, value in values.items():
            self.events.add_scalar(f'{group}/{name}', value, step)

    def step(self, values: dict[str, Any], keep: bool, last: int) -> None:
        """Shows a step, and keeps it in the files when ``keep``."""
        self.overflows += int(values.pop('overflow'))
        values['overflows'] = self.overflows
        left = time.strftime('%H:%M:%S', time.gmtime(values['seconds_left']))
        text = (f'step {values["step"]}/{last}  epoch {values["epoch"]:.2f}  loss {values["loss"]:.4f}  lr {values["lr"]:.2e}  '
                f'scale {values["loss_scale"]:g}  skipped {self.overflows}  {values["img_per_s"]:.1f} img/s  '
                f'left {left}  data {values["data_share"]:.0%}')
        if values['broken']:
            text += f'  broken samples {values["broken"]}'
        if self.live:
            self.live.update(text)
        if keep:
            self.record(values)
            self.scalars('train', {k: v for k, v in values.items() if isinstance(v, float) and k != 'epoch'}, values['step'])
            if self.live:
                self.text.write(time.strftime('%Y-%m-%d %H:%M:%S  ') + text + '\n')
            else:
                self.line(text)


class Silence(Log):
    """The log of a process that keeps none."""

    def __init__(self) -> None:
        self.overflows, self.live = 0, None

    def __exit__(self, *_: Any) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def record(self, values: dict[str, Any]) -> None:
        pass

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        pass


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a metrics file; one cut off by a kill is left out."""
    if path.is_file():
        for line in path.read_text(encoding='utf-8').splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
