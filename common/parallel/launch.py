"""Launchers start processes together and describe each one in its environment, which is read here without a framework.

A launcher starts the same command once for every device: ``torchrun`` (and ``python -m torch.distributed.launch``) for
PyTorch, ``msrun`` for MindSpore. PyTorch's processes may be started by ``mpirun`` and ``srun``, too: they meet by what these
say. A variable that is set and empty is one that is not set.
"""

import os
import re
from typing import NamedTuple, Optional

from twinseg.common.errors import BackendError, UserError

LAUNCHERS = {'pytorch': 'torchrun', 'mindspore': 'msrun'}
CONNECT = 1800  # seconds until the first collective: a compilation for an Ascend takes minutes
GROUP_OF_ONE = (
    'TWINSEG_GROUP_OF_ONE'  # set to 1, one process of torchrun is a group, too: the collectives of a machine with one GPU
)
TORCHRUN = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
OTHERS = {  # size, rank, rank on its host: of Open MPI, MVAPICH, MPICH and Intel MPI, and Slurm, which may have started these
    'OMPI_COMM_WORLD_SIZE': ('mpirun', 'OMPI_COMM_WORLD_RANK', ('OMPI_COMM_WORLD_LOCAL_RANK',)),
    'MV2_COMM_WORLD_SIZE': ('mpirun', 'MV2_COMM_WORLD_RANK', ('MV2_COMM_WORLD_LOCAL_RANK',)),
    'PMI_SIZE': ('mpirun', 'PMI_RANK', ('MPI_LOCALRANKID', 'PMI_LOCAL_RANK', 'SLURM_LOCALID')),
    'SLURM_STEP_NUM_TASKS': ('srun', 'SLURM_PROCID', ('SLURM_LOCALID',)),
}
PORT = 29500  # torchrun's own
MAX_PORT = 65535


class Launch(NamedTuple):
    """A process as its launcher started it."""

    rank: int
    local_rank: int  # among the processes of its host: the number of its device
    size: int
    by: str = 'torchrun'
    address: str = ''  # where they meet: a host, and a port of it
    port: int = 0

    def environment(self) -> dict[str, str]:
        """What torchrun would set, for a process that another launcher started."""
        values = (self.rank, self.size, self.local_rank, self.address, self.port)
        return dict(zip(TORCHRUN, map(str, values))) if self.address else {}


def launched(backend_name: str) -> Optional[Launch]:
    """Facts about this process from the launcher of a backend; None without a launcher.

    BackendError when another backend's launcher has started it: its processes would not find each other. UserError for
    variables that contradict each other, or of which some are missing.
    """
    launch = _launch()
    if launch is None:
        return None
    if launch.by in ('mpirun', 'srun') and backend_name == 'mindspore':
        raise BackendError(
            f"started by {launch.by} as process {launch.rank} of {launch.size}: MindSpore's processes are started by msrun: "
            f'msrun --worker_num={launch.size} --local_worker_num={launch.size} --join=True python -m twinseg ...'
        )
    if launch.by in LAUNCHERS.values() and launch.by != LAUNCHERS[backend_name]:
        needed = LAUNCHERS[backend_name]
        raise BackendError(f'started by {launch.by}, but --backend {backend_name} needs {needed}: start it with that')
    return launch


def _launch() -> Optional[Launch]:
    """What the environment says; None for a process by itself."""
    if _value('MS_ROLE'):
        rank, local_rank, size = (int(_value(name) or 0) for name in ('RANK_ID', 'DEVICE_ID', 'MS_WORKER_NUM'))
        return Launch(rank, local_rank, size, 'msrun')
    return _of_torchrun() or _of_others()


def _of_torchrun() -> Optional[Launch]:
    given = {name: _value(name) for name in TORCHRUN}
    numbers = {name: _number(name) for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT')}
    rank, size, local_rank = (numbers[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'))
    start = 'start the processes with torchrun, which sets all of them, or unset'
    if size is None:
        for name in ('RANK', 'LOCAL_RANK'):
            if numbers[name]:
                raise UserError(f'{name}={numbers[name]} is set in the environment, but WORLD_SIZE is not: {start} {name}')
        return None
    if not size or (rank or 0) >= size or (local_rank or 0) >= size:
        wrong = ' '.join(f'{name}={given[name]}' for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE') if given[name])
        raise UserError(f'{wrong} contradict each other in the environment, for ranks count from 0: {start} them')
    if size == 1 and _value(GROUP_OF_ONE) != '1':
        return None
    if missing := [name for name, value in given.items() if not value]:
        raise UserError(f'WORLD_SIZE={size} is set in the environment, but {" and ".join(missing)} not: {start} WORLD_SIZE')
    port = numbers['MASTER_PORT'] or 0
    if not 0 < port <= MAX_PORT:
        raise UserError(f'MASTER_PORT={port}: expected a port, 1 to {MAX_PORT}')
    return Launch(rank or 0, local_rank or 0, size, 'torchrun', given['MASTER_ADDR'], port)


def _of_others() -> Optional[Launch]:
    """A process of mpirun or srun, beside others."""
    variable = next((name for name in OTHERS if (_number(name) or 1) > 1), None)
    if variable is None:
        return None
    size, (by, rank_name, local_names) = _number(variable) or 1, OTHERS[variable]
    rank, local_rank = _number(rank_name), next((_number(name) for name in local_names if _value(name)), None)
    if rank is None or local_rank is None:
        if by == 'srun':  # the shell of an allocation
            return None
        missing = rank_name if rank is None else ' or '.join(local_names)
        raise UserError(f'{variable}={size} is set in the environment, but {missing} not: start the processes with torchrun')
    hosts = _number('SLURM_STEP_NUM_NODES') or _number('SLURM_NNODES') or 1 if by == 'srun' else 1 if rank == local_rank else 2
    address = _value('MASTER_ADDR') or ('127.0.0.1' if hosts == 1 else _first_host())
    if not address:
        raise UserError(
            f'started by {by} on several hosts: set MASTER_ADDR to the host of rank 0, and MASTER_PORT to a free port of it'
        )
    job = (_number('SLURM_JOB_ID') or 0) * 7 + (_number('SLURM_STEP_ID') or 0)
    port = _number('MASTER_PORT') or (20000 + job % 10000 if by == 'srun' else PORT)
    return Launch(rank, local_rank, size, by, address, port)


def _first_host() -> str:
    """The first host of a Slurm job's list, such as gpu[07-09,12],login1; empty without one."""
    text = re.match(r'([^\[,]+)(?:\[(\d+))?', _value('SLURM_STEP_NODELIST') or _value('SLURM_JOB_NODELIST'))
    return text[1] + (text[2] or '') if text else ''


def _value(name: str) -> str:
    return os.environ.get(name, '').strip()


def _number(name: str) -> Optional[int]:
    """A variable's number; None where it is not set, UserError where it holds none."""
    text = _value(name)
    if text and not re.fullmatch('[0-9]{1,9}', text):
        raise UserError(f'{name}={text!r} in the environment: expected a number')
    return int(text) if text else None


def pin(backend_name: str) -> None:
    """Keeps this process on its share of the host's cores where ``PIN_CORES=1`` and ``LOCAL_WORLD_SIZE``, the processes of
    the host, ask for it (``scripts/``); does nothing where there are fewer cores than processes."""
    launch, size = launched(backend_name), _number('LOCAL_WORLD_SIZE') or 1
    if launch is None or os.environ.get('PIN_CORES') != '1' or not hasattr(os, 'sched_setaffinity'):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= size:
        os.sched_setaffinity(0, cores[launch.local_rank * len(cores) // size : (launch.local_rank + 1) * len(cores) // size])


def set_hccl_timeouts(seconds: Optional[int]) -> None:
    """How long processes with Ascend cards wait for each other: HCCL reads it in the environment at its first collective.

    HCCL_CONNECT_TIMEOUT, 120 to 7200 seconds: until all have come to the first collective, which follows on the data set and a
    compilation. HCCL_EXEC_TIMEOUT, 68 to 17340: in every collective; HCCL rounds it down to a multiple of 68. Without
    ``seconds`` the user's values stay, and the first one, by default 120, is CONNECT.
    """
    if seconds is None:
        os.environ.setdefault('HCCL_CONNECT_TIMEOUT', str(CONNECT))
        return
    os.environ['HCCL_CONNECT_TIMEOUT'] = str(min(max(seconds, 120), 7200))
    os.environ['HCCL_EXEC_TIMEOUT'] = str(min(-(-seconds // 68) * 68, 17340))


def rank() -> int:
    """The rank of this process, by its launcher; 0 without one. UserError as from ``launched``."""
    launch = _launch()
    return launch.rank if launch else 0


def error_prefix() -> str:
    """Beginning of an error of one of several processes: its rank. Empty without a launcher."""
    if _value('MS_ROLE') == 'MS_SCHED':
        return 'scheduler: '
    try:
        launch = _launch()
    except UserError:  # which is what is told
        return ''
    return f'rank {launch.rank}: ' if launch and launch.size > 1 else ''
