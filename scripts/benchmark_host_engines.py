#!/usr/bin/env python
"""Latency of ascend310_infer with OpenVINO on the host's CPU, beside ONNX Runtime and OpenVINO from Python.

python scripts/benchmark_host_engines.py [--size 512x1024] [--threads 1] [--rounds 5] [--runs 4] [ARCH...]

The engines run the same ONNX file on the same images with as many threads, in turns; a round is the median of its runs. Other
work on the machine slows them, so ratios are taken within a round. Prints a Markdown table.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

import numpy as np

from twinseg.common.backend import Engine, get_backend
from twinseg.common.deploy.engines import OnnxRuntime, OpenVino
from twinseg.common.deploy.export import FileSpecification, export_network
from twinseg.common.measure.environment import machine

PROGRAM = Path(__file__).resolve().parent.parent / 'ascend310_infer'
ARCHS = ('fast_scnn', 'stdc1_seg', 'ddrnet23_slim_seg')


def build(folder: Path) -> Path:
    """The program, built with what is found here."""
    done = subprocess.run(
        ['bash', str(PROGRAM / 'build.sh'), '--out', str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHON': sys.executable},
    )
    if done.returncode:
        sys.exit(done.stderr)
    return folder / 'main'


def program(main: Path, model: Path, inputs: Path, threads: int) -> float:
    """Median milliseconds of an inference, as the program reports it."""
    done = subprocess.run(
        [
            str(main),
            f'--mindir_path={model}',
            f'--input0_path={inputs}',
            f'--num_threads={threads}',
            f'--result_path={inputs.parent / "results"}',
            f'--time_path={inputs.parent / "times"}',
        ],
        capture_output=True,
        text=True,
    )
    median = re.search(r'p50: ([0-9.]+) ms', done.stdout)
    if done.returncode or not median:
        sys.exit(done.stderr)
    return float(median[1])


def from_python(engine: Engine, images: list[np.ndarray]) -> float:
    """The same of an engine in this process; the first inference is not counted, as in the program."""
    milliseconds = []
    for image in (images[0], *images):
        began = time.perf_counter()
        engine(image)
        milliseconds.append(1000 * (time.perf_counter() - began))
    return statistics.median(milliseconds[1:])


def measure(main: Path, arch: str, size: tuple[int, int], threads: int, rounds: int, runs: int) -> list[str]:
    """A row of the table."""
    backend = get_backend('pytorch')
    backend.setup('cpu', threads=1)
    with TemporaryDirectory() as name:
        model, inputs = Path(name, 'net.onnx'), Path(name, 'inputs')
        export_network(backend, backend.build_model(arch, auxiliary=False), model, FileSpecification((1, 3, *size)))
        images = list(np.random.default_rng(0).standard_normal((runs, 1, 3, *size), np.float32))
        inputs.mkdir()
        for number, image in enumerate(images):
            image.tofile(inputs / f'{number}.bin')
        engines = [OnnxRuntime(model, threads), OpenVino(model, threads)]
        programs: list[Callable[[], float]] = [
            lambda: program(main, model, inputs, threads),
            *(lambda engine=engine: from_python(engine, images) for engine in engines),
        ]
        times = np.array([[seconds() for seconds in programs] for _ in range(rounds)])
    ratios = np.median(times[:, :1] / times[:, 1:], axis=0)
    return [
        f'`{arch}`',
        *(f'{column.min():.1f} ({np.median(column):.1f})' for column in times.T),
        *(f'{ratio:.2f}' for ratio in ratios),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('archs', nargs='*', default=ARCHS, metavar='ARCH')
    parser.add_argument('--size', default='512x1024', metavar='HxW')
    for name, default in {'threads': 1, 'rounds': 5, 'runs': 4}.items():
        parser.add_argument(f'--{name}', type=int, default=default, metavar='N')
    words = parser.parse_args()
    height, width = map(int, words.size.split('x'))
    print(
        f'{height}x{width}, batch 1, float32, threads: {words.threads}, {words.rounds} rounds of {words.runs} runs; '
        f'{machine()["cpu"]}\n'
    )
    print(
        '| milliseconds: least (median) of the rounds | `main`, OpenVINO | Python, ONNX Runtime | Python, OpenVINO '
        '| `main` / ONNX Runtime | `main` / OpenVINO |\n|---|---|---|---|---|---|'
    )
    with TemporaryDirectory() as folder:
        built = build(Path(folder))
        for arch in words.archs:
            cells = measure(built, arch, (height, width), words.threads, words.rounds, words.runs)
            print(f'| {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
    main()
