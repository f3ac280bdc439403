"""The base class of the networks, and what is done to all parts of a network: initial weights, names, dropout masks.

Twin of ``pytorch_impl/network.py``: same names, same arguments, same numbers.
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from twinseg.common.training.dropout import dropout_mask
from twinseg.common.training.initial_weights import initial_bias, initial_weight, schemes
from twinseg.common.training.norms import SyncBN, synchronised_norms
from twinseg.common.training.parameter_groups import frozen
from twinseg.mindspore_impl import distributed
from twinseg.mindspore_impl.layers.norm import BatchNorm2d
from twinseg.mindspore_impl.layers.primitives import Conv2d, ConvTranspose2d, Dropout2d, Linear


class Network(nn.Cell):
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
        """Switches auxiliary outputs in evaluation mode on or off (a cell around the network must be compiled after)."""
        self.auxiliary_always = always
        self._name_phase()

    def set_train(self, mode: bool = True) -> 'Network':
        """Training or evaluation mode, of the network and all its parts."""
        super().set_train(mode)
        self._name_phase()
        return self

    def _name_phase(self) -> None:
        # Graph mode keeps one compiled graph per phase and would not see the attribute change.
        self.phase = ('train' if self.training else 'predict') + ('_auxiliary' if self.auxiliary_always else '')

    def wants_auxiliary(self) -> bool:
        return self.training or self.auxiliary_always


def synchronise_norms(network: nn.Cell, sync: SyncBN) -> None:
    """Switches batch norm to statistics over all processes, or to those of each process; UserError where ``heads`` asks for a
    backbone that there is not."""
    norms = {name: module for name, module in network.cells_and_names() if isinstance(module, BatchNorm2d)}
    for name, synchronised in synchronised_norms(norms, sync).items():
        norms[name].sync = synchronised


class AverageStatistics(nn.Cell):
    """Makes the running statistics that each process computes by itself their means over the processes, by one collective: a
    step moves them by shares of the batches' statistics, so this is what averages in every norm would give."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        norms = [
            cell for _, cell in network.cells_and_names() if isinstance(cell, BatchNorm2d) and not cell.sync and not cell.frozen
        ]
        self.statistics = ms.ParameterTuple([each for norm in norms for each in (norm.moving_mean, norm.moving_variance)])

    def construct(self) -> None:
        flat = distributed.mean(ops.concat(self.statistics))
        start = 0
        for each in self.statistics:
            ops.assign(each, flat[start : start + each.shape[0]])
            start += each.shape[0]


def average_statistics(network: nn.Cell) -> AverageStatistics | None:
    """The cell that does so; None where there is nothing to average."""
    cell = AverageStatistics(network)
    return cell if distributed.size() > 1 and len(cell.statistics) else None


def freeze(network: Network, patterns: Sequence[str]) -> None:
    """Keeps the parameters that ``patterns`` name, and the running statistics of their batch norms, as they are; UserError
    for a pattern that fits none."""
    canonical = canonical_names(network)
    parameters = {canonical[name]: value for name, value in network.parameters_and_names() if value.requires_grad}
    network.frozen = frozen(list(parameters), patterns)
    names = {name for part in network.frozen.values() for name in part}
    for name in names:
        parameters[name].requires_grad = False
    for name, module in network.cells_and_names():
        if isinstance(module, BatchNorm2d) and f'{name}.weight' in names:
            module.frozen, module.use_batch_statistics = True, False


def draw_dropout(network: nn.Cell, batch: int, key: Sequence[int]) -> None:
    """Draws the masks of all dropout layers for one forward pass; ``key`` (seed, step, batch of the step) decides them."""
    processes = distributed.rank(), distributed.size()
    for name, module in network.cells_and_names():
        if isinstance(module, Dropout2d):
            mask = Tensor(dropout_mask(name, (batch, module.channels, 1, 1), module.ratio, key, *processes))
            if module.mask.shape == mask.shape:
                module.mask.set_data(mask)
            else:
                module.mask = ms.Parameter(mask, name=module.mask.name, requires_grad=False)


_LEAVES = {
    'weight': 'weight',
    'gamma': 'weight',
    'bias': 'bias',
    'beta': 'bias',  # a norm's beta; the order is PyTorch's
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
}


def canonical_names(network: nn.Cell) -> dict[str, str]:
    """Names of the parameters and running statistics here -> the suite's names, which are PyTorch's."""
    names: dict[str, str] = {}
    for prefix, module in network.cells_and_names():
        leaves = {name.rpartition('.')[2] for name, _ in module.parameters_and_names(expand=False)}
        names |= {f'{prefix}.{leaf}': f'{prefix}.{canonical}' for leaf, canonical in _LEAVES.items() if leaf in leaves}
    return names


def initialise(network: nn.Cell, seed: int) -> None:
    """Draws the weights by ``common/training/initial_weights.py``; norms start as the identity."""
    modules = dict(network.cells_and_names())
    for name, scheme in schemes({name: getattr(module, 'init', None) for name, module in modules.items()}).items():
        module = modules[name]
        if isinstance(module, (Conv2d, ConvTranspose2d, Linear)):
            shape = tuple(module.weight.shape)
            module.weight.set_data(Tensor(initial_weight(f'{name}.weight', shape, scheme, seed)))
            if module.has_bias:
                module.bias.set_data(Tensor(initial_bias(f'{name}.bias', len(module.bias), shape, scheme, seed)))
