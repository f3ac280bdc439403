"""UperNet: Unified Perceptual Parsing for Scene Understanding (Xiao et al. 2018, arXiv:1807.10221), its semantic segmentation.

The defaults are mmsegmentation's network: ResNet at output stride 32, pyramid pooling on its last feature, a feature pyramid
that sums from the top down, and a fusion of all levels at 1/4 (figure 4); its "b" ResNets have ``stem='7x7'``. Presets are

- ``yassouali``; his code builds ResNet-101 whatever it is told
- ``smp``: segmentation-models-pytorch
"""

from collections.abc import Sequence

from mindspore import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.errors import UserError
from twinseg.mindspore_impl.layers import (
    Conv2d,
    ConvBN,
    Dropout2d,
    FCNHead,
    LayerNorm2d,
    ModuleList,
    PyramidPooling,
    concat,
    resize,
)
from twinseg.mindspore_impl.models.resnet import ResNet
from twinseg.mindspore_impl.network import Network

FPNS = ('cascaded', 'shared')


class CascadedFPN(nn.Cell):
    """Pyramid pooling of the deepest feature; every level adds what came from the level above, smoothed by its own convolution.

    ``in_channels``: from 1/4 to the deepest; the lateral and smoothing convolutions are listed in the opposite order.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, bins: Sequence[int], align_corners: bool, dropout: float):
        super().__init__()
        self.align_corners = align_corners
        self.ppm = PyramidPooling(in_channels[-1], channels, 3, align_corners, branch_channels=channels, bins=bins)
        self.laterals = ModuleList([ConvBN(width, channels) for width in in_channels[-2::-1]])
        self.smooth = ModuleList([ConvBN(channels, channels, 3) for _ in in_channels[:-1]])
        self.fusion = ConvBN(len(in_channels) * channels, channels, 3)
        self.dropout = Dropout2d(channels, dropout)

    def construct(self, x4: Tensor, x8: Tensor, x16: Tensor, x32: Tensor) -> Tensor:
        above = self.ppm(x32)
        levels = [above]
        for lateral, smooth, feature in zip(self.laterals, self.smooth, (x16, x8, x4)):
            above = lateral(feature) + resize(above, feature.shape[2:], self.align_corners)
            levels.append(smooth(above))
        return self.dropout(self.fusion(_join(levels, x4.shape[2:], self.align_corners)))


class SharedFPN(nn.Cell):
    """The FPN of yassouali: laterals without norm (1/4 has none and must have ``channels`` channels), sums of neighbours only,
    and one smoothing convolution for all of them.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, bins: Sequence[int], align_corners: bool, dropout: float):
        super().__init__()
        self.align_corners = align_corners
        self.ppm = PyramidPooling(in_channels[-1], in_channels[-1], 3, align_corners, bins=bins)
        self.dropout = Dropout2d(in_channels[-1], dropout)
        self.laterals = ModuleList([Conv2d(width, channels, 1, bias=True) for width in in_channels[:0:-1]])
        self.smooth = Conv2d(channels, channels, 3, padding=1, bias=True)
        self.fusion = ConvBN(len(in_channels) * channels, channels, 3)

    def construct(self, x4: Tensor, x8: Tensor, x16: Tensor, x32: Tensor) -> Tensor:
        features = []
        for lateral, feature in zip(self.laterals, (self.dropout(self.ppm(x32)), x16, x8)):
            features.append(lateral(feature))
        levels = [features[0]]
        for above, feature in zip(features, (features[1], features[2], x4)):
            levels.append(self.smooth(feature + resize(above, feature.shape[2:], self.align_corners)))
        return self.fusion(_join(levels, x4.shape[2:], self.align_corners))


@used_where(contract_dilation=lambda given: given.output_stride != 32, auxiliary_channels=lambda given: given.auxiliary)
class UperNet(Network):
    """Outputs: ``logits`` (1/4) and ``aux`` (1/16).

    ``stem``, ``output_stride``, ``contract_dilation``: of the ResNet. ``layer_norm``: of the backbone's features over their
    channels. ``fpn``: 'cascaded', or 'shared' for ``SharedFPN``.
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'resnet50',
        stem: str = 'v1c',
        output_stride: int = 32,
        contract_dilation: bool = True,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        fpn: str = 'cascaded',
        layer_norm: bool = False,
        classifier_kernel: int = 1,
        auxiliary_channels: int = 256,
        inner_align_corners: bool = False,
        align_corners: bool = False,
        dropout: float = 0.1,
    ):
        if fpn not in FPNS:
            raise UserError(f'fpn: {fpn!r} is none of {", ".join(FPNS)}')
        super().__init__(dict.fromkeys(('logits', 'aux') if auxiliary else ('logits',), align_corners))
        self.backbone = ResNet(backbone, stem, output_stride, contract_dilation)
        widths = self.backbone.channels[1:]
        if fpn == 'shared' and widths[0] != channels:
            raise UserError(
                f"channels: fpn='shared' has no lateral at 1/4, where {backbone} gives {widths[0]} channels: "
                f'set channels={widths[0]}'
            )
        self.norms = ModuleList([LayerNorm2d(width) for width in widths]) if layer_norm else None
        self.fpn = (SharedFPN if fpn == 'shared' else CascadedFPN)(widths, channels, bins, inner_align_corners, dropout)
        self.classifier = Conv2d(channels, num_classes, classifier_kernel, padding=classifier_kernel // 2, bias=True, init=0.01)
        self.aux = FCNHead(widths[2], auxiliary_channels, num_classes, 0.1) if auxiliary else None

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        _, x4, x8, x16, x32 = self.backbone(x)
        features = x4, x8, x16, x32
        if self.norms is not None:
            features = self.norms[0](x4), self.norms[1](x8), self.norms[2](x16), self.norms[3](x32)
        outputs = {'logits': self.classifier(self.fpn(*features))}
        if self.aux is not None and self.wants_auxiliary():
            outputs['aux'] = self.aux(x16)
        return outputs


def _join(levels: Sequence[Tensor], size: Sequence[int], align_corners: bool) -> Tensor:
    """Features from the deepest to 1/4, joined at that size the other way round."""
    joined = [levels[3]]
    for level in (levels[2], levels[1], levels[0]):
        joined.append(resize(level, size, align_corners))
    return concat(joined)
