"""U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al. 2015, arXiv:1505.04597).

The defaults are the paper's figure 1 with padded convolutions, so that the logits have the image's size, and with batch norm,
as all publishers have it (``batch_norm=False``: without, as in the paper); the auxiliary head is mmsegmentation's. Unlike in
the paper, images of any size work: features that do not meet are interpolated. Publishers' networks are presets:

- ``mmseg``: mmsegmentation's UNet-S5-D16
- ``yassouali``: his UNet; ``yassouali_resnet``: his UNetResnet
- ``smp``: segmentation-models-pytorch, by default with ResNet-34
"""

from torch import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.errors import UserError
from twinseg.pytorch_impl.layers import (
    Conv2d,
    ConvBN,
    ConvTranspose2d,
    FCNHead,
    MaxPool2d,
    ModuleList,
    ReLU,
    Sequential,
    concat,
    resize,
    resize_nearest,
)
from twinseg.pytorch_impl.models.resnet import BLOCKS, ResNet
from twinseg.pytorch_impl.network import Network

CHANNELS = (64, 128, 256, 512, 1024)  # channels of the plain encoder (figure 1)
RESNET_CHANNELS = (256, 128, 64, 32, 16)  # channels of the decoder behind a ResNet
LINEAR_CHANNELS = (128, 96, 64, 48, 32)  # decoder channels of block 'linear'
LINEAR_INNER_CHANNELS = 192  # channels of the convolution before the decoder of block 'linear'
BACKBONES = ('plain', *BLOCKS)
UPSAMPLINGS = ('transposed', 'wide', 'bilinear', 'nearest')
BLOCK_KINDS = ('pair', 'narrow', 'linear')
HEADS = ('1x1', '3x3', 'fcn')


class Encoder(nn.Module):
    """Image -> five features (1, 1/2, 1/4, 1/8, 1/16), each of two convolutions on the pooled one before.

    ``late_pool``: pools, rounding sizes up, after the two convolutions instead of before, so that the first feature alone is
    not pooled; two more convolutions end the encoder.
    """

    def __init__(self, block: str, batch_norm: bool, late_pool: bool):
        super().__init__()
        self.channels = CHANNELS
        self.late_pool = late_pool
        self.stages = ModuleList([_block(block, before, after, batch_norm) for before, after in zip((3, *CHANNELS), CHANNELS)])
        self.pool = MaxPool2d(2, 2, ceil_mode=late_pool)
        self.last = _block(block, CHANNELS[-1], CHANNELS[-1], batch_norm) if late_pool else None

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for number, stage in enumerate(self.stages):
            if number == 0:
                x = stage(x)
            elif self.late_pool:
                x = self.pool(stage(x))
            else:
                x = stage(self.pool(x))
            features.append(x if self.last is None or number < 4 else self.last(x))
        return features


class Up(nn.Module):
    """Doubles the size, brings the result to a given size, joins it with a feature of that size, convolves."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        channels: int,
        block: str,
        batch_norm: bool,
        upsampling: str,
        align_corners: bool,
        skip_first: bool,
    ):
        super().__init__()
        self.nearest = upsampling == 'nearest'
        self.align_corners = align_corners
        self.skip_first = skip_first
        between = in_channels if self.nearest else channels
        self.transposed = None
        if upsampling == 'transposed':
            self.transposed = ConvTranspose2d(in_channels, channels, 2, 2, bias=True)
        elif upsampling == 'wide':
            self.transposed = ConvTranspose2d(in_channels, channels, 4, 2, 1)
        self.project = _convolution(in_channels, channels, 1, batch_norm) if upsampling == 'bilinear' else None
        self.convs = _block(block, between + skip_channels, channels, batch_norm)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int] | None) -> Tensor:
        if self.transposed is not None:
            x = self.transposed(x)
        if size is not None:
            x = resize_nearest(x, size) if self.nearest else resize(x, size, self.align_corners)
        if self.project is not None:
            x = self.project(x)
        if skip is not None:
            x = concat([skip, x] if self.skip_first else [x, skip])
        return self.convs(x)


@used_where(
    stem=lambda given: given.backbone != 'plain',
    output_stride=lambda given: given.backbone != 'plain',
    batch_norm=lambda given: given.block != 'linear' or given.upsampling == 'bilinear',
    late_pool=lambda given: given.backbone == 'plain',
    dropout=lambda given: given.head == 'fcn' or given.auxiliary and given.backbone == 'plain',
)
class UNet(Network):
    """Outputs: ``logits`` at the image's size and, behind the plain encoder, ``aux`` (1/2).

    ``backbone``: 'plain' or a ResNet, whose ``stem`` and ``output_stride`` are as in ``ResNet``. ``block``: the convolutions of
    a step, 'pair' (two 3x3), 'narrow' (the first to half the channels) or 'linear' (one, without norm and relu; behind a ResNet
    alone; it leaves the feature of the stem out). ``upsampling``: 'transposed' (2x2), 'wide' (4x4), 'bilinear' with a 1x1
    convolution or 'nearest'. ``align_corners``: of interpolation. ``late_pool``: see ``Encoder``. ``head``: '1x1', '3x3'
    or 'fcn' (3x3 with norm and relu, dropout, 1x1).
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        backbone: str = 'plain',
        stem: str = '7x7',
        output_stride: int = 32,
        block: str = 'pair',
        batch_norm: bool = True,
        late_pool: bool = False,
        upsampling: str = 'transposed',
        align_corners: bool = False,
        head: str = '1x1',
        dropout: float = 0.1,
    ):
        for argument, value, known in (
            ('backbone', backbone, BACKBONES),
            ('block', block, BLOCK_KINDS),
            ('upsampling', upsampling, UPSAMPLINGS),
            ('head', head, HEADS),
        ):
            if value not in known:
                raise UserError(f'{argument}: {value!r} is none of {", ".join(known)}')
        plain, linear = backbone == 'plain', block == 'linear'
        if plain and linear:
            raise UserError("block: 'linear' goes with a ResNet as backbone")
        auxiliary = auxiliary and plain
        super().__init__(dict.fromkeys(('logits', 'aux') if auxiliary else ('logits',), align_corners), init='kaiming_fan_in')
        self.backbone = Encoder(block, batch_norm, late_pool) if plain else ResNet(backbone, stem, output_stride)
        widths = self.backbone.channels
        before = widths[4]
        self.inner = _convolution(before, LINEAR_INNER_CHANNELS, 3, batch_norm, linear) if linear else None
        before = LINEAR_INNER_CHANNELS if linear else before
        if plain:
            steps = list(zip(CHANNELS[3::-1], widths[3::-1]))
        elif linear:
            steps = list(zip(LINEAR_CHANNELS, (*widths[3:0:-1], 0, 0)))
        else:
            steps = list(zip(RESNET_CHANNELS, (*widths[3::-1], 0)))
        ups = []
        for after, skip in steps:
            ups.append(Up(before, skip, after, block, batch_norm, upsampling, align_corners, plain))
            before = after
        joined = sum(skip > 0 for _, skip in steps)
        self.ups = ModuleList(ups[:joined])
        self.more_ups = ModuleList(ups[joined:])
        if head == 'fcn':
            self.head: nn.Module = FCNHead(before, before, num_classes, dropout)
        else:
            size = 1 if head == '1x1' else 3
            self.head = Conv2d(before, num_classes, size, padding=size // 2, bias=not linear)
        self.aux = FCNHead(widths[1], widths[0], num_classes, dropout) if auxiliary else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image)
        x = features[4] if self.inner is None else self.inner(features[4])
        half = x
        for number, up in enumerate(self.ups):
            skip = features[3 - number]
            half, x = x, up(x, skip, skip.shape[2:])
        for number, up in enumerate(self.more_ups):
            x = up(x, None, image.shape[2:] if number == len(self.more_ups) - 1 else None)
        outputs = {'logits': self.head(x)}
        if self.aux is not None and self.wants_auxiliary():
            outputs['aux'] = self.aux(half)
        return outputs


def _convolution(in_channels: int, out_channels: int, kernel_size: int, batch_norm: bool, linear: bool = False) -> nn.Module:
    if batch_norm and not linear:
        return ConvBN(in_channels, out_channels, kernel_size)
    conv = Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=True)
    return conv if linear else Sequential(conv, ReLU())


def _block(kind: str, in_channels: int, out_channels: int, batch_norm: bool) -> nn.Module:
    if kind == 'linear':
        return _convolution(in_channels, out_channels, 3, batch_norm, linear=True)
    inner = out_channels // 2 if kind == 'narrow' else out_channels
    return Sequential(_convolution(in_channels, inner, 3, batch_norm), _convolution(inner, out_channels, 3, batch_norm))
