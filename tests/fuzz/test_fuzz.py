"""Every reader of files, fuzzed: what is changed is read or refused; and the watch that sees whatever else happens."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.fuzz import watched
from tests.fuzz.watched import Limits, World, watch
from twinseg.common.cli import explain
from twinseg.common.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='the watch needs /proc and pidfd of Linux')
SEED, CASES, SLOW_CASES = 0, 200, 10_000
LIMITS = Limits(seconds=1, memory=64 << 20)


@pytest.mark.timeout(7200)  # for all of SLOW_CASES
def test_what_is_changed_is_read_or_refused(request, tmp_path):
    cases = SLOW_CASES if request.config.getoption('--slow') else CASES
    done = subprocess.run(
        [sys.executable, '-m', 'tests.fuzz', '--seed', str(SEED), '--cases', str(cases), '--keep', str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and 'failed' in done.stdout, done.stdout + done.stderr


def refuse(message: str) -> int:
    return explain(UserError(message))


def start_a_program() -> int:
    return os.posix_spawnp('gs', ['gs'], os.environ)


def fill_memory() -> int:
    return int(np.ones(100 << 20, np.uint8).sum() < 0)


def take_all_memory() -> int:
    try:
        np.empty(1 << 40, np.uint8)
    except MemoryError as error:
        return refuse(str(error))
    return 0


def write_by_c(path: str) -> int:
    """As a library does, past Python's hooks."""
    import ctypes

    library = ctypes.CDLL(None)
    library.close(library.open(path.encode(), os.O_CREAT | os.O_WRONLY, 0o644))
    return 0


def say(text: str, stream: int = 2, status: int = 0) -> int:
    os.write(stream, text.encode())
    return status


FAULTS = {
    'a crash': (lambda: os.kill(os.getpid(), 11), 'ended by SIGSEGV'),
    'an exception': (lambda: 1 // 0, 'ZeroDivisionError'),
    'an internal error': (lambda: explain(ValueError('x')), 'status 1'),
    'a loop': (lambda: next(number for number in iter(int, 1) if number), 'takes more than 1 s'),
    'waiting': (lambda: time.sleep(99), 'hangs'),
    'memory': (fill_memory, r'takes \d+ MB, more than 64'),
    'all memory': (take_all_memory, 'only because memory was lacking'),
    'a program': (start_a_program, 'forbidden: os.posix_spawn'),
    'a command': (lambda: os.system('gs'), 'forbidden: os.system'),
    'a file outside': (lambda: Path('../outside/kept.txt').write_text('x'), 'forbidden: open outside its folder'),
    'a folder outside': (lambda: Path('../new').mkdir(), 'forbidden: os.mkdir outside its folder'),
    'a file that is removed': (lambda: Path('../outside/kept.txt').unlink(), 'forbidden: os.remove outside its folder'),
    'a file through a link': (lambda: (Path('l').symlink_to('../outside'), Path('l/x').touch()), 'forbidden'),
    'a file outside, by a library': (lambda: write_by_c('../outside/new'), 'touched outside its folder: .*/outside/new'),
    'a program, by a library': (lambda: write_by_c('../a program was started'), 'touched outside'),
    'a file that is left': (lambda: write_by_c(f'{os.environ["TMPDIR"]}/x'), 'touched outside its folder'),
    'no line': (lambda: 2, 'status 2 with 0 lines'),
    'two lines': (lambda: refuse('a') and refuse('b'), 'status 2 with 2 lines'),
    "a library's line": (lambda: say('libfoo: bad\n'), 'other lines than ours'),
    'a long line': (lambda: say(f'twinseg: error: {"x" * 600}\n', status=2), 'too long'),
    'an escape': (lambda: say('twinseg: error: \x1b[31m\n', status=2), 'drives a terminal'),
    'an escape on stdout': (lambda: say('\x1b[31m\n', 1), 'drives the terminal'),
}


@pytest.mark.parametrize('name', FAULTS)
def test_the_watch_sees(tmp_path, monkeypatch, name):
    work, message = FAULTS[name]
    if message == 'hangs':
        monkeypatch.setattr(watched, 'PATIENCE', 1)
    outcome = watch(lambda: int(isinstance(result := work(), int) and result), World(tmp_path / 'world'), LIMITS)
    assert outcome.problem is not None
    assert re.search(message, outcome.problem), outcome.problem


def test_the_watch_lets_pass(tmp_path):
    world = World(tmp_path / 'world')

    def good() -> int:
        Path('a/b').mkdir(parents=True)
        Path('a/b/c').write_text('x')
        return 0

    assert watch(good, world, LIMITS).problem is None
    refused = watch(lambda: refuse('x\n\x1b' * 1000), world, LIMITS)
    assert refused.problem is None and refused.status == 2 and refused.said.startswith('twinseg: error: x \\x1bx')
