"""Building blocks shared by the networks; the one place where framework layers are made.

Twin of ``mindspore_impl/layers.py``: same names, same arguments, same numbers. Images and features are (N, C, H, W).
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.init import dropout_mask, initial_weight
from common.resampling import pooling_matrix

Sequential = nn.Sequential
ModuleList = nn.ModuleList


class ReLU(nn.ReLU):
    """max(x, 0)."""

    def __init__(self):
        super().__init__(inplace=True)


class Sigmoid(nn.Sigmoid):
    """1 / (1 + exp(-x))."""


class Conv2d(nn.Conv2d):
    """Convolution with explicit padding.

    ``init_std``: standard deviation of the initial weights; None: Kaiming. ``compute_dtype``: None, or the dtype that
    input and weights are cast to and the output has (the weights stay float32).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 groups: int = 1, bias: bool = False, init_std: float | None = None):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=bias)
        self.init_std = init_std
        self.compute_dtype = None

    def reset_parameters(self):
        """Nothing: ``initialise`` fills the weights."""

    def forward(self, x: Tensor) -> Tensor:
        if self.compute_dtype is None:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return self._conv_forward(x.to(self.compute_dtype), self.weight.to(self.compute_dtype), bias)


class Linear(nn.Linear):
    """Fully connected layer; ``init_std`` and ``compute_dtype`` as in ``Conv2d``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init_std: float | None = None):
        super().__init__(in_features, out_features, bias=bias)
        self.init_std = init_std
        self.compute_dtype = None

    def reset_parameters(self):
        """Nothing: ``initialise`` fills the weights."""

    def forward(self, x: Tensor) -> Tensor:
        if self.compute_dtype is None:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return F.linear(x.to(self.compute_dtype), self.weight.to(self.compute_dtype), bias)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm; ``momentum`` in PyTorch's sense: the share of the new batch in the running statistics.

    ``output_dtype``: None, or the dtype of the output, which is then computed in float32.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.output_dtype = None

    def forward(self, x: Tensor) -> Tensor:
        if self.output_dtype is None:
            return super().forward(x)
        return super().forward(x.float()).to(self.output_dtype)


class Dropout2d(nn.Module):
    """Zeroes whole channels with probability ``ratio`` in training, by the mask that ``draw_dropout`` drew for the step.

    The mask comes from ``common``, so both backends drop the same channels and a resumed run the same as before.
    """

    def __init__(self, channels: int, ratio: float):
        super().__init__()
        self.channels = channels
        self.ratio = ratio
        self.mask = None

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.dtype) if self.training and self.mask is not None else x


class Dropout(Dropout2d):
    """The same for vectors (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x.dtype).flatten(1) if self.training and self.mask is not None else x


class AvgPool2d(nn.AvgPool2d):
    """Average pooling; the padding counts as zeros."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0):
        super().__init__(kernel_size, stride=stride, padding=padding, count_include_pad=True)


class ConvBN(nn.Module):
    """Convolution, batch norm and, unless ``relu`` is false, relu: padded to keep the size unless ``padding`` is given."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, padding: int | None = None,
                 groups: int = 1, bias: bool = False, relu: bool = True, bn_momentum: float = 0.1):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups, bias)
        self.bn = BatchNorm2d(out_channels, momentum=bn_momentum)
        self.relu = ReLU() if relu else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.relu is None else self.relu(x)


class FCNHead(nn.Module):
    """3x3 convolution with norm and relu, dropout, 1x1 classifier (Long et al. 2015, as in mmsegmentation)."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1, bias: bool = True,
                 bn_momentum: float = 0.1):
        super().__init__()
        self.conv = ConvBN(in_channels, channels, 3, bn_momentum=bn_momentum)
        self.dropout = Dropout2d(channels, dropout)
        self.classifier = Conv2d(channels, num_classes, 1, bias=bias, init_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


class Network(nn.Module):
    """A network whose outputs are a dict: ``logits``, and the auxiliary outputs in training or after ``set_auxiliary``.

    ``align_corners``: by output, how it is resized to the label.
    """

    def __init__(self, align_corners: dict[str, bool]):
        super().__init__()
        self.align_corners = align_corners
        self.auxiliary_always = False

    def set_auxiliary(self, always: bool) -> None:
        """Whether auxiliary outputs are computed in evaluation mode too."""
        self.auxiliary_always = always

    def wants_auxiliary(self) -> bool:
        return self.training or self.auxiliary_always


def concat(features: Sequence[Tensor]) -> Tensor:
    """Joins features along the channels."""
    return torch.cat(tuple(features), dim=1)


def flatten(x: Tensor) -> Tensor:
    """(N, C, 1, 1) -> (N, C)."""
    return x.flatten(1)


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear interpolation to ``size`` (H, W)."""
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=align_corners)


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest neighbour to ``size`` (H, W): output pixel i takes input pixel floor(i * in / out)."""
    return F.interpolate(x, size=tuple(size), mode='nearest')


def global_avg_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def adaptive_avg_pool(x: Tensor, bins: int) -> Tensor:
    """(N, C, H, W) -> (N, C, bins, bins), as two products with constant matrices: every exporter takes them."""
    rows, columns = (_pooling_matrix(length, bins).to(x) for length in x.shape[2:])
    return ((x @ columns.T).transpose(2, 3) @ rows.T).transpose(2, 3)


def _pooling_matrix(length: int, bins: int) -> Tensor:
    if isinstance(length, int):
        return torch.from_numpy(pooling_matrix(length, bins))
    place, index = torch.arange(length), torch.arange(bins)[:, None]  # a size that an export leaves open
    start, stop = index * length // bins, -(-(index + 1) * length // bins)
    return ((place >= start) & (place < stop)) / (stop - start)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (N, 3, H, W) -> float32, zero mean and unit variance by channel."""
    centre, scale = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    return (images.float() - centre) / scale


def draw_dropout(network: nn.Module, batch: int, key: Sequence[int]) -> None:
    """Draws the masks of all dropout layers for one forward pass; ``key`` (seed, step, batch of the step) decides them."""
    for name, module in network.named_modules():
        if isinstance(module, Dropout2d):
            mask = dropout_mask(name, (batch, module.channels, 1, 1), module.ratio, key)
            module.mask = torch.from_numpy(mask).to(next(network.parameters()).device)


def canonical_names(network: nn.Module) -> dict[str, str]:
    """Names of the parameters and running statistics here -> the suite's names: in PyTorch the same."""
    return {name: name for name in network.state_dict() if not name.endswith('num_batches_tracked')}


def initialise(network: nn.Module, seed: int) -> None:
    """Draws the weights by ``common/init.py``; biases start at 0 and norms as the identity."""
    for name, module in network.named_modules():
        if isinstance(module, (Conv2d, Linear)):
            weight = initial_weight(f'{name}.weight', tuple(module.weight.shape), module.init_std, seed)
            module.weight.data.copy_(torch.from_numpy(weight))
            if module.bias is not None:
                module.bias.data.zero_()
