"""The commands of other repositories: ``train.py``, ``eval.py``, ``tools/train.py``, ``train_dp.py``, ``train_ddp.py``,
``torch.distributed.launch``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import streets
from twinseg.common import cli, config
from twinseg.common.backend import available

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif('pytorch' not in available(), reason='PyTorch is not installed')


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('doors')
    keys = streets.settings(streets.make(folder / 'data'), max_iters=2, val_interval=2, work_dir=str(folder / 'run'))
    (folder / 'mine.yaml').write_text(config.dump(config.from_flat(keys)))
    done = run(folder, str(ROOT / 'train.py'), '--ddr_config', 'mine.yaml', '--device_target', 'CPU', '--backend', 'pytorch')
    assert done.returncode == 0, done.stderr
    return folder


def test_eval_ends_with_the_zoos_line(folder):
    done = run(folder, str(ROOT / 'eval.py'), '--pretrained', 'run', '--device_target', 'CPU')
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith('mIoU: ')
    assert run(folder, str(ROOT / 'eval.py'), '--pretrained', 'absent').returncode == 2


def test_mmsegmentations_command_trains_on(folder):
    words = ['mine.yaml', '--work-dir', 'run', '--resume', '--cfg-options', 'max_iters=3', 'val_interval=3']
    done = run(folder, str(ROOT / 'tools' / 'train.py'), *words)
    assert done.returncode == 0 and 'continues from' in done.stdout
    wrong = run(folder, str(ROOT / 'tools' / 'train.py'), 'configs/stdc/stdc9.py')
    assert wrong.returncode == 2 and wrong.stderr.count('\n') == 1


@pytest.mark.parametrize('name', ['train_dp.py', 'train_ddp.py'])
def test_deephms_commands(folder, name):
    absent = run(folder, str(ROOT / name), '--local-rank=0')
    assert absent.returncode == 2 and 'voc' in absent.stderr and absent.stderr.count('\n') == 1
    done = run(folder, str(ROOT / name), 'mine.yaml', '--device', 'cpu', '--work-dir', name)
    assert done.returncode == 0 and 'step 2' in done.stdout


def test_the_zoos_table_of_a_run(folder, capsys):
    assert cli.main(['results', str(folder / 'run'), '--card']) == 0
    table = capsys.readouterr().out
    for row in ('| Speed | ', ' ms/step |', '| Final loss | ', '| Total time | ', '| Parameters (M) | ', '| mIoU | '):
        assert row in table


@pytest.mark.parametrize('word', ['--local-rank=3', '--local_rank=3'])
def test_the_rank_that_the_old_launcher_adds_is_taken(word, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '')  # and takes it back
    monkeypatch.delenv('LOCAL_RANK')
    assert cli._without_local_rank(['train', 'a.yaml', word]) == ['train', 'a.yaml'] and os.environ['LOCAL_RANK'] == '3'
    monkeypatch.setenv('LOCAL_RANK', '1')
    cli._without_local_rank([word])
    assert os.environ['LOCAL_RANK'] == '1'


@pytest.mark.parametrize('name', ['preprocess.py', 'postprocess.py'])
def test_the_zoos_programs_for_cards_are_the_commands(name, tmp_path):
    done = run(tmp_path, str(ROOT / name), '-h')
    assert done.returncode == 0 and f'twinseg {name.removesuffix(".py")}' in done.stdout
