"""What MindSpore computes on an Ascend by other operators than on a CPU is the same, and no graph has any that it lacks."""

import re

import numpy as np
import pytest

from tests.support.zoo import NETWORKS
from twinseg.common.backend import get_backend
from twinseg.common.config import from_flat
from twinseg.common.files import graph_cache
from twinseg.common.training.loss_scaling import LossScaler

pytest.importorskip('mindspore')
import mindspore as ms
from mindspore import Tensor, nn, ops

from twinseg.mindspore_impl import layers
from twinseg.mindspore_impl.layers import functional, primitives
from twinseg.mindspore_impl.trainer import NumbersOnDevice

INDICES = {'enet, segnet': (2, 2, 0, False), 'segresnet': (3, 2, 1, False)}  # kernel, stride, padding, ceil_mode
MAXIMA = {'unet': (2, 2, 0, True), 'resnet': (3, 2, 1, False)}


@pytest.fixture
def as_on_ascend(monkeypatch):
    """Networks compiled from here on take an Ascend's operators, and compute on this CPU."""

    monkeypatch.setenv(graph_cache.SWITCH, '0')  # else graphs for a CPU would be read here, and these there

    def pretend(value: bool) -> None:
        for module in (functional, primitives):
            monkeypatch.setattr(module, '_on_ascend', ops.constexpr(lambda: value))

    return pretend


class Indices(nn.Cell):
    """The maxima and the sum of their positions as numbers: both have gradients, and 0 for the positions."""

    def __init__(self, arguments):
        super().__init__()
        self.arguments = arguments

    def construct(self, x):
        values, indices = layers.max_pool_indices(x, *self.arguments)
        return values, ops.cast(indices, ms.float32)


class Maxima(nn.Cell):
    def __init__(self, arguments):
        super().__init__()
        self.pool = layers.MaxPool2d(*arguments)

    def construct(self, x):
        return self.pool(x), ops.zeros_like(x)


def outcome(cell: nn.Cell, x: np.ndarray) -> list[np.ndarray]:
    """Outputs and the gradient for weights that differ from output to output."""

    def weighted(images):
        values, others = cell(images)
        weights = Tensor(np.random.default_rng(1).standard_normal(values.shape).astype(x.dtype))
        return (values * weights).sum(), values, others

    _, values, others = weighted(Tensor(x))
    gradient = ms.grad(weighted, has_aux=True)(Tensor(x))[0]
    return [array.asnumpy().copy() for array in (values, others, gradient)]


CASES = {
    **{f'positions, {name}': (Indices, arguments) for name, arguments in INDICES.items()},
    **{f'maxima, {name}': (Maxima, arguments) for name, arguments in MAXIMA.items()},
}


@pytest.mark.parametrize(
    'mode, shape',
    [(ms.PYNATIVE_MODE, (2, 3, 8, 12)), (ms.PYNATIVE_MODE, (1, 2, 9, 7)), (ms.GRAPH_MODE, (1, 2, 9, 7))],
    ids=['even sides', 'odd sides', 'odd sides, a graph'],
)
@pytest.mark.parametrize('kind, arguments', CASES.values(), ids=CASES)
def test_pooling_equals_the_kernels_of_cpus_bit_for_bit(as_on_ascend, kind, arguments, shape, mode):
    """With many equal maxima, as a rectifier gives them: the first one counts."""
    ms.set_context(mode=mode)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32).clip(0).round(1)
    results = []
    for pretended in (False, True):
        as_on_ascend(pretended)
        results.append(outcome(kind(arguments), x))
    for expected, array in zip(*results):
        np.testing.assert_array_equal(array, expected)


LIMITED = {  # operators that an Ascend has, but not as the networks need them
    'MaxPoolWithArgmaxV2': 'takes float16 alone and gives masks of 16 bits instead of positions',
    'MaxPool3DWithArgmax': 'is for volumes, and finds positions that nobody needs',
}
# Operators without a docstring: gradients of documented ones, and what the compiler puts in.
INTERNAL = {
    *('BatchNormGrad', 'BiasAddGrad', 'Conv2DBackpropFilter', 'Conv2DBackpropInput', 'GatherDGradV2', 'MaxPoolGrad'),
    *('PReLUGrad', 'ReluGrad', 'ResizeBilinearGrad', 'ResizeNearestNeighborV2Grad', 'SigmoidGrad', 'StridedSliceGrad'),
    *('AvgPool3DGrad', 'AdaptiveAvgPool2DGrad', 'SplitWithSize', 'SumExt', 'Muls', 'Divs', 'RemainderTensorScalar'),
    *('Depend', 'Load', 'MakeTuple', 'Partial', 'Return', 'Switch', 'TupleGetItem', 'UpdateState', 'L2Loss', 'SGD'),
    'SliceGrad',
}
FUNCTIONS = {'Concat': 'cat', 'SumExt': 'sum', 'GatherD': 'gather_d', 'PReLU': 'prelu', 'IsFinite': 'isfinite', 'ReLU': 'relu'}
NETWORKS_OF_POOLING = ['enet', 'segnet', 'segnet resnet50', 'unet', 'pspnet', 'stdc1_seg', 'ddrnet23_slim_seg', 'deeplabv3plus']


def operators(cell: nn.Cell) -> set[str]:
    """The names of all operators in a graph that was compiled."""
    from mindspore.common.api import _cell_graph_executor
    from mindspore.train import mind_ir_pb2

    names = set()
    for phase in cell.compile_cache:
        graph = mind_ir_pb2.ModelProto()
        graph.ParseFromString(_cell_graph_executor._graph_executor.get_func_graph_proto(phase, 'mind_ir', False))
        names |= {primitive.op_type for primitive in graph.primitives}
    return names


def is_documented(name: str) -> bool:
    """Whether MindSpore's own page of an operator, or of its function, names Ascend among the platforms."""
    functions = FUNCTIONS.get(name), re.sub('(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()
    pages = [getattr(ops, word, None) for word in (name, *functions) if word]
    return any('``Ascend``' in (page.__doc__ or '') for page in pages if page is not None)


@pytest.mark.parametrize(
    'kind, arguments, limited',
    [(Indices, (3, 2, 1, False), 'MaxPoolWithArgmaxV2'), (Maxima, (3, 2, 1, False), 'MaxPool3DWithArgmax')],
)
def test_pooling_for_an_ascend_has_no_limited_operator(as_on_ascend, kind, arguments, limited):
    ms.set_context(mode=ms.GRAPH_MODE)
    for pretended in (False, True):
        as_on_ascend(pretended)
        cell = kind(arguments)
        cell(Tensor(np.zeros((1, 2, 9, 7), np.float32)))
        assert (set(LIMITED) & operators(cell) == {limited}) is not pretended


@pytest.mark.parametrize('name', ['fast_scnn', *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS_OF_POOLING)])
def test_a_training_step_has_operators_that_an_ascend_has(as_on_ascend, name):
    """As far as MindSpore's own pages say: what a kernel does there is seen on hardware alone."""
    as_on_ascend(True)
    ms.set_context(mode=ms.GRAPH_MODE)
    backend, case = get_backend('mindspore'), NETWORKS[name]
    classes = case.arguments.get('num_classes', 19)
    network = backend.build_model(case.arch, **case.arguments)
    grouped = [cell for _, cell in network.cells_and_names() if isinstance(cell, layers.Conv2d) and cell.group > 1]
    assert all(cell.group == cell.in_channels for cell in grouped)  # other groups are not for Ascend, says nn.Conv2d's page
    trainer = backend.make_trainer(network, from_flat({'arch': case.arch, 'num_classes': classes, 'optimizer': 'sgd'}))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, *case.export_size), np.uint8)
    trainer.step([(images, rng.integers(0, classes, (2, *case.export_size)).astype(np.uint8))], 1e-3)
    present = operators(trainer.train_step)
    assert 'Conv2D' in present and not present & set(LIMITED)
    assert sorted(word for word in present - INTERNAL if not is_documented(word)) == []


def test_numbers_that_a_device_keeps_have_operators_that_an_ascend_has():
    ms.set_context(mode=ms.GRAPH_MODE)
    settings = from_flat({'amp_level': 'O2', 'is_dynamic_loss_scale': True})
    device = NumbersOnDevice(LossScaler(settings.precision), settings)
    device(0.1, 2)
    device.count(Tensor(1.0, ms.float32))
    present = operators(device.numbers) | operators(device.outcome)
    assert {'Exp', 'IsFinite'} <= present
    assert sorted(word for word in present - INTERNAL if not is_documented(word)) == []
