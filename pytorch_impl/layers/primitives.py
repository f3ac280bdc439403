"""Building blocks shared by the networks; the one place where framework layers are made.

Twin of ``mindspore_impl/layers.py``: same names, same arguments, same numbers. Images and features are (N, C, H, W).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinseg.common.errors import ONE_VALUE, BatchError
from twinseg.common.interpolation import bilinear_matrix, pooling_matrix
from twinseg.common.training.initial_weights import dropout_mask, initial_bias, initial_weight, schemes
from twinseg.pytorch_impl import distributed

Sequential = nn.Sequential
ModuleList = nn.ModuleList
Size = int | tuple[int, int]


class ReLU(nn.ReLU):
    """max(x, 0)."""

    def __init__(self):
        super().__init__(inplace=True)


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
        self.same = padding == 'same'
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=0 if self.same else padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.init = init
        self.compute_dtype = None

    def reset_parameters(self):
        """Nothing: ``initialise`` fills the weights."""

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = F.pad(x, [*_same_padding(x.shape[3], self, 1), *_same_padding(x.shape[2], self, 0)])
        if self.compute_dtype is None:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return self._conv_forward(x.to(self.compute_dtype), self.weight.to(self.compute_dtype), bias)


class ConvTranspose2d(nn.ConvTranspose2d):
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
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, output_padding=output_padding, bias=bias
        )
        self.init = init
        self.compute_dtype = None

    def reset_parameters(self):
        """Nothing: ``initialise`` fills the weights."""

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.compute_dtype is not None:
            x, weight = x.to(self.compute_dtype), weight.to(self.compute_dtype)
            bias = None if bias is None else bias.to(self.compute_dtype)
        extra = self.output_padding
        if size is not None:
            extra = [
                size[axis] - (x.shape[2 + axis] - 1) * self.stride[axis] - self.kernel_size[axis] + 2 * self.padding[axis]
                for axis in (0, 1)
            ]
        if all(isinstance(number, int) and 0 <= number < self.stride[0] for number in extra):
            return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, extra)
        (top, left), beyond = self.padding, self.stride[0]  # PyTorch refuses other sizes and, in an export, open ones
        y = F.conv_transpose2d(x, weight, None, self.stride)
        y = torch.cat((y, y.new_zeros((*y.shape[:2], beyond, y.shape[3]))), 2)  # ONNX's converter does not know Pad
        y = torch.cat((y, y.new_zeros((*y.shape[:3], beyond))), 3)
        y = y[:, :, top : top + size[0], left : left + size[1]]
        return y if bias is None else y + bias.view(1, -1, 1, 1)


class Linear(nn.Linear):
    """Fully connected layer; ``init`` and ``compute_dtype`` as in ``Conv2d``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, init: str | float | None = None):
        super().__init__(in_features, out_features, bias=bias)
        self.init = init
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

    ``output_dtype``: None, or the dtype of the output, which is then computed in float32. In training the mean and variance
    are those of the global batch, over all processes, or with ``sync`` off of each one's own; running statistics are of all.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.output_dtype, self.sync = None, True

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() * (distributed.size() if self.sync else 1) == x.shape[1]:
            raise BatchError(ONE_VALUE)
        if self.training and distributed.size() > 1:
            return self._of_processes(x).to(self.output_dtype or x.dtype)
        if self.output_dtype in (None, x.dtype):  # computes in float32 whatever the input is
            return super().forward(x)
        return super().forward(x.float()).to(self.output_dtype)

    def _of_processes(self, x: Tensor) -> Tensor:
        # PyTorch's SyncBatchNorm does not run on CPUs, and all processes have batches of one size, as it need not assume
        features = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if not self.sync:
            own = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            y = F.batch_norm(features, *own, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            self._track(*distributed.mean(torch.stack(own)))
            return y
        with torch.no_grad():
            count = features.numel() // features.shape[1] * distributed.size()
            variances, means = torch.var_mean(features, (0, 2, 3), correction=0)
            means, variances = distributed.gather(torch.cat((means, variances))).view(distributed.size(), 2, -1).unbind(1)
            mean = means.mean(0)
            variance = (variances + (means - mean) ** 2).mean(0)
            self._track(mean, variance * (count / (count - 1)))
        return _GlobalNorm.apply(features, self.weight, self.bias, mean, variance, self.eps)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


class _GlobalNorm(torch.autograd.Function):
    """Batch norm by the statistics of the global batch, on which the features of all processes have had their influence."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, variance, eps):
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, scale = ctx.saved_tensors
        normed = (x - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
        by_bias, by_weight = gradient.sum((0, 2, 3)), (gradient * normed).sum((0, 2, 3))
        shift, slope = distributed.mean(torch.stack((by_bias, by_weight))) * (x.shape[1] / x.numel())
        by_x = (gradient - shift.view(1, -1, 1, 1) - normed.mul_(slope.view(1, -1, 1, 1))) * (weight * scale).view(1, -1, 1, 1)
        return by_x, by_weight, by_bias, None, None, None


class LayerNorm2d(nn.Module):
    """Norm over the channels of every pixel of (N, C, H, W), computed in float32."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        features = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        features = features - features.mean(1, keepdim=True)
        features = features / ((features * features).mean(1, keepdim=True) + self.eps).sqrt()
        return (features * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


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


class DropPath(Dropout2d):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): adds a block's branch and its shortcut (N, C, H, W).

    In training ``on``, branch (timm) or shortcut (the model zoo's DDRNet), is dropped from a sample with probability
    ``ratio``, else divided by 1 - ratio.
    """

    def __init__(self, ratio: float, on: str = 'branch'):
        super().__init__(1, ratio)
        self.on = on

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        if self.on == 'branch':
            return super().forward(branch) + shortcut
        return branch + super().forward(shortcut)


class AvgPool2d(nn.AvgPool2d):
    """Average pooling; the padding counts as zeros."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0):
        super().__init__(kernel_size, stride=stride, padding=padding, count_include_pad=True)


class MaxPool2d(nn.MaxPool2d):
    """Max pooling; the padding never wins. ``ceil_mode``: windows that start inside the image may end outside."""

    def __init__(self, kernel_size: int, stride: int, padding: int = 0, ceil_mode: bool = False):
        super().__init__(kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)


class PReLU(nn.PReLU):
    """x where positive, else ``weight`` times x: one slope, or one for each of ``channels``; at first 0.25."""

    def __init__(self, channels: int = 1):
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.to(x.dtype))


class ConvBN(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.relu is None else self.relu(x)


class SeparableConv(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class FCNHead(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


class PyramidPooling(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        features = [] if self.input_last else [x]
        for number, branch in zip(self.bins, self.branches):
            features.append(resize(branch(adaptive_avg_pool(x, number)), x.shape[2:], self.align_corners))
        if self.input_last:
            features.append(x)
        return self.out(concat(features))


class Network(nn.Module):
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
        """Whether auxiliary outputs are computed in evaluation mode too."""
        self.auxiliary_always = always

    def wants_auxiliary(self) -> bool:
        return self.training or self.auxiliary_always


def relu(x: Tensor) -> Tensor:
    """max(x, 0), and x stays as it is."""
    return F.relu(x)


def concat(features: Sequence[Tensor]) -> Tensor:
    """Joins features along the channels."""
    return torch.cat(tuple(features), dim=1)


def pad_channels(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) -> (N, ``channels``, H, W): channels of zeros after those of x."""
    return torch.cat((x, x.new_zeros((x.shape[0], channels - x.shape[1], *x.shape[2:]))), 1)


def flatten(x: Tensor) -> Tensor:
    """(N, C, 1, 1) -> (N, C)."""
    return x.flatten(1)


def resize(x: Tensor, size: Sequence[int], align_corners: bool, half_pixel: bool = True) -> Tensor:
    """Bilinear interpolation to ``size`` (H, W). ``half_pixel`` false: output pixel i lies at i * in / out (TensorFlow 1)."""
    if align_corners or half_pixel:
        return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=align_corners)
    rows, columns = (torch.from_numpy(bilinear_matrix(*sides, False, False)).to(x) for sides in zip(x.shape[2:], size))
    return rows @ (x @ columns.T)


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest neighbour to ``size`` (H, W): output pixel i takes input pixel floor(i * in / out)."""
    return F.interpolate(x, size=tuple(size), mode='nearest')


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """(N, C * factor * factor, H, W) -> (N, C, H * factor, W * factor): each pixel's channels become a square of pixels."""
    return F.pixel_shuffle(x, factor)


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


def max_pool_indices(
    x: Tensor, kernel_size: int = 2, stride: int = 2, padding: int = 0, ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Max pooling and, for ``max_unpool``, the place row * W + column of every maximum in its channel."""
    return F.max_pool2d(x, kernel_size, stride, padding, ceil_mode=ceil_mode, return_indices=True)


def max_unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Puts every value at its index in a plane of ``size`` (H, W) of zeros."""
    n, c = x.shape[:2]
    plane = x.new_zeros((n, c, size[0] * size[1]))
    return plane.scatter(2, indices.flatten(2), x.flatten(2)).reshape(n, c, size[0], size[1])


def synchronise(network: nn.Module, sync: bool) -> None:
    """Whether batch norm takes its statistics over all processes."""
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.sync = sync


def draw_dropout(network: nn.Module, batch: int, key: Sequence[int]) -> None:
    """Draws the masks of all dropout layers for one forward pass; ``key`` (seed, step, batch of the step) decides them."""
    processes = distributed.rank(), distributed.size()
    for name, module in network.named_modules():
        if isinstance(module, Dropout2d):
            mask = dropout_mask(name, (batch, module.channels, 1, 1), module.ratio, key, *processes)
            module.mask = torch.from_numpy(mask).to(next(network.parameters()).device)


def canonical_names(network: nn.Module) -> dict[str, str]:
    """Names of the parameters and running statistics here -> the suite's names: in PyTorch the same."""
    return {name: name for name in network.state_dict() if not name.endswith('num_batches_tracked')}


def initialise(network: nn.Module, seed: int) -> None:
    """Draws the weights by ``common/training/initial_weights.py``; norms start as the identity."""
    modules = dict(network.named_modules())
    for name, scheme in schemes({name: getattr(module, 'init', None) for name, module in modules.items()}).items():
        module = modules[name]
        if isinstance(module, (Conv2d, ConvTranspose2d, Linear)):
            shape = tuple(module.weight.shape)
            module.weight.data.copy_(torch.from_numpy(initial_weight(f'{name}.weight', shape, scheme, seed)))
            if module.bias is not None:
                bias = initial_bias(f'{name}.bias', len(module.bias), shape, scheme, seed)
                module.bias.data.copy_(torch.from_numpy(bias))


def _same_padding(size: int, conv: Conv2d, axis: int) -> tuple[int, int]:
    stride, reach = conv.stride[axis], conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2
