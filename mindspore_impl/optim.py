"""Optimizers, clipping and averaging of weights: cells and functions for the graph of a training step."""
import math
from typing import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from common import config
from common.errors import StateError
from common.parameter_groups import parameter_groups
from mindspore_impl.state import assign, tensors

SLOTS = {'sgd': ['momentum'], 'momentum': ['momentum'], 'adamw': ['exp_avg', 'exp_avg_sq']}


class Optimizer(nn.Cell):
    """SGD (Nesterov) or AdamW over the trainable parameters of a network, by the configuration's groups.

    ``steps`` counts the steps taken. The slots travel under canonical names: ``momentum.<parameter>``, or
    ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>``. MindSpore's own classes will not do: Momentum
    ignores Nesterov on a CPU, AdamWeightDecay has no bias correction, and the Adam primitive rounds 1 - beta to four digits.
    """

    def __init__(self, network: nn.Cell, settings: config.Optimizer):
        super().__init__(auto_prefix=False)
        trainable = {name: value for name, value in tensors(network).items() if value.requires_grad}
        groups = {name: group for group in parameter_groups({name: value.ndim for name, value in trainable.items()}, settings)
                  for name in group.names}
        self.names = tuple(trainable)
        self.parameters = ParameterTuple(trainable.values())
        self.lr_mults = tuple(groups[name].lr_mult for name in trainable)
        self.decays = tuple(groups[name].weight_decay for name in trainable)
        self.settings = settings
        self.steps = 0
        self.adamw = settings.optimizer == 'adamw'
        self.slots = SLOTS[settings.optimizer]
        self.first = self.parameters.clone(prefix=self.slots[0], init='zeros')
        if self.adamw:
            self.second = self.parameters.clone(prefix=self.slots[1], init='zeros')
            self.old1, self.old2 = settings.beta
            self.new1, self.new2 = (1 - beta for beta in settings.beta)  # here: a graph computes 1 - 0.999 in float32
        else:
            self.second = self.parameters.clone(prefix='unused', init='zeros')  # the primitive wants it; 0: not the first step
            self.momentum = Tensor(settings.momentum, ms.float32)
            self.sgd = [ops.SGD(0.0, decay, settings.use_nesterov) for decay in self.decays]

    def rates(self, learning_rate: float) -> Tensor:
        """What the next ``construct`` needs: the learning rate, Adam's corrected for bias, and its epsilon likewise."""
        (beta1, beta2), step = self.settings.beta, self.steps + 1
        correction = math.sqrt(1 - beta2 ** step)
        corrected = learning_rate * correction / (1 - beta1 ** step)
        return Tensor([learning_rate, corrected, self.settings.eps * correction], ms.float32)

    def construct(self, gradients: Sequence[Tensor], rates: Tensor) -> None:
        """One step; ``gradients`` in the order of ``parameters``."""
        for i in range(len(self.parameters)):
            parameter, gradient, factor = self.parameters[i], gradients[i], self.lr_mults[i]
            if self.adamw:
                first = self.first[i] * self.old1 + gradient * self.new1
                second = self.second[i] * self.old2 + gradient * gradient * self.new2
                decayed = parameter * (1 - rates[0] * (factor * self.decays[i]))
                ops.assign(self.first[i], first)
                ops.assign(self.second[i], second)
                ops.assign(parameter, decayed - rates[1] * factor * first / (ops.sqrt(second) + rates[2]))
            else:
                self.sgd[i](parameter, gradient, rates[0] * factor, self.first[i], self.momentum, self.second[i])

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the slots; zeros before the first step."""
        return {f'{slot}.{name}': value.asnumpy().copy()
                for slot, values in self._values() for name, value in zip(self.names, values)}

    def load_state(self, tensors: Mapping[str, np.ndarray], steps: int) -> None:
        """Takes back the slots; StateError when one is missing or of another shape."""
        self.steps = steps
        for slot, values in self._values():
            for name, value in zip(self.names, values):
                _assign(value, tensors, f'{slot}.{name}', 'the same network and optimizer')

    def _values(self) -> list[tuple[str, Sequence[Parameter]]]:
        return list(zip(self.slots, (self.first, self.second)))


class Average(nn.Cell):
    """Exponential moving average of all parameters and running statistics of a network."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        own = tensors(network)
        self.names = tuple(own)
        self.current = ParameterTuple(own.values())
        self.average = self.current.clone(prefix='ema', init='same')

    def construct(self, shares: Tensor) -> None:
        """average <- decay * average + (1 - decay) * current; ``shares`` holds decay and 1 - decay."""
        for i in range(len(self.average)):
            ops.assign(self.average[i], self.average[i] * shares[0] + self.current[i] * shares[1])

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the averages under canonical names."""
        return {name: value.asnumpy().copy() for name, value in zip(self.names, self.average)}

    def load_state(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes back the averages; StateError when one is missing or of another shape."""
        for name, value in zip(self.names, self.average):
            _assign(value, tensors, name, 'the same network and with_ema')


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm over all gradients together."""
    halves = []
    for gradient in gradients:
        halves.append(ops.L2Loss()(gradient))
    return ops.sqrt(2 * ops.addn(halves))


def clip_by_global_norm(gradients: Sequence[Tensor], norm: Tensor, limit: float) -> list[Tensor]:
    """The gradients, scaled so that their global norm, now ``norm``, is at most ``limit``."""
    factor = ops.minimum(limit / (norm + 1e-6), Tensor(1.0, ms.float32))
    clipped = []
    for gradient in gradients:
        clipped.append(gradient * factor)
    return clipped


def _assign(parameter: Parameter, tensors: Mapping[str, np.ndarray], name: str, condition: str) -> None:
    found = tensors.get(name)
    if found is None or found.shape != tuple(parameter.shape):
        raise StateError(f'training state {name}: expected shape {tuple(parameter.shape)}, '
                         f'found {"nothing" if found is None else found.shape}; training continues only with {condition}')
    assign(parameter, found)
