"""The end of a training, in words: what it reached, where that is, and the commands that come next."""

import shlex
from pathlib import Path
from typing import Optional

from twinseg.common import checkpoint
from twinseg.common.errors import StateError


def last_lines(folder: Path, figure: str, score: Optional[float]) -> list[str]:
    """Lines for people: the best ``score``, per cent, under the name of the ``figure``, with its step and file; then three
    commands for the run in ``folder``."""
    run = shlex.quote(str(folder))
    best = folder / checkpoint.FOLDER / checkpoint.BEST
    lines = []
    if score is not None:
        lines.append(f'best {figure} {score:.2f}{_step_of(best)}: {best}')
    lines.append('next:')
    commands = (
        f'twinseg predict --checkpoint {run} photo.jpg',
        f'twinseg report {run}',
        f'twinseg export --checkpoint {run} --format onnx',
    )
    return lines + [f'  {command}' for command in commands]


def _step_of(best: Path) -> str:
    """`` at step N``, as the file says; empty where it does not."""
    try:
        step = checkpoint.read_meta(best).step
    except StateError:
        return ''
    return '' if step is None else f' at step {step}'
