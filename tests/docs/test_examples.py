"""The notebooks of examples/, cell by cell, with a few steps on small images; no Jupyter is needed."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from twinseg.common.backend import available
from twinseg.common.cli import main

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / 'examples').glob('*.ipynb'))
TUTORIALS = {'first_training', 'own_data', 'pytorch_to_mindspore', 'export_and_cpp', 'fine_tune', 'find_a_porting_bug'}
FEW = ('max_iters=4', 'val_interval=2', 'checkpoint_interval=2', 'warmup_iters=1', 'batch_size=2', 'num_parallel_workers=0')
STREETS = ('train_samples=4', 'val_samples=2', 'image_size=[64,128]', 'crop_size=[64,128]')
SMALL = ' '.join([*FEW, *STREETS])
SHORTER = {  # notebook -> what is written otherwise in its cells
    'first_training': {'step_00000400': 'step_00000002'},
    'own_data': {
        'max_iters: 60': 'max_iters: 4',
        'val_interval: 30': 'val_interval: 4',
        'warmup_iters: 5': 'warmup_iters: 1',
        "('train', 24)": "('train', 4)",
    },
    'export_and_cpp': {'--size 256x512': '--size 64x128', 'range(8)': 'range(2)'},
    'fine_tune': {'epochs=10': SMALL},
}
SLOW = {'first_training', 'export_and_cpp'}  # MindSpore compiles a training step; the C++ program is built
FURTHER = {name: ['--set', *FEW, *STREETS] for name in ('first_training', 'export_and_cpp')}  # words of the trainings
STATUS = {'mine.py:Net@mindspore': 1}  # the word of a command that ends with another status than 0
TOOLS = ('cmake', 'make', 'c++')  # which export_and_cpp needs


def cells(notebook: Path) -> list[str]:
    """The code of a notebook, shortened."""
    texts = [''.join(cell['source']) for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == 'code']
    for long, short in SHORTER.get(notebook.stem, {}).items():
        assert any(long in text for text in texts), long
        texts = [text.replace(long, short) for text in texts]
    return texts


def command(text: str, further: list[str]) -> tuple[int, int]:
    """Runs a cell that begins with an exclamation mark; its exit status, and the expected one."""
    words = shlex.split(text[1:])
    assert '\n' not in text
    if words[0] == 'twinseg':
        more = further if words[1] == 'train' and '--checkpoint' not in words else []
        device = ['--device', 'cpu'] if words[1] in ('train', 'eval', 'report') else []
        return main([*words[1:], *device, *more]), max(STATUS.get(word, 0) for word in words)
    variables = dict(word.split('=') for word in words[: words.index('bash')])
    script = ROOT / 'examples' / words[len(variables) + 1]
    environment = {**os.environ, **variables, 'TWINSEG_PYTHON': sys.executable, 'OUT': str(Path('program').absolute())}
    return subprocess.run(['bash', str(script), *words[len(variables) + 2 :]], env=environment).returncode, 0


def test_there_is_one_for_every_tutorial():
    assert {path.stem for path in NOTEBOOKS} == TUTORIALS


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
@pytest.mark.parametrize(
    'notebook', [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ()) for path in NOTEBOOKS]
)
def test_it_runs(notebook, tmp_path, monkeypatch, capfd):
    pytest.importorskip('onnxruntime')
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    if notebook.stem == 'export_and_cpp' and not all(shutil.which(tool, path=path) for tool in TOOLS):
        pytest.skip(f'{", ".join(TOOLS)}: one is not installed')
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for text in cells(notebook):
        if not text.startswith('!'):
            exec(text, names)
            continue
        status, expected = command(text, FURTHER.get(notebook.stem, []))
        assert status == expected, capfd.readouterr().err
    differ, size = names.get('differ', 0), names['truth'].size if 'truth' in names else 1
    assert differ <= 1e-3 * size
    assert names.get('changed', []) == []
    if notebook.stem == 'find_a_porting_bug':
        assert [cause['cause'] for cause in names['first']['causes']] == ['padding', 'align_corners']
        assert names['second']['causes'] == []
    if notebook.stem == 'export_and_cpp':
        assert names['result']['mIoU'] == pytest.approx(names['framework']['mIoU'], abs=0.1)


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_saved_without_results(notebook):
    for cell in json.loads(notebook.read_text())['cells']:
        assert cell['cell_type'] == 'markdown' or (cell['outputs'], cell['execution_count']) == ([], None)
