"""Optimizers, clipping and averaging of weights."""

import inspect
import math
from typing import Any, Callable, Mapping, Optional

import numpy as np
import torch
from torch import Tensor, nn

from twinseg.common import config
from twinseg.common.training.parameter_groups import frozen_tensors, parameter_groups
from twinseg.common.training.state import fitting
from twinseg.pytorch_impl.network import Network
from twinseg.pytorch_impl.state import tensors

SLOTS = {
    'sgd': {'momentum': 'momentum_buffer'},
    'momentum': {'momentum': 'momentum_buffer'},
    'adam': {'exp_avg': 'exp_avg', 'exp_avg_sq': 'exp_avg_sq'},
    'adamw': {'exp_avg': 'exp_avg', 'exp_avg_sq': 'exp_avg_sq'},
    'rmsprop': {'square_avg': 'square_avg', 'momentum': 'momentum_buffer'},
    'lamb': {'exp_avg': 'exp_avg', 'exp_avg_sq': 'exp_avg_sq'},
}  # our name of a slot -> PyTorch's
FUSED_DEVICES = ('cuda',)  # devices with PyTorch's kernels of a whole step, which a number on the device can tell to do nothing
ADAM = ('adam', 'adamw')
FUSED = ('sgd', 'momentum', *ADAM)  # optimizers with such kernels


class Optimizer:
    """SGD (Nesterov), Adam, AdamW, RMSProp or LAMB over the trainable parameters of a network, by the configuration's groups.

    ``steps`` is the number of steps taken, as far as the host knows: the trainer counts them. ``skips``: whether the device
    skips a step by itself, and counts those ``taken``; else the host asks it. The slots travel under canonical names:
    ``momentum.<parameter>`` of SGD, beside it ``square_avg.<parameter>`` of RMSProp, ``exp_avg.<parameter>`` and
    ``exp_avg_sq.<parameter>`` of Adam, AdamW and LAMB.
    """

    def __init__(self, network: nn.Module, settings: config.Optimizer):
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.names = tuple(self.parameters)
        self.slots = SLOTS[settings.optimizer]
        self.steps = 0
        device = next(iter(self.parameters.values())).device
        self.fused = device.type in FUSED_DEVICES and settings.optimizer in FUSED
        self.skips = device.type != 'cpu' and (self.fused or settings.optimizer not in ADAM)  # Adam's loops count on the host
        self.taken = torch.zeros((), device=device)
        groups = [
            {
                'params': [self.parameters[name] for name in group.names],
                'lr_mult': group.lr_mult,
                'weight_decay': group.weight_decay,
            }
            for group in parameter_groups({name: value.ndim for name, value in self.parameters.items()}, settings)
        ]
        betas = settings.beta[0], settings.beta[1]
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer in ('adam', 'adamw'):
            kind = torch.optim.Adam if settings.optimizer == 'adam' else torch.optim.AdamW
            self.optimizer = _quick(kind)(groups, lr=0.0, betas=betas, eps=settings.eps, fused=self.fused or None)
        elif settings.optimizer == 'lamb':
            self.optimizer = _quick(_Lamb)(groups, betas, settings.eps)
        elif settings.optimizer == 'rmsprop':
            self.optimizer = _quick(torch.optim.RMSprop)(
                groups, lr=0.0, alpha=settings.decay, eps=settings.eps, momentum=settings.momentum
            )
        else:
            self.optimizer = _quick(torch.optim.SGD)(
                groups, lr=0.0, momentum=settings.momentum, nesterov=settings.use_nesterov, fused=self.fused or None
            )
        if self.skips:
            self.load_state(self.state(), 0)  # slots of zeros: those that a skipped first step leaves

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters, laid out as these; zeros where one took no part, so that weight decay reaches it."""
        gradients = []
        for value in self.parameters.values():
            if value.grad is None:
                value.grad = torch.zeros_like(value)
            elif self.fused and value.grad.stride() != value.stride():  # of sides of 1: the kernels refuse that
                value.grad = torch.empty_like(value).copy_(value.grad)
            gradients.append(value.grad)
        return gradients

    def step(self, learning_rate: float, finite: Optional[Tensor] = None) -> None:
        """One step with the gradients that lie in ``parameter.grad``. Where ``finite``, a boolean on a device that ``skips``,
        is false, all stays as it was."""
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate * group['lr_mult']
        if isinstance(self.optimizer, _Lamb):
            self.optimizer.number = self.steps + 1 if finite is None else self.taken + 1
        if finite is None:
            self.optimizer.step()
            return
        self.taken += finite
        if self.fused:
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler gives it
            self.optimizer.step()
            return
        changing = [*self.parameters.values()]
        changing += [self.optimizer.state[value][key] for value in self.parameters.values() for key in self.slots.values()]
        before = [value.detach().clone() for value in changing]
        self.optimizer.step()
        with torch.no_grad():
            for value, old in zip(changing, before):
                value.copy_(torch.where(finite, value, old))

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
        self.taken.fill_(steps)
        for name, value in self.parameters.items():
            self.optimizer.state[value]['step'] = torch.tensor(float(steps), device=value.device if self.fused else None)
            for slot, key in self.slots.items():
                saved = fitting(tensors, f'{slot}.{name}', value.shape, 'the same network and optimizer')
                slot_tensor = torch.empty_like(value, requires_grad=False)  # in the weight's layout, as its gradients are
                self.optimizer.state[value][key] = slot_tensor.copy_(torch.tensor(saved, dtype=value.dtype))


def _quick(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The class without the wrappers around its methods, which import PyTorch's compiler, 1.3 s, to have it skip them."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ('add_param_group', 'zero_grad')}
    return type(kind.__name__, (kind,), {**methods, 'step': torch.no_grad()(inspect.unwrap(kind.step))})


class _Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2, its phi the identity); timm's without clipping.

    Where weights decay, the length of a parameter's update is the parameter's own; a parameter or update of length 0 keeps it.
    """

    number: float | Tensor  # of the step, from 1

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float):
        super().__init__(groups, {'lr': 0.0, 'betas': betas, 'eps': eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody gives a closure
        for group in self.param_groups:
            values, (beta1, beta2), decay = group['params'], group['betas'], group['weight_decay']
            for value in values:
                if 'exp_avg' not in self.state[value]:
                    self.state[value].update(exp_avg=torch.zeros_like(value), exp_avg_sq=torch.zeros_like(value))
            first, second = ([self.state[value][key] for value in values] for key in ('exp_avg', 'exp_avg_sq'))
            gradients = [value.grad for value in values]
            torch._foreach_mul_(first, beta1)
            torch._foreach_add_(first, gradients, alpha=1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
            roots = torch._foreach_div(second, self._correction(beta2))
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, group['eps'])
            updates = torch._foreach_div(first, self._correction(beta1))
            torch._foreach_div_(updates, roots)
            if decay:
                torch._foreach_add_(updates, torch._foreach_mul(values, decay))
                before, change = (torch.stack(torch._foreach_norm(tensors)) for tensors in (values, updates))
                ratios = torch.where(torch.minimum(before, change) > 0, before / change, 1.0)
                torch._foreach_mul_(updates, list(ratios.unbind()))
            torch._foreach_mul_(updates, group['lr'])
            torch._foreach_sub_(values, updates)

    def _correction(self, beta: float) -> Any:
        """1 - beta ** number, which a float32 on the device would lose to cancellation."""
        if isinstance(self.number, Tensor):
            return -torch.expm1(self.number * (math.log(beta) if beta else -math.inf))
        return 1 - beta**self.number


class Average:
    """Exponential moving average of all parameters and running statistics of a network; frozen ones are their own average."""

    def __init__(self, network: Network):
        self.current = tensors(network)
        self.average = {name: value.clone() for name, value in self.current.items()}
        self.moving = [name for name in self.current if name not in frozen_tensors(network.frozen)]

    def update(self, decay: float | Tensor) -> None:
        """average <- decay * average + (1 - decay) * current; ``decay`` may be a number on the device."""
        average, current = ([values[name] for name in self.moving] for values in (self.average, self.current))
        torch._foreach_mul_(average, decay)
        if isinstance(decay, Tensor):
            torch._foreach_add_(average, torch._foreach_mul(current, 1 - decay))
        else:
            torch._foreach_add_(average, current, alpha=1 - decay)

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the averages under canonical names."""
        return {name: value.cpu().numpy().copy() for name, value in self.average.items()}

    def load_state(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Takes back the averages; StateError when one is missing or of another shape."""
        for name, value in self.average.items():
            value.copy_(torch.from_numpy(fitting(tensors, name, value.shape, 'the same network and with_ema')))


def global_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm over all gradients together."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_by_global_norm(gradients: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scales the gradients in place so that their global norm, now ``norm``, is at most ``limit``."""
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
