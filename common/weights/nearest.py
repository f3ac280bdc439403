"""The published network that weights of an unknown one are nearest to, and what differs."""

from collections import Counter
from typing import Mapping, Optional

import numpy as np

from twinseg.common.weights.publishers import TABLES
from twinseg.common.weights.publishers.table import Table

MOST_COMPARED = 300  # names
LEAST_ALIKE = 0.3  # share of the names, below which two networks have nothing to do with each other
MOST_PREFIXES = 4


def nearest_network(arrays: Mapping[str, np.ndarray], source: Optional[str] = None) -> str:
    """A sentence: the table that takes most of the names, what it lacks and what it does not know, three of each."""
    best: tuple[float, int, Optional[Table], list[str]] = (0.0, 0, None, [])
    for prefix in _prefixes(list(arrays)):
        names = [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]
        compared = names[:: max(1, len(names) // MOST_COMPARED)]
        for table in TABLES:
            if source in (None, table.source):
                alike = sum(table.takes(name) for name in compared) / len(compared)
                marks = sum(mark in names for mark in table.marks)
                if (alike, marks) > best[:2]:
                    best = alike, marks, table, names
    alike, _, near, names = best
    if near is None or alike < LEAST_ALIKE:
        return 'none is near; `twinseg list --models` names the networks and whose weights each loads'
    missing = [mark for mark in dict.fromkeys((*near.marks, *filter(None, [near.classes]))) if mark not in names]
    unexpected = [name for name in names if not near.takes(name)]
    parts = [f'nearest is {near.arch} of {near.source}: {len(names) - len(unexpected)} of {len(names)} names are its']
    for what, differing in (('missing', missing), ('unexpected', unexpected)):
        if differing:
            parts.append(f'{len(differing)} {what} ({", ".join(differing[:3])}{", ..." if len(differing) > 3 else ""})')
    return ', '.join(parts) + "; save all of the network under its publisher's names"


def _prefixes(names: list[str]) -> list[str]:
    """Prefixes that most names share, from none on."""
    prefixes = ['']
    while len(prefixes) < MOST_PREFIXES:
        inside = [name.removeprefix(prefixes[-1]) for name in names if name.startswith(prefixes[-1])]
        longer = Counter(f'{prefixes[-1]}{name.partition(".")[0]}.' for name in inside if '.' in name)
        most = longer.most_common(1)
        if not most or 2 * most[0][1] <= len(names):
            break
        prefixes.append(most[0][0])
    return prefixes
