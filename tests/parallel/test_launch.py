"""What the variables of launchers say of a process: set, empty, alone, contradictory, and of mpirun and srun."""

import os
import socket

import pytest

from tests.support import ranks
from twinseg.common.errors import BackendError, UserError
from twinseg.common.parallel import launch
from twinseg.common.parallel.launch import launched

TORCHRUN = {'RANK': '3', 'LOCAL_RANK': '1', 'WORLD_SIZE': '4', 'MASTER_ADDR': 'host', 'MASTER_PORT': '29501'}
MSRUN = {'MS_ROLE': 'MS_WORKER', 'RANK_ID': '3', 'DEVICE_ID': '1', 'MS_WORKER_NUM': '4'}
MPIRUN = {'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_RANK': '1'}
SRUN = {'SLURM_STEP_NUM_TASKS': '2', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '1', 'SLURM_JOB_ID': '70', 'SLURM_STEP_ID': '2'}
TWO_HOSTS = {**SRUN, 'SLURM_LOCALID': '0', 'SLURM_STEP_NUM_NODES': '2', 'SLURM_STEP_NODELIST': 'gpu[07-09,12],login1'}

JOINS = {  # rank, local rank, size, address, port
    'torchrun': (TORCHRUN, (3, 1, 4, 'host', 29501)),
    'torchrun below srun': ({**TORCHRUN, **SRUN}, (3, 1, 4, 'host', 29501)),
    'mpirun': (MPIRUN, (1, 1, 2, '127.0.0.1', 29500)),
    'mpirun, told where': ({**MPIRUN, 'MASTER_ADDR': 'a', 'MASTER_PORT': '7'}, (1, 1, 2, 'a', 7)),
    'mpirun beside empty variables': ({**dict.fromkeys(TORCHRUN, ''), **MPIRUN}, (1, 1, 2, '127.0.0.1', 29500)),
    "Intel MPI's mpirun": ({'PMI_SIZE': '2', 'PMI_RANK': '1', 'MPI_LOCALRANKID': '1'}, (1, 1, 2, '127.0.0.1', 29500)),
    'srun': (SRUN, (1, 1, 2, '127.0.0.1', 20492)),
    'srun on two hosts': (TWO_HOSTS, (1, 0, 2, 'gpu07', 20492)),
    'srun on named hosts': ({**TWO_HOSTS, 'SLURM_STEP_NODELIST': 'alpha,beta'}, (1, 0, 2, 'alpha', 20492)),
}
ALONE = {
    'nothing': {},
    'empty': dict.fromkeys(TORCHRUN, ''),
    'rank 0 without a size': {'RANK': '0', 'LOCAL_RANK': '0'},
    'one of one': {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': 'x', 'MASTER_PORT': '1'},
    'addresses alone': {'MASTER_ADDR': 'x', 'MASTER_PORT': '1'},
    "the model zoo's": {'RANK_ID': '0', 'RANK_SIZE': '1'},
    'one task of srun': {**SRUN, 'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0'},
    'the shell of an allocation': {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2', 'SLURM_NNODES': '1'},
}
WRONG = {
    'a rank alone': (
        {'RANK': '1'},
        'RANK=1 is set in the environment, but WORLD_SIZE is not: .*, or unset RANK',
    ),
    'a local rank alone': ({'LOCAL_RANK': '1'}, 'LOCAL_RANK=1 is set in the environment, but WORLD_SIZE is not'),
    'a size alone': ({'WORLD_SIZE': '2'}, 'WORLD_SIZE=2 is set .* but RANK and LOCAL_RANK and MASTER_ADDR and MASTER_PORT not'),
    'no port': ({**TORCHRUN, 'MASTER_PORT': ''}, 'but MASTER_PORT not'),
    'a rank beyond': ({**TORCHRUN, 'RANK': '4'}, 'RANK=4 LOCAL_RANK=1 WORLD_SIZE=4 contradict each other'),
    'rank 1 of one': ({**TORCHRUN, 'WORLD_SIZE': '1'}, 'RANK=3 LOCAL_RANK=1 WORLD_SIZE=1 contradict each other'),
    'none of none': ({'WORLD_SIZE': '0'}, 'WORLD_SIZE=0 contradict'),
    'a word': ({**TORCHRUN, 'RANK': 'first'}, "RANK='first' in the environment: expected a number"),
    'no port at all': ({**TORCHRUN, 'MASTER_PORT': '99999'}, 'MASTER_PORT=99999: expected a port, 1 to 65535'),
    'mpirun without ranks': ({'PMI_SIZE': '2'}, 'PMI_SIZE=2 is set .* but PMI_RANK not'),
    'mpirun on two hosts': (
        {**MPIRUN, 'OMPI_COMM_WORLD_LOCAL_RANK': '0'},
        'by mpirun on several hosts: set MASTER_ADDR',
    ),
}


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in (*TORCHRUN, *MSRUN, *launch.OTHERS, launch.GROUP_OF_ONE):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize('case', JOINS)
def test_a_process_of_several(monkeypatch, case):
    variables, expected = JOINS[case]
    given(monkeypatch, variables)
    found = launched('pytorch')
    assert (found.rank, found.local_rank, found.size, found.address, found.port) == expected
    assert launch.rank() == expected[0] and launch.error_prefix() == f'rank {expected[0]}: '
    assert found.environment()['RANK'] == str(expected[0])


def test_a_process_of_msrun(monkeypatch):
    given(monkeypatch, MSRUN)
    assert launched('mindspore')[:3] == (3, 1, 4) and launch.rank() == 3


@pytest.mark.parametrize('case', ALONE)
def test_a_process_by_itself(monkeypatch, case):
    given(monkeypatch, ALONE[case])
    assert launched('pytorch') is None and launch.rank() == 0 and launch.error_prefix() == ''


@pytest.mark.parametrize('case', WRONG)
def test_what_says_no_place_is_refused(monkeypatch, case):
    variables, message = WRONG[case]
    given(monkeypatch, variables)
    for ask in (lambda: launched('pytorch'), launch.rank):
        with pytest.raises(UserError, match=message):
            ask()
    assert launch.error_prefix() == ''


@pytest.mark.parametrize(
    'name, variables, message',
    [
        ('mindspore', TORCHRUN, 'started by torchrun, but --backend mindspore needs msrun'),
        ('pytorch', MSRUN, 'started by msrun, but --backend pytorch needs torchrun'),
        ('mindspore', MPIRUN, 'started by mpirun as process 1 of 2: .* msrun --worker_num=2 --local_worker_num=2'),
        ('mindspore', SRUN, 'started by srun as process 1 of 2: .* are started by msrun'),
    ],
)
def test_the_wrong_launcher_is_refused(monkeypatch, name, variables, message):
    given(monkeypatch, variables)
    with pytest.raises(BackendError, match=message):
        launched(name)


def test_a_port_in_use_is_named(monkeypatch):
    torch = pytest.importorskip('torch')
    from twinseg.pytorch_impl import distributed

    monkeypatch.setattr(os, 'environ', ranks.environment())  # ``join`` adds to it
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f'MASTER_PORT={port} is in use here: set it to a free port'):
            os.environ.update(launch.Launch(0, 0, 2, 'mpirun', '127.0.0.1', port).environment())
            distributed.join(torch.device('cpu'), 5)
