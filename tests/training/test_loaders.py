"""What ends a loader: samples that raise, processes that are killed or hang, signals, the end of the program."""

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.support import ranks
from twinseg.common.backend import get_backend
from twinseg.common.errors import DataError, LostError

ERRORS = {
    'a broken file': DataError('x.png: truncated'),
    'a fault of the disk': OSError(errno.EIO, os.strerror(errno.EIO), 'x.png'),
    'a fault of ours': ZeroDivisionError('of a transform'),
}


class Samples:
    """Samples of which those from number 4 on do what ``fate`` says."""

    def __init__(self, fate=lambda: None):
        self.fate = fate

    def __getitem__(self, number):
        if number >= 4:
            self.fate()
        return np.full((3, 4, 5), number % 256, np.uint8), np.zeros((4, 5), np.uint8)


def raising(error):
    def fate():
        raise pickle.loads(pickle.dumps(error))

    return fate


def killing(number):
    return lambda: os.kill(os.getpid(), number)


def loader(backend_name, fate=lambda: None, workers=2, last=100, timeout=None):
    return get_backend(backend_name).make_loader(Samples(fate), ([number, number] for number in range(last)), workers, timeout)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ERRORS)
def test_whatever_a_sample_raises_comes_out_unchanged_and_no_worker_is_left(backend_name, kind, workers):
    error = ERRORS[kind]
    with pytest.raises(type(error)) as raised:
        list(loader(backend_name, raising(error), workers))
    assert str(raised.value) == str(error) and raised.value.__class__ is error.__class__
    assert getattr(raised.value, 'filename', None) == getattr(error, 'filename', None)
    assert multiprocessing.active_children() == []  # the error is still there, and with it all that it holds


@pytest.mark.parametrize(
    'number, cause',
    [
        (signal.SIGKILL, 'memory runs out .see dmesg.; lower num_parallel_workers'),
        (signal.SIGBUS, 'shared memory ./dev/shm. is full'),
        (signal.SIGSEGV, 'num_parallel_workers: 0 shows why'),
    ],
)
def test_a_worker_that_is_killed_ends_the_batches(number, cause):
    with pytest.raises(LostError, match=f'process [0-9]+, which reads images, was ended by {number.name}: .*{cause}'):
        list(loader('pytorch', killing(number)))
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_while_the_trainer_computes_ends_no_step():
    batches = loader('pytorch')
    next(batches)
    worker = multiprocessing.active_children()[0]
    os.kill(worker.pid, signal.SIGKILL)
    before = time.monotonic()
    while time.monotonic() - before < 0.5:  # a step, in which the signal of its end arrives
        sum(range(1000))
    with pytest.raises(LostError, match=f'process {worker.pid}, which reads images, was ended by SIGKILL'):
        next(batches)
    assert multiprocessing.active_children() == []


def test_a_worker_that_hangs_is_not_waited_for(monkeypatch):
    from torch.utils.data import _utils

    monkeypatch.setattr(_utils, 'MP_STATUS_CHECK_INTERVAL', 0.2)
    batches = loader('pytorch', lambda: time.sleep(1000))
    next(batches)
    time.sleep(0.3)
    batches.close()
    assert multiprocessing.active_children() == []


def test_workers_leave_signals_to_the_trainer():
    batches = loader('pytorch')
    for _ in range(4):  # they come from both workers in turn: each has begun
        next(batches)
    for worker in multiprocessing.active_children():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(worker.pid, number)
    assert len(list(batches)) == 96
    assert multiprocessing.active_children() == []


def test_a_read_that_hangs_has_a_limit(backend_name):
    released = threading.Event()
    try:
        with pytest.raises(LostError, match='no batch came within 1 seconds .data_timeout.: a read hangs'):
            list(loader(backend_name, lambda: released.wait(60), timeout=1))
    finally:
        released.set()
    assert multiprocessing.active_children() == []


def test_small_shared_memory_is_passed_around(monkeypatch, caplog):
    data = pytest.importorskip('twinseg.pytorch_impl.data')
    expected = [images.sum() for images, _ in loader('pytorch', last=6)]
    assert not caplog.records
    statvfs = os.statvfs
    small = os.statvfs_result((4096, 4096, 1, 1, 1, 1, 1, 1, 0, 255))  # a block is free
    monkeypatch.setattr(os, 'statvfs', lambda path: small if path == data.SHARED else statvfs(path))
    monkeypatch.setattr(data, 'AHEAD', 100)
    assert [images.sum() for images, _ in loader('pytorch', last=6)] == expected
    (line,) = (record.message for record in caplog.records)
    assert '/dev/shm is too small for batches of 0 MB: they go through pipes' in line


def test_pytorch_says_nothing_of_more_workers_than_cores(monkeypatch, recwarn):
    """The training has a line on them, ``input_wait.too_many``."""
    torch = pytest.importorskip('torch')
    monkeypatch.setattr(torch._utils, 'cpu_count', lambda: 1)
    assert len(list(loader('pytorch', last=4))) == 4
    assert not recwarn.list


HANGS = """import time
from tests.training.test_loaders import Samples
from twinseg.common.data import thread_loader
from twinseg.common.errors import LostError
thread_loader.PATIENCE = 0.2
try:
    list(thread_loader.make_loader(Samples(lambda: time.sleep(1000)), ([n] for n in range(9)), 2, 1))
except LostError:
    thread_loader.leave_hanging(3)
"""


def test_a_program_ends_though_a_read_hangs():
    assert subprocess.run([sys.executable, '-c', HANGS], env=ranks.environment(), timeout=90).returncode == 3


LEFT = """import sys, time
from tests.training.test_loaders import loader
batches = [loader('pytorch', lambda: time.sleep(1000)) for _ in range(2)]
error = []
try:
    next(batches[0]), next(batches[1])
    raise ValueError('held with all that it holds')
except ValueError as raised:
    error.append(raised)
sys.exit(3)
"""


def test_a_program_ends_though_a_loader_is_left_in_the_middle():
    process = subprocess.Popen([sys.executable, '-c', LEFT], env=ranks.environment())
    try:
        assert process.wait(90) == 3  # 5 s for each of four workers that hang
    finally:
        process.kill()
