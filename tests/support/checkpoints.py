"""Small checkpoints for tests: networks with weights, biases and running statistics that all matter."""

from pathlib import Path

import numpy as np

from twinseg.common import checkpoint
from twinseg.common.backend import get_backend
from twinseg.common.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE

CLASSES = 5
SIZE = (64, 96)


def random_state(backend, network) -> dict[str, np.ndarray]:
    """The network's weights with random norms and biases instead of the neutral ones that it starts with."""
    rng = np.random.default_rng(0)
    state = {}
    for name, array in backend.state(network).items():
        noise = rng.standard_normal(array.shape, np.float32)
        if name.endswith('running_var'):
            state[name] = 0.5 + np.abs(noise)
        else:
            state[name] = array + 0.3 * noise if array.ndim < 2 else array
    return state


def write(folder: Path, backend_name: str, arch: str, **keys) -> Path:
    """A checkpoint as training writes it, with CLASSES classes; of a classifier (``image_size``) without their names, as one of
    published weights."""
    backend = get_backend(backend_name)
    backend.setup('cpu', threads=1)
    network = backend.build_model(arch, num_classes=CLASSES, **keys.get('model_args', {}))
    tensors = {f'model.{name}': array for name, array in random_state(backend, network).items()}
    classifies = 'image_size' in keys
    meta = checkpoint.RunMeta(
        config={
            'arch': arch,
            'num_classes': CLASSES,
            **({} if classifies else {'crop_size': list(SIZE)}),
            'threads': 1,
            **keys,
        },
        backend=backend_name,
        step=7,
        num_classes=CLASSES,
        classes=[] if classifies else list(CITYSCAPES_CLASSES[:CLASSES]),
        palette=[list(colour) for colour in CITYSCAPES_PALETTE[:CLASSES]],
    )
    path = folder / f'{arch}_{backend_name}.safetensors'
    checkpoint.save(path, tensors, meta)
    return path
