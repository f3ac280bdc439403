"""ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation (Paszke et al. 2016, arXiv:1606.02147).

The defaults are the network of the authors' code (e-lab/ENet-training), but for two things: images may have any size (theirs
multiples of 8), and the decoder has the dropout that the paper's section 4 tells (theirs has none: ``decoder_dropout=0``).
In all networks here dropout takes whole channels. Presets are ``davidtvs`` (davidtvs/PyTorch-ENet) and ``yassouali``
(yassouali/pytorch-segmentation).
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from mindspore import Tensor, nn

from twinseg.common.backend import used_where
from twinseg.common.errors import UserError
from twinseg.mindspore_impl.layers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout2d,
    MaxPool2d,
    PReLU,
    ReLU,
    Sequential,
    concat,
    max_pool_indices,
    max_unpool,
    pad_channels,
)
from twinseg.mindspore_impl.network import Network

INITIAL, FIRST, SECOND = 16, 64, 128  # channels at 1/2, 1/4 and 1/8 (table 1)
REDUCTION = 4  # factor by which a bottleneck reduces the channels
ASYMMETRIC = 5  # length of the asymmetric kernels
MIDDLES = (1, 2, 'asymmetric', 4, 1, 8, 'asymmetric', 16)  # stages 2 and 3: the dilation of a 3x3 convolution, or asymmetric
FIRST_DROPOUT = 0.01  # dropout before bottleneck 2.0 (section 4)
SLOPES = ('channels', 'one', 'initial')
BRANCH_ACTIVATIONS = ('none', 'regular', 'all')


class Choices(NamedTuple):
    """In what the published blocks differ; see ``ENet``."""

    norm_eps: float
    conv_bias: bool
    slopes: str
    branch_activation: str
    columns_first: bool
    asymmetric_norm: bool
    asymmetric_bias: tuple[bool, bool]
    narrow_by_input: bool
    upsample_kernel: int

    def prelu(self, channels: int) -> PReLU:
        return PReLU(channels if self.slopes == 'channels' else 1)


class ConvNorm(nn.Cell):
    """Convolution, norm and, unless it is None, an activation."""

    def __init__(self, conv: Conv2d, norm_eps: float, activation: nn.Cell | None = None):
        super().__init__()
        self.conv = conv
        self.bn = BatchNorm2d(conv.out_channels, norm_eps)
        self.activation = activation

    def construct(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.activation is None else self.activation(x)


class Initial(nn.Cell):
    """Convolution and pooling side by side: image -> 16 channels at 1/2 (figure 2a)."""

    def __init__(self, bias: bool, pool: int, pool_first: bool, norm_eps: float, slopes: str):
        super().__init__()
        self.conv = Conv2d(3, INITIAL - 3, 3, 2, 1, bias=bias)
        self.pool = MaxPool2d(3, 2, 1) if pool == 3 else MaxPool2d(2, 2, ceil_mode=True)
        self.pool_first = pool_first
        self.bn = BatchNorm2d(INITIAL, norm_eps)
        self.activation = PReLU(1 if slopes == 'one' else INITIAL)

    def construct(self, x: Tensor) -> Tensor:
        features = [self.pool(x), self.conv(x)] if self.pool_first else [self.conv(x), self.pool(x)]
        return self.activation(self.bn(concat(features)))


class Bottleneck(nn.Cell):
    """1x1, a convolution inside (``middle``, see MIDDLES) and 1x1, added to the input (figure 2b); ``decoder``: with relu."""

    def __init__(self, channels: int, middle: int | str, dropout: float, choices: Choices, decoder: bool = False):
        super().__init__()
        internal = channels // REDUCTION
        last = _activation(channels, choices, decoder) if choices.branch_activation != 'none' else None
        self.reduce = ConvNorm(Conv2d(channels, internal), choices.norm_eps, _activation(internal, choices, decoder))
        self.middle = _middle(internal, middle, choices, decoder)
        self.expand = ConvNorm(Conv2d(internal, channels), choices.norm_eps, last)
        self.dropout = Dropout2d(channels, dropout)
        self.activation = _activation(channels, choices, decoder)

    def construct(self, x: Tensor) -> Tensor:
        return self.activation(x + self.dropout(self.expand(self.middle(self.reduce(x)))))


class Downsample(nn.Cell):
    """Bottleneck to half the size, added to the maxima of the input; returns also their positions."""

    def __init__(self, in_channels: int, channels: int, dropout: float, choices: Choices):
        super().__init__()
        internal = (in_channels if choices.narrow_by_input else channels) // REDUCTION
        last = choices.prelu(channels) if choices.branch_activation != 'none' else None
        self.channels = channels
        self.reduce = ConvNorm(Conv2d(in_channels, internal, 2, 2), choices.norm_eps, choices.prelu(internal))
        self.middle = _middle(internal, 1, choices, False)
        self.expand = ConvNorm(Conv2d(internal, channels), choices.norm_eps, last)
        self.dropout = Dropout2d(channels, dropout)
        self.activation = choices.prelu(channels)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, indices = max_pool_indices(x, 2, 2)
        branch = self.dropout(self.expand(self.middle(self.reduce(x))))
        return self.activation(pad_channels(pooled, self.channels) + branch), indices


class Upsample(nn.Cell):
    """Bottleneck to twice the size, added to the input unpooled to where the maxima were."""

    def __init__(self, in_channels: int, channels: int, dropout: float, choices: Choices):
        super().__init__()
        internal = (in_channels if choices.narrow_by_input else channels) // REDUCTION
        self.shortcut = ConvNorm(Conv2d(in_channels, channels), choices.norm_eps)
        self.reduce = ConvNorm(Conv2d(in_channels, internal), choices.norm_eps, ReLU())
        self.transposed = _doubling(internal, internal, choices.upsample_kernel, choices.conv_bias)
        self.bn = BatchNorm2d(internal, choices.norm_eps)
        self.expand = ConvNorm(
            Conv2d(internal, channels), choices.norm_eps, ReLU() if choices.branch_activation == 'all' else None
        )
        self.dropout = Dropout2d(channels, dropout)
        self.relu = ReLU()

    def construct(self, x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
        branch = self.relu(self.bn(self.transposed(self.reduce(x), size)))
        return self.relu(max_unpool(self.shortcut(x), indices, size) + self.dropout(self.expand(branch)))


@used_where(
    upsample_kernel=lambda given: not given.encoder_only,
    last_kernel=lambda given: not given.encoder_only,
    decoder_dropout=lambda given: not given.encoder_only,
)
class ENet(Network):
    """``logits`` at the image's size, of the encoder alone at 1/8.

    ``initial_bias``: of the first convolution. ``initial_pool``: kernel of the pooling beside it, 2 or 3 (padded by 1), whose
    channels come after the convolution's or, with ``pool_first``, before. ``conv_bias``: of the 3x3 and the transposed
    convolutions. ``slopes`` of the PReLUs: one for each of the channels, one, or one save in the initial block.
    ``branch_activation``: whether the last 1x1 convolution of a bottleneck is activated: in none, in all but the upsampling
    ones ('regular'), or in all. Asymmetric convolutions are 1x5 and 5x1, with ``columns_first`` 5x1 and 1x5, with
    ``asymmetric_bias`` and, with ``asymmetric_norm``, norm and activation between. ``narrow_by_input``: a bottleneck that
    changes the size has inside a quarter of its input's channels, not of its output's. ``upsample_kernel``, ``last_kernel``:
    2 or 3, of the transposed convolutions in the upsampling bottlenecks and at the end. ``encoder_only``: a 1x1 classifier
    instead of the decoder, which the authors train first (section 5.1); then the network starts from its weights.
    """

    def __init__(
        self,
        num_classes: int = 19,
        auxiliary: bool = True,
        initial_bias: bool = True,
        initial_pool: int = 2,
        pool_first: bool = False,
        norm_eps: float = 1e-3,
        conv_bias: bool = True,
        slopes: str = 'channels',
        branch_activation: str = 'none',
        columns_first: bool = False,
        asymmetric_norm: bool = False,
        asymmetric_bias: Sequence[bool] = (False, True),
        narrow_by_input: bool = False,
        upsample_kernel: int = 3,
        last_kernel: int = 2,
        dropout: float = 0.1,
        decoder_dropout: float = 0.1,
        encoder_only: bool = False,
    ):
        _check('slopes', slopes, SLOPES)
        _check('branch_activation', branch_activation, BRANCH_ACTIVATIONS)
        kernels = {'initial_pool': initial_pool}
        if not encoder_only:
            kernels.update(upsample_kernel=upsample_kernel, last_kernel=last_kernel)
        for argument, kernel in kernels.items():
            _check(argument, kernel, (2, 3))
        if len(asymmetric_bias) != 2:
            raise UserError(f'asymmetric_bias: {list(asymmetric_bias)!r}, not one value for each of the two convolutions')
        super().__init__({'logits': False}, init='uniform_fan_in')
        choices = Choices(
            norm_eps,
            conv_bias,
            slopes,
            branch_activation,
            columns_first,
            asymmetric_norm,
            (asymmetric_bias[0], asymmetric_bias[1]),
            narrow_by_input,
            upsample_kernel,
        )
        self.initial = Initial(initial_bias, initial_pool, pool_first, norm_eps, slopes)
        self.down1 = Downsample(INITIAL, FIRST, FIRST_DROPOUT, choices)
        self.stage1 = Sequential(*(Bottleneck(FIRST, 1, FIRST_DROPOUT, choices) for _ in range(4)))
        self.down2 = Downsample(FIRST, SECOND, dropout, choices)
        self.stage2 = Sequential(*(Bottleneck(SECOND, middle, dropout, choices) for middle in MIDDLES))
        self.stage3 = Sequential(*(Bottleneck(SECOND, middle, dropout, choices) for middle in MIDDLES))
        self.encoder_classifier = Conv2d(SECOND, num_classes, 1, bias=True) if encoder_only else None
        if not encoder_only:
            self.up4 = Upsample(SECOND, FIRST, decoder_dropout, choices)
            self.stage4 = Sequential(*(Bottleneck(FIRST, 1, decoder_dropout, choices, True) for _ in range(2)))
            self.up5 = Upsample(FIRST, INITIAL, decoder_dropout, choices)
            self.stage5 = Sequential(Bottleneck(INITIAL, 1, decoder_dropout, choices, True))
            self.classifier = _doubling(INITIAL, num_classes, last_kernel, conv_bias)

    def construct(self, x: Tensor) -> dict[str, Tensor]:
        x2 = self.initial(x)
        x4, indices2 = self.down1(x2)
        x4 = self.stage1(x4)
        x8, indices4 = self.down2(x4)
        x8 = self.stage3(self.stage2(x8))
        if self.encoder_classifier is not None:
            return {'logits': self.encoder_classifier(x8)}
        y4 = self.stage4(self.up4(x8, indices4, x4.shape[2:]))
        y2 = self.stage5(self.up5(y4, indices2, x2.shape[2:]))
        return {'logits': self.classifier(y2, x.shape[2:])}


def _middle(channels: int, kind: int | str, choices: Choices, decoder: bool) -> Sequential:
    activation = _activation(channels, choices, decoder)
    if isinstance(kind, int):
        conv = Conv2d(channels, channels, 3, padding=kind, dilation=kind, bias=choices.conv_bias)
        return Sequential(ConvNorm(conv, choices.norm_eps, activation))
    reach = ASYMMETRIC // 2
    shapes = [((1, ASYMMETRIC), (0, reach)), ((ASYMMETRIC, 1), (reach, 0))]
    first, second = (
        Conv2d(channels, channels, kernel, padding=padding, bias=bias)
        for (kernel, padding), bias in zip(shapes[::-1] if choices.columns_first else shapes, choices.asymmetric_bias)
    )
    if not choices.asymmetric_norm:
        return Sequential(first, ConvNorm(second, choices.norm_eps, activation))
    between = ConvNorm(first, choices.norm_eps, _activation(channels, choices, decoder))
    return Sequential(between, ConvNorm(second, choices.norm_eps, activation))


def _activation(channels: int, choices: Choices, decoder: bool) -> nn.Cell:
    return ReLU() if decoder else choices.prelu(channels)


def _doubling(in_channels: int, out_channels: int, kernel: int, bias: bool) -> ConvTranspose2d:
    return ConvTranspose2d(in_channels, out_channels, kernel, 2, padding=kernel // 3, bias=bias)


def _check(argument: str, value: str | int, known: Collection) -> None:
    if value not in known:
        raise UserError(f'{argument}: {value!r} is none of {", ".join(map(str, known))}')
