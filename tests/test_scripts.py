"""The shell scripts: arguments, relative paths, folders, logs, exit status; with a stub in the place of Python."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*(ROOT / 'scripts').glob('*.sh'), ROOT / '.ci' / 'run'])
RECIPE = 'fast_scnn_8xb4-160k_cityscapes-512x1024'
TRAIN = {'run_standalone_train_gpu.sh': ('pytorch', 'gpu'), 'run_standalone_train_ascend.sh': ('mindspore', 'ascend')}
EVAL = {'run_eval_gpu.sh': ('pytorch', 'gpu'), 'run_eval_ascend.sh': ('mindspore', 'ascend')}
STUB = """#!/usr/bin/env bash
[[ $1 == -m ]] || exit 0  # versions for env.log
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

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        clean = {key: os.environ[key] for key in ('PATH', 'HOME') if key in os.environ}
        return subprocess.run(['bash', str(ROOT / 'scripts' / script), *arguments], cwd=self.folder,
                              env={**clean, 'TWINSEG_PYTHON': str(self.stub), 'STUB_LOG': str(self.log), **environment},
                              capture_output=True, text=True)

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
    assert place.argv[:3] == ['-m', 'common.cli', 'train']
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
    assert place.argv[:4] == ['-m', 'common.cli', 'eval', str(place.folder / 'my.yaml')]
    assert (place.option('--backend'), place.option('--device')) == expected
    assert place.option('--checkpoint') == str(place.folder / 'best.safetensors')
    assert place.option('--json') == str(folder / 'result.json')
    assert eventually(folder / 'eval.log', 'to stdout')


@pytest.mark.parametrize('script, variable', [('run_standalone_train_gpu.sh', 'CUDA_VISIBLE_DEVICES'),
                                              ('run_standalone_train_ascend.sh', 'ASCEND_RT_VISIBLE_DEVICES')])
def test_the_process_sees_one_device_as_number_0(place, script, variable):
    place.run(script, '5', 'my.yaml', DEVICE_ID='7', RANK_SIZE='8')
    assert place.environment[variable] == '5'
    assert (place.environment['DEVICE_ID'], place.environment['RANK_SIZE']) == ('0', '1')


@pytest.mark.parametrize('script', [*TRAIN, *EVAL])
def test_backend_and_target_can_be_chosen(place, script):
    arguments = ['0', 'my.yaml', 'best.safetensors'][:2 if script in TRAIN else 3]
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
    arguments = ['0', 'my.yaml', 'best.safetensors'][:2 if script in TRAIN else 3]
    assert place.run(script, *arguments, STUB_STATUS=str(status)).returncode == status


BAD = [('run_standalone_train_gpu.sh', [], {}, 'usage: bash scripts/run_standalone_train_gpu.sh DEVICE_ID CONFIG'),
       ('run_standalone_train_ascend.sh', ['0'], {}, 'usage: bash scripts/run_standalone_train_ascend.sh DEVICE_ID CONFIG'),
       ('run_standalone_train_gpu.sh', ['0', 'my.yaml', 'more'], {}, 'usage:'),
       ('run_eval_gpu.sh', ['0', 'my.yaml'], {}, 'usage: bash scripts/run_eval_gpu.sh DEVICE_ID CONFIG CHECKPOINT'),
       ('run_standalone_train_gpu.sh', ['my.yaml', '0'], {}, 'DEVICE_ID my.yaml: expected a number'),
       ('run_standalone_train_gpu.sh', ['-1', 'my.yaml'], {}, 'DEVICE_ID -1: expected a number'),
       ('run_standalone_train_gpu.sh', ['0', 'absent.yaml'], {}, 'CONFIG absent.yaml: neither a file nor a recipe'),
       ('run_standalone_train_gpu.sh', ['0', f'stdc/{RECIPE}'], {}, 'neither a file nor a recipe'),
       ('run_standalone_train_gpu.sh', ['0', 'camvid'], {}, 'neither a file nor a recipe'),  # only a base of recipes
       ('run_eval_ascend.sh', ['0', 'my.yaml', 'absent.ckpt'], {}, 'CHECKPOINT absent.ckpt: no such file'),
       ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'BACKEND': 'jax'}, 'BACKEND=jax: expected pytorch or mindspore'),
       ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'DEVICE_TARGET': 'cpu'}, 'expected CPU, GPU or Ascend'),
       ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'TWINSEG_PYTHON': '/absent'}, 'TWINSEG_PYTHON=/absent is no program'),
       ('run_standalone_train_gpu.sh', ['0', 'my.yaml'], {'RESUME': '1'}, 'there is no')]


@pytest.mark.parametrize('script, arguments, environment, message', BAD)
def test_bad_arguments_are_refused_and_nothing_is_left(place, script, arguments, environment, message):
    before = sorted(place.folder.iterdir())
    done = place.run(script, *arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr and not done.stdout
    assert sorted(place.folder.iterdir()) == before and not (place.log / 'argv').exists()


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


def test_the_command_line_understands_the_arguments(place):
    """The stub takes any argument; the real command must know these."""
    done = place.run('run_eval_gpu.sh', '0', 'my.yaml', 'best.safetensors', TWINSEG_PYTHON=sys.executable, DEVICE_TARGET='CPU')
    assert done.returncode == 2, 'an empty checkpoint is refused'
    assert 'best.safetensors' in done.stdout + done.stderr and 'Usage' not in done.stdout + done.stderr


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    program = shutil.which('shellcheck', path=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    if program is None:
        pytest.skip('shellcheck is not installed')
    done = subprocess.run([program, '-S', 'style', str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_pipeline_runs_the_test_script():
    assert 'scripts/test.sh' in (ROOT / '.ci' / 'run').read_text()
