"""Tensors from a ``torch.save`` file without PyTorch and without executing its pickle.

A file is a zip archive (PyTorch 1.6 and later: ``data.pkl`` and one entry per storage) or the older sequence of pickles
followed by raw storages. The pickle is read as data by a small stack machine: it knows the few operations that plain
containers and tensors need, and the only names that mean something are those of tensors and ordered dicts. Every other
name is refused, except some that training frameworks leave in their logs: those become empty stand-ins and never run.
"""

import io
import math
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, NamedTuple

import numpy as np

from twinseg.common.errors import StateError

LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # PyTorch's magic number, pickled
DTYPES = {
    'DoubleStorage': '<f8',
    'FloatStorage': '<f4',
    'HalfStorage': '<f2',
    'BFloat16Storage': '<u2',
    'LongStorage': '<i8',
    'IntStorage': '<i4',
    'ShortStorage': '<i2',
    'CharStorage': 'i1',
    'ByteStorage': 'u1',
    'BoolStorage': '?',
}
MEANT = (  # names that are acted upon
    'collections.OrderedDict',
    'torch._utils._rebuild_tensor_v2',
    'torch._utils._rebuild_tensor',
    'torch._utils._rebuild_parameter',
)
INERT = (  # beginnings of names that become stand-ins
    'mmengine.',
    'mmcv.',
    'numpy.core.multiarray.',
    'numpy._core.multiarray.',
    'numpy.ndarray',
    'numpy.dtype',
    'numpy.dtypes.',
    'argparse.Namespace',
    'torch.Size',
    'torch.device',
    'torch.float',
    'builtins.set',
    'builtins.getattr',
    '_codecs.encode',
    'collections.defaultdict',
    'pathlib.',
)


class Storage(NamedTuple):
    """A reference to numbers in the file."""

    kind: str
    key: str
    length: int


class View(NamedTuple):
    """A tensor: part of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(str):
    """A name that the pickle refers to; it is never looked up."""


class Inert(dict):
    """Stand-in for the object that a harmless name would have built."""


def read_torch(path: Path) -> Any:
    """The object in a file, its tensors as arrays (bfloat16 becomes float32).

    StateError: another kind of file, truncated, sizes that the file does not hold, or a name that is not known to be safe.
    """
    try:
        with open(path, 'rb') as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            if file.read(len(LEGACY_START)) == LEGACY_START:
                return _read_legacy(file)
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise StateError(f'{path}: not readable: {" ".join(str(error).split())}') from None
    except StateError as error:
        raise StateError(f'{path}: {error}') from None
    raise StateError(f'{path}: neither safetensors nor a torch.save file (truncated, or another kind of file)')


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.rpartition('/')[2] == 'data.pkl']
        if len(pickles) != 1:
            raise StateError('a zip archive, but not of torch.save: it has no data.pkl')
        folder = pickles[0].removesuffix('data.pkl')
        if f'{folder}byteorder' in entries and archive.read(f'{folder}byteorder') != b'little':
            raise StateError('written on a big-endian machine; save it again on a little-endian one')
        file.seek(0, 2)
        if sum(entry.file_size for entry in entries.values()) > file.tell():
            raise StateError('its entries declare more bytes than the file has')

        def load(storage: Storage) -> bytes:
            entry = entries.get(f'{folder}data/{storage.key}')
            if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != _bytes(storage):
                raise StateError(f'storage {storage.key} is not in the file at the size that it declares')
            return archive.read(entry)

        return _with_arrays(_parse(io.BytesIO(archive.read(pickles[0]))), load)


def _read_legacy(file: BinaryIO) -> Any:
    file.seek(0, 2)
    end = file.tell()
    file.seek(0)
    for _ in range(3):  # magic number, protocol, byte order and sizes of C types
        _parse(file)
    content, keys = _parse(file), _parse(file)
    if not isinstance(keys, list):
        raise StateError('truncated, or damaged: it has no list of storages')
    positions: dict[str, tuple[int, int]] = {}
    sizes = {storage.key: _bytes(storage) for storage in _storages(content)}
    for key in keys:
        head = file.read(8)
        length = int.from_bytes(head, 'little')
        size = sizes.get(str(key))
        if size is None or len(head) < 8 or file.tell() + size > end:
            raise StateError(f'storage {key} is not in the file at the size that it declares (truncated?)')
        positions[str(key)] = file.tell(), length
        file.seek(size, 1)

    def load(storage: Storage) -> bytes:
        if storage.key not in positions or positions[storage.key][1] != storage.length:
            raise StateError(f'storage {storage.key} is not in the file at the size that it declares')
        file.seek(positions[storage.key][0])
        return file.read(_bytes(storage))

    return _with_arrays(content, load)


def _bytes(storage: Storage) -> int:
    return storage.length * np.dtype(DTYPES[storage.kind]).itemsize


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list) or type(value) is tuple:
        yield from value


def _storages(content: Any) -> Iterator[Storage]:
    seen, todo = set(), [content]
    while todo:
        value = todo.pop()
        if isinstance(value, View):
            yield value.storage
        elif id(value) not in seen:
            seen.add(id(value))
            todo.extend(_children(value))


def _with_arrays(content: Any, load: Callable[[Storage], bytes]) -> Any:
    """Replaces, in place, the views in dicts and lists by arrays; shared storages are read once."""
    storages: dict[Storage, np.ndarray] = {}

    def array(view: View) -> np.ndarray:
        if view.storage not in storages:
            flat = np.frombuffer(load(view.storage), DTYPES[view.storage.kind])
            if view.storage.kind == 'BFloat16Storage':
                flat = (flat.astype(np.uint32) << 16).view(np.float32)
            storages[view.storage] = flat
        flat = storages[view.storage]
        if 0 in view.shape:
            return flat[:0].reshape(view.shape)
        last = view.offset + sum((side - 1) * stride for side, stride in zip(view.shape, view.strides))
        if last >= flat.size or math.prod(view.shape) > flat.size:
            raise StateError(f'a tensor {view.shape} reaches beyond its storage of {flat.size} numbers')
        strides = tuple(stride * flat.itemsize for stride in view.strides)
        return np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides, writeable=False)

    seen, todo = set(), [content]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (dict, list)):
            for key, child in list(value.items() if isinstance(value, dict) else enumerate(value)):
                if isinstance(child, View):
                    value[key] = array(child)
        todo.extend(_children(value))
    return array(content) if isinstance(content, View) else content


def _parse(file: BinaryIO) -> Any:
    """The object that the pickle at the file's position describes; the position moves behind it."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    operations: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)

    def popped() -> list[Any]:
        """The values pushed since the last mark."""
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    try:
        for operation, argument, position in operations:
            match operation.name:
                case 'PROTO' | 'FRAME':
                    pass
                case 'STOP':
                    return stack.pop()
                case 'MARK':
                    marks.append(len(stack))
                case 'EMPTY_DICT':
                    stack.append({})
                case 'EMPTY_LIST' | 'EMPTY_SET':
                    stack.append([])
                case 'EMPTY_TUPLE':
                    stack.append(())
                case 'NONE':
                    stack.append(None)
                case 'NEWTRUE' | 'NEWFALSE':
                    stack.append(operation.name == 'NEWTRUE')
                case (
                    'BININT'
                    | 'BININT1'
                    | 'BININT2'
                    | 'LONG1'
                    | 'BINFLOAT'
                    | 'BINUNICODE'
                    | 'SHORT_BINUNICODE'
                    | 'BINSTRING'
                    | 'SHORT_BINSTRING'
                    | 'BINBYTES'
                    | 'SHORT_BINBYTES'
                ):
                    stack.append(argument)
                case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                    count = int(operation.name[-1])
                    stack[-count:] = [tuple(stack[-count:])]
                case 'TUPLE':
                    stack.append(tuple(popped()))
                case 'APPEND':
                    value = stack.pop()
                    stack[-1].append(value)
                case 'APPENDS' | 'ADDITEMS':
                    values = popped()
                    stack[-1].extend(values)
                case 'SETITEM':
                    value, key = stack.pop(), stack.pop()
                    stack[-1][key] = value
                case 'SETITEMS':
                    values = popped()
                    stack[-1].update(zip(values[::2], values[1::2]))
                case 'BINPUT' | 'LONG_BINPUT':
                    memo[argument] = stack[-1]
                case 'MEMOIZE':
                    memo[len(memo)] = stack[-1]
                case 'BINGET' | 'LONG_BINGET':
                    stack.append(memo[argument])
                case 'GLOBAL':
                    stack.append(_name(*argument.split(' ', 1)))
                case 'STACK_GLOBAL':
                    name, module = stack.pop(), stack.pop()
                    stack.append(_name(module, name))
                case 'BINPERSID':
                    stack.append(_storage(stack.pop()))
                case 'REDUCE' | 'NEWOBJ':
                    arguments, name = stack.pop(), stack.pop()
                    stack.append(_call(name, arguments))
                case 'BUILD':
                    attributes = stack.pop()  # attributes of an ordered dict or of a stand-in
                    if isinstance(stack[-1], OrderedDict) and isinstance(attributes, dict):
                        stack[-1].metadata = attributes.get('_metadata')  # type: ignore[attr-defined]
                case _:
                    raise StateError(
                        f'pickle operation {operation.name} at byte {position} is not one that tensors need; refused'
                    )
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f'not a readable pickle (truncated, or damaged): {" ".join(str(error).split())}') from None
    raise StateError('not a readable pickle: it does not end')


def _name(module: Any, name: Any) -> Name:
    full = f'{module}.{name}'
    if full not in MEANT and not (module == 'torch' and name in DTYPES) and not full.startswith(INERT):
        raise StateError(f'refers to {full}, which a file of weights does not need; refused, nothing was executed')
    return Name(full)


def _storage(reference: Any) -> Storage:
    tag, kind, key, _, length = reference[:5]
    kind = str(kind).removeprefix('torch.')
    if tag != 'storage' or kind not in DTYPES or not isinstance(length, int) or length < 0:
        raise StateError(f'a storage of an unknown kind: {str(reference)[:80]}')
    if len(reference) > 5 and reference[5] is not None:
        raise StateError('an old file with views of storages; load it in PyTorch and save it again')
    return Storage(kind, str(key), length)


def _call(name: Any, arguments: Any) -> Any:
    if not isinstance(name, Name):
        raise StateError('a call of something that is not a name; refused')
    if name == 'collections.OrderedDict':
        return OrderedDict(*arguments)
    if name == 'torch._utils._rebuild_parameter':
        return arguments[0]
    if name.startswith('torch._utils._rebuild_tensor'):
        storage, offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        natural = all(isinstance(number, int) and number >= 0 for number in numbers)
        if not isinstance(storage, Storage) or len(shape) != len(strides) or not natural:
            raise StateError('a tensor with an impossible shape')
        return View(storage, offset, tuple(shape), tuple(strides))
    return Inert()
