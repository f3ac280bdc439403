"""Twins trained side by side: the same network, weights and batches in PyTorch and in MindSpore (docs/design.md section 4).

They start from weights that PyTorch trained for a moment: from drawn ones small batches are so chaotic that PyTorch in
float32 leaves its own float64 course within three steps, and nothing could be compared.
"""

from functools import lru_cache

import numpy as np
import pytest

from twinseg.common import config
from twinseg.common.backend import available, get_backend

PARAMETERS = 1e-4  # relative L2 over all parameters and running statistics, after each of the first three steps
LOSS = 0.01  # relative, at every step
FIRST_RATE, FIRST_STEPS = 0.05, 60  # of the training before
RATE = 0.01
CLASSES = 11

STDC = {'aux16': 1.0, 'aux32': 1.0, 'detail': 1.0}
AUXILIARY = {'fast_scnn': {'aux_gfe': 0.4, 'aux_ltd': 0.4}, 'stdc1_seg': STDC, 'stdc2_seg': STDC}


@pytest.fixture(scope='module')
def backends():
    if len(available()) < 2:
        pytest.skip('needs both PyTorch and MindSpore')
    found = [get_backend(name) for name in available()]
    for backend in found:
        backend.setup('cpu', seed=0)
    return found


def batch(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight images (3, 64, 96) of noisy blocks, a colour for each class, and their labels, some ignored."""
    rng = np.random.default_rng((1, number))
    labels = rng.integers(0, CLASSES, (8, 4, 6)).repeat(16, 1).repeat(16, 2)
    colours = np.random.default_rng(2).integers(0, 256, (CLASSES, 3))
    images = np.clip(colours[labels].transpose(0, 3, 1, 2) + rng.normal(0, 20, (8, 3, 64, 96)), 0, 255)
    labels[rng.random(labels.shape) < 0.05] = 255
    return images.astype(np.uint8), labels.astype(np.uint8)


def make(backend, arch, level):
    settings = {'amp_level': level, 'auxiliary_weights': AUXILIARY[arch], 'weight_decay': 5e-4}
    return backend.make_trainer(backend.build_model(arch, num_classes=CLASSES, dropout=0.0), config.from_flat(settings))


@lru_cache
def checkpoint(arch):
    trainer = make(get_backend('pytorch'), arch, 'O0')
    for number in range(FIRST_STEPS):
        trainer.step([batch(1000 + number)], FIRST_RATE)
    return get_backend('pytorch').state(trainer.network)


def distance(trainers) -> float:
    """Relative L2 distance of all parameters and running statistics."""
    ours, theirs = (
        {name: value for name, value in trainer.state()[0].items() if name.startswith('model.')} for trainer in trainers
    )
    apart = sum(np.sum((theirs[name] - value) ** 2) for name, value in ours.items())
    return float(np.sqrt(apart / sum(np.sum(value**2) for value in ours.values())))


def train(backends, arch, level, steps):
    trainers = [make(backend, arch, level) for backend in backends]
    for backend, trainer in zip(backends, trainers):
        backend.load_state(trainer.network, checkpoint(arch))
    losses, distances = [], []
    for number in range(steps):
        losses.append([trainer.step([batch(number)], RATE)['loss'] for trainer in trainers])
        distances.append(distance(trainers))
    ours, theirs = np.transpose(losses)
    print(
        f'{arch} {level}: parameters {max(distances[:3]):.1e} apart after 3 steps, {distances[-1]:.1e} after {steps}; '
        f'loss {ours[0]:.4f} -> {ours[-1]:.4f}, at most {np.max(np.abs(theirs / ours - 1)):.1e} apart'
    )
    assert max(distances[:3]) <= PARAMETERS
    np.testing.assert_allclose(theirs, ours, rtol=LOSS)


def test_first_steps(backends):
    """In half precision; test_golden_steps.py takes steps in float32."""
    train(backends, 'fast_scnn', 'O2', 3)


@pytest.mark.slow
@pytest.mark.parametrize('level', ['O0', 'O2'])
@pytest.mark.parametrize('arch', AUXILIARY)
def test_twenty_steps(backends, arch, level):
    train(backends, arch, level, 20)
