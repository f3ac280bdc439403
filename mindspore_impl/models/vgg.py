"""VGG-16: Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan and Zisserman 2015, arXiv:1409.1556).

``VGG`` is the backbone of SegNet and FCN-8s, ``vgg16_bn`` classifies images (configuration D with batch norm, as in
torchvision).
"""

from typing import Any

from mindspore import Tensor, nn

from twinseg.mindspore_impl.layers import (
    Conv2d,
    ConvBN,
    Dropout,
    Linear,
    MaxPool2d,
    ModuleList,
    ReLU,
    Sequential,
    adaptive_avg_pool,
    flatten,
)
from twinseg.mindspore_impl.network import Network

CHANNELS = (64, 128, 256, 512, 512)  # channels of the five stages (table 1, D)
CONVOLUTIONS = (2, 2, 3, 3, 3)


class VGG(nn.Cell):
    """Image -> the five stages' features after their pooling (1/2, 1/4, ..., 1/32), with 64, 128, 256, 512, 512 channels.

    ``batch_norm``: a norm after every convolution, which keeps its bias. ``padding``: of the first convolution (FCN-8s pads
    100). ``ceil_mode``: of the pooling.
    """

    def __init__(self, batch_norm: bool = True, padding: int = 1, ceil_mode: bool = False):
        super().__init__()
        self.stages: Any = ModuleList()  # a list of Sequential
        before = 3
        for index, (channels, count) in enumerate(zip(CHANNELS, CONVOLUTIONS)):
            layers: list[nn.Cell] = []
            for number in range(count):
                around = padding if index == number == 0 else 1
                if batch_norm:
                    layers.append(ConvBN(before, channels, 3, padding=around, bias=True))
                else:
                    layers.append(Sequential(Conv2d(before, channels, 3, padding=around, bias=True), ReLU()))
                before = channels
            self.stages.append(Sequential(*layers))
        self.pool = MaxPool2d(2, 2, ceil_mode=ceil_mode)

    def construct(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = self.pool(stage(x))
            features.append(x)
        return features


class VGGClassifier(Network):
    """``logits`` (N, num_classes). ``channels``: of the two hidden layers."""

    def __init__(self, num_classes: int = 1000, channels: int = 4096, dropout: float = 0.5):
        super().__init__({})
        self.backbone = VGG()
        self.fc1 = Linear(512 * 7 * 7, channels, init=0.01)
        self.fc2 = Linear(channels, channels, init=0.01)
        self.fc3 = Linear(channels, num_classes, init=0.01)
        self.relu = ReLU()
        self.dropout1 = Dropout(channels, dropout)
        self.dropout2 = Dropout(channels, dropout)

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        x = flatten(adaptive_avg_pool(self.backbone(x)[-1], 7))
        x = self.dropout1(self.relu(self.fc1(x)))
        return {'logits': self.fc3(self.dropout2(self.relu(self.fc2(x))))}


def vgg16_bn(num_classes: int = 1000, auxiliary: bool = True, channels: int = 4096, dropout: float = 0.5) -> VGGClassifier:
    """VGG-16 with batch norm for classification, ``channels`` in its two hidden layers; it has no auxiliary heads."""
    return VGGClassifier(num_classes, channels, dropout)
