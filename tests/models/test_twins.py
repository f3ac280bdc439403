"""The two implementations answer each other: files, names, arguments. What they compute is in test_matrix.py."""

import ast
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize('name', ['network.py', *modules('layers/*.py'), *modules('models/*.py')])
def test_both_sides_have_the_public_names_of_networks(name):
    ours, theirs = (signatures(ROOT / side / name) for side in ('pytorch_impl', 'mindspore_impl'))
    assert set(ours) == set(theirs)


@pytest.mark.parametrize('name', modules())
def test_arguments_and_defaults_agree(name):
    ours, theirs = (signatures(ROOT / side / name) for side in ('pytorch_impl', 'mindspore_impl'))
    for shared in set(ours) & set(theirs):
        assert ours[shared] == theirs[shared], shared


def test_auxiliary_outputs_are_computed_when_asked_for(backends):
    images = np.zeros((1, 3, 65, 97), np.float32)
    for backend in backends:
        network = backend.build_model('fast_scnn')
        assert list(backend.forward(network, images)) == ['logits']
        assert list(backend.forward(network, images, auxiliary=True)) == ['logits', 'aux_gfe', 'aux_ltd']
        assert list(backend.forward(network, images)) == ['logits']
        without = backend.build_model('fast_scnn', auxiliary=False)
        assert list(backend.forward(without, images, auxiliary=True)) == ['logits']
