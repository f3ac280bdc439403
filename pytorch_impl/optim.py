"""Optimizers, clipping and averaging of weights."""
from typing import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common import config
from common.errors import StateError
from common.parameter_groups import parameter_groups

SLOTS = {'sgd': {'momentum': 'momentum_buffer'}, 'momentum': {'momentum': 'momentum_buffer'},
         'adamw': {'exp_avg': 'exp_avg', 'exp_avg_sq': 'exp_avg_sq'}}  # our name of a slot -> PyTorch's


class Optimizer:
    """SGD (Nesterov) or AdamW over the trainable parameters of a network, by the configuration's groups.

    ``steps`` counts the steps taken. The slots travel under canonical names: ``momentum.<parameter>``, or
    ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>``.
    """

    def __init__(self, network: nn.Module, settings: config.Optimizer):
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.slots = SLOTS[settings.optimizer]
        self.steps = 0
        groups = [{'params': [self.parameters[name] for name in group.names], 'lr_mult': group.lr_mult,
                   'weight_decay': group.weight_decay}
                  for group in parameter_groups({name: value.ndim for name, value in self.parameters.items()}, settings)]
        if settings.optimizer == 'adamw':
            beta1, beta2 = settings.beta
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=settings.eps)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.use_nesterov)

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters; zeros where a parameter took no part, so that weight decay reaches it."""
        for value in self.parameters.values():
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        return [value.grad for value in self.parameters.values()]

    def step(self, learning_rate: float) -> None:
        """One step with the gradients that lie in ``parameter.grad``."""
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate * group['lr_mult']
        self.optimizer.step()
        self.steps += 1

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the slots; zeros before the first step."""
        tensors = {}
        for slot, key in self.slots.items():
            for name, value in self.parameters.items():
                saved = self.optimizer.state[value].get(key)
                tensors[f'{slot}.{name}'] = np.zeros(value.shape, np.float32) if saved is None else saved.cpu().numpy().copy()
        return tensors

    def load_state(self, tensors: Mapping[str, np.ndarray], steps: int) -> None:
        """Takes back the slots; StateError when one is missing or of another shape."""
        self.steps = steps
        for slot, key in self.slots.items():
            for name, value in self.parameters.items():
                saved = _fitting(tensors, f'{slot}.{name}', tuple(value.shape), 'the same network and optimizer')
                self.optimizer.state[value][key] = torch.tensor(saved, dtype=value.dtype, device=value.device)
                if slot == 'exp_avg':
                    self.optimizer.state[value]['step'] = torch.tensor(float(steps))


class Average:
    """Exponential moving average of all parameters and running statistics of a network."""

    def __init__(self, network: nn.Module):
        self.current = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
        self.average = {name: value.clone() for name, value in self.current.items()}

    def update(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * current."""
        average = list(self.average.values())
        torch._foreach_mul_(average, decay)
        torch._foreach_add_(average, list(self.current.values()), alpha=1 - decay)

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the averages under canonical names."""
        return {name: value.cpu().numpy().copy() for name, value in self.average.items()}

    def load_state(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes back the averages; StateError when one is missing or of another shape."""
        for name, value in self.average.items():
            value.copy_(torch.from_numpy(_fitting(tensors, name, tuple(value.shape), 'the same network and with_ema')))


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm over all gradients together."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_by_global_norm(gradients: Sequence[Tensor], norm: Tensor, limit: float) -> None:
    """Scales the gradients in place so that their global norm, now ``norm``, is at most ``limit``."""
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))


def _fitting(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], condition: str) -> np.ndarray:
    found = tensors.get(name)
    if found is None or found.shape != shape:
        raise StateError(f'training state {name}: expected shape {shape}, found {"nothing" if found is None else found.shape}; '
                         f'training continues only with {condition}')
    return found
