"""GCN: Large Kernel Matters, Improve Semantic Segmentation by Global Convolutional Network (Peng et al. 2017,
arXiv:1703.02719).

The defaults follow the paper: kernels of 15 and five learned upsamplings by 2, each a transposed 3x3 convolution whose size
the paper leaves open. Presets are ``yassouali_transposed`` and ``yassouali``, his variant that interpolates: there the scores
go from 1/4 to the image's size in one step. His boundary refinements hold norms that are never used; they are left out here.
There is no auxiliary head.
"""

from mindspore import Tensor, nn

from twinseg.common.errors import UserError
from twinseg.mindspore_impl.layers import Conv2d, ConvTranspose2d, ModuleList, ReLU, Sequential, resize
from twinseg.mindspore_impl.models.resnet import ResNet
from twinseg.mindspore_impl.network import Network


class GlobalConvolution(nn.Cell):
    """Dense connections over ``kernel_size`` squared pixels by two pairs of one-dimensional convolutions (figure 2 B)."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int):
        super().__init__()
        tall, wide = (kernel_size, 1), (1, kernel_size)
        high, broad = (kernel_size // 2, 0), (0, kernel_size // 2)
        self.left = Sequential(
            Conv2d(in_channels, channels, tall, padding=high, bias=True),
            Conv2d(channels, channels, wide, padding=broad, bias=True),
        )
        self.right = Sequential(
            Conv2d(in_channels, channels, wide, padding=broad, bias=True),
            Conv2d(channels, channels, tall, padding=high, bias=True),
        )

    def construct(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class BoundaryRefinement(nn.Cell):
    """Scores plus what two 3x3 convolutions make of them (figure 2 C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1, bias=True)
        self.relu = ReLU()
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=True)

    def construct(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.conv1(x)))


class Level(nn.Cell):
    """The scores of one feature, added to those of the coarser one (figure 2 A)."""

    def __init__(self, in_channels: int, num_classes: int, kernel_size: int, transposed: bool):
        super().__init__()
        self.scores = _scores(in_channels, num_classes, kernel_size)
        self.up = _twice(num_classes) if transposed else None
        self.refine = BoundaryRefinement(num_classes)

    def construct(self, coarse: Tensor, feature: Tensor) -> Tensor:
        scores = self.scores(feature)
        if self.up is None:
            coarse = resize(coarse, scores.shape[2:], True)
        else:
            coarse = self.up(coarse)  # an odd side gives one row or column too many: the first is cut
            coarse = coarse[:, :, coarse.shape[2] - scores.shape[2] :, coarse.shape[3] - scores.shape[3] :]
        return self.refine(scores + coarse)


class GCN(Network):
    """Output: ``logits``, at the image's size; with ``transposed`` its sides are rounded up to multiples of 4.

    ``kernel_size``: of the global convolutions, odd. ``transposed``: upsampling is learned; without it, it is bilinear.
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'resnet50',
        kernel_size: int = 15,
        transposed: bool = True,
    ):
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f'kernel_size: {kernel_size!r} is not an odd number')
        super().__init__({'logits': True}, init='uniform_fan_in')  # sums without norms: larger weights would diverge
        self.backbone = ResNet(backbone)
        self.backbone.init = 'kaiming_fan_out'
        channels = self.backbone.channels
        self.coarsest = _scores(channels[4], num_classes, kernel_size)
        self.levels = ModuleList([Level(channels[index], num_classes, kernel_size, transposed) for index in (3, 2, 1)])
        self.up_half = _twice(num_classes) if transposed else None
        self.refine_half = BoundaryRefinement(num_classes)
        self.up_full = _twice(num_classes) if transposed else None
        self.refine_full = BoundaryRefinement(num_classes)
        self.classifier = Conv2d(num_classes, num_classes, 1, bias=True)

    def construct(self, image: Tensor) -> dict[str, Tensor]:
        _, x4, x8, x16, x32 = self.backbone(image)
        x = self.coarsest(x32)
        for level, feature in zip(self.levels, (x16, x8, x4)):
            x = level(x, feature)
        x = self.refine_half(x if self.up_half is None else self.up_half(x))
        x = resize(x, image.shape[2:], True) if self.up_full is None else self.up_full(x)
        return {'logits': self.classifier(self.refine_full(x))}


def _scores(in_channels: int, num_classes: int, kernel_size: int) -> Sequential:
    return Sequential(GlobalConvolution(in_channels, num_classes, kernel_size), BoundaryRefinement(num_classes))


def _twice(channels: int) -> ConvTranspose2d:
    return ConvTranspose2d(channels, channels, 3, 2, 1, 1)
