"""Output of a run: its speed, and the text, metrics and events in its folder. Metrics are data; text is for people alone."""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Iterator, Optional, cast

import numpy as np
from rich.console import Console
from rich.live import Live

from twinseg.common import metrics_file
from twinseg.common.console import Lasting
from twinseg.common.files import write_text
from twinseg.common.metrics_file import Line
from twinseg.common.printable import ESCAPED, printable
from twinseg.common.training import live


def _summary_writer() -> type:
    """tensorboardX's writer. It imports PyTorch where that is installed, for tensors that it never gets here: a second of a
    MindSpore run."""
    absent = 'torch' not in sys.modules
    if absent:
        sys.modules['torch'] = None  # type: ignore[assignment] # importing it is an ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if absent:
            del sys.modules['torch']
    return SummaryWriter


class Clock:
    """Images a second, time left and the share of time spent waiting for data, over the last 50 steps, or the last
    ``interval``: where nobody waits for the device, single steps take no time, and ``interval`` of them theirs."""

    def __init__(self, images: int, last: int, interval: int = 1):
        self.images, self.last = images, last
        self.spans: deque[tuple[float, float]] = deque(maxlen=max(50, interval))  # (seconds of the step, of which waiting)
        self.restart()

    def restart(self) -> None:
        """Leaves out the time since the last step (evaluation, a checkpoint)."""
        self.mark, self.waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose duration counts as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def tick(self) -> None:
        """Ends a step."""
        now = time.perf_counter()
        self.spans.append((now - self.mark, self.waited))
        self.mark, self.waited = now, 0.0

    def figures(self, done: int) -> dict[str, float]:
        seconds, waited = (sum(column) for column in zip(*self.spans))
        per_step = seconds / len(self.spans)
        return {
            'img_per_s': round(self.images / per_step, 2),
            'seconds_left': round(per_step * (self.last - done)),
            'data_share': round(waited / seconds, 4),
        }


class Log:
    """``log.txt``, ``metrics.jsonl``, TensorBoard events and the progress line of a run."""

    def __init__(self, work_dir: Path, step: int, resumed: bool):
        self.console, self.work_dir = Console(file=cast(IO[str], Lasting(sys.stdout))), work_dir
        self.text = (work_dir / 'log.txt').open('a', encoding='utf-8', errors=ESCAPED)
        earlier = [line.get('elapsed', 0) for line in _lines(work_dir / metrics_file.NAME)] if resumed else []
        self.began = time.monotonic() - max(earlier, default=0)
        self._open(step if resumed else None)
        self.live = Live(console=self.console, transient=True, refresh_per_second=4) if self.console.is_terminal else None
        self.scores = ''  # the last evaluation's, for the progress on a terminal

    def __enter__(self) -> 'Log':
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live:
            self.live.stop()
        for file in (self.metrics, self.text, self.events):
            with suppress(OSError):  # a full disk must not hide the run's error
                file.close()

    def rewind(self, step: int) -> None:
        """Removes the metrics of later steps."""
        self.metrics.close()
        self.events.close()
        self._open(step)

    def _open(self, step: Optional[int]) -> None:
        path = self.work_dir / metrics_file.NAME
        earlier = [line for line in _lines(path) if line['step'] <= step] if step is not None else []
        write_text(path, ''.join(json.dumps(line) + '\n' for line in earlier))
        self.overflows = max((line.get('overflows', 0) for line in earlier), default=0)
        self.metrics = path.open('a', encoding='utf-8')
        self.events = _summary_writer()(str(self.work_dir / 'tensorboard'), purge_step=None if step is None else step + 1)

    def line(self, text: str) -> None:
        """A line for people: on the terminal and in log.txt."""
        text = printable(text)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._write(text)

    def _write(self, text: str) -> None:
        _append(self.text, time.strftime('%Y-%m-%d %H:%M:%S  ') + text + '\n')

    def record(self, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl; numbers that are not finite are written as null. ``elapsed`` is added: the seconds that the
        run has taken, those of processes before a resume included."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        clean['elapsed'] = round(time.monotonic() - self.began, 2)
        _append(self.metrics, json.dumps(clean) + '\n')

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        """TensorBoard scalars."""
        for name, value in values.items():
            self.events.add_scalar(f'{group}/{printable(name)}', value, step)

    def pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Pictures for TensorBoard, uint8 (H, W, 3), by name."""
        for name, picture in pictures.items():
            self.events.add_image(f'validation/{printable(name)}', picture, step, dataformats='HWC')

    def settings(self, config: Mapping[str, Any], figure: str, best: Optional[float]) -> None:
        """The configuration for TensorBoard, as text and as hyperparameters of the best score."""
        lines = (printable(f'    {key}: {value}') for key, value in config.items())  # indented: Markdown shows it unchanged
        self.events.add_text('configuration', '\n'.join(lines), 0)
        if best is not None:
            plain = {key: value if isinstance(value, (int, float)) else printable(value) for key, value in config.items()}
            self.events.add_hparams(plain, {f'best/{figure}': best}, name='best')

    def step(self, values: dict[str, Any], keep: bool, last: int) -> None:
        """Shows a step, and writes it to the files when ``keep``."""
        self.overflows += int(values.pop('overflow'))
        values['overflows'] = self.overflows
        left = timedelta(seconds=values['seconds_left'])
        text = (
            f'step {values["step"]}/{last}  epoch {values["epoch"]:.2f}  loss {values["loss"]:.4f}  lr {values["lr"]:.2e}  '
            f'scale {values["loss_scale"]:g}  skipped {self.overflows}  {values["img_per_s"]:.1f} img/s  '
            f'left {left}  data {values["data_share"]:.0%}'
        )
        if values['broken']:
            text += f'  broken samples {values["broken"]}'
        if self.live:
            self.live.update(live.progress(values, last, self.scores))
        if keep:
            self.record(values)
            self.scalars('train', {k: v for k, v in values.items() if isinstance(v, float) and k != 'epoch'}, values['step'])
            if self.live:
                self._write(text)
            else:
                self.line(text)


class Silence(Log):
    """The log of a process that writes none."""

    def __init__(self) -> None:
        self.overflows, self.live, self.scores = 0, None, ''

    def __exit__(self, *_: Any) -> None:
        pass

    def rewind(self, step: int) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def record(self, values: dict[str, Any]) -> None:
        pass

    def scalars(self, group: str, values: dict[str, float], step: int) -> None:
        pass

    def pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        pass

    def settings(self, config: Mapping[str, Any], figure: str, best: Optional[float]) -> None:
        pass


def _append(file: IO[str], text: str) -> None:
    """Appends to a file now; OSError names it."""
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        error.filename = file.name
        raise


def _lines(path: Path) -> list[Line]:
    """The whole lines of a metrics file; none where there is no file. UserError for what no run writes."""
    return metrics_file.read(path).all if path.is_file() else []
