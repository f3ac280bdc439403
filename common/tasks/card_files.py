"""Files that programs for cards read and write: arrays as they lie in memory, without a head."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from twinseg.common.errors import UserError, reason_of
from twinseg.common.files import read_bounded


def read_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The array in a file, read-only; UserError where it is absent, no file, or of another size."""
    dtype = np.dtype(dtype)
    expected = math.prod(shape) * dtype.itemsize
    try:
        size = path.stat().st_size
        content = read_bounded(path, expected) if size <= expected else b''
    except OSError as error:
        raise UserError(f'{path}: {reason_of(error)}; expected a file for every input') from None
    if len(content) != expected:
        raise UserError(f'{path}: {size} bytes; expected {expected} for {text(shape)} numbers of {dtype}: is it of this model?')
    return np.frombuffer(content, dtype).reshape(shape)


def text(shape: tuple[int, ...]) -> str:
    """``3x64x96``."""
    return 'x'.join(map(str, shape))
