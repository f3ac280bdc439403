"""What a continued training has in common with its beginning: one table of the configuration's keys, and the comparison.

Every key decides the course of a training unless EFFECT says otherwise, so that a new key is compared without being listed.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Iterator, Literal, NamedTuple, Sequence

import numpy as np

from twinseg.common import config as configuration
from twinseg.common import schedules
from twinseg.common.checkpoint import Change, RunMeta, State, TrainerState
from twinseg.common.config import Config
from twinseg.common.data.base import Dataset
from twinseg.common.errors import StateError, UserError, did_you_mean, similar

Effect = Literal['none', 'scores', 'said', 'network']
# none: where, how fast and how often, not what is computed; said: the user's choice, which a line tells; scores: what a score
# says, so that the best one so far counts no more; network: what the tensors belong to, which cannot change
EFFECT: dict[str, Effect] = {
    **dict.fromkeys(('data_url', 'num_parallel_workers', 'eval_batch_size', 'data_timeout'), 'none'),
    **dict.fromkeys(('pretrained', 'reset_classifier', 'weights_of', 'preset'), 'none'),  # the checkpoint has all weights
    **dict.fromkeys(('backend', 'device_target', 'recipe', 'work_dir', 'threads', 'graph_mode'), 'none'),
    **dict.fromkeys(('torch_compile', 'cuda_graphs'), 'none'),
    **dict.fromkeys(('log_interval', 'val_interval', 'checkpoint_interval', 'save_every', 'max_keep_ckpts'), 'none'),
    **dict.fromkeys(
        ('nan_policy', 'max_rollbacks', 'collective_timeout', 'max_hours', 'tracker', 'tensorboard_images'), 'none'
    ),
    **dict.fromkeys(('on_error', 'max_errors', 'epochs', 'max_iters', 'patience'), 'said'),
    **dict.fromkeys(('val_split', 'val_samples', 'eval_size', 'eval_scales', 'eval_flip', 'eval_average'), 'scores'),
    **dict.fromkeys(('slide_window', 'slide_stride', 'eval_resized', 'eval_center_crop', 'more_eval_sizes'), 'scores'),
    **dict.fromkeys(('crop_pct', 'square_resize'), 'scores'),
    **dict.fromkeys(('arch', 'num_classes', 'backbone', 'optimizer'), 'network'),
}
IMAGES, PROCESSES = 'images', 'processes'  # what decides the course, too, and is no key
SAME = {'sgd': 'momentum'}  # two names of one optimizer
ALLOW = '--allow-changed'


class Difference(NamedTuple):
    """A key, or IMAGES or PROCESSES, and its values."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f'{self.key}: {self.now} (was {self.before})'


@dataclass
class Comparison:
    """What differs from the beginning of a run, sorted by what follows from it."""

    course: list[Difference] = field(default_factory=list)
    network: list[Difference] = field(default_factory=list)
    said: list[Difference] = field(default_factory=list)
    scores: list[Difference] = field(default_factory=list)

    @property
    def changed(self) -> set[str]:
        return {difference.key for difference in (*self.course, *self.said, *self.scores)}

    def check(self, path: Any, allowed: Sequence[str]) -> None:
        """StateError unless all that decides the course is as it was, or ``allowed`` by name."""
        if self.network:
            raise StateError(
                f'{path}: was trained with {_list(self.network, before=True)}, the configuration says '
                f'{_list(self.network, before=False)}; a run is continued with the settings that it began with; '
                'another network starts from its weights with pretrained'
            )
        if refused := [difference for difference in self.course if difference.key not in allowed]:
            raise StateError(
                f'{path}: settings that decide the course have changed: {"; ".join(map(str, refused))}; '
                'a run is continued with the settings that it began with: leave the changes out, or allow them by name: '
                f'{ALLOW} {",".join(difference.key for difference in refused)}'
            )

    def lines(self) -> Iterator[str]:
        """What log and terminal are told."""
        if self.course:
            yield f'continues with other settings, which {ALLOW} names: {"; ".join(map(str, self.course))}'
        if self.said or self.scores:
            yield f'continues with other settings than it began with: {"; ".join(map(str, [*self.said, *self.scores]))}'
        if self.scores:
            yield 'scores mean something else than before: the best one so far counts no more'

    def history(self, step: int) -> list[Change]:
        """The changes, as the checkpoints from now on have them."""
        return [Change(step=step, **difference._asdict()) for difference in (*self.course, *self.said, *self.scores)]


def check_names(allowed: Sequence[str]) -> None:
    """UserError for a name after ``--allow-changed`` that is no key, or one that no training may change."""
    for name in allowed:
        if name not in configuration.KEYS and name not in (IMAGES, PROCESSES):
            near = similar(name, (*configuration.KEYS, IMAGES, PROCESSES), most=1)
            raise UserError(f'{ALLOW}: unknown key {name!r}{did_you_mean(near, "`twinseg list --keys` names all keys")}')
        if EFFECT.get(name) == 'network':
            raise UserError(f'{ALLOW} {name}: a checkpoint is of one network and one optimizer; another starts with pretrained')


def compare(before: RunMeta, now: RunMeta, path: Any) -> Comparison:
    """What differs between a checkpoint's run and the one that is to continue it."""
    old, new = (configuration.from_flat(meta.config, str(path), trusted=True) for meta in (before, now))
    result = Comparison()
    for key, group in configuration.KEYS.items():
        was, asked = (getattr(getattr(config, group), key) for config in (old, new))
        effect = EFFECT.get(key)
        if key == 'num_classes':  # by default the data set's
            was, asked = before.num_classes or was, now.num_classes or asked
        if key == 'loss_scale':  # 1 was the default of earlier versions; a dynamic one is in the checkpoint
            was, asked = was or 1.0, asked or 1.0
        if was == asked or effect == 'none' or key == 'optimizer' and SAME.get(was, was) == SAME.get(asked, asked):
            continue
        if key == 'batch_size' and before.world_size != now.world_size:
            if was * before.world_size == asked * now.world_size:
                continue
            was, asked = f'{was} in each of {before.world_size} processes', f'{asked} in each of {now.world_size}'
        list_of = {'network': result.network, 'said': result.said, 'scores': result.scores}
        list_of.get(effect or '', result.course).append(Difference(key, was, asked))
    result.course += [*_processes(before, now, old, new), *_images(before, now, result)]
    return result


def _processes(before: RunMeta, now: RunMeta, old: Config, new: Config) -> Iterator[Difference]:
    """Another number of processes, where it decides something: the same ``batch_size`` makes another global batch then, and
    batch norms of each process's batch see others."""
    if before.world_size == now.world_size:
        return
    was, asked = before.world_size, now.world_size
    if old.data.batch_size == new.data.batch_size:
        yield Difference(
            'batch_size', f'{old.data.batch_size} in each of {was}', f'{new.data.batch_size} in each of {asked} processes'
        )
    elif new.runtime.sync_bn is not True:
        yield Difference(PROCESSES, was, asked)


def _images(before: RunMeta, now: RunMeta, compared: Comparison) -> Iterator[Difference]:
    """Other training images, where no key says so already."""
    if before.images is None:  # a checkpoint of an earlier version
        same_epochs = not {'batch_size', 'repeat', 'drop_last', 'accumulation_step', 'train_split', 'set'} & compared.changed
        if same_epochs and before.steps_per_epoch not in (None, now.steps_per_epoch):
            yield Difference(IMAGES, f'{before.steps_per_epoch} steps an epoch', f'{now.steps_per_epoch} steps an epoch')
    elif before.images != now.images:
        yield Difference(IMAGES, before.images, now.images)
    elif before.image_names != now.image_names:
        yield Difference(IMAGES, f'{before.images} of other names', now.images)


def names_of(dataset: Dataset) -> str:
    """A sum over the names of a data set's samples, in their order: what else its number does not tell."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in dataset.samples:
        digest.update(sample.name.encode(errors='surrogateescape') + b'\n')
    return digest.hexdigest()


def adapt(
    tensors: State, trainer: TrainerState, fresh: tuple[State, TrainerState], changed: set[str]
) -> tuple[State, TrainerState]:
    """A checkpoint's state for a trainer whose settings ``changed``: what it lacks comes from ``fresh``, the trainer's own at
    its start, and averages that begin now from the weights."""
    if 'with_ema' in changed and not any(name.startswith('ema.') for name in tensors):
        tensors = {**tensors, **{f'ema.{name[6:]}': value for name, value in tensors.items() if name.startswith('model.')}}
    if 'freeze' in changed:
        tensors = {**{name: value for name, value in fresh[0].items() if name.startswith('optimizer.')}, **tensors}
    if {'loss_scale', 'is_dynamic_loss_scale', 'amp_level', 'dtype'} & changed:
        trainer = trainer.model_copy(update={'loss_scale': fresh[1].loss_scale})
    return tensors, trainer


def length_line(before: RunMeta, config: Config, rates: np.ndarray, images: int, step: int) -> list[str]:
    """What another length makes of the schedule from ``step`` on; nothing where its learning rates are what they were."""
    try:
        old = configuration.from_flat(before.config, trusted=True)
        old_rates = schedules.learning_rates(old.optimizer, old.schedule, before.steps_per_epoch or 1, images)
    except UserError:
        return []
    total = len(rates)
    if len(old_rates) == total:
        return []
    text = f'{total} steps (were {len(old_rates)})'
    if step < total:
        then = f'{old_rates[step]:.3g} before' if step < len(old_rates) else f'{old_rates[-1]:.3g} in its last one'
        text += f': learning rates follow the new length, {rates[step]:.3g} in step {step + 1} ({then})'
    return [text]


def finished_line(path: Any, step: int) -> str:
    """What a user is told who continues a training that is done."""
    return (
        f'{path}: the training is finished, all of its {step} steps are done; to train on, set a greater length, such as '
        f'--set max_iters={2 * step}: learning rates are then those of a training of that length from step {step + 1} on'
    )


def _list(differences: Sequence[Difference], before: bool) -> str:
    return ', '.join(f'{one.key}: {(one.before if before else one.now)!r}' for one in differences)
