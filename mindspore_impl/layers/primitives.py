"""Single layers without a norm: framework layers with the suite's arguments.

Twin of ``pytorch_impl/layers/primitives.py``: same names, same arguments, same numbers.
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import ReluGrad

from twinseg.mindspore_impl.layers.functional import _on_ascend, _on_cpu, _pad_for_windows, flatten

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
        around = (padding[0], padding[0], padding[1], padding[1]) if isinstance(padding, tuple) else padding
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            pad_mode='same' if same else 'pad',
            padding=0 if same else around,
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
            beyond = [max(-self.fall, 0), max(-self.fall, 0)]  # values that are known although an export leaves the sizes open
        else:
            beyond = [max(self.crop + size[0] - full[0], 0), max(self.crop + size[1] - full[1], 0)]
        if beyond != [0, 0]:
            y = ops.pad(y, (0, beyond[1], 0, beyond[0]))
        # The kernel of an index takes twenty times as long on a CPU.
        y = ops.slice(y, (0, 0, self.crop, self.crop), (n, self.out_channels, size[0], size[1]))
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


class Dropout2d(nn.Cell):
    """Zeroes whole channels with probability ``ratio`` in training, by the mask that ``draw_dropout`` drew for the step.

    The mask comes from ``common``, so both backends drop the same channels and a resumed run the same as before. It is a
    parameter so that a compiled step reads its new value; it is not part of the network's state.
    """

    def __init__(self, channels: int, ratio: float):
        super().__init__()
        self.channels = channels
        self.ratio = ratio
        self.mask = ms.Parameter(ops.ones((1, channels, 1, 1), ms.float32), requires_grad=False)

    @property
    def outside_graph(self) -> tuple[str, ...]:
        """The mask, in evaluation (see ``compile_cache.Graph``)."""
        return () if self.training else ('_params',)

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

    def construct(self, branch: Tensor, shortcut: Tensor) -> Tensor:  # type: ignore[override]  # the cell takes two inputs
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
        self.unpadded = ops.MaxPool(kernel_size, stride, 'valid')

    def construct(self, x: Tensor) -> Tensor:
        if not self.use_pad:
            return self.max_pool(x)
        if _on_ascend():  # the kernel with padding is one for volumes, and finds positions, too
            return self.unpadded(_pad_for_windows(x, self.reach, self.step, self.around, self.ceil_mode))
        y = self.max_pool(ops.expand_dims(x, 2))[0]
        room = x.shape[3] + 2 * self.around - self.reach
        if self.ceil_mode:
            room = room + self.step - 1
        return ops.reshape(y, (x.shape[0], x.shape[1], -1, room // self.step + 1))  # with open sizes the rank would be lost


class PReLU(nn.Cell):
    """x where positive, else ``weight`` times x: one slope, or one for each of ``channels``; at first 0.25."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.weight = ms.Parameter(ops.full((channels,), 0.25, dtype=ms.float32))

    def construct(self, x: Tensor) -> Tensor:
        weight = ops.cast(self.weight, x.dtype)
        return _prelu(x, weight.reshape(-1, 1, 1)) if self.training and _on_cpu() else ops.prelu(x, weight)


class _PReLU(nn.Cell):
    """``ops.prelu`` of simple operators, and its gradient, in half the time that MindSpore's kernels of a CPU take.

    ``weight``: (1, 1, 1) or (C, 1, 1). ``x - max(x, 0)`` is the negative part, and NaN where x is, of which MindSpore's relu
    makes 0.
    """

    def __init__(self):
        super().__init__()
        self.relu, self.relu_gradient = ops.ReLU(), ReluGrad()

    def construct(self, x, weight):
        positive = self.relu(x)
        return positive + weight * (x - positive)

    def bprop(self, x, weight, out, dout):
        positive = self.relu_gradient(dout, x)
        rest = dout - positive
        n, c = x.shape[:2]
        slopes = ops.bmm(rest.reshape(n * c, 1, -1), x.reshape(n * c, -1, 1)).reshape(n, c)  # sums are six times slower
        slopes = slopes.sum() if weight.shape[0] == 1 else slopes.sum(0)
        return positive + weight * rest, slopes.reshape(weight.shape)


_prelu = _PReLU()
