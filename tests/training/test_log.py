"""The log of a run imports no framework."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
from twinseg.common.training.log import Log

log = Log(Path(sys.argv[1]), 0, resumed=False)
log.scalars('eval', {'mIoU': 50.0}, 1)
log.events.close()
assert 'torch' not in sys.modules
import torch
assert list(Path(sys.argv[1]).glob('tensorboard/events.*')) and torch.ones(1).item() == 1
"""


def test_tensorboard_is_written_without_importing_pytorch(tmp_path):
    pytest.importorskip('torch')
    subprocess.run([sys.executable, '-c', PROGRAM, str(tmp_path)], check=True)
