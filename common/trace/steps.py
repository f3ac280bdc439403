"""Training steps compared: the first parameter, optimizer slot or statistic that moves differently, and what differs."""

from typing import Any, Mapping, NamedTuple, Optional

import numpy as np

from twinseg.common import tasks
from twinseg.common.backend import Batch, Trainer
from twinseg.common.checkpoint import State
from twinseg.common.errors import UserError
from twinseg.common.measure.parity import learning_rate, one_rounding_error_apart, street_batches
from twinseg.common.trace.compare import Section
from twinseg.common.trace.sources import NetworkSource

FACTOR = 10.0  # multiple of the drift from weights one rounding error apart that a tensor's difference may reach
LEAST = 1e-6  # and the share of the movement that it may in any case
FITS = 0.02  # share of a difference that may remain unexplained by a guess
BATCH, SIZE = 4, (64, 96)


class Moved(NamedTuple):
    """A tensor that moves differently."""

    step: int
    name: str
    apart: float  # L2 norm of the difference, of the norm of the movement
    limit: float


def trace_steps(first: NetworkSource, second: NetworkSource, steps: int) -> Section:
    """Both sides train for ``steps`` steps from the first one's weights on the same drawn scenes, each with its configuration."""
    for side in (first, second):
        if side.rebuild is None or side.config is None:
            raise UserError(f'--steps: {side.label} has no configuration of a training; give runs or checkpoints')
    assert first.config is not None
    state = first.backend.state(first.network)
    classes = first.config.model.num_classes or _classes(first)
    rng, task = np.random.default_rng(0), tasks.of(first.config.task)
    batches = [
        (images, task.labels_of_streets(rng, labels, classes)) for images, labels in street_batches(steps, BATCH, SIZE, classes)
    ]
    mine = _states(first, state, batches)
    theirs = _states(second, state, batches)
    nudged = _states(first, one_rounding_error_apart(state), batches)
    start = {f'model.{name}': value for name, value in state.items()}
    moved = [one for step in range(steps) for one in _moved(step, [start, *mine], theirs, nudged)]
    rows = [{'step': one.step + 1, 'tensor': one.name, 'apart': one.apart, 'limit': one.limit} for one in moved[:40]]
    if not moved:
        return Section('steps', True, f'steps: after {steps} nothing has moved differently', rows)
    here = [one for one in moved if one.step == moved[0].step]
    worst = min(here, key=_order)
    guess = _guess(worst.step, {one.name for one in here}, [start, *mine], [start, *theirs])
    text = f'steps: step {worst.step + 1}: {worst.name} and {len(here) - 1} more tensors move differently, by {worst.apart:.2g} of their movement '
    text += f'(noise explains {worst.limit:.1e}): ' + (
        f'{second.label} trains with {guess}' if guess else 'none of the usual mistakes explains it'
    )
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
    found = []
    for batch in batches:
        trainer.step([batch], learning_rate(source.config))['loss']
        found.append(trainer.state()[0])
    return found


def _moved(step: int, mine: list[State], theirs: list[State], nudged: list[State]) -> list[Moved]:
    found = []
    for name, value in mine[step + 1].items():
        before = mine[step].get(name, np.zeros_like(value))
        movement = float(np.linalg.norm(value.astype(np.float64) - before))
        if name not in theirs[step]:
            found.append(Moved(step, name, float('inf'), LEAST))
            continue
        size = max(movement, 1e-12)
        apart = float(np.linalg.norm(value.astype(np.float64) - theirs[step][name])) / size
        limit = max(LEAST, FACTOR * float(np.linalg.norm(value.astype(np.float64) - nudged[step][name])) / size)
        if apart > limit and apart * size > 1e-7 * float(np.linalg.norm(value)):
            found.append(Moved(step, name, apart, limit))
    return found


def _order(one: Moved) -> tuple[int, float]:
    """Statistics first, which nothing but the features moves; then slots, from which the parameters follow."""
    kind = 0 if 'running' in one.name else 1 if one.name.startswith('optimizer.') else 2
    return kind, -one.apart


def _guess(step: int, names: set[str], mine: list[State], theirs: list[State]) -> Optional[str]:
    """What explains the differences of one step: momentum of the norms, weight decay, momentum, clipping, learning rate."""
    statistics = [name for name in names if name.startswith('model.') and 'running' in name]
    slots = [name for name in names if name.startswith('optimizer.momentum.')]
    if statistics and len(statistics) >= len(names) / 2 or statistics and not slots:
        ratio = _factor(
            [theirs[step + 1][n] - mine[step][n] for n in statistics], [mine[step + 1][n] - mine[step][n] for n in statistics]
        )
        if ratio is not None:
            return f'a momentum of batch norm {ratio:.3g} times as large'
    if slots:
        weights = [name.replace('optimizer.momentum.', 'model.') for name in slots]
        apart = [theirs[step + 1][n] - mine[step + 1][n] for n in slots]
        decay = _factor(apart, [mine[step][n] for n in weights])
        if decay is not None:
            return f'a weight decay larger by {decay:.3g}' if decay > 0 else f'a weight decay smaller by {-decay:.3g}'
        ratio = _factor([theirs[step + 1][n] for n in slots], [mine[step + 1][n] for n in slots])
        if ratio is not None:
            return (
                f'gradients {ratio:.3g} times as large (clipped by another norm, or the loss is scaled or averaged differently)'
            )
        if step:
            momentum = _factor(apart, [mine[step][n] for n in slots])
            if momentum is not None:
                return f'a momentum {"larger" if momentum > 0 else "smaller"} by {abs(momentum):.3g}'
    weights = [name for name in names if name.startswith('model.') and 'running' not in name]
    if weights and not slots:
        ratio = _factor(
            [theirs[step + 1][n] - mine[step][n] for n in weights], [mine[step + 1][n] - mine[step][n] for n in weights]
        )
        if ratio is not None:
            return f'a learning rate {ratio:.3g} times as large'
        decay = _factor([theirs[step + 1][n] - mine[step + 1][n] for n in weights], [mine[step][n] for n in weights])
        if decay is not None:
            return f'a decay of the weights by {-decay:.3g} more a step'
    return None


def _factor(left: list[Any], right: list[Any]) -> Optional[float]:
    """The one number with which ``right`` gives ``left``, by least squares; None where there is no such number."""
    a, b = (np.concatenate([np.ravel(value).astype(np.float64) for value in values]) for values in (left, right))
    if not b.any() or not a.any():
        return None
    factor = float(a @ b / (b @ b))
    return factor if np.linalg.norm(a - factor * b) <= FITS * np.linalg.norm(a) else None
