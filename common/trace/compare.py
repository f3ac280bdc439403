"""The comparison: one side's values recorded, the other side run twice against them, and the noise floor measured.

Every tensor that enters or leaves a module is compared twice: end to end, as the second side computes it from the images, and
by itself: there every tensor is replaced, once it was compared, by the recorded one, so that what is compared next was
computed from equal values. The second kind tells a cause from its consequences.
"""

from typing import Optional, Sequence

import numpy as np

from twinseg.common.errors import UserError, first_line_of
from twinseg.common.trace.causes import causes_of
from twinseg.common.trace.difference import EPSILON, FACTOR, HALF_FACTOR
from twinseg.common.trace.recording import START, Comparison, Event, Recording
from twinseg.common.trace.result import Row, Trace
from twinseg.common.trace.shares import ranked, shares
from twinseg.common.trace.sources import Source


def trace(
    first: Source,
    second: Source,
    images: np.ndarray,
    *,
    limit: Optional[int] = None,
    rank: bool = True,
    recorded_input: bool = True,
    originals: Sequence[np.ndarray] = (),
) -> Trace:
    """Compares two sides on uint8 images (N, 3, H, W); the first is taken for right, and sentences speak of the second.

    ``limit``: most bytes of disk for the recording. ``rank``: has the share of the final difference computed that every cause
    makes alone, where the recorded side runs. ``recorded_input``: a folder's recorded input replaces the images.
    ``originals``: these before they were resized, uint8 (H, W, 3).
    """
    swapped = not second.runs or (first.runs and _rank(second) > _rank(first))
    recorded, other = (second, first) if swapped else (first, second)
    with Recording(limit) as recording:
        recorded.run(recorded.prepare(images), recording)
        if hasattr(other, 'bind') and not hasattr(recorded, 'bind') and recorded.runs:
            other.bind(recording, recorded.layers())
        floors = _floors(recorded, other, recording, images)
        rounding = max(EPSILON[recorded.precision], EPSILON[other.precision])
        factor = FACTOR if rounding == EPSILON['float32'] else HALF_FACTOR
        limits = {event: factor * max(own, 2 * rounding) for event, (own, _) in floors.items()}
        from_recording = recorded_input and not recorded.runs and START in recording
        inputs = np.array(recording[START]) if from_recording else other.prepare(images)
        whole = Comparison(recording, forced=False)
        alone = Comparison(recording, forced=True, limits=limits)
        stopped = [reason for run in (whole, alone) if (reason := _run(other, inputs, run)) is not None]
        if stopped and not alone.differences:
            raise UserError(f'{other.label}: cannot be run on these images: {stopped[-1]}')
        # what the second side computes in one go has the noise of all of it
        joined = {
            event: limit + sum(limits[before] for before in alone.unseen_before(event)) for event, limit in limits.items()
        }
        rows = [
            Row(
                event,
                recording.parents[event],
                whole.differences.get(event),
                alone.differences.get(event),
                *floors[event],
                joined[event],
            )
            for event in recording.content
        ]
        causes, pictures = causes_of(rows, recording, alone, recorded, other, swapped, images if recorded.runs else originals)
        if rank and recorded.runs and len(causes):
            causes = ranked(causes, recording, alone, recorded, images)
        sections = []
        if rank and recorded.layers() and not causes and rounding > EPSILON['float32']:
            section = shares(rows, recording, recorded, other, images)
            sections.extend([section] if section.rows else [])  # a recording without the output says nothing of it
        seen = {event.layer for event in alone.differences}
        missing = sorted({event.layer for event in recording.content} - seen)
        extra = sorted({event.layer for event in alone.unknown} - {event.layer for event in recording.content})
        unmatched = {recorded.label: missing, other.label: extra}
        for side, opposite in ((recorded, other), (other, recorded)):
            if hasattr(side, 'unmatched') and opposite.runs:  # it knows which layers count
                unmatched = dict(zip((opposite.label, side.label), side.unmatched(opposite.layers())))
        conditions = {
            'images': list(images.shape),
            'recorded': recorded.label,
            'recording_bytes': recording.bytes,
            'factor': factor,
            'rounding': rounding,
            **({'stopped': stopped[0]} if stopped else {}),
        }
    present = {label: names for label, names in unmatched.items() if names}
    return Trace(first.label, second.label, rows, causes, present, conditions, sections, pictures)


def _run(source: Source, inputs: np.ndarray, run: Comparison) -> Optional[str]:
    """Runs the second side; where it fails, since shapes part, the reason: what was compared until then counts."""
    try:
        source.run(inputs, run)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a framework raises
        return first_line_of(error)
    return None


def _rank(source: Source) -> int:
    """How good a recorded side is: a network with float64, any network, an exported file, whose layers are known by the
    network's."""
    return 2 if source.has_double else 0 if hasattr(source, 'bind') else 1


def _floors(recorded: Source, other: Source, recording: Recording, images: np.ndarray) -> dict[Event, tuple[float, float]]:
    """Noise floors by event, of a layer by itself and end to end: the recorded side against itself in float64, and with values
    one rounding error apart (that of the coarser side)."""
    rounding = max(EPSILON[recorded.precision], EPSILON[other.precision])
    passes: list[Comparison] = []
    inputs = recorded.prepare(images)
    double = recorded.double() if recorded.runs else None
    if double is not None:
        for forced in (True, False):
            passes.append(Comparison(recording, forced))
            double.run(inputs, passes[-1])
    if recorded.runs:
        passes.append(Comparison(recording, forced=True, nudge=rounding))
        recorded.run(inputs, passes[-1])
        passes.append(Comparison(recording, forced=False))
        signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), inputs.shape)
        recorded.run(inputs * (1 + rounding * signs), passes[-1])
    floors = {}
    for event in recording.content:
        own = [one.differences[event].relative for one in passes if one.forced and event in one.differences]
        whole = [one.differences[event].relative for one in passes if not one.forced and event in one.differences]
        floors[event] = (max(own, default=rounding), max(whole, default=rounding))
    return floors
