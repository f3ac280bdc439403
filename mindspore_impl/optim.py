"""Optimizers, clipping and averaging of weights: cells and functions for the graph of a training step."""

import math
from typing import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from twinseg.common import config
from twinseg.common.training.parameter_groups import ParameterGroup, frozen_tensors, parameter_groups
from twinseg.common.training.state import fitting
from twinseg.mindspore_impl.network import Network
from twinseg.mindspore_impl.state import assign, tensors

hyper_map = ops.HyperMap()  # instead of a loop: over hundreds of parameters a loop exceeds the compiler's depth of calls


class Optimizer(nn.Cell):
    """SGD (Nesterov), Adam, AdamW, RMSProp or LAMB over the trainable parameters of a network, by the configuration's groups.

    ``steps`` counts the steps taken. The slots travel under canonical names: ``momentum.<parameter>`` of SGD, beside it
    ``square_avg.<parameter>`` of RMSProp, ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>`` of Adam, AdamW and LAMB.
    MindSpore's own classes will not do: Momentum ignores Nesterov on a CPU, AdamWeightDecay has no bias correction, the Adam
    primitive rounds 1 - beta to four digits, and RMSProp adds epsilon inside the root.
    """

    outside_graph = ('settings', 'steps')

    def __init__(self, network: nn.Cell, settings: config.Optimizer):
        super().__init__(auto_prefix=False)
        trainable = {name: value for name, value in tensors(network).items() if value.requires_grad}
        groups = parameter_groups({name: value.ndim for name, value in trainable.items()}, settings)
        kind = {'adam': Adam, 'adamw': AdamW, 'lamb': Lamb, 'rmsprop': RMSProp}.get(settings.optimizer, SGD)
        self.groups = nn.CellList(
            [kind(ParameterTuple(trainable[name] for name in group.names), group, settings) for group in groups],
            auto_prefix=False,
        )
        self.names = tuple(name for group in groups for name in group.names)
        self.parameters = ParameterTuple(trainable[name] for name in self.names)
        self.in_order = tuple(trainable)
        self.settings = settings
        self.steps = 0

    def rates(self, learning_rate: float) -> Tensor:
        """Inputs of the next ``construct``: the learning rate, and Adam's corrections for bias, a factor and its epsilon."""
        (beta1, beta2), step = self.settings.beta, self.steps + 1
        correction = math.sqrt(1 - beta2**step)
        return Tensor([learning_rate, correction / (1 - beta1**step), self.settings.eps * correction], ms.float32)

    def construct(self, gradients: tuple[Tensor, ...], rates: Tensor) -> None:
        """One step; ``gradients`` in the order of ``parameters``."""
        start = 0
        for group in self.groups:
            stop = start + len(group.parameters)
            group(gradients[start:stop], rates)
            start = stop

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the slots; zeros before the first step."""
        return {name: value.asnumpy().copy() for name, value in self._slots().items()}

    def load_state(self, tensors: Mapping[str, np.ndarray], steps: int) -> None:
        """Takes back the slots; StateError when one is missing or of another shape."""
        self.steps = steps
        for name, value in self._slots().items():
            assign(value, fitting(tensors, name, value.shape, 'the same network and optimizer'))

    def _slots(self) -> dict[str, Parameter]:
        state: dict[str, Parameter] = {}
        for slot in self.groups[0].slots:
            values = dict(zip(self.names, (value for group in self.groups for value in getattr(group, slot))))
            state |= {f'{slot}.{name}': values[name] for name in self.in_order}
        return state


class SGD(nn.Cell):
    """SGD with momentum over one group."""

    slots = ('momentum',)

    def __init__(self, parameters: ParameterTuple, group: ParameterGroup, settings: config.Optimizer):
        super().__init__(auto_prefix=False)
        self.parameters, self.lr_mult = parameters, group.lr_mult
        self.momentum = parameters.clone(prefix='momentum', init='zeros')
        self.later = parameters.clone(prefix='later', init='zeros')  # the primitive asks; 0: this is not the first step
        self.factor = Tensor(settings.momentum, ms.float32)
        self.primitive = ops.SGD(0.0, group.weight_decay, settings.use_nesterov)

    def construct(self, gradients: tuple[Tensor, ...], rates: Tensor) -> None:
        update = ops.partial(_sgd, self.primitive, self.factor, rates[0] * self.lr_mult)
        hyper_map(update, self.parameters, gradients, self.momentum, self.later)


def _sgd(primitive, factor, rate, parameter, gradient, momentum, later):
    return primitive(parameter, gradient, rate, momentum, factor, later)


class AdamW(nn.Cell):
    """AdamW over one group."""

    slots = ('exp_avg', 'exp_avg_sq')

    def __init__(self, parameters: ParameterTuple, group: ParameterGroup, settings: config.Optimizer):
        super().__init__(auto_prefix=False)
        self.parameters, self.lr_mult, self.weight_decay = parameters, group.lr_mult, group.weight_decay
        self.exp_avg, self.exp_avg_sq = (parameters.clone(prefix=slot, init='zeros') for slot in self.slots)
        # Tensors made here: a graph computes 1 - 0.999 in float32
        self.shares = tuple(Tensor(share, ms.float32) for beta in settings.beta for share in (beta, 1 - beta))

    def construct(self, gradients: tuple[Tensor, ...], rates: Tensor) -> None:
        update = ops.partial(_adamw, self.shares, rates[0] * self.lr_mult, rates[1], rates[2], self.weight_decay)
        hyper_map(update, self.parameters, gradients, self.exp_avg, self.exp_avg_sq)


def _adamw(shares, rate, factor, eps, decay, parameter, gradient, exp_avg, exp_avg_sq):
    """One step of AdamW. HyperMap maps it over the weights. It has nine parameters because a graph takes no objects."""
    update = _adam(shares, factor, eps, gradient, exp_avg, exp_avg_sq)
    return ops.assign(parameter, parameter * (1 - rate * decay) - rate * update)


def _adam(shares, factor, eps, gradient, exp_avg, exp_avg_sq):
    """Updates the slots; the first moment over the root of the second, both corrected for bias."""
    first = exp_avg * shares[0] + gradient * shares[1]
    second = exp_avg_sq * shares[2] + gradient * gradient * shares[3]
    ops.assign(exp_avg, first)
    ops.assign(exp_avg_sq, second)
    return factor * first / (ops.sqrt(second) + eps)


class Adam(AdamW):
    """Adam over one group; the weight decay is added to the gradient."""

    def construct(self, gradients: tuple[Tensor, ...], rates: Tensor) -> None:
        update = ops.partial(_coupled, self.shares, rates[0] * self.lr_mult, rates[1], rates[2], self.weight_decay)
        hyper_map(update, self.parameters, gradients, self.exp_avg, self.exp_avg_sq)


def _coupled(shares, rate, factor, eps, decay, parameter, gradient, exp_avg, exp_avg_sq):
    """One step of Adam. HyperMap maps it over the weights. It has nine parameters because a graph takes no objects."""
    gradient = gradient + decay * parameter
    return ops.assign(parameter, parameter - rate * _adam(shares, factor, eps, gradient, exp_avg, exp_avg_sq))


class Lamb(AdamW):
    """LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2, its phi the identity) over one group; timm's without clipping.

    Where weights decay, the length of a parameter's update is the parameter's own; a parameter or update of length 0 keeps it.
    """

    def construct(self, gradients: tuple[Tensor, ...], rates: Tensor) -> None:
        update = ops.partial(_lamb, self.shares, rates[0] * self.lr_mult, rates[1], rates[2], self.weight_decay)
        hyper_map(update, self.parameters, gradients, self.exp_avg, self.exp_avg_sq)


def _lamb(shares, rate, factor, eps, decay, parameter, gradient, exp_avg, exp_avg_sq):
    """One step of LAMB. HyperMap maps it over the weights. It has nine parameters because a graph takes no objects."""
    update = _adam(shares, factor, eps, gradient, exp_avg, exp_avg_sq)
    if decay > 0:
        update = update + decay * parameter
        lengths = _length(parameter), _length(update)
        rate = rate * ops.where(ops.minimum(lengths[0], lengths[1]) > 0, lengths[0] / lengths[1], 1.0)
    return ops.assign(parameter, parameter - rate * update)


def _length(value):
    return ops.sqrt((value * value).sum())


class RMSProp(nn.Cell):
    """RMSProp (Tieleman and Hinton 2012) with momentum over one group; as PyTorch's, epsilon is added to the root."""

    slots = ('square_avg', 'momentum')

    def __init__(self, parameters: ParameterTuple, group: ParameterGroup, settings: config.Optimizer):
        super().__init__(auto_prefix=False)
        self.parameters, self.lr_mult, self.weight_decay = parameters, group.lr_mult, group.weight_decay
        self.square_avg, self.momentum = (parameters.clone(prefix=slot, init='zeros') for slot in self.slots)
        self.shares = Tensor(settings.decay, ms.float32), Tensor(1 - settings.decay, ms.float32)
        self.factor, self.eps = settings.momentum, settings.eps

    def construct(self, gradients: tuple[Tensor, ...], rates: Tensor) -> None:
        update = ops.partial(_rmsprop, self.shares, rates[0] * self.lr_mult, self.factor, self.eps, self.weight_decay)
        hyper_map(update, self.parameters, gradients, self.square_avg, self.momentum)


def _rmsprop(shares, rate, factor, eps, decay, parameter, gradient, square_avg, momentum):
    """One step of RMSProp. HyperMap maps it over the weights. It has nine parameters because a graph takes no objects."""
    gradient = gradient + decay * parameter
    square = square_avg * shares[0] + gradient * gradient * shares[1]
    update = factor * momentum + gradient / (ops.sqrt(square) + eps)
    ops.assign(square_avg, square)
    ops.assign(momentum, update)
    return ops.assign(parameter, parameter - rate * update)


class Average(nn.Cell):
    """Exponential moving average of all parameters and running statistics of a network; frozen ones are their own average."""

    def __init__(self, network: Network):
        super().__init__(auto_prefix=False)
        state = tensors(network)
        self.names = tuple(state)
        self.current = ParameterTuple(state.values())
        self.average = self.current.clone(prefix='ema', init='same')
        frozen = frozen_tensors(network.frozen)
        moving = [index for index, name in enumerate(self.names) if name not in frozen]
        self.moving = ParameterTuple(self.average[index] for index in moving)
        self.followed = ParameterTuple(self.current[index] for index in moving)

    def construct(self, shares: Tensor) -> None:
        """average <- decay * average + (1 - decay) * current; ``shares`` holds decay and 1 - decay."""
        hyper_map(ops.partial(_blend, shares[0], shares[1]), self.moving, self.followed)

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the averages under canonical names."""
        return {name: value.asnumpy().copy() for name, value in zip(self.names, self.average)}

    def load_state(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes back the averages; StateError when one is missing or of another shape."""
        for name, value in zip(self.names, self.average):
            assign(value, fitting(tensors, name, value.shape, 'the same network and with_ema'))


def _blend(old, new, average, current):
    return ops.assign(average, average * old + current * new)


def global_norm(gradients: tuple[Tensor, ...]) -> Tensor:
    """L2 norm over all gradients together."""
    return ops.sqrt(2 * ops.addn(hyper_map(ops.L2Loss(), gradients)))


def scale(gradients: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
    """All gradients times a factor."""
    return hyper_map(ops.partial(ops.mul, factor), gradients)


def clip_by_global_norm(gradients: tuple[Tensor, ...], norm: Tensor, limit: float) -> tuple[Tensor, ...]:
    """The gradients, scaled so that their global norm, now ``norm``, is at most ``limit``."""
    return scale(gradients, ops.minimum(limit / (norm + 1e-6), Tensor(1.0, ms.float32)))
