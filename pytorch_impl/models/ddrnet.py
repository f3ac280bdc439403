"""DDRNet: Deep Dual-resolution Networks for Real-time Semantic Segmentation (Hong et al. 2021, arXiv:2101.06085).

``ddrnet23_slim``, ``ddrnet23`` and ``ddrnet39`` classify images (table 1), the names with ``_seg`` segment them (section 3).
The defaults are mmsegmentation's networks; presets are ``ddrnet``, the authors' ydhongHIT/DDRNet, and ``zoo``, the MindSpore
model zoo's DDRNet-23, which has ``drop_path_on='shortcut'`` besides. All of them take images whose sides are multiples of 8;
here the low resolution is brought to the size of the high one, so that other sides work, too.
"""

from typing import NamedTuple

from torch import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.training.dropout import drop_path_ratios
from twinseg.pytorch_impl.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvBN,
    DropPath,
    Linear,
    ModuleList,
    ReLU,
    Sequential,
    concat,
    flatten,
    global_avg_pool,
    relu,
    resize,
)
from twinseg.pytorch_impl.network import Network

POOLING = ((5, 2, 2), (9, 4, 4), (17, 8, 8))  # kernel, stride and padding of the DAPPM's averages (figure 5)
POOLING_CHANNELS = 128  # channels of each branch of the pyramid pooling


class Size(NamedTuple):
    """The sizes in which the three networks differ."""

    channels: int  # channels of the stem
    blocks: tuple[int, ...]  # blocks of the two stages at one resolution, then of every stage that both branches have
    strides: tuple[int, ...]  # strides of the latter stages in the low-resolution branch
    head_channels: int
    last_channels: int  # channels before the classifier


DDRNET23_SLIM = Size(32, (2, 2, 2, 2), (2, 2), 64, 1024)
DDRNET23 = Size(64, (2, 2, 2, 2), (2, 2), 128, 2048)
DDRNET39 = Size(64, (3, 4, 3, 3, 3), (2, 1, 2), 256, 2048)


class Settings(NamedTuple):
    """The settings in which the publishers differ."""

    stem_bias: bool = False
    same_padding: bool = False  # padding of MindSpore and TensorFlow: at stride 2 one pixel further to the bottom and right
    half_pixel: bool = True  # half-pixel centres in bilinear resizing
    last_bn_momentum: float = 0.1  # momentum of the norm that closes a bottleneck
    drop_path_on: str = 'branch'  # part of a block that stochastic depth drops

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        bias: bool = False,
        relu: bool = False,
        bn_momentum: float = 0.1,
    ) -> ConvBN:
        padding = 'same' if self.same_padding else None
        return ConvBN(in_channels, out_channels, kernel_size, stride, padding, bias=bias, relu=relu, bn_momentum=bn_momentum)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut; the last block of a stage leaves the relu to what reads it."""

    def __init__(self, settings: Settings, in_channels: int, channels: int, stride: int, relu: bool, drop_path: float):
        super().__init__()
        self.conv1 = settings.conv(in_channels, channels, 3, stride, relu=True)
        self.conv2 = settings.conv(channels, channels, 3)
        self.downsample = settings.conv(in_channels, channels, 1, stride) if stride > 1 or in_channels != channels else None
        self.drop_path = DropPath(drop_path, settings.drop_path_on) if drop_path else None
        self.relu = ReLU() if relu else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv2(self.conv1(x))
        x = x + shortcut if self.drop_path is None else self.drop_path(x, shortcut)
        return x if self.relu is None else self.relu(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, which doubles the channels, and the shortcut."""

    def __init__(self, settings: Settings, channels: int, stride: int, relu: bool, drop_path: float):
        super().__init__()
        self.conv1 = settings.conv(channels, channels, relu=True)
        self.conv2 = settings.conv(channels, channels, 3, stride, relu=True)
        self.conv3 = settings.conv(channels, 2 * channels, bn_momentum=settings.last_bn_momentum)
        self.downsample = settings.conv(channels, 2 * channels, 1, stride)
        self.drop_path = DropPath(drop_path, settings.drop_path_on) if drop_path else None
        self.relu = ReLU() if relu else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)
        x = self.conv3(self.conv2(self.conv1(x)))
        x = x + shortcut if self.drop_path is None else self.drop_path(x, shortcut)
        return x if self.relu is None else self.relu(x)


class NormFirst(nn.Module):
    """Batch norm, relu and convolution, in this order."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1):
        super().__init__()
        self.bn = BatchNorm2d(in_channels)
        self.relu = ReLU()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(self.bn(x)))


class Backbone(nn.Module):
    """Image -> three features: of the high resolution (1/8) before its last stage, of the low and of the high one at the end.

    The low resolution is 1/64 with ``last_stride`` 2 (segmentation) and 1/32 with 1. ``last_relu``: after the bottlenecks.
    ``drop_path_rate`` is reached, as in the model zoo, in the last block of the low resolution and in both bottlenecks; a stage
    of the high resolution has the rates of the stage before.
    """

    def __init__(self, size: Size, settings: Settings, last_stride: int, last_relu: bool, drop_path_rate: float = 0.0):
        super().__init__()
        channels, high = size.channels, 2 * size.channels
        self.half_pixel = settings.half_pixel
        self.stem = Sequential(
            settings.conv(3, channels, 3, 2, settings.stem_bias, relu=True),
            settings.conv(channels, channels, 3, 2, settings.stem_bias, relu=True),
        )
        ratios = drop_path_ratios(drop_path_rate, settings.drop_path_on, size.blocks)
        self.layer1 = _stage(settings, channels, channels, ratios[0])
        self.layer2 = _stage(settings, channels, high, ratios[1], 2)
        self.low, self.high, self.compression, self.down = ModuleList(), ModuleList(), ModuleList(), ModuleList()
        before, factor = high, 1
        for index, stride in enumerate(size.strides, 2):
            factor *= stride
            low = high * factor
            self.low.append(_stage(settings, before, low, ratios[index], stride))
            self.high.append(_stage(settings, high, high, ratios[index - 1][: size.blocks[index]]))
            self.compression.append(settings.conv(low, high))
            if factor == 2:
                self.down.append(Sequential(settings.conv(high, low, 3, 2)))
            else:
                self.down.append(Sequential(settings.conv(high, low // 2, 3, 2, relu=True), settings.conv(low // 2, low, 3, 2)))
            before = low
        self.last_low = Bottleneck(settings, before, last_stride, last_relu, drop_path_rate)
        self.last_high = Bottleneck(settings, high, 1, last_relu, drop_path_rate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.layer2(relu(self.layer1(self.stem(x))))
        low, high, before = x, x, x
        for low_stage, high_stage, compression, down in zip(self.low, self.high, self.compression, self.down):
            before = high
            low, high = low_stage(relu(low)), high_stage(relu(high))
            compressed = compression(relu(low))
            low = low + down(relu(high))
            high = high + resize(compressed, high.shape[2:], False, self.half_pixel)
        return before, self.last_low(relu(low)), self.last_high(relu(high))


class DAPPM(nn.Module):
    """Deep Aggregation Pyramid Pooling: averages over growing windows, each added to the one before (section 3.3)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.pools = ModuleList([AvgPool2d(kernel, stride, padding) for kernel, stride, padding in POOLING])
        self.scales = ModuleList([NormFirst(in_channels, POOLING_CHANNELS) for _ in range(len(POOLING) + 2)])
        self.processes = ModuleList([NormFirst(POOLING_CHANNELS, POOLING_CHANNELS, 3) for _ in range(len(POOLING) + 1)])
        self.compression = NormFirst(POOLING_CHANNELS * (len(POOLING) + 2), out_channels)
        self.shortcut = NormFirst(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        averages = [x]
        for pool in self.pools:
            averages.append(pool(x))
        averages.append(global_avg_pool(x))
        features = []
        for index, (average, scale) in enumerate(zip(averages, self.scales)):
            if index == 0:
                features.append(scale(average))
            else:
                features.append(self.processes[index - 1](resize(scale(average), x.shape[2:], False) + features[-1]))
        return self.compression(concat(features)) + self.shortcut(x)


class Head(nn.Module):
    """3x3 convolution and 1x1 classifier, each after norm and relu."""

    def __init__(self, in_channels: int, channels: int, num_classes: int):
        super().__init__()
        self.conv = NormFirst(in_channels, channels, 3)
        self.bn = BatchNorm2d(channels)
        self.relu = ReLU()
        self.classifier = Conv2d(channels, num_classes, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.relu(self.bn(self.conv(x))))


class DDRNet(Network):
    """Classifier: ``logits`` (N, num_classes)."""

    def __init__(self, size: Size, settings: Settings, num_classes: int = 1000, drop_path_rate: float = 0.0):
        super().__init__({})
        high, low = 4 * size.channels, 16 * size.channels
        self.backbone = Backbone(size, settings, 1, True, drop_path_rate)
        self.down = Sequential(settings.conv(high, low // 2, 3, 2, relu=True), settings.conv(low // 2, low, 3, 2))
        self.conv_last = settings.conv(low, size.last_channels, relu=True)
        self.linear = Linear(size.last_channels, num_classes, init='uniform_fan_in')

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        _, low, high = self.backbone(x)
        x = self.conv_last(relu(low + self.down(high)))
        return {'logits': self.linear(flatten(global_avg_pool(x)))}


class DDRNetSeg(Network):
    """Outputs: ``logits`` and ``aux`` (1/8), the latter of the high resolution before the last fusion."""

    def __init__(self, size: Size, settings: Settings, num_classes: int = 19, auxiliary: bool = True):
        super().__init__({name: False for name in (('logits', 'aux') if auxiliary else ('logits',))})
        high = 2 * size.channels
        self.backbone = Backbone(size, settings, 2, False)
        self.spp = DAPPM(8 * high, 2 * high)
        self.head = Head(2 * high, size.head_channels, num_classes)
        self.aux = Head(high, size.head_channels, num_classes) if auxiliary else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        before, low, high = self.backbone(x)
        outputs = {'logits': self.head(high + resize(self.spp(low), high.shape[2:], False))}
        if self.aux is not None and self.wants_auxiliary():
            outputs['aux'] = self.aux(before)
        return outputs


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def ddrnet23_slim(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem_bias: bool = False,
    same_padding: bool = False,
    half_pixel: bool = True,
    last_bn_momentum: float = 0.1,
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> DDRNet:
    """DDRNet-23-slim for classification; it has no auxiliary head."""
    settings = Settings(stem_bias, same_padding, half_pixel, last_bn_momentum, drop_path_on)
    return DDRNet(DDRNET23_SLIM, settings, num_classes, drop_path_rate)


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def ddrnet23(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem_bias: bool = False,
    same_padding: bool = False,
    half_pixel: bool = True,
    last_bn_momentum: float = 0.1,
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> DDRNet:
    """DDRNet-23 for classification; it has no auxiliary head."""
    settings = Settings(stem_bias, same_padding, half_pixel, last_bn_momentum, drop_path_on)
    return DDRNet(DDRNET23, settings, num_classes, drop_path_rate)


@used_where(drop_path_on=lambda given: given.drop_path_rate)
def ddrnet39(
    num_classes: int = 1000,
    auxiliary: bool = True,
    stem_bias: bool = False,
    same_padding: bool = False,
    half_pixel: bool = True,
    last_bn_momentum: float = 0.1,
    drop_path_rate: float = 0.0,
    drop_path_on: str = 'branch',
) -> DDRNet:
    """DDRNet-39 for classification; it has no auxiliary head."""
    settings = Settings(stem_bias, same_padding, half_pixel, last_bn_momentum, drop_path_on)
    return DDRNet(DDRNET39, settings, num_classes, drop_path_rate)


def ddrnet23_slim_seg(
    num_classes: int = 19,
    auxiliary: bool = True,
    stem_bias: bool = False,
    same_padding: bool = False,
    half_pixel: bool = True,
    last_bn_momentum: float = 0.1,
) -> DDRNetSeg:
    """DDRNet-23-slim for segmentation."""
    return DDRNetSeg(DDRNET23_SLIM, Settings(stem_bias, same_padding, half_pixel, last_bn_momentum), num_classes, auxiliary)


def ddrnet23_seg(
    num_classes: int = 19,
    auxiliary: bool = True,
    stem_bias: bool = False,
    same_padding: bool = False,
    half_pixel: bool = True,
    last_bn_momentum: float = 0.1,
) -> DDRNetSeg:
    """DDRNet-23 for segmentation."""
    return DDRNetSeg(DDRNET23, Settings(stem_bias, same_padding, half_pixel, last_bn_momentum), num_classes, auxiliary)


def ddrnet39_seg(
    num_classes: int = 19,
    auxiliary: bool = True,
    stem_bias: bool = False,
    same_padding: bool = False,
    half_pixel: bool = True,
    last_bn_momentum: float = 0.1,
) -> DDRNetSeg:
    """DDRNet-39 for segmentation."""
    return DDRNetSeg(DDRNET39, Settings(stem_bias, same_padding, half_pixel, last_bn_momentum), num_classes, auxiliary)


def _stage(settings: Settings, in_channels: int, channels: int, drop_paths: list[float], stride: int = 1) -> Sequential:
    layers = []
    for index, drop_path in enumerate(drop_paths):
        layers.append(
            BasicBlock(
                settings,
                channels if index else in_channels,
                channels,
                1 if index else stride,
                index < len(drop_paths) - 1,
                drop_path,
            )
        )
    return Sequential(*layers)
