"""Initial weights, drawn with numpy: both backends start from the same numbers."""
import math
import zlib

import numpy as np


def initial_weight(name: str, shape: tuple[int, ...], std: float | None, seed: int) -> np.ndarray:
    """float32 weights of a convolution or linear layer: normal with ``std``; None: Kaiming's sqrt(2 / fan out).

    They depend on the seed, the tensor's name and its shape, and on no other tensor.
    """
    if std is None:
        std = math.sqrt(2 / (shape[0] * math.prod(shape[2:])))
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
