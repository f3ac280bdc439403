"""Parameters that keep their values, and the others in groups of one learning rate and one weight decay: one rule for both
backends."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Iterable, Mapping, Optional, Sequence

from twinseg.common.config import Optimizer
from twinseg.common.errors import UserError


@dataclass(frozen=True)
class ParameterGroup:
    names: tuple[str, ...]  # canonical parameter names, in the network's order
    lr_mult: float  # factor of the learning rate
    weight_decay: float


def parameter_groups(parameters: Mapping[str, int], optimizer: Optimizer) -> list[ParameterGroup]:
    """Groups of trainable parameters, given as canonical name -> number of axes.

    A parameter takes the factor of the longest key of ``lr_mult`` that fits its name, 1 without any. With
    ``norm_bias_decay: false`` parameters of one axis (scales and shifts of norms, all biases) do not decay. UserError for a
    key of ``lr_mult`` that fits no parameter.
    """
    for key in optimizer.lr_mult:
        if not any(_fits(key, name) for name in parameters):
            raise _no_parameter('lr_mult', key, parameters)
    if optimizer.use_nesterov and not optimizer.momentum:
        raise UserError('use_nesterov needs a momentum above 0')
    groups: dict[tuple[float, float], list[str]] = {}
    for name, axes in parameters.items():
        longest = _longest(optimizer.lr_mult, name)
        factor = 1.0 if longest is None else optimizer.lr_mult[longest]
        decay = optimizer.weight_decay if optimizer.norm_bias_decay or axes > 1 else 0.0
        groups.setdefault((factor, decay), []).append(name)
    return [ParameterGroup(tuple(names), *key) for key, names in groups.items()]


def frozen(names: Sequence[str], patterns: Iterable[str]) -> dict[str, list[str]]:
    """Pattern of ``freeze`` -> those of the parameters ``names`` that keep their values. UserError for a pattern that fits
    none, and where none is left to train."""
    fitting = {key: [name for name in names if _fits(key, name)] for key in patterns}
    for key, matched in fitting.items():
        if not matched:
            raise _no_parameter('freeze', key, names)
    if not set(names) - {name for matched in fitting.values() for name in matched}:
        raise UserError(f'freeze: {", ".join(fitting)}: leaves no parameter to train')
    return fitting


def frozen_tensors(fitting: Mapping[str, Sequence[str]]) -> set[str]:
    """Names of the parameters that ``frozen`` gave, and of the running statistics beside them where they are batch norms'."""
    names = {name for matched in fitting.values() for name in matched}
    modules = [name.removesuffix('.weight') for name in names if name.endswith('.weight')]
    return names | {f'{module}.{statistic}' for module in modules for statistic in ('running_mean', 'running_var')}


def _no_parameter(setting: str, key: str, names: Iterable[str]) -> UserError:
    fits, example = 'fits' if '*' in key else 'starts with', next(iter(names))
    return UserError(f'{setting}: no parameter of the network {fits} {key!r}; a name is for example {example}')


def followers(names: Iterable[str], lr_mult: Mapping[str, float]) -> dict[str, int]:
    """Key of ``lr_mult`` -> number of the parameters ``names`` that take its factor."""
    keys = [_longest(lr_mult, name) for name in names]
    return {key: keys.count(key) for key in lr_mult}


def _longest(lr_mult: Mapping[str, float], name: str) -> Optional[str]:
    """The longest key that fits a name; UserError where several of that length fit and do not agree."""
    fitting = sorted((key for key in lr_mult if _fits(key, name)), key=len, reverse=True)
    for other in fitting[1:]:
        if len(other) == len(fitting[0]) and lr_mult[other] != lr_mult[fitting[0]]:
            raise UserError(f'lr_mult: {fitting[0]!r} and {other!r} both fit {name}; make one of them longer')
    return fitting[0] if fitting else None


def _fits(key: str, name: str) -> bool:
    """Whether a name starts with a key, or fits it as a whole where it has a * for any text."""
    return fnmatchcase(name, key) if '*' in key else name.startswith(key)
