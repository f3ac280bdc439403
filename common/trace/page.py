"""The page of a trace: difference against depth, the modules coloured by it, the worst channels side by side."""

import base64
import html
import math
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from twinseg.common.report import chart, frame
from twinseg.common.trace.result import Row, Trace

STYLE = Path(__file__).with_name('page.css')
SMALLEST = 1e-9  # difference at the bottom of the logarithmic chart
MOST_WIDTH = 640  # pixels of a picture


def write_page(trace: Trace, out: Path) -> None:
    """Writes one self-contained HTML file; UserError where it cannot be written."""
    outputs = [row for row in trace.rows if row.event.side == 'output' and row.own is not None]

    def series(name: str, value: 'list[float]') -> chart.Series:
        points = [(index, math.log10(max(v, SMALLEST))) for index, v in enumerate(value) if math.isfinite(v)]
        return chart.Series(name, np.array(points).reshape(-1, 2))

    lines = chart.lines(
        'log10 of the difference, by depth (number of the tensor in the order of execution)',
        [
            series('end to end', [row.end_to_end.relative if row.end_to_end else 0.0 for row in outputs]),
            series('noise floor end to end', [row.floor_end_to_end for row in outputs]),
            series('by itself', [row.own.relative if row.own else 0.0 for row in outputs]),
            series('most that noise explains by itself', [row.limit for row in outputs]),
        ],
    )
    body = [
        f'<p class="answer">{html.escape(trace.sentence)}</p>',
        '<section><h2>Difference against depth</h2>',
        lines,
        '</section>',
    ]
    if trace.pictures:
        body.append('<section><h2>Where they part</h2>')
        for cause in trace.causes:
            pair = trace.pictures.get(str(cause.row.event))
            body.append(f'<h3>{html.escape(cause.sentence)}</h3>')
            if pair is not None:
                body.append(_pictures(trace, pair))
        body.append('</section>')
    body += [
        '<section><h2>The network</h2>',
        _graph(trace.rows),
        '</section>',
        '<section><h2>All tensors</h2>',
        _table(trace.rows),
        '</section>',
    ]
    if trace.unmatched:
        body.append('<section><h2>Not matched</h2>')
        for label, names in trace.unmatched.items():
            body.append(f'<p>{html.escape(label)}: {html.escape(", ".join(names))}</p>')
        body.append('</section>')
    frame.write_page(out, f'{trace.first} and {trace.second}', '\n'.join(body), STYLE)


def _colour(row: Optional[Row]) -> str:
    """From pale (at its noise floor) to red (at ten thousand times what noise explains)."""
    if row is None or row.own is None:
        return 'var(--line)'
    excess = math.log10(max(row.own.relative, 1e-12) / row.limit) if math.isfinite(row.own.relative) else 4.0
    share = min(max((excess + 1) / 5, 0), 1)
    return f'color-mix(in srgb, var(--bad) {100 * share:.0f}%, var(--good))'


def _graph(rows: list[Row]) -> str:
    """The modules as nested boxes in the order of execution, coloured by the largest own difference of their tensors."""
    worst: dict[str, Row] = {}
    order: dict[str, None] = {}
    for row in rows:
        name = row.event.layer
        if not name or row.own is None:
            continue
        order.setdefault(name)
        before = worst.get(name)
        if before is None or row.own.relative / row.limit > (before.own.relative / before.limit if before.own else 0):
            worst[name] = row
    children: dict[str, list[str]] = {}
    for name in order:
        parent = name.rpartition('.')[0]
        while parent and parent not in order:
            parent = parent.rpartition('.')[0]
        children.setdefault(parent, []).append(name)

    def box(name: str, parent: str) -> str:
        row = worst[name]
        said = f'{name}: by itself {row.own.relative:.1e}' if row.own else name
        short = name[len(parent) + 1 :] if parent else name
        inner = ''.join(box(child, name) for child in children.get(name, ()))
        head = f'<b style="background:{_colour(row)}">{html.escape(short)}</b>'
        return f'<div class="box" style="border-color:{_colour(row)}" title="{html.escape(said)}">{head}{inner}</div>'

    return f'<div class="graph">{"".join(box(name, "") for name in children.get("", ()))}</div>'


def _table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        own = '' if row.own is None else f'{row.own.relative:.1e}'
        whole = '' if row.end_to_end is None else f'{row.end_to_end.relative:.1e}'
        mark = ' class="parts"' if row.parts else ''
        lines.append(
            f'<tr{mark}><th>{html.escape(str(row.event))}</th><td>{whole}</td><td>{row.floor_end_to_end:.1e}</td><td>{own}</td>'
            f'<td>{row.floor:.1e}</td></tr>'
        )
    head = ''.join(f'<th>{title}</th>' for title in ('tensor', 'end to end', 'its noise', 'by itself', 'its noise'))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _pictures(trace: Trace, pair: tuple[np.ndarray, np.ndarray]) -> str:
    """The worst channel of both sides, on one scale, and their difference."""
    first, second = (np.asarray(plane, np.float64) for plane in pair)
    low = float(min(np.nanmin(first), np.nanmin(second)))
    high = float(max(np.nanmax(first), np.nanmax(second)))
    named = [(trace.first, _grey(first, low, high)), (trace.second, _grey(second, low, high))]
    if first.shape == second.shape:
        apart = np.abs(first - second)
        named.append(('difference', _grey(apart, 0, float(np.nanmax(apart)))))
    figures = ''.join(
        f'<figure><img alt="" src="{_data(image)}"><figcaption>{html.escape(name)}</figcaption></figure>'
        for name, image in named
    )
    return f'<div class="pictures">{figures}</div>'


def _grey(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.nan_to_num((plane - low) / ((high - low) or 1)) * 255
    image = np.clip(scaled, 0, 255).astype(np.uint8)
    factor = max(1, 256 // max(image.shape))
    image = image.repeat(factor, 0).repeat(factor, 1)
    if image.shape[1] > MOST_WIDTH:
        size = (MOST_WIDTH, max(1, image.shape[0] * MOST_WIDTH // image.shape[1]))
        return _coloured(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return _coloured(image)


def _coloured(image: np.ndarray) -> np.ndarray:
    return cv2.applyColorMap(image, cv2.COLORMAP_VIRIDIS)


def _data(image: np.ndarray) -> str:
    _, content = cv2.imencode('.png', image)
    return 'data:image/png;base64,' + base64.b64encode(content.tobytes()).decode()
