"""Single layers without a norm: framework layers with the suite's arguments.

Twin of ``mindspore_impl/layers/primitives.py``: same names, same arguments, same numbers.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sequential = nn.Sequential
ModuleList = nn.ModuleList
Size = int | tuple[int, int]


class ReLU(nn.ReLU):
    """max(x, 0)."""

    def __init__(self):
        super().__init__(inplace=True)


class Sigmoid(nn.Sigmoid):
    """1 / (1 + exp(-x))."""


class Conv2d(nn.Conv2d):
    """Convolution with explicit padding; sizes are one number or (H, W).

    ``padding='same'``: TensorFlow's and MindSpore's rule, ceil(size / stride) outputs, an odd pixel of padding at the bottom
    and right. ``init``: scheme or standard deviation of the initial weights (``training/initial_weights.py``);
    None: the network's scheme. ``compute_dtype``: None, or the dtype that input and weights are cast to and the output
    has (the weights stay float32).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        stride: int = 1,
        padding: Size | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        init: str | float | None = None,
    ):
        self.same = padding == 'same'
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=0 if self.same else padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.init = init
        self.compute_dtype: torch.dtype | None = None

    def reset_parameters(self):
        """Nothing: ``initialise`` fills the weights."""

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = F.pad(x, [*_same_padding(x.shape[3], self, 1), *_same_padding(x.shape[2], self, 0)])
        if self.compute_dtype is None:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return self._conv_forward(x.to(self.compute_dtype), self.weight.to(self.compute_dtype), bias)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kernel_size == (1, 1) and _avoids_onednn(x):
            return F.conv2d(x, weight, bias, self.stride, self.padding, 2, self.groups)  # a single pixel is the same, dilated
        return super()._conv_forward(x, weight, bias)


def _avoids_onednn(x: Tensor) -> bool:
    """Whether PyTorch computes convolutions with 1x1 kernels as products of matrices, unless they are dilated: with one thread.
    oneDNN takes a fifth less. Not where a graph is made of the network, for an export or by a compiler."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    usual = x.device.type == 'cpu' and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return usual and torch.get_num_threads() == 1


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution; ``init`` and ``compute_dtype`` as in ``Conv2d``.

    Of the full result, ``stride * (size - 1) + kernel_size`` a side, it drops ``padding`` at the top and left and keeps
    ``size`` (H, W), which may reach beyond the full result; None: ``padding - output_padding`` fall at the bottom and right.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        bias: bool = False,
        init: str | float | None = None,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, output_padding=output_padding, bias=bias
        )
        self.init = init
        self.compute_dtype: torch.dtype | None = None

    def reset_parameters(self):
        """Nothing: ``initialise`` fills the weights."""

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.compute_dtype is not None:
            x, weight = x.to(self.compute_dtype), weight.to(self.compute_dtype)
            bias = None if bias is None else bias.to(self.compute_dtype)
        extra: Any = self.output_padding
        padding: Any = self.padding  # (top and bottom, left and right)
        if size is not None:
            extra = [
                size[axis] - (x.shape[2 + axis] - 1) * self.stride[axis] - self.kernel_size[axis] + 2 * padding[axis]
                for axis in (0, 1)
            ]
        if all(isinstance(number, int) and 0 <= number < self.stride[0] for number in extra):
            return F.conv_transpose2d(x, weight, bias, self.stride, padding, extra)
        assert size is not None
        (top, left), beyond = padding, self.stride[0]  # PyTorch refuses other sizes and, in an export, open ones
        y = F.conv_transpose2d(x, weight, None, self.stride)
        y = torch.cat((y, y.new_zeros((*y.shape[:2], beyond, y.shape[3]))), 2)  # ONNX's converter does not know Pad
        y = torch.cat((y, y.new_zeros((*y.shape[:3], beyond))), 3)
        y = y[:, :, top : top + size[0], left : left + size[1]]
        return y if bias is None else y + bias.view(1, -1, 1, 1)


class Linear(nn.Linear):
    """Fully connected layer; ``init`` and ``compute_dtype`` as in ``Conv2d``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init: str | float | None = None):
        super().__init__(in_features, out_features, bias=bias)
        self.init = init
        self.compute_dtype: torch.dtype | None = None

    def reset_parameters(self):
        """Nothing: ``initialise`` fills the weights."""

    def forward(self, x: Tensor) -> Tensor:
        if self.compute_dtype is None:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return F.linear(x.to(self.compute_dtype), self.weight.to(self.compute_dtype), bias)


class Dropout2d(nn.Module):
    """Zeroes whole channels with probability ``ratio`` in training, by the mask that ``draw_dropout`` drew for the step.

    The mask comes from ``common``, so both backends drop the same channels and a resumed run the same as before.
    """

    def __init__(self, channels: int, ratio: float):
        super().__init__()
        self.channels = channels
        self.ratio = ratio
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.dtype) if self.training and self.mask is not None else x


class Dropout(Dropout2d):
    """The same for vectors (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.dtype).flatten(1) if self.training and self.mask is not None else x


class DropPath(Dropout2d):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): adds a block's branch and its shortcut (N, C, H, W).

    In training ``on``, branch (timm) or shortcut (the model zoo's DDRNet), is dropped from a sample with probability
    ``ratio``, else divided by 1 - ratio.
    """

    def __init__(self, ratio: float, on: str = 'branch'):
        super().__init__(1, ratio)
        self.on = on

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:  # type: ignore[override]  # the module takes two inputs
        if self.on == 'branch':
            return super().forward(branch) + shortcut
        return branch + super().forward(shortcut)


class AvgPool2d(nn.AvgPool2d):
    """Average pooling; the padding counts as zeros."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0):
        super().__init__(kernel_size, stride=stride, padding=padding, count_include_pad=True)


class MaxPool2d(nn.MaxPool2d):
    """Max pooling; the padding never wins. ``ceil_mode``: windows that start inside the image may end outside."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0, ceil_mode: bool = False):
        super().__init__(kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)


class PReLU(nn.PReLU):
    """x where positive, else ``weight`` times x: one slope, or one for each of ``channels``; at first 0.25."""

    def __init__(self, channels: int = 1):
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.to(x.dtype))


def _same_padding(size: int, conv: Conv2d, axis: int) -> tuple[int, int]:
    stride, reach = conv.stride[axis], conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
