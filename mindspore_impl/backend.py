"""The MindSpore backend: the functions of ``twinseg.common.backend.Backend``."""

import contextlib
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from twinseg.common.backend import State, find_builder
from twinseg.common.config import Config, Loss
from twinseg.common.errors import BackendError, UserError, first_line_of
from twinseg.common.host.memory import MEGABYTE
from twinseg.common.parallel.launch import launched, set_hccl_timeouts
from twinseg.mindspore_impl import distributed, precision, strips
from twinseg.mindspore_impl.data import make_loader as make_loader
from twinseg.mindspore_impl.distributed import group as group
from twinseg.mindspore_impl.exporter import open_mindir as open_mindir
from twinseg.mindspore_impl.exporter import write as write
from twinseg.mindspore_impl.losses import constants, segmentation_loss
from twinseg.mindspore_impl.models import MODELS
from twinseg.mindspore_impl.network import Network, initialise
from twinseg.mindspore_impl.predictor import Predictor
from twinseg.mindspore_impl.sizes import accelerator as accelerator
from twinseg.mindspore_impl.sizes import macs as macs
from twinseg.mindspore_impl.sizes import output_stride as output_stride
from twinseg.mindspore_impl.sizes import parameters as parameters
from twinseg.mindspore_impl.sizes import uncompiled
from twinseg.mindspore_impl.state import load_state as load_state
from twinseg.mindspore_impl.state import save_native as save_native
from twinseg.mindspore_impl.state import state as state
from twinseg.mindspore_impl.state import tensors
from twinseg.mindspore_impl.tracing import activation_gradients as activation_gradients
from twinseg.mindspore_impl.tracing import copy_of as copy_of
from twinseg.mindspore_impl.tracing import layers as layers
from twinseg.mindspore_impl.tracing import module_gradients as module_gradients
from twinseg.mindspore_impl.tracing import set_training as set_training
from twinseg.mindspore_impl.tracing import watch as watch
from twinseg.mindspore_impl.trainer import Trainer, batch_is_checked

name = 'mindspore'
TARGETS = {'cpu': 'CPU', 'gpu': 'GPU', 'ascend': 'Ascend'}


def devices() -> list[str]:
    """The devices that are present (cpu, gpu, ascend), the best one last."""
    return [name for name, target in TARGETS.items() if name == 'cpu' or _is_present(target)]


def setup(device: Optional[str] = None, *, seed: int = 0, threads: Optional[int] = None, timeout: Optional[int] = None) -> str:
    """Chooses the device (cpu, gpu, ascend; None: the best present) and returns its name. BackendError if absent.

    A process that msrun started takes the device of its local rank, and meets the others; none waits
    longer than ``timeout`` seconds for another one.
    """
    launch = launched(name)
    present = devices()
    wanted = device.lower() if device else present[-1]
    if wanted not in TARGETS:
        raise BackendError(f'no device {device!r}: choose cpu, gpu or ascend')
    if wanted not in present:
        raise BackendError(f'device {wanted}: MindSpore {ms.__version__} finds none here; present: {", ".join(present)}')
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        ms.set_device(TARGETS[wanted])
    except RuntimeError as error:
        raise BackendError(f'device {wanted}: {first_line_of(error)}') from None
    if wanted == 'ascend':
        precision.keep_float32()
        set_hccl_timeouts(timeout)
    ms.set_seed(seed)
    strips.threads = threads
    if threads and wanted == 'cpu':
        with contextlib.suppress(RuntimeError):  # a process can set it once
            ms.device_context.cpu.op_tuning.threads_num(threads)
    if launch:
        distributed.join(wanted, timeout)
    return wanted


def _is_present(target: str) -> bool:
    return getattr(ms.device_context, target.lower()).device.is_available()


def build_model(arch: str, *, seed: Optional[int] = 0, **arguments: Any) -> Network:
    """A network in evaluation mode, initialised from ``seed``; None leaves the weights to ``load_state``, which is quicker.
    UserError for an unknown name or argument."""
    network = find_builder(MODELS, arch, arguments)(**arguments)
    if seed is not None:
        initialise(network, seed)
    return network.set_train(False)


def forward(network: Network, images: np.ndarray, auxiliary: bool = False) -> State:
    """float32 (N, 3, H, W), already normalised -> outputs in evaluation mode: ``logits`` and, if asked, the rest."""
    precision.allow_tf32(False)
    network.set_train(False)
    network.set_auxiliary(auxiliary)
    with _single_run():
        outputs = network(Tensor(np.asarray(images, np.float32)))
    network.set_auxiliary(False)
    return {key: value.asnumpy().astype(np.float32) for key, value in outputs.items()}


def loss_and_gradients(
    network: Network, images: np.ndarray, labels: np.ndarray, loss: Loss, *, training: bool = False
) -> tuple[float, State]:
    """Loss and the gradient of every trainable parameter; batch norm and dropout in evaluation mode by default."""
    precision.allow_tf32(False)
    network.set_train(training)
    network.set_auxiliary(True)
    parameters = {key: p for key, p in tensors(network).items() if p.requires_grad}
    cell = _Loss(network, loss)
    cell.set_train(training)
    gradient = ms.value_and_grad(cell, None, ms.ParameterTuple(parameters.values()))
    with batch_is_checked(), _single_run():
        value, gradients = gradient(Tensor(np.asarray(images, np.float32)), Tensor(np.asarray(labels)))
    network.set_auxiliary(False)
    network.set_train(False)
    return float(value.asnumpy()), {key: gradient.asnumpy().copy() for key, gradient in zip(parameters, gradients)}


def _single_run() -> contextlib.AbstractContextManager[None]:
    return uncompiled() if ms.get_context('device_target') == 'CPU' else contextlib.nullcontext()


class _Loss(nn.Cell):
    def __init__(self, network: Network, loss: Loss):
        super().__init__(auto_prefix=False)
        self.network, self.align_corners = network, network.align_corners
        self.loss = constants(loss, network.align_corners)

    def construct(self, images: Tensor, labels: Tensor) -> Tensor:
        return segmentation_loss(self.network(images), labels, self.loss, self.align_corners)['loss']


def synchronise() -> None:
    """Waits until the device has done all that it was given."""
    if ms.get_context('device_target') != 'CPU':
        ms.runtime.synchronize()


def reset_device_memory() -> None:
    """Starts a new peak of the device's memory."""
    if ms.get_context('device_target') != 'CPU':
        ms.runtime.reset_peak_memory_stats()


def device_memory() -> Optional[float]:
    """Largest memory of tensors on the device in MB since the last reset; None for the CPU."""
    return None if ms.get_context('device_target') == 'CPU' else ms.runtime.max_memory_allocated() / MEGABYTE


def make_predictor(network: Network, config: Config) -> Predictor:
    """A predictor with the configuration's mean, std and precision; with ``graph_mode`` 1 nothing is compiled."""
    if config.runtime.graph_mode:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    return Predictor(network, config.augment.mean, config.augment.std, config.precision)


def make_trainer(network: Network, config: Config) -> Trainer:
    """A trainer of a network; ``graph_mode`` decides whether its steps are compiled."""
    if config.runtime.launcher:
        raise UserError("launcher: dp is PyTorch's; msrun starts a process for each device: leave it out")
    if config.runtime.torch_compile or config.runtime.cuda_graphs:
        raise UserError(
            "torch_compile and cuda_graphs are PyTorch's; MindSpore compiles unless graph_mode is 1: leave them out"
        )
    ms.set_context(mode=ms.PYNATIVE_MODE if config.runtime.graph_mode else ms.GRAPH_MODE)
    return Trainer(network, config)


def make_float64_trainer(network: Network, config: Config) -> Trainer:
    """BackendError: MindSpore's convolutions for CPUs take float32 alone."""
    raise BackendError('float64: MindSpore has no convolutions for it on CPUs; use the PyTorch backend')
