"""One training at a time in a run folder."""

import errno
import fcntl
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import streets
from tests.support.tiny import tiny_network
from twinseg.common import config
from twinseg.common.backend import get_backend
from twinseg.common.errors import DataError, UserError
from twinseg.common.inference.evaluate import evaluate_run
from twinseg.common.inference.runs import load_run
from twinseg.common.report.records import read_run
from twinseg.common.training import loop
from twinseg.common.training.lock import NAME, training_alone

HOLDER = """import os, sys, time
from pathlib import Path
from twinseg.common.training.lock import training_alone
print('ready', flush=True)
sys.stdin.readline()
with training_alone(Path(sys.argv[1]), print):
    if 'child' in sys.argv:
        if os.fork() == 0:  # as a loader's worker that outlives the trainer
            print(os.getpid(), flush=True)
            time.sleep(60)
    else:
        print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path, *words: str) -> subprocess.Popen:
    """A process that takes the lock of a folder once it gets a line, and keeps it until the next one."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(folder), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'ready\n'
    return process


def go(process: subprocess.Popen) -> None:
    process.stdin.write('\n')
    process.stdin.flush()


def taken(folder: Path) -> None:
    with training_alone(folder, pytest.fail):
        assert (folder / NAME).read_text() == f'{os.getpid()} {platform.node()}\n'


def test_the_second_is_refused_with_host_and_process_of_the_first(tmp_path):
    first = holder(tmp_path / 'run')
    go(first)
    assert first.stdout.readline() == f'{first.pid}\n'
    message = f'run: process {first.pid} on {platform.node()} is training in it; wait until that has ended, or choose another'
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            taken(tmp_path / 'run')
    taken(tmp_path / 'other')
    first.communicate('\n')
    taken(tmp_path / 'run')
    assert list(tmp_path.iterdir()) == []  # nothing was put into the folders


def test_of_several_that_start_together_one_trains(tmp_path):
    several = [holder(tmp_path / 'run') for _ in range(4)]
    for process in several:
        go(process)
    firsts = [process for process in several if process.stdout.readline()]
    assert len(firsts) == 1
    firsts[0].communicate('\n')
    for process in several:
        if process is not firsts[0]:
            assert f'process {firsts[0].pid} on ' in process.communicate()[1].splitlines()[-1]
    assert sorted(process.returncode for process in several) == [0, 1, 1, 1]


def test_a_kill_leaves_no_lock_behind_though_its_workers_live(tmp_path):
    killed = holder(tmp_path / 'run', 'child')
    go(killed)
    worker = int(killed.stdout.readline())
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    try:
        assert (tmp_path / 'run' / NAME).is_file()
        os.kill(worker, 0)
        taken(tmp_path / 'run')
    finally:
        os.kill(worker, signal.SIGKILL)
    assert not (tmp_path / 'run' / NAME).exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written .Not a directory.; choose another --work-dir'):
        taken(tmp_path / 'file' / 'run')


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def lockless(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', lockless)
    told = []
    with training_alone(tmp_path / 'run', told.append), training_alone(tmp_path / 'run', told.append):
        pass
    assert len(told) == 2 and 'run: its file system has no locks: no second training in it would be noticed' in told[0]


def test_trainings_are_refused_and_readers_are_not(tmp_path, monkeypatch):
    backend, data = get_backend('pytorch'), streets.make(tmp_path / 'streets')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    keys = streets.settings(data, arch='tiny', auxiliary_weights={}, model_args={}, crop_size=[32, 48], max_iters=2)
    settings, run = config.from_flat({**keys, 'val_interval': 2}), tmp_path / 'run'
    with pytest.raises(DataError):
        loop.train(settings.replace(data_url='/missing'), 'pytorch', 'cpu', run)
    assert not run.exists()
    loop.train(settings, 'pytorch', 'cpu', run)
    assert not (run / NAME).exists()
    running = holder(run)
    go(running)
    running.stdout.readline()
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    for resume in (False, True):
        with pytest.raises(UserError, match=f'run: process {running.pid} on .* is training in it'):
            loop.train(settings, 'pytorch', 'cpu', run, resume=resume)
    assert before == {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    evaluate_run(load_run(run, 'pytorch', 'cpu'))
    assert read_run(run).evaluations
    running.communicate('\n')


def test_a_worker_does_not_keep_the_lock(tmp_path):
    with training_alone(tmp_path / 'run', pytest.fail):
        worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        assert worker.is_alive()
        taken(tmp_path / 'run')
    finally:
        worker.kill()
        worker.join()
