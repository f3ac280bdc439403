"""The commands on the device: training, its continuation on either side, evaluation, export, report, benchmark."""

import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from scripts.device_checks.report import Bench
from twinseg.common.parallel.launch import GROUP_OF_ONE

ROOT = Path(__file__).resolve().parents[2]
SHORT = ['log_interval=1', 'seed=0', 'threads=4', 'val_samples=4', 'dtype=bfloat16']
SMALL = ['image_size=[64,128]', 'crop_size=[64,128]', 'train_samples=8', 'warmup_iters=1']  # of a rehearsal
CORES = 4  # of the host for each command that runs beside others


def commands(bench: Bench) -> None:
    """Trains, then does everything with what was trained; commands run beside each other where the host has the cores."""
    sides = list(dict.fromkeys(('cpu', bench.device)))
    workers = max(1, (os.cpu_count() or 1) // CORES)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(workers) as pool:
        folder = Path(name)
        runs = [(side, 'O0') for side in sides] + ([] if bench.quick else [(bench.device, 'O2')])
        list(pool.map(lambda run: _train(bench, folder, *run), runs))
        first = {side: _losses(folder / f'{side}-O0') for side in sides}
        bench.report.details['losses by step'] = first
        apart = _apart(first[bench.device][:3], first['cpu'][:3])
        bench.report.row('commands', 'loss of three steps, device against host', f'{apart:.1e}', '1e-4', apart <= 1e-4)
        continued = [functools.partial(_continue, side=side) for side in sides]
        others = (_evaluate, _export) if bench.quick else (_test_time, _group_of_one, _export, _evaluate, _report, _measure)
        list(pool.map(lambda check: check(bench, folder, sides), (*continued, *others)))


def _train(bench: Bench, folder: Path, side: str, level: str, name: str = '', **environment: str) -> None:
    half, name = _half(bench), name or f'{side}-{level}'
    settings = [f'amp_level={level}', f'max_iters={2 * half}', f'val_interval={half}', f'checkpoint_interval={half}']
    words = ['fast_scnn_toy_street', '--device', side, '--work-dir', folder / name, '--set', *SHORT, *settings]
    what = f'train on {side} at {level}' + (' in a group of one' if environment else '')
    _twinseg(bench, what, 'train', *words, *(SMALL if bench.quick else []), **environment)


def _group_of_one(bench: Bench, folder: Path, sides: list[str]) -> None:
    """The same steps with the device's collectives, of one process."""
    if not bench.in_torch:
        return
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        group = {'WORLD_SIZE': '1', 'RANK': '0', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1', GROUP_OF_ONE: '1'}
        group['MASTER_PORT'] = str(free.getsockname()[1])
    _train(bench, folder, bench.device, 'O0', 'group', **group)
    apart = _apart(_losses(folder / 'group')[:3], _losses(folder / f'{bench.device}-O0')[:3])
    bench.report.row('commands', 'loss of three steps, in a group of one', f'{apart:.1e}', '1e-4', apart <= 1e-4)


def _half(bench: Bench) -> int:
    """Steps of a training after which it is continued."""
    return 2 if bench.quick else 6


def _continue(bench: Bench, folder: Path, sides: list[str], side: str) -> None:
    whole, run = folder / f'{bench.device}-O0', folder / f'on-{side}'
    half = whole / 'checkpoints' / f'step_{_half(bench):08d}.safetensors'
    words = ['--checkpoint', half, '--device', side, '--work-dir', run]
    if _twinseg(bench, f'continue on {side} a run of {bench.device}', 'train', *words):
        apart = _apart(_losses(run), _losses(whole)[_half(bench) :])
        bench.report.row('commands', f'losses after continuing on {side}', f'{apart:.1e}', '1e-2', apart <= 1e-2)


def _evaluate(bench: Bench, folder: Path, sides: list[str]) -> None:
    matrices = []
    for side in sides:
        words = ['--checkpoint', folder / f'{bench.device}-O0', '--device', side, '--json', folder / f'{side}.json']
        if not _twinseg(bench, f'eval on {side}', 'eval', *words):
            return
        matrices.append(np.array(json.loads((folder / f'{side}.json').read_text())['confusion']))
    share = np.abs(matrices[0] - matrices[-1]).sum() / 2 / matrices[0].sum()
    bench.report.row('commands', 'pixels that host and device classify differently', f'{share:.1e}', '1e-4', share <= 1e-4)


def _test_time(bench: Bench, folder: Path, sides: list[str]) -> None:
    run = folder / f'{bench.device}-O0'
    _twinseg(bench, 'eval --ms-flip', 'eval', '--checkpoint', run, '--device', bench.device, '--ms-flip')


def _export(bench: Bench, folder: Path, sides: list[str]) -> None:
    lacking = [name for name in ('onnxscript', 'onnxruntime', 'openvino') if not importlib.util.find_spec(name)]
    if lacking:
        bench.report.row('commands', 'export', f'not run: no {" and no ".join(lacking)}')
        return
    words = ['--checkpoint', folder / f'{bench.device}-O0', '--device', bench.device, '--out', folder / 'net.onnx']
    if _twinseg(bench, 'export', 'export', *words, '--size', '128x256', '--json', folder / 'export.json'):
        file = json.loads((folder / 'export.json').read_text())
        value = f'{file["difference"]:.1e}, tolerance {file["tolerance"]:.0e}'
        good = file['difference'] <= file['tolerance'] <= 1e-4
        bench.report.row('commands', 'exported file against the network', value, '1e-4', good)


def _report(bench: Bench, folder: Path, sides: list[str]) -> None:
    out = folder / 'report.html'
    _twinseg(bench, 'report', 'report', folder / f'{bench.device}-O0', '--device', bench.device, '--out', out)


def _measure(bench: Bench, folder: Path, sides: list[str]) -> None:
    _twinseg(bench, 'benchmark', 'benchmark', 'fast_scnn_toy_street', '--device', bench.device, '--runs', '5')


def _twinseg(bench: Bench, what: str, command: str, *words: Any, **environment: str) -> bool:
    """Runs a command of the suite; a row says how it ended, and the report's details hold its last words."""
    line = [command, *map(str, words)] + (['--backend', bench.backend.name] if command != 'report' else [])
    began = time.perf_counter()
    program, environment = [sys.executable, '-m', 'twinseg'], {**os.environ, **environment}
    done = subprocess.run([*program, *line], capture_output=True, text=True, cwd=ROOT, env=environment)
    seconds, text = time.perf_counter() - began, (done.stdout + done.stderr).strip()
    details = {'words': line, 'status': done.returncode, 'end': text[-2000:]}
    bench.report.details.setdefault('commands', {})[what] = details
    last = '' if done.returncode == 0 else f': {text.splitlines()[-1][:160] if text else ""}'
    value = f'status {done.returncode} after {seconds:.1f} s{last}'
    bench.report.row('commands', what, value, 'status 0', done.returncode == 0, 'fails')
    return done.returncode == 0


def _losses(run: Path) -> list[float]:
    """The losses of a run by step; none where it wrote none."""
    file = run / 'metrics.jsonl'
    lines = file.read_text().splitlines() if file.is_file() else []
    return [line['loss'] for line in map(json.loads, lines) if line['kind'] == 'train']


def _apart(losses: list[float], expected: list[float]) -> float:
    """Largest relative difference; infinite where there is nothing to compare."""
    return max((abs(a / b - 1) for a, b in zip(losses, expected)), default=float('inf'))
