"""Precision levels O0 to O3; the parameters stay float32 at every level."""

import torch
from torch import nn

from twinseg.common.training.loss_scaling import LossScaler
from twinseg.pytorch_impl.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Linear
from twinseg.pytorch_impl.network import Network

CHANNELS_LAST_DEVICES = ('cpu', 'cuda')  # devices that take that layout; torch_npu refuses it
CHANNELS_LAST_MODELS = ('twinseg.pytorch_impl.models.fast_scnn', 'twinseg.pytorch_impl.models.ddrnet')
PRECISION_MODE = 'must_keep_origin_dtype'  # CANN's name


def apply(network: nn.Module, level: str, dtype: str = 'float16', keep_bn_fp32: bool = True) -> nn.Module:
    """Makes a network, in place, compute at a precision level; ``dtype`` is the half precision.

    O0: float32. O1: convolutions and linear layers in half precision; the operators after them, batch norm too, work in what
    they are given, as those of ``torch.autocast`` do. O2: batch norm gives half precision, whatever it is given, but computes
    in float32. O3, and O2 without ``keep_bn_fp32``: batch norm in half precision too.
    Whoever uses the outputs casts them to float32. Half precision is laid out with the channels last, as its kernels want it,
    where the device takes that.
    """
    half = getattr(torch, dtype)
    norm_output = half if level == 'O2' and keep_bn_fp32 else None
    for module in network.modules():
        if isinstance(module, (Conv2d, ConvTranspose2d, Linear)):
            module.compute_dtype = None if level == 'O0' else half
        elif isinstance(module, BatchNorm2d):
            module.output_dtype = norm_output
    if level != 'O0' and all(parameter.device.type in CHANNELS_LAST_DEVICES for parameter in network.parameters()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack memory_format
    return network


def lay_out_for_training(network: nn.Module) -> None:
    """Puts the channels of a network last, in place, on a CPU, where that pays in float32: a step of Fast-SCNN or DDRNet at
    512x1024 takes 0.8 to 0.85 of the time then, one of another network 0.9 to 1.4."""
    on_cpu = all(parameter.device.type == 'cpu' for parameter in network.parameters())
    if on_cpu and type(network).__module__ in CHANNELS_LAST_MODELS:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack memory_format


def allow_tf32(allowed: bool) -> None:
    """Lets the device multiply float32 numbers with 10 bits (TF32, HF32) from here on, in the whole process, or forbids it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    if hasattr(torch, 'npu'):
        torch.npu.matmul.allow_hf32 = torch.npu.conv.allow_hf32 = allowed


def double(network: Network) -> Network:
    """A network, in place, with weights and features in float64: what float32 is judged against. Losses stay float32."""
    network.double().register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
    return network


def keep_float32() -> None:
    """Has torch_npu compute float32 in float32, and keep weights and buffers in the layout that they are given in.

    By default the matrix operators of Atlas training cards (910A) take float16 for float32, and ``Module.to`` lays out batch
    norms' buffers and convolutions' weights as these cards like them. An operator without float32 is an error instead.
    """
    assert hasattr(torch, 'npu')
    torch.npu.set_option({'ACL_PRECISION_MODE': PRECISION_MODE})
    torch.npu.config.allow_internal_format = False


def saturates(device: str) -> bool:
    """Whether an overflow gives the device's largest number instead of infinity: all that Atlas training cards (910A) can."""
    return device == 'npu' and hasattr(torch, 'npu') and not torch.npu.utils.is_support_inf_nan()


def of_ascend() -> dict[str, str]:
    """What float32 and an overflow are on an Ascend, for a log."""
    overflow = 'the largest number' if saturates('npu') else 'infinity'
    return {'precision_mode': PRECISION_MODE, 'overflow gives': overflow}


class DeviceLossScale:
    """The rule of ``LossScaler`` for a dynamic scale, as numbers on a device, which learns itself whether a step overflowed."""

    def __init__(self, scaler: LossScaler, device: torch.device):
        self.scale, self.good_steps = (torch.tensor(float(value), device=device) for value in (scaler.scale, scaler.good_steps))
        self.window = scaler.window

    def update(self, finite: torch.Tensor) -> None:
        """Counts a step."""
        good_steps = torch.where(finite, self.good_steps + 1, 0)
        full = good_steps >= self.window
        self.scale = torch.where(finite, self.scale * (1 + full), (self.scale / 2).clamp(min=1))
        self.good_steps = torch.where(full, 0, good_steps)
