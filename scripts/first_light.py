"""Checks of the suite on a new device, in one program: it shows what works, what is wrong and what is slow.

    python scripts/first_light.py --device gpu --out first_light        # about ten minutes on one GPU
    python scripts/first_light.py --device cpu --quick --out rehearsal  # a rehearsal, in a minute or two

PyTorch alone. Every check runs in a ``try``: one that fails is a row of the table, and the next one begins. Writes
``first_light.json`` (all figures) and ``first_light.md`` (the table) into ``--out``, after every check.
"""

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twinseg.common import config as configuration
from twinseg.common.backend import get_backend
from twinseg.common.config import Config, Loss
from twinseg.pytorch_impl import precision

LOGITS, GRADIENT = 1e-5, 1e-3  # docs/design.md, section 4: float32, of the largest magnitude and in the L2 norm
DRIFT = 3  # times the host's own distance from float64
RECIPES = {  # networks whose steps are timed, by a recipe with their loss
    'fast_scnn': 'fast_scnn_8xb4-160k_cityscapes-512x1024',
    'stdc1_seg': 'stdc1_4xb12-80k_cityscapes-512x1024',
    'ddrnet23_slim_seg': 'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
    'enet': 'enet_cityscapes-512x1024',
    'pspnet': 'pspnet_r50-d8_4xb2-80k_cityscapes-512x1024',
}


@dataclass
class Row:
    """A figure with its verdict: ``works``, ``wrong``, ``slow``, ``fails``, or ``noted`` where nothing is expected of it."""

    check: str
    what: str
    value: str
    expected: str = ''
    verdict: str = 'noted'


@dataclass
class Report:
    device: str
    machine: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def row(self, check: str, what: str, value: str, expected: str = '', good: bool | None = None, bad: str = 'wrong') -> None:
        self.rows.append(Row(check, what, value, expected, 'noted' if good is None else 'works' if good else bad))
        print(*(part for part in asdict(self.rows[-1]).values() if part), sep=' | ', flush=True)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'first_light.json').write_text(json.dumps(asdict(self), indent=1, default=str) + '\n', encoding='utf-8')
        facts = '\n'.join(f'- {key}: {value}' for key, value in self.machine.items())
        table = '\n'.join(f'| {row.check} | {row.what} | {row.value} | {row.expected} | {row.verdict} |' for row in self.rows)
        (folder / 'first_light.md').write_text(
            f'# First light: {self.machine.get("device", self.device)}\n\n{facts}\n\n'
            f'| check | what | value | expected | verdict |\n| --- | --- | --- | --- | --- |\n{table}\n',
            encoding='utf-8',
        )


class Bench:
    """State that the checks share: the device, the size of the work, and the report."""

    def __init__(self, device: str, quick: bool):
        self.device, self.quick = device, quick
        self.backend = get_backend('pytorch')
        self.report = Report(device)

    def on(self, device: str) -> None:
        """Networks built from here on lie on ``device``."""
        self.backend.setup(device, seed=0)

    def synchronise(self) -> None:
        if self.device == 'gpu':
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], repeat: int) -> float:
        """Median seconds of a call, after three that do not count; the device is waited for before either reading."""
        times = []
        for _ in range(3 + repeat):
            self.synchronise()
            began = time.perf_counter()
            run()
            self.synchronise()
            times.append(time.perf_counter() - began)
        return float(np.median(times[3:]))


def machine(bench: Bench) -> None:
    facts: dict[str, Any] = {
        'date': time.strftime('%Y-%m-%d'),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': np.__version__,
    }
    if bench.device == 'gpu':
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            'device': properties.name,
            'memory': f'{properties.total_memory / 2**30:.1f} GiB',
            'cuda': torch.version.cuda,
            'cudnn': torch.backends.cudnn.version(),
            'driver': subprocess.run(
                ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'], capture_output=True, text=True
            ).stdout.strip(),
            'TF32 at the start': f'{torch.backends.cudnn.allow_tf32} in convolutions, '
            f'{torch.backends.cuda.matmul.allow_tf32} in products',
        }
    bench.report.machine = facts


def networks(bench: Bench) -> None:
    """Logits and gradients of every network on the host and on the device, from the same weights.

    Gradients of both are compared with the host's in float64: a rectifier whose input is near zero takes the other side in any
    float32 computation and changes all gradients below it, so the device is held to a multiple of the host's own error.
    """
    rng = np.random.default_rng(0)
    names = ['fast_scnn', 'enet', 'resnet18'] if bench.quick else list(bench.backend.MODELS)
    logits, gradients = {}, {}  # network -> difference; network -> (difference, tolerance)
    for name in names:
        bench.on('cpu')
        network = bench.backend.build_model(name)
        size = (128, 192) if 'logits' in network.align_corners else ()  # a classifier's labels are one an image
        images = rng.standard_normal((2, 3, 128, 192)).astype(np.float32)
        labels = rng.integers(0, 19, (2, *size))
        host = bench.backend.forward(network, images, auxiliary=True), _gradients(bench, network, images, labels)
        exact = _gradients(bench, precision.double(network), images, labels)
        bench.on(bench.device)
        network = bench.backend.build_model(name)
        device = bench.backend.forward(network, images, auxiliary=True), _gradients(bench, network, images, labels)
        logits[name] = max(float(np.abs(device[0][key] - value).max() / np.abs(value).max()) for key, value in host[0].items())
        host_error, device_error = (_worst_gradient(side[1], exact) for side in (host, device))
        gradients[name] = device_error, max(GRADIENT, DRIFT * host_error)
        figures = {'logits': logits[name], 'gradients': device_error, 'gradients on the host': host_error}
        bench.report.details.setdefault('networks', {})[name] = figures
    worst = max(logits, key=lambda name: logits[name])
    of = f'worst of {len(names)}'
    bench.report.row('networks', f'logits, {of}', f'{logits[worst]:.1e} ({worst})', f'{LOGITS:.0e}', logits[worst] <= LOGITS)
    worst = max(gradients, key=lambda name: gradients[name][0] / gradients[name][1])
    error, tolerance = gradients[worst]
    value = f'{error:.1e} ({worst})'
    bench.report.row('networks', f'gradients from float64, {of}', value, f'{tolerance:.1e}', error <= tolerance)


def _gradients(bench: Bench, network: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return bench.backend.loss_and_gradients(network, images, labels, Loss())[1]


def _worst_gradient(gradients: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """Largest relative difference of a parameter's gradient in the L2 norm."""
    norms = {key: float(np.linalg.norm(value)) for key, value in exact.items()}
    return max(float(np.linalg.norm(gradients[key] - exact[key])) / norm for key, norm in norms.items() if norm)


def recipe(name: str, **keys: Any) -> Config:
    config = configuration.load(RECIPES[name]).replace(pretrained=None, **keys)
    return config.replace(class_weight=None) if isinstance(config.loss.class_weight, str) else config


def step(bench: Bench, config: Config, batch: int, size: tuple[int, int]) -> Callable[[], Any]:
    """A training step on random pixels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 3, *size), np.uint8)
    labels = rng.integers(0, 19, (batch, *size)).astype(np.uint8)
    arguments = {'num_classes': 19, **config.model.arguments()}
    trainer = bench.backend.make_trainer(bench.backend.build_model(config.model.arch, **arguments), config)
    return lambda: trainer.step([(images, labels)], 1e-4)


def waits(bench: Bench) -> None:
    """Places at which a second training step waits for the device."""
    bench.on(bench.device)
    for name in ('fast_scnn', 'stdc1_seg', 'ddrnet23_slim_seg', 'enet'):
        run = step(bench, recipe(name), 2, (128, 256))
        run()
        if bench.device != 'gpu':
            bench.report.row('waits', name, 'not counted on a CPU')
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode('default')
        lines = [f'{Path(item.filename).name}:{item.lineno}' for item in caught if 'synchroniz' in str(item.message)]
        bench.report.details.setdefault('waits', {})[name] = {line: lines.count(line) for line in dict.fromkeys(lines)}
        bench.report.row('waits', f'{name}: second step', f'{len(lines)} waits', '0', not lines, 'slow')


def steps(bench: Bench) -> None:
    """Seconds and memory of training steps at 512x1024; those that are compiled, which takes a minute each, come last."""
    bench.on(bench.device)
    size, batches = ((64, 128), (2,)) if bench.quick else ((512, 1024), (4, 12))
    gpu = bench.device == 'gpu'
    levels: list[dict[str, Any]] = [{'amp_level': 'O0'}]
    if gpu:
        levels += [{'amp_level': 'O0', 'tf32': True}, *({'amp_level': name, 'dtype': 'bfloat16'} for name in ('O1', 'O2'))]
    cases = [
        (name, batch, level) for name in RECIPES for batch in (batches[:1] if name == 'pspnet' else batches) for level in levels
    ]
    if gpu and not bench.quick:
        compiled = {'amp_level': 'O2', 'dtype': 'bfloat16', 'torch_compile': True}
        cases += [(name, batches[-1], compiled) for name in ('fast_scnn', 'ddrnet23_slim_seg')]
    for name, batch, settings in cases:
        label = ', '.join([name, f'{batch} images', settings['amp_level'], *(key for key in settings if settings[key] is True)])
        try:
            seconds, memory = _timed(bench, recipe(name, **settings), batch, size)
        except Exception as error:  # out of memory, a kernel that is not there: the others go on
            bench.report.row('steps', label, _short(error), good=False, bad='fails')
            continue
        bench.report.details.setdefault('steps', {})[label] = {'seconds': seconds, 'memory': memory}
        bench.report.row('steps', label, f'{1000 * seconds:.1f} ms, {batch / seconds:.0f} images/s, {memory:.1f} GiB')


def _short(error: Exception) -> str:
    return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0][:120]}'


def _timed(bench: Bench, config: Config, batch: int, size: tuple[int, int]) -> tuple[float, float]:
    if bench.device == 'gpu':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = bench.seconds(step(bench, config, batch, size), 2 if bench.quick else 10)
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if bench.device == 'gpu' else 0.0


def kernels(bench: Bench) -> None:
    """The dearest kernels of steps, and the share of time in which the device has nothing to do."""
    if bench.device != 'gpu':
        bench.report.row('kernels', 'profile', 'not made on a CPU')
        return
    from torch.profiler import ProfilerActivity, profile

    bench.on(bench.device)
    for name, level in (
        ('fast_scnn', 'O0'),
        ('fast_scnn', 'O2'),
        ('stdc1_seg', 'O2'),
        ('ddrnet23_slim_seg', 'O2'),
        ('enet', 'O2'),
    ):
        run = step(bench, recipe(name, amp_level=level, dtype='bfloat16'), 12, (512, 1024))
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
        kernels_only = [event for event in events if event.device_type.name == 'CUDA']
        busy = sum(event.self_device_time_total for event in kernels_only) / 1e6
        dearest = sorted(kernels_only, key=lambda event: -event.self_device_time_total)[:12]
        bench.report.details.setdefault('kernels', {})[f'{name} {level}'] = [
            {
                'kernel': event.key[:110],
                'ms a step': round(event.self_device_time_total / 5000, 3),
                'calls a step': event.count / 5,
            }
            for event in dearest
        ]
        launches = sum(event.count for event in kernels_only) / 5
        bench.report.row(
            'kernels',
            f'{name} {level}, 12 images: device busy',
            f'{busy / wall:.0%} of {wall / 5 * 1000:.1f} ms, {launches:.0f} launches',
        )


def losses(bench: Bench) -> None:
    """The losses at full size alone, as they are and compiled."""
    from twinseg.pytorch_impl.losses import segmentation_loss

    bench.on(bench.device)
    device = 'cuda' if bench.device == 'gpu' else 'cpu'
    batch, size = (1, (64, 128)) if bench.quick else (12, (512, 1024))
    labels = torch.randint(0, 19, (batch, *size), device=device)
    for name, loss in {
        'cross_entropy': Loss(),
        'sigmoid_cross_entropy': Loss(loss='sigmoid_cross_entropy'),
        'ohem': Loss(loss='ohem', ohem_thresh=0.9),
        'ohem_pixel_sampler': Loss(loss='ohem_pixel_sampler', ohem_min_kept=10000),
    }.items():
        logits = torch.randn(batch, 19, size[0] // 8, size[1] // 8, device=device, requires_grad=True)

        def plain(loss: Loss = loss, logits: torch.Tensor = logits) -> None:
            segmentation_loss({'logits': logits}, labels, loss, {'logits': False})['loss'].backward()

        for label, run in {
            'operator by operator': plain,
            **({'compiled': torch.compile(plain)} if bench.device == 'gpu' else {}),
        }.items():
            try:
                seconds = bench.seconds(run, 10)
            except Exception as error:
                bench.report.row('losses', f'{name}, {label}', _short(error))
                continue
            bench.report.row('losses', f'{name}, {label}', f'{1000 * seconds:.2f} ms')
    values = torch.rand(batch * size[0] * size[1], device=device)
    count = len(values) // 100
    bench.report.row('losses', 'kthvalue of all pixels', f'{1000 * bench.seconds(lambda: values.kthvalue(count), 5):.2f} ms')
    bench.report.row(
        'losses', 'topk of all pixels', f'{1000 * bench.seconds(lambda: values.topk(count, largest=False), 5):.2f} ms'
    )
    bench.report.row('losses', 'sort of all pixels', f'{1000 * bench.seconds(lambda: values.sort(), 5):.2f} ms')


def commands(bench: Bench) -> None:
    """The commands on the device: training, its continuation on either side, evaluation, prediction, export, report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = ['--set', 'max_iters=12', 'val_interval=6', 'checkpoint_interval=6', 'log_interval=1', 'seed=0', 'threads=4']
        for side in dict.fromkeys(('cpu', bench.device)):
            for level in ('O0', 'O2'):
                run = folder / f'{side}-{level}'
                _twinseg(
                    bench,
                    f'train on {side} at {level}',
                    'train',
                    'fast_scnn_toy_street',
                    '--device',
                    side,
                    '--work-dir',
                    run,
                    *short,
                    f'amp_level={level}',
                    'dtype=bfloat16',
                )
        first = {side: _losses(folder / f'{side}-O0') for side in dict.fromkeys(('cpu', bench.device))}
        apart = [abs(a / b - 1) for a, b in zip(first[bench.device], first['cpu'])]
        bench.report.details['losses by step'] = first
        bench.report.row(
            'commands',
            'loss of the first three steps, device against host',
            f'{max(apart[:3]):.1e}',
            '1e-4',
            max(apart[:3]) <= 1e-4,
        )
        run = folder / f'{bench.device}-O0'
        half = run / 'checkpoints' / 'step_00000006.safetensors'
        for side in dict.fromkeys((bench.device, 'cpu')):
            _twinseg(
                bench,
                f'continue on {side} a run of {bench.device}',
                'train',
                '--checkpoint',
                half,
                '--device',
                side,
                '--work-dir',
                folder / f'on-{side}',
            )
            again = _losses(folder / f'on-{side}')
            apart = [abs(a / b - 1) for a, b in zip(again, first[bench.device][6:])]
            bench.report.row('commands', f'losses after continuing on {side}', f'{max(apart):.1e}', '1e-2', max(apart) <= 1e-2)
        scores = {}
        for side in dict.fromkeys(('cpu', bench.device)):
            _twinseg(bench, f'eval on {side}', 'eval', '--checkpoint', run, '--device', side, '--json', folder / f'{side}.json')
            scores[side] = json.loads((folder / f'{side}.json').read_text())
        matrices = [np.array(scores[side]['confusion']) for side in dict.fromkeys(('cpu', bench.device))]
        share = np.abs(matrices[0] - matrices[-1]).sum() / 2 / matrices[0].sum()
        bench.report.row('commands', 'pixels that host and device classify differently', f'{share:.1e}', '1e-4', share <= 1e-4)
        _twinseg(bench, 'eval --ms-flip', 'eval', '--checkpoint', run, '--device', bench.device, '--ms-flip')
        if importlib.util.find_spec('openvino'):
            _twinseg(
                bench,
                'export',
                'export',
                '--checkpoint',
                run,
                '--device',
                bench.device,
                '--out',
                folder / 'net.onnx',
                '--json',
                folder / 'export.json',
            )
        else:
            bench.report.row('commands', 'export', 'not run: it needs twinseg[deploy]')
        if (folder / 'export.json').is_file():
            exported = json.loads((folder / 'export.json').read_text())
            bench.report.row(
                'commands',
                'tolerance of the export',
                f'{exported["tolerance"]:.1e} (difference {exported["difference"]:.1e})',
                '1e-4',
                exported['tolerance'] <= 1e-4,
            )
        _twinseg(bench, 'report', 'report', run, '--device', bench.device, '--out', folder / 'report.html')
        _twinseg(
            bench,
            'benchmark',
            'benchmark',
            'fast_scnn_toy_street',
            '--backend',
            'pytorch',
            '--device',
            bench.device,
            '--runs',
            '5',
        )


def _twinseg(bench: Bench, what: str, *words: Any) -> None:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, '-m', 'twinseg', *map(str, words)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    seconds = time.perf_counter() - began
    text = (done.stdout + done.stderr).strip()
    bench.report.details.setdefault('commands', {})[what] = {
        'words': list(map(str, words)),
        'status': done.returncode,
        'end': text[-2000:],
    }
    last = '' if done.returncode == 0 else f': {text.splitlines()[-1][:160] if text else ""}'
    bench.report.row(
        'commands', what, f'status {done.returncode} after {seconds:.1f} s{last}', 'status 0', done.returncode == 0, 'fails'
    )


def _losses(run: Path) -> list[float]:
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    return [line['loss'] for line in map(json.loads, lines) if line['kind'] == 'train']


def group_of_one(bench: Bench) -> None:
    """Collectives over NCCL in a group of one process: the types that the suite sends, and their cost."""
    if bench.device != 'gpu':
        bench.report.row('NCCL', 'group of one', 'needs a GPU')
        return
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group('nccl', init_method=f'file://{folder}/meeting', rank=0, world_size=1)
        try:
            for kind in (torch.float32, torch.float64, torch.int64, torch.uint8):
                value = torch.ones(8, device='cuda', dtype=kind)
                parts = [torch.empty_like(value)]
                seconds = bench.seconds(lambda value=value, parts=parts: dist.all_gather(parts, value), 20)
                bench.report.row(
                    'NCCL', f'all_gather of {kind}', f'{1e6 * seconds:.0f} us', good=bool((parts[0] == value).all())
                )
            value = torch.ones(64, device='cuda')
            bench.report.row(
                'NCCL', 'all_reduce of 64 numbers', f'{1e6 * bench.seconds(lambda: dist.all_reduce(value), 20):.0f} us'
            )
        finally:
            dist.destroy_process_group()


CHECKS = (machine, networks, waits, commands, kernels, losses, group_of_one, steps)


def main() -> int:
    parser = argparse.ArgumentParser(description='What a new device does with the suite.')
    parser.add_argument('--device', choices=['cpu', 'gpu'], default='gpu')
    parser.add_argument('--out', type=Path, default=Path('first_light'), metavar='FOLDER')
    parser.add_argument('--quick', action='store_true', help='small networks and images: a rehearsal')
    parser.add_argument('--only', nargs='+', choices=[check.__name__ for check in CHECKS], help='these checks alone')
    asked = parser.parse_args()
    if asked.device == 'gpu' and not torch.cuda.is_available():
        parser.error(f'--device gpu: PyTorch {torch.__version__} finds none here; `--device cpu --quick` rehearses')
    bench = Bench(asked.device, asked.quick)
    for check in CHECKS:
        if asked.only and check is not machine and check.__name__ not in asked.only:
            continue
        began = time.perf_counter()
        try:
            check(bench)
        except Exception:
            bench.report.details[f'{check.__name__}: traceback'] = traceback.format_exc()
            bench.report.row(
                check.__name__, 'the check itself', traceback.format_exc().splitlines()[-1][:200], good=False, bad='fails'
            )
        bench.report.details.setdefault('seconds', {})[check.__name__] = round(time.perf_counter() - began, 1)
        bench.report.write(asked.out)
    verdicts = [row.verdict for row in bench.report.rows]
    print(
        ', '.join(f'{verdicts.count(kind)} {kind}' for kind in ('works', 'wrong', 'slow', 'fails', 'noted')), f'-> {asked.out}'
    )
    return int(any(verdict in ('wrong', 'fails') for verdict in verdicts))


if __name__ == '__main__':
    sys.exit(main())
