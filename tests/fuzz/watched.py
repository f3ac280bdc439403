"""Work in a process of its own that is watched: what it says, how it ends, its time and memory, the files and programs it
touches. It is forked, so that libraries are imported once."""

import faulthandler
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import psutil

from twinseg.common.errors import UserError
from twinseg.common.host.memory import is_out_of_memory
from twinseg.common.printable import LONGEST, printable

PATIENCE = 120  # seconds by the clock
WORKING = 1  # seconds of a core in as many: less is waiting, also on a machine that does other things
SHARE = 2  # a file may be in memory once, and once more what was made of it
HEADROOM = 4  # how many times the memory that is allowed is there: what takes all of it is seen, and the machine lives
FAULT = 70  # exit status of the process where the work ended by an exception
FORBIDDEN = 71  # or did what no file may make it do
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {  # events of Python's audit hooks -> which of their arguments are paths that change
    **{f'os.{name}': (0,) for name in ('mkdir', 'remove', 'rmdir', 'truncate', 'chmod', 'chown', 'mkfifo', 'mknod')},
    **{'os.rename': (0, 1), 'os.link': (1,), 'os.symlink': (1,), 'shutil.rmtree': (0,)},
}
STARTS = ('os.system', 'os.exec', 'os.posix_spawn', 'os.spawn', 'pty.spawn')
NETWORK = ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname')


@dataclass(frozen=True)
class Limits:
    """What a case may take: ``seconds`` of a core, bytes of ``memory`` beyond what the process began with and SHARE times the
    bytes of its files; ``statuses`` that the command may end with, and ``programs`` that it may start."""

    seconds: int = 10
    memory: int = 512 << 20
    statuses: tuple[int, ...] = (0, 2)
    programs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """``problem``: what is wrong, None where the file was read or refused (``status`` 0, 2). ``said``: the last line on
    stderr."""

    status: int
    problem: Optional[str]
    said: str
    seconds: float
    memory: int


class World:
    """A folder with the folder ``case`` of what is read, and around it what nothing may touch: ``outside``, and programs of
    known names in ``bin`` that leave a trace when they are started."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.case, self.outside, self.temporary = (self.root / name for name in ('case', 'outside', 'tmp'))
        self.canary = self.root / 'a program was started'
        for folder in (self.case, self.outside, self.temporary, self.root / 'bin'):
            folder.mkdir(parents=True)
        (self.outside / 'kept.txt').write_text('a\nb\n')
        for name in ('gs', 'sh', 'touch', 'canary'):
            program = self.root / 'bin' / name
            program.write_text(f'#!/bin/bash\necho {name} >> "{self.canary}"\n')
            program.chmod(0o755)
        self.before = self._listing()

    def _listing(self) -> dict[str, tuple[int, int]]:
        """Everything but what is in the case's folder, with sizes and times."""
        paths = [*self.root.iterdir(), *self.outside.rglob('*'), *self.temporary.rglob('*'), *(self.root / 'bin').iterdir()]
        kept = [
            path for path in paths if path not in (self.case, self.temporary) and path.suffix != '.said' and path.name != '.ses'
        ]
        return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in kept if path != self.outside}

    def clean(self) -> None:
        """Takes away what a case has left outside its folder, so that the next one does not answer for it."""
        self.canary.unlink(missing_ok=True)
        for path in self.temporary.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.before = self._listing()

    def changed(self) -> Optional[str]:
        """What was touched outside the case's folder, in words."""
        after = self._listing()
        names = [name for name in {**self.before, **after} if self.before.get(name) != after.get(name)]
        return f'touched outside its folder: {", ".join(sorted(names)[:5])}' if names else None


def watch(work: Callable[[], int], world: World, limits: Limits) -> Outcome:
    """Does the work, which returns a status, in the case's folder."""
    streams = [world.root / name for name in ('out.said', 'err.said')]
    most = limits.memory + SHARE * sum(path.lstat().st_size for path in world.case.rglob('*'))
    began = time.monotonic()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, str(_resident()).encode())
        _be_watched(work, world, limits, streams)
    os.close(writer)
    before = int(os.read(reader, 100) or 0)
    os.close(reader)
    hangs = _hangs(child)
    with suppress(ProcessLookupError):
        if hangs:
            os.kill(child, signal.SIGKILL)
    _, waited, used = os.wait4(child, 0)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # processes that it left
    seconds = used.ru_utime + used.ru_stime
    memory = max(0, used.ru_maxrss * 1024 - before)
    out, said = (path.read_bytes() if path.exists() else b'' for path in streams)
    status = os.waitstatus_to_exitcode(waited)
    problem = f'hangs (waits for {PATIENCE} s)' if hangs else _problem(status, out, said, limits)
    if problem is None and memory > most:
        problem = f'takes {memory >> 20} MB, more than {most >> 20}'
    problem = problem or world.changed()
    last = said.decode(errors='replace').strip().rpartition('\n')[2]
    return Outcome(status, problem, last, seconds if not hangs else time.monotonic() - began, memory)


def _hangs(child: int) -> bool:
    """Whether a process waits instead of ending; one that computes ends by its limit."""
    watcher, computed = os.pidfd_open(child), 0.0
    try:
        poll = select.poll()
        poll.register(watcher, select.POLLIN)
        while not poll.poll(1000 * PATIENCE):
            before, computed = computed, _computed(child)
            if computed < before + WORKING:
                return True
        return False
    finally:
        os.close(watcher)


def _computed(child: int) -> float:
    """Seconds of a core that a process and those it started have taken."""
    total = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(child)
        for each in (process, *process.children(recursive=True)):
            total += sum(each.cpu_times())
    return total


def _problem(status: int, out: bytes, said: bytes, limits: Limits) -> Optional[str]:
    """What is wrong with how the process ended and with what it said."""
    text = said.decode(errors='replace')
    if status < 0:
        name = signal.Signals(-status).name
        return f'takes more than {limits.seconds} s' if name == 'SIGXCPU' else f'is ended by {name}: {text[-300:]!r}'
    if status in (FAULT, FORBIDDEN):
        return text.strip()[-2000:]
    if status not in limits.statuses:
        return f'status {status}: {text[-500:]!r}'
    lines = text.split('\n')[:-1] if text else []
    errors = [line for line in lines if line.startswith('twinseg: error: ')]
    if [line for line in lines if not line.startswith('twinseg: ')] or text and not text.endswith('\n'):
        return f'other lines than ours: {text[-500:]!r}'
    if len(errors) != (1 if status == 2 else 0) and status != 1:
        return f'status {status} with {len(errors)} lines of errors: {text[-500:]!r}'
    if 'internal error' in text:
        return text.strip()
    if any(len(line) > LONGEST or printable(line) != line for line in lines):
        return f'a line that is too long or drives a terminal: {text[-800:]!r}'
    shown = out.decode(errors='replace').replace('\n', '').replace('\r', '')
    if printable(shown) != shown:
        return f'drives the terminal by what it shows: {out[-500:]!r}'
    if errors and is_out_of_memory(UserError(errors[0])):
        return f'refused only because memory was lacking: {errors[0]}'
    return None


def _resident() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def _be_watched(work: Callable[[], int], world: World, limits: Limits, streams: list[Path]) -> None:
    """The child; does not return."""
    status = FAULT
    try:
        faulthandler.disable()
        os.setsid()
        for number, path in enumerate((Path(os.devnull), *streams)):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        sys.stdout, sys.stderr = (open(number, 'w', encoding='utf-8', closefd=False) for number in (1, 2))
        os.environ.update(
            PATH=f'{world.root / "bin"}:{os.environ["PATH"]}',
            TMPDIR=str(world.temporary),
            HOME=str(world.case),
            TWINSEG_CACHE=str(world.case / 'cache'),
            COLUMNS='200',
        )
        os.environ.pop('TWINSEG_DATA', None)
        tempfile.tempdir = None  # what the parent chose
        os.chdir(world.case)
        size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM * limits.memory,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(_Guard(world, limits))
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else FAULT
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0)


class _Guard:
    """Ends the process where it starts a program, runs code of a file, or writes outside the case's folder."""

    def __init__(self, world: World, limits: Limits):
        self.inside = tuple(f'{path}/' for path in (world.case, world.temporary))
        self.programs = (sys.executable, *limits.programs)
        self.looking = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looking:
            return
        self.looking = True
        try:
            if event == 'open':
                path, _, flags = arguments
                if isinstance(flags, int) and flags & WRITES:
                    self._check(event, path)
            elif event in CHANGES:
                for index in CHANGES[event]:
                    self._check(event, arguments[index])
            elif event == 'subprocess.Popen':
                program = os.fsdecode(arguments[0])
                if program not in self.programs and os.path.basename(program) not in self.programs:
                    self._end(f'{event}: {program}')
            elif event in STARTS or event in NETWORK:
                self._end(f'{event}: {arguments!r:.200}')
        finally:
            self.looking = False

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        absolute = os.path.abspath(name)
        if event == 'open':
            whole = os.path.realpath(name)
        else:  # a link itself may be replaced
            whole = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
        if not f'{whole}/'.startswith(self.inside) and not whole.startswith(('/dev/', '/proc/')):
            self._end(f'{event} outside its folder: {name!r}')

    def _end(self, what: str) -> None:
        os.write(2, f'forbidden: {what}\n'.encode(errors='replace'))
        os._exit(FORBIDDEN)
