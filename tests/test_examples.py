"""The notebooks of examples/, cell by cell, with a few steps on small images; no Jupyter is needed."""

import json
import shlex
from pathlib import Path

import pytest

from twinseg.common.backend import available
from twinseg.common.cli import main

NOTEBOOKS = sorted((Path(__file__).parents[1] / 'examples').glob('*.ipynb'))
FEW = ('max_iters=4', 'val_interval=2', 'checkpoint_interval=2', 'warmup_iters=1', 'batch_size=2', 'num_parallel_workers=0')
STREETS = ('train_samples=4', 'val_samples=2', 'image_size=[64,128]', 'crop_size=[64,128]')
SHORTER = {  # notebook -> what is written otherwise in its cells
    'first_training': {'step_00000400': 'step_00000002'},
    'own_data': {
        'max_iters: 60': 'max_iters: 4',
        'val_interval: 30': 'val_interval: 4',
        'warmup_iters: 5': 'warmup_iters: 1',
        "('train', 24)": "('train', 4)",
    },
    'fine_tune_and_export': {'epochs=10': ' '.join([*FEW, *STREETS]), '--size 256x512': '--size 64x128'},
}
SLOW = {'first_training'}  # MindSpore compiles a training step
FURTHER = {'first_training': ['--set', *FEW, *STREETS]}  # words of the trainings


def cells(notebook: Path) -> list[str]:
    """The code of a notebook, shortened."""
    texts = [''.join(cell['source']) for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == 'code']
    for long, short in SHORTER.get(notebook.stem, {}).items():
        assert any(long in text for text in texts), long
        texts = [text.replace(long, short) for text in texts]
    return texts


@pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')
@pytest.mark.parametrize(
    'notebook', [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ()) for path in NOTEBOOKS]
)
def test_it_runs(notebook, tmp_path, monkeypatch, capfd):
    pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for text in cells(notebook):
        if not text.startswith('!'):
            exec(text, names)
            continue
        words = shlex.split(text)
        assert words[0] == '!twinseg' and '\n' not in text
        further = FURTHER.get(notebook.stem, []) if words[1] == 'train' and '--checkpoint' not in words else []
        device = ['--device', 'cpu'] if words[1] in ('train', 'eval', 'report') else []
        assert main([*words[1:], *device, *further]) == 0, capfd.readouterr().err
    differ, size = names.get('differ', 0), names['truth'].size if 'truth' in names else 1
    assert differ <= 1e-3 * size


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_saved_without_results(notebook):
    for cell in json.loads(notebook.read_text())['cells']:
        assert cell['cell_type'] == 'markdown' or (cell['outputs'], cell['execution_count']) == ([], None)
