"""Every network of ``tests/zoo.py`` through everything a network has to do, in both backends.

Golden outputs of the publishers are in ``test_golden.py``. MindSpore runs operator by operator where that is not the point
of a test (compiling takes ten times as long); training steps and exports are compiled.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import operator_by_operator
from tests.support.checkpoints import write
from tests.support.zoo import CLASSIFIERS, NETWORKS, QUICK, STEPPED
from twinseg.common import checkpoint, config, weights
from twinseg.common.backend import available, get_backend
from twinseg.common.config import Loss
from twinseg.common.deploy.engines import OnnxRuntime, OpenVino, open_engine
from twinseg.common.deploy.export import ExportOptions, export_checkpoint
from twinseg.common.errors import BatchError

LOGITS_TOLERANCE = 1e-5  # of the largest magnitude, twin against twin (docs/design.md section 4)
GRADIENT_TOLERANCE = 1e-3  # relative L2, of every parameter
MEDIAN_TOLERANCE = 1e-5  # relative L2, over the parameters
STEPS, PARAMETERS, RATE = 3, 1e-4, 1e-3  # after as many steps the parameters are so far apart, relative L2
COMPILED = ('resnet18',)  # training/test_golden_steps.py compiles six more
HALF_SIZE = (33, 49)  # of those images: CPUs are slow in float16
SEEDS = (1, 2, 3, 4)  # of images whose gradients are compared
HALF_TOLERANCE = 0.1  # relative L2 of logits in half precision: it rounds to 1e-3, a few dozen layers deep
EXPORT_TOLERANCE = 1e-4  # of the largest logit
EXPORTED = {  # networks of which such a file is written in every run; the others have the same layers
    'onnx': ('enet', 'pspnet', 'duc_hdc'),
    'mindir': ('enet', 'pspnet'),
}
STATIC = {  # without Shape, Gather, If, Loop: ATC takes these
    'Add',
    'AveragePool',
    'BatchNormalization',
    'Cast',
    'Concat',
    'ConstantOfShape',
    'Conv',
    'ConvTranspose',
    'DepthToSpace',
    'Div',
    'Flatten',
    'Gemm',
    'GlobalAveragePool',
    'Identity',
    'LayerNormalization',
    'MatMul',
    'MaxPool',
    'Mul',
    'PRelu',
    'Pad',
    'Pow',
    'ReduceMean',
    'Relu',
    'Reshape',
    'Resize',
    'ScatterElements',
    'Sigmoid',
    'Slice',
    'Split',
    'Sqrt',
    'Squeeze',
    'Sub',
    'Sum',
    'Transpose',
    'Unsqueeze',
}
both = pytest.mark.skipif(len(available()) < 2, reason='needs both PyTorch and MindSpore')


@pytest.fixture(scope='module', params=list(NETWORKS))
def name(request) -> str:
    return request.param


@pytest.fixture
def one_of_a_kind(request, name) -> None:
    """For tests that compile, or of what a publisher's settings do not change: one network of each kind, all with --slow."""
    if name not in QUICK and not request.config.getoption('--slow'):
        pytest.skip('needs --slow')


@pytest.fixture(scope='module')
def backends():
    found = [get_backend(name) for name in available()]
    for backend in found:
        backend.setup('cpu', seed=0, threads=1)
    return found


@pytest.fixture(scope='module')
def twins(name, backends):
    """Pairs of backend and network, with the same weights and lively norms."""
    case = NETWORKS[name]
    networks = [backend.MODELS[case.arch](**case.arguments) for backend in backends]
    state = lively(backends[0].state(backends[0].build_model(case.arch, **case.arguments)))
    for backend, network in zip(backends, networks):
        backend.load_state(network, state)
    return list(zip(backends, networks))


def lively(state):
    """Norms and biases that matter, and activations near 1, where float32 itself is good to 1e-6."""
    rng = np.random.default_rng(0)
    for key, array in state.items():
        if key.endswith('running_var'):
            array[:] = rng.uniform(0.5, 1.5, array.shape)
        elif array.ndim == 1 and key.endswith('weight') and array.size > 1:
            array[:] = rng.uniform(0.3, 0.9, array.shape)
        elif array.ndim == 1:
            array[:] = 0.1 * rng.standard_normal(array.shape)
    return state


def images(case, number=1, seed=1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, 3, *case.size)).astype(np.float32)


def labels(name, classes, number=1) -> np.ndarray:
    """Of pixels, some of them ignored, or of images."""
    rng, case = np.random.default_rng(2), NETWORKS[name]
    if name in CLASSIFIERS:
        return rng.integers(0, classes, number)
    drawn = rng.integers(0, classes, (number, *case.size))
    return np.where(rng.random(drawn.shape) < 0.05, 255, drawn)


def loss_of(network) -> Loss:
    return Loss(auxiliary_weights={output: 0.4 for output in network.align_corners if output != 'logits'})


def classes_of(name) -> int:
    return NETWORKS[name].arguments.get('num_classes', 1000 if name in CLASSIFIERS else 19)


def relative(ours, theirs) -> float:
    return float(np.linalg.norm(theirs - ours) / max(np.linalg.norm(ours), 1e-30))


@both
def test_parameters_agree(name, twins):
    ours, theirs = (backend.state(network) for backend, network in twins)
    assert list(ours) == list(theirs)
    assert {key: array.shape for key, array in ours.items()} == {key: array.shape for key, array in theirs.items()}


def test_size(request, name, twins):
    """Parameters in training and in inference; the multiply-accumulates are the same in both, seen with one of a kind."""
    case = NETWORKS[name]
    macs = set()
    for backend, full in twins if name in QUICK or request.config.getoption('--slow') else twins[:1]:
        inference = backend.MODELS[case.arch](**{**case.arguments, 'auxiliary': False})
        assert (backend.parameters(full), backend.parameters(inference)) == case.parameters
        macs.add(backend.macs(inference, case.size))
    assert len(macs) == 1


@both
def test_initial_weights_are_the_same_numbers(name, one_of_a_kind, backends):
    case = NETWORKS[name]
    first, second = (backend.state(backend.build_model(case.arch, seed=3, **case.arguments)) for backend in backends)
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.fixture(scope='module')
def outputs(name, twins):
    """Of each twin for one image, all of them."""
    return [backend.forward(network, images(NETWORKS[name]), auxiliary=True) for backend, network in twins]


@both
def test_logits_agree(outputs):
    ours, theirs = outputs
    assert list(ours) == list(theirs) and list(ours)[0] == 'logits'
    for output, value in ours.items():
        assert value.shape == theirs[output].shape
        assert np.abs(value - theirs[output]).max() <= LOGITS_TOLERANCE * np.abs(value).max(), output


@both
def test_gradients_agree(name, one_of_a_kind, twins):
    """At one of a few images: where the input of a ReLU, or the lead of a maximum, is below rounding, twins may take sides."""
    case, found = NETWORKS[name], []
    for seed in SEEDS:
        with operator_by_operator():
            (loss, ours), (other, theirs) = (
                backend.loss_and_gradients(network, images(case, seed=seed), labels(name, classes_of(name)), loss_of(network))
                for backend, network in twins
            )
        assert other == pytest.approx(loss, rel=1e-5)
        assert set(ours) == set(theirs)
        differences = {key: relative(ours[key], theirs[key]) for key in ours}
        median = float(np.median(list(differences.values())))
        found.append((median, {key: value for key, value in differences.items() if value > GRADIENT_TOLERANCE}))
        if not found[-1][1] and median <= MEDIAN_TOLERANCE:
            return
    pytest.fail(f'median, and parameters that differ, at {len(SEEDS)} images: {found}')


def test_batch_of_one_trains_or_says_why_not(name, one_of_a_kind, twins):
    case = NETWORKS[name]
    with operator_by_operator():
        for backend, network in twins:
            arguments = network, images(case), labels(name, classes_of(name)), loss_of(network)
            before = backend.state(network)
            if case.batch_of_one:
                loss, gradients = backend.loss_and_gradients(*arguments, training=True)
                assert np.isfinite(loss) and all(np.isfinite(gradient).all() for gradient in gradients.values())
            else:
                with pytest.raises(BatchError, match='batch_size 2'):
                    backend.loss_and_gradients(*arguments, training=True)
            backend.load_state(network, before)  # statistics have moved


@both
def test_a_checkpoint_of_one_gives_the_others_logits(name, one_of_a_kind, twins, outputs, tmp_path):
    case, path = NETWORKS[name], tmp_path / 'x.safetensors'
    arguments = {key: value for key, value in case.arguments.items() if key != 'num_classes'}
    meta = checkpoint.RunMeta(config={'arch': case.arch, 'model_args': arguments}, num_classes=classes_of(name))
    for (backend, network), (other, _), ours in zip(twins, twins[::-1], [output['logits'] for output in outputs]):
        checkpoint.save(path, {f'model.{key}': array for key, array in backend.state(network).items()}, meta)
        converted = weights.load(path)
        again = other.MODELS[converted.arch](**converted.arguments)
        assert len(other.load_state(again, converted.state).matched) == len(converted.state)
        theirs = other.forward(again, images(case))['logits']
        assert np.abs(ours - theirs).max() <= LOGITS_TOLERANCE * np.abs(ours).max()


@both
def test_three_training_steps(request, name, one_of_a_kind, twins):
    """SGD from the same weights on the same four images; MindSpore compiles one of the networks, with --slow all.

    Where it is more, the twins may be as far apart as twice what a rounding error in the weights does to PyTorch alone.
    """
    if name in (*STEPPED, 'segnet') and not request.config.getoption('--slow'):
        pytest.skip('training/test_golden_steps.py takes steps with it, or with what it is made of; these need --slow')
    before = twins[0][0].state(twins[0][1])
    compiled = name in COMPILED or request.config.getoption('--slow')
    (ours, losses), (theirs, others) = (three_steps(name, backend, network, before, compiled) for backend, network in twins)
    apart = distance(ours, theirs)
    if apart > PARAMETERS:
        sign = np.random.default_rng(0).standard_normal
        nudged = {
            key: array * (1 + np.finfo(np.float32).eps * np.sign(sign(array.shape, np.float32)))
            for key, array in before.items()
        }
        assert apart <= 2 * distance(ours, three_steps(name, *twins[0], nudged)[0])
    np.testing.assert_allclose(others, losses, rtol=0.01)
    assert not all(np.array_equal(before[key], ours[key]) for key in ours)


def three_steps(name, backend, network, start, compiled=True):
    """The state after three steps from ``start``, and their losses; the network is then as it was."""
    case, before = NETWORKS[name], backend.state(network)
    backend.load_state(network, start)
    settings = {'auxiliary_weights': loss_of(network).auxiliary_weights, 'weight_decay': 5e-4}
    if backend.name == 'mindspore' and not compiled:
        settings['graph_mode'] = 1
    trainer = backend.make_trainer(network, config.from_flat(settings))
    rng = np.random.default_rng(4)
    batches = [
        (rng.integers(0, 256, (4, 3, *case.size), np.uint8), labels(name, classes_of(name), 4).astype(np.uint8))
        for _ in range(STEPS)
    ]
    losses = [trainer.step([batch], RATE)['loss'] for batch in batches]
    after = backend.state(network)
    backend.load_state(network, before)
    return after, losses


def distance(ours, theirs) -> float:
    """Relative L2 over all parameters and statistics together."""
    moved = sum(np.sum((theirs[key] - ours[key]) ** 2) for key in ours)
    return float(np.sqrt(moved / sum(np.sum(array**2) for array in ours.values())))


def test_half_precision_stays_near(name, one_of_a_kind, twins):
    """O2: half precision with norms in float32."""
    case = NETWORKS[name]
    pixels = np.random.default_rng(5).integers(0, 256, (1, 3, *HALF_SIZE), np.uint8)
    for backend, twin in twins:
        network = backend.MODELS[case.arch](**case.arguments)
        backend.load_state(network, backend.state(twin))
        with operator_by_operator():
            exact, half = (
                backend.make_predictor(network, config.from_flat({'amp_level': level})).logits(pixels) for level in ('O0', 'O2')
            )
        assert half.dtype == np.float32
        assert 0 < relative(exact, half) <= HALF_TOLERANCE


@pytest.fixture(scope='module')
def saved(name, tmp_path_factory):
    """``saved(backend name)``: a checkpoint of the network."""
    paths: dict[str, Path] = {}

    def get(backend_name: str) -> Path:
        if backend_name not in paths:
            case = NETWORKS[name]
            folder = tmp_path_factory.mktemp(backend_name)
            arguments = {key: value for key, value in case.arguments.items() if key != 'num_classes'}
            paths[backend_name] = write(folder, backend_name, case.arch, model_args=arguments)
        return paths[backend_name]

    return get


@pytest.mark.parametrize('format', ['onnx', 'mindir'])
def test_export_is_static_and_equal(request, name, one_of_a_kind, format, backend, saved, tmp_path, monkeypatch):
    """Each backend writes ONNX by its own exporter; the files are run again by every engine, whatever the report says."""
    case, path = NETWORKS[name], tmp_path / f'net.{format}'
    if format == 'mindir' and backend.name == 'pytorch':
        pytest.skip('MindSpore writes it')
    if name not in EXPORTED[format] and not request.config.getoption('--slow'):
        pytest.skip('needs --slow')
    monkeypatch.setattr('twinseg.common.deploy.export.available', lambda: [backend.name])  # as if it were the only one
    size = case.export_size
    report = export_checkpoint(
        saved(backend.name), path, format, ExportOptions(size=size), backend_name=backend.name, device='cpu'
    )
    assert report.written_by == backend.name and report.file.difference <= EXPORT_TOLERANCE
    network = backend.MODELS[case.arch](**{**case.arguments, 'num_classes': 5})
    backend.load_state(network, weights.load(saved(backend.name)).state)
    pixels = np.random.default_rng(6).standard_normal((1, 3, *size), np.float32)
    expected = backend.forward(network, pixels)['logits']
    for engine in [OnnxRuntime(path), OpenVino(path)] if format == 'onnx' else [open_engine(path)]:
        assert np.abs(engine(pixels) - expected).max() <= EXPORT_TOLERANCE * np.abs(expected).max(), engine.name
    if format == 'onnx':
        model = onnx.load(str(path))
        assert (model.opset_import[0].version, model.ir_version) == (17, 8)
        assert {node.op_type for node in model.graph.node} <= STATIC
    assert os.listdir(tmp_path) == [path.name]
