"""Proof that the twins are twins: one set of weights in both backends, then logits, gradients and training steps compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

import numpy as np

from twinseg.common import checkpoint, facts, tasks
from twinseg.common.backend import Backend, Batch, Trainer, get_backend
from twinseg.common.config import Config, Data
from twinseg.common.data.base import IGNORE
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import UserError
from twinseg.common.images.interpolation import Size
from twinseg.common.inference.runs import network_arguments, num_classes
from twinseg.common.weights import load_pretrained
from twinseg.common.weights.by_name import find_weights

# Tolerances (docs/design.md, section 4), relative to the largest magnitude (logits, losses) or the L2 norm (gradients,
# parameters).
LOGITS = 1e-5
GRADIENT, GRADIENT_MEDIAN = 1e-3, 1e-5
PARAMETERS, FIRST_STEPS = 1e-4, 3
LOSS, DRIFT = 0.01, 2.0  # share of the loss, or multiple of PyTorch's drift between its precision and a higher one
PARAMETER_DRIFT = 3.0  # multiple of PyTorch's drift, to float64 and to itself from weights one rounding error apart
MAX_LEARNING_RATE = 0.01  # beyond it, from fresh weights, rounding alone drives two runs of one program apart


class Row(NamedTuple):
    """One comparison."""

    compared: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return bool(self.difference <= self.tolerance)

    def to_json(self) -> dict[str, Any]:
        """The fields and ``passed``; the difference is called ``found``."""
        return {'compared': self.compared, 'found': self.difference, 'tolerance': self.tolerance, 'passed': self.passed}


@dataclass(frozen=True)
class ParityResult:
    """Differences between the twins."""

    rows: list[Row]
    losses: dict[str, list[float]]  # losses of the steps, by backend (and precision)
    conditions: dict[str, Any]  # JSON-able

    @property
    def ok(self) -> bool:
        """True when all comparisons passed."""
        return all(row.passed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """``ok`` first."""
        rows = [row.to_json() for row in self.rows]
        return {'ok': self.ok, 'rows': rows, 'losses': self.losses, 'conditions': self.conditions}


def parity(
    config: Config,
    *,
    steps: int = 20,
    size: Size = (64, 96),
    weights: Optional[Path] = None,
    amp: Optional[str] = None,
    batch_size: int = 4,
) -> ParityResult:
    """Compares the PyTorch and the MindSpore network of a configuration on the CPU.

    Both start from ``weights`` (a checkpoint or published weights, a file or a name) or from the configuration's seed. Logits
    and gradients are float32 in evaluation mode; ``steps`` SGD steps at ``learning_rate`` follow (Adam's first steps turn the
    rounding of tiny gradients into whole steps), with the precision of the configuration or ``amp`` (O0 to O3), on street
    scenes drawn at ``size``, ``batch_size`` a step; for classifiers the labels are random. PyTorch's own drift is measured by
    the same steps in float64, or in float32 for half precision; that of the parameters, too, by its first steps from weights
    one rounding error apart. The twins may differ by PARAMETERS, or by PARAMETER_DRIFT times the larger of the two drifts.
    """
    config = (config if amp is None else _at(config, amp)).replace(optimizer='sgd')
    weights = weights and find_weights(weights)
    if isinstance(config.loss.class_weight, str):  # counted on data, which a comparison does not use
        config = config.replace(class_weight=None)
    backends = {name: get_backend(name) for name in ('pytorch', 'mindspore')}
    for backend in backends.values():
        backend.setup('cpu', seed=config.runtime.seed, threads=config.runtime.threads)
    arguments, state, classes = _start(config, weights, backends['pytorch'])

    def build(name: str, weights: Mapping[str, np.ndarray] = state) -> Any:
        network = backends[name].build_model(config.model.arch, seed=None, **arguments)
        backends[name].load_state(network, weights)
        return network

    batches = street_batches(steps, batch_size, size, classes)
    task, rng = tasks.of(config.task), np.random.default_rng(0)
    batches = [(images, task.labels_of_streets(rng, labels, classes)) for images, labels in batches]
    rows = _forward_and_backward(backends, {name: build(name) for name in backends}, batches[0], config)
    losses: dict[str, list[float]] = {}
    parameters = {}
    for name in backends:
        trainer = backends[name].make_trainer(build(name), config)
        losses[name], parameters[name] = _train(trainer, batches, learning_rate(config))
    level = config.precision.amp_level
    other, make_trainer = (
        ('pytorch in float64', backends['pytorch'].make_float64_trainer)
        if level == 'O0'
        else ('pytorch in float32', backends['pytorch'].make_trainer)
    )
    trainer = make_trainer(build('pytorch'), _at(config, 'O0'))
    losses[other], parameters[other] = _train(trainer, batches, learning_rate(config))
    trainer = backends['pytorch'].make_trainer(build('pytorch', one_rounding_error_apart(state)), config)
    _, parameters['pytorch, one rounding error apart'] = _train(trainer, batches[:FIRST_STEPS], learning_rate(config))
    rows += _training(losses, parameters)
    conditions = {
        'arch': config.model.arch,
        'weights': str(weights or f'seed {config.runtime.seed}'),
        'steps': steps,
        'size': list(size),
        'batch_size': batch_size,
        'amp_level': level,
        'learning_rate': learning_rate(config),
    }
    return ParityResult(rows, losses, conditions)


def one_rounding_error_apart(state: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights whose numbers are each the next float32 above or below, by chance; zeros stay."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, value in state.items():
        factor = rng.choice(np.array([1 - 2.0**-23, 1 + 2.0**-23], np.float32), value.shape)
        moved[name] = (value * factor).astype(np.float32)
    return moved


def _at(config: Config, level: str) -> Config:
    return config.model_copy(update={'precision': config.precision.model_copy(update={'amp_level': level})})


def street_batches(count: int, batch_size: int, size: Size, classes: int) -> list[Batch]:
    """Batches of street scenes: uint8 images (N, 3, H, W) and labels (N, H, W) below ``classes`` or 255."""
    dataset = open_dataset(Data(set='toy_street', image_size=list(size), train_samples=count * batch_size), 'train')
    samples = [dataset.read(index) for index in range(len(dataset))]
    images = np.stack([np.ascontiguousarray(image.transpose(2, 0, 1)) for image, _ in samples])
    labels = np.stack([np.where(label < classes, label, IGNORE).astype(np.uint8) for _, label in samples])
    return [(images[i : i + batch_size], labels[i : i + batch_size]) for i in range(0, len(images), batch_size)]


def _start(config: Config, weights: Optional[Path], backend: Backend) -> tuple[dict[str, Any], dict[str, np.ndarray], int]:
    """Arguments of the builder, the weights that both networks start from, and the number of classes."""
    classes = config.model.num_classes or (config.loss.class_weight and len(config.loss.class_weight))
    if weights is not None and weights.suffix == '.safetensors':
        state, meta = checkpoint.model_state(weights)
        facts.check(facts.of_checkpoint(meta, weights), facts.of_config(config))
        arguments = network_arguments(config, num_classes(config, meta.num_classes, str(weights)))
        network = backend.build_model(config.model.arch, seed=None, **arguments)
        backend.load_state(network, state)
    else:
        arguments = network_arguments(config, classes) if classes else config.model.arguments()
        network = backend.build_model(config.model.arch, seed=config.runtime.seed, **arguments)
        if weights is not None:
            load_pretrained(backend, network, config.model.arch, weights)
    logits = backend.forward(network, np.zeros((1, 3, 64, 64), np.float32))['logits']
    return arguments, backend.state(network), logits.shape[1]


def _forward_and_backward(
    backends: Mapping[str, Backend], networks: Mapping[str, Any], batch: Batch, config: Config
) -> list[Row]:
    images, labels = batch
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (config.augment.mean, config.augment.std))
    pixels = (images - mean) / std
    outputs = {name: backends[name].forward(networks[name], pixels, auxiliary=True) for name in backends}
    rows = [Row(key, _largest(outputs['pytorch'][key], outputs['mindspore'][key]), LOGITS) for key in outputs['pytorch']]
    gradients = {name: backends[name].loss_and_gradients(networks[name], pixels, labels, config.loss)[1] for name in backends}
    if set(gradients['pytorch']) != set(gradients['mindspore']):
        raise UserError(f'the networks have different parameters: {set(gradients["pytorch"]) ^ set(gradients["mindspore"])}')
    differences = [_l2(gradients['pytorch'][key], gradients['mindspore'][key]) for key in gradients['pytorch']]
    return rows + [
        Row('gradients, worst parameter', max(differences), GRADIENT),
        Row('gradients, median parameter', float(np.median(differences)), GRADIENT_MEDIAN),
    ]


def learning_rate(config: Config) -> float:
    """The configuration's, but at most MAX_LEARNING_RATE."""
    return min(config.optimizer.base_lr, MAX_LEARNING_RATE)


def _train(trainer: Trainer, batches: list[Batch], rate: float) -> tuple[list[float], np.ndarray]:
    """The losses of one step per batch, and all parameters after the first FIRST_STEPS, end to end.

    They are compared as one vector: a bias that the next batch norm takes away again holds nothing but rounding.
    """
    losses, parameters = [], np.empty(0)
    for step, batch in enumerate(batches, 1):
        losses.append(trainer.step([batch], rate)['loss'])
        if step == min(FIRST_STEPS, len(batches)):
            tensors, _ = trainer.state()
            parameters = np.concatenate(
                [
                    tensors[key].ravel()
                    for key in sorted(tensors)
                    if key.startswith('model.') and not key.endswith(('running_mean', 'running_var'))
                ]
            )
    return losses, parameters


def _training(losses: Mapping[str, list[float]], parameters: Mapping[str, np.ndarray]) -> list[Row]:
    ours, twin, other = (np.array(values) for values in losses.values())
    apart, drift = np.abs(ours - twin) / np.abs(ours), np.maximum.accumulate(np.abs(ours - other) / np.abs(ours))
    tolerance = np.maximum(LOSS, DRIFT * drift)
    worst = int(np.argmax(apart / tolerance))
    ours, twin, *others = parameters.values()
    drifted = max(_l2(ours, other) for other in others)
    return [
        Row(
            f'parameters after {min(FIRST_STEPS, len(apart))} steps',
            _l2(ours, twin),
            max(PARAMETERS, PARAMETER_DRIFT * drifted),
        ),
        Row(f'loss, worst of {len(apart)} steps (step {worst + 1})', float(apart[worst]), float(tolerance[worst])),
    ]


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, of the largest magnitude."""
    return float(np.abs(a - b).max() / np.abs(a).max())


def _l2(a: np.ndarray, b: np.ndarray) -> float:
    """Relative difference in the L2 norm; 0 where both are 0."""
    norm = float(np.linalg.norm(a))
    return float(np.linalg.norm(a - b)) / norm if norm else float(np.linalg.norm(b))
