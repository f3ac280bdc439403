"""One training step: forward, loss, scaled backward, clip, optimizer, moving averages, as one graph."""

from contextlib import contextmanager
from typing import Iterator, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from twinseg.common.backend import Batch, StepFigures
from twinseg.common.config import DETAIL_KERNEL, Config
from twinseg.common.errors import ONE_VALUE, BatchError
from twinseg.common.schedules import average_decay
from twinseg.common.training.state import StatefulTrainer
from twinseg.mindspore_impl import distributed, optim, precision, state
from twinseg.mindspore_impl.compile_cache import Graph
from twinseg.mindspore_impl.layers import normalise
from twinseg.mindspore_impl.losses import constants, segmentation_loss
from twinseg.mindspore_impl.network import Network, draw_dropout, synchronise_norms
from twinseg.mindspore_impl.predictor import Predictor


@contextmanager
def batch_is_checked() -> Iterator[None]:
    """BatchError where compiling finds a norm over one value; graph mode raises built-in errors only, with its own stack."""
    try:
        yield
    except ValueError as error:
        if ONE_VALUE in str(error):
            raise BatchError(ONE_VALUE) from None
        raise


class Trainer(StatefulTrainer):
    """Trains a network step by step (see ``common.backend.Trainer``)."""

    optimizer: optim.Optimizer
    average: optim.Average | None
    network_state = staticmethod(state.state)
    load_network_state = staticmethod(state.load_state)

    def __init__(self, network: Network, config: Config):
        settings = config.precision
        precision.apply(network, settings.amp_level, settings.dtype, settings.keep_bn_fp32)
        precision.allow_tf32(settings.tf32)
        synchronise_norms(network, config.runtime.sync_bn)
        average = optim.Average(network) if config.optimizer.with_ema else None
        super().__init__(network, config, optim.Optimizer(network, config.optimizer), average)
        # Where a step gets numbers that count the steps taken, the host has to know whether the last one was
        self.needs_outcome = (
            ms.get_context('device_target') == 'CPU'
            or self.scaler.dynamic
            or average is not None
            or config.optimizer.optimizer in ('adam', 'adamw', 'lamb')
        )
        self.gradients = Gradients(network, self.optimizer, config)
        self.accumulation = Accumulation(self.gradients, self.optimizer) if config.optimizer.accumulation_step > 1 else None
        self.train_step = TrainStep(self.gradients, self.optimizer, self.average, self.accumulation, config)

    def step(self, batches: list[Batch], learning_rate: float, detail_kernel: Sequence[float] = DETAIL_KERNEL) -> StepFigures:
        """One optimizer step over ``batches`` of uint8 images (N, 3, H, W) and labels (N, H, W), (N,) or (N, K) float32.

        A step whose gradients are not finite is skipped: parameters, optimizer and averages stay as they are. Batch norm
        has seen the images by then, so its running statistics move. A device whose next step does not depend on that is not
        waited for.
        """
        self.network.set_train(True)
        scale = self.scaler.scale
        decay = average_decay(self.config.optimizer.ema_decay, self.optimizer.steps + 1)
        factor, inverse = Tensor(scale / len(batches), ms.float32), Tensor(1 / scale, ms.float32)
        kernel, values = Tensor(detail_kernel, ms.float32), []
        for index, (images, labels) in enumerate(batches):
            draw_dropout(self.network, len(images), (self.config.runtime.seed, self.steps, index))
            arguments = Tensor(images), Tensor(labels), factor, kernel
            with batch_is_checked():
                if self.accumulation is not None and index < len(batches) - 1:
                    values.append(self.accumulation(*arguments))
                else:
                    last, norm = self.train_step(
                        *arguments, inverse, self.optimizer.rates(learning_rate), Tensor([decay, 1 - decay], ms.float32)
                    )
                    values.append(last)
        given = self.figures_of((values, norm))
        if self.needs_outcome:
            self.settle()
        return given

    def read(self, steps: Sequence[tuple[list[Tensor], Tensor]]) -> Iterator[tuple[dict[str, float], float]]:
        """The losses and the gradient norm of steps (see ``StatefulTrainer``)."""
        for values, norm in steps:
            means = np.mean([value.asnumpy() for value in values], axis=0, dtype=np.float64)
            yield dict(zip(self.gradients.names, map(float, means))), float(norm.asnumpy())

    def overflows(self) -> bool:
        """Whether numbers of the half precision become infinite on the device: it says so, and float16 is tried."""
        if precision.saturates(ms.get_context('device_target')):
            return False
        largest = Tensor([np.finfo(np.float16).max], ms.float16)
        return self.config.precision.dtype != 'float16' or bool(np.isinf((largest * 2).asnumpy()).all())

    def make_predictor(self, network: Network) -> Predictor:
        """A predictor with the configuration's mean, std and precision."""
        return Predictor(network, self.config.augment.mean, self.config.augment.std, self.config.precision)


class Gradients(nn.Cell):
    """Images and labels -> the losses, in the order of ``names``, and the gradients of the scaled loss."""

    def __init__(self, network: Network, optimizer: optim.Optimizer, config: Config):
        super().__init__(auto_prefix=False)
        self.network, self.align_corners = network, network.align_corners
        self.loss = constants(config.loss, network.align_corners)
        self.mean, self.std = config.augment.mean, config.augment.std
        self.names = ('loss', *(f'loss_{name}' for name in config.loss.weights))
        self.gradient = ms.value_and_grad(self.forward, None, optimizer.parameters, has_aux=True)

    def forward(self, images: Tensor, labels: Tensor, factor: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.network(normalise(images, self.mean, self.std))
        parts = segmentation_loss(outputs, labels, self.loss, self.align_corners, kernel)
        values = []
        for name in self.names:
            values.append(parts[name])
        return parts['loss'] * factor, distributed.mean(ops.stack(values))

    def construct(self, images: Tensor, labels: Tensor, factor: Tensor, kernel: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        (_, values), gradients = self.gradient(images, labels, factor, kernel)
        return values, gradients


class Accumulation(Graph):
    """Adds the gradients of a batch to ``sums``."""

    def __init__(self, gradients: Gradients, optimizer: optim.Optimizer):
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sums = optimizer.parameters.clone(prefix='sum', init='zeros')

    def construct(self, images: Tensor, labels: Tensor, factor: Tensor, kernel: Tensor) -> Tensor:
        values, gradients = self.gradients(images, labels, factor, kernel)
        optim.hyper_map(ops.assign_add, self.sums, gradients)
        return values

    def take(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The sums with the last gradients; the sums start again from zero."""
        totals = optim.hyper_map(ops.add, self.sums, gradients)
        optim.hyper_map(_clear, self.sums)
        return totals


def _clear(value):
    return ops.assign(value, ops.zeros_like(value))


class TrainStep(Graph):
    """The last batch of a step and what follows from it; returns the losses and the global norm of the gradients."""

    def __init__(
        self,
        gradients: Gradients,
        optimizer: optim.Optimizer,
        average: optim.Average | None,
        accumulation: Accumulation | None,
        config: Config,
    ):
        super().__init__(auto_prefix=False)
        self.gradients, self.optimizer, self.average, self.accumulation = gradients, optimizer, average, accumulation
        self.limit = config.optimizer.clip_global_norm_value if config.optimizer.clip_global_norm else None
        self.reducer = distributed.reducer(optimizer.parameters)

    def construct(
        self, images: Tensor, labels: Tensor, factor: Tensor, kernel: Tensor, inverse: Tensor, rates: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        values, scaled = self.gradients(images, labels, factor, kernel)
        if self.accumulation is not None:
            scaled = self.accumulation.take(scaled)
        if self.reducer is not None:
            scaled = self.reducer(scaled)
        gradients = optim.scale(scaled, inverse)
        norm = optim.global_norm(gradients)
        if ops.isfinite(norm):
            if self.limit is not None:
                gradients = optim.clip_by_global_norm(gradients, norm, self.limit)
            self.optimizer(gradients, rates)
            if self.average is not None:
                self.average(shares)
        return values, norm
