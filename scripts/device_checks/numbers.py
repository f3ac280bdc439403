"""Checks of results: the device against the host, overflow, and the group of one over the device's collectives."""

import importlib.util
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from scripts.device_checks.report import DRIFT, EXPORTED, GRADIENT, LOGITS, Bench, recipe
from twinseg.common.config import Loss
from twinseg.common.measure.environment import machine_of, versions

COLLECTIVES = {'gpu': 'nccl', 'ascend': 'hccl'}


def machine(bench: Bench) -> None:
    """The device, its driver and the versions of what computes; no rows."""
    bench.on_device()
    facts: dict[str, Any] = {'date': time.strftime('%Y-%m-%d'), 'backend': bench.backend.name}
    facts |= {key: value for key, value in machine_of(bench.backend).items() if value is not None} | versions()
    facts['device'] = facts.get(bench.device, facts['cpu'])
    if bench.in_torch and bench.device == 'gpu':
        driver = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        facts |= {
            'memory': f'{torch.cuda.get_device_properties(0).total_memory / 2**30:.1f} GiB',
            'cuda': torch.version.cuda,
            'cudnn': torch.backends.cudnn.version(),
            'driver': subprocess.run(driver, capture_output=True, text=True).stdout.strip(),
        }
    bench.report.machine = facts


def networks(bench: Bench) -> None:
    """Logits and gradients of every network by PyTorch on the host and on the device, from the same weights.

    Gradients of both are compared with the host's in float64: a rectifier whose input is near zero takes the other side in any
    float32 computation and changes all gradients below it, so the device is held to a multiple of the host's own error.
    """
    rng = np.random.default_rng(0)
    names = ['fast_scnn', 'enet', 'ddrnet23_slim'] if bench.quick else list(bench.backend.MODELS)
    logits: dict[str, float] = {}
    gradients: dict[str, tuple[float, float]] = {}  # network -> difference, tolerance
    for name in names:
        if bench.late('networks', name):
            break
        bench.on_host()
        network = bench.host.build_model(name)
        state = bench.host.state(network)
        side = (64, 96) if bench.quick else (128, 192)
        images = rng.standard_normal((2, 3, *side)).astype(np.float32)
        labels = rng.integers(0, 19, (2, *(side if 'logits' in network.align_corners else ())))  # a classifier's: one an image
        host = bench.host.forward(network, images, auxiliary=True)
        host_gradients = bench.host.loss_and_gradients(network, images, labels, Loss())[1]
        exact = bench.host.loss_and_gradients(double(network), images, labels, Loss())[1]
        bench.on_device()
        try:
            network = bench.backend.build_model(name, seed=None)
            bench.backend.load_state(network, state)
            device = bench.backend.forward(network, images, auxiliary=True)
            device_gradients = bench.backend.loss_and_gradients(network, images, labels, Loss())[1]
        except Exception as error:  # an operator that the device lacks: the others go on
            bench.report.failure('networks', name, error)
            continue
        logits[name] = max(float(np.abs(device[key] - value).max() / np.abs(value).max()) for key, value in host.items())
        host_error, device_error = (_worst(side, exact) for side in (host_gradients, device_gradients))
        gradients[name] = device_error, max(GRADIENT, DRIFT * host_error)
        figures = {'logits': logits[name], 'gradients': device_error, 'gradients on the host': host_error}
        bench.report.details.setdefault('networks', {})[name] = figures
    if not logits:
        return
    of = f'worst of {len(logits)}'
    worst = max(logits, key=lambda name: logits[name])
    bench.report.row('networks', f'logits, {of}', f'{logits[worst]:.1e} ({worst})', f'{LOGITS:.0e}', logits[worst] <= LOGITS)
    worst = max(gradients, key=lambda name: gradients[name][0] / gradients[name][1])
    error, tolerance = gradients[worst]
    value = f'{error:.1e} ({worst})'
    bench.report.row('networks', f'gradients from float64, {of}', value, f'{tolerance:.1e}', error <= tolerance)


def double(network: Any) -> Any:
    """A PyTorch network, in place, with weights and features in float64."""
    from twinseg.pytorch_impl import precision

    return precision.double(network)


def _worst(gradients: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """Largest relative difference of a parameter's gradient in the L2 norm."""
    norms = {key: float(np.linalg.norm(value)) for key, value in exact.items()}
    return max(float(np.linalg.norm(gradients[key] - exact[key])) / norm for key, norm in norms.items() if norm)


def exported(bench: Bench) -> None:
    """An ONNX file of a network, run by ONNX Runtime on the host, against the network on the host and on the device.

    The command ``export`` asks for OpenVINO too, which a machine with an accelerator may lack.
    """
    lacking = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if not importlib.util.find_spec(name)]
    if lacking:
        bench.report.row('exported', 'ONNX', f'not run: no {" and no ".join(lacking)}')
        return
    import onnx

    from twinseg.common.deploy import onnx_graph
    from twinseg.common.deploy.engines import OnnxRuntime

    shape = 1, 3, 128, 256
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    bench.on_host()
    network = bench.host.build_model('fast_scnn')
    logits = {'the host': bench.host.forward(network, images)['logits']}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'net.onnx'
        bench.host.write(network, path, 'onnx', shape=shape)
        onnx.save(onnx_graph.finish(onnx.load(path), 17, {}), path)
        output = OnnxRuntime(path)(images)
    bench.on_device()
    twin = bench.backend.build_model('fast_scnn', seed=None)
    bench.backend.load_state(twin, bench.host.state(network))
    logits['the device'] = bench.backend.forward(twin, images)['logits']
    for side, expected in logits.items():
        apart = float(np.abs(output - expected).max() / np.abs(expected).max())
        what = f'ONNX Runtime {version("onnxruntime")} on the host against {side}'
        bench.report.row('exported', what, f'{apart:.1e}', f'{EXPORTED:.0e}', apart <= EXPORTED)


def overflow(bench: Bench) -> None:
    """A step in float16 whose loss is scaled beyond its range is skipped: weights and optimizer stay as they are."""
    config = recipe('fast_scnn', amp_level='O2', dtype='float16', loss_scale=2.0**60)
    trainer, run = bench.step(config, 2, (64, 128))
    before = trainer.state()[0]
    run()
    after, meta = trainer.state()
    moved = [key for key in before if 'running' not in key and not np.array_equal(before[key], after[key])]
    value = f'{len(moved)} tensors moved, {meta.optimizer_steps} steps of the optimizer'
    bench.report.row('overflow', 'a step that overflows', value, '0 and 0', not moved and not meta.optimizer_steps)


def norms(bench: Bench) -> None:
    """Batch norm over eight pretended processes with equal batches: what that of one gives, at about its time."""
    if bench.lacks('norms', 'eight processes', bench.in_torch):
        return
    from twinseg.pytorch_impl import distributed
    from twinseg.pytorch_impl.layers import BatchNorm2d

    shape = (2, 8, 16, 32) if bench.quick else (12, 64, 128, 256)
    pretended = {'gather': lambda x: torch.cat([x.detach()] * 8), 'mean': lambda x: x.detach().clone()}
    for dtype in (torch.float32,) if bench.device == 'cpu' else (torch.float32, torch.bfloat16):
        x = (3 * torch.randn(shape, device=bench.torch_name) + 1).to(dtype).requires_grad_()
        gradient = torch.randn_like(x)
        values, times = [], []
        for processes in (1, 8):
            norm = BatchNorm2d(shape[1]).to(bench.torch_name)
            with mock.patch.multiple(distributed, **pretended, size=lambda processes=processes: processes):
                y = norm(x)
                gradients = torch.autograd.grad(y, (x, norm.weight, norm.bias), gradient)
                values.append([value.detach().float() for value in (y, *gradients, norm.running_mean)])

                def run(norm: Any = norm, x: torch.Tensor = x, gradient: torch.Tensor = gradient) -> None:
                    torch.autograd.grad(norm(x), x, gradient)

                times.append(bench.seconds_in_a_row(run, 10))
        apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*values))
        limit = 1e-5 if dtype == torch.float32 else 2e-2
        bench.report.row('norms', f'eight processes against one, {dtype}', f'{apart:.1e}', f'{limit:.0e}', apart <= limit)
        value, limit = f'{1e3 * times[1]:.2f} ms, one {1e3 * times[0]:.2f} ms', 1.5 * times[0]
        timed = {'expected': '1.5 times', 'good': times[1] <= limit, 'bad': 'slow'} if bench.accelerator else {}
        bench.report.row('norms', f'time of eight, {dtype}', value, **timed)


def group_of_one(bench: Bench) -> None:
    """Collectives in a group of one process: the types that the suite sends, and their cost."""
    if bench.lacks('group_of_one', 'collectives', bench.accelerator):
        return
    import torch.distributed as dist

    bench.on_device()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(COLLECTIVES[bench.device], init_method=f'file://{folder}/meeting', rank=0, world_size=1)
        try:
            for kind in (torch.float32, torch.float64, torch.int64, torch.uint8):
                value = torch.ones(8, device=bench.torch_name, dtype=kind)
                parts = [torch.empty_like(value)]
                seconds = bench.seconds(lambda value=value, parts=parts: dist.all_gather(parts, value), 20)
                same = bool((parts[0] == value).all())
                bench.report.row('group_of_one', f'all_gather of {kind}', f'{1e6 * seconds:.0f} us', 'the same values', same)
            value = torch.ones(64, device=bench.torch_name)
            seconds = bench.seconds(lambda: dist.all_reduce(value), 20)
            bench.report.row('group_of_one', 'all_reduce of 64 numbers', f'{1e6 * seconds:.0f} us')
        finally:
            dist.destroy_process_group()
