"""The pages docs/add_a_network.md and docs/add_a_data_set.md, done step by step in a copy of the repository.

A block that follows the name of a file is that file, or, as ``diff``, a change of it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from twinseg.common.backend import available

ROOT = Path(__file__).parents[2]
COPIED = ('twinseg', 'common', 'pytorch_impl', 'mindspore_impl', 'scripts', 'tests', 'pyproject.toml')
BLOCK = re.compile(r'^(?:`(?P<file>[\w/.]+)`\n\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
LOGITS_TOLERANCE = 1e-5  # of the largest magnitude, twin against twin (docs/design.md section 4)
STEPS = ('max_iters=2', 'warmup_iters=0', 'val_interval=2', 'batch_size=2', 'num_parallel_workers=0')
STREETS = ('train_samples=4', 'val_samples=2', 'image_size=[64,128]', 'crop_size=[64,128]')
pytestmark = pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')

CHECK_NETWORK = f"""
import numpy as np
from tests.support.zoo import NETWORKS
from twinseg.common import weights
from twinseg.common.backend import get_backend
from twinseg.common.weights.publishers import my_publisher

case = NETWORKS['my_net']
pytorch, mindspore = get_backend('pytorch'), get_backend('mindspore')
for backend in pytorch, mindspore:
    backend.setup('cpu', threads=1)
drawn = pytorch.state(pytorch.build_model(case.arch, **case.arguments))
published = {{theirs + name.removeprefix(ours): array for theirs, ours in my_publisher.TABLES[0].rules.items()
             for name, array in drawn.items() if name.startswith(f'{{ours}}.')}}
assert len(published) == len(drawn)
converted = weights.convert(published)
assert (converted.source, converted.arch, converted.num_classes) == ('my_publisher', 'my_net', 19)
assert converted.arguments['width'] == 8
images = np.random.default_rng(0).standard_normal((2, 3, 33, 49), np.float32)
outputs = []
for backend in pytorch, mindspore:
    network = backend.build_model(converted.arch, **converted.arguments)
    report = backend.load_state(network, converted.state)
    assert not report.missing and not report.unexpected
    outputs.append(backend.forward(network, images, auxiliary=True))
for name in 'logits', 'aux':
    one, other = (output[name] for output in outputs)
    assert one.shape == (2, 19, 9, 13) and np.abs(one - other).max() <= {LOGITS_TOLERANCE} * np.abs(one).max(), name
for auxiliary, expected in zip((True, False), case.parameters):
    network = pytorch.build_model(case.arch, auxiliary=auxiliary, **case.arguments)
    assert sum(value.numel() for value in network.parameters()) == expected
"""


class Guide:
    """A page, and a copy of the repository in which its steps are done."""

    def __init__(self, page: str, folder: Path):
        self.blocks = [match.groupdict() for match in BLOCK.finditer((ROOT / 'docs' / page).read_text())]
        self.folder = folder
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns('__pycache__', 'golden')
                shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder / name)

    def follow(self) -> None:
        """Writes and changes the files of the page and runs its Python programs, in order. A ``diff`` block without a name
        changes the file of the block before."""
        changed = ''
        for block in self.blocks:
            if block['language'] == 'bash':
                for words in (line.split() for line in block['text'].splitlines()):
                    if words[:1] == ['python']:
                        self.run(*words[1:])
                continue
            changed = block['file'] or changed
            self.write(changed, block['text'], block['language'] == 'diff')

    def write(self, name: str, text: str, is_diff: bool) -> None:
        """A new file, or a change of one."""
        path = self.folder / name
        if not is_diff:
            assert not path.exists(), f'{name} exists already'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        lines = text.splitlines()
        before, after = ('\n'.join(line[1:] for line in lines if not line.startswith(sign)) for sign in '+-')
        content = path.read_text()
        assert content.count(before) == 1, f'{name} has {content.count(before)} times: {before}'
        path.write_text(content.replace(before, after))

    def run(self, *words: str) -> str:
        """A Python program in the copy; what it printed."""
        environment = {**os.environ, 'PYTHONPATH': str(self.folder)}
        done = subprocess.run([sys.executable, *words], cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_a_network_is_added(tmp_path):
    guide = Guide('add_a_network.md', tmp_path)
    guide.follow()
    assert 'my_net' in guide.run('-m', 'twinseg', 'list', '--models')
    guide.run('-c', CHECK_NETWORK)
    guide.run('-m', 'pytest', '-q', 'tests/models/test_twins.py', '-k', 'my_net')
    guide.run('-m', 'twinseg', 'train', 'my_net_toy_street', '--device', 'cpu', '--set', *STEPS, *STREETS)
    assert (tmp_path / 'runs/my_net_toy_street-pytorch/checkpoints/best.safetensors').is_file()


def test_a_data_set_is_added(tmp_path):
    guide = Guide('add_a_data_set.md', tmp_path / 'copy')
    guide.follow()
    data = tmp_path / 'data'
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for folder, shape, high in (('images', (64, 96, 3), 256), ('masks', (64, 96), 4)):
            (data / split / folder).mkdir(parents=True)
            for name in ('a', 'b', 'c', 'd'):
                cv2.imwrite(str(data / split / folder / f'{name}.png'), rng.integers(0, high, shape, np.uint8))
    guide.run('-m', 'pytest', '-q', 'tests/data/test_my_set.py')
    assert 'my_set' in guide.run('-m', 'twinseg', 'list', '--datasets')
    settings = ('--device', 'cpu', '--set', f'data_url={data}', *STEPS)
    guide.run('-m', 'twinseg', 'train', 'fast_scnn_my_set', *settings)
    assert (tmp_path / 'copy/runs/fast_scnn_my_set-pytorch/checkpoints/best.safetensors').is_file()
