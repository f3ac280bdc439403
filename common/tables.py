"""What the command line prints: tables and progress."""
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from common import metrics
from common.metrics import Scores

console = Console()


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same keys, as a table."""
    table = Table(title=title, title_justify='left', header_style='bold')
    for key in rows[0] if rows else ():
        table.add_column(key, justify='right' if isinstance(rows[0][key], (int, float)) else 'left', overflow='fold')
    for row in rows:
        table.add_row(*(Text('' if value is None else str(value)) for value in row.values()))
    _print(table)


def show_scores(scores: Scores, conditions: Mapping[str, Any]) -> None:
    """The classes, the means, and the conditions that they hold under."""
    columns = {'IoU': scores.iou, 'Acc': scores.accuracy, 'precision': scores.precision, 'F1': scores.f1}
    if scores.boundary_iou is not None:
        columns['boundary IoU'] = scores.boundary_iou
    table = Table(header_style='bold')
    table.add_column('class')
    for key in columns:
        table.add_column(key, justify='right')
    for index, name in enumerate(scores.classes):
        table.add_row(Text(name), *(metrics.show(values[index]) for values in columns.values()))
    table.add_section()
    table.add_row('mean', *(metrics.show(metrics.mean(values)) for values in columns.values()))
    _print(table)
    console.print(f'mIoU {metrics.show(scores.miou)}  mAcc {metrics.show(scores.macc)}  aAcc {metrics.show(scores.aacc)}',
                  highlight=False)
    show_facts(conditions)


def show_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, a line each."""
    for key, value in facts.items():
        text = f'{value:.3g}' if isinstance(value, float) else str(value)
        console.print(f'{key}: {text}', markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal: yields a function of (done, all)."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(table: Table) -> None:
    """On a terminal at its width; into a file or pipe as wide as the table is."""
    wide = console if console.is_terminal else Console(width=250)
    wide.print(table, highlight=False)
