"""The progress of a training on a terminal: two lines that are whole at 80 columns."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

GIGABYTE = 1000  # MB


def progress(values: Mapping[str, Any], last: int, scores: str = '') -> RenderableType:
    """The figures of a step (``Log.step``) of ``last``: a bar with the time left, and below it loss, rates and memory, with the
    ``scores`` of the last evaluation where they fit."""
    step = values['step']
    top = Table.grid(expand=True, padding=(0, 1))
    top.add_column(no_wrap=True)
    top.add_column(ratio=1)
    top.add_column(no_wrap=True, justify='right')
    top.add_row(
        Text(f'epoch {values["epoch"]:.2f}'),
        ProgressBar(total=last, completed=step),
        Text(f'{step}/{last}  {timedelta(seconds=values["seconds_left"])} left'),
    )
    figures = [
        f'loss {values["loss"]:.4f}',
        f'lr {values["lr"]:.1e}',
        f'{values["img_per_s"]:.1f} img/s',
        f'data {values["data_share"]:.0%}',
        f'{values["memory_mb"] / GIGABYTE:.1f} GB',
    ]
    if values['loss_scale'] != 1:
        figures.append(f'scale {values["loss_scale"]:g}')
    for name, text in (('overflows', 'skipped'), ('broken', 'broken samples')):
        if values[name]:
            figures.append(f'{text} {values[name]}')
    bottom = Text('  '.join([*figures, *([scores] if scores else [])]), no_wrap=True, overflow='ellipsis')
    return Group(top, bottom)
