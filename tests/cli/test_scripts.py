"""The shell scripts: arguments, relative paths, folders, logs, exit status; with a stub in the place of Python."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RECIPE = 'fast_scnn_8xb4-160k_cityscapes-512x1024'
TRAIN = {'run_standalone_train_gpu.sh': ('pytorch', 'gpu'), 'run_standalone_train_ascend.sh': ('mindspore', 'ascend')}
EVAL = {'run_eval_gpu.sh': ('pytorch', 'gpu'), 'run_eval_ascend.sh': ('mindspore', 'ascend')}
DISTRIBUTE = ['run_distribute_train_gpu.sh', 'run_distribute_train_ascend.sh']
STUB = """#!/usr/bin/env bash
[[ $1 == -m ]] || exit 0  # versions for env.log
if [[ $3 == ranks ]]; then
    [[ -z ${STUB_REFUSES:-} ]] || { echo 'twinseg: error: server_count' >&2; exit 2; }
    printf '%b\\n' "${STUB_HOSTS:-0,1}"
    exit
fi
printf '%s\\n' "$PWD" > "$STUB_LOG/cwd"
printf '%s\\n' "$@" > "$STUB_LOG/argv"
env > "$STUB_LOG/env"
echo to stdout
echo to stderr >&2
exit "${STUB_STATUS:-0}"
"""


class Place:
    """A folder where a user stands, with a configuration, a checkpoint, and the stub."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder / 'here', folder / 'log'
        self.folder.mkdir()
        self.log.mkdir()
        self.stub = folder / 'python'
        self.stub.write_text(STUB)
        self.stub.chmod(0o755)
        (self.folder / 'my.yaml').write_text('arch: fast_scnn\n')
        (self.folder / 'best.safetensors').write_bytes(b'')
        (self.folder / 'hccl.json').write_text('{}')

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        clean = {key: os.environ[key] for key in ('PATH', 'HOME') if key in os.environ}
        return subprocess.run(
            ['bash', str(ROOT / 'scripts' / script), *arguments],
            cwd=self.folder,
            env={**clean, 'TWINSEG_PYTHON': str(self.stub), 'STUB_LOG': str(self.log), **environment},
            capture_output=True,
            text=True,
        )

    @property
    def argv(self) -> list[str]:
        return (self.log / 'argv').read_text().splitlines()

    @property
    def environment(self) -> dict[str, str]:
        return dict(line.split('=', 1) for line in (self.log / 'env').read_text().splitlines() if '=' in line)

    def option(self, name: str) -> str:
        return self.argv[self.argv.index(name) + 1]


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def eventually(path: Path, text: str) -> bool:
    """Whether a log that another process still writes comes to hold a text."""
    for _ in range(100):
        if path.is_file() and text in path.read_text():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize('script, expected', TRAIN.items())
def test_training(place, script, expected):
    done = place.run(script, '3', 'my.yaml')
    assert done.returncode == 0, done.stderr
    folder = place.folder / 'train_standalone'
    assert place.argv[:3] == ['-m', 'twinseg', 'train']
    assert place.argv[3] == str(place.folder / 'my.yaml')
    assert (place.option('--backend'), place.option('--device')) == expected
    assert place.option('--work-dir') == str(folder / 'run')
    assert '--resume' not in place.argv
    assert (place.log / 'cwd').read_text().strip() == str(place.folder)
    assert eventually(folder / 'log.txt', 'to stdout') and eventually(folder / 'log.txt', 'to stderr')
    assert f'device_target={expected[1]}' in (folder / 'env.log').read_text()


@pytest.mark.parametrize('script, expected', EVAL.items())
def test_evaluation(place, script, expected):
    done = place.run(script, '0', 'my.yaml', 'best.safetensors')
    assert done.returncode == 0, done.stderr
    folder = place.folder / f'evaluation_{expected[1]}'
    assert place.argv[:4] == ['-m', 'twinseg', 'eval', str(place.folder / 'my.yaml')]
    assert (place.option('--backend'), place.option('--device')) == expected
    assert place.option('--checkpoint') == str(place.folder / 'best.safetensors')
    assert place.option('--json') == str(folder / 'result.json')
    assert eventually(folder / 'eval.log', 'to stdout')


@pytest.mark.parametrize(
    'script, variable',
    [('run_standalone_train_gpu.sh', 'CUDA_VISIBLE_DEVICES'), ('run_standalone_train_ascend.sh', 'ASCEND_RT_VISIBLE_DEVICES')],
)
def test_the_process_sees_one_device_as_number_0(place, script, variable):
    place.run(script, '5', 'my.yaml', DEVICE_ID='7', RANK_SIZE='8')
    assert place.environment[variable] == '5'
    assert (place.environment['DEVICE_ID'], place.environment['RANK_SIZE']) == ('0', '1')


@pytest.mark.parametrize('script', [*TRAIN, *EVAL])
def test_backend_and_target_can_be_chosen(place, script):
    arguments = ['0', 'my.yaml', 'best.safetensors'][: 2 if script in TRAIN else 3]
    other = {'pytorch': 'mindspore', 'mindspore': 'pytorch'}[{**TRAIN, **EVAL}[script][0]]
    assert place.run(script, *arguments, BACKEND=other, DEVICE_TARGET='CPU').returncode == 0
    assert (place.option('--backend'), place.option('--device')) == (other, 'cpu')


@pytest.mark.parametrize('name', [RECIPE, f'{RECIPE}.yaml', f'fastscnn/{RECIPE}', f'fastscnn/{RECIPE}.yaml'])
def test_a_recipe_goes_by_its_name(place, name):
    assert place.run('run_standalone_train_gpu.sh', '0', name).returncode == 0
    assert place.argv[3] == name


@pytest.mark.parametrize('status', [0, 1, 2, 137])
@pytest.mark.parametrize('script', [*TRAIN, *EVAL])
def test_the_exit_status_passes_through(place, script, status):
    arguments = ['0', 'my.yaml', 'best.safetensors'][: 2 if script in TRAIN else 3]
    assert place.run(script, *arguments, STUB_STATUS=str(status)).returncode == status


BAD = [
    ('run_standalone_train_gpu.sh', [], {}, 'usage: bash scripts/run_standalone_train_gpu.sh DEVICE_ID CONFIG'),
    ('run_standalone_train_ascend.sh', ['0'], {}, 'usage: bash scripts/run_standalone_train_ascend.sh DEVICE_ID CONFIG'),
    ('run_standalone_train_gpu.sh', ['0', 'my.yaml', 'more'], {}, 'usage:'),
    ('run_eval_gpu.sh', ['0', 'my.yaml'], {}, 'usage: bash scripts/run_eval_gpu.sh DEVICE_ID CONFIG CHECKPOINT'),
    ('run_standalone_train_gpu.sh', ['my.yaml', '0'], {}, 'DEVICE_ID my.yaml: expected a number'),
    ('run_standalone_train_gpu.sh', ['-1', 'my.yaml'], {}, 'DEVICE_ID -1: expected a number'),
    ('run_standalone_train_gpu.sh', ['0', 'absent.yaml'], {}, 'CONFIG absent.yaml: neither a file nor a recipe'),
    ('run_standalone_train_gpu.sh', ['0', f'stdc/{RECIPE}'], {}, 'neither a file nor a recipe'),
    ('run_standalone_train_gpu.sh', ['0', 'camvid'], {}, 'neither a file nor a recipe'),  # only a base of recipes
    (
        'run_eval_ascend.sh',
        ['0', 'my.yaml', 'absent.ckpt'],
        {},
        'CHECKPOINT absent.ckpt: no such file',
    ),
    ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'BACKEND': 'jax'}, 'BACKEND=jax: expected pytorch or mindspore'),
    ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'DEVICE_TARGET': 'cpu'}, 'expected CPU, GPU or Ascend'),
    ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'TWINSEG_PYTHON': '/absent'}, 'TWINSEG_PYTHON=/absent is no program'),
    ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'RESUME': '1'}, 'there is no'),
    ('run_distribute_train_gpu.sh', [], {}, 'usage: bash scripts/run_distribute_train_gpu.sh CONFIG'),
    ('run_distribute_train_gpu.sh', ['0', 'my.yaml'], {}, 'usage:'),
    ('run_distribute_train_ascend.sh', ['my.yaml'], {}, 'run_distribute_train_ascend.sh RANK_TABLE_FILE CONFIG'),
    ('run_distribute_train_ascend.sh', ['absent.json', 'my.yaml'], {}, 'RANK_TABLE_FILE absent.json: no such file'),
    ('run_distribute_train_ascend.sh', ['hccl.json', 'my.yaml'], {'STUB_REFUSES': '1'}, 'twinseg: error: server_count'),
    ('run_distribute_train_ascend.sh', ['hccl.json', 'my.yaml'], {'STUB_HOSTS': '0\\n0'}, 'lists 2 hosts, but NNODES=1'),
    ('run_distribute_train_ascend.sh', ['hccl.json', 'my.yaml'], {'DEVICE_NUM': '3'}, 'lists 2 devices for this host'),
    ('run_distribute_train_gpu.sh', ['absent.yaml'], {}, 'neither a file nor a recipe'),
    ('run_distribute_train_gpu.sh', ['my.yaml'], {'DEVICE_NUM': 'all'}, 'DEVICE_NUM=all: expected a number'),
    ('run_distribute_train_gpu.sh', ['my.yaml'], {'DEVICE_TARGET': 'CPU'}, 'set DEVICE_NUM'),
    ('run_distribute_train_gpu.sh', ['my.yaml'], {'NNODES': '2'}, 'set MASTER_ADDR'),
    ('run_distribute_train_gpu.sh', ['my.yaml'], {'NNODES': 'two'}, 'NNODES=two: expected a number'),
    ('run_distribute_train_gpu.sh', ['my.yaml'], {'NNODES': '2', 'NODE_RANK': '2'}, 'expected 0 to 1'),
    ('run_distribute_train_gpu.sh', ['my.yaml'], {'DEVICE_NUM': '2', 'MASTER_PORT': 'ssh'}, 'expected a port'),
]


@pytest.mark.parametrize('script, arguments, environment, message', BAD)
def test_bad_arguments_are_refused_and_nothing_is_left(place, script, arguments, environment, message):
    before = sorted(place.folder.iterdir())
    done = place.run(script, *arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr and not done.stdout
    assert sorted(place.folder.iterdir()) == before and not (place.log / 'argv').exists()


def test_a_process_for_each_device_of_the_rank_table(place):
    done = place.run('run_distribute_train_ascend.sh', 'hccl.json', 'my.yaml', STUB_HOSTS='0,1,4')
    assert done.returncode == 0, done.stderr
    folder = place.folder / 'train_parallel'
    assert place.argv[:2] == ['-m', 'mindspore.parallel.cluster.run']
    assert (place.option('--worker_num'), place.option('--local_worker_num'), place.option('--node_rank')) == ('3', '3', '0')
    assert place.option('--rank_table_file') == str(place.folder / 'hccl.json')
    assert place.option('--log_dir').startswith(str(folder / 'ranks_'))
    after = place.argv[place.argv.index('python') :]
    assert after[:5] == ['python', '-m', 'twinseg', 'train', str(place.folder / 'my.yaml')]
    assert after[5:] == ['--backend', 'mindspore', '--device', 'ascend', '--work-dir', str(folder / 'run')]
    assert place.environment['RANK_TABLE_FILE'] == str(place.folder / 'hccl.json')
    assert place.environment['ASCEND_RT_VISIBLE_DEVICES'] == '0,1,4'
    assert eventually(folder / 'log.txt', 'to stdout') and eventually(folder / 'log.txt', 'to stderr')
    assert 'device_target=ascend' in (folder / 'env.log').read_text()


def with_program(place: Place, name: str, text: str, status: int = 0) -> dict[str, str]:
    """A PATH that begins with a program that prints a text."""
    program = place.folder.parent / name
    program.write_text(f'#!/bin/sh\nprintf %s {shlex.quote(text)}\nexit {status}\n')
    program.chmod(0o755)
    return {'PATH': f'{program.parent}:{os.environ["PATH"]}'}


TWO_GPUS = 'GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n'
EIGHT_GPUS = ''.join(f'GPU {number}: NVIDIA H100 (UUID: GPU-{number})\n' for number in range(8))
MIG = 'GPU 0: NVIDIA H100 (UUID: GPU-1)\n  MIG 3g.40gb Device 0: (UUID: MIG-a)\n  MIG 3g.40gb Device 1: (UUID: MIG-b)\n'
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\nMake sure that it runs.\n"


@pytest.mark.parametrize(
    'listed, environment, count',
    [
        (EIGHT_GPUS, {}, '8'),
        (EIGHT_GPUS, {'CUDA_VISIBLE_DEVICES': '4,5'}, '2'),
        (EIGHT_GPUS, {'CUDA_VISIBLE_DEVICES': 'GPU-4,GPU-5,GPU-6'}, '3'),
        (EIGHT_GPUS, {'CUDA_VISIBLE_DEVICES': '4,5', 'DEVICE_NUM': '1'}, '1'),
        (MIG, {'CUDA_VISIBLE_DEVICES': 'MIG-b'}, '1'),
    ],
)
def test_processes_are_as_many_as_the_gpus_that_are_visible(place, listed, environment, count):
    done = place.run('run_distribute_train_gpu.sh', 'my.yaml', **with_program(place, 'nvidia-smi', listed), **environment)
    assert done.returncode == 0, done.stderr
    assert place.option('--nproc-per-node') == count


@pytest.mark.parametrize(
    'listed, status, environment, message',
    [
        (NO_DRIVER, 9, {}, "nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
        ('No devices were found\n', 0, {}, 'nvidia-smi lists no GPU'),
        (MIG, 0, {}, 'of MIG slices a process sees one'),
        (MIG, 0, {'CUDA_VISIBLE_DEVICES': 'MIG-a,MIG-b'}, 'CUDA_VISIBLE_DEVICES=MIG-a,MIG-b: of MIG slices a process sees one'),
        (EIGHT_GPUS, 0, {'CUDA_VISIBLE_DEVICES': ''}, 'CUDA_VISIBLE_DEVICES is empty'),
        (EIGHT_GPUS, 0, {'CUDA_VISIBLE_DEVICES': '4,5', 'DEVICE_NUM': '8'}, 'CUDA_VISIBLE_DEVICES=4,5 shows 2 GPUs'),
    ],
)
def test_gpus_that_cannot_be_counted_are_refused(place, listed, status, environment, message):
    program = with_program(place, 'nvidia-smi', listed, status)
    done = place.run('run_distribute_train_gpu.sh', 'my.yaml', **program, **environment)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1
    assert not (place.log / 'argv').exists() and not (place.folder / 'train_parallel').exists()


@pytest.mark.parametrize(
    'script, variable',
    [('run_standalone_train_gpu.sh', 'CUDA_VISIBLE_DEVICES'), ('run_standalone_train_ascend.sh', 'ASCEND_RT_VISIBLE_DEVICES')],
)
def test_a_device_id_counts_the_devices_that_are_visible(place, script, variable):
    """In an allocation of 4 and 5 the host's device 0 is somebody else's."""
    assert place.run(script, '1', 'my.yaml', **{variable: '4,5'}).returncode == 0
    assert place.environment[variable] == '5'
    done = place.run(script, '4', 'my.yaml', **{variable: '4,5'})
    assert done.returncode == 2 and f'DEVICE_ID 4: {variable}=4,5 shows 2 devices' in done.stderr


def test_a_rank_table_names_devices_that_are_visible(place):
    words = 'run_distribute_train_ascend.sh', 'hccl.json', 'my.yaml'
    assert place.run(*words, ASCEND_RT_VISIBLE_DEVICES='0,1,2').returncode == 0
    assert place.environment['ASCEND_RT_VISIBLE_DEVICES'] == '0,1'
    done = place.run(*words, ASCEND_RT_VISIBLE_DEVICES='1,10')
    assert done.returncode == 2 and 'device 0 is not among ASCEND_RT_VISIBLE_DEVICES=1,10' in done.stderr


SLURM = {'SLURM_JOB_NODELIST': 'n', 'SLURM_JOB_ID': '7', 'SLURM_NNODES': '2'}


@pytest.mark.parametrize('cores', [{'SLURM_CPUS_PER_TASK': '64'}, {}])
def test_slurm_gives_each_host_its_cores(place, cores):
    with_program(place, 'scontrol', 'first\nsecond\n')
    path = with_program(place, 'srun', '')
    (place.folder.parent / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$MASTER_ADDR" "$@" > "$STUB_LOG/srun"\n')
    assert place.run('slurm/train.sbatch', 'my.yaml', **path, **SLURM, **cores).returncode == 0
    words = (place.log / 'srun').read_text().splitlines()
    assert words[0] == 'first' and words[-1] == 'my.yaml'
    assert [word for word in words if 'cpus' in word] == (['--cpus-per-task=64'] if cores else [])


def test_a_process_for_each_gpu(place):
    done = place.run('run_distribute_train_gpu.sh', 'my.yaml', **with_program(place, 'nvidia-smi', TWO_GPUS))
    assert done.returncode == 0, done.stderr
    assert place.argv[:2] == ['-m', 'torch.distributed.run']
    assert (place.option('--nnodes'), place.option('--nproc-per-node'), place.option('--node-rank')) == ('1', '2', '0')
    assert place.argv[place.argv.index('twinseg') - 1 :][:4] == ['-m', 'twinseg', 'train', str(place.folder / 'my.yaml')]
    assert (place.option('--backend'), place.option('--device')) == ('pytorch', 'gpu')


@pytest.mark.parametrize('script', DISTRIBUTE)
@pytest.mark.parametrize('backend, count', [('pytorch', '--nproc-per-node'), ('mindspore', '--local_worker_num')])
def test_processes_on_the_host_and_of_several_hosts(place, script, backend, count):
    arguments = ['hccl.json', 'my.yaml'] if 'ascend' in script else ['my.yaml']
    hosts = {'NNODES': '2', 'NODE_RANK': '1', 'MASTER_ADDR': '10.0.0.1', 'MASTER_PORT': '4711', 'STUB_HOSTS': '0,1\\n0,1'}
    done = place.run(script, *arguments, BACKEND=backend, DEVICE_TARGET='CPU', DEVICE_NUM='2', **hosts)
    assert done.returncode == 0, done.stderr
    assert (place.option(count), place.option('--device')) == ('2', 'cpu')
    assert '10.0.0.1' in place.argv and '4711' in place.argv
    folder = place.folder / 'train_parallel_nodes'
    assert place.option('--work-dir') == str(folder / 'run')
    assert (folder / 'node_1' / 'env.log').is_file() and not (folder / 'run').exists()


@pytest.mark.parametrize('status', [1, 2, 137])
def test_the_status_of_the_launcher_passes_through(place, status):
    done = place.run('run_distribute_train_gpu.sh', 'my.yaml', DEVICE_NUM='2', STUB_STATUS=str(status))
    assert done.returncode == status


LAST_WORDS = """#!/usr/bin/env bash
[[ $1 == -m ]] || exit 0
while [[ $1 != --log-dir ]]; do shift; done
mkdir -p "$2/0" "$2/1"
echo 'twinseg: error: data.png: truncated' > "$2/1/stderr.log"
sleep 0.1
echo "$OTHER" > "$2/0/stderr.log"
exit 1
"""


@pytest.mark.parametrize(
    'other, status, last',
    [
        ('twinseg: error: rank 0 lost the other processes', 1, 'twinseg: error: data.png: truncated'),
        ('twinseg: stopped by SIGTERM after step 3, which is saved: continue with --resume', 75, 'continue with --resume'),
        ('twinseg: stopped by SIGINT after step 3, which is saved: continue with --resume', 130, 'continue with --resume'),
        ('twinseg: stopped by SIGHUP after step 3, which is saved: continue with --resume', 129, 'continue with --resume'),
    ],
)
def test_the_first_failing_rank_has_the_last_word(place, other, status, last):
    place.stub.write_text(LAST_WORDS)
    done = place.run('run_distribute_train_gpu.sh', 'my.yaml', DEVICE_NUM='2', OTHER=other)
    assert done.returncode == status
    assert eventually(place.folder / 'train_parallel' / 'log.txt', last)
    assert (place.folder / 'train_parallel' / 'log.txt').read_text().rstrip().endswith(last)


KILLED = """#!/usr/bin/env bash
[[ $1 == -m ]] || exit 0
while [[ $1 != --log-dir && $1 != --log_dir ]]; do shift; done
mkdir -p "$2"
echo 'rank 1 of 2: process 4711 on node' > "$2/worker_1.log"
echo 'twinseg: error: scheduler: the scheduler lost rank 0' > "$2/scheduler.log"
printf '%b\\n' "$REPORT"
exit 1
"""


@pytest.mark.parametrize(
    'report, status, last',
    [
        (
            'Root Cause (first observed failure):\\n[0]:\\n  time      : now\\n  host      : here\\n'
            '  rank      : 1 (local_rank: 1)\\n  exitcode  : -9 (pid: 4711)',
            1,
            'rank 1 was ended by SIGKILL',
        ),
        ('[ERROR] Worker process 4711 exit with exception. Error code: -9.', 1, 'rank 1 was ended by SIGKILL'),
        ('[ERROR] Worker process 4711 exit with exception. Error code: 2.', 2, 'the scheduler lost rank 0'),
    ],
)
def test_how_the_first_failing_rank_ended(place, report, status, last):
    place.stub.write_text(KILLED)
    done = place.run(
        'run_distribute_train_gpu.sh',
        'my.yaml',
        DEVICE_NUM='2',
        REPORT=report,
        BACKEND='pytorch' if report.startswith('Root') else 'mindspore',
    )
    assert done.returncode == status
    log = place.folder / 'train_parallel' / 'log.txt'
    assert eventually(log, last) and last in log.read_text().rstrip().splitlines()[-1]


ABORTED = """#!/usr/bin/env bash
[[ $1 == -m ]] || exit 0
while [[ $1 != --log-dir ]]; do shift; done
mkdir -p "$2"
printf '%b\\n' "$WATCHDOGS" > "$2/stderr.log"
printf '%b\\n' "$REPORT"
exit 1
"""
ROOT_CAUSE = 'Root Cause (first observed failure):\\n[0]:\\n  rank : 0 (local_rank: 0)\\n  exitcode : -6 (pid: 4711)'
WATCHDOG = '[rank{0}]:[E] [PG ID 0 PG GUID 0(default_pg) Rank {0}] Watchdog caught collective operation timeout: WorkNCCL('


@pytest.mark.parametrize(
    'noticed, last',
    [
        ((0, 1), 'here rank 2. Logs'),
        ((0,), 'here rank 1 2. Logs'),
        ((0, 1, 2), 'has ended or hangs. Logs'),  # a rank of another host
        ((), 'has ended or hangs. Logs'),
    ],
)
def test_a_watchdog_that_aborts_is_no_lack_of_memory(place, noticed, last):
    """The ranks whose watchdog saw nothing are those that the others waited for."""
    place.stub.write_text(ABORTED)
    lines = '\\n'.join(WATCHDOG.format(rank) for rank in noticed)
    done = place.run('run_distribute_train_gpu.sh', 'my.yaml', DEVICE_NUM='3', WATCHDOGS=lines, REPORT=ROOT_CAUSE)
    assert done.returncode == 1
    log = place.folder / 'train_parallel' / 'log.txt'
    assert eventually(log, 'SIGABRT') and 'memory' not in log.read_text()
    assert 'rank 0 was ended by SIGABRT: the watchdog' in log.read_text() and last in log.read_text()


@pytest.mark.parametrize(
    'target, asked, expected', [('GPU', None, '0'), ('GPU', '1', '1'), ('Ascend', None, '1'), ('Ascend', '0', '0')]
)
def test_processes_keep_to_their_cores(place, target, asked, expected):
    script = f'run_distribute_train_{target.lower()}.sh'
    arguments = ['hccl.json', 'my.yaml'] if target == 'Ascend' else ['my.yaml']
    done = place.run(script, *arguments, DEVICE_NUM='2', **({'PIN_CORES': asked} if asked else {}))
    assert done.returncode == 0, done.stderr
    assert (place.environment['PIN_CORES'], place.environment['LOCAL_WORLD_SIZE']) == (expected, '2')


WAITS = """#!/usr/bin/env bash
[[ $1 == -m ]] || exit 0
"$REAL" -c 'import signal, sys, time
for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
    signal.signal(number, lambda *_: sys.exit(print("told", flush=True) or 75))
print("ready", flush=True)
time.sleep(60)'
exit 1
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_processes(place, number):
    place.stub.write_text(WAITS)
    clean = {key: os.environ[key] for key in ('PATH', 'HOME') if key in os.environ}
    process = subprocess.Popen(
        ['bash', str(ROOT / 'scripts' / 'run_distribute_train_gpu.sh'), 'my.yaml'],
        cwd=place.folder,
        env={**clean, 'TWINSEG_PYTHON': str(place.stub), 'DEVICE_NUM': '2', 'REAL': sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # ignored in a job of the background
    log = place.folder / 'train_parallel' / 'log.txt'
    assert eventually(log, 'ready')
    process.send_signal(number)
    assert process.wait(20) == 1
    assert eventually(log, 'told')


def test_no_folder_is_overwritten_and_the_last_is_continued(place):
    script = 'run_standalone_train_gpu.sh'
    for number, name in enumerate(['train_standalone', 'train_standalone_2', 'train_standalone_3']):
        assert place.run(script, '0', 'my.yaml').returncode == 0
        assert place.option('--work-dir') == str(place.folder / name / 'run'), number
    log = place.folder / 'train_standalone_3' / 'log.txt'
    assert eventually(log, 'to stderr')
    assert place.run(script, '0', 'my.yaml', RESUME='1').returncode == 0
    assert place.option('--work-dir') == str(place.folder / 'train_standalone_3' / 'run')
    assert '--resume' in place.argv
    assert eventually(log, 'to stdout\nto stderr\nto stdout')


def test_a_hint_when_cann_is_not_set_up(place):
    script = 'run_eval_ascend.sh'
    arguments = ['0', 'my.yaml', 'best.safetensors']
    assert 'set_env.sh' in place.run(script, *arguments).stderr
    assert 'set_env.sh' not in place.run(script, *arguments, ASCEND_HOME_PATH='/usr/local/Ascend').stderr
    assert 'set_env.sh' not in place.run(script, *arguments, DEVICE_TARGET='CPU').stderr


def test_names_with_spaces(place):
    (place.folder / 'my recipe.yaml').write_text('arch: fast_scnn\n')
    assert place.run('run_standalone_train_gpu.sh', '0', 'my recipe.yaml').returncode == 0
    assert place.argv[3] == str(place.folder / 'my recipe.yaml')


def test_three_stages_on_camvid(place):
    """Each starts from the one before; the user's keys are the last, and a failure ends it."""
    stub = place.stub.read_text().replace('> "$STUB_LOG/argv"', '>> "$STUB_LOG/argv"')
    place.stub.write_text(stub)
    assert place.run('train_camvid.sh', 'enet/enet_camvid-360x480', 'my runs', 'seed=1', BACKEND='mindspore').returncode == 0
    calls = '\n'.join(place.argv).split('-m\ntwinseg\n')[1:]
    stages = [call.strip().split('\n') for call in calls]
    common = ['train', 'enet/enet_camvid-360x480', '--backend', 'mindspore', '--work-dir']
    for number, words in enumerate(stages, start=1):
        assert words[:8] == [*common, f'my runs/stage{number}', '--resume', '--set'] and words[-1] == 'seed=1'
    starts = [[word for word in words if word.startswith('pretrained=')] for words in stages]
    assert starts == [[], *([f'pretrained=my runs/stage{number}/checkpoints/best.safetensors'] for number in (1, 2))]
    assert [words[8] for words in stages] == ['epochs=50', 'epochs=40', 'epochs=20']
    (place.log / 'argv').unlink()
    assert place.run('train_camvid.sh', 'enet/enet_camvid-360x480', 'runs', EPOCHS='3 2 1').returncode == 0
    assert [word for word in place.argv if word.startswith('epochs=')] == ['epochs=3', 'epochs=2', 'epochs=1']
    (place.log / 'argv').unlink()
    assert place.run('train_camvid.sh', 'enet/enet_camvid-360x480', 'runs', '2:base_lr=1', 'seed=1', '3:seed=2').returncode == 0
    calls = '\n'.join(place.argv).split('-m\ntwinseg\n')[1:]
    assert [call.strip().split('\n')[-1] for call in calls] == ['seed=1', 'base_lr=1', 'seed=2']
    assert 'base_lr=5e-4\n' in calls[1] and not any(':' in word for word in place.argv)
    (place.log / 'argv').unlink()
    for wrong in ('3 2', '3 2 x', '3 2 0', ' '):  # found before the first stage, not hours later
        refused = place.run('train_camvid.sh', 'enet/enet_camvid-360x480', 'runs', EPOCHS=wrong)
        assert refused.returncode == 2 and f"EPOCHS is '{wrong}'" in refused.stderr and not (place.log / 'argv').exists()
    assert place.run('train_camvid.sh', 'enet/enet_camvid-360x480', 'runs', STUB_STATUS='75').returncode == 75
    assert place.option('--work-dir') == 'runs/stage1' and 'runs/stage2' not in place.argv
    assert place.run('train_camvid.sh', 'enet/enet_camvid-360x480').returncode == 2


def test_a_checkpoint_that_ships_is_named(place):
    for name in ('enet_camvid', 'enet_camvid.safetensors'):
        assert place.run('run_eval_gpu.sh', '0', 'my.yaml', name).returncode == 0
        assert place.option('--checkpoint') == name
    (place.folder / 'enet_camvid').write_text('')
    assert place.run('run_eval_gpu.sh', '0', 'my.yaml', 'enet_camvid').returncode == 0
    assert place.option('--checkpoint') == str(place.folder / 'enet_camvid')


def test_the_command_line_understands_the_arguments(place):
    """The stub takes any argument; the real command must know these."""
    done = place.run('run_eval_gpu.sh', '0', 'my.yaml', 'best.safetensors', TWINSEG_PYTHON=sys.executable, DEVICE_TARGET='CPU')
    assert done.returncode == 2, 'an empty checkpoint is refused'
    assert 'best.safetensors' in done.stdout + done.stderr and 'Usage' not in done.stdout + done.stderr


TOOL = """#!/usr/bin/env bash
echo "${0##*/} $1" >> "$TOOL_LOG"
[[ ${0##*/} != "$FAILS" ]]
"""


def run_checks(folder: Path, *names: str, fails: str = '') -> tuple[subprocess.CompletedProcess, list[str]]:
    """scripts/checks.sh with tools that do nothing, or fail, and the calls of these."""
    for tool in ('ruff', 'mypy', 'lint-imports', 'shellcheck', 'hadolint'):
        (folder / tool).write_text(TOOL)
        (folder / tool).chmod(0o755)
    done = subprocess.run(
        ['bash', str(ROOT / 'scripts' / 'checks.sh'), *names],
        cwd=folder,
        env={'PATH': f'{folder}{os.pathsep}{os.environ["PATH"]}', 'TOOL_LOG': str(folder / 'log'), 'FAILS': fails},
        capture_output=True,
        text=True,
    )
    return done, (folder / 'log').read_text().splitlines() if (folder / 'log').exists() else []


def test_checks_run_and_fail_together(tmp_path):
    done, calls = run_checks(tmp_path, fails='ruff')
    linters = ['shellcheck scripts/checks.sh', 'hadolint Dockerfile']
    assert calls == ['ruff check', 'ruff format', 'mypy ', 'lint-imports ', *linters]
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == '== FAILED: ruff-check ruff-format'
    (tmp_path / 'log').unlink()
    assert run_checks(tmp_path)[0].returncode == 0
    (tmp_path / 'log').unlink()
    assert run_checks(tmp_path, 'mypy')[1] == ['mypy ']
    assert run_checks(tmp_path, 'mipy')[0].returncode == 2


def test_pre_commit_and_the_pipeline_run_the_same_checks(tmp_path):
    listed = run_checks(tmp_path, '--list')[0].stdout.split()
    (repository,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    assert repository['repo'] == 'local'
    assert [hook['id'] for hook in repository['hooks']] == listed
    for hook in repository['hooks']:
        assert hook['entry'] == f'bash scripts/checks.sh {hook["id"]}'
        assert hook['language'] == 'system' and hook['always_run'] and not hook['pass_filenames']
    assert '\nbash scripts/checks.sh\n' in (ROOT / 'scripts' / 'test.sh').read_text()
    assert 'scripts/test.sh' in (ROOT / '.ci' / 'run').read_text()


@pytest.mark.parametrize('shell', ['sh', 'bash', 'bash --posix'])
def test_any_shell_runs_them_through_a_link_with_spaces(place, shell):
    (place.folder / 'my links').mkdir()
    link = place.folder / 'my links' / 'train it.sh'
    link.symlink_to(ROOT / 'scripts' / 'run_standalone_train_gpu.sh')
    clean = {key: os.environ[key] for key in ('PATH', 'HOME') if key in os.environ}
    words = [*shell.split(), str(link), '0', 'my.yaml']
    environment = {**clean, 'TWINSEG_PYTHON': str(place.stub), 'STUB_LOG': str(place.log)}
    done = subprocess.run(words, cwd=place.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert place.option('--work-dir') == str(place.folder / 'train_standalone' / 'run')


class Job:
    """A Slurm job's calls of a script: the first one, and those after it was queued again."""

    def __init__(self, place: Place, number: int, **environment: str):
        self.place, self.environment = place, {'SLURM_JOB_ID': str(number), 'DEVICE_NUM': '2', **environment}

    def folder(self, restarts: int = 0, **more: str) -> str:
        """The folder that the run of the job is in, by its name."""
        restarted = {'RESUME': '1', 'SLURM_RESTART_COUNT': str(restarts)} if restarts else {}
        words = 'run_distribute_train_gpu.sh', 'my.yaml'
        done = self.place.run(*words, **self.environment, **restarted, **more)
        assert done.returncode == 0, done.stderr
        assert ('--resume' in self.place.argv) == bool(restarts or more)
        return str(Path(self.place.option('--work-dir')).relative_to(self.place.folder))


def test_a_job_of_slurm_goes_on_with_its_own_run(place):
    first, second, third = (Job(place, number) for number in (1, 2, 3))
    assert (first.folder(), second.folder()) == ('train_parallel/run', 'train_parallel_2/run')
    assert (first.folder(1), second.folder(1)) == ('train_parallel/run', 'train_parallel_2/run')
    assert third.folder(1) == 'train_parallel_3/run', 'it was queued again before it had begun'
    assert third.folder(2) == 'train_parallel_3/run'
    assert Job(place, 4).folder(RESUME='1') == 'train_parallel_3/run', 'the last one, as was asked for'
    assert Job(place, 4).folder(1) == 'train_parallel_3/run', 'from then on its own'


def test_jobs_of_several_hosts_keep_apart(place):
    hosts = {'NNODES': '2', 'NODE_RANK': '1', 'MASTER_ADDR': '127.0.0.1'}
    first, second = (Job(place, number, **hosts) for number in (1, 2))
    assert first.folder() == first.folder(1) == 'train_parallel_nodes_job1/run'
    assert Job(place, 3, **hosts).folder(RESUME='1') == 'train_parallel_nodes_job1/run', 'there is one'
    assert Job(place, 3, **hosts).folder(1) == 'train_parallel_nodes_job1/run', 'from then on its own'
    assert second.folder(1) == 'train_parallel_nodes_job2/run'
    refused = place.run('run_distribute_train_gpu.sh', 'my.yaml', **{**second.environment, 'SLURM_JOB_ID': '4'}, RESUME='1')
    assert refused.returncode == 2 and 'expected one folder' in refused.stderr and 'there are 2' in refused.stderr


def test_a_port_in_use_is_named(place):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = place.run('run_distribute_train_gpu.sh', 'my.yaml', DEVICE_NUM='2', MASTER_PORT=port)
    assert refused.returncode == 2 and f'MASTER_PORT={port} is in use on this host; set it to a free port' in refused.stderr
