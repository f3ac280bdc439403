"""The PyTorch backend: the functions of ``twinseg.common.backend.Backend``."""

import os
import shutil
from typing import Any, Optional

import numpy as np
import torch

from twinseg.common.backend import State, find_builder
from twinseg.common.config import Config, Loss
from twinseg.common.errors import BackendError, UserError
from twinseg.common.host.memory import MEGABYTE
from twinseg.common.parallel.launch import launched, set_hccl_timeouts
from twinseg.pytorch_impl import distributed, precision
from twinseg.pytorch_impl.data import make_loader as make_loader
from twinseg.pytorch_impl.distributed import group as group
from twinseg.pytorch_impl.exporter import open_mindir as open_mindir
from twinseg.pytorch_impl.exporter import write as write
from twinseg.pytorch_impl.losses import segmentation_loss
from twinseg.pytorch_impl.models import MODELS
from twinseg.pytorch_impl.network import Network, initialise
from twinseg.pytorch_impl.predictor import Predictor
from twinseg.pytorch_impl.sizes import accelerator as accelerator
from twinseg.pytorch_impl.sizes import macs as macs
from twinseg.pytorch_impl.sizes import output_stride as output_stride
from twinseg.pytorch_impl.sizes import parameters as parameters
from twinseg.pytorch_impl.state import load_state as load_state
from twinseg.pytorch_impl.state import save_native as save_native
from twinseg.pytorch_impl.state import state as state
from twinseg.pytorch_impl.tracing import activation_gradients as activation_gradients
from twinseg.pytorch_impl.tracing import copy_of as copy_of
from twinseg.pytorch_impl.tracing import layers as layers
from twinseg.pytorch_impl.tracing import module_gradients as module_gradients
from twinseg.pytorch_impl.tracing import set_training as set_training
from twinseg.pytorch_impl.tracing import watch as watch
from twinseg.pytorch_impl.trainer import Trainer

name = 'pytorch'
_device = torch.device('cpu')


def devices() -> list[str]:
    """The devices that are present (cpu, gpu, ascend), the best one last."""
    return list(_targets())


def _targets() -> dict[str, str]:
    """The devices that are present -> their names in PyTorch."""
    ascend = hasattr(torch, 'npu') and torch.npu.is_available()
    return {'cpu': 'cpu', **({'gpu': 'cuda'} if torch.cuda.is_available() else {}), **({'ascend': 'npu'} if ascend else {})}


def setup(device: Optional[str] = None, *, seed: int = 0, threads: Optional[int] = None, timeout: Optional[int] = None) -> str:
    """Chooses the device (cpu, gpu, ascend; None: the best present) and returns its name. BackendError if absent.

    A process that torchrun started takes the device of its local rank, and meets the others; none waits
    longer than ``timeout`` seconds for another one.
    """
    global _device
    launch = launched(name)
    present = _targets()
    wanted = device.lower() if device else list(present)[-1]
    if wanted not in ('cpu', 'gpu', 'ascend'):
        raise BackendError(f'no device {device!r}: choose cpu, gpu or ascend')
    if wanted not in present:
        raise BackendError(f'device {wanted}: PyTorch {torch.__version__} finds none here; present: {", ".join(present)}')
    _device = torch.device(present[wanted])
    if launch and wanted != 'cpu':
        accelerator = getattr(torch, present[wanted])
        if launch.local_rank >= accelerator.device_count():
            raise BackendError(
                f'rank {launch.rank} is process {launch.local_rank} of its host, which has '
                f'{accelerator.device_count()} devices ({wanted}): start no more processes than devices'
            )
        _device = torch.device(present[wanted], launch.local_rank)
        accelerator.set_device(_device)
    if wanted == 'ascend':
        precision.keep_float32()
        set_hccl_timeouts(timeout)
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    if launch:
        os.environ.update(launch.environment())  # of mpirun and srun: what torchrun would have set
        distributed.join(_device, timeout)
    return wanted


def build_model(arch: str, *, seed: Optional[int] = 0, **arguments: Any) -> Network:
    """A network in evaluation mode, initialised from ``seed``; None leaves the weights to ``load_state``, which is quicker.
    UserError for an unknown name or argument."""
    network = find_builder(MODELS, arch, arguments)(**arguments)
    if seed is not None:
        initialise(network, seed)
    return network.to(_device).eval()


def forward(network: Network, images: np.ndarray, auxiliary: bool = False) -> State:
    """float32 (N, 3, H, W), already normalised -> outputs in evaluation mode: ``logits`` and, if asked, the rest."""
    precision.allow_tf32(False)
    network.eval()
    network.set_auxiliary(auxiliary)
    with torch.no_grad():
        outputs = network(torch.from_numpy(np.asarray(images, np.float32)).to(_device))
    network.set_auxiliary(False)
    return {key: value.float().cpu().numpy() for key, value in outputs.items()}


def loss_and_gradients(
    network: Network, images: np.ndarray, labels: np.ndarray, loss: Loss, *, training: bool = False
) -> tuple[float, State]:
    """Loss and the gradient of every trainable parameter; batch norm and dropout in evaluation mode by default."""
    precision.allow_tf32(False)
    network.train(training)
    network.set_auxiliary(True)
    network.zero_grad(set_to_none=True)
    outputs = network(torch.from_numpy(np.asarray(images, np.float32)).to(_device))
    target = torch.from_numpy(np.asarray(labels)).to(_device)
    value = segmentation_loss(outputs, target, loss, network.align_corners)['loss']
    value.backward()
    network.set_auxiliary(False)
    network.eval()
    parameters = {key: p for key, p in network.named_parameters() if p.requires_grad}
    gradients = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in parameters.items()}
    return value.item(), {key: gradient.cpu().numpy().copy() for key, gradient in gradients.items()}


def make_predictor(network: Network, config: Config) -> Predictor:
    """A predictor with the configuration's mean, std and precision."""
    return Predictor(network, config.augment.mean, config.augment.std, config.precision)


def make_trainer(network: Network, config: Config) -> Trainer:
    """A trainer of a network."""
    if config.runtime.graph_mode:
        raise UserError("graph_mode: 1 is MindSpore's; PyTorch always runs operator by operator: leave it out")
    if config.runtime.torch_compile and _device.type == 'cpu' and shutil.which(os.environ.get('CXX', 'g++')) is None:
        raise UserError('torch_compile: there is no C++ compiler in PATH; install g++, name another in CXX, or leave it out')
    if config.runtime.cuda_graphs:
        _check_cuda_graphs(config)
    return Trainer(network, config)


def _check_cuda_graphs(config: Config) -> None:
    """UserError where no CUDA graph can be recorded of a step."""
    if _device.type != 'cuda':
        raise UserError(f'cuda_graphs: true is for GPUs, and this is a training on the {_device.type}: leave it out')
    if not config.runtime.torch_compile:
        raise UserError('cuda_graphs: true records what torch.compile has compiled: set torch_compile: true, too')
    if config.optimizer.accumulation_step > 1 or config.runtime.launcher:
        raise UserError(
            'cuda_graphs: true is for steps of one batch on one GPU a process: leave accumulation_step and launcher out'
        )


def synchronise() -> None:
    """Waits until the device has done all that it was given."""
    getattr(torch, _device.type).synchronize()


def reset_device_memory() -> None:
    """Starts a new peak of the device's memory."""
    if _device.type != 'cpu':
        getattr(torch, _device.type).reset_peak_memory_stats()


def device_memory() -> Optional[float]:
    """Largest memory of tensors on the device in MB since the last reset; None for the CPU, and where PyTorch does not know."""
    largest = getattr(getattr(torch, _device.type), 'max_memory_allocated', None)
    return None if _device.type == 'cpu' or largest is None else largest() / MEGABYTE


def make_float64_trainer(network: Network, config: Config) -> Trainer:
    """A trainer whose weights and features, but not its losses, are float64: what float32 is judged against."""
    return make_trainer(precision.double(network), config)
