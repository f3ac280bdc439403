"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation (Badrinarayanan et al., arXiv:1511.00561).

The decoder mirrors VGG-16 and unpools to where the encoder found its maxima; as in the authors' code, convolutions have
biases although a norm follows. The preset ``yassouali`` (yassouali/pytorch-segmentation) has one convolution more, and
``deephm``, the older version of it that DeepHM/deeplabv3plus_DPDDP keeps, uses the encoder's layers in the decoder, too.

``yassouali_resnet`` is his SegResNet: it unpools once, to the positions of the stem's maxima, and upsamples otherwise
by transposed convolutions. His wants sides that are multiples of 32; here every feature gets its size in the encoder back.
"""

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.errors import UserError
from twinseg.pytorch_impl.layers import (
    BatchNorm2d,
    Conv2d,
    ConvBN,
    ConvTranspose2d,
    ModuleList,
    ReLU,
    Sequential,
    max_pool_indices,
    max_unpool,
)
from twinseg.pytorch_impl.models.resnet import BLOCKS, Bottleneck, ResNet
from twinseg.pytorch_impl.models.vgg import CHANNELS, CONVOLUTIONS, VGG
from twinseg.pytorch_impl.network import Network

BACKBONES = ('vgg16_bn', 'resnet50', 'resnet101', 'resnet152')
UNPOOLED = 64  # channels of the last unpooling


class SegNet(Network):
    """``logits`` at the image's size.

    ``last_convolutions``: 1 or 2, between the last unpooling and the classifier. ``shared``: the decoder's convolutions with
    as many channels in as out are the encoder's of the stage, in reverse, with their norms, and ``decoder`` has only the
    others; the last of two last convolutions is ``last``, with the norm of the encoder's very first.
    """

    def __init__(self, num_classes: int = 19, auxiliary: bool = True, shared: bool = False, last_convolutions: int = 1):
        _check('last_convolutions', last_convolutions, (1, 2))
        super().__init__({'logits': False}, init='kaiming_fan_in')
        self.backbone = VGG()
        self.borrowed = []  # layers of the encoder in each stage of the decoder
        stages = []
        for index in range(len(CHANNELS)):
            width, count = CHANNELS[index], CONVOLUTIONS[index]
            after = CHANNELS[index - 1] if index else width
            widths = [width] * ((count if index else last_convolutions) - 1) + [after]
            borrowed = 0 if not shared else count if index and after == width else count - 1
            self.borrowed.append(borrowed)
            new_widths = widths[borrowed:] if index or not shared else []
            stages.append(Sequential(*(ConvBN(width, channels, 3, bias=True) for channels in new_widths)))
        self.decoder = ModuleList(stages)
        self.last = Conv2d(UNPOOLED, UNPOOLED, 3, padding=1, bias=True) if shared and last_convolutions == 2 else None
        self.classifier = Conv2d(UNPOOLED, num_classes, 3, padding=1, bias=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        sizes, maxima = [], []
        for stage in self.backbone.stages:
            x = stage(x)
            sizes.append(x.shape[2:])
            x, indices = max_pool_indices(x, 2, 2)
            maxima.append(indices)
        for step in range(len(CHANNELS)):
            index = len(CHANNELS) - 1 - step
            x = max_unpool(x, maxima[index], sizes[index])
            for number in range(self.borrowed[index]):
                x = self.backbone.stages[index][CONVOLUTIONS[index] - 1 - number](x)
            x = self.decoder[index](x)
        if self.last is not None:
            first = self.backbone.stages[0][0]
            x = first.relu(first.bn(self.last(x)))
        return {'logits': self.classifier(x)}


class Upsample(nn.Module):
    """Bottleneck with transposed convolutions: half the channels at twice the size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvBN(channels, channels // 4)
        self.conv2 = ConvTranspose2d(channels // 4, channels // 4, 2, 2)
        self.bn2 = BatchNorm2d(channels // 4)
        self.conv3 = ConvBN(channels // 4, channels // 2, relu=False)
        self.shortcut = ConvTranspose2d(channels, channels // 2, 2, 2)
        self.shortcut_bn = BatchNorm2d(channels // 2)
        self.relu = ReLU()

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        branch = self.conv3(self.relu(self.bn2(self.conv2(self.conv1(x), size))))
        return self.relu(branch + self.shortcut_bn(self.shortcut(x, size)))


class Narrow(nn.Module):
    """Bottleneck that ends with the channels it has inside."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv1 = ConvBN(in_channels, channels)
        self.conv2 = ConvBN(channels, channels, 3)
        self.conv3 = ConvBN(channels, channels, relu=False)
        self.shortcut = ConvBN(in_channels, channels, relu=False)
        self.relu = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


class SegResNet(Network):
    """``logits`` at the image's size; the decoder has the encoder's blocks but for the first of every stage."""

    def __init__(self, num_classes: int = 19, auxiliary: bool = True, backbone: str = 'resnet50'):
        super().__init__({'logits': False}, init='kaiming_fan_in')
        self.backbone = ResNet(backbone)
        blocks, channels = BLOCKS[backbone], self.backbone.channels
        self.decoder4 = _blocks(channels[4], blocks[3] - 1)
        self.up4 = Upsample(channels[4])
        self.decoder3 = _blocks(channels[3], blocks[2] - 1)
        self.up3 = Upsample(channels[3])
        self.decoder2 = _blocks(channels[2], blocks[1] - 1)
        self.up2 = Upsample(channels[2])
        self.decoder1 = _blocks(channels[1], blocks[0] - 1)
        self.narrow = Narrow(channels[1], UNPOOLED)
        self.up1 = ConvTranspose2d(UNPOOLED, UNPOOLED, 2, 2)
        self.classifier = Conv2d(UNPOOLED, num_classes, 3, padding=1, bias=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x2 = self.backbone.stem(x)
        x4, indices = max_pool_indices(x2, 3, 2, 1)
        x4 = self.backbone.layer1(x4)
        x8 = self.backbone.layer2(x4)
        x16 = self.backbone.layer3(x8)
        y = self.decoder4(self.backbone.layer4(x16))
        y = self.decoder3(self.up4(y, x16.shape[2:]))
        y = self.decoder2(self.up3(y, x8.shape[2:]))
        y = self.narrow(self.decoder1(self.up2(y, x4.shape[2:])))
        y = self.up1(max_unpool(y, indices, x2.shape[2:]), x.shape[2:])
        return {'logits': self.classifier(y)}


@used_where(shared=lambda given: given.backbone == 'vgg16_bn', last_convolutions=lambda given: given.backbone == 'vgg16_bn')
def segnet(
    num_classes: int = 19, auxiliary: bool = True, backbone: str = 'vgg16_bn', shared: bool = False, last_convolutions: int = 1
) -> Network:
    """SegNet, or with a ResNet SegResNet, to which ``shared`` and ``last_convolutions`` do not apply."""
    _check('backbone', backbone, BACKBONES)
    if backbone == 'vgg16_bn':
        return SegNet(num_classes, auxiliary, shared, last_convolutions)
    return SegResNet(num_classes, auxiliary, backbone)


def _blocks(channels: int, count: int) -> Sequential:
    return Sequential(*(Bottleneck(channels, channels // Bottleneck.expansion, 1, (1, 1)) for _ in range(count)))


def _check(argument: str, value: str | int, known: Collection) -> None:
    if value not in known:
        raise UserError(f'{argument}: {value!r} is none of {", ".join(map(str, known))}')
