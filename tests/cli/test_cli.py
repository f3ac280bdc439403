"""The command line: what it says about bad input, what it answers with, and that it answers fast."""

import importlib.util
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support import streets
from twinseg.common import backend as backends
from twinseg.common import checkpoint, cli, config, weights
from twinseg.common.settings import recipes

ROOT = Path(__file__).parents[2]
COMMANDS = (
    'train',
    'eval',
    'predict',
    'export',
    'quantize',
    'preprocess',
    'postprocess',
    'convert',
    'parity',
    'benchmark',
    'list',
    'prepare',
    'browse',
    'ranks',
    'report',
)
HEAVY = ('torch', 'mindspore', 'numpy', 'cv2', 'onnx', 'onnxruntime', 'pydantic', 'yaml', 'safetensors')
SLOW = ('importlib.metadata', 'hashlib', 'ctypes')  # of Python's own: together an eighth of the time of --help


def twinseg(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return streets.make(tmp_path_factory.mktemp('streets'))


def recipe(folder: Path, data: Path, **changes) -> Path:
    path = folder / 'small.yaml'
    keys = streets.settings(data, **{'max_iters': 2, 'val_interval': 2, **changes})
    path.write_text(config.dump(config.from_flat(keys)), encoding='utf-8')
    return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data) -> Path:
    """A run folder after two steps, made by the first installed backend."""
    if not backends.available():
        pytest.skip('no framework is installed')
    folder = tmp_path_factory.mktemp('trained')
    assert twinseg('train', recipe(folder, data), '--device', 'cpu', '--work-dir', folder / 'run') == 0
    return folder / 'run'


@pytest.fixture
def folder(tmp_path, data, trained, monkeypatch) -> Path:
    """A folder to stand in: ``data`` (a data set to break), ``small.yaml``, and a finished ``run``."""
    shutil.copytree(data, tmp_path / 'data')
    shutil.copytree(trained, tmp_path / 'run')
    recipe(tmp_path, tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


# ---- bad input: one line, status 2, nothing written over


def image_with_other_ids(folder):
    path = folder / 'data/labels/train/003.png'
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    label[:4, :4], label[5, 5] = 77, 99
    cv2.imwrite(str(path), label)


def truncated_image(folder):
    path = folder / 'data/images/train/003.png'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def label_of_other_size(folder):
    path = folder / 'data/labels/train/003.png'
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:-8])


class Bomb:
    def __reduce__(self):
        return os.mkdir, ('exploded',)


def pickle_bomb(folder):
    (folder / 'bomb.pth').write_bytes(pickle.dumps({'state_dict': Bomb()}))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:  # the form that torch.save writes today
        archive.writestr('archive/data.pkl', pickle.dumps({'state_dict': Bomb()}, protocol=2))
        archive.writestr('archive/version', '3\n')
    (folder / 'bomb.tar').write_bytes(buffer.getvalue())


def truncated_checkpoint(folder):
    content = (folder / 'run/checkpoints/best.safetensors').read_bytes()
    (folder / 'cut.safetensors').write_bytes(content[: len(content) // 2])


def nothing(folder):
    pass


TRAIN = ['train', 'small.yaml', '--device', 'cpu', '--work-dir', 'new']
BAD_INPUT = {
    'missing data folder': (nothing, [*TRAIN, '--set', 'data_url=nowhere'], ['nowhere']),
    'ids outside the map': (image_with_other_ids, TRAIN, ['003.png', '77', '99']),
    'ids outside the map, worker': (image_with_other_ids, [*TRAIN, '--set', 'num_parallel_workers=1'], ['003.png', '77', '99']),
    'truncated image': (truncated_image, TRAIN, ['003.png']),
    'truncated image, worker': (truncated_image, [*TRAIN, '--set', 'num_parallel_workers=1'], ['003.png']),
    'image and mask of different size': (label_of_other_size, TRAIN, ['003.png', '96', '56']),
    'misspelt key': (nothing, [*TRAIN, '--set', 'bas_lr=1'], ["did you mean 'base_lr'"]),
    'wrong type': (nothing, [*TRAIN, '--set', 'base_lr=fast'], ['base_lr', 'number', "'fast'"]),
    'not key=value': (nothing, [*TRAIN, '--set', 'base_lr'], ['key=value']),
    'unknown network': (nothing, [*TRAIN, '--set', 'arch=fast_scn'], ["did you mean 'fast_scnn'"]),
    'unknown recipe': (nothing, ['train', 'fast_scnn_toystreet'], ["did you mean 'fast_scnn_toy_street'"]),
    'no configuration': (nothing, ['train'], ['CONFIG']),
    'checkpoint of another network': (
        nothing,
        [
            'eval',
            'small.yaml',
            '--set',
            'arch=stdc1_seg',
            'auxiliary_weights={}',
            'model_args={}',
            '--checkpoint',
            'run',
            '--device',
            'cpu',
        ],
        ['best.safetensors', 'do not fit'],
    ),
    'pickle bomb': (pickle_bomb, ['convert', 'bomb.pth'], ['bomb.pth']),
    'pickle bomb, zipped': (pickle_bomb, ['convert', 'bomb.tar'], ['bomb.tar']),
    'pickle bomb as pretrained': (pickle_bomb, [*TRAIN, '--set', 'pretrained=bomb.pth'], ['bomb.pth']),
    'pickle bomb as checkpoint': (pickle_bomb, ['eval', '--checkpoint', 'bomb.pth'], ['bomb.pth']),
    'truncated checkpoint': (truncated_checkpoint, ['eval', '--checkpoint', 'cut.safetensors'], ['cut.safetensors']),
    'truncated checkpoint to convert': (
        truncated_checkpoint,
        ['convert', 'cut.safetensors', '--out', 'x.safetensors'],
        ['cut.safetensors'],
    ),
    'absent checkpoint': (nothing, ['eval', '--checkpoint', 'absent.safetensors'], ['absent.safetensors']),
    'folder that is no run': (nothing, ['eval', '--checkpoint', 'data'], ['data', 'no readable checkpoint']),
    'folder that cannot be written': (nothing, [*TRAIN[:-1], '/proc/new'], ['/proc/new']),
    'work folder in use': (nothing, [*TRAIN[:-1], 'run'], ['--resume']),
    'json without a folder': (nothing, ['eval', '--checkpoint', 'run', '--json', 'no/where.json'], ['no/where.json']),
    'image that is none': (nothing, ['predict', 'small.yaml', 'small.yaml', '--checkpoint', 'run'], ['small.yaml']),
    'no network to predict with': (nothing, ['predict', 'data/images/val/000.png'], ['--checkpoint']),
    'size that is none': (nothing, ['export', '--checkpoint', 'run', '--size', '64'], ['--size', '512x1024']),
    'unknown publisher': (
        nothing,
        ['convert', 'run/checkpoints/best.safetensors', '--from', 'mmsegg'],
        ["did you mean 'mmseg'"],
    ),
    'unknown command': (nothing, ['tran'], ['tran']),
    'unknown option': (nothing, ['train', '--bckend', 'pytorch'], ['--bckend', 'twinseg train --help']),
    'unknown backend': (nothing, ['train', '--backend', 'jax'], ['jax', 'pytorch']),
    'nothing to prepare': (nothing, ['prepare', 'small.yaml'], ['cityscapes', '--cache']),
    'report of no run': (nothing, ['report', 'data', '--out', 'x.html'], ['data']),
}


@pytest.mark.parametrize('name', BAD_INPUT)
def test_bad_input_is_explained_in_one_line(folder, capfd, name):
    spoil, words, expected = BAD_INPUT[name]
    spoil(folder)
    before = contents(folder)
    assert twinseg(*words) == 2
    errors = capfd.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith('twinseg: error: '), errors
    for part in expected:
        assert part in errors[0]
    after = contents(folder)
    assert {path: after[path] for path in before} == before
    assert not (folder / 'exploded').exists()


def test_absent_gpu(folder, capfd, backend_name):
    if backend_name == 'pytorch' and pytest.importorskip('torch').cuda.is_available():
        pytest.skip('there is a GPU here')
    assert twinseg(*TRAIN, '--backend', backend_name, '--device', 'gpu') == 2
    error = capfd.readouterr().err
    assert error.count('\n') == 1 and 'gpu' in error
    assert not (folder / 'new').exists()


def test_framework_that_is_not_installed(folder, capfd, monkeypatch):
    monkeypatch.setattr(backends.importlib.util, 'find_spec', lambda name: None)
    for name in ('mindspore', 'pytorch'):
        assert twinseg(*TRAIN, '--backend', name) == 2
        error = capfd.readouterr().err
        assert error.count('\n') == 1 and 'is not installed: pip install' in error
    assert not (folder / 'new').exists()


@pytest.mark.parametrize('package', ['onnxscript', 'onnxruntime', 'openvino'])
def test_an_extra_that_is_not_installed_is_named(folder, capfd, monkeypatch, package):
    """Before any work, in one line; what needs none of it goes on working."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *_: None if name == package else find_spec(name, *_))
    (folder / 'net.onnx').write_bytes(b'')
    words = {
        'onnxscript': ['export', '--checkpoint', 'run'],
        'onnxruntime': ['predict', 'data/images/val/000.png', '--model', 'net.onnx'],
        'openvino': ['eval', '--model', 'net.onnx', '--engine', 'openvino'],
    }
    for command in (words[package], ['export', '--checkpoint', 'run', '--out', 'new.onnx']):
        assert twinseg(*command) == 2
        assert capfd.readouterr().err == f'twinseg: error: {package} is not installed: pip install "twinseg[deploy]"\n'
    assert not (folder / 'new.onnx').exists()


def test_full_disk_while_training(folder, capfd):
    before = contents(folder / 'run/checkpoints')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        assert twinseg('train', 'small.yaml', '--device', 'cpu', '--work-dir', 'run', '--resume', '--set', 'max_iters=4') == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 'not written' in capfd.readouterr().err
    assert contents(folder / 'run/checkpoints') == before


@pytest.mark.parametrize(
    'error', [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")]
)
@pytest.mark.parametrize(
    'words, place',
    [
        (TRAIN, 'training.loop.train'),
        (['eval', '--checkpoint', 'run'], 'inference.evaluate.evaluate_run'),
        (['export', '--checkpoint', 'run', '--out', 'x.onnx'], 'deploy.export.export_checkpoint'),
    ],
)
def test_memory_that_is_not_there_is_no_bug(folder, capfd, monkeypatch, words, place, error):
    def large(*_, **__):
        raise error

    monkeypatch.setattr(f'twinseg.common.{place}', large)
    assert twinseg(*words) == 2
    said = capfd.readouterr().err
    assert said.count('\n') == 1 and 'takes more memory than there is' in said and 'batches take less' in said


def test_bugs_are_named_and_shown_with_debug(folder, capfd, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError('a bug')

    monkeypatch.setattr('twinseg.common.training.loop.train', broken)
    assert twinseg(*TRAIN) == 1
    assert capfd.readouterr().err == (
        'twinseg: error: internal error: RuntimeError: a bug; run again with --debug and report what it shows\n'
    )
    with pytest.raises(RuntimeError):
        twinseg(*TRAIN, '--debug')


def test_interruption_is_status_130(folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr('twinseg.common.training.loop.train', interrupted)
    assert twinseg(*TRAIN) == 130


# ---- what works


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'twinseg', '--help'], capture_output=True, text=True, cwd=ROOT, check=True
    )
    modules = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert 'typer' in modules and not modules & set(SLOW) and not {name.partition('.')[0] for name in modules} & set(HEAVY)
    for command in COMMANDS:
        assert f'  {command} ' in done.stdout


def test_set_takes_several_values():
    assert cli._repeat_set(['train', 'x', '--set', 'a=1', 'b=2', '--resume', 'c=3']) == [
        'train',
        'x',
        '--set',
        'a=1',
        '--set',
        'b=2',
        '--resume',
        'c=3',
    ]
    assert cli._repeat_set(['train', '--set', 'a=1', 'x']) == ['train', '--set', 'a=1', 'x']


def test_a_run_from_start_to_page(folder):
    """train (done by the fixture), eval, predict, export, report: the checkpoint carries its configuration."""
    assert twinseg('eval', '--checkpoint', 'run', '--device', 'cpu', '--json', 'scores.json') == 0
    scores = json.loads((folder / 'scores.json').read_text())
    assert {'mIoU', 'mAcc', 'aAcc', 'classes', 'conditions'} <= scores.keys() and set(scores['classes']) == set(streets.CLASSES)
    assert sum(map(sum, scores['confusion'])) > 0
    assert twinseg('predict', 'data/images/val/000.png', '--checkpoint', 'run', '--out', 'seen', '--logits', 'seen/l.npy') == 0
    assert np.load(folder / 'seen/l.npy').shape == (1, 3, 8, 12)
    assert sorted(path.name for path in (folder / 'seen').glob('*.png')) == ['000_ids.png', '000_overlay.png']
    assert twinseg('report', 'run', '--out', 'page.html', '--pictures', '1') == 0
    assert (folder / 'page.html').stat().st_size > 1000


def test_resume_takes_the_configuration_of_the_run(folder):
    assert twinseg('train', '--resume', '--work-dir', 'run', '--device', 'cpu', '--set', 'max_iters=4') == 0
    assert checkpoint.load(checkpoint.latest(folder / 'run/checkpoints'))[1].step == 4


def test_continue_from_a_checkpoint_in_a_new_folder(folder):
    start = checkpoint.latest(folder / 'run/checkpoints')
    assert twinseg('train', '--checkpoint', start, '--work-dir', 'new', '--device', 'cpu', '--set', 'max_iters=3') == 0
    assert checkpoint.load(checkpoint.latest(folder / 'new/checkpoints'))[1].step == 3


def test_browse_finds_what_is_broken(folder, capfd):
    assert twinseg('browse', 'small.yaml', '--out', 'look') == 0
    truncated_image(folder)
    image_with_other_ids(folder)
    assert twinseg('browse', 'small.yaml', '--out', 'look') == 1
    assert '003.png' in capfd.readouterr().out
    assert (folder / 'look/browse.png').is_file()


def test_list_names_everything(capfd):
    assert twinseg('list', '--configs', '--datasets', '--keys') == 0
    shown = capfd.readouterr().out
    for word in (*(path.stem for path in recipes.recipes()), *config.KEYS, 'toy_street', 'camvid32'):
        assert word in shown


def test_list_names_networks(capfd):
    assert twinseg('list', '--models') == 0
    shown = capfd.readouterr().out
    for word in ('fast_scnn', 'stdc1_seg', 'stdc2', '1.4566', '1.3999', 'aux_gfe', 'mmseg, tramac', 'stdc_seg'):
        assert word in shown


def test_the_model_zoos_export_command(folder):
    pytest.importorskip('torch')
    done = subprocess.run(
        [
            sys.executable,
            ROOT / 'export.py',
            '--pretrained',
            'run',
            '--ddr_config',
            'small.yaml',
            '--device_target',
            'CPU',
            '--file_format',
            'ONNX',
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / 'fast_scnn.onnx').is_file() and 'difference' in done.stdout


def test_convert_takes_what_weights_do_not_tell(folder, capsys):
    words = 'convert', 'run/checkpoints/best.safetensors', '--out', 'told.safetensors', '--set'
    assert twinseg(*words, 'dropout=0.25') == 0
    assert weights.load(folder / 'told.safetensors').arguments['dropout'] == 0.25
    assert twinseg(*words, 'drop=0.25') == 2
    assert "has no argument 'drop'" in capsys.readouterr().err


@pytest.mark.parametrize('suffix, framework', [('.pth', 'torch'), ('.ckpt', 'mindspore')])
def test_convert_writes_files_of_a_framework(folder, suffix, framework):
    """They load into our network there, and come back as the same weights of the same network."""
    native, again = folder / f'net{suffix}', folder / 'again.safetensors'
    pytest.importorskip(framework)
    assert twinseg('convert', 'run/checkpoints/best.safetensors', '--out', native) == 0
    assert twinseg('convert', native, '--out', again) == 0
    first, second = (weights.load(path) for path in (folder / 'run/checkpoints/best.safetensors', again))
    assert (second.arch, second.arguments) == (first.arch, first.arguments)
    assert list(second.state) == list(first.state)
    assert all(np.array_equal(second.state[name], array) for name, array in first.state.items())
    name = {'torch': 'pytorch'}.get(framework, framework)
    network = backends.get_backend(name).build_model(first.arch, **first.arguments)
    if framework == 'torch':
        import torch

        network.load_state_dict(torch.load(native, weights_only=True))
    else:
        import mindspore

        mindspore.load_param_into_net(network, mindspore.load_checkpoint(str(native)), strict_load=True)
    loaded = backends.get_backend(name).state(network)
    assert all(np.array_equal(loaded[key], array) for key, array in first.state.items())
    assert sorted(path.name for path in folder.glob('*net*')) == [native.name]


def test_convert_halves_a_file(folder, capsys):
    """What training alone needs is left out, what data and images it is for stays, and kernels lose 11 bits."""
    tensors, before = checkpoint.load(folder / 'run/checkpoints/best.safetensors')
    before = before.model_copy(update={'config': {**before.config, 'pretrained': 'imagenet.pth'}})
    best, half = folder / 'best.safetensors', folder / 'half.safetensors'
    checkpoint.save(best, tensors, before)
    assert twinseg('convert', best, '--half', '--out', half) == 0
    tensors, after = checkpoint.load(half)
    left_out = ('amp_level', 'dtype', 'threads', 'torch_compile', 'cuda_graphs', 'pretrained')
    config = {key: value for key, value in before.config.items() if key not in left_out}
    assert after == before.model_copy(update={'config': config, 'trainer': None})
    exact = weights.load(best).state
    assert set(tensors) == {f'model.{name}' for name in exact} and half.stat().st_size < 0.6 * best.stat().st_size
    for name, array in exact.items():
        found = tensors[f'model.{name}']
        assert found.dtype == (np.float32 if array.ndim < 2 else np.float16)
        np.testing.assert_allclose(found, array, rtol=0 if array.ndim < 2 else 2**-11, atol=1e-7 if array.ndim > 1 else 0)
    assert all(array.dtype == np.float32 for array in weights.load(half).state.values())
    assert twinseg('eval', '--checkpoint', half, '--device', 'cpu') == 0
    assert twinseg('convert', best, '--half', '--out', 'half.pth') == 2
    assert "--half is for *.safetensors: the frameworks' own files are float32" in capsys.readouterr().err
    name = next(name for name, array in exact.items() if array.ndim == 4)
    checkpoint.save(folder / 'large.safetensors', {**tensors, f'model.{name}': exact[name] * np.float32(1e9)}, after)
    assert twinseg('convert', 'large.safetensors', '--half', '--out', half) == 2
    assert f'{name}: holds' in capsys.readouterr().err and checkpoint.load(half)[1] == after


def test_convert_says_which_framework_a_file_needs(folder, capsys, monkeypatch):
    monkeypatch.setitem(backends.FRAMEWORKS, 'mindspore', 'no_such_framework')
    assert twinseg('convert', 'run/checkpoints/best.safetensors', '--out', 'net.ckpt') == 2
    assert 'no_such_framework is not installed' in capsys.readouterr().err
    assert twinseg('convert', 'run/checkpoints/best.safetensors', '--out', 'net.bin') == 2
    assert '*.safetensors, or *.pth for PyTorch alone' in capsys.readouterr().err
