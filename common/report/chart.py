"""Line charts as SVG text whose colours come from the page, so that they follow its light or dark theme."""

import html
import math
from typing import NamedTuple, Sequence

import numpy as np

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 12, 46  # margins
STYLES = 8  # distinct colours of frame.html
MAX_POINTS = 400  # most points of a curve
SMOOTHING = 0.9  # weight of the past in the exponential mean over the points shown


class Series(NamedTuple):
    """A curve: points float (N, 2), x and y."""

    name: str
    points: np.ndarray


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_axis: str = '',
    y_axis: str = '',
    smooth: bool = False,
    markers: bool = False,
    margin: float = 0.0,
) -> str:
    """A figure with some curves over each other; every second one is dashed, so that equal ones stay visible.

    ``x_axis`` and ``y_axis`` are the names of the axes. ``smooth`` draws an exponential mean over a pale curve of the values
    themselves. ``margin`` is free around the points, as a share of their range. Without any points: a figure that says so.
    """
    curves = [(index, one.name, _thin(one.points)) for index, one in enumerate(series) if len(one.points)]
    heading = f'<figcaption>{html.escape(title)}</figcaption>'
    if not curves:
        return f'<figure class="chart">{heading}<p class="note">no values</p></figure>'
    everything = np.concatenate([points for _, _, points in curves])
    free = margin * np.ptp(everything, 0)
    (low_x, low_y), (high_x, high_y) = everything.min(0) - free, everything.max(0) + free
    ticks_x, ticks_y = _ticks(low_x, high_x), _ticks(low_y, high_y)
    low_y, high_y = min(low_y, ticks_y[0]), max(high_y, ticks_y[-1])

    def to_picture(points: np.ndarray) -> np.ndarray:
        x = LEFT + (points[:, 0] - low_x) / ((high_x - low_x) or 1) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (points[:, 1] - low_y) / ((high_y - low_y) or 1) * (HEIGHT - TOP - BOTTOM)
        return np.stack([x, y], 1)

    parts = _axis_names(x_axis, y_axis)
    for tick in ticks_y:
        height = to_picture(np.array([[low_x, tick]]))[0, 1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for tick in ticks_x:
        across = to_picture(np.array([[tick, low_y]]))[0, 0]
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_number(tick)}</text>')
    for index, name, points in curves:
        if smooth:
            parts.append(_path(to_picture(points), f's{index % STYLES} pale'))
            points = np.stack([points[:, 0], _smoothed(points[:, 1])], 1)
        parts.append(_path(to_picture(points), _style(index)))
        if markers or len(points) == 1:
            parts += [
                f'<circle class="{_style(index)}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{html.escape(name)}, '
                f'{html.escape(x_axis or "step")} {step:.0f}: {value:.2f}</title></circle>'
                for (x, y), (step, value) in zip(to_picture(points), points)
            ]
    keys = ''.join(f'<li class="{_style(index)}">{html.escape(name)}</li>' for index, name, _ in curves)
    return (
        f'<figure class="chart">{heading}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f'{"".join(parts)}</svg><ul class="keys">{keys}</ul></figure>'
    )


def _axis_names(x_axis: str, y_axis: str) -> list[str]:
    middle = (HEIGHT - BOTTOM + TOP) / 2
    return [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_axis)}</text>',
        f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{html.escape(y_axis)}</text>',
    ]


def scatter(title: str, points: Sequence[tuple[str, float, float]], *, x_axis: str, y_axis: str) -> str:
    """A figure with a named point for each (name, x, y); both axes begin below the smallest value."""
    return lines(
        title,
        [Series(name, np.array([[across, up]])) for name, across, up in points],
        x_axis=x_axis,
        y_axis=y_axis,
        markers=True,
        margin=0.08,
    )


def _style(index: int) -> str:
    return f's{index % STYLES}{" dashed" if index % 2 else ""}'


def _path(points: np.ndarray, style: str) -> str:
    return f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _thin(points: np.ndarray) -> np.ndarray:
    """At most MAX_POINTS points, each the mean of its neighbours."""
    if len(points) <= MAX_POINTS:
        return points
    return np.stack([part.mean(0) for part in np.array_split(points, MAX_POINTS)])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Exponential mean with the start-up bias taken out."""
    total, weight, out = 0.0, 0.0, []
    for value in values:
        total, weight = SMOOTHING * total + (1 - SMOOTHING) * value, SMOOTHING * weight + (1 - SMOOTHING)
        out.append(total / weight)
    return np.array(out)


def _ticks(low: float, high: float, count: int = 5) -> np.ndarray:
    """About ``count`` round numbers within the range."""
    if high <= low:
        return np.array([low])
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step


def _number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f'{value:.0e}'.replace('e-0', 'e-').replace('e+0', 'e')
    return f'{value:g}' if abs(value) < 1e4 else f'{value / 1e3:g}k'
