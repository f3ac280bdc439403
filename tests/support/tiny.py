"""A network small enough to check a training step by hand, in both backends."""

import importlib
from typing import Any

import numpy as np

CLASSES = 5


def parts(backend_name: str) -> tuple[Any, Any]:
    """The modules ``layers`` and ``network`` of a backend."""
    side = f'twinseg.{backend_name}_impl'
    return importlib.import_module(f'{side}.layers'), importlib.import_module(f'{side}.network')


def tiny_network(backend_name: str, dropout: float = 0.0, classes: int = CLASSES) -> Any:
    """Convolution with batch norm and relu at half the size, dropout, classifier; the same initial weights in both backends."""
    layers, network_module = parts(backend_name)

    class Tiny(network_module.Network):
        def __init__(self):
            super().__init__({'logits': False})
            self.block = layers.ConvBN(3, 4, 3, 2)
            self.dropout = layers.Dropout2d(4, dropout)
            self.classifier = layers.Conv2d(4, classes, 1, bias=True)

        def forward(self, x):
            return {'logits': self.classifier(self.dropout(self.block(x)))}

        def construct(self, x):
            return {'logits': self.classifier(self.dropout(self.block(x)))}

    network = Tiny()
    network_module.initialise(network, 0)
    return network


def tiny_with_detail(backend_name: str, classes: int = CLASSES) -> Any:
    """Convolution with batch norm and relu at half the size, a classifier and a convolution for STDC's detail loss."""
    layers, network_module = parts(backend_name)

    class Tiny(network_module.Network):
        def __init__(self):
            super().__init__({'logits': False, 'detail': True})
            self.block = layers.ConvBN(3, 4, 3, 2)
            self.classifier = layers.Conv2d(4, classes, 1, bias=True)
            self.detail = layers.Conv2d(4, 1, 1)

        def forward(self, x):
            x = self.block(x)
            return {'logits': self.classifier(x), 'detail': self.detail(x)}

        def construct(self, x):
            x = self.block(x)
            return {'logits': self.classifier(x), 'detail': self.detail(x)}

    network = Tiny()
    network_module.initialise(network, 0)
    return network


def tiny_classifier(backend_name: str, drop_path: float = 0.0, drop_path_on: str = 'branch') -> Any:
    """Convolution at half the size, one block with a shortcut, mean, classifier; the same weights in both backends."""
    layers, network_module = parts(backend_name)

    class Tiny(network_module.Network):
        def __init__(self):
            super().__init__({})
            self.stem = layers.ConvBN(3, 4, 3, 2)
            self.block = layers.ConvBN(4, 4, 3)
            self.drop_path = layers.DropPath(drop_path, drop_path_on) if drop_path else None
            self.linear = layers.Linear(4, CLASSES, init='uniform_fan_in')

        def forward(self, x):
            x = self.stem(x)
            x = self.block(x) + x if self.drop_path is None else self.drop_path(self.block(x), x)
            return {'logits': self.linear(layers.flatten(layers.global_avg_pool(x)))}

        def construct(self, x):
            x = self.stem(x)
            x = self.block(x) + x if self.drop_path is None else self.drop_path(self.block(x), x)
            return {'logits': self.linear(layers.flatten(layers.global_avg_pool(x)))}

    network = Tiny()
    network_module.initialise(network, 0)
    return network


def mixed_batch(seed: int, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, 3, 16, 24) and soft targets (N, CLASSES)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 3, 16, 24), dtype=np.uint8)
    return images, rng.dirichlet(np.ones(CLASSES), size).astype(np.float32)


def batch(seed: int, size: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, 3, 16, 24) and labels (N, 16, 24), some of them ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (size, 16, 24), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    return rng.integers(0, 256, (size, 3, 16, 24), dtype=np.uint8), labels
