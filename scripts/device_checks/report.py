"""Rows with a verdict, written as JSON and as a page, and the state that the checks share."""

import copy
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from twinseg.common import config as configuration
from twinseg.common.backend import get_backend
from twinseg.common.config import Config

TORCH_NAMES = {'cpu': 'cpu', 'gpu': 'cuda', 'ascend': 'npu'}
# docs/design.md, section 4: of the largest magnitude, but gradients in the L2 norm.
LOGITS, GRADIENT, EXPORTED = 1e-5, 1e-3, 1e-4
DRIFT = 3  # times the host's own distance from float64
VERDICTS = ('works', 'wrong', 'slow', 'fails', 'noted')
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
    """What is known of a device: ``rows`` for people, ``details`` with all figures."""

    device: str
    machine: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def row(self, check: str, what: str, value: str, expected: str = '', good: bool | None = None, bad: str = 'wrong') -> None:
        """Adds a row; ``bad``: the verdict where it is not ``good``, None where nothing is expected."""
        self.rows.append(Row(check, what, value, expected, 'noted' if good is None else 'works' if good else bad))
        print(*(part for part in asdict(self.rows[-1]).values() if part), sep=' | ', flush=True)

    def failure(self, check: str, what: str, error: Exception) -> None:
        """Adds a row for what ended with an error."""
        reason = (str(error).splitlines() or [''])[0][:160]
        self.row(check, what, f'{type(error).__name__}: {reason}', good=False, bad='fails')

    def take(self, other: 'Report') -> None:
        """Adds the rows and details of a report of other checks on the same device."""
        self.rows += other.rows
        for key, value in other.details.items():
            self.details[key] = {**self.details[key], **value} if key in self.details else value

    def count(self) -> dict[str, int]:
        """Verdict -> number of rows."""
        given = [row.verdict for row in self.rows]
        return {verdict: given.count(verdict) for verdict in VERDICTS}

    def write(self, folder: Path, order: list[str]) -> None:
        """Writes ``first_light.json`` and ``first_light.md``, the rows in the ``order`` of their checks."""
        self.rows.sort(key=lambda row: order.index(row.check))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'first_light.json').write_text(json.dumps(asdict(self), indent=1, default=str) + '\n', encoding='utf-8')
        facts = '\n'.join(f'- {key}: {value}' for key, value in self.machine.items())
        table = '\n'.join(f'| {" | ".join(map(_cell, asdict(row).values()))} |' for row in self.rows)
        counts = ', '.join(f'{number} {verdict}' for verdict, number in self.count().items())
        (folder / 'first_light.md').write_text(
            f'# First light: {self.machine.get("device", self.device)}\n\n{facts}\n\n{counts}\n\n'
            f'| check | what | value | expected | verdict |\n| --- | --- | --- | --- | --- |\n{table}\n',
            encoding='utf-8',
        )


def _cell(text: str) -> str:
    return text.replace('|', '\\|')


class Bench:
    """State that the checks share: backend and device, the size of the work, the time that is left, and the report."""

    def __init__(self, backend: str, device: str, quick: bool, minutes: float):
        self.backend, self.host = get_backend(backend), get_backend('pytorch')
        self.device, self.quick = device, quick
        self.ends = time.monotonic() + 60 * minutes
        self.report = Report(device)
        self.torch_name = TORCH_NAMES[device]
        self.in_torch = backend == 'pytorch'

    def beside(self) -> 'Bench':
        """The same bench with a report of its own, for checks in another thread."""
        other = copy.copy(self)
        other.report = Report(self.device)
        return other

    @property
    def accelerator(self) -> Any:
        """``torch.cuda`` or ``torch.npu``; None on a CPU, and where MindSpore computes."""
        return getattr(torch, self.torch_name) if self.in_torch and self.device != 'cpu' else None

    def on_host(self) -> None:
        """PyTorch's networks built from here on lie on the CPU."""
        self.host.setup('cpu', seed=0)

    def on_device(self) -> None:
        """Networks built from here on lie on the device."""
        self.backend.setup(self.device, seed=0)

    def lacks(self, check: str, what: str, needs: Any) -> bool:
        """Whether ``needs``, what a check runs on, is not there; adds a row then."""
        if not needs:
            self.report.row(check, what, f'not run: not for {self.backend.name} on {self.device}')
        return not needs

    def late(self, check: str, what: str) -> bool:
        """Whether the time is over; adds a row then."""
        if over := time.monotonic() > self.ends:
            self.report.row(check, what, 'not run: the time was over (--minutes)')
        return over

    def synchronise(self) -> None:
        """Waits until the device has done what it was given."""
        if self.accelerator:
            self.accelerator.synchronize()

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

    def seconds_in_a_row(self, run: Callable[[], Any], count: int) -> float:
        """Mean seconds of calls, after three that do not count; the device is waited for before the first and after the last,
        so that the host may run ahead in between."""
        for _ in range(3):
            run()
        self.synchronise()
        began = time.perf_counter()
        for _ in range(count):
            run()
        self.synchronise()
        return (time.perf_counter() - began) / count

    def step(self, config: Config, batch: int, size: tuple[int, int]) -> tuple[Any, Callable[[], Any]]:
        """A trainer on the device, and its step on random pixels."""
        self.on_device()
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (batch, 3, *size), np.uint8)
        labels = rng.integers(0, 19, (batch, *size)).astype(np.uint8)
        network = self.backend.build_model(config.model.arch, **{'num_classes': 19, **config.model.arguments()})
        trainer = self.backend.make_trainer(network, config)
        return trainer, lambda: trainer.step([(images, labels)], 1e-4)


def recipe(name: str, **keys: Any) -> Config:
    """The configuration of a network of ``RECIPES``, which needs neither weights nor data."""
    config = configuration.load(RECIPES[name]).replace(pretrained=None, **keys)
    return config.replace(class_weight=None) if isinstance(config.loss.class_weight, str) else config
