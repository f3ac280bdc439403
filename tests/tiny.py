"""A network small enough to check a training step by hand, in both backends."""
import importlib
from typing import Any

import numpy as np

CLASSES = 5


def tiny_network(backend_name: str, dropout: float = 0.0) -> Any:
    """Convolution with batch norm and relu at half the size, dropout, classifier; the same initial weights in both backends."""
    layers = importlib.import_module(f'{backend_name}_impl.layers')

    class Tiny(layers.Network):
        def __init__(self):
            super().__init__({'logits': False})
            self.block = layers.ConvBN(3, 4, 3, 2)
            self.dropout = layers.Dropout2d(4, dropout)
            self.classifier = layers.Conv2d(4, CLASSES, 1, bias=True)

        def forward(self, x):
            return {'logits': self.classifier(self.dropout(self.block(x)))}

        def construct(self, x):
            return {'logits': self.classifier(self.dropout(self.block(x)))}

    network = Tiny()
    layers.initialise(network, 0)
    return network


def batch(seed: int, size: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, 3, 16, 24) and labels (N, 16, 24), some of them ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, (size, 16, 24), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    return rng.integers(0, 256, (size, 3, 16, 24), dtype=np.uint8), labels
