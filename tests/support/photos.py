"""A small image folder, drawn with numpy: three classes that a network can tell apart."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ['blue', 'green', 'red']


def make(folder: Path, train: int = 8, val: int = 5, size: tuple[int, int] = (40, 48)) -> Path:
    """``{train,val}/<class>/*.png``: noise around the class's colour, as many images a class."""
    for split, count, first in (('train', train, 0), ('val', val, 1000)):
        for number, name in enumerate(CLASSES):
            for index in range(count):
                rng = np.random.default_rng(first + 100 * number + index)
                pixels = rng.normal(90, 30, (*size, 3))
                pixels[..., 2 - number] += 70
                path = folder / split / name / f'{index:03d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return folder


def settings(folder: Path, **changes) -> dict:
    """Flat keys of a small training of ResNet-18 on the folder."""
    keys = {
        'arch': 'resnet18',
        'set': 'image_folder',
        'data_url': str(folder),
        'image_size': 32,
        'batch_size': 4,
        'eval_batch_size': 4,
        'num_parallel_workers': 0,
        'optimizer': 'momentum',
        'base_lr': 0.02,
        'lr_batch_size': 0,
        'lr_scheduler': 'constant_lr',
        'max_iters': 6,
        'log_interval': 1,
        'threads': 1,
    }
    return {**keys, **changes}
