"""The two implementations answer each other: files, names, arguments. What they compute is in test_matrix.py."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.twin import SIDES, other_side
from twinseg.common.backend import get_backend

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def backends():
    for framework in ('torch', 'mindspore'):
        pytest.importorskip(framework)
    pair = get_backend('pytorch'), get_backend('mindspore')
    for backend in pair:
        backend.setup('cpu', seed=0, threads=1)
    return pair


def modules(pattern: str = '**/*.py') -> list[str]:
    """Files of either side, relative to its folder."""
    sides = [ROOT / 'pytorch_impl', ROOT / 'mindspore_impl']
    found = {path.relative_to(side) for side in sides for path in side.glob(pattern)}
    return sorted(str(path) for path in found if '__pycache__' not in path.parts)


def signatures(path: Path) -> dict[str, str]:
    """Public functions, classes and constants of a file; of functions and constructors the arguments with their defaults."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef):
            methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
            found[node.name] = arguments(methods['__init__']) if '__init__' in methods else 'self'
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ''
    return {name: text for name, text in found.items() if not name.startswith('_')}


def arguments(function: ast.FunctionDef) -> str:
    for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
        argument.annotation = None
    return ast.unparse(function.args)


@pytest.mark.parametrize('side', ['pytorch_impl', 'mindspore_impl'])
@pytest.mark.parametrize('name', modules())
def test_both_sides_have_the_file(name, side):
    assert (ROOT / side / name).is_file()


@pytest.mark.parametrize('name', modules('models/*.py'))
def test_model_files_are_one_text(name):
    """But for the words that ``scripts/twin.py`` substitutes; it writes the other side."""
    for side in SIDES:
        other, expected = other_side(ROOT / side / name)
        assert other.read_text() == expected


@pytest.mark.parametrize('name', ['network.py', *modules('layers/*.py')])
def test_both_sides_have_the_public_names_of_networks_in_one_order(name):
    ours, theirs = (list(signatures(ROOT / side / name)) for side in SIDES)
    assert ours == theirs


@pytest.mark.parametrize('name', modules())
def test_arguments_and_defaults_agree(name):
    ours, theirs = (signatures(ROOT / side / name) for side in ('pytorch_impl', 'mindspore_impl'))
    for shared in set(ours) & set(theirs):
        assert ours[shared] == theirs[shared], shared


@pytest.fixture
def twin(tmp_path):
    """Runs scripts/twin.py on a copy of the models of both sides, with ruff's settings."""
    (tmp_path / 'twinseg').symlink_to(ROOT / 'twinseg')  # by which ruff knows whose imports they are
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    for side in SIDES:
        shutil.copytree(ROOT / side / 'models', tmp_path / side / 'models', ignore=shutil.ignore_patterns('__pycache__'))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / 'scripts' / 'twin.py', *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.mark.parametrize('side', SIDES)
def test_twin_writes_and_compares_the_other_side(twin, tmp_path, side):
    name, other = f'{side}/models/gcn.py', tmp_path / SIDES[side][0] / 'models' / 'gcn.py'
    original = other.read_text()
    assert twin('--check', name).returncode == 0
    other.write_text(original.replace('kernel_size: int = 15', 'kernel_size: int = 13'))
    result = twin('--check', name)
    assert result.returncode == 1
    assert '-        kernel_size: int = 13' in result.stdout and '+        kernel_size: int = 15' in result.stdout
    other.unlink()
    assert twin('--check', name).returncode == 1
    assert twin(name).returncode == 0
    assert other.read_text() == original


def test_twin_says_where_ruff_wants_other_lines(twin, tmp_path):
    path = tmp_path / 'pytorch_impl' / 'models' / 'pspnet.py'
    path.write_text(path.read_text() + '\n' + '# twinseg.pytorch_impl.'.ljust(128, 'x') + '\n')  # the other word is longer
    result = twin('pytorch_impl/models/pspnet.py')
    assert result.returncode == 1 and 'ruff wants it otherwise' in result.stderr


@pytest.mark.parametrize(
    'name, added, message',
    [
        ('pytorch_impl/losses.py', '', 'no model file'),
        ('pytorch_impl/models/absent.py', None, 'no model file'),
        ('pytorch_impl/models/gcn.py', 'BASE = nn.Cell', "'nn.Cell' is a word of the other side"),
        ('mindspore_impl/models/gcn.py', 'import mindspore as ms', 'uses the framework itself'),
        ('pytorch_impl/models/gcn.py', 'y = torch.relu(y)', 'uses the framework itself'),
    ],
)
def test_twin_refuses_what_has_no_other_side(twin, tmp_path, name, added, message):
    path = tmp_path / name
    if added is not None:
        path.write_text((path.read_text() if path.is_file() else '') + f'\n{added}\n')
    result = twin(name)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count('\n') == 1


def test_auxiliary_outputs_are_computed_when_asked_for(backends):
    images = np.zeros((1, 3, 65, 97), np.float32)
    for backend in backends:
        network = backend.build_model('fast_scnn')
        assert list(backend.forward(network, images)) == ['logits']
        assert list(backend.forward(network, images, auxiliary=True)) == ['logits', 'aux_gfe', 'aux_ltd']
        assert list(backend.forward(network, images)) == ['logits']
        without = backend.build_model('fast_scnn', auxiliary=False)
        assert list(backend.forward(without, images, auxiliary=True)) == ['logits']
