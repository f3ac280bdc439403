"""PSPNet: Pyramid Scene Parsing Network (Zhao et al. 2017, arXiv:1612.01105).

The defaults are the paper's network as mmsegmentation builds it: dilated ResNet at output stride 8, pyramid pooling of 1, 2, 3
and 6 bins, a 3x3 convolution to 512 channels, an auxiliary head on the third stage. The stem is mmsegmentation's (V1c), the
authors' has 64, 64 and 128 channels ('deep'). mmsegmentation's "b" variants have ``stem='7x7'``, those with ResNet-18
``channels=128, auxiliary_channels=64``. Presets are

- ``yassouali``; with ``auxiliary_channels=512``, on ResNet-18 and 34 ``channels=128, auxiliary_channels=128``
- ``smp``: segmentation-models-pytorch
"""

from torch import Tensor

from twinseg.common.backend import used_where
from twinseg.pytorch_impl.layers import Conv2d, Dropout2d, FCNHead, PyramidPooling
from twinseg.pytorch_impl.models.resnet import ResNet
from twinseg.pytorch_impl.network import Network


@used_where(auxiliary_channels=lambda given: given.auxiliary and given.stages != 2)
class PSPNet(Network):
    """Outputs: ``logits`` and ``aux``, both at 1/8.

    ``stem``, ``dilate_second``, ``stages``: of the ResNet; with two stages there is no third for an auxiliary head.
    ``channels``: that the pyramid gives; ``branch_channels``: of each of its averages, None: a quarter of the backbone's.
    ``pyramid_kernel``: of the convolution that closes the pyramid; ``input_last``, ``norm_one_bin``: see ``PyramidPooling``.
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'resnet50',
        stem: str = 'v1c',
        dilate_second: bool = False,
        stages: int = 4,
        channels: int = 512,
        branch_channels: int | None = None,
        pyramid_kernel: int = 3,
        input_last: bool = False,
        norm_one_bin: bool = True,
        classifier_kernel: int = 1,
        auxiliary_channels: int = 256,
        pyramid_align_corners: bool = False,
        align_corners: bool = False,
        dropout: float = 0.1,
    ):
        auxiliary = auxiliary and stages > 2
        super().__init__(dict.fromkeys(('logits', 'aux') if auxiliary else ('logits',), align_corners))
        self.backbone = ResNet(backbone, stem, 8, True, dilate_second, stages)
        width = self.backbone.channels
        self.ppm = PyramidPooling(
            width[-1],
            channels,
            pyramid_kernel,
            pyramid_align_corners,
            branch_channels=branch_channels,
            input_last=input_last,
            norm_one_bin=norm_one_bin,
        )
        self.dropout = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, classifier_kernel, padding=classifier_kernel // 2, bias=True, init=0.01)
        self.aux = FCNHead(width[3], auxiliary_channels, num_classes, 0.1) if auxiliary else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        outputs = {'logits': self.classifier(self.dropout(self.ppm(features[-1])))}
        if self.aux is not None and self.wants_auxiliary():
            outputs['aux'] = self.aux(features[3])
        return outputs
