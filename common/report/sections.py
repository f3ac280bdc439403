"""The sections of the page. Each takes the runs' records and gives HTML, empty when there is nothing to show."""

import html
import json
import os
import shlex
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence

import numpy as np

from twinseg.common import tasks
from twinseg.common.data.base import Dataset
from twinseg.common.data.open import open_validation
from twinseg.common.errors import DataError
from twinseg.common.files import read_bounded, resolved
from twinseg.common.images.drawing import data_uri, shrink
from twinseg.common.inference.runs import Run
from twinseg.common.printable import printable
from twinseg.common.report import chart, verdicts
from twinseg.common.report.records import MAX_FILE, Record
from twinseg.common.report.results_table import hardware, hours, recipe_of, sizes
from twinseg.common.tasks.base import Picture, PictureRow

MOST_CLASSES = 100  # most classes in their table
WIDTH = 512  # pixels of a picture
LOOKED_AT = 16  # validation images among which the worst are chosen


def escape(text: str) -> str:
    """Text as HTML; what a file's name holds beside letters is shown as escapes."""
    return html.escape(printable(text))


def summary(records: Sequence[Record], networks: dict[str, Run]) -> str:
    """A card for each run: its scores, its length and speed, where it ran."""
    cards = []
    for index, record in enumerate(records):
        best, facts = record.best or {}, []
        if record.name in networks:
            run = networks[record.name]
            facts += [f'{run.backend.name} on {run.meta.device or "an unknown device"}']
        facts += [f'best of {len(record.evaluations)} evaluations: step {best["step"]}' if best else 'not evaluated']
        if record.steps:
            last = record.steps[-1]
            speed = [] if last.get('img_per_s') is None else [f'{last["img_per_s"]:.1f} images/s']
            facts += [f'{last["step"]} steps', *speed, f'{last.get("overflows", 0)} steps skipped']
        if record.name in networks:
            meta = networks[record.name].meta
            facts += [hardware(meta)] if meta.machine else []
            facts += [f'{name} {version}' for name, version in meta.versions.items()]
        facts += [f'{time} hours'] if (time := hours(record)) is not None else []
        facts += [f'recipe {recipe_of(record.config)}']
        figures = ''.join(
            f'<div><b>{_figure(best.get(key))}</b><span>{key}{"" if key == "loss" else ", %"}</span></div>'
            for key in record.figures
        )
        cards.append(
            f'<article class="card {_style(index)}"><h3>{escape(record.name)}</h3>'
            f'<div class="figures">{figures}</div><p>{escape(" · ".join(facts))}</p>'
            f'<p><code>{escape(command_of(record))}</code></p></article>'
        )
    return f'<section>{_verdict(verdicts.of_scores(records))}<div class="cards">{"".join(cards)}</div></section>'


def command_of(record: Record) -> str:
    """The command that trains a run again: from its recipe, or where keys of it were changed from its own configuration."""
    name = record.config.runtime.recipe
    folder = Path(os.path.relpath(record.folder)) if record.folder.is_relative_to(Path.cwd()) else record.folder
    unchanged = name is not None and recipe_of(record.config) == name
    return f'twinseg train {name if unchanged else shlex.quote(str(folder / "config.yaml"))}'


def curves(records: Sequence[Record]) -> str:
    """Loss, mIoU or top-1, and learning rate over the steps, the runs over each other."""

    def series(kind: str, key: str) -> list[chart.Series]:
        curves = []
        for record in records:
            points = [(line['step'], line[key]) for line in getattr(record, kind) if line.get(key) is not None]
            curves.append(chart.Series(record.name, np.array(points, float).reshape(-1, 2)))
        return curves

    figure = records[0].figures[0]
    charts = [
        chart.lines('Training loss', series('steps', 'loss'), x_axis='step', y_axis='loss', smooth=True),
        chart.lines(f'Validation {figure}', series('evaluations', figure), x_axis='step', y_axis=f'{figure}, %', markers=True),
        chart.lines('Learning rate', series('steps', 'lr'), x_axis='step', y_axis='learning rate'),
    ]
    verdict = _verdict(verdicts.of_curves(records))
    return f'<section><h2>Curves</h2>{verdict}<div class="charts">{"".join(charts)}</div></section>'


def classes_over_time(records: Sequence[Record]) -> str:
    """The scores of the hardest classes over the steps, a chart for each run."""
    charts = []
    for record in records:
        key = tasks.of(record.config.task).CLASS_FIGURE
        if record.best is None or len(record.evaluations) < 2:
            continue
        scored = {name: values[key] for name, values in record.best['classes'].items() if values[key] is not None}
        hardest = sorted(scored, key=lambda name: scored[name])[: chart.STYLES]
        curves = [
            chart.Series(
                name,
                np.array(
                    [
                        (line['step'], line['classes'][name][key])
                        for line in record.evaluations
                        if line['classes'].get(name, {}).get(key) is not None
                    ],
                    float,
                ).reshape(-1, 2),
            )
            for name in hardest
        ]
        charts.append(
            chart.lines(f'{record.name}: {key} of the hardest classes', curves, x_axis='step', y_axis=f'{key}, %', markers=True)
        )
    return f'<section><h2>Classes over time</h2><div class="charts">{"".join(charts)}</div></section>' if charts else ''


def speed(records: Sequence[Record], networks: dict[str, Run]) -> str:
    """Accuracy against what a network costs: multiply-accumulates, as in ``twinseg results``, of two runs and more, and the
    latency that ``twinseg benchmark --json RUN/benchmark.json`` measured."""
    figure, charts, sentences = records[0].figures[0], [], []
    scored = [(record, record.best[figure]) for record in records if record.best and record.best[figure] is not None]
    counted = [(record.name, _giga_macs(networks[record.name]), score) for record, score in scored if record.name in networks]
    macs = [(name, giga, score) for name, giga, score in counted if giga is not None]
    if len(macs) > 1:
        name, giga, score = min(macs, key=lambda point: point[1])
        sentences.append(f'{name} computes least: {giga:.2f} G MACs an image for {score:.2f} {figure}.')
        charts.append(chart.scatter('Computation against accuracy', macs, x_axis='G MACs an image', y_axis=f'{figure}, %'))
    times = [(record.name, _latency(record.folder), score) for record, score in scored]
    measured = [(name, milliseconds, score) for name, milliseconds, score in times if milliseconds is not None]
    if measured:
        name, milliseconds, score = min(measured, key=lambda point: point[1])
        sentences.append(f'{name} is the fastest: {milliseconds:.1f} ms for {score:.2f} {figure}.')
        charts.append(chart.scatter('Speed against accuracy', measured, x_axis='median latency, ms', y_axis=f'{figure}, %'))
    if not charts:
        return ''
    verdict = _verdict(' '.join(sentences))
    return f'<section><h2>Speed and accuracy</h2>{verdict}<div class="charts">{"".join(charts)}</div></section>'


def _giga_macs(run: Run) -> Optional[float]:
    """Multiply-accumulates of one image, in 10^9; None where no framework can count them."""
    counted = sizes(run.path, run.config, run.meta)
    return None if counted is None else counted[1] / 1e9


def _latency(folder: Path) -> Optional[float]:
    for path in sorted(folder.glob('benchmark*.json')):
        try:
            return 1000 * float(json.loads(read_bounded(path, MAX_FILE))['inference']['median'])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue  # another kind of file
    return None


def classes(records: Sequence[Record], networks: dict[str, Run]) -> str:
    """IoU, or accuracy, per class at the best evaluation, side by side."""
    shown = [(index, record.name, record.best) for index, record in enumerate(records) if record.best]
    if not shown:
        return ''
    palette = next((run.meta.palette for run in networks.values() if run.meta.palette), None)

    def row(head: str, values: list[Optional[float]]) -> str:
        bars = ''.join(
            f'<td class="bar {_style(index)}"><i style="width:{value or 0:.1f}%"></i><span>{_figure(value)}</span></td>'
            for (index, _, _), value in zip(shown, values)
        )
        return _row(head, bars + ''.join(f'<td class="number">{_difference(values[0], value)}</td>' for value in values[1:]))

    names = [escape(name) for _, name, _ in shown]
    head = ['class', *names, *(['difference'] if len(shown) == 2 else [f'{name} - {names[0]}' for name in names[1:]])]
    task = tasks.of(records[0].config.task)
    key = task.CLASS_FIGURE
    first = shown[0][2]['classes']
    chosen = set(sorted(first, key=lambda name: (first[name][key] is None, first[name][key]))[:MOST_CLASSES])
    rows = [
        row(
            (_swatch(palette, number) if task.HAS_COLOURS else '') + escape(name),
            [best['classes'][name][key] for _, _, best in shown],
        )
        for number, name in enumerate(first)
        if name in chosen
    ]
    rows.append(row('<b>mean</b>', [best[f'm{key}'] for _, _, best in shown]))
    note = f' {len(first) - len(chosen)} classes with higher values are left out.' if len(chosen) < len(first) else ''
    return (
        f'<section><h2>{key} per class, %</h2>{_verdict(verdicts.of_classes(records))}{_table("classes", rows, head)}'
        f'<p class="note">n/a: the class is absent; it is left out of the mean.{note}</p></section>'
    )


def confusion(records: Sequence[Record]) -> str:
    """The confusion matrix of each run's best evaluation, each row in percent of its class."""
    figures = []
    for record in records:
        if record.best and 'confusion' in record.best:
            matrix, names = np.array(record.best['confusion'], float), [escape(name) for name in record.best['classes']]
            total = matrix.sum(1, keepdims=True)
            shares = np.divide(100 * matrix, total, out=np.zeros_like(matrix), where=total > 0)
            rows = [
                _row(name, ''.join(_share(name, other, share) for other, share in zip(names, row)))
                for name, row in zip(names, shares)
            ]
            table = _table('confusion', rows, ['', *(f'<span>{name}</span>' for name in names)])
            figures.append(f'<figure><figcaption>{escape(record.name)}</figcaption>{table}</figure>')
    if not figures:
        return ''
    counted = tasks.of(records[0].config.task).COUNTED
    return (
        f'<section><h2>Confusion matrix</h2>{_verdict(verdicts.of_confusion(records))}'
        f'<p class="note">Rows: the truth; columns: the prediction. Percent of the '
        f"{counted} of the row's class; what is below 1 is left blank.</p>"
        f'<div class="matrices">{"".join(figures)}</div></section>'
    )


def pictures(networks: dict[str, Run], excuses: dict[str, str], count: int) -> str:
    """Images spread over the validation split: image, truth, and what each network sees."""
    notes = [f'{name}: {excuse}' for name, excuse in excuses.items()]
    body = ''
    if networks and count:
        config = next(iter(networks.values())).config
        try:
            dataset = open_validation(config.data)
            chosen = np.unique(np.linspace(0, len(dataset) - 1, max(count, LOOKED_AT)).astype(int)).tolist()
            task, trained = tasks.of(config.task), {name: run.trained() for name, run in networks.items()}
            rows = task.report_pictures(dataset, chosen, trained, count)
            body = _verdict(f'Of {len(chosen)} validation images, those of which the networks see least come first.')
            body += (_legend(dataset) if task.HAS_COLOURS else '') + ''.join(map(_pictures, rows))
        except DataError as error:
            notes.append(str(error))
    body += ''.join(f'<p class="note">No pictures of {escape(note)}</p>' for note in notes)
    return f'<section><h2>Pictures</h2>{body}</section>' if body else ''


def files(records: Sequence[Record], folder: Path) -> str:
    """Results of `twinseg parity` and `twinseg export` that lie in the run folders or beside the page."""
    parts = []
    for directory, name in [(resolved(folder), ''), *((record.folder, f'{record.name}: ') for record in records)]:
        for path in [*sorted(directory.glob('parity*.json')), *sorted(directory.glob('export*.json'))]:
            try:
                content = _json(json.loads(read_bounded(path, MAX_FILE)))
            except (OSError, ValueError, RecursionError) as error:
                content = escape(f'not readable: {error}')
            parts.append(f'<h3>{escape(name + path.stem)}</h3>{content}')
    return f'<section><h2>Parity and exports</h2>{"".join(parts)}</section>' if parts else ''


def settings(records: Sequence[Record]) -> str:
    """All configuration keys; those in which the runs differ stand out."""
    columns = [
        {key: json.dumps(value) for group in record.config.model_dump().values() for key, value in group.items()}
        for record in records
    ]
    rows = []
    for key in columns[0]:
        values = [column[key] for column in columns]
        rows.append(_row(key, _cells(escape(value) for value in values), 'differs' if len(set(values)) > 1 else ''))
    table = _table('facts', rows, ['key', *(escape(record.name) for record in records)])
    return f'<section><details><summary>Configuration</summary>{table}</details></section>'


def _pictures(row: PictureRow) -> str:
    title = '' if row.title is None else f'<h4>{escape(row.title)}</h4>'
    return f'{title}<div class="pictures">{"".join(map(_picture, row.pictures))}</div>'


def _picture(picture: Picture) -> str:
    uri = data_uri(shrink(picture.pixels, WIDTH, smooth=picture.is_photo), '.jpg' if picture.is_photo else '.png')
    caption = '<br>'.join(map(escape, picture.lines))
    return f'<figure><img src="{uri}" alt="{escape(picture.lines[0])}"><figcaption>{caption}</figcaption></figure>'


def _legend(dataset: Dataset) -> str:
    about = dataset.description
    names = [_swatch(about.palette, number) + escape(name) for number, name in enumerate(about.classes)]
    return f'<ul class="legend"><li>{"</li><li>".join([*names, _swatch([(0, 0, 0)], 0) + "not labelled"])}</li></ul>'


def _json(content: Any) -> str:
    """JSON as tables: mappings become key and value, a list of mappings rows, another list its items, anything else text."""
    if isinstance(content, dict):
        return _table('facts', [_row(escape(str(key)), _cells([_json(value)])) for key, value in content.items()])
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        first, *keys = dict.fromkeys(key for row in content for key in row)
        rows = [_row(_json(row.get(first)), _cells(_json(row.get(key)) for key in keys)) for row in content]
        return _table('facts', rows, [escape(str(key)) for key in (first, *keys)])
    if isinstance(content, list):
        return ', '.join(map(_json, content))
    if content is None or isinstance(content, bool):
        return {True: 'yes', False: 'no', None: ''}[content]
    if isinstance(content, float):
        return f'{content:.4g}'
    return escape(str(content))


def _table(style: str, rows: Iterable[str], head: Sequence[str] = ()) -> str:
    titles = f'<thead><tr>{"".join(f"<th>{text}</th>" for text in head)}</tr></thead>' if head else ''
    return f'<div class="scroll"><table class="{style}">{titles}<tbody>{"".join(rows)}</tbody></table></div>'


def _row(head: str, cells: str, style: str = '') -> str:
    return f'<tr class="{style}"><th scope="row">{head}</th>{cells}</tr>'


def _cells(texts: Iterable[str]) -> str:
    return ''.join(f'<td>{text}</td>' for text in texts)


def _share(name: str, other: str, share: float) -> str:
    text = f'{share:.0f}' if share >= 1 else ''
    return f'<td style="--p:{share:.0f}%" title="{name} seen as {other}: {share:.2f} %">{text}</td>'


def _verdict(text: str) -> str:
    return f'<p class="verdict">{escape(text)}</p>' if text else ''


def _style(index: int) -> str:
    return f's{index % chart.STYLES}'


def _figure(value: Optional[float]) -> str:
    return 'n/a' if value is None else f'{value:.2f}'


def _difference(first: Optional[float], second: Optional[float]) -> str:
    return 'n/a' if first is None or second is None else f'{second - first:+.2f}'


def _swatch(palette: Any, number: int) -> str:
    if palette is None:
        return ''
    red, green, blue = (int(channel) for channel in palette[number])
    return f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'
