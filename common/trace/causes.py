"""The tensors at which two sides part, as causes: the layer, the guess at the mistake, the sentence."""

from itertools import product
from typing import Mapping, Optional, Sequence

import numpy as np

from twinseg.common.activations import Layer
from twinseg.common.trace import guesses
from twinseg.common.trace.difference import FACTOR, difference
from twinseg.common.trace.guesses import Candidate, Guess, Pictures, Step
from twinseg.common.trace.guesses.activations import ACTIVATIONS
from twinseg.common.trace.guesses.guess import vanishes
from twinseg.common.trace.recording import START, Comparison, Event, Recording
from twinseg.common.trace.result import Cause, Row
from twinseg.common.trace.sources import Source

MOST_CANDIDATES = 24  # most recorded tensors that are tried for what lies between layers
MOST_HIDDEN = 4  # most activations whose outputs one side does not show that are tried, the latest first
INSTEAD_OF_RELU = ('none', 'leaky relu (0.01)', 'relu6', 'silu', 'hard swish')  # each takes a run of the recorded side


def causes_of(
    rows: Sequence[Row],
    recording: Recording,
    alone: Comparison,
    recorded: Source,
    other: Source,
    swapped: bool,
    images: Sequence[np.ndarray] | np.ndarray,
) -> tuple[list[Cause], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The causes, and of each the worst channel of both sides. ``images``: what the recorded side was run on, uint8 (N, 3, H,
    W), or where it does not run, the images before they were resized."""
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
            if guess is None and not recorded.runs and len(images) and event == START:
                resize = guesses.resize_of(Pictures(list(images), other.prepare), array, reference)
                guess = None if resize is None else resize.turned()
            is_between = not skipped
            if guess is None and recorded.runs and all(cause.guess for cause in causes):  # the others may follow from this one
                hidden = _hidden_activation(event, array, recording, alone, recorded, np.asarray(images))
                if hidden is not None:
                    name, guess = hidden
                    is_between = False
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
    for current in (event, *alone.unseen_before(event)):
        entry = Event(current.layer, current.call, 'input', 0)
        if current.layer not in layers or entry not in recording:
            break
        steps.insert(0, Step(layers[current.layer], np.array(recording[entry])))
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


def _hidden_activation(
    event: Event, array: np.ndarray, recording: Recording, alone: Comparison, recorded: Source, images: np.ndarray
) -> Optional[tuple[str, Guess]]:
    """The activation whose output the other side does not show, since a resize or a concatenation follows, without which, or
    with another one in its place, the recorded side makes the other side's tensor."""
    layers, order = recorded.layers(), list(recording.content)
    hidden = [
        before
        for before in reversed(order[: order.index(event)])
        if before.side == 'output'
        and before.layer in layers
        and layers[before.layer].kind == 'relu'
        and before not in alone.differences
        and Event(before.layer, before.call, 'input', 0) in recording
    ]
    apart = difference(recording[event], array).relative
    limits = {**dict.fromkeys(order, np.inf), event: -1.0}
    for output, name in product(hidden[:MOST_HIDDEN], INSTEAD_OF_RELU):
        changed = ACTIVATIONS[name](np.array(recording[Event(output.layer, output.call, 'input', 0)]))
        run = Comparison(recording, forced=False, limits=limits, replaced={output: changed.astype(np.float32)})
        recorded.run(recorded.prepare(images), run)
        found = run.captured.get(event)
        if found is not None and vanishes(remains := difference(array, found).relative, apart):
            return output.layer, Guess('activation', f'with {name if name != "none" else "no activation"}', 'relu', remains)
    return None


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
    itself = between or name == row.event.layer
    where = name if itself else f'{name} (seen at {row.event})'
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
    if row.event == START:
        text = f'{where} {differs.removeprefix("output ")} (noise explains {_number(row.limit)})'
    if not between and itself and inputs:
        text = f'{where}: inputs equal to {_number(inputs)} end to end, '
        text += f'by itself its {differs} (noise explains {_number(row.limit)})'
    if guess is not None:
        text += f': {second} computes it {guess}; {guess.evidence or f"with that, {_number(guess.remains)} remains"}'
    elif tried:
        text += '; none of the usual mistakes explains it'
    else:
        text += '; not looked into, after so many others'
    return Cause(row, name, between, inputs, guess, text)


def _number(value: float) -> str:
    return '0' if value == 0 else f'{value:.2g}' if value >= 0.001 else f'{value:.1e}'
