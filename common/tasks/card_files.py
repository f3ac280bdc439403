"""Files that programs for cards read and write: arrays as they lie in memory, without a head."""

from pathlib import Path
from typing import Any

import numpy as np

from twinseg.common.errors import UserError, reason_of


def read_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The array in a file; UserError where it is absent or of another size."""
    try:
        array = np.fromfile(path, dtype)
    except OSError as error:
        raise UserError(f'{path}: {reason_of(error)}; expected a file for every input') from None
    if array.size != np.prod(shape):
        raise UserError(
            f'{path}: {path.stat().st_size} bytes; expected {int(np.prod(shape)) * array.itemsize} for '
            f'{text(shape)} numbers of {array.dtype}: is it of this model?'
        )
    return array.reshape(shape)


def text(shape: tuple[int, ...]) -> str:
    """``3x64x96``."""
    return 'x'.join(map(str, shape))
