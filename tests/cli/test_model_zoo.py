"""The model zoo's DDRNet: its configuration key by key, and its commands, as docs/model_zoo.md says."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support import photos
from tests.support.tiny import batch, tiny_network
from twinseg.common import config
from twinseg.common.backend import available, get_backend
from twinseg.common.errors import UserError
from twinseg.common.settings import zoo_keys

ROOT = Path(__file__).parents[2]
KEYS = """amp_level arch auto_augment base_lr batch_size beta clip_global_norm clip_global_norm_value color_jitter crop_pct
    cutmix
    data_url decay device_target drop_path_rate epochs image_size interpolation is_dynamic_loss_scale keep_bn_fp32
    label_smoothing loss_scale lr_adjust lr_scheduler min_lr mix_up mixup_mode mixup_off_epoch mixup_prob momentum num_classes
    num_parallel_workers optimizer re_count re_mode re_prob set switch_prob use_nesterov warmup_length warmup_lr
    weight_decay""".split()
COMMAND_LINE = """learning_rate ddr_config device_id device_num file_format accumulation_step graph_mode in_channel
    keep_checkpoint_max lr_gamma pretrained eps seed save_every start_epoch train_url run_modelarts""".split()
FILE = """
arch: DDRNet23
# ===== Dataset ===== #
data_url: ./data/imagenet
set: ImageNet
num_classes: 1000
mix_up: 0.8
cutmix: 1.0
color_jitter: 0.4
auto_augment: rand-m9-mstd0.5-inc1
interpolation: bicubic
re_prob: 0.25
re_mode: pixel
re_count: 1
mixup_prob: 1.
switch_prob: 0.5
mixup_mode: batch
mixup_off_epoch: 0.
image_size: 224
crop_pct: 0.875
# ===== Learning Rate Policy ======== #
optimizer: momentum
use_nesterov: True
base_lr: 0.1
warmup_lr: 0.000001
min_lr: 0.00001
lr_scheduler: cosine_lr
warmup_length: 10
lr_adjust: 30 # for multistep lr
# ===== Network training config ===== #
amp_level: O2
keep_bn_fp32: True
beta: [ 0.9, 0.999 ]
clip_global_norm_value: 5.
clip_global_norm: True
is_dynamic_loss_scale: True
epochs: 300
label_smoothing: 0.1
loss_scale: 1024
weight_decay: 0.0001
decay: 0.9 # for rmsprop
momentum: 0.9
batch_size: 512
# ===== Hardware setup ===== #
num_parallel_workers: 16
device_target: Ascend
# ===== Model config ===== #
drop_path_rate: 0.1
"""


@pytest.fixture
def zoo_file(tmp_path) -> Path:
    path = tmp_path / 'ddrnet23_imagenet_ascend.yaml'
    path.write_text(FILE)
    return path


def rows() -> dict[str, str]:
    """The table of the documentation: key -> the test that proves it."""
    found = {}
    for line in (ROOT / 'docs' / 'model_zoo.md').read_text(encoding='utf-8').splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if len(cells) == 3 and '::' in cells[2]:
            found |= {key: cells[2] for key in re.findall(r'`(\w+)`', cells[0])}
    return found


@pytest.mark.parametrize('key', KEYS + COMMAND_LINE)
def test_every_key_has_a_row_and_its_test_exists(key):
    file, _, name = rows()[key].partition('::')
    tree = ast.parse((ROOT / 'tests' / file).read_text(encoding='utf-8'))
    assert name in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert key in config.KEYS or key in zoo_keys.KEYS or key in zoo_keys.ONLY


def test_the_zoos_file_lands_in_the_groups(zoo_file):
    found = config.load(zoo_file)
    assert set(KEYS) == set(re.findall(r'^(\w+):', FILE, re.M))
    assert found.model.arch == 'ddrnet23' and found.task == 'classification'
    assert found.model.arguments() == {
        'same_padding': True,
        'half_pixel': False,
        'last_bn_momentum': 0.9,
        'drop_path_rate': 0.1,
        'drop_path_on': 'shortcut',
    }
    assert found.augment.square_resize
    assert (found.data.set, found.data.image_size, found.data.num_parallel_workers) == ('imagenet', [224, 224], 16)
    assert (found.optimizer.lr_batch_size, found.optimizer.norm_bias_decay) == (256, False)
    for key, value in yaml.safe_load(FILE).items():
        if key not in ('arch', 'set', 'image_size'):
            assert getattr(getattr(found, config.KEYS[key]), key) == value, key


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(zoo_file):
    assert config.load(zoo_file).optimizer.weight_decay == 0.0001
    found = config.load(zoo_file, ['weight_decay=0', 'learning_rate=0.3', 'arch=resnet18', 'mix_up=0'])
    assert (found.optimizer.weight_decay, found.optimizer.base_lr, found.model.arch) == (0, 0.3, 'resnet18')
    assert found.model.arguments() == {'drop_path_rate': 0.1, 'drop_path_on': 'branch'}  # nothing of DDRNet23
    assert not found.augment.square_resize
    assert found.augment.mix_up == 0  # the default, and it stays 0 whatever the file says


def test_the_zoos_spellings():
    found = config.from_flat(
        {
            'set': 'ImageNet',
            'learning_rate': 0.2,
            'keep_checkpoint_max': 20,
            'train_url': 'out',
            'save_every': 5,
            'lr_scheduler': None,
            'in_channel': 3,
            'run_modelarts': False,
        }
    )
    assert (found.optimizer.base_lr, found.runtime.max_keep_ckpts, found.runtime.work_dir) == (0.2, 20, 'out')
    assert (found.runtime.save_every, found.schedule.lr_scheduler) == (5, 'constant_lr')
    with pytest.raises(UserError, match='learning_rate and base_lr mean the same'):
        config.from_flat({'learning_rate': 0.2, 'base_lr': 0.1})


@pytest.mark.parametrize(
    'key, value, advice',
    [
        ('in_channel', 1, 'RGB'),
        ('run_modelarts', True, 'copy the data'),
        ('device_id', 3, 'first argument of scripts/run'),
        ('device_num', 8, 'launcher'),
        ('ddr_config', 'x.yaml', 'first argument of twinseg'),
        ('file_format', 'AIR', 'option of export'),
    ],
)
def test_what_is_said_elsewhere(key, value, advice):
    with pytest.raises(UserError, match=advice):
        config.from_flat({key: value})


@pytest.mark.parametrize(
    'keys',
    [
        {'set': 'imagenet', 'crop_size': [64, 64]},
        {'set': 'imagenet', 'loss': 'ohem'},
        {'set': 'cityscapes', 'mix_up': 0.8},
        {'set': 'camvid', 'drop_path_rate': 0.1},
    ],
)
def test_a_key_of_the_other_task_is_not_ignored(keys):
    with pytest.raises(UserError, match='is for (image classification|segmentation)'):
        config.from_flat(keys)


def test_graph_mode():
    settings = {'batch_size': 2, 'graph_mode': 1}
    if 'pytorch' in available():
        backend = get_backend('pytorch')
        backend.setup('cpu')
        with pytest.raises(UserError, match="graph_mode: 1 is MindSpore's"):
            backend.make_trainer(tiny_network('pytorch'), config.from_flat(settings))
    ms = pytest.importorskip('mindspore')
    backend, losses = get_backend('mindspore'), {}
    backend.setup('cpu')
    for mode in (0, 1):
        trainer = backend.make_trainer(tiny_network('mindspore'), config.from_flat({**settings, 'graph_mode': mode}))
        assert ms.get_context('mode') == (ms.PYNATIVE_MODE if mode else ms.GRAPH_MODE)
        losses[mode] = [trainer.step([batch(seed)], 0.1)['loss'] for seed in range(3)]
    backend.setup('cpu')
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def shell(script: str, *words, folder: Path, **environment) -> subprocess.CompletedProcess:
    variables = {**os.environ, 'TWINSEG_PYTHON': sys.executable, 'DEVICE_TARGET': 'CPU', **environment}
    return subprocess.run(
        ['bash', str(ROOT / 'scripts' / script), *map(str, words)], cwd=folder, capture_output=True, text=True, env=variables
    )


@pytest.mark.parametrize(
    'backend_name', [pytest.param(name, marks=[pytest.mark.slow] * (name != 'mindspore')) for name in available()]
)
def test_the_zoos_commands(backend_name, zoo_file):
    """Training, evaluation and export with the zoo's file, but for the size and length of the training."""
    folder = zoo_file.parent
    photos.make(folder / 'photos', train=4, val=3)
    changed = {
        'data_url': 'photos',
        'num_classes': 3,
        'image_size': 64,
        'batch_size': 4,
        'epochs': 1,
        'warmup_length': 0,
        'num_parallel_workers': 0,
        'amp_level': 'O0',
    }
    text = FILE
    for key, value in changed.items():
        text = re.sub(rf'^{key}:.*$', f'{key}: {value}', text, flags=re.M)
    zoo_file.write_text(text)
    name = 'gpu' if backend_name == 'pytorch' else 'ascend'
    trained = shell(f'run_standalone_train_{name}.sh', 0, zoo_file.name, folder=folder)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    best = 'train_standalone/run/checkpoints/best.safetensors'
    evaluated = shell(f'run_eval_{name}.sh', 0, zoo_file.name, best, folder=folder)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert 'of 9 images' in evaluated.stdout
    scores = json.loads((folder / f'evaluation_{name}' / 'result.json').read_text())
    assert 0 <= scores['top1'] <= 100 and sum(map(sum, scores['confusion'])) == 9
    form = 'ONNX' if backend_name == 'pytorch' else 'MINDIR'
    exported = subprocess.run(
        [
            sys.executable,
            str(ROOT / 'export.py'),
            '--pretrained',
            best,
            '--ddr_config',
            zoo_file.name,
            '--device_target',
            'CPU',
            '--file_format',
            form,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert exported.returncode == 0, exported.stderr
    assert (folder / f'ddrnet23.{form.lower()}').stat().st_size > 100_000_000
    assert '64' in next(line for line in exported.stdout.splitlines() if line.startswith('input_shape'))
