"""What a command writes replaces what was there when it is whole, and not before: disks are full, too."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from twinseg.common import cli
from twinseg.common.cli.options import write_json
from twinseg.common.parallel import rank_table
from twinseg.common.tasks import classification
from twinseg.common.training.log import Log

EVALUATION = '{"kind": "eval", "step": 3, "mIoU": 1.0, "classes": {}}\n'


def metrics_of_a_resume(path: Path) -> None:
    Log(path.parent, 2, resumed=True)


OUTPUTS = {  # file -> what writes it
    'scores.json': lambda path: write_json(path, {'mIoU': 1.0}),
    'hccl_1p_0_10.0.0.1.json': lambda path: rank_table.write(path.parent, {'10.0.0.1': [(0, '10.0.0.2')]}),
    classification.LABELS: lambda path: classification.write_labels(path.parent, [('a', np.array(1))]),
    'metrics.jsonl': metrics_of_a_resume,
}


@pytest.mark.parametrize('name', OUTPUTS)
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_text(EVALUATION)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError) as error:
        patch.setattr(os, 'fsync', full)
        OUTPUTS[name](path)
    assert error.value.filename == str(path) and path.read_text() == EVALUATION
    assert {entry.name for entry in tmp_path.iterdir()} <= {name, 'log.txt'}
    OUTPUTS[name](path)
    assert path.read_text() != EVALUATION


def test_the_user_hears_which_file(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    command = ['recipe', 'fast_scnn_8xb4-160k_cityscapes-512x1024', '--devices', '2', '--json', str(tmp_path / 'x.json')]
    assert cli.main(command) == 2
    assert capsys.readouterr().err == f'twinseg: error: {tmp_path}/x.json: No space left on device\n'
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert cli.main(command) == 0 and json.loads((tmp_path / 'x.json').read_text())
