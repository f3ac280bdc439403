"""Tensors from a ``torch.save`` file without PyTorch and without executing its pickle.

A file is a zip archive (PyTorch 1.6 and later: ``data.pkl`` and one entry per storage; TorchScript's are of this form, too) or
the older sequence of pickles followed by raw storages. ``pickled`` reads the pickle as data. Nothing is allocated beyond the
size of the file, but for float32 instead of narrower floats.
"""

import io
import lzma
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, Callable

import numpy as np

from twinseg.common.errors import StateError, reason_of
from twinseg.common.files import file_kind
from twinseg.common.files.file_kind import Kind
from twinseg.common.weights.reading import pickled
from twinseg.common.weights.reading.dtypes import BY_NAME
from twinseg.common.weights.reading.pickled import Inert, Storage, Unreadable, View
from twinseg.common.weights.reading.tree import Tensors, flatten

MOST_OVERLAP = 4  # how often the numbers of a file may lie in tensors that are not the same
BROKEN = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
)
Load = Callable[[Storage], bytes | memoryview]


def read_torch(path: Path, kind: Kind) -> tuple[Tensors, Any]:
    """The tensors of a file by name, and the object that holds them: a torch.save file, a TorchScript archive or a pickle.

    StateError: truncated, or sizes that the file does not hold.
    """
    try:
        if kind in (file_kind.TORCH, file_kind.TORCHSCRIPT):
            return _read_zip(path)
        if kind == file_kind.TORCH_LEGACY:
            return _read_legacy(path.read_bytes())
        content, storages = pickled.parse(io.BytesIO(path.read_bytes()))
        if storages:
            raise StateError('tensors of PyTorch in a pickle that torch.save did not write; save them with torch.save')
        return flatten(content, _numpy), content
    except BROKEN as error:
        raise StateError(f'{path}: not readable: {reason_of(error)}') from None
    except StateError as error:
        raise StateError(f'{path}: {error}') from None


def _read_zip(path: Path) -> tuple[Tensors, Any]:
    with open(path, 'rb') as file, zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rpartition('/')[2] == 'data.pkl']
        if len(pickles) != 1:
            raise StateError(f'a zip archive with {len(pickles)} data.pkl; a file of torch.save has one')
        size = file.seek(0, 2)
        folder = pickles[0].removesuffix('data.pkl')
        order_entry = f'{folder}byteorder'
        read = (pickles[0], order_entry)
        data = f'{folder}data/'
        wanted = [entry for entry in archive.infolist() if entry.filename in read or entry.filename.startswith(data)]
        if sum(entry.file_size for entry in wanted) > size:
            raise StateError('its entries declare more bytes than the file has')
        order = archive.read(order_entry) if order_entry in entries else b'little'

        def load(storage: Storage) -> bytes:
            entry = entries.get(f'{folder}data/{storage.key}')
            if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != storage.size:
                raise StateError(f'storage {storage.key[:40]} is not in the file at the size that it declares')
            return archive.read(entry)

        content, storages = pickled.parse(io.BytesIO(archive.read(pickles[0])))
        if not storages:
            arrays = flatten(content, _numpy)
            if any('.' in name for name in arrays.arrays):
                return arrays, content
        return flatten(content, _Arrays(load, '>' if order == b'big' else '<', size)), content


def _read_legacy(content: bytes) -> tuple[Tensors, Any]:
    file = io.BytesIO(content)
    for _ in range(3):  # magic number, protocol, byte order and sizes of C types
        pickled.parse(file)
    (saved, storages), (keys, _) = pickled.parse(file), pickled.parse(file)
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise StateError('truncated, or damaged: it has no list of storages')
    starts: dict[str, int] = {}
    position = file.tell()
    for key in map(str, keys):
        count = int.from_bytes(content[position : position + 8], 'little')
        if key not in storages or storages[key].size not in [count * width for width in (1, 2, 4, 8, 16)]:
            raise StateError(f'storage {key[:40]} is not in the file at the size that it declares (truncated?)')
        starts[key] = position + 8
        position += 8 + storages[key].size
    if position > len(content):
        raise StateError('truncated: its storages reach beyond its end')

    def load(storage: Storage) -> memoryview:
        if storage.key not in starts:
            raise StateError(f'storage {storage.key[:40]} is not in the file')
        start = starts[storage.key]
        return memoryview(content)[start : start + storage.size]

    return flatten(saved, _Arrays(load, '<', len(content))), saved


def _numpy(value: Any) -> np.ndarray | None:
    return pickled.array_of(value) if isinstance(value, Inert) else None


class _Arrays:
    """Tensors of a file as arrays. A storage is read once, and the same tensor is the same array."""

    def __init__(self, load: Load, order: str, size: int):
        self.load = load
        self.order = order
        self.left = MOST_OVERLAP * size  # bytes that tensors may still take
        self.storages: dict[tuple[str, str], np.ndarray] = {}
        self.views: dict[View, np.ndarray] = {}

    def __call__(self, value: Any) -> np.ndarray | Unreadable | None:
        if isinstance(value, View):
            if value not in self.views:
                self.views[value] = self.array(value)
            return self.views[value]
        if isinstance(value, Inert) and value.name in pickled.TENSOR_OF_NUMPY:  # other arrays are of logs
            return pickled.array_of(value)
        return value if isinstance(value, Unreadable) else None

    def array(self, view: View) -> np.ndarray:
        numbers = BY_NAME[view.dtype]
        key = view.storage.key, view.dtype
        if view.storage.size % numbers.itemsize:
            raise StateError(f'a storage of {view.storage.size} bytes for numbers of type {view.dtype}')
        if key not in self.storages:
            stored = np.frombuffer(self.load(view.storage), np.dtype(f'{self.order}{numbers.stored}'))
            self.storages[key] = numbers.array(stored)
        flat = self.storages[key]
        if 0 in view.shape:
            return flat[:0].reshape(view.shape)
        last = view.offset + sum((side - 1) * stride for side, stride in zip(view.shape, view.strides))
        if last >= flat.size or math.prod(view.shape) > flat.size:
            raise StateError(f'a tensor {view.shape} reaches beyond its storage of {flat.size} numbers')
        self.left -= math.prod(view.shape) * numbers.itemsize
        if self.left < 0:
            raise StateError('its tensors share their numbers: together they are several times as large as the file')
        strides = tuple(stride * flat.itemsize for stride in view.strides)
        return np.ndarray(view.shape, flat.dtype, flat, view.offset * flat.itemsize, strides)
