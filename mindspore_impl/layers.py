"""Building blocks shared by the networks; the one place where framework layers are made.

Twin of ``pytorch_impl/layers.py``: same names, same arguments, same numbers. Images and features are (N, C, H, W).
"""
from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from common.init import dropout_mask, initial_weight

Sequential = nn.SequentialCell
ModuleList = nn.CellList


class ReLU(nn.ReLU):
    """max(x, 0)."""


class Sigmoid(nn.Sigmoid):
    """1 / (1 + exp(-x))."""


class Conv2d(nn.Conv2d):
    """Convolution with explicit padding.

    ``init_std``: standard deviation of the initial weights; None: Kaiming. ``compute_dtype``: None, or the dtype that
    input and weights are cast to and the output has (the weights stay float32).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 groups: int = 1, bias: bool = False, init_std: float | None = None):
        super().__init__(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, stride=stride,
                         pad_mode='pad', padding=padding, group=groups, has_bias=bias, weight_init='zeros', bias_init='zeros')
        self.init_std = init_std
        self.compute_dtype = None

    def construct(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.compute_dtype is not None:
            x, weight = ops.cast(x, self.compute_dtype), ops.cast(weight, self.compute_dtype)
        y = self.conv2d(x, weight)
        if self.has_bias:
            y = self.bias_add(y, ops.cast(self.bias, y.dtype))
        return y


class Linear(nn.Dense):
    """Fully connected layer; ``init_std`` and ``compute_dtype`` as in ``Conv2d``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init_std: float | None = None):
        super().__init__(in_channels=in_features, out_channels=out_features, has_bias=bias, weight_init='zeros',
                         bias_init='zeros')
        self.init_std = init_std
        self.compute_dtype = None

    def construct(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.compute_dtype is not None:
            x, weight = ops.cast(x, self.compute_dtype), ops.cast(weight, self.compute_dtype)
        y = ops.matmul(x, ops.transpose(weight, (1, 0)))
        if self.has_bias:
            y = y + ops.cast(self.bias, y.dtype)
        return y


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm; ``momentum`` in PyTorch's sense: the share of the new batch in the running statistics.

    ``output_dtype``: None, or the dtype of the output, which is then computed in float32.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(num_features=channels, eps=eps, momentum=1 - momentum)
        self.output_dtype = None

    def construct(self, x: Tensor) -> Tensor:
        if self.output_dtype is None:
            return super().construct(x)
        return ops.cast(super().construct(ops.cast(x, ms.float32)), self.output_dtype)


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


class AvgPool2d(nn.AvgPool2d):
    """Average pooling; the padding counts as zeros."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0):
        super().__init__(kernel_size=kernel_size, stride=stride, pad_mode='pad', padding=padding, count_include_pad=True)


class ConvBN(nn.Cell):
    """Convolution, batch norm and, unless ``relu`` is false, relu: padded to keep the size unless ``padding`` is given."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, padding: int | None = None,
                 groups: int = 1, bias: bool = False, relu: bool = True, bn_momentum: float = 0.1):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups, bias)
        self.bn = BatchNorm2d(out_channels, momentum=bn_momentum)
        self.relu = ReLU() if relu else None

    def construct(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.relu is None else self.relu(x)


class FCNHead(nn.Cell):
    """3x3 convolution with norm and relu, dropout, 1x1 classifier (Long et al. 2015, as in mmsegmentation)."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1, bias: bool = True,
                 bn_momentum: float = 0.1):
        super().__init__()
        self.conv = ConvBN(in_channels, channels, 3, bn_momentum=bn_momentum)
        self.dropout = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=bias, init_std=0.01)

    def construct(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


class Network(nn.Cell):
    """A network whose outputs are a dict: ``logits``, and the auxiliary outputs in training or after ``set_auxiliary``.

    ``align_corners``: by output, how it is resized to the label.
    """

    def __init__(self, align_corners: dict[str, bool]):
        super().__init__()
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


def concat(features: Sequence[Tensor]) -> Tensor:
    """Joins features along the channels."""
    return ops.cat(features, 1)


def flatten(x: Tensor) -> Tensor:
    """(N, C, 1, 1) -> (N, C)."""
    return ops.flatten(x)


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear interpolation to ``size`` (H, W)."""
    return ops.ResizeBilinearV2(align_corners, not align_corners)(x, size)


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest neighbour to ``size`` (H, W): output pixel i takes input pixel floor(i * in / out)."""
    return ops.ResizeNearestNeighborV2()(x, size)


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


def draw_dropout(network: nn.Cell, batch: int, key: Sequence[int]) -> None:
    """Draws the masks of all dropout layers for one forward pass; ``key`` (seed, step, batch of the step) decides them."""
    for name, module in network.cells_and_names():
        if isinstance(module, Dropout2d):
            mask = Tensor(dropout_mask(name, (batch, module.channels, 1, 1), module.ratio, key))
            if module.mask.shape == mask.shape:
                module.mask.set_data(mask)
            else:
                module.mask = ms.Parameter(mask, name=module.mask.name, requires_grad=False)


_LEAVES = {'weight': 'weight', 'gamma': 'weight', 'bias': 'bias', 'beta': 'bias',  # in PyTorch's order
           'moving_mean': 'running_mean', 'moving_variance': 'running_var'}


def canonical_names(network: nn.Cell) -> dict[str, str]:
    """Names of the parameters and running statistics here -> the suite's names, which are PyTorch's."""
    names: dict[str, str] = {}
    for prefix, module in network.cells_and_names():
        own = {name.rpartition('.')[2] for name, _ in module.parameters_and_names(expand=False)}
        names |= {f'{prefix}.{leaf}': f'{prefix}.{canonical}' for leaf, canonical in _LEAVES.items() if leaf in own}
    return names


def initialise(network: nn.Cell, seed: int) -> None:
    """Draws the weights by ``common/init.py``; biases start at 0 and norms as the identity."""
    for name, module in network.cells_and_names():
        if isinstance(module, (Conv2d, Linear)):
            weight = initial_weight(f'{name}.weight', tuple(module.weight.shape), module.init_std, seed)
            module.weight.set_data(Tensor(weight))
