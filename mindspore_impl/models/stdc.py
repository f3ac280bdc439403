"""STDC: Rethinking BiSeNet For Real-time Semantic Segmentation (Fan et al. 2021, arXiv:2104.13188).

``stdc1`` and ``stdc2`` classify images (table 2), ``stdc1_seg`` and ``stdc2_seg`` segment them (section 3.2). The defaults
are mmsegmentation's network; the authors' STDC-Seg is the preset ``stdc_seg``.
"""

from mindspore import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.mindspore_impl.layers import (
    AvgPool2d,
    Conv2d,
    ConvBN,
    Dropout,
    FCNHead,
    Linear,
    ModuleList,
    ReLU,
    Sequential,
    Sigmoid,
    concat,
    flatten,
    global_avg_pool,
    resize_nearest,
)
from twinseg.mindspore_impl.network import Network

STDC1_BLOCKS = (2, 2, 2)  # blocks of stages 3, 4 and 5 (table 2)
STDC2_BLOCKS = (4, 5, 3)
CHANNELS = (32, 64, 256, 512, 1024)  # channels of stages 1 to 5
CONTEXT_CHANNELS = 128  # channels of the attention refinement and context features
OUTPUTS = ('logits', 'aux16', 'aux32', 'detail')
BACKBONE_INIT = 'kaiming_fan_out'  # nets/stdcnet.py of STDC-Seg, and mmsegmentation


class ShortTermDenseConcat(nn.Cell):
    """Four convolutions, each narrower and reading the one before, whose outputs are joined (figure 3)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        half = out_channels // 2
        self.convs = ModuleList(
            [
                ConvBN(in_channels, half),
                ConvBN(half, half // 2, 3),
                ConvBN(half // 2, half // 4, 3),
                ConvBN(half // 4, half // 4, 3),
            ]
        )
        self.downsample = ConvBN(half, half, 3, 2, groups=half, relu=False) if stride == 2 else None
        self.pool = AvgPool2d(3, 2, 1) if stride == 2 else None

    def construct(self, x: Tensor) -> Tensor:
        first = self.convs[0](x)
        second = self.convs[1](first if self.downsample is None else self.downsample(first))
        third = self.convs[2](second)
        fourth = self.convs[3](third)
        return concat([first if self.pool is None else self.pool(first), second, third, fourth])


class Backbone(nn.Cell):
    """Image -> features at 1/8 (256 channels), 1/16 (512) and 1/32 (1024)."""

    def __init__(self, blocks: tuple[int, int, int]):
        super().__init__()
        self.init = BACKBONE_INIT
        self.stage1 = ConvBN(3, CHANNELS[0], 3, 2)
        self.stage2 = ConvBN(CHANNELS[0], CHANNELS[1], 3, 2)
        self.stage3 = _stage(CHANNELS[1], CHANNELS[2], blocks[0])
        self.stage4 = _stage(CHANNELS[2], CHANNELS[3], blocks[1])
        self.stage5 = _stage(CHANNELS[3], CHANNELS[4], blocks[2])

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x8 = self.stage3(self.stage2(self.stage1(x)))
        x16 = self.stage4(x8)
        return x8, x16, self.stage5(x16)


class STDC(Network):
    """Classifier: ``logits`` (N, num_classes). The pooled features are squared first, as the authors' code does."""

    def __init__(self, blocks: tuple[int, int, int], num_classes: int = 1000, dropout: float = 0.2):
        super().__init__({})
        self.backbone = Backbone(blocks)
        self.conv_last = ConvBN(CHANNELS[-1], 1024)
        self.fc = Linear(1024, 1024, bias=False, init=0.001)
        self.relu = ReLU()
        self.dropout = Dropout(1024, dropout)
        self.linear = Linear(1024, num_classes, bias=False, init=0.001)

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv_last(self.backbone(x)[2])
        x = self.fc(flatten(global_avg_pool(x * x)))
        return {'logits': self.linear(self.dropout(self.relu(x)))}


class AttentionRefinement(nn.Cell):
    """A 3x3 convolution weighted by channel (ARM of BiSeNet)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = ConvBN(in_channels, out_channels, 3)
        self.attention = ConvBN(out_channels, out_channels, relu=False)
        self.sigmoid = Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.sigmoid(self.attention(global_avg_pool(x)))


class FeatureFusion(nn.Cell):
    """Joins the 1/8 features of the backbone and of the context path (FFM of BiSeNet)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = ConvBN(in_channels, out_channels)
        self.squeeze = Conv2d(out_channels, out_channels // 4, 1)
        self.relu = ReLU()
        self.excite = Conv2d(out_channels // 4, out_channels, 1)
        self.sigmoid = Sigmoid()

    def construct(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.conv(concat([spatial, context]))
        attention = self.sigmoid(self.excite(self.relu(self.squeeze(global_avg_pool(x)))))
        return x * attention + x


class STDCSeg(Network):
    """Outputs: ``logits`` (1/8); ``aux16`` on the 1/8 and ``aux32`` on the 1/16 context feature, named as the authors name
    them; ``detail`` (1/8): the boundary logits of the detail guidance (section 3.3), needed in training only.

    ``decoder_init``: the scheme of all weights outside the backbone; by default mmsegmentation's, in which classifiers have
    their own.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int],
        num_classes: int = 19,
        auxiliary: bool = True,
        detail_channels: int = 2,
        class_bias: bool = True,
        auxiliary_align_corners: bool = False,
        dropout: float = 0.1,
        decoder_init: str | None = None,
    ):
        outputs = OUTPUTS if auxiliary else OUTPUTS[:1]
        align_corners = {name: name in ('logits', 'detail') or auxiliary_align_corners for name in outputs}
        super().__init__(align_corners, decoder_init or BACKBONE_INIT)
        self.backbone = Backbone(blocks)
        self.conv_avg = ConvBN(CHANNELS[4], CONTEXT_CHANNELS)
        self.arm32 = AttentionRefinement(CHANNELS[4], CONTEXT_CHANNELS)
        self.arm16 = AttentionRefinement(CHANNELS[3], CONTEXT_CHANNELS)
        self.conv_head32 = ConvBN(CONTEXT_CHANNELS, CONTEXT_CHANNELS, 3)
        self.conv_head16 = ConvBN(CONTEXT_CHANNELS, CONTEXT_CHANNELS, 3)
        self.ffm = FeatureFusion(CHANNELS[2] + CONTEXT_CHANNELS, 256)
        of_head = dropout, class_bias, 0.1, 0.01 if decoder_init is None else None  # 0.1: momentum; last: classifier's weights
        self.head = FCNHead(256, 256, num_classes, *of_head)
        self.aux16 = FCNHead(CONTEXT_CHANNELS, 64, num_classes, *of_head) if auxiliary else None
        self.aux32 = FCNHead(CONTEXT_CHANNELS, 64, num_classes, *of_head) if auxiliary else None
        self.detail = FCNHead(CHANNELS[2], 64, detail_channels, *of_head) if auxiliary else None

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        x8, x16, x32 = self.backbone(x)
        context = self.arm32(x32) + self.conv_avg(global_avg_pool(x32))
        context16 = self.conv_head32(resize_nearest(context, x16.shape[2:]))
        context8 = self.conv_head16(resize_nearest(self.arm16(x16) + context16, x8.shape[2:]))
        outputs = {'logits': self.head(self.ffm(x8, context8))}
        if self.wants_auxiliary() and self.aux16 is not None and self.aux32 is not None and self.detail is not None:
            outputs['aux16'] = self.aux16(context8)
            outputs['aux32'] = self.aux32(context16)
            outputs['detail'] = self.detail(x8)
        return outputs


def stdc1(num_classes: int = 1000, auxiliary: bool = True, dropout: float = 0.2) -> STDC:
    """STDC1 for classification (the authors' STDCNet813); it has no auxiliary heads."""
    return STDC(STDC1_BLOCKS, num_classes, dropout)


def stdc2(num_classes: int = 1000, auxiliary: bool = True, dropout: float = 0.2) -> STDC:
    """STDC2 for classification (the authors' STDCNet1446); it has no auxiliary heads."""
    return STDC(STDC2_BLOCKS, num_classes, dropout)


@used_where(detail_channels=lambda given: given.auxiliary, auxiliary_align_corners=lambda given: given.auxiliary)
def stdc1_seg(
    num_classes: int = 19,
    auxiliary: bool = True,
    detail_channels: int = 2,
    class_bias: bool = True,
    auxiliary_align_corners: bool = False,
    dropout: float = 0.1,
    decoder_init: str | None = None,
) -> STDCSeg:
    """STDC1 for segmentation."""
    return STDCSeg(
        STDC1_BLOCKS, num_classes, auxiliary, detail_channels, class_bias, auxiliary_align_corners, dropout, decoder_init
    )


@used_where(detail_channels=lambda given: given.auxiliary, auxiliary_align_corners=lambda given: given.auxiliary)
def stdc2_seg(
    num_classes: int = 19,
    auxiliary: bool = True,
    detail_channels: int = 2,
    class_bias: bool = True,
    auxiliary_align_corners: bool = False,
    dropout: float = 0.1,
    decoder_init: str | None = None,
) -> STDCSeg:
    """STDC2 for segmentation."""
    return STDCSeg(
        STDC2_BLOCKS, num_classes, auxiliary, detail_channels, class_bias, auxiliary_align_corners, dropout, decoder_init
    )


def _stage(in_channels: int, out_channels: int, blocks: int) -> Sequential:
    return Sequential(
        ShortTermDenseConcat(in_channels, out_channels, 2),
        *(ShortTermDenseConcat(out_channels, out_channels, 1) for _ in range(blocks - 1)),
    )
