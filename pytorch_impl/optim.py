"""Optimizers, clipping and averaging of weights."""

import inspect
from typing import Any, Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from twinseg.common import config
from twinseg.common.training.parameter_groups import parameter_groups
from twinseg.common.training.state import fitting
from twinseg.pytorch_impl.state import tensors

SLOTS = {
    'sgd': {'momentum': 'momentum_buffer'},
    'momentum': {'momentum': 'momentum_buffer'},
    'adam': {'exp_avg': 'exp_avg', 'exp_avg_sq': 'exp_avg_sq'},
    'adamw': {'exp_avg': 'exp_avg', 'exp_avg_sq': 'exp_avg_sq'},
    'rmsprop': {'square_avg': 'square_avg', 'momentum': 'momentum_buffer'},
    'lamb': {'exp_avg': 'exp_avg', 'exp_avg_sq': 'exp_avg_sq'},
}  # our name of a slot -> PyTorch's


class Optimizer:
    """SGD (Nesterov), Adam, AdamW, RMSProp or LAMB over the trainable parameters of a network, by the configuration's groups.

    ``steps`` counts the steps taken. The slots travel under canonical names: ``momentum.<parameter>`` of SGD, beside it
    ``square_avg.<parameter>`` of RMSProp, ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>`` of Adam, AdamW and LAMB.
    """

    def __init__(self, network: nn.Module, settings: config.Optimizer):
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.names = tuple(self.parameters)
        self.slots = SLOTS[settings.optimizer]
        self.steps = 0
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
            self.optimizer = _quick(kind)(groups, lr=0.0, betas=betas, eps=settings.eps)
        elif settings.optimizer == 'lamb':
            self.optimizer = _quick(_Lamb)(groups, betas, settings.eps)
        elif settings.optimizer == 'rmsprop':
            self.optimizer = _quick(torch.optim.RMSprop)(
                groups, lr=0.0, alpha=settings.decay, eps=settings.eps, momentum=settings.momentum
            )
        else:
            self.optimizer = _quick(torch.optim.SGD)(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.use_nesterov)

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters; zeros where a parameter took no part, so that weight decay reaches it."""
        gradients = []
        for value in self.parameters.values():
            if value.grad is None:
                value.grad = torch.zeros_like(value)
            gradients.append(value.grad)
        return gradients

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
        for name, value in self.parameters.items():
            self.optimizer.state[value]['step'] = torch.tensor(float(steps))
            for slot, key in self.slots.items():
                saved = fitting(tensors, f'{slot}.{name}', value.shape, 'the same network and optimizer')
                self.optimizer.state[value][key] = torch.tensor(saved, dtype=value.dtype, device=value.device)


def _quick(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The class without the wrappers around its methods, which import PyTorch's compiler, 1.3 s, to have it pass over them."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ('add_param_group', 'zero_grad')}
    return type(kind.__name__, (kind,), {**methods, 'step': torch.no_grad()(inspect.unwrap(kind.step))})


class _Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2, its phi the identity); timm's without clipping.

    Where weights decay, the length of a parameter's update is the parameter's own; a parameter or update of length 0 keeps it.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float):
        super().__init__(groups, {'lr': 0.0, 'betas': betas, 'eps': eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody gives a closure
        for group in self.param_groups:
            (beta1, beta2), decay = group['betas'], group['weight_decay']
            for value in group['params']:
                saved = self.state[value]
                if not saved:
                    saved.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(value), exp_avg_sq=torch.zeros_like(value))
                saved['step'] += 1
                steps = saved['step'].item()
                saved['exp_avg'].mul_(beta1).add_(value.grad, alpha=1 - beta1)
                saved['exp_avg_sq'].mul_(beta2).addcmul_(value.grad, value.grad, value=1 - beta2)
                root = (saved['exp_avg_sq'] / (1 - beta2**steps)).sqrt()
                update = saved['exp_avg'] / (1 - beta1**steps) / (root + group['eps'])
                if decay:
                    update += decay * value
                    lengths = value.norm(), update.norm()
                    update *= torch.where(torch.minimum(*lengths) > 0, lengths[0] / lengths[1], 1.0)
                value -= group['lr'] * update


class Average:
    """Exponential moving average of all parameters and running statistics of a network."""

    def __init__(self, network: nn.Module):
        self.current = tensors(network)
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
            value.copy_(torch.from_numpy(fitting(tensors, name, value.shape, 'the same network and with_ema')))


def global_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm over all gradients together."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_by_global_norm(gradients: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scales the gradients in place so that their global norm, now ``norm``, is at most ``limit``."""
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
