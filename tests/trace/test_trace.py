"""``trace``: where two computations part, and nothing where they do not."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.golden import golden
from tests.trace.mutations import STATISTICS, Case, build, cases, run_case
from twinseg.common.backend import get_backend
from twinseg.common.cli import main
from twinseg.common.trace.compare import trace
from twinseg.common.trace.difference import difference
from twinseg.common.trace.folder import FolderSource
from twinseg.common.trace.recording import Comparison, Event, Recording
from twinseg.common.trace.sources import NetworkSource

DEFAULT_CASES = [  # bug, network, side, seed of the layer: one of each kind of guess
    ("padding 'same'", 'fast_scnn', 'mindspore'),
    ('BN epsilon', 'fast_scnn', 'mindspore'),
    ('align_corners', 'fast_scnn', 'pytorch'),
    ('count_include_pad', 'ddrnet23_slim_seg', 'pytorch'),
    ('order of concat', 'fast_scnn', 'mindspore'),
    ('activation missing', 'fast_scnn', 'onnxruntime'),
    ('activation missing', 'fast_scnn', 'onnxruntime', 1),  # a resize follows, which shows nothing of it
    ('weight transposed', 'fast_scnn', 'openvino'),
    ('bias missing', 'fast_scnn', 'onnxruntime'),
    ('dropout active', 'fast_scnn', 'pytorch'),
    ('one layer in float16', 'fast_scnn', 'pytorch'),
    ('one layer in float16', 'fast_scnn', 'onnxruntime', 15),  # behind a norm without an activation
]


@pytest.mark.parametrize(('bug', 'network', 'side', 'seed'), [(*case, 0)[:4] for case in DEFAULT_CASES])
def test_a_planted_bug_is_named(bug, network, side, seed):
    pytest.importorskip('torch')
    if side in ('mindspore', 'onnxruntime', 'openvino'):
        pytest.importorskip(side)
    outcome = run_case(Case(bug, network, side, seed))
    assert outcome.layer_right, outcome.sentence
    assert outcome.cause_right, outcome.sentence


@pytest.mark.slow
def test_bugs_are_named_in_three_networks_on_every_side():
    for package in ('torch', 'mindspore', 'onnxruntime', 'openvino'):
        pytest.importorskip(package)
    outcomes = [outcome for case in cases() if (outcome := run_case(case)) is not None]
    right = [outcome for outcome in outcomes if outcome.layer_right]
    wrong = [outcome for outcome in outcomes if outcome.cause is not None and not (outcome.layer_right and outcome.cause_right)]
    assert len(right) >= 0.95 * len(outcomes), [outcome.sentence for outcome in outcomes if not outcome.layer_right]
    assert not wrong


def images(size=(64, 96)):
    return np.random.default_rng(0).integers(0, 256, (1, 3, *size), np.uint8)


def sources(arch='fast_scnn'):
    pytest.importorskip('torch')
    pytest.importorskip('mindspore')
    pytorch, mindspore = (get_backend(name) for name in ('pytorch', 'mindspore'))
    for backend in (pytorch, mindspore):
        backend.setup('cpu')
    first = build(pytorch, arch)
    second = build(mindspore, arch, pytorch.state(first))
    return (
        NetworkSource(f'{arch}@pytorch', pytorch, first, STATISTICS, auxiliary=True),
        NetworkSource(f'{arch}@mindspore', mindspore, second, STATISTICS, auxiliary=True),
    )


def test_twins_do_not_part():
    first, second = sources()
    result = trace(first, second, images())
    assert result.ok, result.sentence
    assert not result.unmatched
    assert result.sentence.startswith('no layer parts')


def test_the_recorded_side_is_the_one_with_float64_whichever_is_named_first():
    first, second = sources()
    result = trace(second, first, images())
    assert result.ok, result.sentence
    assert result.conditions['recorded'] == first.label


def test_below_float32_noise_is_larger_and_layers_are_ranked():
    first, _ = sources()
    network = copy.deepcopy(first.network)
    from twinseg.pytorch_impl import precision

    half = NetworkSource(
        'half', first.backend, precision.apply(network, 'O2', 'bfloat16'), STATISTICS, precision='bfloat16', auxiliary=True
    )
    result = trace(first, half, images())
    assert result.ok, result.sentence
    changes = [row['change'] for row in result.sections[0].rows]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 0


def test_a_folder_of_recorded_tensors_is_a_side(tmp_path):
    first, _ = sources()
    tensors = []
    with Recording() as recording:
        first.run(first.prepare(images()), recording)
        for number, event in enumerate(recording.content):
            array = np.array(recording[event])
            if event.layer == 'feature_fusion.higher.conv' and event.side == 'output':
                array += 0.01 * np.abs(array).max()
            file = f'{number}.npy' if number % 2 else f'{number}.bin'
            np.save(tmp_path / file, array) if number % 2 else array.tofile(tmp_path / file)
            if event.side == 'output' or not event.layer:
                tensors.append(
                    {
                        'file': file,
                        'layer': event.layer,
                        'side': event.side,
                        'call': event.call,
                        'index': event.number,
                        'shape': list(array.shape),
                    }
                )
    (tmp_path / 'trace.json').write_text(json.dumps({'tensors': tensors}))
    result = trace(first, FolderSource('card', tmp_path), images())
    assert [cause.row.event.layer for cause in result.causes][0] == 'feature_fusion.higher.conv'


RESIZES = [  # what the device does with an image of another size, and what is said of it
    (lambda image: np.asarray(Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR)), 'by Pillow (bilinear)'),
    (lambda image: cv2.resize(image, (96, 64), interpolation=cv2.INTER_NEAREST), 'by OpenCV (nearest)'),
    (lambda image: cv2.resize(image, (96, 64), interpolation=cv2.INTER_AREA)[..., ::-1], 'in the order BGR'),
]


@pytest.mark.parametrize(('resize', 'words'), RESIZES)
def test_another_resize_of_the_image_is_named(resize, words, tmp_path):
    first, _ = sources()
    image = cv2.blur(np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8), (7, 7))
    taken = first.prepare(np.ascontiguousarray(resize(image).transpose(2, 0, 1))[None])
    np.save(tmp_path / 'image.npy', taken)
    tensors = [{'file': 'image.npy', 'layer': '', 'side': 'input'}]
    (tmp_path / 'trace.json').write_text(json.dumps({'tensors': tensors}))
    ours = np.ascontiguousarray(cv2.resize(image, (96, 64)).transpose(2, 0, 1))[None]
    result = trace(first, FolderSource('card', tmp_path), ours, recorded_input=False, originals=[image])
    assert result.causes[0].guess is not None, result.sentence
    assert result.causes[0].guess.cause == 'resize'
    assert words in result.sentence
    assert 'instead of from images resized by OpenCV (linear)' in result.sentence
    turned = trace(FolderSource('card', tmp_path), first, ours, recorded_input=False, originals=[image])
    assert 'from images resized by OpenCV (linear) instead of' in turned.sentence


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('[]', 'trace.json'),
        ('{"tensors": [{"file": "../x.npy", "layer": ""}]}', 'leaves the folder'),
        ('{"tensors": [{"file": "x.npy", "layer": ""}]}', 'not readable'),
        ('{"tensors": [{"file": "x.bin", "layer": "", "dtype": "object"}]}', 'dtype'),
    ],
)
def test_a_bad_folder_is_one_line(tmp_path, content, words):
    from twinseg.common.errors import UserError

    (tmp_path / 'trace.json').write_text(content)
    (tmp_path / 'x.bin').write_bytes(b'0000')
    (tmp_path / 'x.npy').write_bytes(b'no array')
    with pytest.raises(UserError, match=words):
        source = FolderSource('card', tmp_path)
        source.run(np.zeros(1), Recording())


def test_a_recording_has_a_limit():
    from twinseg.common.errors import UserError

    first, second = sources()
    with pytest.raises(UserError, match='--space'):
        trace(first, second, images(), limit=1000)


def test_a_norm_that_is_folded_in_has_the_noise_of_its_convolution():
    image, features, normed = np.random.default_rng(0).standard_normal((3, 1, 2, 4, 4)).astype(np.float32)
    entry, convolved, norms, out = (
        Event(layer, 0, side, 0) for layer, side in (('conv', 'input'), ('conv', 'output'), ('bn', 'input'), ('bn', 'output'))
    )
    with Recording() as recording:
        for event, array in ((entry, image), (convolved, features), (norms, features), (out, normed)):
            recording.add(event, array)
        folded = Comparison(recording, forced=True)
        for event, array in ((entry, image), (out, normed)):
            folded.see(event, array)
        assert list(folded.unseen_before(out)) == [convolved]
        folded.see(convolved, features)
        assert not list(folded.unseen_before(out))


def test_differences_know_shapes_and_what_is_not_finite():
    a = np.ones((1, 2, 3, 3), np.float32)
    b = a.copy()
    b[0, 1] = 1.5
    assert difference(a, b)[:4] == (0.5, 0.5, 1.0, 1)
    assert difference(a, a[:, :1]).relative == np.inf
    b[0, 0, 0, 0] = np.nan
    assert difference(a, b).relative == np.inf
    assert difference(b, b).relative == 0


NET = {
    'pytorch': """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.out = nn.Conv2d(8, 4, 1)
    def forward(self, x):
        return self.out(self.stem(x).relu())
""",
    'mindspore': """
from mindspore import nn, ops
class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, has_bias=True)
        self.last = nn.Conv2d(8, 4, 1, has_bias=True)
    def construct(self, x):
        return self.last(ops.relu(self.first(x)))
""",
}


def test_networks_of_a_user_are_matched_by_order_and_the_page_says_it(tmp_path, capsys):
    for name in NET:
        pytest.importorskip({'pytorch': 'torch'}.get(name, name))
        (tmp_path / f'{name}.py').write_text(NET[name])
    words = ['trace', f'{tmp_path}/pytorch.py:Net@pytorch', f'{tmp_path}/mindspore.py:Net@mindspore', '--size', '32x32']
    status = main([*words, '--json', str(tmp_path / 't.json'), '--out', str(tmp_path / 't.html')])
    assert status == 1
    written = json.loads((tmp_path / 't.json').read_text())
    assert written['causes'][0]['layer'] == 'stem'
    assert written['causes'][0]['cause'] == 'padding'
    assert written['conditions']['layers matched'] == {'order': 2}
    page = (tmp_path / 't.html').read_text()
    assert 'stem' in page
    assert 'data:image/png' in page
    assert 'with padding same instead of 1' in capsys.readouterr().out


PORT = Path(__file__).with_name('ddrnet_port.py')
STRIDED = [  # the 3x3 convolutions at stride 2 of DDRNet-23-slim: at stride 1 both rules are the same
    'backbone.stem.0.conv',
    'backbone.stem.1.conv',
    'backbone.layer2.0.conv1.conv',
    'backbone.low.0.0.conv1.conv',
    'backbone.down.0.0.conv',
    'backbone.low.1.0.conv1.conv',
    'backbone.down.1.0.conv',
    'backbone.down.1.1.conv',
    'down.0.conv',
    'down.1.conv',
]


@pytest.mark.parametrize(('name', 'layers'), [('Net', STRIDED), pytest.param('Mended', [], marks=pytest.mark.slow)])
def test_a_port_with_the_default_padding_is_told_from_one_without(name, layers, tmp_path):
    """The weights are the golden ones, under the authors' names: theirs are not to be had offline."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('mindspore')
    state = golden.state_dict(golden.read(PORT.parents[1] / 'golden/official_ddrnet_23_slim_cls.json'))
    weights = tmp_path / 'DDRNet23s_imagenet.pth'
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, weights)
    words = ['trace', f'{weights}@pytorch', f'{PORT}:{name}@mindspore', '--weights', str(weights), '--size', '64x96']
    assert main([*words, '--json', str(tmp_path / 't.json')]) == bool(layers)
    written = json.loads((tmp_path / 't.json').read_text())
    assert sorted(cause['layer'] for cause in written['causes']) == sorted(layers)
    assert {cause['cause'] for cause in written['causes']} <= {'padding'}
    assert not written['unmatched']
    assert written['conditions']['layers matched'] == {'name': 1, 'weights': 90, 'flow': 11}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['a@torch', 'b'], "did you mean 'pytorch'"),
        (['a@pytorch:float12', 'b'], 'no precision'),
        (['missing.onnx', 'missing.onnx'], 'no such file'),
        (['missing.py:Net', 'b'], 'which framework'),
        (['missing.py:Net@pytorch', 'b'], 'no such file'),
        (['a', 'b', '--out', 'x.txt'], '*.html'),
        (['enet_camvid', 'enet_camvid@pytorch', '--scored', '3'], '--scored: has an effect on'),
    ],
)
def test_what_cannot_be_traced_is_one_line(words, message, capsys):
    assert main(['trace', *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


def test_the_layer_that_costs_an_int8_file_the_most_is_named(tmp_path):
    """One of two convolutions is quantised by steps ten times as coarse as the other's."""
    pytest.importorskip('onnxruntime')
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from twinseg.common.trace.onnx_source import OnnxSource, name_alike
    from twinseg.common.trace.quantised import rank_layers

    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4, channels, 3, 3), np.float32) for channels in (3, 4)]

    def graph(quantised):
        nodes, constants, x = [], [], 'image'
        for number, (weight, steps) in enumerate(zip(weights, (4, 100))):
            name = f'network.conv{number}.weight'
            step = np.float32(np.abs(weight).max() / steps)
            if quantised:
                constants.append(numpy_helper.from_array(np.rint(weight / step).astype(np.int8), f'{name}_quantized'))
                constants.append(numpy_helper.from_array(np.array(step), f'{name}_scale'))
                constants.append(numpy_helper.from_array(np.array(0, np.int8), f'{name}_zero'))
                inputs = [f'{name}_quantized', f'{name}_scale', f'{name}_zero']
                nodes.append(helper.make_node('DequantizeLinear', inputs, [f'{name}_DequantizeLinear_Output']))
            else:
                constants.append(numpy_helper.from_array(weight, name))
            used = f'{name}_DequantizeLinear_Output' if quantised else name
            nodes.append(helper.make_node('Conv', [x, used], [f'out{number}'], pads=[1, 1, 1, 1]))
            x = f'out{number}'
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 16, 16]) for name, c in (('image', 3), (x, 4))]
        return helper.make_model(
            helper.make_graph(nodes, 'net', ports[:1], ports[1:], constants),
            opset_imports=[helper.make_opsetid('', 17)],
            ir_version=8,
        )

    sources = []
    for name, quantised in (('float', False), ('int8', True)):
        onnx.save(graph(quantised), str(tmp_path / f'{name}.onnx'))
        sources.append(OnnxSource(name, tmp_path / f'{name}.onnx', 'onnxruntime', STATISTICS))
    (section,) = rank_layers(*sources, images((16, 16)))
    assert [row['layer'] for row in section.rows] == ['conv0', 'conv1']
    assert section.rows[0]['share'] > 0.8
    assert '100 % of it vanishes' in section.sentence
    name_alike(*sources)
    result = trace(*sources, images((16, 16)))
    assert [row.event.layer for row in result.rows if row.own] == ['', 'conv0', '']  # the input, a layer, the output
