"""Learning-rate curves, and what follows from them, as numpy arrays, so that both backends read the same numbers.

Warm-up first, then the decay over the steps that are left, as in mmsegmentation's pair of ``LinearLR(begin=0, end=w)`` and
``PolyLR(begin=w, end=total)`` and in the model zoo's ``cosine_lr``.
"""

import numpy as np

from twinseg.common.config import Optimizer, Schedule
from twinseg.common.errors import UserError
from twinseg.common.settings.groups.loss import DETAIL_KERNEL

DETAIL_LIMIT = 0.1  # weighted sum in STDC's detail target above which a pixel is a boundary, both in float32


def total_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    if schedule.max_iters is not None:
        return schedule.max_iters
    if schedule.epochs is not None:
        return schedule.epochs * steps_per_epoch
    raise UserError('the length of the training is not set: give epochs or max_iters')


def learning_rates(optimizer: Optimizer, schedule: Schedule, steps_per_epoch: int, global_batch: int) -> np.ndarray:
    """The learning rate of every step, float64 (total steps,). ``steps_per_epoch`` counts optimizer steps; ``global_batch`` is
    the number of images of one step, over all devices and accumulated batches.

    - warm-up ``linear``: from ``warmup_lr`` at step 0 to ``base_lr``, at the last step of ``warmup_iters`` (mmengine LinearLR)
      or at the first step after ``warmup_length`` epochs (timm, the MindSpore model zoo);
    - warm-up ``exponential`` (STDC-Seg, optimizer_loss.py): ``warmup_lr * (base_lr / warmup_lr) ** (step / warm-up steps)``;
    - ``poly_lr`` and ``cosine_lr``: from ``base_lr`` at the first step after the warm-up, towards ``min_lr``, which the step
      after the last one would have, or with ``reach_min_lr`` the last one has (mmengine PolyLR, eta_min = ``min_lr``);
    - ``multistep_lr`` and ``exp_lr`` (the model zoo): ``base_lr * lr_gamma ** (epoch // lr_adjust)`` and
      ``base_lr * lr_gamma ** epoch``, but not below ``min_lr``; epoch = step / steps per epoch, warm-up included.

    With ``lr_batch_size`` all of them are multiplied by ``global_batch / lr_batch_size`` (Goyal et al. 2017, section 2.1).
    """
    total = total_steps(schedule, steps_per_epoch)
    base, warmup = optimizer.base_lr, schedule.warmup_iters or schedule.warmup_length * steps_per_epoch
    if warmup > total:
        raise UserError(
            f'the warm-up of {warmup:g} steps is longer than the training of {total} steps: '
            'lower warmup_iters or warmup_length, or train longer'
        )
    step = np.arange(total, dtype=np.float64)
    rising, step = step[step < warmup], step[step >= warmup]
    if schedule.warmup == 'linear':
        length = max(warmup - 1, 1) if schedule.warmup_iters else warmup
        first = schedule.warmup_lr + (base - schedule.warmup_lr) * rising / length
    elif warmup and schedule.warmup_lr == 0:
        raise UserError('warmup: exponential starts above zero: set warmup_lr, for example to 1e-5')
    else:
        first = schedule.warmup_lr * (base / (schedule.warmup_lr or 1.0)) ** (rising / warmup)

    if schedule.lr_scheduler in ('multistep_lr', 'exp_lr'):
        multistep = schedule.lr_scheduler == 'multistep_lr'
        exponent = step // (schedule.lr_adjust * steps_per_epoch) if multistep else step / steps_per_epoch
        rest = np.maximum(base * schedule.lr_gamma**exponent, schedule.min_lr)
    else:
        left = 1 - (step - warmup) / max(total - warmup - schedule.reach_min_lr, 1)  # share of the decay still to come
        factor = {
            'poly_lr': left**schedule.power,
            'cosine_lr': 0.5 * (1 + np.cos(np.pi * (1 - left))),
            'constant_lr': np.ones_like(left),
        }[schedule.lr_scheduler]
        rest = schedule.min_lr + (base - schedule.min_lr) * factor
    rates = np.concatenate([first, rest])
    return rates * (global_batch / optimizer.lr_batch_size) if optimizer.lr_batch_size else rates


def detail_kernels(optimizer: Optimizer, rates: np.ndarray) -> np.ndarray:
    """DETAIL_KERNEL as it decays in a training with learning ``rates`` (steps,): float32 (steps, 3), from the whole kernel on.

    In STDC-Seg it is a parameter whose gradient is zero: weight decay alone changes it, through SGD with momentum, at the plain
    learning rate (optimizer_loss.py, the last group). Computed in float32 as the optimizer does.
    """
    kernel, velocity = np.array(DETAIL_KERNEL, np.float32), np.zeros(3, np.float32)
    momentum, decay = np.float32(optimizer.momentum), np.float32(optimizer.weight_decay)
    kernels = np.empty((len(rates), 3), np.float32)
    for step, rate in enumerate(rates.astype(np.float32)):
        kernels[step] = kernel
        gradient = decay * kernel
        velocity = momentum * velocity + gradient
        kernel = kernel - rate * (gradient + momentum * velocity if optimizer.use_nesterov else velocity)
    return kernels


def detail_strides(kernels: np.ndarray) -> tuple[int, int]:
    """Number of steps in which a boundary at stride 2 alone counts, and one at strides 2 and 4 together, for the ``kernels``
    (steps, 3) of a training: they are the first ones, for a kernel shrinks."""
    limit = np.float32(DETAIL_LIMIT)
    return int((kernels[:, 1] > limit).sum()), int((kernels[:, 1] + kernels[:, 2] > limit).sum())


def average_decay(limit: float, step: int) -> float:
    """Decay of the moving average of the weights in ``step``, counted from 1: ``limit``, but less in the first steps, so that
    the average soon forgets the initial weights (TensorFlow's ExponentialMovingAverage with num_updates, timm's use_warmup)."""
    return min(limit, (1 + step) / (10 + step))
