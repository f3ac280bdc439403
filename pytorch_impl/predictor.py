"""Runs a network on images as they come from a file."""

from typing import Optional

import numpy as np
import torch

from twinseg.common import interpolation
from twinseg.common.config import Precision
from twinseg.common.interpolation import Size, row_strips
from twinseg.pytorch_impl import precision
from twinseg.pytorch_impl.data import upload
from twinseg.pytorch_impl.layers import normalise, resize
from twinseg.pytorch_impl.network import Network


class Predictor:
    """A network in evaluation mode behind uint8 images (see ``twinseg.common.backend.Predictor``)."""

    def __init__(self, network: Network, mean: list[float], std: list[float], settings: Precision):
        self.network, self.mean, self.std = network, mean, std
        precision.apply(network, settings.amp_level, settings.dtype, settings.keep_bn_fp32)
        precision.allow_tf32(settings.tf32)
        self.device = next(network.parameters()).device

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> float32 logits (N, C, h, w), at the head's size or resized bilinearly to ``size``."""
        return self._logits(images, size).cpu().numpy()

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""
        size = size or (images.shape[2], images.shape[3])
        if self.device.type == 'cpu':
            return interpolation.class_ids(self.logits(images), size, self.network.align_corners['logits'])
        return self._class_ids(images, size).to(torch.uint8).cpu().numpy()

    @torch.inference_mode()
    def _class_ids(self, images: np.ndarray, size: Size) -> torch.Tensor:
        logits = self._logits(images, None)
        align_corners = self.network.align_corners['logits']
        strips = row_strips(logits.shape[0], logits.shape[1], size)
        if len(strips) == 1:
            return resize(logits, size, align_corners).argmax(1)
        wide = resize(logits, (logits.shape[2], size[1]), align_corners)
        return torch.cat([_rows(wide, strip, size[0], align_corners).argmax(1) for strip in strips], 1)

    @torch.inference_mode()
    def _logits(self, images: np.ndarray, size: Optional[Size]) -> torch.Tensor:
        torch.backends.cudnn.benchmark = False  # images have many sizes
        self.network.eval()
        pixels = normalise(upload(images, self.device), self.mean, self.std)
        logits = self.network(pixels)['logits'].float()
        return logits if size is None else resize(logits, size, self.network.align_corners['logits'])


def _rows(x: torch.Tensor, strip: tuple[int, int], height: int, align_corners: bool) -> torch.Tensor:
    """The rows from strip[0] to before strip[1] of ``resize(x, (height, W), align_corners)``, W the width of ``x``."""
    rows = torch.arange(strip[0], strip[1], dtype=torch.float32, device=x.device)
    last = x.shape[2] - 1
    source = rows * (last / (height - 1)) if align_corners else ((rows + 0.5) * (x.shape[2] / height) - 0.5).clamp(0, last)
    low = source.floor()
    share = (source - low)[:, None]
    above, below = (x.index_select(2, index.long().clamp(max=last)) for index in (low, low + 1))
    return torch.lerp(above, below, share)
