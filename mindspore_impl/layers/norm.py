"""Norms of features (N, C, H, W).

Twin of ``pytorch_impl/layers/norm.py``: same names, same arguments, same numbers.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from twinseg.common.errors import ONE_VALUE
from twinseg.mindspore_impl import distributed


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm; ``momentum`` in PyTorch's sense: the share of the new batch in the running statistics.

    ``output_dtype``: None, or the dtype of the output, which is then computed in float32. In training the mean and variance
    are those of the global batch, over all processes, or with ``sync`` off those of each process's batch, which move its
    running statistics: ``network.AverageStatistics`` makes them those of all. ``frozen``: in training, too, it normalises by
    the running statistics, which keep their values.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(num_features=channels, eps=eps, momentum=1 - momentum)
        self.output_dtype, self.sync, self.frozen = None, True, False

    def construct(self, x: Tensor) -> Tensor:
        if (
            self.training
            and not self.frozen
            and x.shape[0] * x.shape[2] * x.shape[3] * (distributed.size() if self.sync else 1) == 1
        ):
            raise ValueError(ONE_VALUE)
        if self.training and not self.frozen and self.sync and distributed.size() > 1:
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
        count = x.shape[0] * x.shape[2] * x.shape[3] * distributed.size()
        every = distributed.stack(ops.stack((mean, variance)))  # one collective for both: its latency is its cost
        local_mean, mean = mean, ops.mean(every[:, 0], 0)
        variance = ops.mean(every[:, 1] + ops.square(every[:, 0] - mean), 0)
        centred = centred + (local_mean - mean).reshape(1, -1, 1, 1)
        centre, unbiased = ops.stop_gradient(mean), ops.stop_gradient(variance) * (count / (count - 1))
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
