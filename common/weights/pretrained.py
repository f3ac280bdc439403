"""A network's initial weights from a checkpoint that fits it in part: its backbone, or all but the classifiers."""

import warnings
from pathlib import Path
from typing import Optional

from twinseg.common import checkpoint, facts
from twinseg.common.backend import Backend, Network
from twinseg.common.errors import StateError
from twinseg.common.weights.convert import load


def load_pretrained(
    backend: Backend,
    network: Network,
    arch: str,
    path: str | Path,
    reset_classifier: bool = False,
    weights_of: Optional[str] = None,
    used: Optional[facts.Facts] = None,
) -> checkpoint.LoadReport:
    """Fills a network, an ``arch``, as far as a file's weights go, and reports what was filled.

    Parts (``backbone``, ``head``, ...) that only one side has are left alone, and so are stages of the file's
    backbone that the network's backbone ends before. A part that both have must agree tensor by tensor, StateError otherwise;
    only a classifier for another number of classes may stay as it was drawn, with ``reset_classifier``. ``weights_of``: which,
    where the file has several sets of weights, as in ``convert``; a warning says which were taken. Warns, too, where one of our
    files was made for other facts than those that it is ``used`` for (``facts.check_start``).
    """
    try:
        converted = load(path, weights_of=weights_of)
    except StateError as error:
        raise StateError(_with_key(str(error))) from None
    if converted.chosen:
        warnings.warn(f'{path}: takes {_with_key(converted.chosen)}', stacklevel=2)
    if converted.meta is not None and used is not None:
        facts.check_start(facts.of_checkpoint(converted.meta, path), used)
    state = converted.state
    initial = backend.state(network)
    stages = {_stage(name) for name in initial}
    state = {name: array for name, array in state.items() if _part(name) != 'backbone' or _stage(name) in stages}
    shared = {_part(name) for name in initial} & {_part(name) for name in state}
    wrong = [
        name
        for name in {**initial, **state}
        if _part(name) in shared
        and (name not in initial or name not in state or not _same_but_classes(name, initial[name].shape, state[name].shape))
    ]
    if not shared or wrong:
        what = f'{len(wrong)} tensors differ: {", ".join(wrong[:3])}' if shared else 'they share no part'
        made = ', '.join(
            f'{key}: {value}' for key, value in converted.arguments.items() if key not in ('num_classes', 'auxiliary')
        )
        raise StateError(
            f'{path}: weights of {converted.arch} do not fit {arch}: {what}'
            + (f' (the file was made with model_args {{{made}}})' if made else '')
        )
    other = [name for name in initial if name in state and initial[name].shape != state[name].shape]
    if other and not reset_classifier:
        raise StateError(
            f'{path}: made for another number of classes: {other[0]} is {state[other[0]].shape}, the network has '
            f'{initial[other[0]].shape}; reset_classifier: true initialises the {len(other)} tensors at random'
        )
    try:
        return backend.load_state(network, {name: state[name] for name in state if _part(name) in shared}, partial=True)
    except StateError as error:
        raise StateError(f'{path}: {error}') from None


def _with_key(text: str) -> str:
    """What ``convert`` says, with the key of the configuration instead of its option."""
    return text.replace('--weights-of', 'weights_of:')


def _part(name: str) -> str:
    return name.partition('.')[0]


def _stage(name: str) -> tuple[str, ...]:
    return tuple(name.split('.')[:2])


def _same_but_classes(name: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """The first dimension may differ; a classifier that is a transposed convolution counts its classes in the second."""
    axis = 1 if name == 'classifier.weight' and ours[:1] == theirs[:1] else 0
    return ours[:axis] + ours[axis + 1 :] == theirs[:axis] + theirs[axis + 1 :]
