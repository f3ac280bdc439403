"""Scaling of training: images a second of 1, 2, ... processes with one device each, and the time that their gradients take.

    python scripts/benchmark_distributed.py fast_scnn_toy_street --backend mindspore --processes 1 2

Every process trains on random images with the recipe's network, loss and optimizer, ``--batch`` of them a step. Its device
is a core, or with ``--device gpu`` or ``ascend`` a card. The gradients' all-reduce is timed by itself, on as many numbers as
the network has parameters.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from twinseg.common import config as configuration
from twinseg.common.backend import get_backend

WARM_UP = 2  # steps that are not timed
REDUCTIONS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('--backend', choices=('pytorch', 'mindspore'), default='pytorch')
    parser.add_argument('--device', choices=('cpu', 'gpu', 'ascend'), default='cpu')
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--batch', type=int, default=4, help='batch size per process')
    parser.add_argument('--size', type=int, nargs=2, default=(128, 256), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--json', type=Path)
    parser.add_argument('--result', type=Path, help=argparse.SUPPRESS)  # file to which rank 0 writes its figures
    asked = parser.parse_args()
    if asked.result:
        measure(asked)
        return
    cores = sorted(os.sched_getaffinity(0))
    if asked.device == 'cpu' and max(asked.processes) > len(cores):
        parser.error(f'--processes {max(asked.processes)}: there are {len(cores)} cores here, and each process gets one')
    results = [run(asked, size) for size in asked.processes]
    print(
        f'{asked.config}, {asked.backend}, {platform.machine()}, {asked.batch} images of {asked.size[0]}x{asked.size[1]} a '
        f'process, one {"core" if asked.device == "cpu" else asked.device} each'
    )
    for figures in results:
        share = figures['img_per_s'] / results[0]['img_per_s'] / figures['processes'] * results[0]['processes']
        name = '1 process' if figures['processes'] == 1 else f'{figures["processes"]} processes'
        print(
            f'{name}: {figures["img_per_s"]:.2f} img/s ({share:.0%} of linear), step {figures["step_ms"]:.0f} ms, '
            f'all-reduce of {figures["parameters"] / 1e6:.2f} M gradients {figures["all_reduce_ms"]:.1f} ms'
        )
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')


def run(asked: argparse.Namespace, size: int) -> dict[str, Any]:
    """The figures of ``size`` processes, started by the backend's launcher."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(('127.0.0.1', 0))
        port, result = free.getsockname()[1], Path(folder) / 'result.json'
        words = [
            __file__,
            asked.config,
            '--backend',
            asked.backend,
            '--device',
            asked.device,
            '--batch',
            str(asked.batch),
            '--size',
            *map(str, asked.size),
            '--steps',
            str(asked.steps),
            '--result',
            str(result),
        ]
        launchers = {
            'pytorch': ['-m', 'torch.distributed.run', f'--nproc_per_node={size}', f'--master_port={port}'],
            'mindspore': [
                '-m',
                'mindspore.parallel.cluster.run',
                f'--worker_num={size}',
                f'--local_worker_num={size}',
                f'--master_port={port}',
                f'--log_dir={folder}',
                '--join=True',
                'python',
            ],
        }
        free.close()
        environment = {
            **os.environ,
            **({'OMP_NUM_THREADS': '1'} if asked.device == 'cpu' else {}),
            'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
        }
        command = [sys.executable, *(launchers[asked.backend] if size > 1 else []), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f'{size} processes ended with status {done.returncode}:\n{done.stdout}{done.stderr}')
        return json.loads(result.read_text(encoding='utf-8'))


def measure(asked: argparse.Namespace) -> None:
    """The figures of this process and those that were started with it."""
    on_cpu = asked.device == 'cpu'
    if on_cpu:
        local_rank = int(os.environ.get('LOCAL_RANK', os.environ.get('DEVICE_ID', '0')))
        os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[local_rank]])
    settings = configuration.load(asked.config, ['log_interval=1'])
    backend = get_backend(asked.backend)
    backend.setup(asked.device, threads=1 if on_cpu else None)
    group = backend.group()
    classes = settings.model.num_classes or 19
    network = backend.build_model(settings.model.arch, num_classes=classes, **settings.model.arguments())
    parameters = sum(value.size for name, value in backend.state(network).items() if 'running' not in name)
    trainer = backend.make_trainer(network, settings)
    rng = np.random.default_rng(group.rank)
    batch = (
        rng.integers(0, 256, (asked.batch, 3, *asked.size), dtype=np.uint8),
        rng.integers(0, classes, (asked.batch, *asked.size), dtype=np.uint8),
    )
    row = 1 if on_cpu else asked.steps  # steps between two waits for the device, in which the host may run ahead
    seconds = []
    for _ in range(WARM_UP + asked.steps // row):
        began = time.perf_counter()
        for _ in range(row):
            outcome = trainer.step([batch] * settings.optimizer.accumulation_step, 1e-4)
        assert outcome['loss'] > 0  # waits for the device
        seconds.append((time.perf_counter() - began) / row)
    step = float(np.median(seconds[WARM_UP:]))
    figures = {
        'processes': group.size,
        'step_ms': 1000 * step,
        'parameters': parameters,
        'img_per_s': asked.batch * settings.optimizer.accumulation_step * group.size / step,
        'all_reduce_ms': 1000 * all_reduce(asked.backend, asked.device, parameters) if group.size > 1 else 0.0,
    }
    if group.rank == 0:
        asked.result.write_text(json.dumps(figures), encoding='utf-8')


def all_reduce(backend_name: str, device: str, count: int) -> float:
    """Seconds for the mean of so many float32 over all processes."""
    if backend_name == 'pytorch':
        import torch

        from twinseg.pytorch_impl import distributed

        values = torch.ones(count, device={'gpu': 'cuda', 'ascend': 'npu'}.get(device, device))

        def reduce() -> None:
            distributed.mean(values)[0].item()  # waits for the device
    else:
        import mindspore as ms

        from twinseg.mindspore_impl import distributed

        values = ms.Tensor(np.ones(count, np.float32))

        def reduce() -> None:
            distributed.mean(values).asnumpy()

    seconds = []
    for _ in range(REDUCTIONS):
        began = time.perf_counter()
        reduce()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


if __name__ == '__main__':
    main()
