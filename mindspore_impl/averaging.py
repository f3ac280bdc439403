"""Averages views of an image on the device that computed their logits (see ``twinseg.common.images.averaging``)."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from twinseg.common.images.averaging import Logits
from twinseg.common.images.interpolation import Size
from twinseg.mindspore_impl.layers import resize


class DeviceAveraging:
    """``Averaging`` of tensors: nothing but the result is copied to the host."""

    def __init__(self, logits: Logits):
        self.logits = logits

    def zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return ops.zeros(shape, ms.float32)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def log_add_exp(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.logaddexp(x, y)

    def softmax(self, logits: Tensor) -> Tensor:
        return ops.softmax(logits, 1)

    def mirrored(self, x: Tensor) -> Tensor:
        return ops.flip(x, (3,))

    def resized(self, x: Tensor, size: Size) -> Tensor:
        return resize(x, size, False)

    def class_ids(self, x: Tensor) -> np.ndarray:
        return ops.argmax(x, 1).asnumpy().astype(np.uint8)

    def on_host(self, x: Tensor) -> np.ndarray:
        return x.asnumpy()
