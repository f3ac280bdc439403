"""No false alarm: every network of the zoo against its twin, forward and backward, and against its ONNX in two engines."""

import numpy as np
import onnx
import pytest

from tests.trace.mutations import STATISTICS, randomised
from twinseg.common.backend import get_backend
from twinseg.common.deploy.onnx_graph import finish
from twinseg.common.trace.backward import trace_backward
from twinseg.common.trace.compare import trace
from twinseg.common.trace.onnx_source import OnnxSource
from twinseg.common.trace.sources import NetworkSource

SIZE = (64, 96)
NETWORKS = [
    'fast_scnn',
    'stdc1',
    'stdc1_seg',
    'ddrnet23_slim',
    'ddrnet23_slim_seg',
    'deeplabv3',
    'deeplabv3plus',
    'gcn',
    'upernet',
    'duc_hdc',
    'pspnet',
    'enet',
    'unet',
    'segnet',
    'fcn',
    'resnet18',
    'vgg16_bn',
]


def images():
    return np.random.default_rng(0).integers(0, 256, (1, 3, *SIZE), np.uint8)


def network(name, arch, state=None):
    backend = get_backend(name)
    backend.setup('cpu')
    built = backend.build_model(arch, seed=None if state else 0)
    state = state or randomised(backend.state(built))
    backend.load_state(built, state)
    return NetworkSource(f'{arch}@{name}', backend, built, STATISTICS, auxiliary=True), state


@pytest.mark.slow
@pytest.mark.parametrize('arch', NETWORKS)
def test_twins_do_not_part_forward_or_backward(arch):
    pytest.importorskip('torch')
    pytest.importorskip('mindspore')
    first, state = network('pytorch', arch)
    second, _ = network('mindspore', arch, state)
    result = trace(first, second, images())
    assert result.ok, result.sentence
    backward = trace_backward(first, second, {}, images())
    assert backward.ok, backward.sentence


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
@pytest.mark.parametrize('arch', NETWORKS)
def test_an_exported_file_does_not_part(arch, engine, tmp_path):
    pytest.importorskip('torch')
    pytest.importorskip(engine)
    first, _ = network('pytorch', arch)
    file = tmp_path / 'network.onnx'
    first.backend.write(first.network, file, 'onnx', shape=(1, 3, *SIZE))
    onnx.save(finish(onnx.load(str(file)), 17, {}), str(file))
    first.auxiliary = False
    result = trace(first, OnnxSource('network.onnx', file, engine, STATISTICS), images())
    assert result.ok, result.sentence
