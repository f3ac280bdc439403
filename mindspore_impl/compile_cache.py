"""Compiled graphs are kept between runs.

MindSpore saves what its front end made of a cell, the larger part of compiling, and reads it again (its "compile cache"). By
itself it counts the graphs of a process and takes the file with the same number, whatever network it was made of: it compares
the script that was started, and nothing else (2.10). So each graph is kept here under a key that covers what it depends on,
and MindSpore finds at its number the file of the right key or none.

Tried with MindSpore 2.10 on CPUs, bit for bit; other versions, devices and several processes compile as ever.
"""

import functools
import hashlib
import os
import sys
import tempfile
import threading
import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

import twinseg
from twinseg.common.files import graph_cache
from twinseg.mindspore_impl import distributed

TRIED = '2.10.'  # versions of MindSpore, and the attributes of its cells that follow
# What compiling and running leave on a cell
VOLATILE = {
    '__compile_cell_hook__',
    '__parse_method__',
    '_compile_cache',
    '_compile_phase',
    '_compiled',
    '_create_time',
    '_exist_names',
    '_exist_objs',
    '_has_mutable_args_list',
    '_id',
    '_init_flag',
    '_is_check_and_refresh',
    '_jit_graph_name',
    '_lazy_construct_sig',
    '_phase',
    '_phase_cache',
    '_scope',
    '_signatures',
    'arguments_key',
    'current_phase',
    'sequence_modified',
}
PLAIN = (type(None), bool, int, float, str, ms.Type)
KNOWN = (nn.Cell, ops.Primitive, types.SimpleNamespace)
_lock = threading.Lock()


class Graph(nn.Cell):
    """A cell whose compiled graphs are kept between runs.

    ``outside_graph`` of a cell in it names attributes that no graph depends on.
    """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        signature = (self.phase, tuple(map(_signature, args)))
        signatures = self.__dict__.setdefault('_signatures', set())
        if signature in signatures or kwargs:
            return super().compile(*args, **kwargs)
        signatures.add(signature)
        folder = graph_cache.graph_folder('mindspore') if _is_tried() else None
        key = key_of(self, args) if folder else None
        if folder is None or key is None:
            return super().compile(*args)
        with _lock:
            self._compile_kept(folder, key, args)

    def _compile_kept(self, folder: Path, key: str, args: tuple[Any, ...]) -> None:
        content, before = graph_cache.read(folder, key), len(self.compile_cache)
        try:
            numbers = _numbers()
            offered = content is not None and numbers.offer(content)
        except OSError:  # no room for temporary files
            return super().compile(*args)
        try:
            with numbers.caching():
                super().compile(*args)
        except Exception:
            numbers.taken()
            numbers.next = None  # MindSpore may have counted it, or not
            if not offered:
                raise
            graph_cache.remove(folder, key)
            return super().compile(*args)
        made = numbers.taken()
        if made and len(self.compile_cache) > before:
            numbers.next = max(made) + 1
            if made[max(made)] != content:
                graph_cache.write(folder, key, made[max(made)])


class _Numbers:
    """Where MindSpore reads and writes the graphs of this process, by their numbers; it asks for the folder once."""

    def __init__(self) -> None:
        self.temporary = tempfile.TemporaryDirectory(prefix='twinseg-')
        self.folder = Path(self.temporary.name) / 'rank_0' / 'graph_cache'
        self.folder.mkdir(parents=True)
        self.next: Optional[int] = 0  # number of the next graph, where it is known

    def offer(self, content: bytes) -> bool:
        """Puts a graph where MindSpore looks next; False where that is not known. Raises OSError."""
        if self.next is not None:
            (self.folder / f'compile_cache_{self.next}.mindir').write_bytes(content)
        return self.next is not None

    def taken(self) -> dict[int, bytes]:
        """The graphs in the folder by their numbers; it is empty then. Nothing where MindSpore has written a graph in
        several files, which are not distinguished here; the next number is not known then."""
        graphs = {}
        for path in self.folder.glob('compile_cache_*.mindir'):
            graphs[path.stem.removeprefix('compile_cache_')] = path.read_bytes()
            path.unlink()
        if not all(number.isdigit() for number in graphs):
            self.next = None
            return {}
        return {int(number): content for number, content in graphs.items()}

    @contextmanager
    def caching(self) -> Iterator[None]:
        """MindSpore reads and writes graphs; it is told not to look for the script, which it cannot do of ``python -c``."""
        executor = nn.cell._cell_graph_executor
        variables = {
            'MS_COMPILER_CACHE_ENABLE': '1',
            'MS_COMPILER_CACHE_PATH': self.temporary.name,
            'MS_DEV_FORCE_USE_COMPILE_CACHE': '1',
        }
        os.environ.update(variables)
        executor._set_compile_cache_dep_files = lambda phase: None
        try:
            yield
        finally:
            del executor._set_compile_cache_dep_files
            for name in variables:
                del os.environ[name]


@functools.cache
def _numbers() -> _Numbers:
    return _Numbers()


def _is_tried() -> bool:
    """Whether caching was tried for what this process does, and the user has not turned to MindSpore's own."""
    return (
        ms.__version__.startswith(TRIED)
        and ms.get_context('device_target') == 'CPU'
        and distributed.size() == 1
        and not any(name.startswith(('MS_COMPILER_CACHE', 'MS_DEV', 'MS_ROLE')) for name in os.environ)
        and not ms.get_context('enable_compile_cache')
    )


def _signature(value: Any) -> Any:
    return (tuple(value.shape), str(value.dtype)) if isinstance(value, Tensor) else value


def key_of(cell: nn.Cell, args: tuple[Any, ...]) -> Optional[str]:
    """What the graph of a cell for such arguments depends on, as a digest; None where a part cannot be described."""
    description = _Description(cell)
    try:
        variables = {name: os.environ[name] for name in sorted(os.environ) if name.startswith('MS_') and name != 'MS_OM_PATH'}
        for value in (_sources(), ms.__version__, variables, *map(_signature, args), cell):
            description.add(value)
    except _UnknownError:
        return None
    return description.digest()


@functools.cache
def _sources() -> str:
    """A digest of every file of this package."""
    digest = hashlib.sha256()
    for package in ('common', 'mindspore_impl'):
        for path in sorted((Path(twinseg.__file__).parent / package).rglob('*.py')):
            digest.update(path.read_bytes())
    return digest.hexdigest()


class _UnknownError(Exception):
    """A value that a graph may depend on in a way that is not known here."""


class _Description:
    """Cells and what they hold in words: structure, settings, constants, and of parameters names, shapes and dtypes."""

    def __init__(self, cell: nn.Cell):
        self.parameters = cell.parameters_dict()
        self.words: list[Any] = []
        self.seen: dict[int, int] = {}  # id of an object -> its number

    def digest(self) -> str:
        return hashlib.sha256('\0'.join(map(str, self.words)).encode(errors='surrogateescape')).hexdigest()

    def add(self, value: Any) -> None:
        words = self.words
        if isinstance(value, PLAIN):
            words += type(value).__name__, repr(value)
        elif isinstance(value, Parameter):
            if self.parameters.get(value.name) is not value:  # MindSpore finds parameters by their names
                raise _UnknownError
            words += 'Parameter', value.name, value.shape, value.dtype, value.requires_grad
        elif isinstance(value, (Tensor, np.ndarray)):
            array = value.asnumpy() if isinstance(value, Tensor) else value
            words += type(value).__name__, value.shape, value.dtype, hashlib.sha256(array.tobytes()).hexdigest()
        elif isinstance(value, (tuple, list)):
            words += type(value).__name__, len(value)
            for item in value:
                self.add(item)
        elif isinstance(value, dict):
            words += 'dict', len(value)
            for name, item in value.items():
                self.add(name)
                self.add(item)
        elif isinstance(value, (types.FunctionType, types.MethodType)):
            source = _source(value.__module__)
            if source and '<' in value.__qualname__:  # a lambda or a closure: its name does not say what it does
                raise _UnknownError
            words += 'function', value.__module__, value.__qualname__, source
        elif id(value) in self.seen:
            words += 'again', self.seen[id(value)]
        else:
            self.seen[id(value)] = len(self.seen)
            self._object(value)

    def _object(self, value: Any) -> None:
        kind = type(value)
        if not isinstance(value, KNOWN):
            raise _UnknownError
        self.words += kind.__module__, kind.__qualname__, *(_source(base.__module__) for base in kind.__mro__)
        if isinstance(value, ops.Primitive):
            self.add(value.attrs)
        outside = VOLATILE.union(getattr(value, 'outside_graph', ()))
        for name, item in vars(value).items():
            if name not in outside and (item or name[0] != '_'):  # a compiled cell has empty tables of hooks, a new one None
                self.add(name)
                self.add(item)


@functools.cache
def _source(module: str) -> str:
    """A digest of a module that ``_sources`` does not cover."""
    if module.partition('.')[0] in ('twinseg', 'mindspore', 'builtins', 'pybind11_builtins', 'types'):
        return ''
    path = getattr(sys.modules.get(module), '__file__', None) or ''
    if not path.endswith('.py'):
        raise _UnknownError
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
