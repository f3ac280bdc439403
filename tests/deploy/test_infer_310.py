"""ascend310_infer: built with sanitizers, run with OpenVINO for real, and with AscendCL and MindSpore Lite of our own making.

Those two engines are compiled against the vendors' headers, taken from pinned wheels that are downloaded once into
``~/.cache/twinseg`` and never installed, and linked with ``tests/ascend/fake_*.cc``.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.program import fuzz
from twinseg.common.trace.compare import trace
from twinseg.common.trace.folder import FolderSource
from twinseg.common.trace.onnx_source import OnnxSource
from twinseg.common.trace.recording import Event, Recording

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / 'ascend310_infer'
FAKES = Path(__file__).parent / 'ascend'
SHAPE = (3, 8, 12)  # of a sample
COUNT = 5
SANITIZER = 98  # exit status where a sanitizer finds something
LEAKS_OF_LIBRARIES = Path(__file__).parent / 'leaks_of_libraries.txt'
TIMES = (
    r'NN inference cost average time: (\d+\.\d+) ms of infer_count (\d+)\np50: (\d+\.\d+) ms, p99: (\d+\.\d+) ms\n'
    r'(\d+) inputs in \d+\.\d+ ms: \d+\.\d+ a second, reading and writing included\n'
)
# What gives things back: a failure there is a warning, and the results stand.
GIVING_BACK = {
    'aclFinalize',
    'aclrtResetDevice',
    'aclrtDestroyContext',
    'aclrtFree',
    'aclrtFreeHost',
    'aclmdlUnload',
    'aclmdlDestroyDesc',
    'aclmdlDestroyDataset',
    'aclDestroyDataBuffer',
}
CANNOT_FAIL = {'aclmdlGetNumInputs', 'aclmdlGetNumOutputs', 'aclmdlGetInputDataType', 'aclmdlGetOutputDataType'}
NO_SIZE = {'aclmdlGetInputSizeByIndex', 'aclmdlGetOutputSizeByIndex'}  # 0 instead of an error

TOOLS = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=TOOLS) for tool in ('cmake', 'make', 'c++')),
    reason='cmake, make or a C++ compiler is not installed',
)


# --- building -----------------------------------------------------------------------------------------------------------


def headers(requirement: str, python: str, platform: str, *folders: str) -> Path:
    """Some folders of a wheel, kept in the cache; skips where the wheel cannot be had."""
    cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'twinseg'
    folder = cache / requirement.replace('==', '-')
    if not folder.is_dir():
        part = cache / f'.{folder.name}.{os.getpid()}'
        part.mkdir(parents=True)
        try:
            subprocess.run(
                [
                    sys.executable,
                    '-m',
                    'pip',
                    'download',
                    '--quiet',
                    '--no-deps',
                    '--retries',
                    '1',
                    '--only-binary=:all:',
                    '--python-version',
                    python,
                    '--platform',
                    platform,
                    '--dest',
                    str(part),
                    requirement,
                ],
                check=True,
                capture_output=True,
                timeout=540,
            )
            wheel = next(part.glob('*.whl'))
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part, [name for name in archive.namelist() if name.startswith(folders)])
            wheel.unlink()
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        except (subprocess.SubprocessError, StopIteration):
            pytest.skip(f'{requirement} cannot be downloaded')
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def library(source: str, include: Path, out: Path) -> None:
    out.parent.mkdir(parents=True)
    subprocess.run(
        [
            'c++',
            '-std=c++17',
            '-shared',
            '-fPIC',
            '-fsanitize=address,undefined',
            '-Wall',
            '-Wextra',
            '-Werror',
            '-isystem',
            str(include),
            str(FAKES / source),
            '-o',
            str(out),
        ],
        check=True,
    )


def build(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {key: os.environ[key] for key in ('PATH', 'HOME') if key in os.environ}
    return subprocess.run(
        ['bash', str(SOURCE / 'build.sh'), '--out', str(out), *arguments],
        capture_output=True,
        text=True,
        env={**clean, 'PYTHON': sys.executable, **environment},
    )


class Program:
    """A built program and a folder where a user stands, with inputs in ``in/``."""

    def __init__(self, main: Path, folder: Path, count: int = COUNT):
        self.main, self.folder = main, folder
        self.samples = np.random.default_rng(0).standard_normal((count, *SHAPE), np.float32)
        (folder / 'in').mkdir()
        for i, sample in enumerate(self.samples):
            sample.tofile(folder / 'in' / f'street{i}.left.bin')

    def run(self, model: str, *arguments: str, main: Path | None = None, preexec=None, **environment: str):
        words = [str(main or self.main), f'--mindir_path={model}', '--input0_path=in', *arguments]
        return self.command(words, preexec, **environment)

    def command(self, words: list[str], preexec=None, **environment: str) -> subprocess.CompletedProcess:
        settings = {
            'ASAN_OPTIONS': f'exitcode={SANITIZER}',
            'UBSAN_OPTIONS': f'exitcode={SANITIZER}',
            'LSAN_OPTIONS': f'suppressions={LEAKS_OF_LIBRARIES}:print_suppressions=0',
            'TBB_ENABLE_SANITIZERS': '1',
        }  # OpenVINO's TBB otherwise opens a library in a way that ASan refuses
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**os.environ, **settings, **environment},
            capture_output=True,
            text=True,
            preexec_fn=preexec,
            timeout=120,
        )
        assert 'Sanitizer' not in done.stderr and 'runtime error' not in done.stderr, done.stderr
        return done

    def results(self, index: int, dtype=np.float32) -> np.ndarray:
        """Of output ``index``, (number of inputs, elements)."""
        return np.stack(
            [np.fromfile(self.folder / 'result_Files' / f'street{i}_{index}.bin', dtype) for i in range(len(self.samples))]
        )

    def names(self) -> list[str]:
        folder = self.folder / 'result_Files'
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def text_model(self, name: str, batch: int = 2, inputs: int = 1) -> str:
        """A model of the fakes, see fake_ascendcl.cc, with two outputs of 20 and 3 elements a sample."""
        lines = [f'input image{i} {batch} 3 8 12' for i in range(inputs)]
        (self.folder / name).write_text('\n'.join([*lines, f'output logits {batch} 5 4', f'output more {batch} 3', '']))
        return name

    def expect_text_model(self) -> None:
        flat = self.samples.reshape(len(self.samples), -1)
        np.testing.assert_allclose(self.results(0), flat[:, :20] + np.arange(20), rtol=1e-6)
        np.testing.assert_allclose(self.results(1), 2 * flat[:, :3] + np.arange(3), rtol=1e-6)


@pytest.fixture(scope='module')
def cann(tmp_path_factory) -> Path | None:
    """A folder as set_env.sh's ASCEND_HOME_PATH names one; None where the headers cannot be had."""
    folder = tmp_path_factory.mktemp('cann')
    try:
        found = headers('torch-npu==2.7.1', '3.10', 'manylinux_2_28_x86_64', 'torch_npu/include/third_party/acl/inc/')
    except pytest.skip.Exception:
        return None
    (folder / 'include').symlink_to(found / 'torch_npu' / 'include' / 'third_party' / 'acl' / 'inc')
    library('fake_ascendcl.cc', folder / 'include', folder / 'lib64' / 'libascendcl.so')
    return folder


@pytest.fixture(scope='module')
def main(tmp_path_factory, cann) -> Path:
    out = tmp_path_factory.mktemp('out')
    done = build(out, '--sanitize', **({'ASCEND_HOME_PATH': str(cann)} if cann else {}))
    assert done.returncode == 0, done.stdout + done.stderr
    return out / 'main'


@pytest.fixture
def program(main, tmp_path) -> Program:
    return Program(main, tmp_path)


@pytest.fixture
def ascend(program, cann) -> Program:
    if cann is None:
        pytest.skip('torch-npu 2.7.1, whose headers AscendCL is compiled against, cannot be downloaded')
    return program


def onnx_model(path: Path, batch: int | str = 2, inputs: int = 1) -> str:
    """Convolution, ReLU and argmax; ``batch`` is a name where it is to be dynamic, with any size then."""
    size = list(SHAPE) if isinstance(batch, int) else [3, 'height', 'width']
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32)
    names = ['image', *(f'more{i}' for i in range(1, inputs))]
    nodes = [
        helper.make_node('Conv', [names[-1], 'weight'], ['features'], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node('Relu', ['features'], ['logits']),
        helper.make_node('ArgMax', ['logits'], ['classes'], axis=1, keepdims=0),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'net',
        [tensor(name, TensorProto.FLOAT, [batch, *size]) for name in names],
        [
            tensor('logits', TensorProto.FLOAT, [batch, 4, None, None]),
            tensor('classes', TensorProto.INT64, [batch, None, None]),
        ],
        [numpy_helper.from_array(weight, 'weight')],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8), str(path))
    return path.name


# --- OpenVINO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('batch, streams, inferences', [(1, 1, 5), (2, 1, 3), (2, 3, 3), (8, 2, 1)])
def test_results_are_those_of_onnx_runtime(program, batch, streams, inferences):
    model = onnx_model(program.folder / 'net.onnx', batch)
    done = program.run(model, f'--streams={streams}')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:4] == [
        f'input: image float32 {batch}x3x8x12',
        f'output: logits float32 {batch}x4x4x6',
        f'output: classes int64 {batch}x4x6',
    ]
    assert program.names() == sorted(f'street{i}_{output}.bin' for i in range(COUNT) for output in (0, 1))
    session = onnxruntime.InferenceSession(str(program.folder / model))
    for i, sample in enumerate(program.samples):
        logits, classes = session.run(None, {'image': np.repeat(sample[None], batch, 0)})
        np.testing.assert_allclose(program.results(0)[i], logits[0].ravel(), atol=1e-5)
        np.testing.assert_array_equal(program.results(1, np.int64)[i], classes[0].ravel())
    text = (program.folder / 'time_Result' / 'test_perform_static.txt').read_text()
    times = re.fullmatch(TIMES, text)
    assert times is not None and done.stdout.endswith(text)
    mean, p50, p99 = (float(times[i]) for i in (1, 3, 4))
    assert (int(times[2]), int(times[5])) == (inferences, COUNT)
    assert 0 < p50 <= p99 and mean <= p99 and (inferences > 1 or mean == p50 == p99)


@pytest.mark.parametrize('broken, layers', [(False, []), (True, ['logits'])])
def test_a_dump_is_one_side_of_a_trace(program, broken, layers):
    model = program.folder / onnx_model(program.folder / 'net.onnx')
    done = program.run(model.name, '--dump=dump')
    assert done.returncode == 0, done.stderr
    if broken:
        features = np.fromfile(program.folder / 'dump' / 'output_0.bin', np.float32)
        (features + 0.01).tofile(program.folder / 'dump' / 'output_0.bin')
    plain = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    source = OnnxSource('net.onnx', model, 'onnxruntime', plain)
    result = trace(source, FolderSource('card', program.folder / 'dump'), np.zeros((2, *SHAPE), np.uint8))
    assert [cause.row.event.layer for cause in result.causes if cause.row.event.layer] == layers
    assert result.ok is not broken


def test_a_model_of_any_size_takes_the_shape_that_is_given(program):
    model = onnx_model(program.folder / 'net.onnx', 'batch')
    done = program.run(model)
    assert done.returncode == 2 and "image float32 ?x3x?x? has no fixed size; give the batch's --input_shape" in done.stderr
    done = program.run(model, '--input_shape=2,3,8,12')
    assert done.returncode == 0 and 'output: logits float32 2x4x4x6' in done.stdout
    done = program.run(model, '--input_shape=2,1,8,12')
    assert done.returncode == 2 and '--input_shape 2x1x8x12: the input of net.onnx is image float32 ?x3x?x?' in done.stderr


def test_flags_have_aliases_and_two_forms(program):
    model = onnx_model(program.folder / 'net.onnx')
    for names in (['--model_path', '--dataset_path'], ['--mindir_path', '--input_path'], ['--mindir_path', '--input0_path']):
        done = program.command(
            [
                str(program.main),
                names[0],
                model,
                f'{names[1]}=in',
                '--dataset_name',
                'camvid',
                '--device_id=0',
                '--device_type=CPU',
                '--engine',
                'openvino',
                '--num_threads=1',
                '--warmup=0',
                '--precision_mode=preferred_optimal',
                '--time_path=elsewhere',
                '--result_path=elsewhere/results',
            ]
        )
        assert done.returncode == 0, done.stderr
        assert len(os.listdir(program.folder / 'elsewhere' / 'results')) == 2 * COUNT
        shutil.rmtree(program.folder / 'elsewhere')
    text = program.command([str(program.main), '--help']).stdout
    assert set(re.findall(r'--\w+', text)) - {'--name'} == {
        f'--{name}'
        for name in (
            'mindir_path model_path input0_path dataset_path input_path dataset_name device_id device_type engine '
            'precision_mode input_shape streams num_threads warmup result_path time_path dump'
        ).split()
    }


def test_a_cpu_without_the_preferred_precision_computes_in_float32(program):
    """OpenVINO asks the CPU for bfloat16, oneDNN for what it may use: hiding instructions from it makes them disagree."""
    model = onnx_model(program.folder / 'net.onnx')
    done = program.run(model, '--engine=openvino', '--precision_mode=preferred_optimal', ONEDNN_MAX_CPU_ISA='AVX2')
    assert done.returncode == 0, done.stderr
    assert done.stderr in (
        '',
        'warning: net.onnx: OpenVINO cannot compile it in the precision that it prefers '
        '(object is not initialized), float32 is used\n',
    )
    logits = onnxruntime.InferenceSession(str(program.folder / model)).run(['logits'], {'image': program.samples[:2]})[0]
    np.testing.assert_allclose(program.results(0)[:2], logits.reshape(2, -1), atol=1e-5)


# --- bad input ----------------------------------------------------------------------------------------------------------


def cut(program):
    os.truncate(program.folder / 'in' / 'street3.left.bin', 100)


def lengthen(program):
    with open(program.folder / 'in' / 'street3.left.bin', 'ab') as file:
        file.write(b'more')


def images(program):
    for path in (program.folder / 'in').iterdir():
        path.rename(path.with_suffix('.png'))


BAD = {
    'truncated input': (cut, [], 'street3.left.bin: 100 bytes, but one sample of image float32 2x3x8x12 has 1152'),
    'long input': (lengthen, [], 'street3.left.bin: 1156 bytes, but one sample'),
    'a folder as input': (lambda p: (p.folder / 'in' / 'x.bin').mkdir(), [], 'x.bin: cannot be read (Is a directory)'),
    'no inputs': (lambda p: shutil.rmtree(p.folder / 'in') or (p.folder / 'in').mkdir(), [], 'no .bin inputs; it is empty'),
    'images': (images, [], 'in: no .bin inputs; it holds 5 .png; preprocessing makes them'),
    'no folder': (None, ['--input0_path=there'], 'there: no such folder of inputs'),
    'one name twice': (lambda p: (p.folder / 'in' / 'street3.right.bin').write_bytes(b''), [], 'both be named street3_0.bin'),
    'no model': (None, ['--mindir_path=no.onnx'], 'no.onnx: no such model file'),
    'a folder as model': (lambda p: (p.folder / 'x.onnx').mkdir(), ['--mindir_path=x.onnx'], 'x.onnx: no such model file'),
    'unknown suffix': (None, ['--mindir_path=net.pth'], 'net.pth: no engine is known for this suffix; expected .om'),
    'two inputs': (
        lambda p: onnx_model(p.folder / 'net.onnx', inputs=2),
        [],
        'it has 2 inputs (image, more1), but this program feeds one',
    ),
    'another shape': (
        None,
        ['--input_shape=1,3,8,12'],
        '--input_shape 1x3x8x12: the input of net.onnx is image float32 2x3x8x12',
    ),
    'unknown flag': (None, ['--cpu_dvpp=1'], 'unknown flag --cpu_dvpp; --help lists those there are'),
    'no value': (None, ['--engine'], '--engine: no value'),
    'empty value': (None, ['--mindir_path='], "--mindir_path '': expected a value"),
    'stray word': (None, ['.'], "unexpected argument '.'; expected --name=value"),
    'not a number': (None, ['--device_id=0x'], "--device_id '0x': expected a number from 0 to"),
    'no requests': (None, ['--streams=0'], "--streams '0': expected a number from 1 to 256"),
    'unknown engine': (None, ['--engine=tensorrt'], 'there is none of this name; choose ascendcl, mslite or openvino'),
    'wrong device': (None, ['--device_type=Ascend'], '--device_type Ascend: not with the engine openvino; expected CPU'),
    'wrong precision': (None, ['--precision_mode=int8'], 'not with the engine openvino; expected enforce_fp32 or'),
    'results among inputs': (None, ['--result_path=./in'], '--result_path ./in: results would lie among the inputs'),
    'a file for a folder': (None, ['--time_path=net.onnx'], 'net.onnx: this folder cannot be made'),
}


@pytest.mark.parametrize('fault', BAD)
def test_bad_input_is_refused(program, fault):
    change, arguments, message = BAD[fault]
    onnx_model(program.folder / 'net.onnx')
    if change is not None:
        change(program)
    done = program.run('net.onnx', *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stderr.startswith('error: ') and program.names() == []
    assert not list(program.folder.glob('**/test_perform_static.txt'))


@pytest.mark.parametrize('content', [b'', b'no model', b'\x08\x08\x12\x07'])
def test_a_damaged_model_is_refused(program, content):
    (program.folder / 'net.onnx').write_bytes(content)
    # OpenVINO's readers of other formats, which are tried in turn, leak.
    done = program.run('net.onnx', ASAN_OPTIONS=f'exitcode={SANITIZER}:detect_leaks=0')
    assert done.returncode == 2 and 'net.onnx: OpenVINO refuses it' in done.stderr and program.names() == []


HOSTILE = {
    'a tensor of 4 GB': (
        [helper.make_node('ConstantOfShape', ['shape'], ['big'])],
        {'shape': np.array([1 << 30])},
        'computes big of more than 67108864',
    ),
    'tiles': (
        [helper.make_node('Tile', ['features', 'times'], ['big'])],
        {'times': np.array([1, 1, 1 << 12, 1 << 12])},
        'computes big of more than 67108864',
    ),
    'a shape that is computed': (
        [
            helper.make_node('ReduceProd', ['sizes'], ['shape'], keepdims=1),
            helper.make_node('ConstantOfShape', ['shape'], ['big']),
        ],
        {'sizes': np.array([1 << 10, 1 << 10, 1 << 10])},
        'computes big of more than 67108864',
    ),
    'an unknown operator': ([helper.make_node('Mine', ['features'], ['big'])], {}, 'OpenVINO refuses it'),
    'a name for a terminal': ([helper.make_node('\x1b[31m\n' + 'x' * 999, ['features'], ['big'])], {}, 'OpenVINO refuses it'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_models_that_would_take_the_machine_are_bad_input(program, case):
    """One line, status 2, little memory; nothing that OpenVINO prints itself."""
    nodes, weights, message = HOSTILE[case]
    onnx_model(program.folder / 'net.onnx', 1)
    made = onnx.load(str(program.folder / 'net.onnx'))
    made.graph.node.extend([*nodes, helper.make_node('ReduceSum', ['big'], ['sum'], keepdims=0)])
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    made.graph.output.append(helper.make_tensor_value_info('sum', TensorProto.FLOAT, []))
    onnx.save(made, str(program.folder / 'net.onnx'))
    done = program.run('net.onnx', ASAN_OPTIONS=f'exitcode={SANITIZER}:detect_leaks=0')
    assert done.returncode == 2 and message in done.stderr and program.names() == [], done
    assert done.stderr.startswith('error: net.onnx: ') and done.stderr.count('\n') == 1 and len(done.stderr) < 520
    assert done.stderr[:-1].isprintable()


def test_a_batch_that_would_fill_the_memory_is_bad_input(program):
    model = onnx_model(program.folder / 'net.onnx', 10**7)
    done = program.run(model)
    assert done.returncode == 2 and 'its input has more than 100663296 numbers' in done.stderr, done
    model = onnx_model(program.folder / 'net.onnx', 'batch')
    done = program.run(model, '--input_shape=16777216,3,16777216,16777216')
    assert done.returncode == 2 and done.stderr.count('\n') == 1, done


def test_both_paths_are_needed(program):
    done = program.command([str(program.main), '--input0_path=in'])
    assert done.returncode == 2 and '--mindir_path is missing' in done.stderr
    done = program.command([str(program.main), '--mindir_path=net.onnx'])
    assert done.returncode == 2 and '--input0_path is missing' in done.stderr


def test_a_write_that_fails_leaves_no_part_of_a_result(program):
    model = onnx_model(program.folder / 'net.onnx')
    done = program.run(model, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)))  # logits take 384 bytes
    assert done.returncode == 1 and '_0.bin: cannot be written (File too large)' in done.stderr and program.names() == []


def test_a_full_disk_leaves_whole_results_only(program):
    model = onnx_model(program.folder / 'net.onnx', 1)
    (program.folder / 'result_Files').mkdir()
    own = ['unshare', '--map-root-user', '--mount', 'bash', '-c']  # a disk of four blocks, seen by nobody else
    mount = 'mount -t tmpfs -o size=16k none result_Files'
    if subprocess.run([*own, mount], cwd=program.folder, capture_output=True).returncode:
        pytest.skip('this system lets no user mount a disk')
    done = program.command(
        [
            *own,
            f'{mount} && {program.main} --mindir_path={model} --input0_path=in; status=$?; '
            'stat -c "%n %s" result_Files/* result_Files/.[!.]*; exit $status',
        ]
    )
    assert done.returncode == 1 and 'cannot be written (No space left on device)' in done.stderr
    assert re.findall(r'result_Files/(\S+ \d+)', done.stdout) == [
        'street0_0.bin 384',
        'street0_1.bin 192',
        'street1_0.bin 384',
        'street1_1.bin 192',
    ]


def test_an_output_without_a_batch_is_refused(ascend):
    (ascend.folder / 'net.om').write_text('input image 2 3 8 12\noutput total 1 7\n')
    done = ascend.run('net.om')
    assert done.returncode == 2 and 'total float32 1x7 cannot be cut into the 2 samples of a batch' in done.stderr


# --- AscendCL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('batch, streams', [(1, 1), (2, 1), (2, 3), (1, 4)])
def test_ascendcl(ascend, batch, streams):
    log = ascend.folder / 'log'
    done = ascend.run(ascend.text_model('net.om', batch), f'--streams={streams}', FAKE_ACL_LOG=str(log))
    assert done.returncode == 0 and done.stderr == '', done.stderr
    ascend.expect_text_model()
    calls = log.read_text().split()
    requests = min(streams, -(-COUNT // batch))
    assert calls.count('aclmdlLoadFromFile') == calls.count('aclmdlUnload') == requests  # a model may not run twice at once
    assert calls.count('aclmdlExecute') == -(-COUNT // batch) + requests  # one of each request is the warm-up
    assert calls[0] == 'aclInit' and calls[-1] == 'aclFinalize'


def test_a_dump_of_ascendcl_is_a_recorded_folder(ascend):
    """The names are as ATC makes them: operator, number, output."""
    lines = ['input image 2 3 8 12', 'output Conv_7:0:logits 2 5 4', 'output Relu_3:0:stem.relu 2 3']
    (ascend.folder / 'net.om').write_text('\n'.join([*lines, '']))
    done = ascend.run('net.om', '--dump=dump')
    assert done.returncode == 0 and done.stderr == '', done.stderr
    flat = ascend.samples[:2].reshape(2, -1)
    expected = {
        Event('', 0, 'input', 0): ascend.samples[:2],
        Event('logits', 0, 'output', 0): (flat[:, :20] + np.arange(20)).reshape(2, 5, 4),
        Event('', 0, 'output', 0): (flat[:, :20] + np.arange(20)).reshape(2, 5, 4),
        Event('stem.relu', 0, 'output', 0): 2 * flat[:, :3] + np.arange(3),
    }
    with Recording() as recording:
        source = FolderSource('card', ascend.folder / 'dump')
        source.run(source.prepare(np.zeros(0)), recording)
        assert set(recording.content) == set(expected)
        for event, array in expected.items():
            np.testing.assert_allclose(recording[event], array, rtol=1e-6)


def test_every_failure_of_ascendcl_is_reported(ascend):
    model, log = ascend.text_model('net.om'), ascend.folder / 'log'
    assert ascend.run(model, '--streams=2', FAKE_ACL_LOG=str(log)).returncode == 0
    calls = log.read_text().split()
    for call in sorted(set(calls) - CANNOT_FAIL):
        for number in {1, calls.count(call)}:
            shutil.rmtree(ascend.folder / 'result_Files')
            done = ascend.run(model, '--streams=2', FAKE_ACL_FAIL=f'{call}:{number}')
            if call in GIVING_BACK:
                assert done.returncode == 0 and 'warning: giving back' in done.stderr, (call, number, done.stderr)
                ascend.expect_text_model()
                continue
            if call in NO_SIZE:
                assert done.returncode == 2 and 'has no fixed size' in done.stderr, (call, number, done.stderr)
            else:
                assert done.returncode == (2 if call == 'aclmdlLoadFromFile' else 1), (call, number, done.stderr)
                assert f'{call} failed with error' in done.stderr and 'E99999: told to fail' in done.stderr
            assert all(re.fullmatch(r'street\d_[01]\.bin', name) for name in ascend.names())
    assert len(set(calls) - CANNOT_FAIL) > 25


@pytest.mark.parametrize(
    'lines, message',
    [
        ('input image 2 3 99999 99999\noutput logits 2 5\n', 'takes 239995200024 bytes; expected at most 402653184'),
        ('input image 2 3 8 12\noutput logits 2 99999 99999\n', 'takes 79998400008 bytes; expected at most 268435456'),
        ('input image 2 3 8 12\noutput logits 2 5000 6000\noutput more 2 5000 6000\n', 'more memory than there is'),
    ],
    ids=['input', 'output', 'together'],
)
def test_a_model_that_takes_more_memory_than_a_card_has_is_bad_input(ascend, lines, message):
    (ascend.folder / 'net.om').write_text(lines)
    done = ascend.run('net.om')
    assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_ascendcl_says_what_it_refuses(ascend):
    (ascend.folder / 'bad.om').write_text('no model\n')
    done = ascend.run('bad.om')
    assert done.returncode == 2 and "is it an .om that ATC made for this card's soc version?" in done.stderr
    done = ascend.run(ascend.text_model('two.om', inputs=2))
    assert done.returncode == 2 and 'it has 2 inputs (image0, image1)' in done.stderr
    done = ascend.run(ascend.text_model('net.om'), '--device_id=3')
    assert done.returncode == 2 and '--device_id 3: this machine has 1 device, 0; `npu-smi info` lists them' in done.stderr
    assert ascend.run('net.om', '--device_id=3', FAKE_ACL_DEVICES='4').returncode == 0
    done = ascend.run('net.om', '--precision_mode=enforce_fp16')
    assert done.returncode == 2 and 'it is fixed when ATC converts the model' in done.stderr


def test_missing_cann_gives_the_hint(ascend, cann):
    model, library = ascend.text_model('net.om'), cann / 'lib64' / 'libascendcl.so'
    library.rename(library.with_suffix('.away'))
    try:
        done = ascend.run(model)
    finally:
        library.with_suffix('.away').rename(library)
    assert done.returncode == 1 and 'libascendcl.so: cannot open shared object file' in done.stderr
    assert 'hint: source the set_env.sh of the CANN toolkit' in done.stderr


def test_an_engine_that_was_not_built_gives_the_hint(program):
    alone = program.folder / 'main'
    shutil.copy2(program.main, alone)
    hints = {'net.om': 'source the set_env.sh', 'net.mindir': 'set MS_LITE_HOME', 'net.onnx': '`pip install openvino`'}
    for name, hint in hints.items():
        done = program.run(program.text_model(name), main=alone)
        assert done.returncode == 1 and 'this program was built without the engine' in done.stderr and hint in done.stderr


# --- MindSpore Lite -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mindspore_lite(tmp_path):
    found = headers('mindspore==2.7.2', '3.11', 'manylinux1_x86_64', 'mindspore/include/api/', 'mindspore/include/mindapi/')
    lite, log = tmp_path / 'lite', tmp_path / 'log'
    library('fake_mindspore_lite.cc', found / 'mindspore', lite / 'runtime' / 'lib' / 'libmindspore-lite.so')
    (lite / 'runtime' / 'include').symlink_to(found / 'mindspore' / 'include')
    done = build(tmp_path / 'out', '--sanitize', '-DWITH_OPENVINO=OFF', MS_LITE_HOME=str(lite))
    assert done.returncode == 0, done.stdout + done.stderr
    program = Program(tmp_path / 'out' / 'main', tmp_path)
    model = program.text_model('net.mindir')
    settings = {
        'Ascend 2 enforce_fp32': ['--device_id=2'],
        'Ascend 0 enforce_fp16': ['--precision_mode=enforce_fp16'],
        'CPU 3 0': ['--device_type=CPU', '--num_threads=3'],
        'CPU 0 1': ['--device_type=CPU', '--precision_mode=enforce_fp16'],
    }
    for expected, arguments in settings.items():
        done = program.run(model, '--streams=2', *arguments, FAKE_MSLITE_LOG=str(log))
        assert done.returncode == 0, done.stderr
        program.expect_text_model()
        assert log.read_text().splitlines() == [expected] * 2
        log.unlink()
    (tmp_path / 'any.mindir').write_text('input image -1 3 -1 -1\noutput logits -1 5 4\noutput more -1 3\n')
    assert program.run('any.mindir', '--input_shape=2,3,8,12').returncode == 0
    program.expect_text_model()
    done = program.run('any.mindir')
    assert done.returncode == 2 and 'image float32 ?x3x?x? has no fixed size' in done.stderr
    failures = {
        'Build': (2, 'MindSpore Lite refuses it on Ascend: Build was told to fail'),
        'Resize': (2, 'any.mindir does not take it: Resize was told to fail'),
        'Predict': (1, 'MindSpore Lite: Predict failed: Predict was told to fail'),
    }
    for method, (status, message) in failures.items():
        done = program.run('any.mindir', '--input_shape=2,3,8,12', FAKE_MSLITE_FAIL=method)
        assert done.returncode == status and message in done.stderr, done.stderr


# --- build.sh -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_build_for_users(tmp_path, cann):
    done = build(tmp_path / 'out', **({'ASCEND_HOME_PATH': str(cann)} if cann else {}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'engine openvino: yes' in done.stdout
    program = Program(tmp_path / 'out' / 'main', tmp_path)
    assert program.run(onnx_model(tmp_path / 'net.onnx')).returncode == 0


def test_the_build_says_what_is_missing(tmp_path):
    done = build(tmp_path / 'out', '--fast')
    assert done.returncode == 2 and 'unknown argument --fast' in done.stderr
    done = build(tmp_path / 'out', '-DWITH_OPENVINO=OFF')
    assert done.returncode != 0 and 'no engine can be built here' in done.stderr and 'MS_LITE_HOME' in done.stderr
    done = build(tmp_path / 'out', '-DWITH_ASCENDCL=ON')
    assert done.returncode != 0 and 'engine ascendcl: not found; source the set_env.sh' in ' '.join(done.stderr.split())
    tools = tmp_path / 'bin'
    tools.mkdir()
    for name in ('bash', 'dirname', 'c++'):
        (tools / name).symlink_to(shutil.which(name))
    (tools / 'python').symlink_to(sys.executable)
    done = build(tmp_path / 'out', PATH=str(tools), PYTHON=str(tools / 'python'))
    assert done.returncode == 2 and 'cmake is missing: pip install cmake' in done.stderr
    (tools / 'cmake').symlink_to(shutil.which('cmake', path=TOOLS))
    (tools / 'c++').unlink()
    done = build(tmp_path / 'out', PATH=str(tools), PYTHON=str(tools / 'python'))
    assert done.returncode == 2 and 'there is no C++ compiler' in done.stderr


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which('shellcheck', path=TOOLS)
    if shellcheck is None:
        pytest.skip('shellcheck is not installed')
    done = subprocess.run([shellcheck, '-S', 'style', str(SOURCE / 'build.sh')], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- fuzzed -------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(7200)  # for the cases of --slow
def test_what_is_changed_is_run_or_refused(program, cann, request):
    """Models, inputs and arguments, under both sanitizers."""
    models = [
        program.folder / onnx_model(program.folder / 'net.onnx'),
        program.folder / onnx_model(program.folder / 'any.onnx', 'n'),
    ]
    if cann is not None:
        models += 2 * [program.folder / program.text_model('net.om')]
    seeds, cases = ((0, 1, 2), 1000) if request.config.getoption('--slow') else ((0,), 40)
    assert not [problem for seed in seeds for problem in fuzz(program.run, program.folder, models, seed, cases)]
