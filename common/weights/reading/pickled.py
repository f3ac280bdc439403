"""A pickle as data: what it describes, built of plain containers and stand-ins, and nothing that it names.

A small stack machine does all operations of the format. Of the names only those that build tensors, arrays and ordered dicts
have a meaning; every other is an inert stand-in that holds what the pickle says of it. No name is ever looked up.
"""

import pickletools
from collections import OrderedDict
from typing import Any, BinaryIO, Iterator, NamedTuple

import numpy as np

from twinseg.common.errors import StateError, reason_of
from twinseg.common.weights.reading.dtypes import BY_NAME, OTHER_STORAGES, TORCH_STORAGES

MOST_OPERATIONS = 5_000_000  # operations of a pickle: a training's logs have some 10,000
MOST_DIMENSIONS = 32
NUMPY_MODULES = ('numpy.core.multiarray.', 'numpy._core.multiarray.')
NUMPY_BUFFERS = ('numpy.core.numeric._frombuffer', 'numpy._core.numeric._frombuffer')
TENSORS = {  # the last part of the names of functions that build a tensor from storage, offset, shape and strides
    'torch._utils._rebuild_tensor',
    'torch._utils._rebuild_tensor_v2',
    'torch._utils._rebuild_tensor_v3',
    'torch_npu.utils.storage._rebuild_npu_tensor',
}
SAME_TENSOR = {  # names of functions that give back the tensor or array that they are called with
    'torch._utils._rebuild_parameter',
    'torch._utils._rebuild_parameter_with_state',
    'torch._utils._rebuild_device_tensor_from_cpu_tensor',
}
TENSOR_OF_NUMPY = ('torch._utils._rebuild_device_tensor_from_numpy', 'torch._utils._rebuild_xla_tensor')
UNREADABLE = {
    'torch._utils._rebuild_qtensor': 'quantised',
    'torch._utils._rebuild_sparse_tensor': 'sparse',
    'torch._utils._rebuild_sparse_csr_tensor': 'sparse',
    'torch._utils._rebuild_nested_tensor': 'nested',
    'torch._utils._rebuild_meta_tensor_no_storage': 'without numbers (meta)',
}


class Storage(NamedTuple):
    """A reference to bytes in the file: ``kind`` is a type of ``dtypes.BY_NAME``, or what it is of ``OTHER_STORAGES``."""

    kind: str
    key: str
    size: int


class View(NamedTuple):
    """A tensor: numbers of type ``dtype`` in a storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(str):
    """A name that the pickle refers to; it is never looked up."""


class Unreadable(NamedTuple):
    """A tensor that no weight of a network here can be, and what it is."""

    kind: str


class Inert:
    """Stand-in for an object of any class: what the pickle would have called, set and put into it."""

    __slots__ = ('arguments', 'elements', 'entries', 'name', 'state')

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()):
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.entries: dict[Any, Any] = {}  # what a dict holds
        self.elements: list[Any] = []  # what a list or set holds


def parse(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """What the pickle at a file's position describes, and the storages that it refers to by key; the position moves behind it.

    StateError for a broken one, and where two storages have one key.
    """
    machine = _Machine()
    try:
        return machine.run(pickletools.genops(file)), machine.storages
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise StateError(f'not a readable pickle (truncated, or damaged): {reason_of(error)[:200]}') from None


class _Machine:
    """Stack, marks and memo of the format."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, operations: Iterator[tuple[Any, Any, Any]]) -> Any:
        for count, (operation, argument, _) in enumerate(operations):
            if operation.name == 'STOP':
                return self.stack.pop()
            if count >= MOST_OPERATIONS:
                raise StateError(f'a pickle of more than {MOST_OPERATIONS} operations: not a file of weights')
            self.do(operation.name, argument)
        raise StateError('not a readable pickle: it does not end')

    def popped(self) -> list[Any]:
        """The values pushed since the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def do(self, operation: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        match operation:
            case 'PROTO' | 'FRAME' | 'READONLY_BUFFER':
                pass
            case 'MARK':
                self.marks.append(len(stack))
            case 'POP' | 'POP_MARK':
                if operation == 'POP_MARK' or self.marks and self.marks[-1] == len(stack):
                    self.popped()
                else:
                    stack.pop()
            case 'DUP':
                stack.append(stack[-1])
            case 'EMPTY_DICT':
                stack.append({})
            case 'EMPTY_LIST' | 'EMPTY_SET':
                stack.append([])
            case 'EMPTY_TUPLE':
                stack.append(())
            case 'NONE' | 'NEXT_BUFFER':
                stack.append(None)
            case 'NEWTRUE' | 'NEWFALSE':
                stack.append(operation == 'NEWTRUE')
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                count = int(operation[-1])
                if len(stack) < count:
                    raise IndexError('a tuple of more than there is')
                stack[-count:] = [tuple(stack[-count:])]
            case 'TUPLE':
                stack.append(tuple(self.popped()))
            case 'LIST' | 'FROZENSET':
                stack.append(self.popped())
            case 'DICT':
                values = self.popped()
                made: dict[Any, Any] = {}
                _set(made, values)
                stack.append(made)
            case 'APPEND':
                value = stack.pop()
                _extend(stack[-1], [value])
            case 'APPENDS' | 'ADDITEMS':
                values = self.popped()
                _extend(stack[-1], values)
            case 'SETITEM':
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            case 'SETITEMS':
                values = self.popped()
                _set(stack[-1], values)
            case 'PUT' | 'BINPUT' | 'LONG_BINPUT':
                memo[argument] = stack[-1]
            case 'MEMOIZE':
                memo[len(memo)] = stack[-1]
            case 'GET' | 'BINGET' | 'LONG_BINGET':
                stack.append(memo[argument])
            case 'GLOBAL':
                stack.append(_name(*argument.split(' ', 1)))
            case 'STACK_GLOBAL':
                name, module = stack.pop(), stack.pop()
                stack.append(_name(module, name))
            case 'EXT1' | 'EXT2' | 'EXT4':
                stack.append(Name(f'extension {argument}'))
            case 'PERSID':
                stack.append(Inert('persistent'))
            case 'BINPERSID':
                value = _persistent(stack.pop())
                if isinstance(value, Storage) and self.storages.setdefault(value.key, value).size != value.size:
                    raise StateError(f'storage {value.key[:40]} has two sizes')
                stack.append(value)
            case 'REDUCE' | 'NEWOBJ':
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case 'NEWOBJ_EX':
                del stack[-1]  # arguments by name
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case 'INST':
                stack.append(_call(_name(*argument.split(' ', 1)), tuple(self.popped())))
            case 'OBJ':
                function, *rest = self.popped()
                stack.append(_call(function, tuple(rest)))
            case 'BUILD':
                state = stack.pop()
                if isinstance(stack[-1], Inert):
                    stack[-1].state = state
                elif isinstance(stack[-1], OrderedDict) and isinstance(state, dict):
                    stack[-1].metadata = state.get('_metadata')  # type: ignore[attr-defined]
            case _:  # the operations that push the number, text or bytes of their argument
                stack.append(argument)


def _name(module: Any, name: Any) -> Name:
    return Name(f'{module}.{name}' if isinstance(module, str) and isinstance(name, str) else 'unnamed')


def _set(target: Any, values: list[Any]) -> None:
    """Keys and values in turn into a dict or a stand-in. A key that is no text and no number is one that equals none: the hash
    of a tuple may take for ever."""
    items = target.entries if isinstance(target, Inert) else target
    if not isinstance(items, dict) or len(values) % 2:
        raise TypeError('items for something that is no dict')
    for key, value in zip(values[::2], values[1::2]):
        items[key if isinstance(key, (str, int, float, bytes, bool)) or key is None else Inert('key')] = value


def _extend(target: Any, values: list[Any]) -> None:
    elements = target.elements if isinstance(target, Inert) else target
    if not isinstance(elements, list):
        raise TypeError('elements for something that is no list')
    elements.extend(values)


def _persistent(reference: Any) -> Any:
    """The storage, or the class, that an object of a torch.save file refers to."""
    if type(reference) is not tuple or len(reference) < 2:
        return Inert('persistent')
    if reference[0] == 'module':  # before 1.0: a class with its source
        return reference[1]
    if reference[0] != 'storage' or len(reference) < 5:
        return Inert('persistent')
    _, kind, key, _, length, *view = reference
    kind = kind.rpartition('.')[2] if isinstance(kind, str) else ''
    if kind == 'UntypedStorage':
        kind, itemsize = 'uint8', 1
    elif kind in TORCH_STORAGES:
        kind = TORCH_STORAGES[kind]
        itemsize = BY_NAME[kind].itemsize
    elif kind in OTHER_STORAGES:
        itemsize, kind = OTHER_STORAGES[kind]
    else:
        raise StateError(f'a storage of an unknown kind: {kind[:80]!r}')
    if type(length) is not int or length < 0 or length * itemsize >= 1 << 62 or not isinstance(key, (str, int)):
        raise StateError('a storage of an impossible size')
    if view and view[0] is not None:
        raise StateError('an old file with views of storages; load it in PyTorch and save it again')
    return Storage(kind, str(key), length * itemsize)


def _call(function: Any, arguments: Any) -> Any:
    """What a call of a name gives: a tensor, an ordered dict, or a stand-in."""
    if type(arguments) is not tuple:
        arguments = ()
    while function == 'torch._tensor._rebuild_from_type_v2' and len(arguments) > 2 and type(arguments[2]) is tuple:
        if arguments[0] == 'torch._utils._rebuild_wrapper_subclass':
            return Unreadable(f'of class {_last(arguments[1])}')
        function, arguments = arguments[0], arguments[2]  # a tensor with attributes, or of a subclass
    if not isinstance(function, Name):
        return Inert(function.name if isinstance(function, Inert) else 'unnamed', arguments)
    if function == 'collections.OrderedDict':
        made: OrderedDict[Any, Any] = OrderedDict()
        for pair in arguments[0] if arguments and isinstance(arguments[0], list) else ():  # as Python 2 wrote it
            if isinstance(pair, (list, tuple)) and len(pair) == 2:
                _set(made, list(pair))
        return made
    if function in SAME_TENSOR and arguments:
        return arguments[0]
    if function in TENSORS:
        return _tensor(*arguments[:7])
    if function in UNREADABLE:
        return Unreadable(UNREADABLE[function])
    if function == '_codecs.encode' and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == 'latin1':
        return arguments[0].encode('latin1')  # bytes, as protocol 2 writes them
    last = _last(function)
    if last.endswith('Tensor') and not function.startswith('__torch__'):
        return Unreadable(f'of class {last}')
    return Inert(function, arguments)


def _last(name: Any) -> str:
    return name.rpartition('.')[2] if isinstance(name, str) else 'unnamed'


def _tensor(
    storage: Any = None,
    offset: Any = None,
    shape: Any = None,
    strides: Any = None,
    gradient: Any = None,
    hooks: Any = None,
    dtype: Any = None,
) -> View | Unreadable:
    if isinstance(shape, Inert) and shape.name == 'torch.Size' and shape.arguments:
        shape = shape.arguments[0]
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
        raise StateError('a tensor with an impossible shape')
    natural = all(type(number) is int and 0 <= number < 1 << 62 for number in (offset, *shape, *strides))
    if not isinstance(storage, Storage) or not natural:
        raise StateError('a tensor with an impossible shape')
    kind = storage.kind
    if isinstance(dtype, Name):  # only of an untyped storage
        kind = dtype.removeprefix('torch.')
    if kind not in BY_NAME:
        return Unreadable('complex' if kind.startswith('complex') else f'{kind} numbers' if storage.kind == 'uint8' else kind)
    return View(storage, kind, offset, shape, strides)


def array_of(value: Inert) -> np.ndarray | None:
    """The array of numbers that a pickle of numpy describes; None for anything else."""
    if value.name in TENSOR_OF_NUMPY and value.arguments and isinstance(value.arguments[0], Inert):
        return None if value.arguments[0].name in TENSOR_OF_NUMPY else array_of(value.arguments[0])
    if value.name in NUMPY_BUFFERS and len(value.arguments) == 4:
        raw, dtype, shape, order = value.arguments
        return _numpy(raw, dtype, shape, order == 'F')
    if value.name.startswith(NUMPY_MODULES) and value.name.endswith('._reconstruct') and type(value.state) is tuple:
        if len(value.state) == 5:
            _, shape, dtype, fortran, raw = value.state
            return _numpy(raw, dtype, shape, fortran is True)
    return None


def _numpy(raw: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray | None:
    if not isinstance(dtype, Inert) or dtype.name != 'numpy.dtype' or not dtype.arguments or type(shape) is not tuple:
        return None
    code = dtype.arguments[0]
    order = dtype.state[1] if type(dtype.state) is tuple and len(dtype.state) > 1 else '<'
    plain = isinstance(code, str) and code in ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1')
    natural = len(shape) <= MOST_DIMENSIONS and all(type(side) is int and 0 <= side < 1 << 62 for side in shape)
    if not plain or not natural or order not in ('<', '>', '|', '=') or not isinstance(raw, (bytes, bytearray)):
        return None
    flat = np.frombuffer(raw, np.dtype(f'{order}{code}'))
    return flat.reshape(shape, order='F' if fortran else 'C')
