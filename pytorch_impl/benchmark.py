"""What only the framework knows about a network's size and about its device."""
from typing import Any

import torch
from torch import nn

from pytorch_impl.layers import Conv2d, Linear


def parameters(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def macs(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of ``size`` (height, width)."""
    counts: list[int] = []

    def count(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        places = output.numel() // layer.weight.shape[0]
        counts.append(places * layer.weight.numel())

    layers = [layer for layer in network.modules() if isinstance(layer, (Conv2d, Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, *size, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def accelerator() -> dict[str, Any]:
    """The device beside the CPU, or the CPU threads in use."""
    if torch.cuda.is_initialized():
        return {'gpu': torch.cuda.get_device_name()}
    return {'threads': torch.get_num_threads()}
