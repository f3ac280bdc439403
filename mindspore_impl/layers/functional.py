"""Functions without weights on features (N, C, H, W).

Twin of ``pytorch_impl/layers/functional.py``: same names, same arguments, same numbers.
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops


def relu(x: Tensor) -> Tensor:
    """max(x, 0), and x is not changed."""
    return ops.relu(x)


def concat(features: Sequence[Tensor]) -> Tensor:
    """Joins features along the channels."""
    dtype = features[0].dtype
    for feature in features:
        if feature.dtype == ms.float32:  # a float32 feature beside half precision
            dtype = ms.float32
    return ops.cat([feature if feature.dtype == dtype else ops.cast(feature, dtype) for feature in features], 1)


def pad_channels(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, W) -> (N, ``channels``, H, W): channels of zeros after those of x."""
    return ops.cat([x, ops.zeros((x.shape[0], channels - x.shape[1], *x.shape[2:]), x.dtype)], 1)  # ops.pad is ten times slower


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


@ops.constexpr
def _on_ascend() -> bool:
    """Whether what is compiled now is for an Ascend, whose kernels for pooling are fewer: a constant of the graph."""
    return ms.get_context('device_target') == 'Ascend'


@ops.constexpr
def _on_cpu() -> bool:
    """Whether what is compiled now is for a CPU: a constant of the graph."""
    return ms.get_context('device_target') == 'CPU'


def max_pool_indices(
    x: Tensor, kernel_size: int = 2, stride: int = 2, padding: int = 0, ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Max pooling and, for ``max_unpool``, the position row * W + column of every maximum in its channel."""
    if not _on_ascend():
        if kernel_size > stride:  # a place may come several times, and additions at one place are not in a fixed order
            return ops.max_pool2d(x, kernel_size, stride, padding, ceil_mode=ceil_mode, return_indices=True)
        return _max_pool_indices(x, kernel_size, stride, padding, ceil_mode)
    # The kernel takes float16 alone there and gives masks: the positions are those of the largest of the shifted images.
    n, c, height, width = x.shape
    padded = _pad_for_windows(ops.stop_gradient(x), kernel_size, stride, padding, ceil_mode)
    rows, columns = ((side - kernel_size) // stride + 1 for side in padded.shape[2:])
    shifted = []
    for row in range(kernel_size):
        for column in range(kernel_size):
            end = (n, c, row + (rows - 1) * stride + 1, column + (columns - 1) * stride + 1)
            shifted.append(ops.strided_slice(padded, (0, 0, row, column), end, (1, 1, stride, stride)))
    place = ops.cast(ops.argmax(ops.stack(shifted, -1), -1), ms.int32)  # the first of those that are equal
    top, left = (ops.arange(0, count, dtype=ms.int32) * stride - padding for count in (rows, columns))
    indices = (top.reshape(-1, 1) + place // kernel_size) * width + left + place % kernel_size
    values = ops.gather_elements(x.reshape(n, c, -1), 2, indices.reshape(n, c, -1))
    return values.reshape(indices.shape), indices


class _MaxPoolIndices(nn.Cell):
    """Max pooling whose windows do not overlap, with a gradient of its own: that of MindSpore's operator looks at the whole
    plane for each maximum (47 s on a CPU for 2 x 16 planes of 180x240 values; 0.05 s here)."""

    def construct(self, x, kernel_size, stride, padding, ceil_mode):
        return ops.max_pool2d(x, kernel_size, stride, padding, ceil_mode=ceil_mode, return_indices=True)

    def bprop(self, x, kernel_size, stride, padding, ceil_mode, out, dout):
        n, c = x.shape[:2]
        plane = ops.zeros((n, c, x.shape[2] * x.shape[3]), x.dtype)
        gradient = ops.tensor_scatter_elements(plane, out[1].reshape(n, c, -1), dout[0].reshape(n, c, -1), 2)
        return gradient.reshape(x.shape), 0, 0, 0, 0


_max_pool_indices = _MaxPoolIndices()


def _pad_for_windows(x: Tensor, kernel_size: int, stride: int, padding: int, ceil_mode: bool) -> Tensor:
    """Values that never win around x, so that windows without padding see what those with ``padding`` would see."""
    around = [padding, padding, padding, padding]
    if ceil_mode:
        for place, side in ((1, x.shape[3]), (3, x.shape[2])):
            around[place] += -(side + 2 * padding - kernel_size) % stride
    return ops.pad(x, around, value=float('-inf')) if around != [0, 0, 0, 0] else x


def max_unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Puts every value at its index in a plane of ``size`` (H, W) of zeros."""
    n, c = x.shape[:2]
    plane = ops.zeros((n, c, size[0] * size[1]), x.dtype)
    plane = ops.tensor_scatter_elements(plane, indices.reshape(n, c, -1), x.reshape(n, c, -1), 2)
    return plane.reshape(n, c, size[0], size[1])
