"""How a publisher's weights become ours: a table of names per network, and the engine that applies it."""

import re
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping

import numpy as np

from twinseg.common.errors import StateError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Table:
    """One network of one publisher.

    ``rules`` maps the publisher's names to ours, the first that fits: whole components from the left, the rest is kept;
    ``{x}`` stands for any one component and is carried over. ``unused`` are rules for what the publisher's own network
    never reads. ``marks`` are names that only this network has.
    """

    source: str
    arch: str
    marks: tuple[str, ...]
    classes: str | None  # its first dimension is the number of classes; None: a backbone without classifier
    rules: Mapping[str, str]
    unused: tuple[str, ...] = ()
    classes_axis: int = 0  # of ``classes``, where the number of classes stands: 1 in a transposed convolution
    arguments: Mapping[str, Any] = field(default_factory=dict)
    heads: tuple[str, ...] = ()  # our names of the auxiliary heads, which a published file may lack
    more_arguments: Callable[[Arrays], dict[str, Any]] = lambda state: {}  # what our state says further
    values: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array  # by our name
    condition: Callable[[Arrays], bool] = lambda published: True  # for ``fits``, where names alone do not tell

    def fits(self, published: Arrays) -> bool:
        return all(mark in published for mark in self.marks) and self.condition(published)

    def rename(self, published: Arrays) -> tuple[dict[str, str], list[str]]:
        """Our names -> theirs, and the names that are left out on purpose; StateError for a name that no rule takes."""
        rules = [(rule_pattern(theirs), ours) for theirs, ours in self.rules.items()]
        unused = [rule_pattern(theirs) for theirs in self.unused]
        names: dict[str, str] = {}
        ignored, unknown = [], []
        for key in published:
            name = next((pattern.sub(rule_template(ours), key, 1) for pattern, ours in rules if pattern.match(key)), None)
            if key.endswith('num_batches_tracked') or name is None and any(pattern.match(key) for pattern in unused):
                ignored.append(key)
            elif name is None or name in names:
                unknown.append(key)
            else:
                names[name] = key
        if unknown:
            shown = ', '.join(unknown[:8]) + (f' and {len(unknown) - 8} more' if len(unknown) > 8 else '')
            raise StateError(
                f'not a {self.arch} of {self.source} as published: {len(unknown)} of its {len(published)} tensors '
                f'are unknown: {shown}'
            )
        return names, ignored


def rule_pattern(rule: str) -> re.Pattern[str]:
    """Matches the names that a rule takes, up to the end of one of their components."""
    parts = [f'(?P<{part[1:-1]}>[^.]+)' if part.startswith('{') else re.escape(part) for part in rule.split('.')]
    return re.compile(r'\.'.join(parts) + r'(?=\.|$)')


def rule_template(rule: str) -> str:
    """What ``re.sub`` puts in the matched part's stead, components in braces carried over."""
    return re.sub(r'{(\w+)}', r'\\g<\1>', rule)
