"""Runs a network on images as they come from a file."""

import copy
from typing import Any, Optional

import numpy as np
import torch
from torch import nn

from twinseg.common.config import Precision
from twinseg.common.images import interpolation
from twinseg.common.images.averaging import Averaging, HostAveraging
from twinseg.common.images.interpolation import Size, row_strips
from twinseg.pytorch_impl import precision
from twinseg.pytorch_impl.averaging import DeviceAveraging
from twinseg.pytorch_impl.data import upload
from twinseg.pytorch_impl.layers import normalise, resize
from twinseg.pytorch_impl.layers.norm import BatchNorm2d
from twinseg.pytorch_impl.network import Network

COMPARED_SIZE = (128, 192)  # size of the image on which a folded network is compared
FOLDED = 1e-5  # largest difference, of the largest logit: the tolerance of twins


class Predictor:
    """A network in evaluation mode behind uint8 images (see ``twinseg.common.backend.Predictor``)."""

    def __init__(self, network: Network, mean: list[float], std: list[float], settings: Precision):
        self.network, self.mean, self.std = network, mean, std
        precision.apply(network, settings.amp_level, settings.dtype, settings.keep_bn_fp32)
        precision.allow_tf32(settings.tf32)
        self.device = next(network.parameters()).device
        self.on_host = self.device.type == 'cpu' and settings.amp_level == 'O0'
        self.folded: tuple[int, Network] | None = None  # what the weights were, and the network made of them for the host

    def logits(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> float32 logits (N, C, h, w), at the head's size or resized bilinearly to ``size``."""
        return self._logits(images, size).cpu().numpy()

    def class_ids(self, images: np.ndarray, size: Optional[Size] = None) -> np.ndarray:
        """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, h, w); ``size`` defaults to the images'."""
        size = size or (images.shape[2], images.shape[3])
        if self.device.type == 'cpu':
            return interpolation.class_ids(self.logits(images), size, self.network.align_corners['logits'])
        return self._class_ids(images, size).to(torch.uint8).cpu().numpy()

    @property
    def averaging(self) -> Averaging:
        """What averages the logits of several views, where the network computes them."""
        return HostAveraging(self.logits) if self.device.type == 'cpu' else DeviceAveraging(self._logits)

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
        network = self._for_host() if self.on_host else self.network
        if network is not self.network:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        logits = network(pixels)['logits'].float()
        return logits if size is None else resize(logits, size, self.network.align_corners['logits'])

    def _for_host(self) -> Network:
        """The network for the host, made again where its weights have changed."""
        changes = sum(tensor._version for tensor in (*self.network.parameters(), *self.network.buffers()))
        if self.folded is None or self.folded[0] != changes:
            self.folded = changes, for_host(self.network)
        return self.folded[1]


def for_host(network: Network) -> Network:
    """A copy that a CPU computes in two thirds of the time: norms are folded into the convolutions before them, and channels
    come last in memory. The network itself where it cannot be: what the copy computes is compared on a small image."""
    copied = copy.deepcopy(network)
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # results of convolutions by their number; they are held, so that no
    before: dict[nn.Module, nn.Conv2d | None] = {}  # other takes it. Norms -> the convolutions whose results they get

    def note_result(module: nn.Module, _: Any, result: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(result)] = module, result

    def note_norm(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        conv, _ = made.get(id(inputs[0]), (None, None))
        before[module] = None if module in before else conv

    hooks = [part.register_forward_hook(note_result) for part in copied.modules() if isinstance(part, nn.Conv2d)]
    hooks += [part.register_forward_pre_hook(note_norm) for part in copied.modules() if isinstance(part, BatchNorm2d)]
    image = torch.randn((1, 3, *COMPARED_SIZE), generator=torch.Generator().manual_seed(0))
    expected = copied(image)['logits']
    for hook in hooks:
        hook.remove()
    for norm, conv in before.items():
        if conv is not None and list(before.values()).count(conv) == 1:
            _fold(norm, conv)
    copied = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        logits = copied(image.contiguous(memory_format=torch.channels_last))['logits']
    except RuntimeError:  # a view of features that only the usual layout has
        return network
    return copied if (logits - expected).abs().max() <= FOLDED * expected.abs().max() else network


def _fold(norm: Any, conv: nn.Conv2d) -> None:
    """Gives a convolution what the norm behind it does in evaluation, and the norm nothing to do."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    conv.bias = nn.Parameter(bias * scale + norm.bias, requires_grad=False)
    norm.forward = _unchanged


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def _rows(x: torch.Tensor, strip: tuple[int, int], height: int, align_corners: bool) -> torch.Tensor:
    """The rows from strip[0] to before strip[1] of ``resize(x, (height, W), align_corners)``, W the width of ``x``."""
    rows = torch.arange(strip[0], strip[1], dtype=torch.float32, device=x.device)
    last = x.shape[2] - 1
    source = rows * (last / (height - 1)) if align_corners else ((rows + 0.5) * (x.shape[2] / height) - 0.5).clamp(0, last)
    low = source.floor()
    share = (source - low)[:, None]
    above, below = (x.index_select(2, index.long().clamp(max=last)) for index in (low, low + 1))
    return torch.lerp(above, below, share)
