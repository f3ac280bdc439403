"""Aligned Xception-65, the backbone of DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611, section 3.3 and figure 4).

Strides and dilations follow the output stride; the low-level features are those of the first block (1/4, 128 channels), before
its relu. ``shared_relu`` makes yassouali/pytorch-segmentation's network, where one in-place relu serves all.
"""

from mindspore import Tensor, nn

from twinseg.common.errors import UserError
from twinseg.mindspore_impl.layers import ConvBN, SeparableConv, Sequential, relu

MIDDLE_BLOCKS = 16
OUTPUT_STRIDES = {8: (1, 1, 2), 16: (2, 1, 1), 32: (2, 2, 1)}  # strides of the third and the exit block, first dilation


class Block(nn.Cell):
    """Three separable convolutions, each after a relu, and the shortcut; ``channels``: of the input and of the three."""

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        stride: int = 1,
        dilation: int = 1,
        relu_first: bool = True,
        shared_relu: bool = False,
    ):
        super().__init__()
        self.relu_first = relu_first
        self.shared_relu = shared_relu
        self.conv1 = SeparableConv(channels[0], channels[1], 1, dilation, not shared_relu)
        self.conv2 = SeparableConv(channels[1], channels[2], 1, dilation, not shared_relu)
        self.conv3 = SeparableConv(channels[2], channels[3], stride, dilation, not shared_relu, relu=False)
        same = stride == 1 and channels[0] == channels[3]
        self.shortcut = None if same else ConvBN(channels[0], channels[3], 1, stride, relu=False)

    def construct(self, x: Tensor) -> Tensor:
        rectified = relu(x) if self.relu_first else x
        shortcut = rectified if self.shared_relu else x
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        return self.conv3(self.conv2(self.conv1(rectified))) + shortcut


class Xception(nn.Cell):
    """Image -> five features: stem (1/2), first two blocks (1/4, 1/8), middle flow (1/16) and exit flow (1/32
    at ``output_stride`` 32; at 16 and 8 dilations replace the last strides).

    ``shared_relu`` false (the paper): a relu also after each depthwise and the second stem convolution, shortcuts take the
    input unchanged. True (yassouali): neither of the two, shortcuts take the input rectified. ``channels`` holds the five
    features' channels.
    """

    def __init__(self, output_stride: int = 32, shared_relu: bool = False):
        super().__init__()
        if output_stride not in OUTPUT_STRIDES:
            raise UserError(f'output_stride: {output_stride!r} is none of {", ".join(map(str, OUTPUT_STRIDES))}')
        third, last, dilation = OUTPUT_STRIDES[output_stride]
        self.channels = (64, 128, 256, 728, 2048)
        self.stem = Sequential(ConvBN(3, 32, 3, 2), ConvBN(32, 64, 3, relu=not shared_relu))
        self.block1 = Block((64, 128, 128, 128), 2, relu_first=False, shared_relu=shared_relu)
        self.block2 = Block((128, 256, 256, 256), 2, shared_relu=shared_relu)
        self.block3 = Block((256, 728, 728, 728), third, shared_relu=shared_relu)
        self.middle = Sequential(
            *(Block((728, 728, 728, 728), 1, dilation, shared_relu=shared_relu) for _ in range(MIDDLE_BLOCKS))
        )
        self.exit = Block((728, 728, 1024, 1024), last, dilation, shared_relu=shared_relu)
        after = dilation if last == 2 else 2 * dilation
        self.convs = Sequential(
            SeparableConv(1024, 1536, 1, after, not shared_relu),
            SeparableConv(1536, 1536, 1, after, not shared_relu),
            SeparableConv(1536, 2048, 1, after, not shared_relu),
        )

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x2 = self.stem(x)
        x4 = self.block1(x2)
        x8 = self.block2(x4)
        x16 = self.middle(self.block3(x8))
        return x2, x4, x8, x16, self.convs(relu(self.exit(x16)))
