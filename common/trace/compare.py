"""The comparison: one side's values recorded, the other side run twice against them, and the noise floor measured.

Every tensor that enters or leaves a module is compared twice: end to end, as the second side computes it from the images, and
by itself: there every tensor is replaced, once it was compared, by the recorded one, so that what is compared next was
computed from equal values. The second kind tells a cause from its consequences.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Mapping, Optional, Protocol, Sequence

import numpy as np

from twinseg.common.activations import Layer, Watcher
from twinseg.common.errors import UserError, first_line_of
from twinseg.common.trace import guesses
from twinseg.common.trace.difference import Difference, difference
from twinseg.common.trace.guesses import Candidate, Guess, Step
from twinseg.common.trace.recording import Event, Passage, Recording

FACTOR = 30.0  # multiple of its noise floor that a layer's own difference may reach: kernels add in other orders
HALF_FACTOR = 6.0  # the same below float32, where the rounding of inputs and results makes the most of the floor
EPSILON = {
    'float32': 2.0**-24,
    'float16': 2.0**-11,
    'bfloat16': 2.0**-8,
    'int8': 1 / 100,
}  # rounding errors, relative; int8: of input and weight
MOST_CAUSES = 64  # most causes that are looked into
MOST_CAPTURED = 1 << 30  # bytes of the second side's tensors that are held for that
MOST_RANKED = 8  # layers below float32 whose share of the final difference is computed
MOST_CANDIDATES = 24  # most recorded tensors that are tried for what lies between layers


class Source(Protocol):
    """One side: something that computes, or what was recorded of it."""

    label: str
    precision: str  # a key of EPSILON
    runs: bool  # False: recorded values, which nothing changes
    has_double: bool  # whether ``double`` gives something

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> the network's input, float32."""

    def run(self, inputs: np.ndarray, watcher: Watcher) -> None:
        """Computes while ``watcher`` looks on."""

    def layers(self) -> Mapping[str, Layer]:
        """The layers by name, as far as they are known."""

    def double(self) -> Optional['Source']:
        """The same in float64, where there is such a thing."""


class Comparison(Passage):
    """Compares what passes with a recording. ``forced``: and puts the recorded values in its place; ``nudge``: these changed by
    a relative rounding error, up or down by chance."""

    def __init__(
        self,
        recording: Recording,
        forced: bool,
        nudge: float = 0.0,
        limits: Optional[Mapping[Event, float]] = None,
        replaced: Optional[Mapping[Event, np.ndarray]] = None,
    ) -> None:
        super().__init__()
        self.recording, self.forced, self.nudge, self.limits = recording, forced, nudge, limits
        self.replaced = replaced or {}
        self.rng = np.random.default_rng(0)
        self.differences: dict[Event, Difference] = {}
        self.unknown: dict[Event, Optional[Event]] = {}  # events that the recording does not have -> the known one before
        self.captured: dict[Event, np.ndarray] = {}
        self.last: Optional[Event] = None

    def see(self, event: Event, array: np.ndarray) -> Optional[np.ndarray]:
        if event not in self.recording:
            self.unknown[event] = self.last
            return None
        self.last = event
        reference = self.recording[event]
        apart = self.differences[event] = difference(reference, array)
        if self.limits is not None and apart.relative > self.limits[event] and self._has_room(array):
            self.captured[event] = np.array(array)
        if event in self.replaced:
            return self.replaced[event]
        if not self.forced:
            return None
        if not self.nudge:
            return reference
        return np.asarray(reference) * (1 + self.nudge * self.rng.choice(np.array([-1, 1], np.float32), reference.shape))

    def _has_room(self, array: np.ndarray) -> bool:
        held = sum(one.nbytes for one in self.captured.values())
        return len(self.captured) < MOST_CAUSES and held + array.nbytes <= MOST_CAPTURED


@dataclass(frozen=True)
class Row:
    """One tensor compared."""

    event: Event
    parent: str  # the module whose code computes it, where it enters a module
    end_to_end: Optional[Difference]  # None: the second side does not have it
    own: Optional[Difference]
    floor: float  # noise floor of ``own``
    floor_end_to_end: float
    limit: float  # most of ``own`` that noise explains

    @property
    def parts(self) -> bool:
        """Whether the two sides part here."""
        return self.own is not None and not self.own.relative <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Flat; differences of the recorded side's largest magnitude."""
        return {
            'tensor': str(self.event),
            'layer': self.event.layer,
            'call': self.event.call,
            'side': self.event.side,
            'end_to_end': self.end_to_end and self.end_to_end.relative,
            'own': self.own and self.own.relative,
            'floor': self.floor,
            'floor_end_to_end': self.floor_end_to_end,
            'limit': self.limit,
            'parts': self.parts,
        }


@dataclass(frozen=True)
class Cause:
    """A layer, or what is computed before or after one outside of layers, at which the two sides part."""

    row: Row
    layer: str  # name of the layer; of what lies between layers, of the module whose code computes it
    between: bool  # whether it lies between layers
    inputs: float  # end-to-end difference of what goes in
    guess: Optional[Guess]
    sentence: str
    share: Optional[float] = None  # part of the final difference that it causes alone

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        return {
            'layer': self.layer,
            'tensor': str(self.row.event),
            'between': self.between,
            'sentence': self.sentence,
            'cause': self.guess and self.guess.cause,
            'guess': self.guess and str(self.guess),
            'remains': self.guess and self.guess.remains,
            'share': self.share,
        }


@dataclass(frozen=True)
class Section:
    """Gradients or training steps, compared beside the outputs of the layers."""

    name: str
    ok: bool
    sentence: str
    rows: list[dict[str, Any]]  # JSON


@dataclass(frozen=True)
class Trace:
    """What ``trace`` has to say."""

    first: str  # labels of the sides
    second: str
    rows: list[Row]
    causes: list[Cause]  # in the order of execution
    unmatched: dict[str, list[str]]  # label -> modules that the other side does not have
    conditions: dict[str, Any]
    sections: list[Section] = field(default_factory=list)
    pictures: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # worst channel of both sides, by cause

    @property
    def ok(self) -> bool:
        """Whether no layer parts."""
        return not self.causes and all(section.ok for section in self.sections)

    @property
    def worst(self) -> Optional[Row]:
        """The row with the largest own difference."""
        rows = [row for row in self.rows if row.own is not None]
        return max(rows, key=lambda row: row.own.relative if row.own else 0.0, default=None)

    @property
    def sentence(self) -> str:
        """The answer."""
        if self.causes:
            return self.causes[0].sentence
        worst = self.worst
        if worst is None or worst.own is None:
            return f'nothing could be compared: {self.first} and {self.second} have no tensor in common'
        return f'no layer parts; the largest own difference is {worst.own.relative:.1e}, at {worst.event}'

    def to_json(self) -> dict[str, Any]:
        """The answer first."""
        return {
            'ok': self.ok,
            'sentence': self.sentence,
            'first': self.first,
            'second': self.second,
            'causes': [cause.to_json() for cause in self.causes],
            'rows': [row.to_json() for row in self.rows],
            'unmatched': self.unmatched,
            'sections': [asdict(section) for section in self.sections],
            'conditions': self.conditions,
        }


def trace(
    first: Source,
    second: Source,
    images: np.ndarray,
    *,
    limit: Optional[int] = None,
    rank: bool = True,
    recorded_input: bool = True,
) -> Trace:
    """Compares two sides on uint8 images (N, 3, H, W); the first is taken for right, and sentences speak of the second.

    ``limit``: most bytes of disk for the recording. ``rank``: has the share of the final difference computed that every cause
    makes alone, where the recorded side runs. ``recorded_input``: a folder's recorded input takes the place of
    the images.
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
        start = Event('', 0, 'input', 0)
        from_recording = recorded_input and not recorded.runs and start in recording
        inputs = np.array(recording[start]) if from_recording else other.prepare(images)
        whole = Comparison(recording, forced=False)
        alone = Comparison(recording, forced=True, limits=limits)
        stopped = [reason for run in (whole, alone) if (reason := _run(other, inputs, run)) is not None]
        if stopped and not alone.differences:
            raise UserError(f'{other.label}: cannot be run on these images: {stopped[-1]}')
        rows = [
            Row(
                event,
                recording.parents[event],
                whole.differences.get(event),
                alone.differences.get(event),
                *floors[event],
                limits[event],
            )
            for event in recording.content
        ]
        causes, pictures = _causes(rows, recording, alone, recorded, other, swapped)
        if rank and recorded.runs and len(causes):
            causes = _ranked(causes, recording, alone, recorded, images)
        sections = []
        if rank and recorded.runs and not causes and rounding > EPSILON['float32']:
            sections.append(_shares(rows, recording, recorded, other, images))
        seen = {event.layer for event in alone.differences}
        missing = sorted({event.layer for event in recording.content} - seen)
        extra = sorted({event.layer for event in alone.unknown} - {event.layer for event in recording.content})
        mapping = getattr(other, 'mapping', None)
        if mapping is not None and recorded.runs:  # a graph has no modules: what counts is layers and nodes with weights
            missing, extra = mapping.layers_without_node, mapping.nodes_without_layer
        unmatched = {recorded.label: missing, other.label: extra}
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


def _causes(
    rows: Sequence[Row], recording: Recording, alone: Comparison, recorded: Source, other: Source, swapped: bool
) -> tuple[list[Cause], dict[str, tuple[np.ndarray, np.ndarray]]]:
    mine, theirs = recorded.layers(), other.layers()
    causes: list[Cause] = []
    labels = other.label, (recorded if swapped else other).label
    pictures = {}
    rounded: dict[str, float] = {}  # digest of what one side rounds to a half precision -> difference that this explains next
    for row in rows:
        event = row.event
        if not row.parts:
            continue
        entry = recording.content.get(Event(event.layer, event.call, 'input', 0))
        explained = rounded.get(recording.content[event], rounded.get(entry or '', 0.0))
        if row.own is not None and row.own.relative <= explained:
            continue
        array = alone.captured.get(event)
        is_layer = event.side == 'output' and event.layer in mine and (event.layer, event.call) == _entered(recording, event)
        if array is None:
            causes.append(_cause(row, rows, None, event.layer or 'network', not is_layer, labels, tried=False))
            continue
        name, is_between = event.layer, not is_layer
        reference = np.array(recording[event])
        if is_layer:
            guess = guesses.of_layer(_steps(event, recording, alone, mine), reference, array, theirs.get(event.layer))
        else:
            skipped = [layer for layer in _skipped(event, recording, alone) if layer in mine]
            name = skipped[0] if skipped else (row.parent if event.side == 'input' else event.layer) or 'network'
            guess = guesses.between(reference, array, _candidates(event, row.parent, recording))
            if skipped and guess is None:
                guess = None
            is_between = not skipped
        if guess is not None and swapped:
            guess = guess.turned()
        if guess is not None and guess.cause == 'precision' and row.own is not None:
            rounded[recording.content[event]] = FACTOR * row.own.relative
        causes.append(_cause(row, rows, guess, name, is_between, labels))
        channel = row.own.channel if row.own else 0
        if reference.ndim == 4 and array.ndim == 4 and channel < min(reference.shape[1], array.shape[1]):
            pair = (reference[0, channel], array[0, channel])
            pictures[str(event)] = pair[::-1] if swapped else pair
    return causes, pictures


def _entered(recording: Recording, event: Event) -> tuple[str, int]:
    return (event.layer, event.call) if Event(event.layer, event.call, 'input', 0) in recording else ('', -1)


def _steps(event: Event, recording: Recording, alone: Comparison, layers: Mapping[str, Layer]) -> list[Step]:
    """The layers whose outputs the other side does not have, up to and with this one: a convolution whose norm is folded in."""
    steps: list[Step] = []
    current = event
    while True:
        entry = Event(current.layer, current.call, 'input', 0)
        if current.layer not in layers or entry not in recording:
            break
        steps.insert(0, Step(layers[current.layer], np.array(recording[entry])))
        origin = recording.origin(entry)
        if entry in alone.differences or origin in alone.differences or origin.side != 'output':
            break
        current = origin
    return steps


def _skipped(event: Event, recording: Recording, alone: Comparison) -> list[str]:
    """Layers before a tensor that the other side never computed."""
    order = list(recording.content)
    skipped = []
    for before in reversed(order[: order.index(event)]):
        if before in alone.differences:
            break
        skipped.append(before.layer)
    return list(dict.fromkeys(reversed(skipped)))


def _candidates(event: Event, parent: str, recording: Recording) -> list[Candidate]:
    """Recorded tensors that the code before an event could have used: what entered its module, and what left the parts."""
    module = parent if event.side == 'input' else event.layer
    order = list(recording.content)
    candidates: dict[str, Candidate] = {}
    for before in reversed(order[: order.index(event)]):
        inside = before.side == 'output' and before.layer.rpartition('.')[0] in (module, *_lists(module, before.layer))
        entered = before.side == 'input' and before.layer == module
        if inside or entered:
            candidates.setdefault(
                recording.content[before], Candidate(f'the {before}' if entered else str(before), np.array(recording[before]))
            )
        if len(candidates) >= MOST_CANDIDATES or entered and before.number == 0:
            break
    return list(candidates.values())


def _lists(module: str, layer: str) -> list[str]:
    """Names between a module and a part of it that are lists, which nothing enters: ``ppm.branches`` of ``ppm.branches.0``."""
    parent = layer.rpartition('.')[0]
    return [parent] if parent.rpartition('.')[0] == module or not module else []


def _cause(
    row: Row, rows: Sequence[Row], guess: Optional[Guess], name: str, between: bool, labels: tuple[str, str], tried: bool = True
) -> Cause:
    """``labels``: of the side that was run against the recording, and of the second."""
    run, second = labels
    earlier = [
        one.end_to_end.relative
        for one in rows
        if one.event.layer == row.event.layer
        and one.event.call == row.event.call
        and one.event.side == 'input'
        and one.end_to_end is not None
    ]
    inputs = max(earlier, default=0.0)
    where = name
    if between:
        where = f'{name}, before {row.event.layer}' if row.event.side == 'input' and row.event.layer else f'{name}, at its end'
        where = 'the input of the network' if not row.event.layer and row.event.side == 'input' else where
    assert row.own is not None
    if np.isfinite(row.own.relative):
        differs = f'output differs by {_number(row.own.relative)} of its largest magnitude'
    else:
        shapes = f'shape {"x".join(map(str, row.own.shape))}'
        differs = f'output of {run} has {shapes}' if row.own.magnitude > 0 else 'output differs without bound'
    text = f'{where}: same inputs, {differs} (noise explains {_number(row.limit)})'
    if not between and inputs:
        text = f'{where}: inputs equal to {_number(inputs)} end to end, '
        text += f'by itself its {differs} (noise explains {_number(row.limit)})'
    if guess is not None:
        text += f': {second} computes it {guess}; with that, {_number(guess.remains)} remains'
    elif tried:
        text += '; none of the usual mistakes explains it'
    else:
        text += '; not looked into, after so many others'
    return Cause(row, name, between, inputs, guess, text)


def _shares(rows: Sequence[Row], recording: Recording, recorded: Source, other: Source, images: np.ndarray) -> Section:
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


def _number(value: float) -> str:
    return '0' if value == 0 else f'{value:.2g}' if value >= 0.001 else f'{value:.1e}'


def _ranked(
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
