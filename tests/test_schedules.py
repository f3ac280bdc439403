"""Learning-rate curves against the recursions that mmengine steps through, and against hand-computed values."""

import numpy as np
import pytest

from twinseg.common.config import Optimizer, Schedule
from twinseg.common.errors import UserError
from twinseg.common.schedules import detail_kernels, detail_strides, learning_rates, total_steps

RELATIVE = 1e-9  # the recursions add up rounding over 80 000 steps


def curve(base_lr: float, steps_per_epoch: int = 10, **schedule) -> np.ndarray:
    return learning_rates(Optimizer(base_lr=base_lr), Schedule(**schedule), steps_per_epoch, global_batch=8)


def mmengine(base_lr: float, total: int, power: float, eta_min: float, warmup: int, start_factor: float = 0.1) -> np.ndarray:
    """LinearLR(begin=0, end=warmup) and PolyLR(begin=warmup, end=total) of mmengine, step by step as it computes them."""
    rates, lr = [], base_lr
    for step in range(total):
        if step < warmup:
            if step == 0:
                lr = base_lr * start_factor
            else:
                change = 1 - start_factor
                lr *= 1 + change / ((warmup - 1) * start_factor + (step - 1) * change)
        elif step > warmup:
            lr = (lr - eta_min) * (1 - 1 / (total - warmup - 1 - (step - warmup) + 1)) ** power + eta_min
        rates.append(lr)
    return np.array(rates)


@pytest.mark.parametrize(
    'base_lr, total, power, eta_min, warmup',
    [
        (0.01, 80000, 0.9, 1e-4, 1000),  # STDC
        (0.12, 160000, 0.9, 1e-4, 0),  # Fast-SCNN
        (0.01, 50, 1.0, 0.0, 7),
        (0.01, 50, 2.0, 1e-3, 2),
    ],
)
def test_poly_is_mmengines(base_lr, total, power, eta_min, warmup):
    poly = dict(max_iters=total, power=power, min_lr=eta_min, reach_min_lr=True)
    ours = curve(base_lr, **poly, warmup_iters=warmup, warmup_lr=0.1 * base_lr)
    np.testing.assert_allclose(ours, mmengine(base_lr, total, power, eta_min, warmup), rtol=RELATIVE)


def test_the_detail_kernel_decays_as_in_stdc_seg():
    """The last steps, counted from 0, in which strides 2 alone and 2 with 4 count are those of the authors' optimizer_loss.py,
    run with a kernel whose gradient is zero: 28 838 and 41 351 of 60 000, where it ends at 0.126, 0.063, 0.021."""
    optimizer = Optimizer(base_lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = Schedule(max_iters=60000, power=0.9, warmup_iters=1000, warmup_lr=1e-5, warmup='exponential')
    kernels = detail_kernels(optimizer, learning_rates(optimizer, schedule, 62, 48))
    assert detail_strides(kernels) == (28839, 41352)
    assert not (kernels[:, 2] > np.float32(0.1)).any() and (kernels[:, 0] > np.float32(0.1)).all()
    np.testing.assert_allclose(kernels[1000], [0.595690906, 0.297845453, 0.0992818177], rtol=1e-6)
    np.testing.assert_allclose(kernels[-1], [0.12603562, 0.06301781, 0.02100595], rtol=1e-6)


@pytest.mark.parametrize('nesterov', [False, True])
def test_the_detail_kernel_decays_as_a_parameter_of_sgd(nesterov):
    torch = pytest.importorskip('torch')
    rates = np.linspace(0.1, 0.5, 20)
    kernel = torch.nn.Parameter(torch.tensor([0.6, 0.3, 0.1]))
    sgd, expected = torch.optim.SGD([kernel], lr=0.0, momentum=0.9, weight_decay=0.01, nesterov=nesterov), []
    for rate in rates:
        expected.append(kernel.detach().numpy().copy())
        kernel.grad, sgd.param_groups[0]['lr'] = torch.zeros(3), rate
        sgd.step()
    settings = Optimizer(momentum=0.9, weight_decay=0.01, use_nesterov=nesterov)
    np.testing.assert_allclose(detail_kernels(settings, rates), expected, rtol=1e-6)


def test_exponential_warmup_is_the_official_stdc_one():
    start, base, warmup, total, power = 1e-5, 0.01, 1000, 60000, 0.9
    ours = curve(base, max_iters=total, power=power, warmup_iters=warmup, warmup_lr=start, warmup='exponential')
    official = [
        start * (base / start) ** (step / warmup)
        if step <= warmup
        else base * (1 - (step - warmup) / (total - warmup)) ** power
        for step in range(total)
    ]
    np.testing.assert_allclose(ours, official, rtol=RELATIVE)


@pytest.mark.parametrize(
    'schedule, expected',
    [
        (dict(max_iters=4, power=1.0), [1.0, 0.75, 0.5, 0.25]),
        (dict(max_iters=4, power=1.0, min_lr=0.2), [1.0, 0.8, 0.6, 0.4]),
        (dict(max_iters=4, power=1.0, min_lr=0.1, reach_min_lr=True), [1.0, 0.7, 0.4, 0.1]),
        (dict(max_iters=3, lr_scheduler='cosine_lr', reach_min_lr=True), [1.0, 0.5, 0.0]),
        (dict(max_iters=4, power=2.0), [1.0, 0.5625, 0.25, 0.0625]),
        (dict(max_iters=4, lr_scheduler='cosine_lr'), [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        (dict(max_iters=3, lr_scheduler='constant_lr'), [1.0, 1.0, 1.0]),
        (dict(max_iters=5, lr_scheduler='constant_lr', warmup_iters=3, warmup_lr=0.2), [0.2, 0.6, 1.0, 1.0, 1.0]),
        (dict(max_iters=3, lr_scheduler='constant_lr', warmup_iters=1, warmup_lr=0.5), [0.5, 1.0, 1.0]),
        (dict(epochs=2, lr_scheduler='constant_lr', warmup_length=1.0), [0, 1 / 3, 2 / 3, 1, 1, 1]),
        (dict(epochs=2, lr_scheduler='constant_lr', warmup_length=0.5), [0, 2 / 3, 1, 1, 1, 1]),
        (dict(max_iters=2, warmup_iters=2), [0.0, 1.0]),
        (dict(epochs=4, lr_scheduler='multistep_lr', lr_adjust=2, lr_gamma=0.1), [1.0] * 6 + [0.1] * 6),
        (
            dict(epochs=3, lr_scheduler='multistep_lr', lr_adjust=1, lr_gamma=0.1, min_lr=0.05),
            [1.0] * 3 + [0.1] * 3 + [0.05] * 3,
        ),
        (
            dict(epochs=2, lr_scheduler='multistep_lr', lr_adjust=1, lr_gamma=0.5, warmup_length=1.0),
            [0, 1 / 3, 2 / 3, 0.5, 0.5, 0.5],
        ),
        (dict(epochs=2, lr_scheduler='exp_lr', lr_gamma=0.125), [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        (
            dict(epochs=2, lr_scheduler='exp_lr', lr_gamma=0.125, warmup_length=1.0, min_lr=0.1),
            [0, 1 / 3, 2 / 3, 0.125, 0.1, 0.1],
        ),
    ],
)
def test_values_computed_by_hand(schedule, expected):
    np.testing.assert_allclose(curve(1.0, steps_per_epoch=3, **schedule), expected, rtol=1e-12)


@pytest.mark.parametrize('epochs, steps_per_epoch, warmup_length', [(300, 20, 20), (7, 13, 1.5), (5, 4, 0)])
def test_cosine_is_the_model_zoos(epochs, steps_per_epoch, warmup_length):
    base, start, end, expected = 0.1, 1e-6, 1e-5, []
    for epoch in (e + b / steps_per_epoch for e in range(epochs) for b in range(steps_per_epoch)):
        if epoch < warmup_length:
            expected.append(start + (base - start) * epoch / warmup_length)
        else:
            done = (epoch - warmup_length) / (epochs - warmup_length)
            expected.append(end + (base - end) * (1 + np.cos(np.pi * done)) / 2)
    ours = curve(
        base,
        steps_per_epoch,
        epochs=epochs,
        lr_scheduler='cosine_lr',
        warmup_length=float(warmup_length),
        warmup_lr=start,
        min_lr=end,
    )
    np.testing.assert_allclose(ours, expected, rtol=RELATIVE)


@pytest.mark.parametrize('devices, batch_size, peak', [(8, 256, 0.8), (8, 128, 0.4), (1, 256, 0.1), (1, 32, 0.0125)])
def test_rates_grow_with_the_global_batch(devices, batch_size, peak):
    schedule = Schedule(epochs=4, lr_scheduler='cosine_lr', warmup_length=2.0, warmup_lr=1e-3, min_lr=1e-4)
    given, scaled = (
        learning_rates(Optimizer(base_lr=0.1, lr_batch_size=size), schedule, 5, devices * batch_size) for size in (0, 256)
    )
    assert scaled.max() == scaled[10] == pytest.approx(peak)
    np.testing.assert_allclose(scaled, given * peak / 0.1, rtol=1e-12)  # the first and the last rate likewise


def test_length_counts_epochs_or_steps():
    assert total_steps(Schedule(epochs=3), 7) == 21
    assert total_steps(Schedule(max_iters=5), 7) == 5


@pytest.mark.parametrize(
    'schedule, message',
    [
        (dict(), 'epochs or max_iters'),
        (dict(max_iters=5, warmup_iters=6), 'warm-up of 6 steps is longer'),
        (dict(max_iters=5, warmup_iters=2, warmup='exponential'), 'warmup_lr'),
    ],
)
def test_what_cannot_be_is_refused(schedule, message):
    with pytest.raises(UserError, match=message):
        curve(0.1, **schedule)
