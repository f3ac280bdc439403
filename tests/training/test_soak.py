"""A training of two processes that is killed again and again, and continued: nothing is lost, not a bit.

As a program, with other numbers: python -m tests.training.test_soak BACKEND FOLDER [KILLS [SEED]]
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import ranks, streets
from twinseg.common import checkpoint
from twinseg.common.files import PART

KILLS, SEED = 30, 20
STEPS = 8  # of the training for every kill
LIMIT = 180  # seconds for the processes to start, or to end when one is killed
NAMES = ('0', '1', 'scheduler')  # of the processes
MOMENTS = ('start', 'step', 'save')  # while they start, at any time, while a checkpoint is written


class Soak:
    """The training in a folder, and what became of it."""

    def __init__(self, backend_name: str, folder: Path, kills: int, seed: int):
        self.backend_name, self.folder, self.kills, self.rng = backend_name, folder, kills, np.random.default_rng(seed)
        self.last = kills * STEPS
        self.unreadable: list[str] = []
        self.endings: list[dict[str, Any]] = []
        folder.mkdir(exist_ok=True)
        keys = streets.settings(
            streets.make(folder / 'data'),
            arch='tiny',
            auxiliary_weights={},
            model_args={},
            batch_size=2,
            crop_size=[32, 48],
            with_ema=True,
            num_parallel_workers=1,
            max_iters=self.last,
            val_interval=60,
            checkpoint_interval=3,
            collective_timeout=60,
        )
        (folder / 'soak.yaml').write_text('\n'.join(f'{key}: {json.dumps(value)}' for key, value in keys.items()))

    def start(self, run: Path, *more: str) -> subprocess.Popen:
        words = [
            '-m',
            'tests.support.faulty',
            'train',
            str(self.folder / 'soak.yaml'),
            '--backend',
            self.backend_name,
            '--device',
            'cpu',
            '--work-dir',
            str(run),
            *more,
        ]
        for name in NAMES:
            (self.folder / name).unlink(missing_ok=True)
        with (self.folder / 'output').open('a') as output:
            return subprocess.Popen(
                ranks.command(self.backend_name, 2, self.folder / 'msrun', *words),
                cwd=self.folder,
                env=ranks.environment(PIDS=str(self.folder), SLOW_DISK='0.1'),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def undisturbed(self) -> checkpoint.State:
        assert self.start(self.folder / 'whole').wait(1200) == 0
        return checkpoint.load(checkpoint.step_path(self.folder / 'whole' / 'checkpoints', self.last))[0]

    def disturbed(self) -> checkpoint.State:
        run = self.folder / 'killed'
        for number in range(self.kills):
            process = self.start(run, *['--resume'] * (number > 0))
            self.wait(process, number, moment := str(self.rng.choice(MOMENTS)), run)
            self.kill(process, run, moment, int(self.rng.integers(3)))
        assert self.start(run, '--resume').wait(1200) == 0
        return checkpoint.load(checkpoint.step_path(run / 'checkpoints', self.last))[0]

    def wait(self, process: subprocess.Popen, number: int, moment: str, run: Path) -> None:
        """Until a kill is due: kill ``number`` comes in steps STEPS * number and following, unless it is one at the start."""
        first = int(self.rng.integers(1, STEPS)) + STEPS * number
        delay = self.rng.uniform(0, 3) if moment == 'start' else self.rng.uniform(0, 0.3) if moment == 'step' else 0.02

        def due() -> bool:
            if moment == 'start':
                return all((self.folder / rank).exists() for rank in '01')
            return steps(run) >= first and (moment == 'step' or any((run / 'checkpoints').glob(f'{PART}*')))

        before = time.monotonic()
        while not due():
            assert process.poll() is None, (self.folder / 'output').read_text()[-5000:]
            assert time.monotonic() - before < LIMIT
            time.sleep(0.002)
        time.sleep(delay)

    def kill(self, process: subprocess.Popen, run: Path, moment: str, whom: int) -> None:
        """Rank 0, rank 1 or (2) all with their launcher; then waits until all have ended by themselves."""
        numbers = [int(path.read_text()) for name in NAMES if (path := self.folder / name).exists()]
        for number in numbers[whom : whom + 1] if whom < 2 else numbers[:2]:
            os.kill(number, signal.SIGKILL)
        if whom == 2:
            os.killpg(process.pid, signal.SIGKILL)
        before = time.monotonic()
        status = process.wait(LIMIT)
        assert status != 0
        while any(alive(number) for number in numbers):
            assert time.monotonic() - before < LIMIT
            time.sleep(0.01)
        for path in (run / 'checkpoints').glob('[!.]*.safetensors'):
            try:
                checkpoint.load(path)
            except checkpoint.StateError as error:
                self.unreadable.append(str(error))
        self.endings.append(
            {
                'moment': moment,
                'whom': ('rank 0', 'rank 1', 'all')[whom],
                'step': steps(run),
                'seconds': round(time.monotonic() - before, 1),
                'left': sorted(path.name for path in (run / 'checkpoints').glob(f'{PART}*')),
            }
        )
        print(self.endings[-1], flush=True)


def steps(run: Path) -> int:
    path = run / 'metrics.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)['step'] for line in lines if line.endswith('}')), default=0)


def alive(number: int) -> bool:
    try:
        return Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def soak(backend_name: str, folder: Path, kills: int, seed: int) -> Soak:
    made = Soak(backend_name, folder, kills, seed)
    whole, killed = made.undisturbed(), made.disturbed()
    assert made.unreadable == []
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not np.array_equal(whole[name], killed[name])] == []
    return made


@pytest.mark.timeout(2400)  # each kill takes 20 seconds, most of them msrun's
@pytest.mark.slow
@pytest.mark.parametrize('seed', [SEED])
def test_thirty_kills_change_nothing(backend_name, tmp_path, seed):
    made = soak(backend_name, tmp_path, KILLS, seed)
    assert len(made.endings) == KILLS and {end['moment'] for end in made.endings} == set(MOMENTS)
    assert {end['whom'] for end in made.endings} == {'rank 0', 'rank 1', 'all'}
    assert any(end['left'] for end in made.endings), 'a checkpoint was being written'


if __name__ == '__main__':
    name, place, *numbers = sys.argv[1:]
    began = time.monotonic()
    done = soak(name, Path(place), *map(int, [*numbers, *(KILLS, SEED)[len(numbers) :]]))
    print(
        f'{name}: {len(done.endings)} kills in {time.monotonic() - began:.0f} s, bit-identical, nothing unreadable; '
        f'{sum(bool(end["left"]) for end in done.endings)} while a checkpoint was written'
    )
