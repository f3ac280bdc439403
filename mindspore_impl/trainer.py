"""One training step: forward, loss, scaled backward, clip, optimizer, moving averages, as one graph."""

import math
from contextlib import contextmanager
from typing import Iterator, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from twinseg.common.backend import Batch, StepFigures
from twinseg.common.checkpoint import TrainerState
from twinseg.common.config import Config, Optimizer
from twinseg.common.errors import ONE_VALUE, BatchError
from twinseg.common.schedules import average_decay
from twinseg.common.settings.groups.loss import DETAIL_KERNEL
from twinseg.common.training.accumulation import mean_count
from twinseg.common.training.loss_checks import divides_by_count, needs_whole_batch
from twinseg.common.training.loss_scaling import LossScaler
from twinseg.common.training.state import StatefulTrainer
from twinseg.mindspore_impl import distributed, optim, precision, state
from twinseg.mindspore_impl.compile_cache import Graph
from twinseg.mindspore_impl.layers import normalise
from twinseg.mindspore_impl.layers.functional import _on_cpu
from twinseg.mindspore_impl.losses import constants, segmentation_loss
from twinseg.mindspore_impl.network import Network, average_statistics, draw_dropout, freeze, synchronise_norms
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
        freeze(network, config.optimizer.freeze)
        average = optim.Average(network) if config.optimizer.with_ema else None
        super().__init__(network, config, optim.Optimizer(network, config.optimizer), average)
        self.on_device = None if _on_cpu() else NumbersOnDevice(self.scaler, config)
        accumulates = config.optimizer.accumulation_step > 1
        self.whole_batch = WholeBatch(network, config) if accumulates and needs_whole_batch(config.loss) else None
        self.gradients = Gradients(network, self.optimizer, config, by_slopes=self.whole_batch is not None)
        self.accumulation = Accumulation(self.gradients, self.optimizer) if accumulates else None
        self.train_step = TrainStep(self.gradients, self.optimizer, self.average, self.accumulation, config)

    def step(self, batches: list[Batch], learning_rate: float, detail_kernel: Sequence[float] = DETAIL_KERNEL) -> StepFigures:
        """One optimizer step over ``batches`` of uint8 images (N, 3, H, W) and labels (N, H, W), (N,) or (N, K) float32.

        A step whose gradients are not finite is skipped: parameters, optimizer and averages stay as they are. Batch norm
        has seen the images by then, so its running statistics move. A device is not waited for: it knows what that changes.
        """
        self.network.set_train(True)
        kernel, values = Tensor(detail_kernel, ms.float32), []
        if self.whole_batch is None:
            counted, parts = self._counted(batches), len(batches)
        else:
            whole, slopes = self._losses_and_slopes(batches, kernel)
            parts = 1
        factor, inverse, rates, shares = (self.on_device or self._numbers)(learning_rate, parts)
        for index, (images, labels) in enumerate(batches):
            self._draw_dropout(images, index)
            arguments = Tensor(images), Tensor(labels), factor, kernel
            extra = counted if self.whole_batch is None else slopes[index]
            with batch_is_checked():
                if self.accumulation is not None and index < len(batches) - 1:
                    values.append(self.accumulation(*arguments, *extra))
                else:
                    last, norm = self.train_step(*arguments, inverse, rates, shares, *extra)
                    values.append(last)
        if self.whole_batch is not None:
            values = [whole]
        given = self.figures_of((values, norm))
        if self.on_device is None:
            self.settle()
        else:
            self.on_device.count(norm)
        return given

    def _numbers(self, learning_rate: float, parts: int) -> tuple[Tensor, ...]:
        """The factor of a batch's loss, the inverse of the loss scale, the optimizer's rates and the average's shares."""
        scale, decay = self.scaler.scale, average_decay(self.config.optimizer.ema_decay, self.optimizer.steps + 1)
        factor, inverse = Tensor(scale / parts, ms.float32), Tensor(1 / scale, ms.float32)
        return factor, inverse, self.optimizer.rates(learning_rate), Tensor([decay, 1 - decay], ms.float32)

    def load_state(self, tensors: Mapping[str, np.ndarray], meta: TrainerState) -> None:
        """Takes back what ``state`` of either backend gave; StateError when it belongs to another network or optimizer."""
        super().load_state(tensors, meta)
        if self.on_device is not None:
            self.on_device.start(self.scaler, self.optimizer.steps)

    def _counted(self, batches: list[Batch]) -> list[Tensor]:
        """What the losses of several batches divide by; nothing of one."""
        loss = self.config.loss
        if self.accumulation is None or batches[0][1].ndim < 3 or not divides_by_count(loss):
            return []
        assert not isinstance(loss.class_weight, str)  # counted before the training begins
        return [Tensor(mean_count(batches, loss.class_weight))]

    def _losses_and_slopes(self, batches: list[Batch], kernel: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """The losses of several batches as one, and the slopes of the loss by the outputs of each batch, which are small.

        The outputs come from a forward pass for them alone, after which norms are as before.
        """
        assert self.whole_batch is not None
        norms = {name: value for name, value in state.tensors(self.network).items() if 'running_' in name}
        before, parts = {name: value.asnumpy().copy() for name, value in norms.items()}, []
        for index, (images, _) in enumerate(batches):
            self._draw_dropout(images, index)
            with batch_is_checked():
                parts.append(self.whole_batch.outputs(Tensor(images)))
        for name, value in before.items():
            state.assign(norms[name], value)
        outputs = [ops.cat(parts_of_one) for parts_of_one in zip(*parts)]
        values, slopes = self.whole_batch(Tensor(np.concatenate([labels for _, labels in batches])), kernel, *outputs)
        sizes = [len(images) for images, _ in batches]
        return values, list(zip(*(ops.split(slope, sizes) for slope in slopes)))

    def _draw_dropout(self, images: np.ndarray, index: int) -> None:
        """The masks of a batch of the step."""
        draw_dropout(self.network, len(images), (self.config.runtime.seed, self.steps, index))

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
    """Images and labels -> the losses, in the order of ``names``, and the gradients of the scaled loss.

    ``given``: what ``count_pixels`` counts, as a mean over the batches of a step; with ``by_slopes`` the slopes of the loss by
    the outputs, in the order of the loss's weights. The losses are of no use then.
    """

    def __init__(self, network: Network, optimizer: optim.Optimizer, config: Config, by_slopes: bool):
        super().__init__(auto_prefix=False)
        self.network, self.align_corners, self.by_slopes = network, network.align_corners, by_slopes
        self.loss = constants(config.loss, network.align_corners)
        self.mean, self.std = config.augment.mean, config.augment.std
        self.outputs, self.names = tuple(config.loss.weights), names_of(config)
        self.gradient = ms.value_and_grad(self.forward, None, optimizer.parameters, has_aux=True)

    def forward(self, images: Tensor, labels: Tensor, factor: Tensor, kernel: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.network(normalise(images, self.mean, self.std))
        if self.by_slopes:
            total = Tensor(0, ms.float32)
            for index, name in enumerate(self.outputs):
                total = total + (ops.cast(outputs[name], ms.float32) * given[index]).sum()
            return total * factor, total
        counted = given[0] if len(given) else None
        parts = segmentation_loss(outputs, labels, self.loss, self.align_corners, kernel, counted)
        values = []
        for name in self.names:
            values.append(parts[name])
        return parts['loss'] * factor, distributed.mean(ops.stack(values))

    def construct(
        self, images: Tensor, labels: Tensor, factor: Tensor, kernel: Tensor, *given: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (_, values), gradients = self.gradient(images, labels, factor, kernel, *given)
        return values, gradients


def names_of(config: Config) -> tuple[str, ...]:
    """Names of the losses, in order."""
    return ('loss', *(f'loss_{name}' for name in config.loss.weights))


class WholeBatch(Graph):
    """Labels and outputs of all batches of a step -> the losses, in the order of ``names``, and their slopes by the outputs."""

    def __init__(self, network: Network, config: Config):
        super().__init__(auto_prefix=False)
        self.outputs = Outputs(network, config)
        self.align_corners, self.loss = network.align_corners, constants(config.loss, network.align_corners)
        self.heads, self.names = tuple(config.loss.weights), names_of(config)
        self.gradient = ms.value_and_grad(self.forward, tuple(range(2, 2 + len(self.heads))), has_aux=True)

    def forward(self, labels: Tensor, kernel: Tensor, *outputs: Tensor) -> tuple[Tensor, Tensor]:
        by_name = {}
        for index, name in enumerate(self.heads):
            by_name[name] = outputs[index]
        parts = segmentation_loss(by_name, labels, self.loss, self.align_corners, kernel)
        values = []
        for name in self.names:
            values.append(parts[name])
        return parts['loss'], distributed.mean(ops.stack(values))

    def construct(self, labels: Tensor, kernel: Tensor, *outputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        (_, values), slopes = self.gradient(labels, kernel, *outputs)
        return values, slopes if len(self.heads) > 1 else (slopes,)  # MindSpore gives no tuple for a single position


class Outputs(Graph):
    """Images -> the outputs that have a loss, float32, as constants."""

    def __init__(self, network: Network, config: Config):
        super().__init__(auto_prefix=False)
        self.network, self.heads = network, tuple(config.loss.weights)
        self.mean, self.std = config.augment.mean, config.augment.std

    def construct(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs, chosen = self.network(normalise(images, self.mean, self.std)), []
        for name in self.heads:
            chosen.append(ops.stop_gradient(ops.cast(outputs[name], ms.float32)))
        return tuple(chosen)


class Accumulation(Graph):
    """Adds the gradients of a batch to ``sums``."""

    def __init__(self, gradients: Gradients, optimizer: optim.Optimizer):
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sums = optimizer.parameters.clone(prefix='sum', init='zeros')

    def construct(self, images: Tensor, labels: Tensor, factor: Tensor, kernel: Tensor, *given: Tensor) -> Tensor:
        values, gradients = self.gradients(images, labels, factor, kernel, *given)
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
        self.average_statistics = average_statistics(gradients.network)

    def construct(
        self,
        images: Tensor,
        labels: Tensor,
        factor: Tensor,
        kernel: Tensor,
        inverse: Tensor,
        rates: Tensor,
        shares: Tensor,
        *given: Tensor,
    ) -> tuple[Tensor, Tensor]:
        values, scaled = self.gradients(images, labels, factor, kernel, *given)
        if self.average_statistics is not None:
            self.average_statistics()
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


class NumbersOnDevice:
    """What ``Trainer._numbers`` gives, where nobody waits to hear how the steps before ended: its rules on the device."""

    def __init__(self, scaler: LossScaler, config: Config):
        self.numbers, self.outcome = Numbers(config.optimizer), Outcome(scaler)
        self.start(scaler, 0)

    def start(self, scaler: LossScaler, steps: int) -> None:
        """Goes on from what the host knows: the loss scale, and how many steps were taken."""
        self.counts = Tensor([scaler.scale, scaler.good_steps, steps], ms.float32)

    def __call__(self, learning_rate: float, parts: int) -> tuple[Tensor, ...]:
        numbers: tuple[Tensor, ...] = self.numbers(self.counts, Tensor([learning_rate, parts], ms.float32))
        return numbers

    def count(self, norm: Tensor) -> None:
        """Counts a step whose gradients have this norm."""
        self.counts = self.outcome(self.counts, norm)


class Numbers(nn.Cell):
    """``counts`` of the steps before, learning rate and number of batches -> the numbers of a step."""

    def __init__(self, settings: Optimizer):
        super().__init__(auto_prefix=False)
        self.logarithms = tuple(math.log(beta) if beta else -math.inf for beta in settings.beta)
        self.eps, self.limit, self.rest = settings.eps, settings.ema_decay, 1 - settings.ema_decay

    def construct(self, counts: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale, step = counts[0], counts[2] + 1
        first, second = _without_exp(step * self.logarithms[0]), _without_exp(step * self.logarithms[1])
        correction = ops.sqrt(second)
        rates = ops.stack([given[0], correction / first, self.eps * correction])
        shares = ops.stack([ops.minimum((1 + step) / (10 + step), self.limit), ops.maximum(9 / (10 + step), self.rest)])
        return scale / given[1], 1 / scale, rates, shares


def _without_exp(x):
    """1 - exp(x) of x <= 0 to the last digits of float32; ``ops.expm1`` (2.10, CPU) subtracts and loses those of small ones."""
    series = 1.0
    for number in range(9, 1, -1):
        series = 1 + x / number * series
    return ops.where(x > -0.5, -x * series, 1 - ops.exp(x))


class Outcome(nn.Cell):
    """The loss scale, the good steps in a row and the steps taken, by the rule of ``LossScaler``, after a step with a norm."""

    def __init__(self, scaler: LossScaler):
        super().__init__(auto_prefix=False)
        self.dynamic, self.window = scaler.dynamic, scaler.window

    def construct(self, counts: Tensor, norm: Tensor) -> Tensor:
        scale, good_steps, finite = counts[0], counts[1], ops.isfinite(norm)
        if self.dynamic:
            good_steps = ops.where(finite, good_steps + 1, 0.0)
            full = good_steps >= self.window
            scale = ops.where(finite, ops.where(full, scale * 2, scale), ops.maximum(scale / 2, 1.0))
            good_steps = ops.where(full, 0.0, good_steps)
        return ops.stack([scale, good_steps, counts[2] + ops.cast(finite, ms.float32)])
