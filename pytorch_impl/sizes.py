"""A network's size and its device, as far as only the framework knows them."""

import copy
from typing import Optional

import torch

from twinseg.common.images.interpolation import Size
from twinseg.pytorch_impl import precision
from twinseg.pytorch_impl.layers import Conv2d, ConvTranspose2d, Linear
from twinseg.pytorch_impl.network import Network

Layer = Conv2d | ConvTranspose2d | Linear  # layers whose multiply-accumulates are counted
PROBE = 256  # side of the image that measures the output stride


def parameters(network: Network) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def macs(network: Network, size: Size) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of ``size`` (height, width)."""
    counts: list[int] = []

    def count(layer: Layer, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # A weight's first dimension is the output's channels; in a transposed convolution it is the input's.
        pixels = (inputs[0] if isinstance(layer, ConvTranspose2d) else output).numel() // layer.weight.shape[0]
        counts.append(pixels * layer.weight.numel())

    shapes = _without_numbers(network)
    for layer in shapes.modules():
        if isinstance(layer, Layer):
            layer.register_forward_hook(count)
    _logits_shape(shapes, size)
    return sum(counts)


def output_stride(network: Network) -> Optional[int]:
    """Factor by which the logits are smaller than the image; None for a classifier."""
    if not network.align_corners:
        return None
    return PROBE // _logits_shape(_without_numbers(network), (PROBE, PROBE))[2]


def _without_numbers(network: Network) -> Network:
    """A copy in evaluation mode on the meta device, which has shapes and computes nothing."""
    tensors = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor.detach().to('meta') for tensor in tensors}).eval()


def _logits_shape(network: Network, size: Size) -> torch.Size:
    """Shape of the logits of one image that such a copy gives."""
    with torch.no_grad():
        return network(torch.zeros(1, 3, *size, device='meta'))['logits'].shape


def accelerator() -> dict[str, str | int]:
    """The device beside the CPU, or the CPU threads in use."""
    if torch.cuda.is_initialized():
        return {'gpu': torch.cuda.get_device_name()}
    if hasattr(torch, 'npu') and torch.npu.is_initialized():
        return {'ascend': torch.npu.get_device_name(), **precision.of_ascend()}
    return {'threads': torch.get_num_threads()}
