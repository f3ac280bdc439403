"""Functions without weights on features (N, C, H, W).

Twin of ``mindspore_impl/layers/functional.py``: same names, same arguments, same numbers.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twinseg.common.images.interpolation import bilinear_matrix, pooling_matrix
from twinseg.pytorch_impl.data import constant


def relu(x: Tensor) -> Tensor:
    """max(x, 0), and x is not changed."""
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
        if x.device.type != 'cpu' and x.requires_grad and x.dtype == torch.float32 and not torch.compiler.is_compiling():
            return _Resize.apply(x, tuple(size), align_corners)
        return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=align_corners)
    rows, columns = (
        constant(_bilinear_matrix, *sides, False, False, device=x.device, dtype=x.dtype) for sides in zip(x.shape[2:], size)
    )
    return rows @ (x @ columns.T)


class _Resize(torch.autograd.Function):
    """``F.interpolate`` whose gradient is two products with the matrices of the interpolation.

    Its own gradient on a GPU adds every output pixel to four input pixels by atomic operations: at 1/8 to full size most of a
    training step (67 of 110 ms of Fast-SCNN, 12 images of 512x1024, H200), and in another order every time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        ctx.sides, ctx.align_corners = tuple(zip(x.shape[2:], size)), align_corners
        return F.interpolate(x, size=size, mode='bilinear', align_corners=align_corners)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, columns = (constant(_bilinear_matrix, *sides, ctx.align_corners, device=gradient.device) for sides in ctx.sides)
        return rows.T @ (gradient.contiguous() @ columns), None, None


def _bilinear_matrix(size: int, new_size: int, align_corners: bool, half_pixel: bool = True) -> Tensor:
    return torch.from_numpy(bilinear_matrix(size, new_size, align_corners, half_pixel))


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
    rows, columns = (constant(_pooling_matrix, length, bins, device=x.device, dtype=x.dtype) for length in x.shape[2:])
    return ((x @ columns.T).transpose(2, 3) @ rows.T).transpose(2, 3)


def _pooling_matrix(length: int, bins: int) -> Tensor:
    if isinstance(length, int):
        return torch.from_numpy(pooling_matrix(length, bins))
    position, index = torch.arange(length), torch.arange(bins)[:, None]  # ``length`` is a symbol: an export leaves it open
    start, stop = index * length // bins, -(-(index + 1) * length // bins)
    return ((position >= start) & (position < stop)) / (stop - start)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (N, 3, H, W) -> float32, zero mean and unit variance by channel."""
    centre, scale = (constant(torch.tensor, tuple(values), device=images.device).view(1, -1, 1, 1) for values in (mean, std))
    return (images.float() - centre) / scale


def max_pool_indices(
    x: Tensor, kernel_size: int = 2, stride: int = 2, padding: int = 0, ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Max pooling and, for ``max_unpool``, the position row * W + column of every maximum in its channel."""
    return F.max_pool2d(x, kernel_size, stride, padding, ceil_mode=ceil_mode, return_indices=True)


def max_unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Puts every value at its index in a plane of ``size`` (H, W) of zeros."""
    n, c = x.shape[:2]
    plane = x.new_zeros((n, c, size[0] * size[1]))
    return plane.scatter(2, indices.flatten(2), x.flatten(2)).reshape(n, c, size[0], size[1])
