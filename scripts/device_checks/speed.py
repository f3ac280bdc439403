"""Checks of speed: waits of a step for the device, its time and memory, its kernels, and the losses alone."""

import time
import warnings
from pathlib import Path
from typing import Any, Callable

import torch

from scripts.device_checks.report import RECIPES, Bench, recipe
from twinseg.common.config import Config, Loss

SIZE, BATCH = (512, 1024), 12
WHOLE = 'images of 512x1024'
# Kept for backward by 12 images of 512x1024, in GB: counted without a device, by the tensors that autograd saves.
KEPT = {
    ('fast_scnn', 'O0'): 5.1,
    ('fast_scnn', 'O2'): 3.4,
    ('stdc1_seg', 'O0'): 8.4,
    ('stdc1_seg', 'O2'): 5.1,
    ('enet', 'O0'): 10.7,
    ('enet', 'O2'): 5.7,
}
MEMORY = 1.5  # times what backward needs: gradients, workspace, and the pieces between
BUSY = 0.8  # of a step, in which a device that is fed has something to do
LOSS = 4.0  # ms, forward and backward of 12 images on an H200 (docs/first_light.md)


def waits(bench: Bench) -> None:
    """Places at which a second training step waits for the device."""
    if bench.lacks('waits', 'host waits', hasattr(bench.accelerator, 'set_sync_debug_mode')):
        return
    for name in ('fast_scnn', 'stdc1_seg', 'ddrnet23_slim_seg', 'enet'):
        if bench.late('waits', name):
            return
        _, run = bench.step(recipe(name), 2, (128, 256))
        run()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            bench.accelerator.set_sync_debug_mode('warn')
            try:
                run()
            finally:
                bench.accelerator.set_sync_debug_mode('default')
        lines = [f'{Path(item.filename).name}:{item.lineno}' for item in caught if 'synchroniz' in str(item.message)]
        bench.report.details.setdefault('waits', {})[name] = {line: lines.count(line) for line in dict.fromkeys(lines)}
        bench.report.row('waits', f'{name}: second step', f'{len(lines)} waits', '0', not lines, 'slow')


def steps(bench: Bench) -> None:
    """Seconds and memory of training steps; those that are compiled, which takes a minute each, come last."""
    size, batches = ((64, 128), (2,)) if bench.quick else (SIZE, (BATCH, 4))
    levels: list[dict[str, Any]] = [{'amp_level': 'O0'}]
    if bench.device != 'cpu':
        levels += [{'amp_level': name, 'dtype': 'bfloat16'} for name in ('O2', 'O1')] + [{'amp_level': 'O0', 'tf32': True}]
    names = list(RECIPES)[:1] if bench.quick else list(RECIPES)
    cases = [(name, 4 if name == 'pspnet' else batches[0], level) for name in names for level in levels]
    cases += [(name, batch, level) for batch in batches[1:] for name in names[:2] for level in levels[:2]]
    if bench.accelerator and not bench.quick:
        compiled = {'amp_level': 'O2', 'dtype': 'bfloat16', 'torch_compile': True}
        cases += [(name, batches[0], compiled) for name in ('fast_scnn', 'ddrnet23_slim_seg')]
        if bench.device == 'gpu':
            cases += [(name, batches[0], {**compiled, 'cuda_graphs': True}) for name in ('fast_scnn', 'ddrnet23_slim_seg')]
    first: dict[tuple[str, int], float] = {}  # seconds of the first level of a network, which is O0
    for name, batch, settings in cases:
        label = ', '.join([name, f'{batch} images', settings['amp_level'], *(key for key in settings if settings[key] is True)])
        if bench.late('steps', label):
            continue
        try:
            seconds, memory = _timed(bench, recipe(name, **settings), batch, size)
        except Exception as error:  # out of memory, a kernel that is not there: the others go on
            bench.report.failure('steps', label, error)
            continue
        bench.report.details.setdefault('steps', {})[label] = {'seconds': seconds, 'memory': memory}
        limits = []  # (what is expected, whether it holds)
        plain = first.setdefault((name, batch), seconds)
        if seconds is not plain:
            limits.append((f'<= {1000 * plain:.1f} ms', seconds <= plain))
        kept = KEPT.get((name, settings['amp_level']))
        if kept and memory and batch == BATCH and size == SIZE:
            limits.append((f'<= {MEMORY * kept:.1f} GB', memory <= MEMORY * kept))
        value = f'{1000 * seconds:.1f} ms, {batch / seconds:.0f} images/s' + (f', {memory:.1f} GB' if memory else '')
        good = all(holds for _, holds in limits) if limits else None
        bench.report.row('steps', label, value, ', '.join(text for text, _ in limits), good, 'slow')


def _timed(bench: Bench, config: Config, batch: int, size: tuple[int, int]) -> tuple[float, float]:
    """Seconds of a step and the most memory that its tensors had, in GB; 0 where it is not known."""
    if bench.accelerator:
        bench.accelerator.empty_cache()
        bench.accelerator.reset_peak_memory_stats()
    seconds = bench.seconds_in_a_row(bench.step(config, batch, size)[1], 2 if bench.quick else 10)
    return seconds, bench.accelerator.max_memory_allocated() / 1e9 if bench.accelerator else 0.0


def kernels(bench: Bench) -> None:
    """The dearest kernels of steps, and the share of time in which the device has something to do."""
    if bench.lacks('kernels', 'profile', bench.accelerator is torch.cuda):
        return
    from torch.profiler import ProfilerActivity, profile

    levels = (('fast_scnn', 'O2'), ('stdc1_seg', 'O2'), ('ddrnet23_slim_seg', 'O2'), ('enet', 'O2'), ('fast_scnn', 'O0'))
    for name, level in levels:
        what = f'{name} {level}, {BATCH} {WHOLE}: device busy'
        if bench.late('kernels', what):
            return
        _, run = bench.step(recipe(name, amp_level=level, dtype='bfloat16'), BATCH, SIZE)
        for _ in range(3):
            run()
        bench.synchronise()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            began = time.perf_counter()
            for _ in range(5):
                run()
            bench.synchronise()
            wall = time.perf_counter() - began
        events = [event for event in profiler.key_averages() if event.self_device_time_total]
        on_device = [event for event in events if event.device_type.name == 'CUDA']
        busy = sum(event.self_device_time_total for event in on_device) / 1e6
        bench.report.details.setdefault('kernels', {})[f'{name} {level}'] = [
            {
                'kernel': event.key[:110],
                'ms a step': round(event.self_device_time_total / 5000, 3),
                'calls a step': event.count / 5,
            }
            for event in sorted(on_device, key=lambda event: -event.self_device_time_total)[:12]
        ]
        launches = sum(event.count for event in on_device) / 5
        value = f'{busy / wall:.0%} of {wall / 5 * 1000:.1f} ms, {launches:.0f} launches'
        bench.report.row('kernels', what, value, f'>= {BUSY:.0%}', busy >= BUSY * wall, 'slow')


def losses(bench: Bench) -> None:
    """The losses at full size alone, from logits at 1/8: forward and backward."""
    if bench.lacks('losses', 'forward and backward', bench.in_torch):
        return
    from twinseg.pytorch_impl.losses import segmentation_loss

    batch, size = (1, (64, 128)) if bench.quick else (BATCH, SIZE)
    labels = torch.randint(0, 19, (batch, *size), device=bench.torch_name)
    for name, loss in {
        'cross_entropy': Loss(),
        'sigmoid_cross_entropy': Loss(loss='sigmoid_cross_entropy'),
        'ohem': Loss(loss='ohem', ohem_thresh=0.9),
        'ohem_pixel_sampler': Loss(loss='ohem_pixel_sampler', ohem_min_kept=10000),
    }.items():
        logits = torch.randn(batch, 19, size[0] // 8, size[1] // 8, device=bench.torch_name, requires_grad=True)
        try:
            seconds = bench.seconds(_loss(segmentation_loss, logits, labels, loss), 10)
        except Exception as error:
            bench.report.failure('losses', name, error)
            continue
        known = bench.device == 'gpu' and not bench.quick
        expected = {'expected': f'<= {LOSS:.0f} ms', 'good': 1000 * seconds <= LOSS, 'bad': 'slow'} if known else {}
        bench.report.row('losses', name, f'{1000 * seconds:.2f} ms', **expected)


def _loss(function: Any, logits: torch.Tensor, labels: torch.Tensor, loss: Loss) -> Callable[[], None]:
    return lambda: function({'logits': logits}, labels, loss, {'logits': False})['loss'].backward()
