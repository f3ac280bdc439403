"""A small data set in the custom layout, drawn with numpy: three classes that a network can tell apart."""

from pathlib import Path

import cv2
import numpy as np

CLASSES = ['road', 'building', 'sky']
COLOURS = np.array([[90, 60, 100], [150, 110, 70], [120, 160, 220]])


def make(folder: Path, count: int = 8, size: tuple[int, int] = (64, 96)) -> Path:
    """``images/{train,val}/*.png`` and ``labels/{train,val}/*.png``: sky over buildings over road, with ignored spots."""
    for split, first in (('train', 0), ('val', 1000)):
        for index in range(count):
            rng = np.random.default_rng(first + index)
            horizon = int(rng.integers(size[0] // 2, size[0] * 3 // 4))
            label = np.zeros(size, np.uint8)
            label[:horizon] = 2
            for left in range(0, size[1], 16):
                label[int(rng.integers(4, horizon)) : horizon, left : left + 16] = 1
            image = np.clip(COLOURS[label] + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)
            label[rng.random(size) < 0.02] = 255
            for kind, pixels in (('images', image[..., ::-1]), ('labels', label)):
                path = folder / kind / split / f'{index:03d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    return folder


def settings(folder: Path, **changes) -> dict:
    """Flat keys of a small training of Fast-SCNN on the folder."""
    keys = {
        'arch': 'fast_scnn',
        'set': 'custom',
        'data_url': str(folder),
        'image_dir': 'images/{split}',
        'label_dir': 'labels/{split}',
        'image_suffix': '.png',
        'classes': CLASSES,
        'palette': COLOURS.tolist(),
        'batch_size': 4,
        'num_parallel_workers': 0,
        'crop_size': [64, 96],
        'optimizer': 'sgd',
        'base_lr': 0.05,
        'use_nesterov': True,
        'model_args': {'bn_momentum': 0.3},
        'max_iters': 6,
        'log_interval': 1,
        'val_interval': 6,
        'checkpoint_interval': 2,
        'auxiliary_weights': {'aux_gfe': 0.4},
        'threads': 1,
    }
    return {**keys, **changes}
