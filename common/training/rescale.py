"""A recipe on other devices than its publisher's: what becomes of the global batch, the learning rate and the steps."""

from typing import Any, Optional

from twinseg.common.config import Config, Optimizer, Schedule
from twinseg.common.errors import UserError
from twinseg.common.training.setup import global_batch

STEPS = ('max_iters', 'warmup_iters', 'val_interval', 'checkpoint_interval')  # keys that count steps


def schedules_for(config: Config, devices: int, batch_size: Optional[int] = None) -> list[dict[str, Any]]:
    """Schedules of a recipe on ``devices`` with ``batch_size`` images each (by default the recipe's, or an equal share of the
    publisher's batch where that is smaller). The first row is what was published:

    - ``published``: the global batch that its learning rate is given for (``lr_batch_size``);
    - ``accumulated``, where whole batches add up to it: the same batch, learning rate and steps; only norms see fewer images
      (``as published`` where one batch is enough);
    - ``scaled``: one batch a step, the learning rate multiplied by the share of the published batch (Goyal et al. 2017,
      section 2.1) and the steps divided by it, so that the network sees as many images.

    OHEM that keeps a number of pixels of the batch keeps the same share of a smaller global batch. Each row has ``settings``,
    the changed keys. UserError where the recipe does not say which global batch it was published for.
    """
    published = config.optimizer.lr_batch_size
    if not published:
        raise UserError('lr_batch_size: not set: the configuration does not say which global batch its learning rate is for')
    if config.runtime.launcher == 'dp':
        devices = 1  # DataParallel: the devices share the batch
    batch_size = batch_size or min(config.data.batch_size, max(published // devices, 1))
    rows = [_row('published', config, published, f'{published // config.data.batch_size} x {config.data.batch_size}', {})]
    here = f'{devices} x {batch_size}'
    count, rest = divmod(published, batch_size * devices)
    share = batch_size * devices / published
    if count and not rest:
        settings = _changes(config, {'batch_size': batch_size, 'accumulation_step': count})
        rows.append(_row('accumulated' if count > 1 else 'as published', config, published, here, settings))
    if rest or count != 1:
        settings = _changes(config, {'batch_size': batch_size, 'accumulation_step': 1}, share)
        chosen = config.replace(**settings)
        factor = published / global_batch(chosen, devices)
        for key in STEPS:
            group: Schedule | Any = config.runtime if key.endswith('interval') else config.schedule
            if (value := getattr(group, key)) and (key.endswith('iters') or config.schedule.max_iters):
                settings[key] = max(round(value * factor), 1)
        rows.append(_row('scaled', config.replace(**settings), global_batch(chosen, devices), here, settings))
    return rows


def command(row: dict[str, Any], name: str) -> str:
    """The training command of a row."""
    changed = ' '.join(f'{key}={value}' for key, value in row['settings'].items())
    return f'twinseg train {name}' + (f' --set {changed}' if changed else '')


def _row(kind: str, config: Config, images: int, devices: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: ``images`` in the global batch, ``devices`` as text."""
    optimizer: Optimizer = config.optimizer
    schedule = config.schedule
    factor = images / optimizer.lr_batch_size
    length = f'{schedule.max_iters} steps' if schedule.max_iters else f'{schedule.epochs} epochs'
    return {
        'way': kind,
        'devices x images': devices,
        'accumulated': settings.get('accumulation_step', 1),
        'global batch': images,
        'base_lr': optimizer.base_lr * factor,
        'length': length,
        'warm-up': _warmup(schedule),
        'images seen': schedule.max_iters * images if schedule.max_iters else None,
        'settings': settings,
    }


def _warmup(schedule: Schedule) -> str:
    return f'{schedule.warmup_iters} steps' if schedule.warmup_iters else f'{schedule.warmup_length:g} epochs'


def _changes(config: Config, keys: dict[str, int], share: float = 1.0) -> dict[str, Any]:
    """The ``keys`` that change the configuration, and OHEM's number of pixels for a ``share`` of the published batch."""
    flat = {'batch_size': config.data.batch_size, 'accumulation_step': config.optimizer.accumulation_step}
    changed = {key: value for key, value in keys.items() if flat[key] != value}
    names = {name for terms in config.loss.by_output.values() for name in terms}
    if {'ohem', 'stdc_ohem'} & names and share != 1:
        changed['ohem_min_kept'] = round(config.loss.ohem_min_kept * share)
    return changed
