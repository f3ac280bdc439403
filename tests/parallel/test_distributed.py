"""Several processes: equal to one with the whole batch, agreed, and only one of them writes."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import ranks, streets
from tests.support.group import together
from tests.support.tiny import batch, tiny_network
from twinseg.common import checkpoint, config
from twinseg.common.errors import UserError
from twinseg.common.parallel.launch import pin, set_hccl_timeouts
from twinseg.common.parallel.processes import Group, check_agreement

ROOT = Path(__file__).parents[2]

PARAMETERS = 1e-5  # relative L2 distance of two processes from one


@pytest.fixture(scope='module')
def states(request, backend_name, tmp_path_factory):
    """The states after each case: of one process, and of both of two."""
    if backend_name == 'mindspore' and not request.config.getoption('--slow'):
        pytest.skip('needs --slow: a minute and more')
    folder = tmp_path_factory.mktemp('states')
    for size in (1, 2):
        done = ranks.start(
            backend_name, size, folder, '-m', 'tests.support.ranks', backend_name, str(folder), *ranks.CASES, *ranks.UNEQUAL
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return lambda case, size, rank: dict(np.load(folder / f'{case}_{size}_{rank}.npz'))


def distance(one, other, prefix) -> float:
    names = [name for name in one if name.startswith(prefix)]
    apart = sum(np.sum((one[name] - other[name]) ** 2) for name in names)
    return float(np.sqrt(apart / sum(np.sum(one[name] ** 2) for name in names)))


@pytest.mark.parametrize('case', ranks.CASES)
def test_two_processes_with_half_the_batch_equal_one_with_all(states, case):
    one, two = states(case, 1, 0), states(case, 2, 0)
    print(f'{case}: parameters {distance(one, two, "model."):.1e} apart')
    for prefix in {name.split('.')[0] for name in one}:
        assert distance(one, two, prefix) <= PARAMETERS, prefix
    again = states(case, 2, 1)
    assert [name for name in two if not np.array_equal(two[name], again[name])] == [], 'both processes have the same state'


def test_batch_norm_of_each_process_by_itself(states):
    one, two, again = states('own_norms', 1, 0), states('own_norms', 2, 0), states('own_norms', 2, 1)
    assert [name for name in two if not np.array_equal(two[name], again[name])] == [], 'both processes have the same state'
    name = next(name for name in one if name.endswith('running_mean'))
    assert 1e-6 < distance(one, two, 'model.') < 0.5
    np.testing.assert_allclose(two[name], one[name], rtol=0.1, atol=0.05)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return streets.make(tmp_path_factory.mktemp('streets'), count=5)


def train(backend_name, size, folder, data, name, *words, **changes):
    keys = streets.settings(data, **{'batch_size': 4 // size, 'max_iters': 4, 'val_interval': 4, 'with_ema': True, **changes})
    recipe = folder / f'{name}_{size}.yaml'
    recipe.write_text('\n'.join(f'{key}: {json.dumps(value)}' for key, value in keys.items()))
    return ranks.start(
        backend_name,
        size,
        folder,
        '-m',
        'twinseg',
        'train',
        str(recipe),
        '--backend',
        backend_name,
        '--device',
        'cpu',
        '--work-dir',
        name,
        *words,
    )


def records(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow  # of MindSpore, which compiles for minutes
def test_a_run_of_two_processes_is_that_of_one_and_goes_on_as_one(backend_name, data, tmp_path):
    whole = train(backend_name, 1, tmp_path, data, 'whole')
    assert whole.returncode == 0, whole.stderr
    both = train(backend_name, 2, tmp_path, data, 'both')
    assert both.returncode == 0, both.stdout + both.stderr
    text = (tmp_path / 'both' / 'log.txt').read_text()
    assert '2 processes with batches of 2' in text and text.count('step 4/4') == 1, 'one process writes'
    ours, theirs = (records(tmp_path / name) for name in ('whole', 'both'))
    assert [line['step'] for line in ours] == [line['step'] for line in theirs]
    assert theirs[0]['loss'] == pytest.approx(ours[0]['loss'], rel=1e-5)
    assert np.sum(theirs[-1]['confusion']) == np.sum(ours[-1]['confusion']), 'each image is evaluated once'
    checkpoint.step_path(tmp_path / 'both' / 'checkpoints', 4).unlink()
    alone = train(backend_name, 1, tmp_path, data, 'both', '--resume')
    assert alone.returncode == 0, alone.stderr
    assert 'at step 2' in (tmp_path / 'both' / 'log.txt').read_text()
    again = [line['loss'] for line in records(tmp_path / 'both') if line['step'] == 3 and line['kind'] == 'train']
    assert again == pytest.approx([line['loss'] for line in theirs if line['step'] == 3 and line['kind'] == 'train'], rel=1e-3)


def test_processes_that_differ_are_named():
    def check(group: Group) -> str:
        with pytest.raises(UserError) as error:
            check_agreement(group, {'the configuration': b'same', 'the state': bytes(group.rank // 2)})
        return str(error.value)

    found = together(4, check)
    assert len(set(found)) == 1 and found[0].startswith('the state of rank 2, 3 and of rank 0 differ')
    together(3, lambda group: check_agreement(group, {'the state': b'same'}))


@pytest.mark.parametrize(
    'cores, size, expected', [(8, 3, [{0, 1}, {2, 3, 4}, {5, 6, 7}]), (2, 2, [{0}, {1}]), (2, 3, [None] * 3)]
)
def test_a_process_keeps_to_its_cores(monkeypatch, cores, size, expected):
    found: list = []
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)))
    monkeypatch.setattr(os, 'sched_setaffinity', lambda _, share: found.append(set(share)))
    for rank in range(size):
        variables = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': size, 'LOCAL_WORLD_SIZE': size}
        for key, value in {**variables, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': 29500}.items():
            monkeypatch.setenv(key, str(value))
        pin('pytorch')
    assert found == [], 'only when asked'
    monkeypatch.setenv('PIN_CORES', '1')
    for rank in range(size):
        monkeypatch.setenv('LOCAL_RANK', str(rank))
        before = len(found)
        pin('pytorch')
        assert found[before:] == ([expected[rank]] if expected[rank] else [])


@pytest.mark.parametrize(
    'seconds, connect, execute',
    [(None, '1800', None), (60, '120', '68'), (69, '120', '136'), (600, '600', '612'), (99999, '7200', '17340')],
)
def test_hccl_waits_as_long_as_asked(monkeypatch, seconds, connect, execute):
    """In the range that it takes, and in multiples of 68 seconds, to which it would round down."""
    for name in ('HCCL_CONNECT_TIMEOUT', 'HCCL_EXEC_TIMEOUT'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    set_hccl_timeouts(seconds)
    assert (os.environ['HCCL_CONNECT_TIMEOUT'], os.environ.get('HCCL_EXEC_TIMEOUT')) == (connect, execute)
    monkeypatch.setenv('HCCL_CONNECT_TIMEOUT', '200')
    set_hccl_timeouts(None)
    assert os.environ['HCCL_CONNECT_TIMEOUT'] == '200'


GROUP_OF_ONE = """
import sys
import numpy as np
import torch.distributed as dist
from tests.support.tiny import batch, tiny_network
from twinseg.common import config
from twinseg.common.backend import get_backend

backend = get_backend('pytorch')
backend.setup('cpu')
trainer = backend.make_trainer(tiny_network('pytorch'), config.from_flat({'optimizer': 'sgd'}))
for number in range(2):
    trainer.step([batch(number)], 0.1)
group = backend.group()
np.savez(
    sys.argv[1],
    started=dist.is_initialized(),
    parallel=type(trainer.losses).__name__,
    gathered=group.all_gather(np.arange(3)),
    **trainer.state()[0],
)
"""


def test_a_group_of_one_process_runs_the_collectives(tmp_path):
    """What a machine with one GPU can show of NCCL; with gloo it computes what a process without a group does."""
    pytest.importorskip('torch')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    group = {'WORLD_SIZE': '1', 'RANK': '0', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    states = {}
    for name, environment in {'alone': {}, 'group': {**group, 'TWINSEG_GROUP_OF_ONE': '1'}}.items():
        words = [sys.executable, '-c', GROUP_OF_ONE, str(tmp_path / f'{name}.npz')]
        subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, **environment})
        states[name] = dict(np.load(tmp_path / f'{name}.npz'))
    facts = {name: [state.pop(key) for key in ('started', 'parallel', 'gathered')] for name, state in states.items()}
    assert facts['group'][:2] == [True, 'DistributedDataParallel'] and facts['group'][2].tolist() == [[0, 1, 2]]
    assert facts['alone'][:2] == [False, 'Losses']
    assert states['alone'].keys() == states['group'].keys()
    for key, value in states['alone'].items():
        np.testing.assert_array_equal(states['group'][key], value)


def test_data_parallel_is_pytorchs(backend):
    settings = config.from_flat({'launcher': 'dp'})
    if backend.name == 'mindspore':
        with pytest.raises(UserError, match="launcher: dp is PyTorch's"):
            backend.make_trainer(tiny_network(backend.name), settings)
        return
    ours, theirs = (backend.make_trainer(tiny_network(backend.name, 0.5), chosen) for chosen in (config.Config(), settings))
    for seed in range(2):
        assert ours.step([batch(seed)], 0.1) == theirs.step([batch(seed)], 0.1)
    assert all(np.array_equal(value, theirs.state()[0][name]) for name, value in ours.state()[0].items())


def test_data_parallel_shares_the_masks_like_the_batch(monkeypatch):
    torch = pytest.importorskip('torch')
    from twinseg.pytorch_impl import distributed
    from twinseg.pytorch_impl.network import draw_dropout

    monkeypatch.setattr(torch.nn.DataParallel, 'replicate', lambda _, module, devices: [copy.deepcopy(module) for _ in devices])
    network = tiny_network('pytorch', 0.5)
    draw_dropout(network, 5, (0, 0, 0))
    spread = distributed.spread(network)
    spread.device_ids = ['cpu', 'cpu']
    masks = [replica.dropout.mask for replica in spread.replicate(network, spread.device_ids)]
    assert [len(mask) for mask in masks] == [3, 2] and torch.equal(torch.cat(masks), network.dropout.mask)
