"""The charts of the page as PNG files for a paper, drawn by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twinseg.common.errors import UserError, require
from twinseg.common.files import written_beside
from twinseg.common.report.records import Record

SIZE = (5.0, 3.2)  # inches: a column of a two-column paper is 3.3 to 3.5 wide
DPI = 300


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes ``loss.png``, ``score.png`` and ``learning_rate.png`` into a folder; returns their paths. UserError where it
    cannot be written, BackendError without matplotlib."""
    require('matplotlib', 'report')
    figure = records[0].figures[0]
    charts = {
        'loss': ('steps', 'loss', 'training loss'),
        'score': ('evaluations', figure, f'validation {figure}, %'),
        'learning_rate': ('steps', 'lr', 'learning rate'),
    }
    written = []
    for name, (kind, key, label) in charts.items():
        path = folder / f'{name}.png'
        try:
            with written_beside(path) as part:
                _draw(records, kind, key, label).savefig(part, dpi=DPI, format='png')
        except OSError as error:
            raise UserError(f'{path}: not written: {error.strerror}; choose another folder with --png') from None
        written.append(path)
    return written


def _draw(records: Sequence[Record], kind: str, key: str, label: str) -> Any:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=SIZE, layout='constrained')
    axes = drawn.add_subplot()
    for record in records:
        points = [(line['step'], line[key]) for line in getattr(record, kind) if line.get(key) is not None]
        if points:
            axes.plot(
                *zip(*points), label=record.name, marker='o' if kind == 'evaluations' else None, markersize=3, linewidth=1.2
            )
    axes.set_xlabel('step')
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if len(records) > 1:
        axes.legend()
    return drawn
