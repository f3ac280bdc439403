"""Building blocks shared by the networks; the one place where framework layers are made.

Twin of ``pytorch_impl/layers.py``: same names, same arguments, same numbers. Images and features are (N, C, H, W).
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from twinseg.common.errors import ONE_VALUE
from twinseg.common.training.initial_weights import dropout_mask, initial_bias, initial_weight, schemes
from twinseg.mindspore_impl import distributed

Sequential = nn.SequentialCell
ModuleList = nn.CellList
Size = int | tuple[int, int]


class ReLU(nn.ReLU):
    """max(x, 0)."""


class Sigmoid(nn.Sigmoid):
    """1 / (1 + exp(-x))."""


class Conv2d(nn.Conv2d):
    """Convolution with explicit padding; sizes are one number or (H, W).

    ``padding='same'``: TensorFlow's and MindSpore's rule, ceil(size / stride) outputs, an odd pixel of padding at the bottom
    and right. ``init``: scheme or standard deviation of the initial weights (``training/initial_weights.py``);
    None: the network's scheme. ``compute_dtype``: None, or the dtype that input and weights are cast to and the output
    has (the weights stay float32).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        stride: int = 1,
        padding: Size | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        init: str | float | None = None,
    ):
        same = padding == 'same'
        if isinstance(padding, tuple):
            padding = (padding[0], padding[0], padding[1], padding[1])
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            pad_mode='same' if same else 'pad',
            padding=0 if same else padding,
            dilation=dilation,
            group=groups,
            has_bias=bias,
            weight_init='zeros',
            bias_init='zeros',
        )
        self.init = init
        self.compute_dtype = None

    def construct(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.compute_dtype is not None:
            x, weight = ops.cast(x, self.compute_dtype), ops.cast(weight, self.compute_dtype)
        y = self.conv2d(x, weight)
        if self.has_bias:
            y = self.bias_add(y, ops.cast(self.bias, y.dtype))
        return y


class ConvTranspose2d(nn.Conv2dTranspose):
    """Transposed convolution; ``init`` and ``compute_dtype`` as in ``Conv2d``.

    Of the full result, ``stride * (size - 1) + kernel_size`` a side, it drops ``padding`` at the top and left and keeps
    ``size`` (H, W), which may reach beyond the full result; None: ``padding - output_padding`` fall at the bottom and right.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        bias: bool = False,
        init: str | float | None = None,
    ):
        # MindSpore's own padding and output_padding are wrong on CPU (2.10): the full result is computed and cut here.
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            pad_mode='valid',
            has_bias=bias,
            weight_init='zeros',
            bias_init='zeros',
        )
        self.crop, self.fall = padding, padding - output_padding
        self.init = init
        self.compute_dtype = None

    def construct(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        weight = self.weight
        if self.compute_dtype is not None:
            x, weight = ops.cast(x, self.compute_dtype), ops.cast(weight, self.compute_dtype)
        n, _, h, w = x.shape
        full = [(h - 1) * self.stride[0] + self.kernel_size[0], (w - 1) * self.stride[1] + self.kernel_size[1]]
        y = self.conv2d_transpose(x, weight, (n, self.out_channels, full[0], full[1]))
        if size is None:
            size = (full[0] - self.crop - self.fall, full[1] - self.crop - self.fall)
            beyond = [max(-self.fall, 0), max(-self.fall, 0)]  # known where an export leaves the sizes open
        else:
            beyond = [max(self.crop + size[0] - full[0], 0), max(self.crop + size[1] - full[1], 0)]
        if beyond != [0, 0]:
            y = ops.pad(y, (0, beyond[1], 0, beyond[0]))
        y = y[:, :, self.crop : self.crop + size[0], self.crop : self.crop + size[1]]
        if self.has_bias:
            y = self.bias_add(y, ops.cast(self.bias, y.dtype))
        return y


class Linear(nn.Dense):
    """Fully connected layer; ``init`` and ``compute_dtype`` as in ``Conv2d``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init: str | float | None = None):
        super().__init__(
            in_channels=in_features, out_channels=out_features, has_bias=bias, weight_init='zeros', bias_init='zeros'
        )
        self.init = init
        self.compute_dtype = None

    def construct(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.compute_dtype is not None:
            x, weight = ops.cast(x, self.compute_dtype), ops.cast(weight, self.compute_dtype)
        y = ops.MatMul(transpose_b=True)(x, weight)
        if self.has_bias:
            y = y + ops.cast(self.bias, y.dtype)
        return y


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm; ``momentum`` in PyTorch's sense: the share of the new batch in the running statistics.

    ``output_dtype``: None, or the dtype of the output, which is then computed in float32. In training the mean and variance
    are those of the global batch, over all processes, or with ``sync`` off of each one's own; running statistics are of all.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(num_features=channels, eps=eps, momentum=1 - momentum)
        self.output_dtype, self.sync = None, True

    def construct(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] * (distributed.size() if self.sync else 1) == 1:
            raise ValueError(ONE_VALUE)
        if self.training and distributed.size() > 1:
            return ops.cast(self._of_processes(x), x.dtype if self.output_dtype is None else self.output_dtype)
        if self.output_dtype is None:
            return super().construct(x)
        return ops.cast(super().construct(ops.cast(x, ms.float32)), self.output_dtype)

    def _of_processes(self, x: Tensor) -> Tensor:
        # MindSpore's SyncBatchNorm runs on Ascend only
        features = ops.cast(x, ms.float32)
        mean = ops.mean(features, (0, 2, 3))
        centred = features - mean.reshape(1, -1, 1, 1)
        variance = ops.mean(centred * centred, (0, 2, 3))
        count = x.shape[0] * x.shape[2] * x.shape[3] * (distributed.size() if self.sync else 1)
        if self.sync:  # once around for both, for a collective of few numbers costs what it waits
            every = distributed.stack(ops.stack((mean, variance)))
            own, mean = mean, ops.mean(every[:, 0], 0)
            variance = ops.mean(every[:, 1] + ops.square(every[:, 0] - mean), 0)
            centred = centred + (own - mean).reshape(1, -1, 1, 1)
        centre, unbiased = ops.stop_gradient(mean), ops.stop_gradient(variance) * (count / (count - 1))
        if not self.sync:
            both = distributed.mean(ops.stack((centre, unbiased)))
            centre, unbiased = both[0], both[1]
        ops.assign(self.moving_mean, self.moving_mean + self.momentum * (centre - self.moving_mean))
        ops.assign(self.moving_variance, self.moving_variance + self.momentum * (unbiased - self.moving_variance))
        scale = self.gamma / ops.sqrt(variance + self.eps)
        return centred * scale.reshape(1, -1, 1, 1) + self.beta.reshape(1, -1, 1, 1)


class LayerNorm2d(nn.Cell):
    """Norm over the channels of every pixel of (N, C, H, W), computed in float32."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = ms.Parameter(ops.ones((channels,), ms.float32))
        self.bias = ms.Parameter(ops.zeros((channels,), ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        features = ops.cast(x, ms.float32)
        features = features - ops.mean(features, 1, True)
        features = features / ops.sqrt(ops.mean(features * features, 1, True) + self.eps)
        return ops.cast(features * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1), x.dtype)


class Dropout2d(nn.Cell):
    """Zeroes whole channels with probability ``ratio`` in training, by the mask that ``draw_dropout`` drew for the step.

    The mask comes from ``common``, so both backends drop the same channels and a resumed run the same as before. It is a
    parameter so that a compiled step reads it anew; it is not part of the network's state.
    """

    def __init__(self, channels: int, ratio: float):
        super().__init__()
        self.channels = channels
        self.ratio = ratio
        self.mask = ms.Parameter(ops.ones((1, channels, 1, 1), ms.float32), requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.cast(self.mask, x.dtype) if self.training else x


class Dropout(Dropout2d):
    """The same for vectors (N, C)."""

    def construct(self, x: Tensor) -> Tensor:
        return x * flatten(ops.cast(self.mask, x.dtype)) if self.training else x


class DropPath(Dropout2d):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): adds a block's branch and its shortcut (N, C, H, W).

    In training ``on``, branch (timm) or shortcut (the model zoo's DDRNet), is dropped from a sample with probability
    ``ratio``, else divided by 1 - ratio.
    """

    def __init__(self, ratio: float, on: str = 'branch'):
        super().__init__(1, ratio)
        self.on = on

    def construct(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        if self.on == 'branch':
            return super().construct(branch) + shortcut
        return branch + super().construct(shortcut)


class AvgPool2d(nn.AvgPool2d):
    """Average pooling; the padding counts as zeros."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0):
        super().__init__(kernel_size=kernel_size, stride=stride, pad_mode='pad', padding=padding, count_include_pad=True)


class MaxPool2d(nn.MaxPool2d):
    """Max pooling; the padding never wins. ``ceil_mode``: windows that start inside the image may end outside."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0, ceil_mode: bool = False):
        if padding or ceil_mode:
            super().__init__(kernel_size=kernel_size, stride=stride, pad_mode='pad', padding=padding, ceil_mode=ceil_mode)
        else:
            super().__init__(kernel_size=kernel_size, stride=stride, pad_mode='valid')
        self.reach, self.step, self.around, self.ceil_mode = kernel_size, stride, padding, ceil_mode

    def construct(self, x: Tensor) -> Tensor:
        if not self.use_pad:
            return self.max_pool(x)
        y = self.max_pool(ops.expand_dims(x, 2))[0]
        room = x.shape[3] + 2 * self.around - self.reach
        if self.ceil_mode:
            room = room + self.step - 1
        return ops.reshape(y, (x.shape[0], x.shape[1], -1, room // self.step + 1))  # of open sizes it loses the rank


class PReLU(nn.Cell):
    """x where positive, else ``weight`` times x: one slope, or one for each of ``channels``; at first 0.25."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.weight = ms.Parameter(ops.full((channels,), 0.25, dtype=ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        return ops.prelu(x, ops.cast(self.weight, x.dtype))


class ConvBN(nn.Cell):
    """Convolution, batch norm and, unless ``relu`` is false, relu: padded to keep the size unless ``padding`` is given."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: Size | str | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        relu: bool = True,
        bn_momentum: float = 0.1,
        init: str | float | None = None,
    ):
        super().__init__()
        padding = dilation * (kernel_size // 2) if padding is None else padding
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, init)
        self.bn = BatchNorm2d(out_channels, momentum=bn_momentum)
        self.relu = ReLU() if relu else None

    def construct(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.relu is None else self.relu(x)


class SeparableConv(nn.Cell):
    """Depthwise 3x3 and pointwise convolution, each with norm and, by default, relu."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        depthwise_relu: bool = True,
        bn_momentum: float = 0.1,
        relu: bool = True,
    ):
        super().__init__()
        self.depthwise = ConvBN(
            in_channels,
            in_channels,
            3,
            stride,
            dilation=dilation,
            groups=in_channels,
            relu=depthwise_relu,
            bn_momentum=bn_momentum,
        )
        self.pointwise = ConvBN(in_channels, out_channels, relu=relu, bn_momentum=bn_momentum)

    def construct(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class FCNHead(nn.Cell):
    """3x3 convolution with norm and relu, dropout, 1x1 classifier (Long et al. 2015, as in mmsegmentation)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        dropout: float = 0.1,
        bias: bool = True,
        bn_momentum: float = 0.1,
    ):
        super().__init__()
        self.conv = ConvBN(in_channels, channels, 3, bn_momentum=bn_momentum)
        self.dropout = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=bias, init=0.01)

    def construct(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


class PyramidPooling(nn.Cell):
    """Averages over 1, 2, 3 and 6 bins a side, beside the input, fused by one convolution (PSPNet, section 3.2).

    ``branch_channels``: of each average; None: a quarter of the input's. ``input_last``: the input is joined after the
    averages. Without ``norm_one_bin`` the average over everything has a convolution with bias instead of one with norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        align_corners: bool = False,
        bn_momentum: float = 0.1,
        branch_channels: int | None = None,
        bins: Sequence[int] = (1, 2, 3, 6),
        input_last: bool = False,
        norm_one_bin: bool = True,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.bins = tuple(bins)
        self.input_last = input_last
        branch_channels = branch_channels or in_channels // len(self.bins)
        self.branches = ModuleList(
            [
                ConvBN(in_channels, branch_channels, bn_momentum=bn_momentum)
                if norm_one_bin or number > 1
                else Sequential(Conv2d(in_channels, branch_channels, 1, bias=True), ReLU())
                for number in self.bins
            ]
        )
        self.out = ConvBN(in_channels + branch_channels * len(self.bins), out_channels, kernel_size, bn_momentum=bn_momentum)

    def construct(self, x: Tensor) -> Tensor:
        features = [] if self.input_last else [x]
        for number, branch in zip(self.bins, self.branches):
            features.append(resize(branch(adaptive_avg_pool(x, number)), x.shape[2:], self.align_corners))
        if self.input_last:
            features.append(x)
        return self.out(concat(features))


class Network(nn.Cell):
    """A network whose outputs are a dict: ``logits``, and the auxiliary outputs in training or after ``set_auxiliary``.

    ``align_corners``: by output, how it is resized to the label. ``init``: the scheme of the initial weights
    (``training/initial_weights.py``) of all layers that have none of their own; a part with an attribute ``init`` has its
    own scheme.
    """

    def __init__(self, align_corners: dict[str, bool], init: str = 'kaiming_fan_out'):
        super().__init__()
        self.init = init
        self.align_corners = align_corners
        self.auxiliary_always = False

    def set_auxiliary(self, always: bool) -> None:
        """Whether auxiliary outputs are computed in evaluation mode too (a cell around the network must be compiled after)."""
        self.auxiliary_always = always
        self._name_phase()

    def set_train(self, mode: bool = True) -> 'Network':
        """Training or evaluation mode, of the network and all its parts."""
        super().set_train(mode)
        self._name_phase()
        return self

    def _name_phase(self) -> None:
        # graph mode keeps one compiled graph per phase and would not see the attribute change
        self.phase = ('train' if self.training else 'predict') + ('_auxiliary' if self.auxiliary_always else '')

    def wants_auxiliary(self) -> bool:
        return self.training or self.auxiliary_always


def relu(x: Tensor) -> Tensor:
    """max(x, 0), and x stays as it is."""
    return ops.relu(x)


def concat(features: Sequence[Tensor]) -> Tensor:
    """Joins features along the channels."""
    dtype = features[0].dtype
    for feature in features:
        if feature.dtype == ms.float32:  # beside half precision
            dtype = ms.float32
    return ops.cat([feature if feature.dtype == dtype else ops.cast(feature, dtype) for feature in features], 1)


def pad_channels(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) -> (N, ``channels``, H, W): channels of zeros after those of x."""
    return ops.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


def flatten(x: Tensor) -> Tensor:
    """(N, C, 1, 1) -> (N, C)."""
    return ops.flatten(x)


def resize(x: Tensor, size: Sequence[int], align_corners: bool, half_pixel: bool = True) -> Tensor:
    """Bilinear interpolation to ``size`` (H, W). ``half_pixel`` false: output pixel i lies at i * in / out (TensorFlow 1)."""
    return ops.ResizeBilinearV2(align_corners, half_pixel and not align_corners)(x, size)


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest neighbour to ``size`` (H, W): output pixel i takes input pixel floor(i * in / out)."""
    return ops.ResizeNearestNeighborV2()(x, size)


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """(N, C * factor * factor, H, W) -> (N, C, H * factor, W * factor): each pixel's channels become a square of pixels."""
    return ops.pixel_shuffle(x, factor)


def global_avg_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1)."""
    return ops.mean(x, (2, 3), True)


def adaptive_avg_pool(x: Tensor, bins: int) -> Tensor:
    """(N, C, H, W) -> (N, C, bins, bins)."""
    return ops.AdaptiveAvgPool2D(bins)(x)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (N, 3, H, W) -> float32, zero mean and unit variance by channel."""
    centre, scale = (Tensor(values, ms.float32).reshape(1, -1, 1, 1) for values in (mean, std))
    return (ops.cast(images, ms.float32) - centre) / scale


def max_pool_indices(
    x: Tensor, kernel_size: int = 2, stride: int = 2, padding: int = 0, ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Max pooling and, for ``max_unpool``, the place row * W + column of every maximum in its channel."""
    return ops.max_pool2d(x, kernel_size, stride, padding, ceil_mode=ceil_mode, return_indices=True)


def max_unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Puts every value at its index in a plane of ``size`` (H, W) of zeros."""
    n, c = x.shape[:2]
    plane = ops.zeros((n, c, size[0] * size[1]), x.dtype)
    plane = ops.tensor_scatter_elements(plane, indices.reshape(n, c, -1), x.reshape(n, c, -1), 2)
    return plane.reshape(n, c, size[0], size[1])


def synchronise(network: nn.Cell, sync: bool) -> None:
    """Whether batch norm takes its statistics over all processes."""
    for _, module in network.cells_and_names():
        if isinstance(module, BatchNorm2d):
            module.sync = sync


def draw_dropout(network: nn.Cell, batch: int, key: Sequence[int]) -> None:
    """Draws the masks of all dropout layers for one forward pass; ``key`` (seed, step, batch of the step) decides them."""
    processes = distributed.rank(), distributed.size()
    for name, module in network.cells_and_names():
        if isinstance(module, Dropout2d):
            mask = Tensor(dropout_mask(name, (batch, module.channels, 1, 1), module.ratio, key, *processes))
            if module.mask.shape == mask.shape:
                module.mask.set_data(mask)
            else:
                module.mask = ms.Parameter(mask, name=module.mask.name, requires_grad=False)


_LEAVES = {
    'weight': 'weight',
    'gamma': 'weight',
    'bias': 'bias',
    'beta': 'bias',  # in PyTorch's order
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
}


def canonical_names(network: nn.Cell) -> dict[str, str]:
    """Names of the parameters and running statistics here -> the suite's names, which are PyTorch's."""
    names: dict[str, str] = {}
    for prefix, module in network.cells_and_names():
        own = {name.rpartition('.')[2] for name, _ in module.parameters_and_names(expand=False)}
        names |= {f'{prefix}.{leaf}': f'{prefix}.{canonical}' for leaf, canonical in _LEAVES.items() if leaf in own}
    return names


def initialise(network: nn.Cell, seed: int) -> None:
    """Draws the weights by ``common/training/initial_weights.py``; norms start as the identity."""
    modules = dict(network.cells_and_names())
    for name, scheme in schemes({name: getattr(module, 'init', None) for name, module in modules.items()}).items():
        module = modules[name]
        if isinstance(module, (Conv2d, ConvTranspose2d, Linear)):
            shape = tuple(module.weight.shape)
            module.weight.set_data(Tensor(initial_weight(f'{name}.weight', shape, scheme, seed)))
            if module.has_bias:
                module.bias.set_data(Tensor(initial_bias(f'{name}.bias', len(module.bias), shape, scheme, seed)))
