"""Records of runs, read from their folders."""

from pathlib import Path
from typing import NamedTuple, Optional, Sequence

from twinseg.common import config as configuration
from twinseg.common import metrics_file, tasks
from twinseg.common.config import Config
from twinseg.common.errors import UserError
from twinseg.common.files import resolved
from twinseg.common.metrics_file import Line
from twinseg.common.printable import printable

MAX_FILE = 1 << 26  # bytes of a JSON file beside a run, or of a page of results


class Record(NamedTuple):
    """A run: its configuration, and the lines of ``metrics.jsonl`` by kind."""

    name: str
    folder: Path
    config: Config
    steps: list[Line]
    evaluations: list[Line]

    @property
    def best(self) -> Optional[Line]:
        """The evaluation with the highest mIoU, or top-1: the one that ``best.safetensors`` belongs to."""
        return max(self.evaluations, key=lambda line: line[self.figures[0]] or 0.0, default=None)

    @property
    def figures(self) -> tuple[str, ...]:
        """The scores that a reader sees first."""
        return tasks.of(self.config.task).FIGURES


def read_runs(folders: Sequence[Path]) -> list[Record]:
    """The records of run folders, under names that tell them apart; UserError for a folder that is no run."""
    if not folders:
        raise UserError('report: name at least one run folder')
    paths = [resolved(folder) for folder in folders]
    distinct = len({path.name for path in paths}) == len(paths)
    records = [read_run(path, printable(path.name if distinct else f'{path.parent.name}/{path.name}')) for path in paths]
    classes = [list(record.best['classes']) for record in records if record.best]
    if any(names != classes[0] for names in classes):
        raise UserError('report: the runs were evaluated over different classes; make a page for each')
    if len({record.config.task for record in records}) > 1:
        raise UserError('report: some of the runs segment, some classify; make a page for each kind')
    return records


def read_run(folder: Path, name: str = '') -> Record:
    """The record of a run folder; UserError for a folder that is none."""
    settings, metrics = folder / 'config.yaml', folder / metrics_file.NAME
    if not settings.is_file() or not metrics.is_file():
        raise UserError(f'{folder}: not a run folder: expected config.yaml and metrics.jsonl, as `twinseg train` writes them')
    config = configuration.load(settings)
    task = tasks.of(config.task)
    lines = metrics_file.read(metrics, task.FIGURES, task.CLASS_FIGURE)
    return Record(name, folder, config, lines.steps, lines.evaluations)
