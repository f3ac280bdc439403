"""The two implementations answer each other: files, names, arguments, parameters, logits and gradients."""
import ast
from pathlib import Path

import numpy as np
import pytest

from common.backend import get_backend
from common.config import Loss
from tests.zoo import CLASSIFIERS, NETWORKS

ROOT = Path(__file__).parent.parent
LOGITS_TOLERANCE = 1e-5  # of the largest magnitude
GRADIENT_TOLERANCE = 1e-3  # relative L2, of every parameter
MEDIAN_TOLERANCE = 1e-5  # relative L2, over the parameters

@pytest.fixture(scope='module')
def backends():
    for framework in ('torch', 'mindspore'):
        pytest.importorskip(framework)
    pair = get_backend('pytorch'), get_backend('mindspore')
    for backend in pair:
        backend.setup('cpu', seed=0, threads=1)
    return pair


@pytest.fixture(scope='module', params=list(NETWORKS))
def twins(request, backends):
    """Name, and per backend the backend and the network, both with the same weights and lively norms."""
    case = NETWORKS[request.param]
    networks = [backend.build_model(case.arch, **case.arguments) for backend in backends]
    rng = np.random.default_rng(0)
    state = backends[0].state(networks[0])
    for name, array in state.items():
        if name.endswith('running_var'):
            array[:] = rng.uniform(0.5, 1.5, array.shape)
        elif name.endswith('bn.weight'):
            array[:] = rng.uniform(0.3, 0.9, array.shape)  # activations stay near 1, where float32 itself is good to 1e-6
        elif array.ndim == 1:
            array[:] = 0.1 * rng.standard_normal(array.shape)
    for backend, network in zip(backends, networks):
        backend.load_state(network, state)
    return request.param, list(zip(backends, networks))


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


def images(size: tuple[int, int] = (65, 97)) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, *size)).astype(np.float32)


def arguments(function: ast.FunctionDef) -> str:
    for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
        argument.annotation = None
    return ast.unparse(function.args)


@pytest.mark.parametrize('side', ['pytorch_impl', 'mindspore_impl'])
@pytest.mark.parametrize('name', modules())
def test_both_sides_have_the_file(name, side):
    assert (ROOT / side / name).is_file()


@pytest.mark.parametrize('name', ['layers.py', *modules('models/*.py')])
def test_both_sides_have_the_public_names_of_networks(name):
    ours, theirs = (signatures(ROOT / side / name) for side in ('pytorch_impl', 'mindspore_impl'))
    assert set(ours) == set(theirs)


@pytest.mark.parametrize('name', modules())
def test_arguments_and_defaults_agree(name):
    ours, theirs = (signatures(ROOT / side / name) for side in ('pytorch_impl', 'mindspore_impl'))
    for shared in set(ours) & set(theirs):
        assert ours[shared] == theirs[shared], shared


def test_parameters_agree(twins):
    name, pair = twins
    ours, theirs = (backend.state(network) for backend, network in pair)
    assert list(ours) == list(theirs)
    assert {key: array.shape for key, array in ours.items()} == {key: array.shape for key, array in theirs.items()}
    counts = [sum(array.size for key, array in ours.items() if not key.endswith(('running_mean', 'running_var'))
                  and (auxiliary or not key.startswith(('aux', 'detail')))) for auxiliary in (True, False)]
    assert counts == list(NETWORKS[name].parameters)


def test_same_initial_weights_in_both(backends):
    first, second = (backend.state(backend.build_model('stdc1_seg', seed=3)) for backend in backends)
    other = backends[0].state(backends[0].build_model('stdc1_seg', seed=4))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first['head.conv.conv.weight'], other['head.conv.conv.weight'])


def test_logits_agree(twins):
    name, pair = twins
    ours, theirs = (backend.forward(network, images(NETWORKS[name].size), auxiliary=True) for backend, network in pair)
    assert list(ours) == list(theirs)
    for output, value in ours.items():
        assert value.shape == theirs[output].shape
        assert np.abs(value - theirs[output]).max() <= LOGITS_TOLERANCE * np.abs(value).max(), output


def test_auxiliary_outputs_are_computed_when_asked_for(backends):
    for backend in backends:
        network = backend.build_model('fast_scnn')
        assert list(backend.forward(network, images())) == ['logits']
        assert list(backend.forward(network, images(), auxiliary=True)) == ['logits', 'aux_gfe', 'aux_ltd']
        assert list(backend.forward(network, images())) == ['logits']
        without = backend.build_model('fast_scnn', auxiliary=False)
        assert list(backend.forward(without, images(), auxiliary=True)) == ['logits']


def test_gradients_agree(twins):
    name, pair = twins
    if name in CLASSIFIERS:
        pytest.skip('the losses are those of segmentation')
    rng, size = np.random.default_rng(2), NETWORKS[name].size
    labels = np.where(rng.random((1, *size)) < 0.05, 255, rng.integers(0, 19, (1, *size)))
    weights = {output: 0.4 for output in pair[0][1].align_corners if output != 'logits'}
    (loss, ours), (other, theirs) = (backend.loss_and_gradients(network, images(size), labels, Loss(auxiliary_weights=weights))
                                     for backend, network in pair)
    assert other == pytest.approx(loss, rel=1e-5)
    assert set(ours) == set(theirs)
    differences = [np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(ours[key]) for key in ours]
    assert max(differences) <= GRADIENT_TOLERANCE
    assert np.median(differences) <= MEDIAN_TOLERANCE
