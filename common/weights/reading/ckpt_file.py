"""Tensors from a MindSpore ``.ckpt`` file without MindSpore.

The file is a protobuf message, ``Checkpoint { repeated Value { tag, Tensor { dims, tensor_type, tensor_content } } }``, read
here field by field; a tensor of more than 512 MB is split into several values of one tag. Nothing is allocated beyond the file.
"""

import math
import zlib
from pathlib import Path
from typing import Iterator

import numpy as np

from twinseg.common.errors import StateError, reason_of
from twinseg.common.weights.reading.dtypes import BY_NAME, MINDSPORE

MOST_DIMENSIONS = 32
CRC = b'crc_num'  # before a checksum of ten bytes, where the writer was asked for one


def read_ckpt(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name (bfloat16 becomes float32), and the texts that were appended.

    StateError: truncated, encrypted, another kind of file, or sizes that the file does not hold.
    """
    try:
        return _arrays(path.read_bytes())
    except (OSError, ValueError, IndexError, MemoryError) as error:
        raise StateError(
            f'{path}: not a readable MindSpore checkpoint (truncated, encrypted, or another kind of file): {reason_of(error)}'
        ) from None


def _arrays(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if content[-17:-10] == CRC:
        content, checksum = content[:-17], int.from_bytes(content[-10:], 'big')
        if zlib.crc32(content) != checksum:
            raise ValueError('its checksum does not agree with its content')
    values: dict[str, tuple[tuple[int, ...], str, list[memoryview]]] = {}
    for number, value in _fields(memoryview(content)):
        if number != 1 or isinstance(value, int):
            raise ValueError(f'field {number} where a value is expected')
        tag, dims, kind, data = _value(value)
        known = values.setdefault(tag, (dims, kind, []))
        if known[:2] != (dims, kind):
            raise ValueError(f'{tag[:80]}: parts of different tensors')
        known[2].append(data)
    arrays, texts = {}, {}
    for tag, (dims, kind, parts) in values.items():
        joined = b''.join(parts)
        if kind == 'str':
            texts[tag] = joined.decode('utf-32-le')
        elif kind in MINDSPORE:
            arrays[tag] = _array(tag, dims, kind, joined)
        else:
            raise ValueError(f'{tag[:80]}: unknown type {kind[:40]!r}')
    return arrays, texts


def _array(tag: str, dims: tuple[int, ...], kind: str, data: bytes) -> np.ndarray:
    numbers = BY_NAME[MINDSPORE[kind]]
    shape = () if dims == (0,) and len(data) == numbers.itemsize else dims  # old files write a single number so
    if math.prod(shape) * numbers.itemsize != len(data):
        raise ValueError(f'{tag[:80]}: {len(data)} bytes for {kind} {list(dims)[:8]}')
    return numbers.array(np.frombuffer(data, np.dtype(numbers.stored).newbyteorder('<'))).reshape(shape)


def _value(message: memoryview) -> tuple[str, tuple[int, ...], str, memoryview]:
    """Tag, dims, type and content of a Value."""
    parts = _messages(message, {1: 'tag', 2: 'tensor'})
    tensor = _messages(parts['tensor'][-1], {1: 'dims', 2: 'tensor_type', 3: 'tensor_content'})
    dims: list[int] = []
    for item in tensor.get('dims', []):
        dims += [item] if isinstance(item, int) else _packed(item)
    if len(dims) > MOST_DIMENSIONS or any(side >= 1 << 48 for side in dims):  # negative ones are unsigned here
        raise ValueError('a tensor with an impossible shape')
    content = tensor.get('tensor_content', [memoryview(b'')])[-1]
    return bytes(parts['tag'][-1]).decode(), tuple(dims), bytes(tensor['tensor_type'][-1]).decode(), content


def _messages(message: memoryview, names: dict[int, str]) -> dict[str, list]:
    """Field values by name; ValueError for a missing, unknown or wrong one."""
    if isinstance(message, int):
        raise ValueError('a number where a message is expected')
    values: dict[str, list] = {}
    for number, value in _fields(message):
        if number not in names or isinstance(value, int) and names[number] != 'dims':
            raise ValueError(f'unknown field {number}')
        values.setdefault(names[number], []).append(value)
    for name in names.values():
        if name not in values and name in ('tag', 'tensor', 'tensor_type'):
            raise ValueError(f'no {name}')
    return values


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values: numbers, or what has a length."""
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        value: int | memoryview
        value, offset = _varint(message, offset)
        if key & 7 == 2:
            length = value
            if length > len(message) - offset:
                raise ValueError(f'field of {length} bytes at byte {offset}, {len(message) - offset} are left')
            value, offset = message[offset : offset + length], offset + length
        elif key & 7:
            raise ValueError(f'wire type {key & 7} at byte {offset}')
        yield key >> 3, value


def _packed(message: memoryview) -> list[int]:
    numbers, offset = [], 0
    while offset < len(message):
        number, offset = _varint(message, offset)
        numbers.append(number)
    return numbers


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    """A number of up to ten bytes, and the offset behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = message[offset]
        offset += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, offset
    raise ValueError(f'a number that does not end at byte {offset}')
