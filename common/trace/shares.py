"""The change of the output that one layer makes alone: the recorded side is run with that one tensor replaced by what the
other side makes of the same inputs."""

from dataclasses import replace
from typing import Any, Optional, Sequence

import numpy as np

from twinseg.common.trace.recording import Comparison, Recording
from twinseg.common.trace.result import Cause, Row, Section
from twinseg.common.trace.sources import Source

MOST_RANKED = 8  # layers below float32 whose share of the final difference is computed


def shares(rows: Sequence[Row], recording: Recording, recorded: Source, other: Source, images: np.ndarray) -> Section:
    """The layers with the largest own differences in a precision below float32, and the change of the output that each makes
    alone: the recorded side is run with that one tensor replaced by what the other side makes of the same inputs."""
    layers = recorded.layers()
    own = {row.event: row.own.relative for row in rows if row.event.layer in layers and row.event.side == 'output' and row.own}
    chosen = sorted(own, key=lambda event: -own[event])[:MOST_RANKED]
    limits = {event: -1.0 if event in chosen else float('inf') for event in recording.content}
    alone = Comparison(recording, forced=True, limits=limits)
    other.run(other.prepare(images), alone)
    final = next((event for event in recording.content if not event.layer and event.side == 'output'), None)
    changes: list[dict[str, Any]] = []
    for event, array in alone.captured.items():
        run = Comparison(recording, forced=False, replaced={event: array})
        recorded.run(recorded.prepare(images), run)
        if final in run.differences:
            changes.append({'layer': event.layer, 'own': own[event], 'change': run.differences[final].relative})
    changes.sort(key=lambda item: -item['change'])
    said = ', '.join(f'{item["layer"]} ({item["change"]:.1e})' for item in changes[:3])
    return Section('shares', True, f'change of the output that a layer makes alone, the largest: {said}', changes)


def ranked(
    causes: Sequence[Cause], recording: Recording, alone: Comparison, recorded: Source, images: np.ndarray
) -> list[Cause]:
    """The causes with the part of the final difference that each makes alone: the recorded side is run with that one tensor
    replaced by what the other side makes of the same inputs."""
    final = [event for event in recording.content if not event.layer and event.side == 'output'][:1]
    shares: list[Optional[float]] = []
    for cause in causes:
        array = alone.captured.get(cause.row.event)
        shape = recording.shapes[cause.row.event]
        if final and cause.row.event == final[0] and cause.row.own is not None:
            shares.append(cause.row.own.relative)
            continue
        if not final or array is None or array.shape != shape:
            shares.append(None)
            continue
        run = Comparison(recording, forced=False, replaced={cause.row.event: array})
        recorded.run(recorded.prepare(images), run)
        shares.append(run.differences[final[0]].relative if final[0] in run.differences else None)
    return [replace(cause, share=share) for cause, share in zip(causes, shares)]
