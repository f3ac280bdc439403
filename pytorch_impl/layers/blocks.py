"""Blocks of several layers that more than one network uses.

Twin of ``mindspore_impl/layers/blocks.py``: same names, same arguments, same numbers.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from twinseg.pytorch_impl.layers.functional import adaptive_avg_pool, concat, resize
from twinseg.pytorch_impl.layers.norm import BatchNorm2d
from twinseg.pytorch_impl.layers.primitives import Conv2d, Dropout2d, ModuleList, ReLU, Sequential, Size


class ConvBN(nn.Module):
    """Convolution, batch norm and, unless ``relu`` is false, relu: padded to keep the size unless ``padding`` is given."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: Size | str | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        relu: bool = True,
        bn_momentum: float = 0.1,
        init: str | float | None = None,
    ):
        super().__init__()
        padding = dilation * (kernel_size // 2) if padding is None else padding
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, init)
        self.bn = BatchNorm2d(out_channels, momentum=bn_momentum)
        self.relu = ReLU() if relu else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.relu is None else self.relu(x)


class SeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise convolution, each with norm and, by default, relu."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        depthwise_relu: bool = True,
        bn_momentum: float = 0.1,
        relu: bool = True,
    ):
        super().__init__()
        self.depthwise = ConvBN(
            in_channels,
            in_channels,
            3,
            stride,
            dilation=dilation,
            groups=in_channels,
            relu=depthwise_relu,
            bn_momentum=bn_momentum,
        )
        self.pointwise = ConvBN(in_channels, out_channels, relu=relu, bn_momentum=bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class FCNHead(nn.Module):
    """3x3 convolution with norm and relu, dropout, 1x1 classifier (Long et al. 2015, as in mmsegmentation)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        dropout: float = 0.1,
        bias: bool = True,
        bn_momentum: float = 0.1,
        classifier_init: str | float | None = 0.01,
    ):
        super().__init__()
        self.conv = ConvBN(in_channels, channels, 3, bn_momentum=bn_momentum)
        self.dropout = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=bias, init=classifier_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


class PyramidPooling(nn.Module):
    """Averages over 1, 2, 3 and 6 bins a side, beside the input, fused by one convolution (PSPNet, section 3.2).

    ``branch_channels``: of each average; None: a quarter of the input's. ``input_last``: the input is joined after the
    averages. Without ``norm_one_bin`` the average over everything has a convolution with bias instead of one with norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        align_corners: bool = False,
        bn_momentum: float = 0.1,
        branch_channels: int | None = None,
        bins: Sequence[int] = (1, 2, 3, 6),
        input_last: bool = False,
        norm_one_bin: bool = True,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.bins = tuple(bins)
        self.input_last = input_last
        branch_channels = branch_channels or in_channels // len(self.bins)
        self.branches = ModuleList(
            [
                ConvBN(in_channels, branch_channels, bn_momentum=bn_momentum)
                if norm_one_bin or number > 1
                else Sequential(Conv2d(in_channels, branch_channels, 1, bias=True), ReLU())
                for number in self.bins
            ]
        )
        self.out = ConvBN(in_channels + branch_channels * len(self.bins), out_channels, kernel_size, bn_momentum=bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        features = [] if self.input_last else [x]
        for number, branch in zip(self.bins, self.branches):
            features.append(resize(branch(adaptive_avg_pool(x, number)), x.shape[2:], self.align_corners))
        if self.input_last:
            features.append(x)
        return self.out(concat(features))
