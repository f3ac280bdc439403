"""Runs a network on images as they come from a file."""

from functools import partial
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from twinseg.common.config import Precision
from twinseg.common.images import interpolation
from twinseg.common.images.averaging import Averaging, HostAveraging
from twinseg.common.images.interpolation import Size
from twinseg.mindspore_impl import precision
from twinseg.mindspore_impl.averaging import DeviceAveraging
from twinseg.mindspore_impl.compile_cache import Graph
from twinseg.mindspore_impl.layers import normalise, resize
from twinseg.mindspore_impl.layers.functional import _on_cpu
from twinseg.mindspore_impl.network import Network


class Predictor:
    """A network in evaluation mode behind uint8 images (see ``twinseg.common.backend.Predictor``).

    Every new size of images, and beside a CPU of results, is compiled once, which takes seconds, and for an Ascend may take
    minutes: ``eval_size`` brings all images to one.
    """

    def __init__(self, network: Network, mean: list[float], std: list[float], settings: Precision):
        precision.apply(network, settings.amp_level, settings.dtype, settings.keep_bn_fp32)
        precision.allow_tf32(settings.tf32)
        self.network, self.cell = network, PredictionGraph(network, mean, std)

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> float32 logits (N, C, h, w), at the head's size or resized bilinearly to ``size``."""
        return self._run(images, size, False).asnumpy()

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""
        size = size or (images.shape[2], images.shape[3])
        if _on_cpu():
            return interpolation.class_ids(self.logits(images), size, self.cell.align_corners)
        return self._run(images, size, True).asnumpy().astype(np.uint8)

    @property
    def averaging(self) -> Averaging:
        """What averages the logits of several views, where the network computes them."""
        return HostAveraging(self.logits) if _on_cpu() else DeviceAveraging(partial(self._run, class_ids=False))

    def _run(self, images: np.ndarray, size: Optional[Size], class_ids: bool) -> Tensor:
        self.cell.set_train(False)
        return self.cell(Tensor(images), size and tuple(map(int, size)), class_ids)


class PredictionGraph(Graph):
    """Normalisation, network, resizing and the choice of the class as one graph."""

    def __init__(self, network: nn.Cell, mean: list[float], std: list[float]):
        super().__init__(auto_prefix=False)
        self.network, self.mean, self.std = network, mean, std
        self.align_corners = network.align_corners.get('logits', False)  # a classifier's logits are never resized

    def construct(self, images: Tensor, size: Optional[Size], class_ids: bool) -> Tensor:
        logits = ops.cast(self.network(normalise(images, self.mean, self.std))['logits'], ms.float32)
        if size is not None:
            logits = resize(logits, size, self.align_corners)
        return ops.argmax(logits, 1) if class_ids else logits
