"""Speed and size of a network: latency and throughput of inference and of a training step, parameters, MACs, memory."""

import importlib
import time
from typing import Any, Callable, Optional

import numpy as np

from twinseg.common.backend import get_backend, used_arguments
from twinseg.common.config import Config
from twinseg.common.errors import UserError
from twinseg.common.inference.evaluate import network_arguments
from twinseg.common.measure.environment import machine, peak_memory, reset_peak_memory, versions

WARM_UP = 3  # runs that are not counted: compilation, caches, the allocator


def benchmark(
    config: Config,
    backend_name: str,
    device: Optional[str] = None,
    *,
    size: Optional[tuple[int, int]] = None,
    batch: int = 1,
    runs: int = 20,
    train: bool = True,
) -> dict[str, Any]:
    """Measures a configuration's network on random weights and images.

    ``size`` is (height, width), by default that of training; ``batch`` that of inference, training takes the configuration's.
    Inference goes from uint8 images in host memory to logits there, a training step from images and labels to the updated
    weights: transfers and normalisation are included. Times are seconds; ``memory`` is the peak, in MB, of the whole process.
    """
    if runs < 1 or batch < 1:
        raise UserError(f'runs and batch are at least 1; found {runs} and {batch}')
    if isinstance(config.loss.class_weight, str):  # to be counted on data; it takes no time
        config = config.replace(class_weight=None)
    backend = get_backend(backend_name)
    device = backend.setup(device or config.runtime.device_target, seed=config.runtime.seed, threads=config.runtime.threads)
    measure = measures(backend_name)
    height, width = size or config.input_size
    arguments = network_arguments(config, config.model.num_classes or (1000 if config.classifies else 19))
    rng = np.random.default_rng(0)

    def network(auxiliary: bool) -> Any:
        arch, chosen = config.model.arch, {**arguments, 'auxiliary': auxiliary}
        return backend.build_model(arch, **used_arguments(backend.MODELS, arch, chosen))

    inference = network(auxiliary=False)
    precision = config.precision
    result: dict[str, Any] = {
        'arch': config.model.arch,
        'input_size': [height, width],
        'backend': backend_name,
        'device': device,
        'amp_level': precision.amp_level,
        'dtype': 'float32' if precision.amp_level == 'O0' else precision.dtype,
        'parameters': measure.parameters(network(auxiliary=True)),
        'parameters_inference': measure.parameters(inference),
        'macs': measure.macs(inference, (height, width)),
        'machine': {**machine(), **measure.accelerator()},
        'versions': versions(),
    }

    predictor = backend.make_predictor(inference, config)
    images = rng.integers(0, 256, (batch, 3, height, width), np.uint8)
    result['inference'] = timing(lambda: predictor.logits(images), batch, runs)
    if train:
        batch = config.data.batch_size
        images = rng.integers(0, 256, (batch, 3, height, width), np.uint8)
        of = (batch,) if config.classifies else (batch, height, width)
        labels = rng.integers(0, arguments['num_classes'], of).astype(np.int64 if config.classifies else np.uint8)
        trainer = backend.make_trainer(network(auxiliary=True), config)
        result['training'] = timing(lambda: trainer.step([(images, labels)], config.optimizer.base_lr), batch, runs)
    return result


def measures(backend_name: str) -> Any:
    """The backend's module with ``parameters(network)``, ``macs(network, size)`` and ``accelerator()``."""
    return importlib.import_module(f'twinseg.{backend_name}_impl.benchmark')


def timing(run: Callable[[], Any], batch: int, runs: int) -> dict[str, float]:
    """Seconds of one run (median, 10th and 90th percentile, first run), images a second, and peak memory in MB."""
    reset_peak_memory()
    seconds = []
    for _ in range(WARM_UP + runs):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    low, median, high = np.percentile(seconds[WARM_UP:], (10, 50, 90))
    return {
        'batch': batch,
        'runs': runs,
        'median': float(median),
        'p10': float(low),
        'p90': float(high),
        'first': seconds[0],
        'images_per_second': batch / float(median),
        'memory': peak_memory(),
    }
