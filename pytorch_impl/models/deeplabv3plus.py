"""DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611) and DeepLabV3 (Chen et al. 2017, arXiv:1706.05587).

``DeepLabV3Plus`` is by default the paper's network: output stride 16, rates 6, 12 and 18, 256 channels, 48 of the low-level
features, a decoder of two 3x3 convolutions, all separable with Xception. What the paper leaves open is as in mmsegmentation,
with its auxiliary head. Publishers' networks are presets:

- ``mmseg``: mmsegmentation; with ResNet-18 ``channels=128, low_level_channels=12``
- ``yassouali``, with Xception ``yassouali_xception``, and ``deephm``, whose ResNet is always ResNet-101
- ``smp``: segmentation-models-pytorch

``DeepLabV3`` has no decoder; its presets are ``mmseg`` and ``torchvision``. The paper's multi-grid is in neither network, as
with these publishers. Dropout is by channel, also where a publisher drops single elements.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.errors import UserError
from twinseg.pytorch_impl.layers import (
    Conv2d,
    ConvBN,
    Dropout2d,
    FCNHead,
    ModuleList,
    SeparableConv,
    Sequential,
    concat,
    global_avg_pool,
    resize,
)
from twinseg.pytorch_impl.models.resnet import BLOCKS, ResNet
from twinseg.pytorch_impl.models.xception import Xception
from twinseg.pytorch_impl.network import Network

RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # dilation rates by output stride (DeepLabV3, section 3.3)
BACKBONES = (*BLOCKS, 'xception')
CONVOLUTIONS = ('dense', 'separable', 'bare')


class BareSeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise convolution with a norm and a relu after the second only."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__()
        self.depthwise = Conv2d(in_channels, in_channels, 3, 1, dilation, dilation, in_channels)
        self.pointwise = ConvBN(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, dilated 3x3 convolutions and the image's average, joined (DeepLabV3, figure 5).

    ``convolution``: kind of the 3x3 ones, 'dense', 'separable' (norm and relu after both parts) or 'bare' (separable, norm and
    relu at the end). ``pool_first``: the average comes first among the joined. ``project_kernel``: of the convolution that
    fuses them. ``refine``: one more 3x3 convolution at the end.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        convolution: str = 'dense',
        pool_first: bool = False,
        project_kernel: int = 1,
        refine: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.pool_first = pool_first
        self.branches = ModuleList(
            [ConvBN(in_channels, channels), *(_convolution(convolution, in_channels, channels, rate) for rate in rates)]
        )
        self.pool = ConvBN(in_channels, channels)
        self.project = ConvBN((len(rates) + 2) * channels, channels, project_kernel)
        self.dropout = Dropout2d(channels, dropout)
        self.refine = _convolution(convolution, channels, channels) if refine else None

    def forward(self, x: Tensor) -> Tensor:
        features = []
        for branch in self.branches:
            features.append(branch(x))
        pooled = [resize(self.pool(global_avg_pool(x)), x.shape[2:], True)]
        x = self.dropout(self.project(concat(pooled + features if self.pool_first else features + pooled)))
        return x if self.refine is None else self.refine(x)


@used_where(
    stem=lambda given: given.backbone != 'xception',
    contract_dilation=lambda given: given.backbone != 'xception',
    shared_relu=lambda given: given.backbone == 'xception',
)
class DeepLabV3(Network):
    """Outputs: ``logits`` and ``aux`` at 1/``output_stride``.

    ``backbone``: a ResNet or 'xception'; ``stem`` and ``contract_dilation``: of the ResNet; ``shared_relu``: of Xception.
    ``rates``: of the ASPP; None: 6, 12 and 18 at output stride 16, twice as much at 8. ``pool_first``, ``project_kernel``: of
    the ASPP. ``refine``: a 3x3 convolution before the classifier (torchvision).
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'resnet50',
        stem: str = '7x7',
        output_stride: int = 16,
        contract_dilation: bool = True,
        rates: Sequence[int] | None = None,
        channels: int = 256,
        convolution: str = 'dense',
        pool_first: bool = False,
        project_kernel: int = 1,
        refine: bool = False,
        align_corners: bool = False,
        dropout: float = 0.5,
        shared_relu: bool = False,
    ):
        rates = _rates(rates, output_stride)
        super().__init__(dict.fromkeys(('logits', 'aux') if auxiliary else ('logits',), align_corners))
        self.backbone = _backbone(backbone, stem, output_stride, contract_dilation, shared_relu)
        width = self.backbone.channels
        self.aspp = ASPP(width[4], channels, rates, convolution, pool_first, project_kernel, refine, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=True, init=0.01)
        self.aux = FCNHead(width[3], width[3] // 4, num_classes) if auxiliary else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        outputs = {'logits': self.classifier(self.aspp(features[4]))}
        if self.aux is not None and self.wants_auxiliary():
            outputs['aux'] = self.aux(features[3])
        return outputs


@used_where(
    stem=lambda given: given.backbone != 'xception',
    contract_dilation=lambda given: given.backbone != 'xception',
    shared_relu=lambda given: given.backbone == 'xception',
)
class DeepLabV3Plus(Network):
    """Outputs: ``logits`` (1/4) and ``aux`` (1/``output_stride``).

    ``backbone``, ``stem``, ``contract_dilation``, ``shared_relu``, ``rates``: as in ``DeepLabV3``. ``convolution``: kind of the
    ASPP's and the decoder's 3x3 convolutions; None: dense with a ResNet and separable with Xception, as in the paper.
    ``refine``: one more after the ASPP. ``low_level_first``: the low-level features come first where the decoder joins both.
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'resnet50',
        stem: str = '7x7',
        output_stride: int = 16,
        contract_dilation: bool = True,
        rates: Sequence[int] | None = None,
        channels: int = 256,
        low_level_channels: int = 48,
        convolution: str | None = None,
        pool_first: bool = False,
        project_kernel: int = 1,
        refine: bool = False,
        low_level_first: bool = False,
        decoder_convolutions: int = 2,
        align_corners: bool = False,
        aspp_dropout: float = 0.0,
        dropout: float = 0.1,
        shared_relu: bool = False,
    ):
        rates = _rates(rates, output_stride)
        if decoder_convolutions < 1:
            raise UserError(f'decoder_convolutions: {decoder_convolutions!r}, not 1 or more')
        kind = convolution or ('separable' if backbone == 'xception' else 'dense')
        super().__init__(dict.fromkeys(('logits', 'aux') if auxiliary else ('logits',), align_corners))
        self.resize_corners = align_corners
        self.low_level_first = low_level_first
        self.backbone = _backbone(backbone, stem, output_stride, contract_dilation, shared_relu)
        width = self.backbone.channels
        self.aspp = ASPP(width[4], channels, rates, kind, pool_first, project_kernel, refine, aspp_dropout)
        self.low_level = ConvBN(width[1], low_level_channels)
        joined = channels + low_level_channels
        self.decoder = Sequential(
            *(_convolution(kind, joined if number == 0 else channels, channels) for number in range(decoder_convolutions))
        )
        self.dropout = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=True, init=0.01)
        self.aux = FCNHead(width[3], width[3] // 4, num_classes) if auxiliary else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        low = self.low_level(features[1])
        high = resize(self.aspp(features[4]), low.shape[2:], self.resize_corners)
        joined = concat([low, high] if self.low_level_first else [high, low])
        outputs = {'logits': self.classifier(self.dropout(self.decoder(joined)))}
        if self.aux is not None and self.wants_auxiliary():
            outputs['aux'] = self.aux(features[3])
        return outputs


def _backbone(name: str, stem: str, output_stride: int, contract_dilation: bool, shared_relu: bool) -> ResNet | Xception:
    if name not in BACKBONES:
        raise UserError(f'backbone: {name!r} is none of {", ".join(BACKBONES)}')
    if name == 'xception':
        return Xception(output_stride, shared_relu)
    return ResNet(name, stem, output_stride, contract_dilation)


def _convolution(kind: str, in_channels: int, out_channels: int, dilation: int = 1) -> nn.Module:
    if kind not in CONVOLUTIONS:
        raise UserError(f'convolution: {kind!r} is none of {", ".join(CONVOLUTIONS)}')
    if kind == 'dense':
        return ConvBN(in_channels, out_channels, 3, dilation=dilation)
    if kind == 'separable':
        return SeparableConv(in_channels, out_channels, dilation=dilation)
    return BareSeparableConv(in_channels, out_channels, dilation)


def _rates(rates: Sequence[int] | None, output_stride: int) -> Sequence[int]:
    if output_stride not in RATES:
        raise UserError(f'output_stride: {output_stride!r} is none of {", ".join(map(str, RATES))}')
    if rates is None:
        return RATES[output_stride]
    if not rates or any(not isinstance(rate, int) or rate < 1 for rate in rates):
        raise UserError(f'rates: {rates!r}, not one or more positive integers')
    return rates
