"""Tensors from a safetensors file, in every type of numbers that weights have."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from twinseg.common.errors import StateError, reason_of
from twinseg.common.weights.reading.dtypes import BY_NAME, SAFETENSORS
from twinseg.common.weights.reading.tree import Tensors


def describe_safetensors(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the tensors, and the metadata. StateError: truncated or damaged, told by sizes alone."""
    try:
        with safe_open(path, 'np') as file:
            return list(file.keys()), dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from None


def read_safetensors(path: Path) -> Tensors:
    """Tensors by name, bfloat16 and float8 as float32, of a file that ``describe_safetensors`` has accepted. StateError."""
    tensors = Tensors()
    try:
        with open(path, 'rb') as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
            content = np.fromfile(file, np.uint8)
        for name, entry in header.items():
            if name == '__metadata__':
                continue
            kind, (start, end) = entry['dtype'], entry['data_offsets']
            if kind not in SAFETENSORS:
                tensors.unreadable[name] = 'complex' if kind.startswith('C') else f'of {kind} numbers'
                continue
            numbers = BY_NAME[SAFETENSORS[kind]]
            stored = content[start:end].view(np.dtype(numbers.stored).newbyteorder('<'))
            array = numbers.array(stored).reshape(entry['shape'])
            tensors.arrays[name] = array if array.flags.aligned else array.copy()
    except (OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise _unreadable(path, error) from None
    return tensors


def _unreadable(path: Path, error: Exception) -> StateError:
    return StateError(f'{path}: not a readable safetensors file: {reason_of(error)}')
