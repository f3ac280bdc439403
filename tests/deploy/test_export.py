"""Exported files compute what the network computes, or are not handed out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.checkpoints import CLASSES, SIZE, write
from tests.support.tiny import tiny_network
from twinseg.common.backend import get_backend
from twinseg.common.deploy import export
from twinseg.common.deploy.engines import OnnxRuntime, OpenVino, open_engine
from twinseg.common.deploy.export import ExportError, ExportOptions, FileSpecification, export_checkpoint
from twinseg.common.errors import BackendError, UserError
from twinseg.common.images.interpolation import bilinear_matrix, pooling_matrix, resize_bilinear
from twinseg.common.inference.runs import load_run

ARCHS = ['fast_scnn']  # the others are in test_matrix.py
TOLERANCE = 1e-4  # of the largest logit (docs/design.md section 4)
OTHER_SIZE = (2, 3, 97, 80)  # for files of any size
SMALL = FileSpecification((1, 3, 16, 24))
STATIC = {'Conv', 'Relu', 'Add', 'MatMul', 'Transpose', 'Resize', 'Concat'}  # simplified, and what ATC takes


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """``saved(backend name, arch)``: a checkpoint, written once."""
    folder = tmp_path_factory.mktemp('checkpoints')
    paths: dict[tuple, Path] = {}

    def get(backend_name: str, arch: str) -> Path:
        if (backend_name, arch) not in paths:
            paths[backend_name, arch] = write(folder, backend_name, arch)
        return paths[backend_name, arch]

    return get


def images(shape) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def difference(path: Path, checkpoint: Path, backend, shape) -> float:
    """Of every engine that runs the file, to the checkpoint's network: independent of what the exporter reports."""
    expected = backend.forward(load_run(checkpoint, backend.name).network, images(shape))['logits']
    engines = [OnnxRuntime(path), OpenVino(path)] if path.suffix == '.onnx' else [open_engine(path)]
    found = [engine(images(shape)) for engine in engines]
    assert all(array.shape == expected.shape for array in found)
    return max(float(np.abs(array - expected).max() / np.abs(expected).max()) for array in found)


@pytest.mark.parametrize('arch', ARCHS)
def test_onnx_is_static_described_and_equal(arch, backend, saved, tmp_path):
    path, checkpoint = tmp_path / 'net.onnx', saved(backend.name, arch)
    report = export_checkpoint(checkpoint, path, 'onnx', backend_name=backend.name, device='cpu')
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, *SIZE]
    assert {node.op_type for node in model.graph.node} <= STATIC
    assert (model.graph.input[0].name, model.graph.output[0].name) == ('image', 'logits')
    facts = OnnxRuntime(path).metadata
    assert facts['arch'] == arch and len(json.loads(facts['classes'])) == CLASSES
    assert json.loads(facts['input_size']) == list(SIZE)
    assert report.compared_with == backend.name and report.file.difference <= TOLERANCE
    assert difference(path, checkpoint, backend, (1, 3, *SIZE)) <= TOLERANCE
    assert os.listdir(tmp_path) == ['net.onnx']
    with pytest.raises(UserError, match='made for images of 1 x 3 x 64 x 96'):
        OnnxRuntime(path)(images(OTHER_SIZE))


def test_the_file_is_compared_on_the_host_whatever_the_device(saved, tmp_path, monkeypatch):
    """On a device that multiplies with fewer bits the network's own steps would loosen the tolerance."""
    pytest.importorskip('torch')
    backend, asked = get_backend('pytorch'), []
    setup = backend.setup
    monkeypatch.setattr(backend, 'setup', lambda device=None, **settings: asked.append(device) or setup('cpu', **settings))
    path = tmp_path / 'net.onnx'
    report = export_checkpoint(saved('pytorch', 'fast_scnn'), path, 'onnx', backend_name='pytorch', device='gpu')
    assert set(asked) == {'cpu'} and report.file.tolerance == TOLERANCE


@pytest.mark.slow  # inference/test_predict.py exports such a file in every run, and predicts images of three sizes with it
@pytest.mark.parametrize('arch', ['fast_scnn', 'stdc1_seg'])
def test_dynamic_onnx_takes_any_size(arch, saved, tmp_path):
    pytest.importorskip('torch')
    backend = get_backend('pytorch')
    path, checkpoint = tmp_path / 'net.onnx', saved('pytorch', arch)
    assert (
        export_checkpoint(
            checkpoint, path, 'onnx', ExportOptions(dynamic=True), backend_name='pytorch', device='cpu'
        ).file.onnx.opset
        == 17
    )
    assert difference(path, checkpoint, backend, OTHER_SIZE) <= TOLERANCE


@pytest.mark.parametrize('dynamic', [False, True], ids=['static', 'dynamic'])
@pytest.mark.parametrize('arch', ARCHS)
def test_mindir_is_equal_and_checks_sizes(arch, dynamic, backend, saved, tmp_path):
    pytest.importorskip('mindspore')
    path, checkpoint = tmp_path / 'net.mindir', saved(backend.name, arch)
    report = export_checkpoint(
        checkpoint, path, 'mindir', ExportOptions(dynamic=dynamic), backend_name=backend.name, device='cpu'
    )
    assert report.compared_with == backend.name and report.written_by == 'mindspore'
    assert difference(path, checkpoint, backend, OTHER_SIZE if dynamic else (1, 3, *SIZE)) <= TOLERANCE
    engine = open_engine(path)
    assert json.loads(engine.metadata['mean']) == [123.675, 116.28, 103.53]
    if not dynamic:
        with pytest.raises(UserError, match='made for images of'):
            engine(images(OTHER_SIZE))


HIDE_TORCH = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'torch':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == 'torch' else found(name, package)
from pathlib import Path
from twinseg.common.deploy.export import export_checkpoint
report = export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), 'onnx', backend_name='mindspore', device='cpu')
assert 'torch' not in sys.modules and report.written_by == 'mindspore', report
"""


@pytest.mark.parametrize('arch', ARCHS)
def test_onnx_without_pytorch_installed(arch, saved, tmp_path):
    pytest.importorskip('mindspore')
    path, checkpoint = tmp_path / 'net.onnx', saved('mindspore', arch)
    subprocess.run([sys.executable, '-c', HIDE_TORCH, str(checkpoint), str(path)], check=True, cwd=Path(__file__).parents[2])
    assert {node.op_type for node in onnx.load(str(path)).graph.node} <= STATIC
    assert difference(path, checkpoint, get_backend('mindspore'), (1, 3, *SIZE)) <= TOLERANCE


def test_what_is_not_there_is_said(backend, saved, tmp_path, monkeypatch):
    checkpoint = saved(backend.name, 'fast_scnn')
    pytest.importorskip('mindspore')
    with pytest.raises(BackendError, match='Ascend device only'):
        export_checkpoint(checkpoint, tmp_path / 'net.air', 'air', backend_name=backend.name, device='cpu')
    with pytest.raises(UserError, match=r'named \*.onnx'):
        export_checkpoint(checkpoint, tmp_path / 'net.mindir', 'onnx', backend_name=backend.name, device='cpu')
    if backend.name == 'pytorch':
        found = get_backend
        monkeypatch.setattr('importlib.util.find_spec', lambda name, package=None: None if name == 'mindspore' else object())
        assert found('pytorch')
        with pytest.raises(BackendError, match='mindspore is not installed'):
            export_checkpoint(checkpoint, tmp_path / 'net.mindir', 'mindir', backend_name='pytorch', device='cpu')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('right', [True, False])
def test_air_is_judged_by_its_mindir(right, tmp_path, monkeypatch):
    """On an Ascend, whose part a function plays: nothing on a host runs AIR."""
    ms = pytest.importorskip('mindspore')
    write = ms.export
    monkeypatch.setattr('twinseg.mindspore_impl.exporter.require_ascend', lambda found: None)
    monkeypatch.setattr(
        ms,
        'export',
        lambda *inputs, file_name, file_format, **more: (
            write(*inputs, file_name=file_name, file_format=file_format, **more)
            if file_format == 'MINDIR'
            else Path(file_name).write_bytes(file_format.encode())
        ),
    )
    network, path, factor = tiny_network('mindspore'), tmp_path / 'net.air', 1 if right else 1.01
    backend = get_backend('mindspore')
    reference = lambda images: factor * backend.forward(network, images)['logits']  # noqa: E731
    if right:
        file = export.export_network(backend, network, path, SMALL, reference)
        assert file.to_json()['run_as'] == 'mindir' and list(file.differences) == ['mindspore']
        assert path.read_bytes() == b'AIR'
    else:
        with pytest.raises(ExportError, match='kept as net.air.rejected'):
            export.export_network(backend, network, path, SMALL, reference)
    assert os.listdir(tmp_path) == ['net.air' if right else 'net.air.rejected']


def linear_model(path: Path, factor: float) -> None:
    """Writes an ONNX file that multiplies its input."""
    helper = onnx.helper
    image, logits = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ('image', 'logits'))
    constant = onnx.numpy_helper.from_array(np.array(factor, np.float32), 'factor')
    node = helper.make_node('Mul', ['image', 'factor'], ['logits'])
    graph = helper.make_graph([node], 'linear', [image], [logits], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(model, str(path))


def test_a_file_that_differs_is_rejected_and_the_old_one_stays(tmp_path):
    path = tmp_path / 'net.onnx'
    file = export.write_verified(path, lambda part: linear_model(part, 2), lambda x: 2 * x, (1, 3, 8, 8))
    assert file.difference == 0
    good = path.read_bytes()
    with pytest.raises(ExportError, match='differs from the network by 1.0e-03'):
        export.write_verified(path, lambda part: linear_model(part, 2.002), lambda x: 2 * x, (1, 3, 8, 8))
    assert path.read_bytes() == good and sorted(os.listdir(tmp_path)) == ['net.onnx', 'net.onnx.rejected']


def test_a_network_that_jumps_may_differ_as_far(tmp_path):
    """As max-unpooling does where the largest of four values is no longer the largest."""

    def jumping(images):
        return 2 * images + 0.01 * np.sign(np.sin(1e6 * images))

    file = export.write_verified(tmp_path / 'net.onnx', lambda part: linear_model(part, 2), jumping, (1, 3, 8, 8))
    assert 1e-3 < file.difference < file.tolerance < 1e-2
    with pytest.raises(ExportError, match='differs from the network by 1.0e-01'):
        export.write_verified(tmp_path / 'net.onnx', lambda part: linear_model(part, 2.2), jumping, (1, 3, 8, 8))


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    def broken(part: Path) -> None:
        part.write_bytes(b'half')
        raise RuntimeError

    with pytest.raises(RuntimeError):
        export.write_verified(tmp_path / 'net.onnx', broken, lambda x: x, (1, 3, 8, 8))
    assert not os.listdir(tmp_path)
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(UserError, match='cannot be written'):
        export.write_verified(tmp_path / 'file' / 'net.onnx', broken, lambda x: x, (1, 3, 8, 8))


@pytest.mark.parametrize('suffix', ['.onnx', '.mindir'])
@pytest.mark.parametrize('content', [b'', b'not a model' * 100])
def test_broken_files_are_refused_in_one_line(suffix, content, tmp_path):
    if suffix == '.mindir':
        pytest.importorskip('mindspore')
    path = tmp_path / f'net{suffix}'
    path.write_bytes(content)
    with pytest.raises(UserError, match='refuses it|not readable as ONNX|it has 0 inputs'):
        open_engine(path)
    with pytest.raises(UserError, match='no such file'):
        open_engine(tmp_path / 'absent.onnx')


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('sizes', [(3, 7), (7, 3), (1, 5), (6, 1), (4, 4), (5, 40)])
def test_matrices_are_the_frameworks_operators(sizes, align_corners):
    torch = pytest.importorskip('torch')
    x = images((1, 2, sizes[0], 6))
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), (sizes[1], 9), mode='bilinear', align_corners=align_corners)
    np.testing.assert_allclose(resize_bilinear(x, (sizes[1], 9), align_corners), expected.numpy(), atol=1e-6)
    assert np.allclose(bilinear_matrix(*sizes, align_corners).sum(1), 1)
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x), (sizes[1], 4)).numpy()
    np.testing.assert_allclose(pooling_matrix(sizes[0], sizes[1]) @ x @ pooling_matrix(6, 4).T, pooled, atol=1e-6)
