"""Two hosts, as network namespaces of this one: a process each, started by the script, and one host that dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import streets
from twinseg.common import checkpoint

ROOT = Path(__file__).parents[2]
ADDRESSES = ('10.213.77.1', '10.213.77.2')
pytestmark = pytest.mark.slow


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two namespaces that reach each other."""
    names, links = ([f'{kind}{os.getpid()}{letter}' for letter in 'ab'] for kind in ('twinseg', 'ts'))
    if shutil.which('ip') is None or subprocess.run(['ip', 'netns', 'add', names[0]], capture_output=True).returncode:
        pytest.skip('network namespaces need root and ip (iproute2)')
    try:
        ip('netns', 'add', names[1])
        ip('link', 'add', links[0], 'netns', names[0], 'type', 'veth', 'peer', 'name', links[1], 'netns', names[1])
        for name, link, address in zip(names, links, ADDRESSES):
            ip('-n', name, 'address', 'add', f'{address}/24', 'dev', link)
            ip('-n', name, 'link', 'set', link, 'up')
            ip('-n', name, 'link', 'set', 'lo', 'up')
        yield names
    finally:
        for name in names:
            for number in pids(name):
                os.kill(number, signal.SIGKILL)
            subprocess.run(['ip', 'netns', 'delete', name], capture_output=True)


def ip(*words: str) -> str:
    return subprocess.run(['ip', *words], check=True, capture_output=True, text=True).stdout


def pids(name: str) -> list[int]:
    return list(map(int, subprocess.run(['ip', 'netns', 'pids', name], capture_output=True, text=True).stdout.split()))


@pytest.fixture
def start(backend_name, hosts, tmp_path):
    """Starts the training on both hosts."""

    def start(**changes) -> list[subprocess.Popen]:
        keys = streets.settings(
            streets.make(tmp_path / 'data', count=4),
            **{
                'batch_size': 2,
                'max_iters': 4,
                'val_interval': 4,
                'collective_timeout': 60,
                'graph_mode': int(backend_name == 'mindspore'),
                **changes,
            },
        )
        (tmp_path / 'hosts.yaml').write_text('\n'.join(f'{key}: {json.dumps(value)}' for key, value in keys.items()))
        environment = {
            **os.environ,
            'TWINSEG_PYTHON': sys.executable,
            'BACKEND': backend_name,
            'DEVICE_TARGET': 'CPU',
            'DEVICE_NUM': '1',
            'NNODES': '2',
            'MASTER_ADDR': ADDRESSES[0],
            'MASTER_PORT': '29600',
        }
        processes = []
        for rank, name in enumerate(hosts):
            with (tmp_path / f'output_{rank}').open('w') as output:
                processes.append(
                    subprocess.Popen(
                        [
                            'ip',
                            'netns',
                            'exec',
                            name,
                            'bash',
                            str(ROOT / 'scripts' / 'run_distribute_train_gpu.sh'),
                            'hosts.yaml',
                        ],
                        cwd=tmp_path,
                        env={**environment, 'NODE_RANK': str(rank)},
                        stdout=output,
                        stderr=output,
                    )
                )
        return processes

    return start


def test_two_hosts_train_together(start, tmp_path):
    processes = start()
    assert [process.wait(400) for process in processes] == [0, 0], (tmp_path / 'output_0').read_text()
    run = tmp_path / 'train_parallel_nodes' / 'run'
    assert checkpoint.load(checkpoint.step_path(run / 'checkpoints', 4))[1].world_size == 2
    assert '2 processes with batches of 2' in (run / 'log.txt').read_text()


@pytest.mark.parametrize('dies', [1, 0])
def test_the_other_host_ends_when_one_dies(start, hosts, tmp_path, dies):
    processes = start(max_iters=100000, val_interval=100000)
    metrics = tmp_path / 'train_parallel_nodes' / 'run' / 'metrics.jsonl'
    while not metrics.exists() or metrics.read_text().count('\n') < 3:
        assert all(process.poll() is None for process in processes), (tmp_path / 'output_0').read_text()
        time.sleep(0.1)
    for number in pids(hosts[dies]):
        os.kill(number, signal.SIGKILL)
    before = time.monotonic()
    assert processes[1 - dies].wait(300) != 0
    said = (tmp_path / f'output_{1 - dies}').read_text()
    print(f'ended after {time.monotonic() - before:.0f} s: {said.strip().splitlines()[-1]}')
    assert 'twinseg: error: ' in said.strip().splitlines()[-1] and 'lost' in said.strip().splitlines()[-1]
    assert pids(hosts[1 - dies]) == [], 'nothing is left behind'
    assert not list((metrics.parent / 'checkpoints').glob('*.tmp'))
