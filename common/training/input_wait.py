"""What a training says of the time in which it waits for its input."""

import shlex
from pathlib import Path
from typing import Optional

from twinseg.common import config
from twinseg.common.data.base import Dataset, FileDataset

STEPS = 50  # steps after which the share is judged; the first ones wait for the loader to start
NOTABLE = 0.2  # share of the time


def too_many(workers: int, cores: int) -> Optional[str]:
    """The line for more workers than cores that this process may use; None where there are enough."""
    if workers <= cores:
        return None
    return f'num_parallel_workers: {workers}, but this process may use {cores} of the cores: more workers only take memory'


def advice(share: float, steps: int, dataset: Dataset, data: config.Data, recipe: Path) -> Optional[str]:
    """The line for a share of the time of the last ``steps`` that was spent waiting; None where it is not worth one. ``recipe``
    is the configuration's file, which the command names."""
    if steps < STEPS or share < NOTABLE:
        return None
    helps = []
    if any(isinstance(part, FileDataset) for part in dataset.parts):
        helps.append(f'`twinseg prepare {shlex.quote(str(recipe))} --cache` decodes the images once; --resume uses them')
    helps.append(f'num_parallel_workers above {data.num_parallel_workers} helps where cores are idle')
    return f'input waits {share:.0%} of the time: {"; ".join(helps)}'.replace('%', ' %')
