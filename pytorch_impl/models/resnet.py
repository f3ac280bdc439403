"""ResNet: Deep Residual Learning for Image Recognition (He et al. 2016, arXiv:1512.03385), tables 1 and 2.

``ResNet`` is the backbone of the segmentation networks, ``resnet18`` to ``resnet152`` classify images. As all publishers here
do, a bottleneck block strides in its 3x3 convolution (torchvision's V1.5), not in the first 1x1 as the paper does. The preset
``mmseg`` of the classifiers is mmsegmentation's ResNetV1c, with three 3x3 convolutions as stem, and ``encoding``
PyTorch-Encoding's, whose stem is of twice as many channels.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.errors import UserError
from twinseg.common.training.dropout import drop_path_ratios
from twinseg.pytorch_impl.layers import (
    ConvBN,
    DropPath,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    flatten,
    global_avg_pool,
)
from twinseg.pytorch_impl.network import Network

BLOCKS = {
    'resnet18': (2, 2, 2, 2),
    'resnet34': (3, 4, 6, 3),
    'resnet50': (3, 4, 6, 3),
    'resnet101': (3, 4, 23, 3),
    'resnet152': (3, 8, 36, 3),
}
BASIC = ('resnet18', 'resnet34')  # networks without bottlenecks
CHANNELS = (64, 128, 256, 512)  # channels of the 3x3 convolutions in the four stages
STEMS = {'7x7': 64, 'v1c': 64, 'deep': 128}  # stems and the channels that they give


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut; ``dilations``: of the first and the second."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilations: tuple[int, int],
        drop_path: float = 0.0,
        drop_path_on: str = 'branch',
    ):
        super().__init__()
        self.conv1 = ConvBN(in_channels, channels, 3, stride, dilation=dilations[0])
        self.conv2 = ConvBN(channels, channels, 3, dilation=dilations[1], relu=False)
        self.downsample = _shortcut(in_channels, channels, stride)
        self.drop_path = DropPath(drop_path, drop_path_on) if drop_path else None
        self.relu = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv2(self.conv1(x))
        return self.relu(x + shortcut if self.drop_path is None else self.drop_path(x, shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and the shortcut; ``dilations``: the first is that of the 3x3 convolution."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilations: tuple[int, int],
        drop_path: float = 0.0,
        drop_path_on: str = 'branch',
    ):
        super().__init__()
        self.conv1 = ConvBN(in_channels, channels)
        self.conv2 = ConvBN(channels, channels, 3, stride, dilation=dilations[0])
        self.conv3 = ConvBN(channels, channels * self.expansion, relu=False)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)
        self.drop_path = DropPath(drop_path, drop_path_on) if drop_path else None
        self.relu = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv3(self.conv2(self.conv1(x)))
        return self.relu(x + shortcut if self.drop_path is None else self.drop_path(x, shortcut))


class ResNet(nn.Module):
    """Image -> five features: of the stem (1/2) and of the four stages (1/4, 1/8, 1/16, 1/32 at ``output_stride`` 32).

    ``stem``: '7x7' (the paper's), 'v1c' (three 3x3, 32, 32 and 64 channels; mmsegmentation) or 'deep' (64, 64 and 128).
    ``output_stride`` 16 or 8: the last stages dilate instead of striding. With ``contract_dilation`` the first block of a
    dilated stage keeps the dilation of the stage before and a basic block dilates its first convolution alone
    (mmsegmentation, torchvision); without, all 3x3 convolutions of the stage dilate (segmentation-models-pytorch).
    ``dilate_second``: whether a basic block dilates its second convolution too; None: without ``contract_dilation``.
    ``stages``: of the four only so many, and as many features. ``channels`` holds the features' channels.
    ``dilation_cycles``: by stage, 1 to 4, the dilations that its blocks take in turn; blocks that fill no whole cycle keep the
    stage's own (hybrid dilated convolution, arXiv:1702.08502). ``drop_path_rate``: rate in the last block, from 0 in the first.
    """

    init: str  # scheme of the initial weights, where it is not the network's

    def __init__(
        self,
        name: str,
        stem: str = '7x7',
        output_stride: int = 32,
        contract_dilation: bool = True,
        dilate_second: bool | None = None,
        stages: int = 4,
        dilation_cycles: Mapping[int, Sequence[int]] | None = None,
        drop_path_rate: float = 0.0,
        drop_path_on: str = 'branch',
    ):
        super().__init__()
        _check('backbone', name, BLOCKS)
        _check('stem', stem, STEMS)
        _check('output_stride', output_stride, (8, 16, 32))
        _check('stages', stages, (2, 3, 4))
        block = BasicBlock if name in BASIC else Bottleneck
        width = STEMS[stem]
        self.channels = (width, *(channels * block.expansion for channels in CHANNELS[:stages]))
        dilate_second = not contract_dilation if dilate_second is None else dilate_second
        if stem == '7x7':
            self.stem = Sequential(ConvBN(3, 64, 7, 2))
        else:
            self.stem = Sequential(ConvBN(3, width // 2, 3, 2), ConvBN(width // 2, width // 2, 3), ConvBN(width // 2, width, 3))
        self.pool = MaxPool2d(3, 2, 1)
        ratios = drop_path_ratios(drop_path_rate, drop_path_on, BLOCKS[name])
        layers: list[Any] = []  # None beyond ``stages``
        total, dilation = 4, 1
        for index, (channels, blocks) in enumerate(zip(CHANNELS, BLOCKS[name])):
            stride, before = 1 if index == 0 else 2, dilation
            if total * stride > output_stride:
                stride, dilation = 1, 2 * dilation
            total *= stride
            first = before if contract_dilation else dilation
            cycle = (dilation_cycles or {}).get(index + 1, ())
            stage = []
            for number in range(blocks):
                rates = first if number == 0 else dilation, dilation if dilate_second else 1
                if cycle and number < blocks - blocks % len(cycle):
                    rates = (cycle[number % len(cycle)],) * 2
                stage.append(block(width, channels, stride if number == 0 else 1, rates, ratios[index][number], drop_path_on))
                width = channels * block.expansion
            layers.append(Sequential(*stage) if index < stages else None)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x2 = self.stem(x)
        x4 = self.layer1(self.pool(x2))
        x8 = self.layer2(x4)
        if self.layer3 is None:
            return x2, x4, x8
        x16 = self.layer3(x8)
        return (x2, x4, x8, x16) if self.layer4 is None else (x2, x4, x8, x16, self.layer4(x16))


class ResNetClassifier(Network):
    """``logits`` (N, num_classes)."""

    def __init__(
        self, name: str, num_classes: int = 1000, stem: str = '7x7', drop_path_rate: float = 0.0, drop_path_on: str = 'branch'
    ):
        super().__init__({})
        self.backbone = ResNet(name, stem, drop_path_rate=drop_path_rate, drop_path_on=drop_path_on)
        self.fc = Linear(self.backbone.channels[-1], num_classes, init='uniform_fan_in')

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {'logits': self.fc(flatten(global_avg_pool(self.backbone(x)[-1])))}


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def resnet18(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem: str = '7x7',
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> ResNetClassifier:
    """ResNet-18 for classification; it has no auxiliary heads."""
    return ResNetClassifier('resnet18', num_classes, stem, drop_path_rate, drop_path_on)


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def resnet34(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem: str = '7x7',
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> ResNetClassifier:
    """ResNet-34 for classification; it has no auxiliary heads."""
    return ResNetClassifier('resnet34', num_classes, stem, drop_path_rate, drop_path_on)


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def resnet50(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem: str = '7x7',
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> ResNetClassifier:
    """ResNet-50 for classification; it has no auxiliary heads."""
    return ResNetClassifier('resnet50', num_classes, stem, drop_path_rate, drop_path_on)


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def resnet101(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem: str = '7x7',
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> ResNetClassifier:
    """ResNet-101 for classification; it has no auxiliary heads."""
    return ResNetClassifier('resnet101', num_classes, stem, drop_path_rate, drop_path_on)


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def resnet152(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem: str = '7x7',
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> ResNetClassifier:
    """ResNet-152 for classification; it has no auxiliary heads."""
    return ResNetClassifier('resnet152', num_classes, stem, drop_path_rate, drop_path_on)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> ConvBN | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvBN(in_channels, out_channels, 1, stride, relu=False)


def _check(argument: str, value: str | int, known: Collection) -> None:
    if value not in known:
        raise UserError(f'{argument}: {value!r} is none of {", ".join(map(str, known))}')
