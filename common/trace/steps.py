"""Training steps compared: the first parameter, optimizer slot or statistic that moves differently, and what differs."""

from typing import Mapping, NamedTuple

import numpy as np

from twinseg.common import tasks
from twinseg.common.backend import Batch, Trainer
from twinseg.common.checkpoint import State
from twinseg.common.errors import UserError
from twinseg.common.measure.parity import learning_rate, one_rounding_error_apart, street_batches
from twinseg.common.trace.result import Section
from twinseg.common.trace.sources import NetworkSource
from twinseg.common.trace.step_guesses import Step, guess_of

FACTOR = 10.0  # multiple of the drift from weights one rounding error apart that a tensor's difference may reach
LEAST = 1e-6  # and the share of the movement that it may in any case
BATCH, SIZE = 4, (64, 96)


class Moved(NamedTuple):
    """A tensor that moves differently."""

    step: int
    name: str
    apart: float  # L2 norm of the difference, of the norm of the movement
    limit: float


def trace_steps(first: NetworkSource, second: NetworkSource, steps: int) -> Section:
    """Both sides train from the first one's weights on the same drawn scenes, each with its configuration."""
    for side in (first, second):
        if side.rebuild is None or side.config is None:
            raise UserError(f'--steps: {side.label} has no configuration of a training; give runs or checkpoints')
    assert first.config is not None
    state = first.backend.state(first.network)
    classes = first.config.model.num_classes or _classes(first)
    rng, task = np.random.default_rng(0), tasks.of(first.config.task)
    scenes = street_batches(steps, BATCH, SIZE, classes)
    batches = [(images, task.labels_of_streets(rng, labels, classes)) for images, labels in scenes]
    mine, theirs = _states(first, state, batches), _states(second, state, batches)
    nudged = _states(first, one_rounding_error_apart(state), batches)
    start = {f'model.{name}': value for name, value in state.items()}
    moved = [one for step in range(steps) for one in _moved(step, [start, *mine], theirs, nudged)]
    rows = [{'step': one.step + 1, 'tensor': one.name, 'apart': one.apart, 'limit': one.limit} for one in moved[:40]]
    if not moved:
        return Section('steps', True, f'steps: after {steps} nothing has moved differently', rows)
    here = [one for one in moved if one.step == moved[0].step]
    worst = min(here, key=_order)
    before = [start, *mine][worst.step]
    step = Step(worst.step, before, mine[worst.step], theirs[worst.step], first.config.optimizer, learning_rate(first.config))
    guess = guess_of(step, {one.name for one in here})
    text = f'steps: step {worst.step + 1}: {worst.name} and {len(here) - 1} more tensors move differently, '
    by = f'by {worst.apart:.2g} of their movement (noise explains {worst.limit:.1e})'
    text += f'{by if np.isfinite(worst.apart) else f"which {second.label} does not have"}: '
    text += f'{second.label} trains with {guess}' if guess else 'none of the usual mistakes explains it'
    return Section('steps', False, text, rows)


def _classes(source: NetworkSource) -> int:
    logits = source.backend.forward(source.network, np.zeros((1, 3, 64, 64), np.float32))['logits']
    return int(logits.shape[1])


def _states(source: NetworkSource, state: Mapping[str, np.ndarray], batches: list[Batch]) -> list[State]:
    """All tensors of a trainer after every step."""
    assert source.rebuild is not None and source.config is not None
    network = source.rebuild()
    source.backend.load_state(network, state)
    trainer: Trainer = source.backend.make_trainer(network, source.config)
    states = []
    for batch in batches:
        trainer.step([batch], learning_rate(source.config))['loss']
        states.append(trainer.state()[0])
    return states


def _moved(step: int, mine: list[State], theirs: list[State], nudged: list[State]) -> list[Moved]:
    moved = []
    for name, value in mine[step + 1].items():
        before = mine[step].get(name, np.zeros_like(value))
        movement = float(np.linalg.norm(value.astype(np.float64) - before))
        if name not in theirs[step]:
            moved.append(Moved(step, name, float('inf'), LEAST))
            continue
        size = max(movement, 1e-12)
        apart = float(np.linalg.norm(value.astype(np.float64) - theirs[step][name])) / size
        limit = max(LEAST, FACTOR * float(np.linalg.norm(value.astype(np.float64) - nudged[step][name])) / size)
        if apart > limit and apart * size > 1e-7 * float(np.linalg.norm(value)):
            moved.append(Moved(step, name, apart, limit))
    return moved


def _order(one: Moved) -> tuple[int, float]:
    """Statistics first, which nothing but the features moves; then slots, from which the parameters follow."""
    kind = 0 if 'running' in one.name else 1 if one.name.startswith('optimizer.') else 2
    return kind, -one.apart
