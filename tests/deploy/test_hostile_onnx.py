"""ONNX files of strangers: refused in one line before an engine takes memory, time or files for them, or taken."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from twinseg.common.cli import main
from twinseg.common.deploy import onnx_check, sandbox
from twinseg.common.deploy.engines import OnnxRuntime, OpenVino, open_engine
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.errors import UserError
from twinseg.common.host.memory import limited_memory, peak_memory, reset_peak_memory

SIZE = (16, 24)
FACTS = {
    'arch': 'fast_scnn',
    'num_classes': '3',
    'mean': '[1.0, 2.0, 3.0]',
    'std': '[1.0, 2.0, 3.0]',
    'input_size': '[16, 24]',
    'align_corners': 'false',
}
ENGINES = ('onnxruntime', 'openvino')
WEIGHT = np.ones((3, 3, 1, 1), np.float32)


def constant(name: str, value) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def image(shape=(1, 3, *SIZE), name='image', kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes=(), weights=(), inputs=None, outputs=None, functions=(), domains=(), facts=None, output='logits'
) -> onnx.ModelProto:
    """A convolution, and ``nodes`` whose result, ``extra``, is added to it."""
    after = [helper.make_node('Add', ['features', 'extra'], [output])] if nodes else []
    graph = helper.make_graph(
        [helper.make_node('Conv', ['image', 'w'], ['features' if nodes else output]), *nodes, *after],
        'g',
        [image()] if inputs is None else inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)] if outputs is None else outputs,
        [constant('w', WEIGHT), *weights],
    )
    opsets = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in ('', *domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    helper.set_model_props(made, {**FACTS, **(facts or {})})
    return made


def summed(*nodes, source='big'):
    """Nodes, and the sum of what they make, a single number."""
    return [*nodes, helper.make_node('ReduceSum', [source], ['extra'], keepdims=0)]


def of_shape(shape: list) -> dict:
    return {'nodes': summed(helper.make_node('ConstantOfShape', ['shape'], ['big'])), 'weights': [constant('shape', shape)]}


def hidden_shape(numbers: list) -> dict:
    """A shape that is computed by what shape inference does not follow."""
    return {
        'nodes': summed(
            helper.make_node('ReduceProd', ['numbers'], ['product'], keepdims=1),
            helper.make_node('ConstantOfShape', ['product'], ['big']),
        ),
        'weights': [constant('numbers', numbers)],
    }


def doubled(times: int) -> dict:
    nodes = [helper.make_node('Concat', [f'c{index}'] * 2, [f'c{index + 1}'], axis=0) for index in range(times)]
    return {'nodes': summed(*nodes, source=f'c{times}'), 'weights': [constant('c0', np.ones(1, np.float32))]}


def loop(kind: str) -> dict:
    body = helper.make_graph(
        [helper.make_node('Identity', ['c'], ['c2']), helper.make_node('Identity', ['x'], ['x2'])],
        'body',
        [
            helper.make_tensor_value_info('i', TensorProto.INT64, []),
            helper.make_tensor_value_info('c', TensorProto.BOOL, []),
            helper.make_tensor_value_info('x', TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info('c2', TensorProto.BOOL, []),
            helper.make_tensor_value_info('x2', TensorProto.FLOAT, [1]),
        ],
    )
    weights = [constant('trips', np.array(1 << 62)), constant('go', np.array(True)), constant('x0', np.ones(1, np.float32))]
    if kind == 'Loop in If':
        inner = helper.make_graph(
            [helper.make_node('Loop', ['trips', 'go', 'x0'], ['y'], body=body)], 'b', [], [image([1], 'y')]
        )
        return {'nodes': [helper.make_node('If', ['go'], ['extra'], then_branch=inner, else_branch=inner)], 'weights': weights}
    return {'nodes': [helper.make_node(kind, ['trips', 'go', 'x0'], ['extra'], body=body)], 'weights': weights}


def function(name: str, *calls: str):
    nodes = [
        helper.make_node(call, [f'x{i}'], [f'x{i + 1}'], domain='' if call == 'Relu' else 'f') for i, call in enumerate(calls)
    ]
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid('f', 1)]
    return helper.make_function('f', name, ['x0'], [f'x{len(calls)}'], nodes, opsets)


def laughs(levels: int) -> dict:
    functions = [function('f0', 'Relu'), *(function(f'f{i}', f'f{i - 1}', f'f{i - 1}') for i in range(1, levels + 1))]
    node = helper.make_node(f'f{levels}', ['features'], ['extra'], domain='f')
    return {'nodes': [node], 'functions': functions, 'domains': ['f']}


def external(location: str, offset='0', length='36') -> dict:
    tensor = TensorProto(name='e', data_type=TensorProto.FLOAT, dims=[3, 3, 1, 1], data_location=TensorProto.EXTERNAL)
    for key, value in {'location': location, 'offset': offset, 'length': length}.items():
        tensor.external_data.add(key=key, value=value)
    return {'nodes': [helper.make_node('Conv', ['image', 'e'], ['extra'])], 'weights': [tensor]}


def lying(dims: list) -> dict:
    tensor = constant('e', np.ones(4, np.float32))
    del tensor.dims[:]
    tensor.dims.extend(dims)
    return {'nodes': summed(helper.make_node('Identity', ['e'], ['big'])), 'weights': [tensor]}


def sparse_constant() -> dict:
    values, places = constant('v', np.ones(1, np.float32)), constant('i', np.array([0]))
    value = helper.make_sparse_tensor(values, places, [1 << 40])
    return {'nodes': summed(helper.make_node('Constant', [], ['big'], sparse_value=value))}


def resize(scale: float) -> dict:
    node = helper.make_node('Resize', ['features', '', 'scales'], ['big'], mode='nearest')
    return {'nodes': summed(node), 'weights': [constant('scales', np.array([1, 1, scale, scale], np.float32))]}


def tile(repeats: list) -> dict:
    return {
        'nodes': summed(helper.make_node('Tile', ['features', 'r'], ['big'])),
        'weights': [constant('r', np.array(repeats))],
    }


def expand(shape: list) -> dict:
    return {
        'nodes': summed(helper.make_node('Expand', ['one', 's'], ['big'])),
        'weights': [constant('one', np.ones(1, np.float32)), constant('s', np.array(shape))],
    }


def pad(by: int) -> dict:
    node = helper.make_node('Pad', ['features', 'p'], ['big'])
    return {'nodes': summed(node), 'weights': [constant('p', np.array([0, 0, by, by, 0, 0, by, by]))]}


def outer() -> dict:
    nodes = [helper.make_node('Reshape', ['c', 's1'], ['row']), helper.make_node('Reshape', ['c', 's2'], ['column'])]
    weights = [constant('c', np.ones(40000, np.float32)), constant('s1', np.array([1, -1])), constant('s2', np.array([-1, 1]))]
    return {'nodes': summed(*nodes, helper.make_node('MatMul', ['column', 'row'], ['big'])), 'weights': weights}


TOO_LARGE = "it computes '.*' of .*, more than 67108864 numbers, which its images do not call for"
REFUSED = {
    'ConstantOfShape': (of_shape([1 << 30]), TOO_LARGE),
    'ConstantOfShape of 2^33': (of_shape([1 << 33]), TOO_LARGE),
    'ConstantOfShape of many sides': (of_shape([1 << 20] * 3), TOO_LARGE),
    'Expand': (expand([1 << 15, 1 << 15]), TOO_LARGE),
    'Tile': (tile([1, 1, 1 << 10, 1 << 10]), TOO_LARGE),
    'Resize': (resize(4000), TOO_LARGE),
    'Pad': (pad(1 << 15), TOO_LARGE),
    'MatMul': (outer(), TOO_LARGE),
    'Concat': (doubled(27), 'the shapes of what it computes take more memory'),
    'no input': ({'inputs': []}, 'it has 0 inputs; expected one, for images'),
    'two inputs': ({'inputs': [image(), image(name='b')]}, r'it has 2 inputs \(image, b\); expected one'),
    'matrix': ({'inputs': [image((1, 3))]}, "the input 'image' has 2 dimensions; expected 4"),
    'no shape': ({'inputs': [image(None)]}, "the input 'image' has no shape; expected 4"),
    'double': ({'inputs': [image(kind=TensorProto.DOUBLE)]}, 'of the type TensorProto.DOUBLE; expected float32 or'),
    'text': ({'inputs': [image(kind=TensorProto.STRING)]}, 'of the type TensorProto.STRING'),
    'unknown type': ({'inputs': [image(kind=999)]}, 'of the type number 999'),
    'sequence': ({'inputs': [helper.make_tensor_sequence_value_info('image', 1, [1])]}, 'expected float32'),
    'batch': ({'inputs': [image((10**6, 3, *SIZE))]}, 'images of 1000000 x 3 x 16 x 24; expected 33554432 pixels at most'),
    'side': ({'inputs': [image((1, 3, 1, 1 << 40))]}, 'sides up to 32766'),
    'no side': ({'inputs': [image((1, 3, 0, -5))]}, 'is for images of 1 x 3 x 0 x -5'),
    'no output': ({'outputs': []}, 'it has no output that is a tensor'),
    'Loop': (loop('Loop'), "the operator 'Loop' repeats a graph as often as its data say"),
    'Loop in If': (loop('Loop in If'), "the operator 'Loop' repeats a graph"),
    'Scan': (loop('Scan'), "the operator 'Scan' repeats a graph"),
    'BeamSearch': (loop('BeamSearch'), "the operator 'BeamSearch' repeats a graph"),
    'functions of functions': (laughs(30), r'\d+ operators, with those of its functions; expected at most 100000'),
    'recursive functions': (
        {**laughs(0), 'functions': [function('f0', 'b'), function('b', 'f0')]},
        "the function '(f0|b)' calls itself",
    ),
    'custom domain': (
        {'nodes': [helper.make_node('Mine', ['features'], ['extra'], domain='evil')], 'domains': ['evil']},
        "the operator 'Mine' is of the domain 'evil', which no engine here has",
    ),
    'many operators': ({'nodes': [helper.make_node('Relu', ['features'], ['extra'])] * 100_001}, 'more than 100000 operators'),
    'weights above': (external('../secret.bin'), r"the weight 'e' is in '../secret.bin', outside the folder of the file"),
    'weights far above': (external('a/../../secret.bin'), 'outside the folder'),
    'weights at a path': (external('/etc/passwd'), "in '/etc/passwd', outside the folder"),
    'weights in Windows': (external('C:\\secret'), 'outside the folder'),
    'weights above in Windows': (external('..\\secret.bin'), 'outside the folder'),
    'weights nowhere': (external(''), "in '', outside the folder"),
    'weights with NUL': (external('a\0b'), 'outside the folder'),
    'weights in a link': (external('link.bin'), "in 'link.bin', which leads outside the folder"),
    'weights in a linked folder': (external('folder/secret.bin'), 'which leads outside the folder'),
    'weights that are absent': (external('absent.bin'), 'no such file; it belongs beside the .onnx'),
    'weights in a folder': (external('.'), 'outside the folder|no such file'),
    'weights beyond the end': (external('w.bin', '0', '400'), "ends at byte 400 of 'w.bin', which has 36"),
    'weights from far on': (external('w.bin', '9' * 18, '36'), 'ends at byte'),
    'weights from a word on': (external('w.bin', '-1', '36'), "offset: found '-1', expected a number of bytes"),
    'weights of many digits': (external('w.bin', '0', '9' * 5000), 'length: found'),
    'lying weight': (lying([1 << 20, 1 << 20]), r"the weight 'e' has the shape \[1048576, 1048576\], but only 16 bytes"),
    'negative weight': (lying([-1]), r'has the shape \[-1\]'),
    'weight of many sides': (lying([1] * 500), 'has the shape'),
    'sparse constant': (sparse_constant(), 'has a sparse constant'),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with weights, and what lies outside it; links lead there."""
    inside = tmp_path / 'inside'
    inside.mkdir()
    (tmp_path / 'secret.bin').write_bytes(WEIGHT.tobytes())
    (inside / 'w.bin').write_bytes(WEIGHT.tobytes())
    (inside / 'link.bin').symlink_to('../secret.bin')
    (inside / 'folder').symlink_to('..')
    monkeypatch.chdir(inside)
    return inside


def written(**parts) -> Path:
    Path('x.onnx').write_bytes(model(**parts).SerializeToString())
    return Path('x.onnx')


@pytest.mark.parametrize('case', REFUSED)
def test_files_are_refused_before_an_engine_sees_them(place, case):
    parts, message = REFUSED[case]
    path = written(**parts)
    with pytest.raises(UserError, match=f'^x.onnx: .*{message}') as error, limited_memory(sandbox.MEMORY):
        onnx_check.load(path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize('content', [b'', b'not a model', b'\x08\x08\x12\x07', b'\x0a' * 1000, b'\x3a\x02' + b'\xff' * 50])
def test_what_is_no_onnx_is_refused(place, content):
    Path('x.onnx').write_bytes(content)
    for engine in ENGINES:
        with pytest.raises(UserError, match='^x.onnx: ') as error:
            open_engine(Path('x.onnx'), engine)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['fast_scnn', 'set', 'image', 'height', 'logits', 'Conv'])
@pytest.mark.parametrize('engine', ENGINES)
def test_texts_that_are_no_utf8_are_refused(place, text, engine):
    made = model(inputs=[image((1, 3, 'height', 24))], facts={'set': '"camvid"'}).SerializeToString()
    assert text.encode() in made
    Path('x.onnx').write_bytes(made.replace(text.encode(), b'\xff' * len(text)))
    with pytest.raises(UserError, match='^x.onnx: ') as error:
        ExportedNetwork(Path('x.onnx'), engine)
    assert '\n' not in str(error.value)


def limited(*words: str) -> subprocess.CompletedProcess:
    """The command, and the largest memory of its processes in MB."""
    code = """
import resource, sys
from twinseg.common.cli import main
from twinseg.common.host.memory import peak_memory
status = main(sys.argv[1:])
print(int(max(peak_memory(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)))
sys.exit(status)
"""
    return subprocess.run([sys.executable, '-c', code, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize('engine', ENGINES)
def test_memory_that_only_the_engine_knows_of_is_limited(place, engine):
    """Computed when the file is opened, in the process that may not take so much, or when it runs."""
    import cv2

    cv2.imwrite('a.png', np.zeros((*SIZE, 3), np.uint8))
    written(**hidden_shape([1 << 10, 1 << 10, 1 << 10]))
    done = limited('predict', 'a.png', '--model', 'x.onnx', '--engine', engine)
    assert done.returncode == 2 and 'x.onnx' in done.stderr and done.stderr.count('\n') == 1, done
    assert int(done.stdout) < 1600


@pytest.mark.parametrize('engine', ENGINES)
def test_memory_that_depends_on_the_image_is_limited(place, engine):
    """A file for any size, which makes a billion numbers of an image of 16 x 24."""
    nodes = summed(
        helper.make_node('Shape', ['image'], ['size']),
        helper.make_node('Mul', ['size', 'factors'], ['large']),
        helper.make_node('ConstantOfShape', ['large'], ['big']),
    )
    factors = constant('factors', np.array([1, 1, 1 << 10, 1 << 10]))
    path = written(nodes=nodes, weights=[factors], inputs=[image(('n', 3, 'h', 'w'))])
    opened = open_engine(path, engine)
    reset_peak_memory()
    used = peak_memory()
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)}
    with pytest.raises(UserError, match='x.onnx: .* cannot run it: it takes more memory') as error:
        opened(np.zeros((1, 3, *SIZE), np.float32))
    assert '\n' not in str(error.value)
    assert before == {kind: resource.getrlimit(kind) for kind in before}
    assert peak_memory() - used < 2048


@pytest.mark.parametrize(
    'code, message',
    [
        ('import os; os.abort()', r'crashes when it opens the file \(SIGABRT\)'),
        ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', r'crashes when it opens the file \(SIGSEGV\)'),
        ('import os; os._exit(3)', r'crashes when it opens the file \(status 3\)'),
        ('import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 9))\nwhile True: pass', 'takes too long to open it'),
        ('import time; time.sleep(60)', 'takes more than 1 seconds to open it'),
    ],
)
def test_an_engine_that_crashes_or_hangs_is_one_line(place, monkeypatch, code, message):
    path = written()
    monkeypatch.setattr(sandbox, 'START', code)
    if 'sleep' in code:
        monkeypatch.setattr(sandbox, 'PATIENCE', 1)
    with pytest.raises(UserError, match=f'^x.onnx: onnxruntime {message}'):
        sandbox.check(path, 'onnxruntime')


@pytest.mark.slow
def test_time_is_limited(place):
    """Products of constants, which ONNX Runtime computes when it opens the file."""
    nodes = [helper.make_node('Expand', ['one', 's'], ['m0'])]
    nodes += [helper.make_node('MatMul', [f'm{index}'] * 2, [f'm{index + 1}']) for index in range(200)]
    weights = [constant('one', np.ones(1, np.float32)), constant('s', np.array([4000, 4000]))]
    path = written(nodes=summed(*nodes, source='m200'), weights=weights)
    start = time.monotonic()
    with pytest.raises(UserError, match='^x.onnx: onnxruntime takes too long to open it for a file of this size'):
        sandbox.check(path, 'onnxruntime')
    assert time.monotonic() - start < sandbox.PATIENCE


def test_the_look_is_taken_once(place, monkeypatch):
    path = written()
    open_engine(path)
    monkeypatch.setattr(sandbox.subprocess, 'run', None)
    open_engine(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(TypeError):
        open_engine(path)


OUTPUTS = {
    'a single number': ({'nodes': [helper.make_node('ReduceSum', ['features'], ['logits'], keepdims=0)]}, 'no size'),
    'other classes': (
        {'facts': {'num_classes': '4'}},
        r'1 x 3 x 16 x 24, but it says that it gives logits \(1 x 4 x any x any\)',
    ),
    'a classifier': ({'facts': {'align_corners': 'null'}}, r'logits \(1 x 3\)'),
    'logits as class ids': ({'facts': {'output': '"class_ids"'}}, r'class_ids \(1 x any x any\)'),
}


@pytest.mark.parametrize('case', OUTPUTS)
@pytest.mark.parametrize('engine', ENGINES)
def test_outputs_that_are_not_what_the_file_says_are_refused(place, case, engine):
    parts, message = OUTPUTS[case]
    made = model(**{key: value for key, value in parts.items() if key != 'nodes'})
    if 'nodes' in parts:
        made.graph.node[0].output[0] = 'features'
        made.graph.node.extend(parts['nodes'])
    Path('x.onnx').write_bytes(made.SerializeToString())
    network = ExportedNetwork(Path('x.onnx'), engine)
    with pytest.raises(UserError, match=f'x.onnx: its output is float32 of .*{message}'):
        network.class_ids(np.zeros((1, 3, *SIZE), np.uint8))


@pytest.mark.parametrize(
    'facts',
    [
        {'num_classes': '100000000'},
        {'num_classes': '256'},
        {'classes': '["a"]'},
        {'palette': '[[1, 2, 3]]'},
        {'input_size': '[100000, 100000]'},
        {'input_size': '[32766, 32766]'},
        {'eval_size': '[1, 99999]'},
        {'mean': '[NaN, 0, 0]'},
        {'std': '[Infinity, 1, 1]'},
        {'crop_pct': '-1'},
        {'interpolation': '"evil"'},
        {'mean': '[' * 100000},
        {'num_classes': '9' * 5000},
    ],
)
def test_facts_beyond_their_limits_are_refused(place, facts):
    path = written(facts=facts)
    with pytest.raises(UserError, match='x.onnx: does not say how images are normalised') as error:
        ExportedNetwork(path)
    assert '\n' not in str(error.value)


def half() -> onnx.ModelProto:
    made = model(inputs=[image(kind=TensorProto.FLOAT16)], outputs=[image(None, 'logits', TensorProto.FLOAT16)])
    made.graph.initializer[0].CopyFrom(constant('w', WEIGHT.astype(np.float16)))
    return made


def half_inside() -> onnx.ModelProto:
    made = half()
    made.graph.input[0].CopyFrom(image())
    made.graph.output[0].CopyFrom(image(None, 'logits'))
    made.graph.node.insert(0, helper.make_node('Cast', ['image'], ['half'], to=TensorProto.FLOAT16))
    made.graph.node[1].input[0], made.graph.node[1].output[0] = 'half', 'half logits'
    made.graph.node.append(helper.make_node('Cast', ['half logits'], ['logits'], to=TensorProto.FLOAT))
    return made


def branches() -> onnx.ModelProto:
    def branch(kind: str):
        return helper.make_graph([helper.make_node(kind, ['features'], ['y'])], kind, [], [image(None, 'y')])

    node = helper.make_node('If', ['go'], ['extra'], then_branch=branch('Relu'), else_branch=branch('Neg'))
    return model(nodes=[node], weights=[constant('go', np.array(True))])


def quantised(domain: str) -> onnx.ModelProto:
    """Int8 of operators with scales (QOperator): ONNX's, and one of ONNX Runtime's own."""
    made = model()
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.initializer.extend(
        [
            constant('s', np.float32(0.125)),
            constant('z', np.uint8(128)),
            constant('zw', np.int8(0)),
            constant('w', np.ones((3, 3, 1, 1), np.int8)),
        ]
    )
    made.graph.node.extend(
        [
            helper.make_node('QuantizeLinear', ['image', 's', 'z'], ['q']),
            helper.make_node('QLinearConv', ['q', 's', 'z', 'w', 's', 'zw', 's', 'z'], ['c']),
        ]
    )
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
        made.graph.node.append(helper.make_node('QLinearAdd', ['c', 's', 'z', 'c', 's', 'z', 's', 'z'], ['d'], domain=domain))
    made.graph.node.append(helper.make_node('DequantizeLinear', ['d' if domain else 'c', 's', 'z'], ['logits']))
    return made


def with_function() -> onnx.ModelProto:
    return model(**laughs(3))


def stored_beside() -> onnx.ModelProto:
    return model(**external('w.bin'))


TAKEN = {
    'plain': (model, ENGINES),
    'float16': (half, ENGINES),
    'float16 inside': (half_inside, ENGINES),
    'branches': (branches, ENGINES),
    'functions': (with_function, ENGINES[:1]),
    'weights beside it': (stored_beside, ENGINES),
    'QOperator': (lambda: quantised(''), ENGINES),
    "ONNX Runtime's operators": (lambda: quantised('com.microsoft'), ENGINES[:1]),
    'any size': (lambda: model(inputs=[image(('n', 3, None, 'w'))]), ENGINES),
}


@pytest.mark.parametrize('case', TAKEN)
def test_files_of_other_hands_are_taken(place, case):
    make, engines = TAKEN[case]
    Path('x.onnx').write_bytes(make().SerializeToString())
    for engine in engines:
        logits = ExportedNetwork(Path('x.onnx'), engine).logits(np.full((1, 3, *SIZE), 7, np.uint8))
        assert logits.dtype == np.float32 and logits.shape == (1, 3, *SIZE) and np.isfinite(logits).all()


def test_the_command_says_one_line(place, capsys):
    import cv2

    cv2.imwrite('a.png', np.zeros((*SIZE, 3), np.uint8))
    for case in ('ConstantOfShape', 'no input', 'batch', 'weights above'):
        written(**REFUSED[case][0])
        for words in (
            ['predict', 'a.png', '--model', 'x.onnx'],
            ['eval', '--model', 'x.onnx'],
            ['quantize', 'x.onnx'],
            ['preprocess', 'x.onnx', 'camvid', '.'],
            ['conversion-facts', 'x.onnx'],
        ):
            assert main(words) == 2
            error = capsys.readouterr().err
            assert error.startswith('twinseg: error: x.onnx: ') and error.count('\n') == 1, (case, words, error)
    assert json.dumps(sorted(path.name for path in place.iterdir())) == '["a.png", "folder", "link.bin", "w.bin", "x.onnx"]'


def test_engines_agree_on_what_is_taken(place):
    """Both classes open what the checks let through, without another process."""
    path = written()
    given = np.random.default_rng(0).standard_normal((1, 3, *SIZE), np.float32)
    assert np.allclose(OnnxRuntime(path)(given), OpenVino(path)(given), atol=1e-5)
