"""A network's size and its device, as far as only the framework knows them."""

from contextlib import contextmanager
from typing import Iterator, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor

from twinseg.common.images.interpolation import Size
from twinseg.mindspore_impl import precision
from twinseg.mindspore_impl.layers import Conv2d, ConvTranspose2d, Linear
from twinseg.mindspore_impl.network import Network

Layer = Conv2d | ConvTranspose2d | Linear  # layers whose multiply-accumulates are counted
PROBE = 256  # side of the image that measures the output stride


def parameters(network: Network) -> int:
    """Trainable numbers."""
    return sum(parameter.size for parameter in network.trainable_params())


def macs(network: Network, size: Size) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of ``size`` (height, width)."""
    counts: list[int] = []

    def count(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A weight's first dimension is the output's channels; in a transposed convolution it is the input's.
        pixels = (inputs[0] if isinstance(layer, ConvTranspose2d) else output).size // layer.weight.shape[0]
        counts.append(pixels * layer.weight.size)

    layers = [layer for _, layer in network.cells_and_names() if isinstance(layer, Layer)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    _logits_shape(network, size)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def output_stride(network: Network) -> Optional[int]:
    """Factor by which the logits are smaller than the image; None for a classifier."""
    if not network.align_corners:
        return None
    return PROBE // _logits_shape(network, (PROBE, PROBE))[2]


def _logits_shape(network: Network, size: Size) -> tuple[int, ...]:
    """Shape of the logits of one image, computed without compiling: hooks run."""
    with uncompiled():
        return network.set_train(False)(Tensor(np.zeros((1, 3, *size), np.float32)))['logits'].shape


@contextmanager
def uncompiled() -> Iterator[None]:
    """Computes operator by operator: a single run on a CPU takes a tenth of the time that compiling takes."""
    mode = ms.get_context('mode')
    if ms.get_context('device_target') == 'CPU':  # a device would wait after every operator until the process ends
        ms.runtime.launch_blocking()  # the threads of a CPU get in each other's way
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


def accelerator() -> dict[str, str | int]:
    """The device beside the CPU, or the CPU threads in use."""
    target = ms.get_context('device_target')
    if target == 'CPU':
        return {'threads': ms.get_context('runtime_num_threads')}
    if target == 'Ascend':
        return {'ascend': ms.hal.get_device_name(0), **precision.of_ascend()}
    return {target.lower(): target}
