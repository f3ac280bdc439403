"""The one kind of MATLAB file that a data set has: a matrix in a field of a struct, in a file of MATLAB 5.

Nothing is recursive, and nothing is allocated by what a file says before it is compared with the bytes that are there. Layout:
"MAT-File Format", The MathWorks, 2019, chapter 1. An element is a tag (type and bytes) and its data, filled up to 8 bytes.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from twinseg.common.errors import DataError
from twinseg.common.files import read_bounded

MAX_BYTES = 16 << 20  # bytes of a file, and of what it unpacks to; labels of SBD have less than 1 MB
MAX_DIMENSIONS = 32  # as numpy has
MAX_NAMES = 4096  # bytes of names
HEADER = 128  # bytes of text, subsystem, version and byte order
PACKED, MATRIX, STRUCT = 15, 14, 2  # types of elements, and a class of arrays
STORED = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8'}  # types of numbers
NUMERIC = range(6, 16)  # classes of arrays
COMPLEX = 0x800  # flag of an array
Element = tuple[int, memoryview]


def read_field(path: Path, variable: str, field: str) -> np.ndarray:
    """The matrix in a field of a struct (1, 1), of the type that it is stored in.

    DataError for what is no such file, for one that is broken, and for more than MAX_BYTES.
    """
    try:
        content = read_bounded(path, MAX_BYTES)
        order = {b'IM': '<', b'MI': '>'}.get(content[126:HEADER])
        if order is None:
            raise ValueError('no file of MATLAB 5')
        for kind, body in _unpacked(memoryview(content)[HEADER:], order):
            if kind == MATRIX:
                array, name, left = _head(body, order)
                if name == variable.encode():
                    return _numbers(_field(array, left, order, field.encode()), order)
        raise ValueError(f'it has no {variable}')
    except OSError as error:
        raise DataError(f'{path}: not readable as a label of SBD ({error.strerror or error})') from None
    except (ValueError, struct.error, zlib.error) as error:
        raise DataError(f'{path}: not readable as a label of SBD, truncated or broken ({error})') from None


def _unpacked(content: memoryview, order: str) -> Iterator[Element]:
    """The elements of a file; those in a packed one in its place. ValueError when they unpack to more than MAX_BYTES."""
    left = MAX_BYTES
    for kind, body in _elements(content, order, aligned=False):
        if kind == PACKED:
            data = zlib.decompressobj().decompress(body, left + 1)
            left -= len(data)
            if left < 0:
                raise ValueError(f'unpacks to more than {MAX_BYTES} bytes')
            yield from _elements(memoryview(data), order)
        else:
            yield kind, body


def _elements(content: memoryview, order: str, aligned: bool = True) -> Iterator[Element]:
    """The elements, one after the other; ValueError where one is cut off. Without ``aligned`` a packed one is not filled up."""
    start = 0
    while start + 8 <= len(content):
        kind, size = struct.unpack_from(f'{order}2I', content, start)
        start += 8
        if kind >> 16:  # up to four bytes in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, start - 4
            if size > 4:
                raise ValueError(f'{size} bytes in a tag')
            yield kind, content[start : start + size]
            start += 4
            continue
        if size > len(content) - start:
            raise ValueError('cut off')
        yield kind, content[start : start + size]
        start += size + (-size % 8 if aligned or kind != PACKED else 0)


def _head(body: memoryview, order: str) -> tuple[tuple[int, int, tuple[int, ...]], bytes, Iterator[Element]]:
    """Class, flags and sizes of an array, its name, and the elements that follow."""
    elements = _elements(body, order)
    (_, flags), (_, sizes), (_, name) = (_next(elements) for _ in range(3))
    if len(flags) != 8 or len(sizes) % 4 or len(sizes) > 4 * MAX_DIMENSIONS or len(name) > MAX_NAMES:
        raise ValueError('no head of an array')
    word = struct.unpack_from(f'{order}I', flags)[0]
    return (word & 0xFF, word, struct.unpack(f'{order}{len(sizes) // 4}i', sizes)), bytes(name), elements


def _field(array: tuple[int, int, tuple[int, ...]], elements: Iterator[Element], order: str, field: bytes) -> memoryview:
    """The array in a field of a struct."""
    kind, _, sizes = array
    if kind != STRUCT or math.prod(sizes) != 1:
        raise ValueError('it is no struct of one element')
    (_, length), (_, text) = _next(elements), _next(elements)
    width = struct.unpack(f'{order}i', length)[0]
    if width <= 0 or len(text) > MAX_NAMES:
        raise ValueError(f'{len(text)} bytes of names of {width} bytes')
    names = [bytes(text[at : at + width]).split(b'\0')[0] for at in range(0, len(text), width)]
    if field not in names:
        raise ValueError(f'it has no field {field.decode()}')
    for _ in names[: names.index(field)]:
        _next(elements)
    found, body = _next(elements)
    if found != MATRIX:
        raise ValueError('a field that is no array')
    return body


def _numbers(body: memoryview, order: str) -> np.ndarray:
    """A real array of numbers."""
    (kind, flags, sizes), _, elements = _head(body, order)
    stored, data = _next(elements)
    if kind not in NUMERIC or flags & COMPLEX or stored not in STORED:
        raise ValueError('a field that is no array of real numbers')
    dtype = np.dtype(order + STORED[stored])
    if min(sizes, default=0) < 0 or math.prod(sizes) * dtype.itemsize != len(data):
        raise ValueError(f'{len(data)} bytes for numbers of shape {sizes}')
    return np.frombuffer(data, dtype).reshape(sizes, order='F').astype(dtype.newbyteorder('='))


def _next(elements: Iterator[Element]) -> Element:
    element = next(elements, None)
    if element is None:
        raise ValueError('cut off')
    return element
