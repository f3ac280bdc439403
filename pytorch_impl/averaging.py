"""Averages views of an image on the device that computed their logits (see ``twinseg.common.images.averaging``)."""

import numpy as np
import torch
from torch import Tensor

from twinseg.common.images.averaging import Logits
from twinseg.common.images.interpolation import Size
from twinseg.pytorch_impl.layers import resize


class DeviceAveraging:
    """``Averaging`` of tensors: nothing but the result is copied to the host."""

    def __init__(self, logits: Logits):
        self.logits = logits

    def zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.zeros(shape, device=like.device)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def log_add_exp(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.logaddexp(x, y)

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)

    def mirrored(self, x: Tensor) -> Tensor:
        return x.flip(3)

    def resized(self, x: Tensor, size: Size) -> Tensor:
        return resize(x, size, False)

    def class_ids(self, x: Tensor) -> np.ndarray:
        return x.argmax(1).to(torch.uint8).cpu().numpy()

    def on_host(self, x: Tensor) -> np.ndarray:
        return x.cpu().numpy()
