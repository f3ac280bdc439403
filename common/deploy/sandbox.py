"""A first look at an exported file, in a process of its own with little memory and time: what takes the machine, hangs or
crashes there is refused before it does so here."""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from twinseg.common.errors import UserError, reason_of
from twinseg.common.host.memory import limited_memory

MEMORY = 1 << 30  # bytes, and EXPANDED for each of the file and its weights
EXPANDED = 8  # weights of int8 as float32, twice
SECONDS = 10  # time of a core, and one second more for each SECOND bytes
SECOND = 4 << 20
PATIENCE = 600  # seconds by the clock
START = 'import json, sys; sys.path[:] = json.loads(sys.argv[1]); from twinseg.common.deploy.sandbox import look; look()'


def check(path: Path, engine: str) -> None:
    """Checks an ONNX file and opens it with an engine, in another process, once for as long as the file does not change.
    UserError where it is refused, takes too much memory or time, or crashes the engine."""
    status = path.stat()
    _check(str(path.absolute()), path, engine, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _check(absolute: str, path: Path, engine: str, _size: int, _time: int) -> None:
    try:
        done = subprocess.run(
            [sys.executable, '-I', '-c', START, json.dumps(sys.path), absolute, str(path), engine],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f'{path}: {engine} takes more than {PATIENCE} seconds to open it') from None
    if done.returncode == -signal.SIGXCPU:
        raise UserError(f'{path}: {engine} takes too long to open it for a file of this size')
    try:
        problem = json.loads(done.stdout)
    except ValueError:
        name = signal.Signals(-done.returncode).name if done.returncode < 0 else f'status {done.returncode}'
        raise UserError(f'{path}: {engine} crashes when it opens the file ({name})') from None
    if problem is not None:
        raise UserError(problem)


def look() -> None:
    """Main function of the other process: writes null, or what is wrong with the file, as JSON."""
    from twinseg.common.deploy import onnx_check, sessions

    answer = os.dup(1)
    os.dup2(2, 1)  # engines print
    absolute, path, engine = sys.argv[2:]
    problem = None
    try:
        size = Path(absolute).stat().st_size
        _limit_time(size)
        with limited_memory(MEMORY + EXPANDED * size):
            size += onnx_check.load(Path(absolute)).elsewhere
        _limit_time(size)
        with limited_memory(MEMORY + EXPANDED * size):
            sessions.OPENERS[engine](Path(absolute), 1)
    except UserError as error:
        problem = str(error).replace(absolute, path, 1)
    except MemoryError:
        problem = f'{path}: takes more than {(MEMORY + EXPANDED * size) >> 20} MB to open, too much for a file of this size'
    except Exception as error:  # protobuf gives fields in other types where they are broken
        problem = f'{path}: not readable as ONNX: {type(error).__name__}: {reason_of(error)}'
    os.write(answer, json.dumps(problem).encode())
    os._exit(0)  # engines may hang or crash in their destructors


def _limit_time(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + size // SECOND, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
