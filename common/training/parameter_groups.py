"""Parameters in groups of one learning rate and one weight decay: one rule for both backends."""

from dataclasses import dataclass
from typing import Mapping

from twinseg.common.config import Optimizer
from twinseg.common.errors import UserError


@dataclass(frozen=True)
class ParameterGroup:
    names: tuple[str, ...]  # canonical parameter names, in the network's order
    lr_mult: float  # factor of the learning rate
    weight_decay: float


def parameter_groups(parameters: Mapping[str, int], optimizer: Optimizer) -> list[ParameterGroup]:
    """Groups of trainable parameters, given as canonical name -> number of axes.

    A parameter takes the factor of the longest key of ``lr_mult`` that its name starts with, 1 without any. With
    ``norm_bias_decay: false`` parameters of one axis (scales and shifts of norms, all biases) do not decay. UserError for a
    key of ``lr_mult`` that fits no parameter.
    """
    for prefix in optimizer.lr_mult:
        if not any(name.startswith(prefix) for name in parameters):
            raise UserError(f'lr_mult: no parameter of the network starts with {prefix!r}')
    if optimizer.use_nesterov and not optimizer.momentum:
        raise UserError('use_nesterov needs a momentum above 0')
    groups: dict[tuple[float, float], list[str]] = {}
    for name, axes in parameters.items():
        prefixes = [prefix for prefix in optimizer.lr_mult if name.startswith(prefix)]
        factor = optimizer.lr_mult[max(prefixes, key=len)] if prefixes else 1.0
        decay = optimizer.weight_decay if optimizer.norm_bias_decay or axes > 1 else 0.0
        groups.setdefault((factor, decay), []).append(name)
    return [ParameterGroup(tuple(names), *key) for key, names in groups.items()]
