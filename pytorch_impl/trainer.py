"""One training step: forward, loss, scaled backward, clip, optimizer, moving averages."""

from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import add
from typing import Any, Iterator, Mapping, Optional, Sequence

import numpy as np
import torch
from torch import nn

from twinseg.common.backend import Batch, StepFigures
from twinseg.common.checkpoint import TrainerState
from twinseg.common.config import Config
from twinseg.common.schedules import average_decay
from twinseg.common.settings.groups.loss import DETAIL_KERNEL
from twinseg.common.training.accumulation import mean_count
from twinseg.common.training.loss_checks import divides_by_count, needs_whole_batch
from twinseg.common.training.state import StatefulTrainer
from twinseg.pytorch_impl import compile_cache, distributed, optim, precision, state
from twinseg.pytorch_impl.data import upload
from twinseg.pytorch_impl.layers import normalise
from twinseg.pytorch_impl.losses import segmentation_loss
from twinseg.pytorch_impl.network import Network, average_statistics, draw_dropout, freeze, synchronise_norms
from twinseg.pytorch_impl.predictor import Predictor


class Trainer(StatefulTrainer):
    """Trains a network step by step (see ``common.backend.Trainer``)."""

    optimizer: optim.Optimizer
    average: optim.Average | None
    device_scale: Optional[precision.DeviceLossScale]
    network_state = staticmethod(state.state)
    load_network_state = staticmethod(state.load_state)

    def __init__(self, network: Network, config: Config):
        settings = config.precision
        self.device = next(network.parameters()).device
        precision.apply(network, settings.amp_level, settings.dtype, settings.keep_bn_fp32)
        precision.lay_out_for_training(network)
        precision.allow_tf32(settings.tf32)
        synchronise_norms(network, config.runtime.sync_bn)
        freeze(network, config.optimizer.freeze)
        average = optim.Average(network) if config.optimizer.with_ema else None
        super().__init__(network, config, optim.Optimizer(network, config.optimizer), average)
        self.average_statistics = average_statistics(network)
        self._scale_on_device()
        without_loss = set(network.align_corners) - {*config.loss.weights}
        self.losses: Any = distributed.parallel(Losses(network, config), unused=bool(without_loss))

    def step(self, batches: list[Batch], learning_rate: float, detail_kernel: Sequence[float] = DETAIL_KERNEL) -> StepFigures:
        """One optimizer step over ``batches`` of uint8 images (N, 3, H, W) and labels (N, H, W), (N,) or (N, K) float32.

        A step whose gradients are not finite is skipped: parameters, optimizer and averages stay as they are. Batch norm
        has seen the images by then, so its running statistics move. A device that decides so by itself is not waited for.
        """
        torch.backends.cudnn.benchmark = True  # batches have one size, or two: the quickest kernels are looked for once
        self.network.train()
        self.optimizer.zero_grad()
        if self.config.runtime.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # nothing of the last step is read any more
        scale = self.scaler.scale if self.device_scale is None else self.device_scale.scale
        figures, share = [], scale / len(batches)
        counted, slopes = self._counted(batches), None
        if len(batches) > 1 and needs_whole_batch(self.config.loss):
            losses, slopes = self._losses_and_slopes(batches, detail_kernel)
            figures.append(self._figures(losses))
            share = scale
        for index, (images, labels) in enumerate(batches):
            self._draw_dropout(images, index)
            with self._reduces(last=index == len(batches) - 1):
                inputs = upload(images, self.device), upload(labels, self.device)
                losses = self.losses(*inputs, detail_kernel, counted, slopes and slopes[index])
                (losses['loss'] * share).backward()
            if slopes is None:
                figures.append(self._figures(losses))
        if self.average_statistics is not None:
            self.average_statistics()
        gradients = self.optimizer.gradients()
        torch._foreach_mul_(gradients, 1 / scale)
        norm = optim.global_norm(gradients)
        finite, skips = norm.isfinite(), self.optimizer.skips
        if skips or finite:
            if self.config.optimizer.clip_global_norm:
                optim.clip_by_global_norm(gradients, norm, self.config.optimizer.clip_global_norm_value)
            self.optimizer.step(learning_rate, finite if skips else None)
            if self.average is not None:
                self.average.update(self._decay(finite))
        if self.device_scale is not None:
            self.device_scale.update(finite)
        given = self.figures_of(torch.cat((*figures, norm[None])))
        if not skips:
            self.settle()
        return given

    def _counted(self, batches: list[Batch]) -> Optional[torch.Tensor]:
        """What the losses of several batches divide by."""
        loss = self.config.loss
        if len(batches) == 1 or batches[0][1].ndim < 3 or not divides_by_count(loss):
            return None
        assert not isinstance(loss.class_weight, str)  # counted before the training begins
        return upload(mean_count(batches, loss.class_weight), self.device)

    def _losses_and_slopes(
        self, batches: list[Batch], detail_kernel: Sequence[float]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        """The losses of several batches as one, and the slopes of the loss by the outputs of each batch, which are small.

        The outputs come from a forward pass for them alone, after which norms are as before.
        """
        losses: Losses = self.losses if isinstance(self.losses, Losses) else self.losses.module
        buffers = {buffer: buffer.clone() for buffer in self.network.buffers()}
        parts = []
        with torch.no_grad():
            for index, (images, _) in enumerate(batches):
                self._draw_dropout(images, index)
                parts.append(losses.outputs(upload(images, self.device)))
            for buffer, value in buffers.items():
                buffer.copy_(value)
        names, sizes = self.config.loss.weights, [len(images) for images, _ in batches]
        outputs = {name: torch.cat([part[name].float() for part in parts]).requires_grad_() for name in names}
        labels = upload(np.concatenate([labels for _, labels in batches]), self.device)
        whole = segmentation_loss(outputs, labels, self.config.loss, losses.align_corners, detail_kernel)
        slopes = torch.autograd.grad(whole['loss'], list(outputs.values()))
        return whole, [dict(zip(outputs, part)) for part in zip(*(slope.split(sizes) for slope in slopes))]

    def _draw_dropout(self, images: np.ndarray, index: int) -> None:
        """The masks of a batch of the step."""
        draw_dropout(self.network, len(images), (self.config.runtime.seed, self.steps, index))

    def _figures(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The means of the losses over the processes."""
        self.names = tuple(losses)
        return distributed.mean(torch.stack(list(losses.values())).detach())

    def _decay(self, finite: torch.Tensor) -> float | torch.Tensor:
        """The decay of the averages: 1 on a device that skips the step."""
        limit, taken = self.config.optimizer.ema_decay, self.optimizer.taken
        if not self.optimizer.skips:
            return average_decay(limit, self.optimizer.steps + 1)
        return torch.where(finite, ((1 + taken) / (10 + taken)).clamp(max=limit), 1.0)  # ``average_decay`` on the device

    def read(self, steps: Sequence[torch.Tensor]) -> Iterator[tuple[dict[str, float], float]]:
        """The losses and the gradient norm of steps (see ``StatefulTrainer``)."""
        for *values, norm in torch.stack(list(steps)).tolist():
            batches = len(values) // len(self.names)
            parts = dict.fromkeys(self.names, 0.0)
            for place, value in enumerate(values):
                parts[self.names[place % len(self.names)]] += value / batches
            yield parts, norm

    def overflows(self) -> bool:
        """Whether numbers of the half precision become infinite on the device: it says so, and float16 is tried."""
        if precision.saturates(self.device.type):
            return False
        largest = torch.full((1,), torch.finfo(torch.float16).max, dtype=torch.float16, device=self.device)
        return self.config.precision.dtype != 'float16' or bool((largest * 2).isinf())

    def load_state(self, tensors: Mapping[str, np.ndarray], meta: TrainerState) -> None:
        """Takes back what ``state`` of either backend gave; StateError when it belongs to another network or optimizer."""
        super().load_state(tensors, meta)
        self._scale_on_device()

    def _scale_on_device(self) -> None:
        """Leaves a dynamic scale to a device that skips steps by itself."""
        on_device = self.scaler.dynamic and self.optimizer.skips
        self.device_scale = precision.DeviceLossScale(self.scaler, self.device) if on_device else None

    def _reduces(self, last: bool) -> AbstractContextManager:
        """A context in which gradients are averaged over the processes only after the last batch of a step."""
        return nullcontext() if last or isinstance(self.losses, Losses) else self.losses.no_sync()

    def make_predictor(self, network: Network) -> Predictor:
        """A predictor with the configuration's mean, std and precision."""
        return Predictor(network, self.config.augment.mean, self.config.augment.std, self.config.precision)


class Losses(nn.Module):
    """Images and labels -> ``loss`` and its parts."""

    def __init__(self, network: Network, config: Config):
        super().__init__()
        self.network: Any = distributed.spread(network) if config.runtime.launcher == 'dp' else network
        if config.runtime.torch_compile:
            compile_cache.choose_folder()
            self.network = torch.compile(self.network, mode='reduce-overhead' if config.runtime.cuda_graphs else None)
        self.loss, self.align_corners = config.loss, network.align_corners
        self.mean, self.std = config.augment.mean, config.augment.std

    def outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The network's outputs for uint8 images."""
        return self.network(normalise(images, self.mean, self.std))

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        detail_kernel: Sequence[float],
        counted: Optional[torch.Tensor] = None,
        slopes: Optional[Mapping[str, torch.Tensor]] = None,
    ) -> dict[str, torch.Tensor]:
        """The losses (see ``segmentation_loss``), or with ``slopes``, by output, a ``loss`` that has these."""
        outputs = self.outputs(images)
        if slopes is None:
            return segmentation_loss(outputs, labels, self.loss, self.align_corners, detail_kernel, counted)
        return {'loss': reduce(add, ((outputs[name].float() * slope).sum() for name, slope in slopes.items()))}
