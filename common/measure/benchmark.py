"""Speed and size of a network: latency and throughput of inference and of a training step, parameters, MACs, memory."""

import time
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from twinseg.common import tasks
from twinseg.common.backend import Backend, get_backend, used_arguments
from twinseg.common.config import Config
from twinseg.common.errors import UserError
from twinseg.common.host.memory import peak_memory, reset_peak_memory
from twinseg.common.images.interpolation import Size
from twinseg.common.inference.runs import network_arguments
from twinseg.common.measure.environment import machine_of, versions

WARM_UP = 3  # runs that are not counted: compilation, caches, the allocator


class Timing(NamedTuple):
    """Times of one kind of run, in seconds."""

    batch: int
    runs: int
    median: float
    p10: float
    p90: float
    first: float
    images_per_second: float
    memory: float  # peak of the whole process, MB
    device_memory: Optional[float] = None  # peak of the tensors on the device, MB


@dataclass(frozen=True)
class BenchmarkResult:
    """Speed and size of a network, and the conditions of the measurement."""

    arch: str
    input_size: Size
    backend: str
    device: str
    amp_level: str
    dtype: str
    parameters: int
    parameters_inference: int
    macs: int
    machine: dict[str, str | int | None]
    versions: dict[str, str]
    inference: Timing
    training: Optional[Timing] = None

    def to_json(self) -> dict[str, Any]:
        """The fields; ``training`` only where it was measured."""
        values = {**vars(self), 'input_size': list(self.input_size), 'inference': self.inference._asdict()}
        training = values.pop('training')
        return values | ({'training': training._asdict()} if training else {})


def benchmark(
    config: Config,
    backend_name: str,
    device: Optional[str] = None,
    *,
    size: Optional[Size] = None,
    batch: int = 1,
    runs: int = 20,
    train: bool = True,
) -> BenchmarkResult:
    """Measures a configuration's network on random weights and images.

    ``size`` is by default that of evaluation; ``batch`` that of inference, training takes the configuration's.
    Inference goes from uint8 images in host memory to logits there, a training step from images and labels to the updated
    weights: transfers and normalisation are included.
    """
    if runs < 1 or batch < 1:
        raise UserError(f'runs and batch are at least 1; found {runs} and {batch}')
    if isinstance(config.loss.class_weight, str):  # counted on data; without effect on the speed
        config = config.replace(class_weight=None)
    backend, task = get_backend(backend_name), tasks.of(config.task)
    device = backend.setup(device or config.runtime.device_target, seed=config.runtime.seed, threads=config.runtime.threads)
    size = size or task.input_size(config)
    classes = config.model.num_classes or task.DEFAULT_CLASSES
    rng = np.random.default_rng(0)

    def network(auxiliary: bool) -> Any:
        arch, arguments = config.model.arch, {**network_arguments(config, classes), 'auxiliary': auxiliary}
        return backend.build_model(arch, **used_arguments(backend.MODELS, arch, arguments))

    inference = network(auxiliary=False)
    parameters, parameters_inference = backend.parameters(network(auxiliary=True)), backend.parameters(inference)
    macs = backend.macs(inference, size)
    predictor = backend.make_predictor(inference, config)
    images = rng.integers(0, 256, (batch, 3, *size), np.uint8)
    inference_timing, training_timing = timing(backend, lambda: predictor.logits(images), batch, runs), None
    if train:
        batch = config.data.batch_size
        images = rng.integers(0, 256, (batch, 3, *size), np.uint8)
        labels = task.random_labels(rng, batch, size, classes)
        trainer = backend.make_trainer(network(auxiliary=True), config)
        training_timing = timing(backend, lambda: trainer.step([(images, labels)], config.optimizer.base_lr), batch, runs)
    precision = config.precision
    return BenchmarkResult(
        arch=config.model.arch,
        input_size=size,
        backend=backend_name,
        device=device,
        amp_level=precision.amp_level,
        dtype=precision.dtype if precision.amp_level != 'O0' else 'float32, products in tf32' if precision.tf32 else 'float32',
        parameters=parameters,
        parameters_inference=parameters_inference,
        macs=macs,
        machine=machine_of(backend),
        versions=versions(),
        inference=inference_timing,
        training=training_timing,
    )


def timing(backend: Backend, run: Callable[[], Any], batch: int, runs: int) -> Timing:
    """Seconds of one run (median, 10th and 90th percentile, first run), images a second, and peak memory in MB. The device is
    waited for before either reading of the clock."""
    reset_peak_memory()
    backend.reset_device_memory()
    seconds = []
    for _ in range(WARM_UP + runs):
        backend.synchronise()
        began = time.perf_counter()
        run()
        backend.synchronise()
        seconds.append(time.perf_counter() - began)
    low, median, high = np.percentile(seconds[WARM_UP:], (10, 50, 90))
    return Timing(
        batch=batch,
        runs=runs,
        median=float(median),
        p10=float(low),
        p90=float(high),
        first=seconds[0],
        images_per_second=batch / float(median),
        memory=peak_memory(),
        device_memory=backend.device_memory(),
    )
