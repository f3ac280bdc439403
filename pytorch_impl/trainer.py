"""One training step: forward, loss, scaled backward, clip, optimizer, moving averages."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Sequence

import torch
from torch import nn

from twinseg.common.backend import Batch
from twinseg.common.config import DETAIL_KERNEL, Config
from twinseg.common.schedules import average_decay
from twinseg.common.training.state import StatefulTrainer
from twinseg.pytorch_impl import compile_cache, distributed, optim, precision, state
from twinseg.pytorch_impl.layers import normalise
from twinseg.pytorch_impl.losses import segmentation_loss
from twinseg.pytorch_impl.network import Network, draw_dropout, synchronise
from twinseg.pytorch_impl.predictor import Predictor


class Trainer(StatefulTrainer):
    """Trains a network step by step (see ``common.backend.Trainer``)."""

    optimizer: optim.Optimizer
    average: optim.Average | None
    network_state = staticmethod(state.state)
    load_network_state = staticmethod(state.load_state)

    def __init__(self, network: Network, config: Config):
        settings = config.precision
        self.device = next(network.parameters()).device
        precision.apply(network, settings.amp_level, settings.dtype, settings.keep_bn_fp32)
        precision.allow_tf32(settings.tf32)
        synchronise(network, config.runtime.sync_bn)
        average = optim.Average(network) if config.optimizer.with_ema else None
        super().__init__(network, config, optim.Optimizer(network, config.optimizer), average)
        without_loss = set(network.align_corners) - {*config.loss.weights}
        self.losses: Any = distributed.parallel(Losses(network, config), unused=bool(without_loss))

    def step(
        self, batches: list[Batch], learning_rate: float, detail_kernel: Sequence[float] = DETAIL_KERNEL
    ) -> dict[str, float]:
        """One optimizer step over ``batches`` of uint8 images (N, 3, H, W) and labels (N, H, W), (N,) or (N, K) float32.

        A step whose gradients are not finite is skipped: parameters, optimizer and averages stay as they are. Batch norm
        has seen the images by then, so its running statistics move.
        """
        self.network.train()
        self.optimizer.zero_grad()
        scale = self.scaler.scale
        parts: dict[str, float] = {}
        for index, (images, labels) in enumerate(batches):
            draw_dropout(self.network, len(images), (self.config.runtime.seed, self.steps, index))
            with self._reduces(last=index == len(batches) - 1):
                inputs = (torch.from_numpy(part).to(self.device) for part in (images, labels))
                losses = self.losses(*inputs, detail_kernel)
                (losses['loss'] * (scale / len(batches))).backward()
            for key, value in zip(losses, distributed.mean(torch.stack(list(losses.values()))).tolist()):
                parts[key] = parts.get(key, 0.0) + value / len(batches)
        gradients = self.optimizer.gradients()
        torch._foreach_mul_(gradients, 1 / scale)
        norm = optim.global_norm(gradients)
        finite = bool(norm.isfinite())
        if finite:
            if self.config.optimizer.clip_global_norm:
                optim.clip_by_global_norm(gradients, norm, self.config.optimizer.clip_global_norm_value)
            self.optimizer.step(learning_rate)
            if self.average is not None:
                self.average.update(average_decay(self.config.optimizer.ema_decay, self.optimizer.steps))
        self.scaler.update(finite)
        self.steps += 1
        return {**parts, 'loss_scale': scale, 'overflow': float(not finite), 'grad_norm': norm.item()}

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
            self.network = torch.compile(self.network)
        self.loss, self.align_corners = config.loss, network.align_corners
        self.mean, self.std = config.augment.mean, config.augment.std

    def forward(self, images: torch.Tensor, labels: torch.Tensor, detail_kernel: Sequence[float]) -> dict[str, torch.Tensor]:
        outputs = self.network(normalise(images, self.mean, self.std))
        return segmentation_loss(outputs, labels, self.loss, self.align_corners, detail_kernel)
