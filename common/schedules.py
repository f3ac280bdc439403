"""Learning-rate curves as numpy arrays, so that both optimizers read the same numbers.

Warm-up first, then the decay over the steps that are left, as in mmsegmentation's pair of ``LinearLR(begin=0, end=w)`` and
``PolyLR(begin=w, end=total)``.
"""
import numpy as np

from common.config import Optimizer, Schedule
from common.errors import UserError


def total_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    if schedule.max_iters is not None:
        return schedule.max_iters
    if schedule.epochs is not None:
        return schedule.epochs * steps_per_epoch
    raise UserError('the length of the training is not set: give epochs or max_iters')


def learning_rates(optimizer: Optimizer, schedule: Schedule, steps_per_epoch: int) -> np.ndarray:
    """The learning rate of every step, float64 (total steps,). ``steps_per_epoch`` counts optimizer steps.

    - warm-up ``linear`` (mmengine LinearLR): from ``warmup_lr`` at step 0 to ``base_lr`` at the last warm-up step;
    - warm-up ``exponential`` (STDC-Seg, optimizer_loss.py): ``warmup_lr * (base_lr / warmup_lr) ** (step / warm-up steps)``;
    - ``poly_lr`` (mmengine PolyLR, eta_min = ``min_lr``) and ``cosine_lr``: from ``base_lr`` at the first step after the
      warm-up, towards ``min_lr`` which the step after the last one would have.
    """
    total = total_steps(schedule, steps_per_epoch)
    warmup = schedule.warmup_iters or round(schedule.warmup_length * steps_per_epoch)
    if warmup > total:
        raise UserError(f'the warm-up of {warmup} steps is longer than the training of {total} steps: '
                        'lower warmup_iters or warmup_length, or train longer')
    step = np.arange(warmup, dtype=np.float64)
    if schedule.warmup == 'linear':
        first = schedule.warmup_lr + (optimizer.base_lr - schedule.warmup_lr) * step / max(warmup - 1, 1)
    elif warmup and schedule.warmup_lr == 0:
        raise UserError('warmup: exponential starts above zero: set warmup_lr, for example to 1e-5')
    else:
        first = schedule.warmup_lr * (optimizer.base_lr / (schedule.warmup_lr or 1.0)) ** (step / max(warmup, 1))

    left = 1 - np.arange(total - warmup, dtype=np.float64) / max(total - warmup, 1)  # share of the decay still to come
    factor = {'poly_lr': left ** schedule.power,
              'cosine_lr': 0.5 * (1 + np.cos(np.pi * (1 - left))),
              'constant_lr': np.ones_like(left)}[schedule.lr_scheduler]
    return np.concatenate([first, schedule.min_lr + (optimizer.base_lr - schedule.min_lr) * factor])


def average_decay(limit: float, step: int) -> float:
    """Decay of the moving average of the weights in a step, counted from 1: ``limit``, less in the first steps, so that the
    initial weights are soon forgotten (TensorFlow's ExponentialMovingAverage with num_updates, timm's use_warmup)."""
    return min(limit, (1 + step) / (10 + step))
