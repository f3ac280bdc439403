"""Precision levels O0 to O3; the parameters stay float32 at every level."""

import os

import mindspore as ms
from mindspore import nn
from mindspore._c_expression import MSContext

from twinseg.common.errors import BackendError
from twinseg.mindspore_impl.layers import BatchNorm2d, Conv2d, ConvTranspose2d, Linear

PRECISION_MODE = 'must_keep_origin_dtype'  # CANN's name
OVERFLOW_MODE = 'MS_ASCEND_CHECK_OVERFLOW_MODE'  # INFNAN_MODE or SATURATION_MODE


def apply(network: nn.Cell, level: str, dtype: str = 'float16', keep_bn_fp32: bool = True) -> nn.Cell:
    """Makes a network, in place, compute at a precision level; ``dtype`` is the half precision.

    O0: float32. O1: convolutions and linear layers in half precision; the operators after them, batch norm too, work in what
    they are given, as those of ``torch.autocast`` do. O2: batch norm gives half precision, whatever it is given, but computes
    in float32. O3, and O2 without ``keep_bn_fp32``: batch norm in half precision too.
    Whoever uses the outputs casts them to float32. BackendError for bfloat16 on a CPU, where MindSpore has no kernels for it.
    """
    if level != 'O0' and dtype == 'bfloat16' and ms.get_context('device_target') == 'CPU':
        raise BackendError('dtype: MindSpore has no bfloat16 convolution for CPUs; use float16, or PyTorch')
    half = getattr(ms, dtype)
    norm_output = half if level == 'O2' and keep_bn_fp32 else None
    for _, module in network.cells_and_names():
        if isinstance(module, (Conv2d, ConvTranspose2d, Linear)):
            module.compute_dtype = None if level == 'O0' else half
        elif isinstance(module, BatchNorm2d):
            module.output_dtype = norm_output
    return network


def allow_tf32(allowed: bool) -> None:
    """Lets the device multiply float32 numbers with 10 bits (TF32, HF32) from here on, in the whole process, or forbids it."""
    target = ms.get_context('device_target')
    if target == 'GPU':
        ms.device_context.gpu.op_precision.matmul_allow_tf32(allowed)
        ms.device_context.gpu.op_precision.conv_allow_tf32(allowed)
    elif target == 'Ascend':
        ms.device_context.ascend.op_precision.matmul_allow_hf32(allowed)
        ms.device_context.ascend.op_precision.conv_allow_hf32(allowed)


def keep_float32() -> None:
    """Has an Ascend compute float32 in float32, and see infinity where it can.

    By default the matrix operators of Atlas training cards (910A) take float16 for float32. An operator without float32 is an
    error instead.
    """
    ms.device_context.ascend.op_precision.precision_mode(PRECISION_MODE)
    os.environ.setdefault(OVERFLOW_MODE, 'INFNAN_MODE')


def saturates(device: str) -> bool:
    """Whether an overflow gives the device's largest number instead of infinity: all that Atlas training cards (910A) can."""
    if device != 'Ascend':
        return False
    chip = MSContext.get_instance().get_ascend_soc_version()
    return chip == 'ascend910' or os.environ.get(OVERFLOW_MODE) == 'SATURATION_MODE'


def of_ascend() -> dict[str, str]:
    """What float32 and an overflow are on an Ascend, for a log."""
    return {'precision_mode': PRECISION_MODE, 'overflow gives': 'the largest number' if saturates('Ascend') else 'infinity'}
