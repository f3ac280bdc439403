"""Initial weights, drawn with numpy: both backends start from the same numbers."""
import math
import zlib
from typing import Sequence

import numpy as np


def initial_weight(name: str, shape: tuple[int, ...], std: float | None, seed: int) -> np.ndarray:
    """float32 weights of a convolution or linear layer: normal with ``std``; None: Kaiming's sqrt(2 / fan out).

    They depend on the seed, the tensor's name and its shape, and on no other tensor.
    """
    if std is None:
        std = math.sqrt(2 / (shape[0] * math.prod(shape[2:])))
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def dropout_mask(name: str, shape: tuple[int, ...], ratio: float, key: Sequence[int]) -> np.ndarray:
    """float32 factors of a dropout layer: 0 with probability ``ratio``, else 1 / (1 - ratio). A function of name and key."""
    kept = np.random.default_rng((*key, zlib.crc32(name.encode()))).random(shape) >= ratio
    return (kept / (1 - ratio)).astype(np.float32)
