"""Norms of features (N, C, H, W).

Twin of ``mindspore_impl/layers/norm.py``: same names, same arguments, same numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinseg.common.errors import ONE_VALUE, BatchError
from twinseg.pytorch_impl import distributed


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm; ``momentum`` in PyTorch's sense: the share of the new batch in the running statistics.

    ``output_dtype``: None, or the dtype of the output, which is then computed in float32. In training the mean and variance
    are those of the global batch, over all processes, or with ``sync`` off those of each process's batch, which move its
    running statistics: ``network.average_statistics`` makes them those of all. ``frozen``: in training, too, it normalises by
    the running statistics, which keep their values.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.output_dtype: torch.dtype | None = None
        self.sync = True
        self.frozen = False

    def train(self, mode: bool = True) -> 'BatchNorm2d':
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() * (distributed.size() if self.sync else 1) == x.shape[1]:
            raise BatchError(ONE_VALUE)
        if self.training and self.sync and distributed.size() > 1:
            return self._of_processes(x).to(self.output_dtype or x.dtype)
        if self.output_dtype in (None, x.dtype):  # the norm computes in float32 whatever the input is
            return super().forward(x)
        return super().forward(x.float()).to(self.output_dtype)

    def _of_processes(self, x: Tensor) -> Tensor:
        if x.device.type in distributed.KERNEL_DEVICES:
            self.num_batches_tracked += 1
            statistics = self.running_mean, self.running_var
            return _KernelNorm.apply(x, self.weight, self.bias, *statistics, self.momentum, self.eps)
        # PyTorch's SyncBatchNorm does not run on CPUs, and it allows for processes with batches of different sizes.
        features = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        with torch.no_grad():
            count = features.numel() // features.shape[1] * distributed.size()
            variances, means = torch.var_mean(features, (0, 2, 3), correction=0)
            means, variances = distributed.gather(torch.cat((means, variances))).view(distributed.size(), 2, -1).unbind(1)
            mean = means.mean(0)
            variance = (variances + (means - mean) ** 2).mean(0)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return _GlobalNorm.apply(features, self.weight, self.bias, mean, variance, self.eps)


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


class _KernelNorm(torch.autograd.Function):
    """Batch norm by the statistics of the global batch, which also moves the running ones, by the kernels of PyTorch's
    SyncBatchNorm: they read and write half precision, and compute in float32."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        x = _dense(x)
        each = distributed.gather(torch.cat(torch.batch_norm_stats(x, eps))).view(distributed.size(), 2, -1)
        counts = each.new_full((distributed.size(),), x.numel() // x.shape[1])
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            x, each[:, 0], each[:, 1], running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, scale, counts[:1].int())
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, scale, count = ctx.saved_tensors
        gradient = _dense(gradient)
        shift, slope, by_weight, by_bias = torch.batch_norm_backward_reduce(gradient, x, mean, scale, weight, True, True, True)
        shift, slope = distributed.mean(torch.stack((shift, slope)))
        by_x = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, shift, slope, count)
        return by_x, by_weight, by_bias, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """The features in one of the two layouts that the kernels take."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


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
