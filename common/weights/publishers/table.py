"""Conversion of a publisher's weights to ours: a table of names per network, and the engine that applies it."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Callable, Mapping

import numpy as np

from twinseg.common.errors import StateError
from twinseg.common.settings.presets import preset_arguments

Arrays = Mapping[str, np.ndarray]
COUNTERS = ('num_batches_tracked', 'total_ops', 'total_params')  # batch norm's, and those of thop, which counts operations
LOSSES = {
    'loss',
    'losses',
    'criterion',
    'criterions',
    'metric',
    'metrics',
    'confmat',
}  # words of what trains it


@dataclass(frozen=True)
class Table:
    """One network of one publisher: our network that it is, and our names of its tensors.

    ``source``: the publisher; ``arch``: the name of our network.
    ``marks``: published names that this network has and no other.
    ``classes``: published name of the tensor that is as long as there are classes, along ``classes_axis`` (1 in a transposed
    convolution); None: a backbone without classifier.
    ``rules``: published name -> ours. The first rule that fits is taken. It replaces whole components from the left and keeps
    those that follow; ``{x}`` is any one component, which our name repeats.
    ``unused``: rules for tensors that the publisher's network never reads.
    ``heads``: our names of the auxiliary heads, which a published file may lack.
    ``preset``: name of the settings of our network in ``presets``; None: the publisher's name.
    ``more_arguments``: the settings that can be seen from the shapes of our state.
    ``values``: our name and a published array -> the array of ours.
    ``condition``: further test of a published state where its names do not tell two networks apart.
    """

    source: str
    arch: str
    marks: tuple[str, ...]
    classes: str | None
    rules: Mapping[str, str]
    unused: tuple[str, ...] = ()
    classes_axis: int = 0
    heads: tuple[str, ...] = ()
    preset: str | None = None
    more_arguments: Callable[[Arrays], dict[str, Any]] = lambda state: {}
    values: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array
    condition: Callable[[Arrays], bool] = lambda published: True

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings of the publisher's network, but for what its weights tell."""
        return preset_arguments(self.preset or self.source, self.arch)

    def fits(self, published: Arrays) -> bool:
        return all(mark in published for mark in self.marks) and self.condition(published)

    def takes(self, name: str) -> bool:
        """Whether a published name is one of the network, read or not."""
        return any(rule_pattern(rule).match(name) for rule in (*self.rules, *self.unused))

    def rename(self, published: Arrays) -> tuple[dict[str, str], list[str]]:
        """Our names -> theirs, and the names that are left out: those that the network never reads, and those of what training
        keeps beside it (a loss's class weights, a metric's counts). StateError for any other name that no rule takes."""
        rules = [(rule_pattern(theirs), ours) for theirs, ours in self.rules.items()]
        unused = [rule_pattern(theirs) for theirs in self.unused]
        parts = {rule.partition('.')[0] for rule in (*self.rules, *self.unused)}
        names: dict[str, str] = {}
        ignored, unknown = [], []
        for key in published:
            name = next((pattern.sub(rule_template(ours), key, 1) for pattern, ours in rules if pattern.match(key)), None)
            is_unused = any(pattern.match(key) for pattern in unused)
            if key.endswith(COUNTERS) or name is None and (is_unused or _is_beside(key, published, parts)):
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


def _is_beside(name: str, published: Arrays, parts: set[str]) -> bool:
    """Whether a tensor lies beside the network whose parts have these names, and is none of a layer: a loss's, a metric's."""
    words = set(re.split(r'[^a-z]+', name.lower()))
    if words & LOSSES:
        return True
    if name.partition('.')[0] in parts:
        return False
    module, _, leaf = name.rpartition('.')
    layer = any(f'{module}.{other}'.lstrip('.') in published for other in ('bias', 'running_mean'))
    dimensions = np.ndim(published[name])
    return dimensions < 3 and not layer and not (leaf == 'weight' and dimensions == 2)


@cache
def rule_pattern(rule: str) -> re.Pattern[str]:
    """Matches the names that a rule takes, up to the end of one of their components."""
    parts = [f'(?P<{part[1:-1]}>[^.]+)' if part.startswith('{') else re.escape(part) for part in rule.split('.')]
    return re.compile(r'\.'.join(parts) + r'(?=\.|$)')


def rule_template(rule: str) -> str:
    """The replacement of the matched part for ``re.sub``, components in braces carried over."""
    return re.sub(r'{(\w+)}', r'\\g<\1>', rule)
