"""The twinseg command in a world where things go wrong: ``python -m tests.support.faulty`` with the arguments of ``twinseg``.

It knows a network ``tiny``, and its environment says what is to go wrong:

``PIDS``       a folder: every process of a group leaves its number there, under its rank or as ``scheduler`` (msrun's)
``SLOW_DISK``  seconds that a sync takes, so that a kill can meet a checkpoint that is being written
``FULL_DISK``  syncs after which the disk is full
``NO_DATA``    rank whose data folder is missing
``POISON``     rank whose weights batch 4 turns to NaN
``NOBODY``     set where the user has no entry in passwd, as in a container with ``--user 1234``
"""

import errno
import itertools
import os
import pwd
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.tiny import tiny_network
from twinseg.common import cli
from twinseg.common.backend import get_backend
from twinseg.common.data.sampling import training_batches
from twinseg.common.parallel import launch


def write(path: Path, text: str) -> None:
    """Whole or not at all, for those who wait for it."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}')
    temporary.write_text(text)
    temporary.replace(path)


def fill(syncs: int) -> None:
    """The disk, after so many syncs."""
    sync, left = os.fsync, iter(range(syncs))

    def fsync(file: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    os.fsync = fsync


def poison(backend: Any, bad: list[list[tuple[int, int]]], setattr: Any = setattr) -> None:
    """Batches: a step on one of those with the keys ``bad`` leaves weights that are NaN."""
    make_loader, make_trainer = backend.make_loader, backend.make_trainer
    poisoned: set[bytes] = set()

    def loader(samples, batches, workers, timeout=None):
        seen, batches = itertools.tee(batches)
        for keys, (images, labels) in zip(seen, make_loader(samples, batches, workers, timeout)):
            if keys in bad:
                poisoned.add(images.tobytes())
            yield images, labels

    def trainer(network, config):
        made = make_trainer(network, config)
        step = made.step
        made.step = lambda batches, rate: step(
            batches, float('nan') if any(images.tobytes() in poisoned for images, _ in batches) else rate
        )
        return made

    setattr(backend, 'make_loader', loader)
    setattr(backend, 'make_trainer', trainer)


def no_entry(user: int) -> pwd.struct_passwd:
    raise KeyError(f'getpwuid(): uid not found: {user}')


def main() -> int:
    name = sys.argv[sys.argv.index('--backend') + 1]
    backend, rank, asked = get_backend(name), launch.rank(), os.environ.get
    backend.MODELS['tiny'] = lambda num_classes: tiny_network(name, 0.5, num_classes)
    if folder := asked('PIDS'):
        scheduler = asked('MS_ROLE') == 'MS_SCHED'
        write(Path(folder) / ('scheduler' if scheduler else str(rank)), str(os.getpid()))
    if delay := float(asked('SLOW_DISK', '0')):
        sync = os.fsync
        os.fsync = lambda file: time.sleep(delay) or sync(file)
    if syncs := int(asked('FULL_DISK', '0')):
        fill(syncs)
    if asked('NOBODY'):
        pwd.getpwuid = no_entry
    if asked('NO_DATA') == str(rank):
        sys.argv += ['--set', 'data_url=/missing/streets']
    if asked('POISON') == str(rank):
        poison(backend, [list(itertools.islice(training_batches(8, 2, 0, 4, 5, rank, 2), 1))[0]])
    return cli.main()


if __name__ == '__main__':
    sys.exit(main())
