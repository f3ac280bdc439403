"""Precision levels O0 to O3; the parameters stay float32 at every level."""

import torch
from torch import nn

from twinseg.pytorch_impl.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Linear
from twinseg.pytorch_impl.network import Network


def apply(network: nn.Module, level: str, dtype: str = 'float16', keep_bn_fp32: bool = True) -> nn.Module:
    """Makes a network, in place, compute at a precision level; ``dtype`` is the half precision.

    O0: float32. O1: convolutions and linear layers in half precision; batch norm takes that and gives float32, in which
    the operators after it work. O2: convolutions, linear layers and batch norm give half precision, in which the operators
    after them work, but batch norm computes in float32. O3, and O2 without ``keep_bn_fp32``: batch norm in half precision too.
    Whoever uses the outputs casts them to float32. Half precision is laid out with the channels last, as its kernels want it.
    """
    half = getattr(torch, dtype)
    norm_output = {'O1': torch.float32, 'O2': half if keep_bn_fp32 else None}.get(level)
    for module in network.modules():
        if isinstance(module, (Conv2d, ConvTranspose2d, Linear)):
            module.compute_dtype = None if level == 'O0' else half
        elif isinstance(module, BatchNorm2d):
            module.output_dtype = norm_output
    return network if level == 'O0' else network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack memory_format


def allow_tf32(allowed: bool) -> None:
    """Lets the device multiply float32 numbers with 10 bits (TF32, HF32) from here on, in the whole process, or forbids it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    if hasattr(torch, 'npu'):
        torch.npu.matmul.allow_hf32 = torch.npu.conv.allow_hf32 = allowed


def double(network: Network) -> Network:
    """A network, in place, with weights and features in float64: what float32 is judged against. Losses stay float32."""
    network.double().register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
    return network
