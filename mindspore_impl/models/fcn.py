"""FCN: Fully Convolutional Networks for Semantic Segmentation (Long et al. 2015, arXiv:1411.4038).

With ``backbone='vgg16'`` it is the paper's FCN-8s, all at once as its authors released it: the image padded by 100, skips
scaled by 0.01 and 0.0001, upsampling by fixed bilinear kernels, no norm. That is the preset ``yassouali``, his FCN8.

With a ResNet it is today's network of that name: output stride 8 and a head of 3x3 convolutions, by default mmsegmentation's:
two of them, joined with the head's input by a third. Its "b" variants have ``stem='7x7'``, those with ResNet-18
``channels=128, auxiliary_channels=64``. The other preset is ``torchvision``. Dropout is by channel, also where a publisher
drops single elements.
"""

from mindspore import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.errors import UserError
from twinseg.mindspore_impl.layers import Conv2d, ConvBN, ConvTranspose2d, Dropout2d, FCNHead, ModuleList, ReLU, concat
from twinseg.mindspore_impl.models.resnet import ResNet
from twinseg.mindspore_impl.models.vgg import VGG
from twinseg.mindspore_impl.network import Network

PADDING = 100  # padding around the image, so that small ones leave something for the 7x7 convolution
OFFSET4, OFFSET3, OFFSET = 5, 9, 31  # offsets of the coarser feature in pool4, in pool3, and in the image
SCALE4, SCALE3 = 0.01, 0.0001  # factors of pool4 and pool3, so that all learn at once


class Head(nn.Cell):
    """3x3 convolutions, with ``concat_input`` joined with their input by one more, dropout and a 1x1 classifier."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        convolutions: int = 2,
        concat_input: bool = True,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.convs = ModuleList(
            [ConvBN(in_channels if number == 0 else channels, channels, 3) for number in range(convolutions)]
        )
        self.fusion = ConvBN(in_channels + channels, channels, 3) if concat_input else None
        self.dropout = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=True, init=0.01)

    def construct(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(y)
        if self.fusion is not None:
            y = self.fusion(concat([x, y]))
        return self.classifier(self.dropout(y))


class FCN(Network):
    """FCN on a ResNet: outputs ``logits`` and ``aux``, both at 1/8."""

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'resnet50',
        stem: str = 'v1c',
        convolutions: int = 2,
        concat_input: bool = True,
        channels: int = 512,
        auxiliary_channels: int = 256,
        dropout: float = 0.1,
    ):
        if convolutions < 1:
            raise UserError(f'convolutions: {convolutions} is less than 1')
        super().__init__(dict.fromkeys(('logits', 'aux') if auxiliary else ('logits',), False))
        self.backbone = ResNet(backbone, stem, 8)
        width = self.backbone.channels
        self.head = Head(width[4], channels, num_classes, convolutions, concat_input, dropout)
        self.aux = FCNHead(width[3], auxiliary_channels, num_classes, 0.1) if auxiliary else None

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        outputs = {'logits': self.head(features[4])}
        if self.aux is not None and self.wants_auxiliary():
            outputs['aux'] = self.aux(features[3])
        return outputs


class FCN8s(Network):
    """FCN-8s on VGG-16: ``logits`` at the size of the image."""

    def __init__(self, num_classes: int = 19, channels: int = 4096, dropout: float = 0.5):
        super().__init__({'logits': False})
        self.backbone = VGG(batch_norm=False, padding=PADDING, ceil_mode=True)
        self.conv6 = Conv2d(512, channels, 7, bias=True, init=0.01)
        self.conv7 = Conv2d(channels, channels, 1, bias=True, init=0.01)
        self.relu = ReLU()
        self.dropout6 = Dropout2d(channels, dropout)
        self.dropout7 = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=True, init='uniform_fan_in')
        self.skip4 = Conv2d(512, num_classes, 1, bias=True, init='uniform_fan_in')
        self.skip3 = Conv2d(256, num_classes, 1, bias=True, init='uniform_fan_in')
        self.up5 = _upsampling(num_classes, 2)
        self.up4 = _upsampling(num_classes, 2)
        self.up3 = _upsampling(num_classes, 8)

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        _, _, pool3, pool4, pool5 = self.backbone(x)
        y = self.dropout6(self.relu(self.conv6(pool5)))
        y = self.up5(self.classifier(self.dropout7(self.relu(self.conv7(y)))))
        y = self.up4(y + _crop(self.skip4(SCALE4 * pool4), OFFSET4, y))
        y = self.up3(y + _crop(self.skip3(SCALE3 * pool3), OFFSET3, y))
        return {'logits': _crop(y, OFFSET, x)}


@used_where(
    stem=lambda given: given.backbone != 'vgg16',
    convolutions=lambda given: given.backbone != 'vgg16',
    concat_input=lambda given: given.backbone != 'vgg16',
    auxiliary_channels=lambda given: given.backbone != 'vgg16' and given.auxiliary,
)
def fcn(
    num_classes: int = 19,
    auxiliary: bool = True,
    backbone: str = 'resnet50',
    stem: str = 'v1c',
    convolutions: int = 2,
    concat_input: bool = True,
    channels: int | None = None,
    auxiliary_channels: int = 256,
    dropout: float | None = None,
) -> FCN | FCN8s:
    """FCN on a ResNet, or FCN-8s on 'vgg16', which has no auxiliary head and of these arguments takes those with None alone.

    ``channels``: of the head's convolutions; None: 512, on VGG-16 4096. ``dropout``: None: 0.1, on VGG-16 0.5.
    """
    if backbone == 'vgg16':
        return FCN8s(num_classes, channels or 4096, 0.5 if dropout is None else dropout)
    return FCN(
        num_classes,
        auxiliary,
        backbone,
        stem,
        convolutions,
        concat_input,
        channels or 512,
        auxiliary_channels,
        0.1 if dropout is None else dropout,
    )


def _upsampling(channels: int, factor: int) -> ConvTranspose2d:
    """Bilinear upsampling as a transposed convolution that does not learn."""
    up = ConvTranspose2d(channels, channels, 2 * factor, factor, init='bilinear')
    up.weight.requires_grad = False
    return up


def _crop(x: Tensor, offset: int, like: Tensor) -> Tensor:
    """The crop that begins ``offset`` from the top and left, as large as ``like``."""
    return x[:, :, offset : offset + like.shape[2], offset : offset + like.shape[3]]
