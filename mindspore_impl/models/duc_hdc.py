"""DUC-HDC: Understanding Convolution for Semantic Segmentation (Wang et al. 2018, arXiv:1702.08502).

A ResNet (the paper's is ResNet-101) at output stride 8 whose last two stages dilate in cycles (hybrid dilated convolution,
section 3.2, configuration RF), atrous spatial pyramid pooling, and dense upsampling convolutions (DUC, section 3.1) instead
of interpolation. By default, as in the paper, one DUC brings the pooled features from 1/8 to the image's size; the pyramid
pooling is that of DeepLabV3, with the image's average among the joined branches, where the paper has DeepLabV2's. The preset
``yassouali`` is DeepLabV3+ with a DUC to 1/4 and another one to the image's size, whose norm and relu make the logits
non-negative. His DUCs start as nearest neighbour upsampling; here they start as other convolutions do. There is no auxiliary
head.
"""

from collections.abc import Sequence

from mindspore import Tensor, nn

from twinseg.mindspore_impl.layers import Conv2d, ConvBN, Dropout2d, Sequential, concat, pixel_shuffle
from twinseg.mindspore_impl.models.deeplabv3plus import ASPP
from twinseg.mindspore_impl.models.resnet import ResNet
from twinseg.mindspore_impl.network import Network

CYCLES = {3: (1, 2, 3), 4: (3, 4, 5)}  # cycles of dilations (section 4.2, RF); the last two blocks of stage 3 keep 2
RATES = (6, 12, 18, 24, 36)  # dilation rates of the pyramid pooling
CHANNELS = 256  # channels of the pyramid pooling and the decoder
LOW_LEVEL_CHANNELS = 48


class DUC(nn.Cell):
    """1x1 convolution to ``factor`` squared as many channels, which become pixels; with ``norm`` norm and relu between."""

    def __init__(self, in_channels: int, channels: int, factor: int, norm: bool):
        super().__init__()
        self.factor = factor
        wide = channels * factor * factor
        self.conv = ConvBN(in_channels, wide) if norm else Conv2d(in_channels, wide, 1, bias=True)

    def construct(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.conv(x), self.factor)


class Decoder(nn.Cell):
    """Features (1/8), doubled by a DUC, beside low-level ones (1/4) -> classes at 1/4, as in DeepLabV3+."""

    def __init__(self, low_level_channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.low_level = ConvBN(low_level_channels, LOW_LEVEL_CHANNELS)
        self.up = DUC(CHANNELS, CHANNELS, 2, norm=True)
        self.convs = Sequential(ConvBN(CHANNELS + LOW_LEVEL_CHANNELS, CHANNELS, 3), ConvBN(CHANNELS, CHANNELS, 3))
        self.dropout = Dropout2d(CHANNELS, dropout)
        self.classifier = Conv2d(CHANNELS, num_classes, 1, bias=True)

    def construct(self, x: Tensor, low: Tensor) -> Tensor:
        low = self.low_level(low)
        x = self.up(x)[:, :, : low.shape[2], : low.shape[3]]  # an odd side gives one row or column too many
        return self.classifier(self.dropout(self.convs(concat([low, x]))))


class DUCHDC(Network):
    """Output: ``logits``, at the image's size with sides rounded up to multiples of 8, or with ``decoder`` of 4.

    ``decoder``: between the pyramid pooling and the last DUC. ``logits_norm``: the last DUC ends in norm and relu.
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'resnet50',
        rates: Sequence[int] = RATES,
        decoder: bool = False,
        logits_norm: bool = False,
        aspp_dropout: float = 0.0,
        dropout: float = 0.1,
    ):
        super().__init__({'logits': True}, init='kaiming_fan_in')
        self.backbone = ResNet(backbone, output_stride=8, contract_dilation=False, dilation_cycles=CYCLES)
        self.aspp = ASPP(self.backbone.channels[4], CHANNELS, rates, dropout=aspp_dropout)
        self.decoder = Decoder(self.backbone.channels[1], num_classes, dropout) if decoder else None
        self.dropout = None if decoder else Dropout2d(CHANNELS, dropout)
        self.up = DUC(num_classes if decoder else CHANNELS, num_classes, 4 if decoder else 8, logits_norm)

    def construct(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image)
        x = self.aspp(features[4])
        if self.dropout is not None:
            x = self.dropout(x)
        if self.decoder is not None:
            x = self.decoder(x, features[1])
        return {'logits': self.up(x)}
