"""The C++ program with models, inputs and arguments that were changed: it reads or refuses them like the rest of the suite."""

import random
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.fuzz.mutations import Mutator
from twinseg.common.printable import LONGEST, printable

SECONDS = 60  # of a core: sanitizers slow the engine down
MEGABYTES = 1500
SANITIZERS = (  # what an engine does not give back when it refuses a model is its own
    f'exitcode=98:detect_leaks=0:allocator_may_return_null=1:hard_rss_limit_mb={MEGABYTES}'
)
FLAGS = (
    'device_id',
    'device_type',
    'engine',
    'precision_mode',
    'input_shape',
    'streams',
    'num_threads',
    'warmup',
    'result_path',
)
Run = Callable[..., CompletedProcess]


def fuzz(run: Run, folder: Path, models: list[Path], seed: int, cases: int) -> Iterator[str]:
    """What is wrong, a line for each case. ``run`` starts the program in ``folder``, on a model and the inputs ``in``; the good
    ``models`` lie there."""
    contents = {path: path.read_bytes() for path in models}
    inputs = {path: path.read_bytes() for path in sorted((folder / 'in').iterdir())}
    before = set(folder.iterdir())
    for number in range(cases):
        rng = random.Random(f'{seed} {number}')
        mutator = Mutator(rng)
        path = rng.choice(models)
        arguments = []
        kind = rng.randrange(4)
        if kind == 0:
            path.write_bytes(_model(mutator, path, contents[path]))
        elif kind == 1:
            _spoil(mutator, rng.choice(list(inputs)), rng.choice(('cut', 'bytes', 'folder', 'loop', 'gone', 'device')))
        else:
            for flag in rng.sample(FLAGS, rng.choice((1, 1, 2))):
                value = rng.choice((str(mutator.number()), mutator.text(), f'{mutator.number()},3,8,12', '2,3,8,12', '1'))
                arguments.append(f'--{flag}={value}'.replace('\0', '').encode('utf-8', 'replace').decode()[:2000])
        if not any(argument.startswith('--result_path') for argument in arguments):
            arguments.append('--result_path=out')
        arguments = [argument for argument in arguments if not re.match(r'--result_path=/|--warmup=\d{3}', argument)]
        try:
            problem = _problem(run(path.name, *arguments, preexec=_limit, ASAN_OPTIONS=SANITIZERS))
        except AssertionError as error:  # what a sanitizer reports
            problem = str(error)
        if problem:
            yield f'{seed}-{number}: {path.name} {arguments}: {problem}'
        for target, content in {**contents, **inputs}.items():
            _put(target, content)
        if written := set(folder.iterdir()) - before:
            subprocess.run(['rm', '-rf', '--', *written], check=True)  # deeper, perhaps, than Python's own recursion goes


def _model(mutator: Mutator, path: Path, content: bytes) -> bytes:
    """A text for the engines of the tests, whose numbers alone are changed; ONNX of any kind."""
    if path.suffix == '.onnx':
        return mutator.protobuf(content)
    words = content.decode().split(' ')
    index = mutator.rng.randrange(len(words))
    if words[index].strip().isdecimal():
        words[index] = str(mutator.number() % (1 << 62)) + words[index][len(words[index].rstrip()) :]
    return ' '.join(words).encode()


def _spoil(mutator: Mutator, path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == 'folder':
        path.mkdir()
    elif how in ('loop', 'device'):
        path.symlink_to(path.name if how == 'loop' else '/dev/zero')
    elif how != 'gone':
        path.write_bytes(content[: mutator.rng.randrange(len(content))] if how == 'cut' else mutator.bytes(content))


def _put(path: Path, content: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _problem(done: Any) -> str:
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith('error: ')]
    if done.returncode not in (0, 2):
        return f'status {done.returncode}: {done.stderr[-300:]!r}'
    if len(errors) != (done.returncode == 2) or any(not line.startswith(('error: ', 'warning: ')) for line in lines):
        return f'status {done.returncode} with other lines than one: {done.stderr[-300:]!r}'
    if any(len(line) > LONGEST + len('warning: ') or printable(line) != line for line in lines):
        return f'a line that is too long or drives a terminal: {done.stderr[-600:]!r}'
    shown = done.stdout.replace('\n', '')
    return f'drives the terminal by what it shows: {done.stdout[-600:]!r}' if printable(shown) != shown else ''


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
