"""Output of the command line: tables, facts, progress."""

import errno
import json
import math
import os
import select
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Sequence, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twinseg.common.printable import one_line, printable

if TYPE_CHECKING:
    from twinseg.common.metrics import ImageScores, Scores

MOST_CLASSES = 100  # most classes of a classifier that are printed: those with the lowest accuracy
MOST_PROBLEMS = 20  # most problems of a data set that are printed; browse.json has all of them

INDENT: dict[str, Any] = {'initial_indent': '    ', 'subsequent_indent': '    ', 'break_on_hyphens': False}

console = Console()


class Lasting:
    """A stream that a command outlives: what is printed after its reader has ended (a closed terminal, ``| head``) is lost."""

    def __init__(self, output: TextIO):
        self.output = output
        self.rich_proxied_file = self  # what rich writes to while it replaces sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self.output, name)

    def write(self, text: str) -> int:
        """Prints; OSError for other reasons than a reader that has ended."""
        return self._survive(lambda: self.output.write(text)) or len(text)

    def flush(self) -> None:
        """Flushes; OSError likewise."""
        self._survive(self.output.flush)

    def _survive(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE) or not leave_ended_readers():
                raise
            return None


@contextmanager
def outliving_readers() -> Iterator[None]:
    """A context in which no print ends the command because nobody reads it any more."""
    before = sys.stdout, sys.stderr
    lasting: Any = [stream if isinstance(stream, Lasting) else Lasting(stream) for stream in before]
    sys.stdout, sys.stderr = lasting
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def leave_ended_readers() -> bool:
    """Lets what this process prints from now on go nowhere, if it went to a terminal that was closed, or to a pipe that nobody
    reads any more; whether there was one."""
    ended = []
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        ended += [descriptor for _, events in poll.poll(0) if events & (select.POLLHUP | select.POLLERR)]
    if ended:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in ended:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return bool(ended)


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same keys, as a table."""
    table = Table(title=title, title_justify='left', header_style='bold')
    for key in rows[0] if rows else ():
        table.add_column(key, justify='right' if isinstance(rows[0][key], (int, float)) else 'left', overflow='fold')
    for row in rows:
        table.add_row(*(Text('' if value is None else printable(value)) for value in row.values()))
    _print(table)


def show_entries(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of long texts: the first value of each on a line of its own, the others below it, as wide as the terminal is."""
    console.print(f'{title}: {len(rows)}', style='bold', highlight=False)
    text = Text()
    for row in rows:
        first, *others = row.items()
        text.append(printable(first[1]) + '\n', style='bold')
        for key, value in others:
            if value not in (None, ''):  # a line of more than the terminal has is wrapped here: rich takes ten times as long
                text.append('\n'.join(textwrap.wrap(f'{key}: {printable(value)}', console.width, **INDENT)) + '\n')
    console.print(text, soft_wrap=True, end='')


def show_image_scores(scores: 'ImageScores') -> None:
    """The classes and the means of a classification."""
    from twinseg.common import metrics

    order = sorted(range(len(scores.classes)), key=lambda index: (math.isnan(scores.accuracy[index]), scores.accuracy[index]))
    left_out = max(len(order) - MOST_CLASSES, 0)
    chosen = sorted(order) if not left_out else order[:MOST_CLASSES]
    show(
        '',
        [
            {'class': scores.classes[index], 'Acc': metrics.show(scores.accuracy[index]), 'images': int(scores.images[index])}
            for index in chosen
        ],
    )
    if left_out:
        console.print(f'... and {left_out} classes with higher accuracy, or without images')
    console.print(
        f'top1 {metrics.show(scores.top1)}  top5 {metrics.show(scores.top5)}  loss {scores.loss:.4f}  '
        f'mAcc {metrics.show(scores.macc)}  of {int(scores.images.sum())} images',
        highlight=False,
    )
    if scores.broken:
        console.print(f'{scores.broken} images could not be read and do not count', style='red')


def show_pixel_scores(scores: 'Scores') -> None:
    """The classes and the means of a segmentation."""
    from twinseg.common import metrics

    columns = {'IoU': scores.iou, 'Acc': scores.accuracy, 'precision': scores.precision, 'F1': scores.f1}
    if scores.boundary_iou is not None:
        columns['boundary IoU'] = scores.boundary_iou
    table = Table(header_style='bold')
    table.add_column('class')
    for key in columns:
        table.add_column(key, justify='right')
    for index, name in enumerate(scores.classes):
        table.add_row(Text(printable(name)), *(metrics.show(values[index]) for values in columns.values()))
    table.add_section()
    table.add_row('mean', *(metrics.show(metrics.mean(values)) for values in columns.values()))
    _print(table)
    console.print(
        f'mIoU {metrics.show(scores.miou)}  mAcc {metrics.show(scores.macc)}  aAcc {metrics.show(scores.aacc)}', highlight=False
    )


UNITS = dict.fromkeys(('difference', 'differences', 'tolerance'), ' of the largest logit')


def show_facts(facts: Mapping[str, Any]) -> None:
    """Names, as in ``--json``, and values in two columns; mappings and lists in words, numbers with their units."""
    rows = [(f'{key}:', fact_of(key, value)) for key, value in facts.items()]
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        console.print(f'{one_line(name):{width}} {one_line(text)}', markup=False, highlight=False, soft_wrap=True)


def fact_of(key: str, value: Any) -> str:
    """A value as people read it, with the unit that its name gives it."""
    if key == 'bytes' and isinstance(value, Mapping):
        return ', '.join(f'{name} {fact_of(key, part)}' for name, part in value.items())
    if key == 'bytes' and isinstance(value, int):
        return f'{value / 1e6:.1f} MB'
    if key == 'input_shape':
        return ' x '.join(map(str, value))
    return f'{fact(value)}{" points" if key.endswith(" lost") else UNITS.get(key, "")}'


def fact(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:.3g}'
    if isinstance(value, Mapping):
        return ', '.join(f'{key} {fact(part)}' for key, part in value.items()) or 'none'
    if isinstance(value, (list, tuple)):
        return ', '.join(map(fact, value)) or 'none'
    return 'none' if value is None else str(value)


def show_predicted(path: Path) -> None:
    """The path of a file that a prediction wrote; of a classifier's, what it holds, too."""
    print(printable(path), flush=True)
    if path.name == 'predictions.json':
        show_likeliest(json.loads(path.read_text(encoding='utf-8')))


def show_likeliest(images: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """The likeliest classes of every image, the best first, as ``predictions.json`` holds them."""
    show(
        'likeliest classes',
        [
            {
                'image': image,
                **{str(rank): f'{guess["class"]} {100 * guess["probability"]:.1f} %' for rank, guess in enumerate(guesses, 1)},
            }
            for image, guesses in images.items()
        ],
    )


def show_parity(result: Mapping[str, Any]) -> None:
    """Prints the comparisons of ``parity``, a row each."""
    conditions = result['conditions']
    show(
        f'{conditions["arch"]}: PyTorch and MindSpore, {conditions["steps"]} steps at {conditions["amp_level"]}',
        [
            {
                'compared': row['compared'],
                'found': f'{row["found"]:.1e}',
                'tolerance': f'{row["tolerance"]:.1e}',
                'passed': 'yes' if row['passed'] else 'NO',
            }
            for row in result['rows']
        ],
    )


MOST_ROWS = 40  # most rows of a trace that are printed: those of the modules near the surface, and where the sides part


def show_trace(result: Mapping[str, Any]) -> None:
    """Prints a table by depth, and the answer last."""
    rows = [row for row in result['rows'] if row['side'] == 'output' and row['own'] is not None]
    depth = 1
    while len([row for row in rows if row['layer'].count('.') < depth]) < min(MOST_ROWS // 2, len(rows)):
        depth += 1
    shown = [row for row in result['rows'] if row['parts'] or (row in rows and row['layer'].count('.') < depth)]

    def number(value: Any) -> str:
        return '' if value is None else f'{value:.1e}'

    console.print(one_line(f'A: {result["first"]}'), markup=False, highlight=False, soft_wrap=True)
    console.print(one_line(f'B: {result["second"]}'), markup=False, highlight=False, soft_wrap=True)
    show(
        'differences between A and B, of the largest magnitude',
        [
            {
                'tensor': row['tensor'],
                'end to end': number(row['end_to_end']),
                'its noise': number(row['floor_end_to_end']),
                'by itself': number(row['own']),
                'most by noise': number(row['limit']),
                'parts': 'PARTS' if row['parts'] else '',
            }
            for row in shown[: 2 * MOST_ROWS]
        ],
    )
    for label, names in result['unmatched'].items():
        text = f'only in {label}: {", ".join(names[:12])}{f", ... ({len(names)})" if len(names) > 12 else ""}'
        console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)
    for key in ('layers matched', 'weights', 'stopped'):
        if key in result['conditions']:
            value = result['conditions'][key]
            text = ', '.join(f'{count} by {how}' for how, count in value.items()) if isinstance(value, dict) else value
            console.print(one_line(f'{key}: {text}'), markup=False, highlight=False, soft_wrap=True)
    for cause in result['causes'][1:]:
        console.print(one_line(f'also: {_with_share(cause)}'), markup=False, highlight=False, soft_wrap=True)
    for section in result['sections']:
        console.print(one_line(section['sentence']), markup=False, highlight=False, soft_wrap=True)
    answer = _with_share(result['causes'][0]) if result['causes'] else result['sentence']
    console.print(one_line(answer), style='bold', markup=False, highlight=False, soft_wrap=True)


def _with_share(cause: Mapping[str, Any]) -> str:
    share = '' if cause['share'] is None else f' (alone it changes the output by {cause["share"]:.1e} of its largest magnitude)'
    return f'{cause["sentence"]}{share}'


def show_benchmark(result: Mapping[str, Any]) -> None:
    """Prints the measurements of ``benchmark`` and their conditions."""
    names = {'inference': 'inference', 'training': 'training step'}
    show(
        f'{result["arch"]} at {result["input_size"][0]}x{result["input_size"][1]}: '
        f'{result["parameters"] / 1e6:.3f} M parameters ({result["parameters_inference"] / 1e6:.3f} M without '
        f'auxiliary heads), {result["macs"] / 1e9:.3f} G MACs',
        [
            {
                'what': names[key],
                'batch': timing['batch'],
                'median ms': round(timing['median'] * 1000, 2),
                'p10 ms': round(timing['p10'] * 1000, 2),
                'p90 ms': round(timing['p90'] * 1000, 2),
                'first ms': round(timing['first'] * 1000, 1),
                'images/s': round(timing['images_per_second'], 2),
                'peak MB': round(timing['memory']),
                **({'device MB': round(timing['device_memory'])} if timing['device_memory'] is not None else {}),
            }
            for key in names
            if (timing := result.get(key))
        ],
    )
    show_facts(
        {
            'backend': f'{result["backend"]} on {result["device"]}',
            'precision': f'{result["amp_level"]} ({result["dtype"]})',
            **result['machine'],
            **result['versions'],
        }
    )


def show_browse(summary: Mapping[str, Any]) -> None:
    """Prints the summary that ``browse`` returned."""
    splits = summary['splits']
    show(
        summary['set'],
        [
            {
                'split': split,
                'images': facts['images'],
                'sizes': _image_sizes(facts['sizes']),
                'ignored %': facts['ignored'],
                'problems': len(facts['problems']),
            }
            for split, facts in splits.items()
        ],
    )
    names = list(next(iter(splits.values()))['classes'])
    pixels = next(iter(splits.values()))['ignored'] is not None
    show(
        f'per cent of the {"labelled pixels" if pixels else "images"}',
        [{'class': name, **{split: facts['classes'][name] for split, facts in splits.items()}} for name in names],
    )
    problems = summary['problems']
    for problem in problems[:MOST_PROBLEMS]:
        console.print(f'problem: {printable(problem)}', style='red', markup=False, highlight=False, soft_wrap=True)
    if len(problems) > MOST_PROBLEMS:
        console.print(f'... and {len(problems) - MOST_PROBLEMS} more problems in browse.json')
    for warning in summary['warnings']:
        console.print(f'warning: {warning}', style='yellow', markup=False, highlight=False, soft_wrap=True)
    if not problems:
        console.print('no problems found')
    if 'picture' in summary:
        show_facts({'picture': summary['picture']})


def _image_sizes(sizes: dict[str, int]) -> str:
    return ', '.join(f'{count} of {size}' for size, count in list(sizes.items())[:4]) + (', ...' if len(sizes) > 4 else '')


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal: yields a function of (done, all)."""
    from rich.progress import Progress  # which other commands do without

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(table: Table) -> None:
    """Prints on a terminal at its width, into a file or pipe as wide as the table is."""
    wide = console if console.is_terminal else Console(width=250)
    wide.print(table, highlight=False)
