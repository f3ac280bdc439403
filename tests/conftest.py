"""Fixtures shared by all tests: data and golden folders, and the installed backends."""

import ctypes
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from twinseg.common.backend import available, get_backend
from twinseg.common.host.memory import keep_freed_memory

ROOT = Path(__file__).parent.parent
GOLDEN = Path(os.environ.get('TWINSEG_GOLDEN', ROOT / 'tests' / 'golden'))
DATA = next((path for path in (ROOT / 'data', ROOT.parent / 'shared' / 'data') if path.is_dir()), ROOT / 'data')
# Tests run side by side (scripts/test.sh), each on one thread; so do the commands that they start.
os.environ.setdefault('OMP_NUM_THREADS', '1')


# files whose tests are of a network or a publisher each
SPLIT = ('test_matrix', 'test_golden', 'test_golden_steps', 'test_overfit')
GROWTH = 1 << 28  # bytes between two clearings of memory
_trimmed = [0]  # bytes after the last one
CACHE = pytest.StashKey[tempfile.TemporaryDirectory]()


@contextmanager
def operator_by_operator() -> Iterator[None]:
    """MindSpore, where it is in use, without compiling: for single runs a tenth of the time."""
    if 'mindspore' not in sys.modules:
        yield
        return
    from twinseg.mindspore_impl.sizes import uncompiled

    with uncompiled():
        yield


@pytest.fixture(autouse=True)
def memory_is_given_back() -> Iterator[None]:
    """MindSpore's operators keep the weights that they saw first, and compiling leaves holes in the heap: 12 GB in the end."""
    yield
    ms = sys.modules.get('mindspore')
    if ms and not _trimmed[0]:
        gc.collect()
        gc.freeze()  # what the frameworks made at their import: MindSpore collects garbage at every compilation
    if ms and (used := psutil.Process().memory_info().rss) > _trimmed[0] + GROWTH:
        gc.collect()
        ms.common.api._pynative_executor.clear_res()
        ctypes.CDLL(None).malloc_trim(0)
        _trimmed[0] = min(used, psutil.Process().memory_info().rss)


def pytest_configure(config):
    """Memory is kept as commands keep it; graphs that MindSpore compiled for all processes of a run, and for no longer."""
    keep_freed_memory()
    if not hasattr(config, 'workerinput'):
        config.stash[CACHE] = tempfile.TemporaryDirectory(prefix='twinseg-tests-')
        os.environ['TWINSEG_CACHE'] = config.stash[CACHE].name


def pytest_unconfigure(config):
    if CACHE in config.stash:
        config.stash[CACHE].cleanup()


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests that take minutes each, too')


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(config, items):
    for item in items:  # what shares a fixture runs in one process: a file, or of networks and publishers one
        params = item.callspec.params if item.path.stem in SPLIT and hasattr(item, 'callspec') else {}
        network = str(params.get('name', params.get('case', ''))).removesuffix('_odd')  # a recording at an odd size
        item.add_marker(pytest.mark.xdist_group(f'{item.path.stem} {network}'))
    if config.getoption('--slow'):
        return
    for item in items:
        if 'slow' in item.keywords:
            item.add_marker(pytest.mark.skip(reason='needs --slow'))


@pytest.fixture(scope='session')
def data_folder() -> Path:
    """Folder with real images (``camvid/``): ``TWINSEG_DATA``, or ``data/`` of the checkout; skips where it is absent."""
    path = Path(os.environ.get('TWINSEG_DATA', DATA))
    if not path.is_dir():
        pytest.skip(f'TWINSEG_DATA is not set and {path} is absent')
    return path


@pytest.fixture(scope='session')
def golden_folder() -> Path:
    """Folder with the recordings of the publishers' networks."""
    return GOLDEN


@pytest.fixture(scope='session', params=['pytorch', 'mindspore'])
def backend_name(request) -> str:
    """Every backend in turn; skips one whose framework is not installed."""
    if request.param not in available():
        pytest.skip(f'{request.param} is not installed')
    return request.param


@pytest.fixture(scope='session')
def backend(backend_name):
    """The backend module, set up on the CPU."""
    module = get_backend(backend_name)
    module.setup('cpu', seed=0, threads=1)
    return module
