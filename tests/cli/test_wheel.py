"""The wheel: it holds ``twinseg/`` with all that it reads at run time, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from twinseg.common.backend import available
from twinseg.common.settings import recipes

ROOT = Path(__file__).parents[2]
SOURCES = ('twinseg', 'common', 'pytorch_impl', 'mindspore_impl', 'pyproject.toml', 'README.md', 'LICENSE')
SHORT = [
    'max_iters=2',
    'warmup_iters=1',
    'val_interval=2',
    'batch_size=4',
    'train_samples=8',
    'val_samples=2',
    'num_parallel_workers=0',
]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that neither side leaves anything in the other."""
    folder = tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree(ROOT / name, folder / 'copy' / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / 'copy' / name)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
    build = [*pip, 'wheel', '-q', '--no-index', '--no-deps', '--no-build-isolation', '-w', folder, folder / 'copy']
    subprocess.run(build, check=True)
    (path,) = folder.glob('*.whl')
    subprocess.run([*pip, 'install', '-q', '--no-index', '--no-deps', '--target', folder / 'installed', path], check=True)
    return path


KINDS = ('.py', '.yaml', '.html', '.css', '.json', '.safetensors', '.md')


def contents(folder: Path) -> set[str]:
    """Files below a folder of the checkout that a wheel holds, as paths in it."""
    inside = (path.relative_to(ROOT) for path in folder.rglob('*') if path.suffix in KINDS)
    return {f'twinseg/{path}' for path in inside}


def test_it_holds_the_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split('/')[0].endswith('.dist-info')}
    expected = set.union(*(contents(ROOT / folder) for folder in ('common', 'pytorch_impl', 'mindspore_impl')))
    assert names == expected | {'twinseg/__init__.py', 'twinseg/__main__.py', 'twinseg/py.typed'}
    assert {f'twinseg/common/configs/{path.parent.name}/{path.name}' for path in recipes.recipes()} <= names
    assert {'twinseg/common/report/frame.html', 'twinseg/common/report/catalogue.json'} <= names
    assert {f'twinseg/common/weights/shipped/{name}' for name in ('README.md', 'ddrnet23_slim_camvid.safetensors')} <= names


def test_it_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        lines = archive.read(name).decode().splitlines()
        assert any(name.endswith('.dist-info/licenses/LICENSE') for name in archive.namelist())
    for line in ('License-Expression: Apache-2.0', 'Requires-Python: >=3.10', 'Description-Content-Type: text/markdown'):
        assert line in lines
    base = {line.split()[1] for line in lines if line.startswith('Requires-Dist: ') and 'extra ==' not in line}
    assert not {'torch', 'mindspore', 'onnxruntime', 'onnxscript', 'openvino', 'scipy', 'matplotlib'} & base


def test_it_works_in_an_empty_folder(wheel, tmp_path):
    """list, train, predict: recipes are read from the package."""

    def twinseg(*words: object) -> str:
        environment = {**os.environ, 'PYTHONPATH': str(wheel.parent / 'installed')}
        command = [wheel.parent / 'installed' / 'bin' / 'twinseg', *words]
        done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert twinseg('--version') == f'twinseg {wheel.name.split("-")[1]}\n'
    listed = twinseg('list', '--configs')
    assert all(path.stem in listed for path in recipes.recipes())
    if not available():
        pytest.skip('no framework is installed')
    twinseg('train', 'fast_scnn_toy_street', '--device', 'cpu', '--work-dir', 'run', '--set', *SHORT)
    cv2.imwrite(str(tmp_path / 'street.png'), np.zeros((64, 96, 3), np.uint8))
    twinseg('predict', 'street.png', '--checkpoint', 'run', '--device', 'cpu')
    assert (tmp_path / 'predictions/street_ids.png').is_file()
    twinseg('predict', 'street.png', '--checkpoint', 'enet_camvid', '--device', 'cpu', '--out', 'by_name')
    assert (tmp_path / 'by_name/street_ids.png').is_file()


def test_it_is_not_the_checkout(wheel, tmp_path):
    """What ``test_it_works_in_an_empty_folder`` runs comes from the wheel alone."""
    environment = {**os.environ, 'PYTHONPATH': str(wheel.parent / 'installed')}
    program = 'import sys, twinseg.common.cli; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith("twinseg")))'
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, env=environment, capture_output=True, check=True)
    for file in done.stdout.decode().split():
        assert Path(file).is_relative_to(wheel.parent / 'installed')
