"""Fast-SCNN: Fast Semantic Segmentation Network (Poudel et al. 2019, arXiv:1902.04502).

The defaults are mmsegmentation's network, which deviates from the paper's table 1 in one place: the pyramid pooling is
closed by a 3x3 convolution (0.26 M parameters more). Tramac/Fast-SCNN-pytorch is the preset ``tramac``.
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
    PyramidPooling,
    ReLU,
    SeparableConv,
    Sequential,
    resize,
)
from twinseg.pytorch_impl.network import Network

EXPANSION = 6  # expansion of the bottlenecks (table 1, t)
AUXILIARY_HEADS = ('aux_gfe', 'aux_ltd')  # on the global feature extractor (1/32), on learning to downsample (1/8)


class LearningToDownsample(nn.Module):
    """Three stride-2 convolutions: image -> 64 channels at 1/8 (section 3.2.1)."""

    def __init__(self, stem_padding: int = 1, depthwise_relu: bool = False, bn_momentum: float = 0.01):
        super().__init__()
        self.conv = ConvBN(3, 32, 3, 2, padding=stem_padding, bn_momentum=bn_momentum)
        self.dsconv1 = SeparableConv(32, 48, 2, 1, depthwise_relu, bn_momentum)
        self.dsconv2 = SeparableConv(48, 64, 2, 1, depthwise_relu, bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        return self.dsconv2(self.dsconv1(self.conv(x)))


class Bottleneck(nn.Module):
    """Inverted residual of MobileNetV2 (table 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, bn_momentum: float = 0.01):
        super().__init__()
        hidden = in_channels * EXPANSION
        self.expand = ConvBN(in_channels, hidden, bn_momentum=bn_momentum)
        self.depthwise = ConvBN(hidden, hidden, 3, stride, groups=hidden, bn_momentum=bn_momentum)
        self.project = ConvBN(hidden, out_channels, relu=False, bn_momentum=bn_momentum)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class GlobalFeatureExtractor(nn.Module):
    """Nine bottlenecks and pyramid pooling: 1/8 -> 128 channels at 1/32 (section 3.2.2)."""

    def __init__(self, ppm_kernel: int = 3, align_corners: bool = False, bn_momentum: float = 0.01):
        super().__init__()
        self.bottleneck1 = _stage(64, 64, 2, bn_momentum)
        self.bottleneck2 = _stage(64, 96, 2, bn_momentum)
        self.bottleneck3 = _stage(96, 128, 1, bn_momentum)
        self.ppm = PyramidPooling(128, 128, ppm_kernel, align_corners, bn_momentum)

    def forward(self, x: Tensor) -> Tensor:
        return self.ppm(self.bottleneck3(self.bottleneck2(self.bottleneck1(x))))


class FeatureFusion(nn.Module):
    """Adds the 1/32 features, upsampled, to the 1/8 ones (table 3)."""

    def __init__(self, bias: bool = False, align_corners: bool = False, bn_momentum: float = 0.01):
        super().__init__()
        self.align_corners = align_corners
        self.depthwise = ConvBN(128, 128, 3, groups=128, bn_momentum=bn_momentum)
        self.lower = ConvBN(128, 128, bias=bias, relu=False, bn_momentum=bn_momentum)
        self.higher = ConvBN(64, 128, bias=bias, relu=False, bn_momentum=bn_momentum)
        self.relu = ReLU()

    def forward(self, higher: Tensor, lower: Tensor) -> Tensor:
        lower = resize(lower, higher.shape[2:], self.align_corners)
        return self.relu(self.higher(higher) + self.lower(self.depthwise(lower)))


class Classifier(nn.Module):
    """Two separable convolutions, dropout and a 1x1 convolution to the classes (section 3.2.4)."""

    def __init__(self, num_classes: int, depthwise_relu: bool = False, dropout: float = 0.1, bn_momentum: float = 0.01):
        super().__init__()
        self.dsconv1 = SeparableConv(128, 128, 1, 1, depthwise_relu, bn_momentum)
        self.dsconv2 = SeparableConv(128, 128, 1, 1, depthwise_relu, bn_momentum)
        self.dropout = Dropout2d(128, dropout)
        self.conv = Conv2d(128, num_classes, 1, bias=True, init=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.dropout(self.dsconv2(self.dsconv1(x))))


@used_where(auxiliary_heads=lambda given: given.auxiliary)
class FastSCNN(Network):
    """Outputs: ``logits`` (1/8), ``aux_gfe`` (1/32), ``aux_ltd`` (1/8)."""

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        auxiliary_heads: Sequence[str] = AUXILIARY_HEADS,
        stem_padding: int = 1,
        depthwise_relu: bool = False,
        ppm_kernel: int = 3,
        fusion_bias: bool = False,
        align_corners: bool = False,
        dropout: float = 0.1,
        bn_momentum: float = 0.01,
    ):
        if unknown := set(auxiliary_heads) - set(AUXILIARY_HEADS):
            raise UserError(f'fast_scnn: auxiliary_heads: no head {sorted(unknown)}; there are {list(AUXILIARY_HEADS)}')
        heads = [head for head in AUXILIARY_HEADS if auxiliary and head in auxiliary_heads]
        super().__init__({output: align_corners for output in ('logits', *heads)})
        self.learning_to_downsample = LearningToDownsample(stem_padding, depthwise_relu, bn_momentum)
        self.global_feature_extractor = GlobalFeatureExtractor(ppm_kernel, align_corners, bn_momentum)
        self.feature_fusion = FeatureFusion(fusion_bias, align_corners, bn_momentum)
        self.classifier = Classifier(num_classes, depthwise_relu, dropout, bn_momentum)
        self.aux_gfe = FCNHead(128, 32, num_classes, dropout, bn_momentum=bn_momentum) if 'aux_gfe' in heads else None
        self.aux_ltd = FCNHead(64, 32, num_classes, dropout, bn_momentum=bn_momentum) if 'aux_ltd' in heads else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        higher = self.learning_to_downsample(x)
        lower = self.global_feature_extractor(higher)
        outputs = {'logits': self.classifier(self.feature_fusion(higher, lower))}
        if self.wants_auxiliary():
            if self.aux_gfe is not None:
                outputs['aux_gfe'] = self.aux_gfe(lower)
            if self.aux_ltd is not None:
                outputs['aux_ltd'] = self.aux_ltd(higher)
        return outputs


def _stage(in_channels: int, out_channels: int, stride: int, bn_momentum: float) -> Sequential:
    return Sequential(
        Bottleneck(in_channels, out_channels, stride, bn_momentum),
        *(Bottleneck(out_channels, out_channels, 1, bn_momentum) for _ in range(2)),
    )
