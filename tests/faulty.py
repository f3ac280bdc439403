"""The twinseg command in a world where things go wrong: python -m tests.faulty ARGUMENTS, which are those of ``twinseg``.

It knows a network ``tiny``, and every process of a group leaves its number in ``$PIDS/<rank>``, msrun's scheduler in
``$PIDS/scheduler``. ``$SLOW_DISK`` gives the seconds that a sync takes, so that a kill can meet a checkpoint that is being
written.
"""
import os
import sys
import time
from pathlib import Path

from common import cli, distributed
from common.backend import get_backend
from tests.tiny import tiny_network


def write(path: Path, text: str) -> None:
    """Whole or not at all, for those who wait for it."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}')
    temporary.write_text(text)
    temporary.replace(path)


def main() -> int:
    name = sys.argv[sys.argv.index('--backend') + 1]
    get_backend(name).MODELS['tiny'] = lambda num_classes: tiny_network(name, 0.5, num_classes)
    if folder := os.environ.get('PIDS'):
        scheduler = os.environ.get('MS_ROLE') == 'MS_SCHED'
        write(Path(folder) / ('scheduler' if scheduler else str(distributed.rank())), str(os.getpid()))
    if delay := float(os.environ.get('SLOW_DISK', '0')):
        sync = os.fsync
        os.fsync = lambda file: time.sleep(delay) or sync(file)
    return cli.main()


if __name__ == '__main__':
    sys.exit(main())
