"""The base class of the networks, and what is done to all parts of a network: initial weights, names, dropout masks.

Twin of ``mindspore_impl/network.py``: same names, same arguments, same numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from twinseg.common.training.dropout import dropout_mask
from twinseg.common.training.initial_weights import initial_bias, initial_weight, schemes
from twinseg.common.training.norms import SyncBN, synchronised_norms
from twinseg.common.training.parameter_groups import frozen
from twinseg.pytorch_impl import distributed
from twinseg.pytorch_impl.data import upload
from twinseg.pytorch_impl.layers.norm import BatchNorm2d
from twinseg.pytorch_impl.layers.primitives import Conv2d, ConvTranspose2d, Dropout2d, Linear


class Network(nn.Module):
    """A network whose outputs are a dict: ``logits``, and the auxiliary outputs in training or after ``set_auxiliary``.

    ``align_corners``: by output, how it is resized to the label. ``init``: the scheme of the initial weights
    (``training/initial_weights.py``) of all layers that have none of their own; a part with an attribute ``init`` has its
    own scheme.
    """

    def __init__(self, align_corners: dict[str, bool], init: str = 'kaiming_fan_out'):
        super().__init__()
        self.init = init
        self.align_corners = align_corners
        self.auxiliary_always = False
        self.frozen: dict[str, list[str]] = {}  # pattern of ``freeze`` -> parameters that keep their values

    def set_auxiliary(self, always: bool) -> None:
        """Switches auxiliary outputs in evaluation mode on or off."""
        self.auxiliary_always = always

    def wants_auxiliary(self) -> bool:
        return self.training or self.auxiliary_always


def synchronise_norms(network: nn.Module, sync: SyncBN) -> None:
    """Switches batch norm to statistics over all processes, or to those of each process; UserError where ``heads`` asks for a
    backbone that there is not."""
    norms = {name: module for name, module in network.named_modules() if isinstance(module, BatchNorm2d)}
    for name, synchronised in synchronised_norms(norms, sync).items():
        norms[name].sync = synchronised


class AverageStatistics(nn.Module):
    """Makes the running statistics that each process computes by itself their means over the processes, by one collective: a
    step moves them by shares of the batches' statistics, so this is what averages in every norm would give."""

    def __init__(self, network: nn.Module):
        super().__init__()
        norms = [
            module for module in network.modules() if isinstance(module, BatchNorm2d) and not (module.sync or module.frozen)
        ]
        self.statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var)]

    @torch.no_grad()
    def forward(self) -> None:
        flat = distributed.mean(torch.cat(self.statistics))
        torch._foreach_copy_(self.statistics, flat.split([len(each) for each in self.statistics]))


def average_statistics(network: nn.Module) -> AverageStatistics | None:
    """The module that does so; None where there is nothing to average."""
    module = AverageStatistics(network)
    return module if distributed.size() > 1 and module.statistics else None


def freeze(network: Network, patterns: Sequence[str]) -> None:
    """Keeps the parameters that ``patterns`` name, and the running statistics of their batch norms, as they are; UserError
    for a pattern that fits none."""
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    network.frozen = frozen(list(parameters), patterns)
    names = {name for part in network.frozen.values() for name in part}
    for name in names:
        parameters[name].requires_grad = False
    for name, module in network.named_modules():
        if isinstance(module, BatchNorm2d):
            module.frozen = f'{name}.weight' in names


def draw_dropout(network: nn.Module, batch: int, key: Sequence[int]) -> None:
    """Draws the masks of all dropout layers for one forward pass; ``key`` (seed, step, batch of the step) decides them. All of
    them go to the device in one copy."""
    processes = distributed.rank(), distributed.size()
    modules = {name: module for name, module in network.named_modules() if isinstance(module, Dropout2d)}
    masks = [
        dropout_mask(name, (batch, module.channels, 1, 1), module.ratio, key, *processes) for name, module in modules.items()
    ]
    if masks:
        flat = upload(np.concatenate([mask.ravel() for mask in masks]), next(network.parameters()).device)
        for module, mask, part in zip(modules.values(), masks, flat.split([mask.size for mask in masks])):
            module.mask = part.view(mask.shape)


def canonical_names(network: nn.Module) -> dict[str, str]:
    """Names of the parameters and running statistics here -> the suite's names: in PyTorch the same."""
    return {name: name for name in network.state_dict() if not name.endswith('num_batches_tracked')}


def initialise(network: nn.Module, seed: int) -> None:
    """Draws the weights by ``common/training/initial_weights.py``; norms start as the identity."""
    modules = dict(network.named_modules())
    for name, scheme in schemes({name: getattr(module, 'init', None) for name, module in modules.items()}).items():
        module = modules[name]
        if isinstance(module, (Conv2d, ConvTranspose2d, Linear)):
            shape = tuple(module.weight.shape)
            module.weight.data.copy_(torch.from_numpy(initial_weight(f'{name}.weight', shape, scheme, seed)))
            if module.bias is not None:
                bias = initial_bias(f'{name}.bias', len(module.bias), shape, scheme, seed)
                module.bias.data.copy_(torch.from_numpy(bias))
