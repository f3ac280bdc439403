"""Exported files on data sets: the scores of the checkpoint that they came from, without a framework."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.support import photos, streets, tiny
from tests.support.checkpoints import CLASSES, SIZE, write
from twinseg.common import cli
from twinseg.common.backend import get_backend
from twinseg.common.deploy import onnx_graph
from twinseg.common.deploy.engines import OnnxRuntime, OpenVino
from twinseg.common.deploy.export import ExportOptions, FileSpecification, export_checkpoint, export_network
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.deploy.verify import compare
from twinseg.common.errors import UserError
from twinseg.common.images.interpolation import resize_bilinear

ROOT = Path(__file__).parents[2]
APART = 0.01  # percent: scores equal to 4 decimals as fractions


def twinseg(*words) -> int:
    return cli.main([str(word) for word in words])


def scores(folder: Path, *words) -> dict:
    assert twinseg('eval', *words, '--json', folder / 'scores.json') == 0
    return json.loads((folder / 'scores.json').read_text())


class Task:
    """A data set, a checkpoint of untrained weights, and its exported files."""

    def __init__(self, folder: Path, arch: str, keys: dict):
        self.folder, self.keys = folder, keys
        self.checkpoint = write(folder, 'pytorch', arch, **keys)
        self.recipe = folder / 'recipe.yaml'
        self.recipe.write_text(json.dumps(keys))
        self._files: dict[tuple, Path] = {}

    def file(self, name: str = 'net.onnx', **options) -> Path:
        key = (name, *sorted(options))
        if key not in self._files:
            path = self.folder / '-'.join(options) / name
            export_checkpoint(
                self.checkpoint, path, path.suffix[1:], ExportOptions(**options), backend_name='pytorch', device='cpu'
            )  # type: ignore
            self._files[key] = path
        return self._files[key]

    def expected(self, folder: Path, *words) -> dict:
        return scores(folder, '--checkpoint', self.checkpoint, '--backend', 'pytorch', *words)


def street_keys(data: Path | str) -> dict:
    return {
        'set': 'custom',
        'data_url': str(data),
        'image_dir': 'images/{split}',
        'label_dir': 'labels/{split}',
        'image_suffix': '.png',
        'classes': [f'class {i}' for i in range(CLASSES)],
    }


def photo_keys(data: Path | str) -> dict:
    return {
        'set': 'image_folder',
        'data_url': str(data),
        'image_size': [32, 32],
        'crop_size': [512, 1024],
        'eval_batch_size': 4,
        'crop_pct': 0.8,
    }


@pytest.fixture(scope='module')
def street(tmp_path_factory) -> Task:
    pytest.importorskip('torch')
    folder = tmp_path_factory.mktemp('street')
    data = streets.make(folder / 'data', count=5, size=SIZE)
    return Task(folder, 'fast_scnn', street_keys(data))


@pytest.fixture(scope='module')
def photo(tmp_path_factory) -> Task:
    pytest.importorskip('torch')
    folder = tmp_path_factory.mktemp('photo')
    data = photos.make(folder / 'data', train=1)
    return Task(folder, 'resnet18', photo_keys(data))


def same_segmentation(found: dict, expected: dict) -> None:
    for key in ('mIoU', 'mAcc', 'aAcc'):
        assert found[key] == pytest.approx(expected[key], abs=APART), key
    assert found['confusion'] and 0 < expected['mIoU'] < 100


def same_classification(found: dict, expected: dict) -> None:
    assert (found['top1'], found['top5']) == (expected['top1'], expected['top5'])
    assert found['confusion'] == expected['confusion']
    assert found['loss'] == pytest.approx(expected['loss'], abs=1e-3)


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
@pytest.mark.parametrize('options', [{}, pytest.param({'batch': 2}, marks=pytest.mark.slow)], ids=['plain', 'batch'])
def test_segmentation_scores_are_the_checkpoints(street, engine, options, tmp_path):
    found = scores(tmp_path, street.recipe, '--model', street.file(**options), '--engine', engine)
    same_segmentation(found, street.expected(tmp_path))
    assert found['conditions']['engine'] == engine and found['conditions']['images'] == 5


def test_classification_scores_are_the_checkpoints(photo, tmp_path):
    expected = photo.expected(tmp_path)
    for words in ((), ('--engine', 'openvino'), ('--engine', 'onnxruntime')):
        found = scores(tmp_path, '--model', photo.file(), '--set', f'data_url={photo.keys["data_url"]}', *words)
        same_classification(found, expected)
    assert found['conditions']['crop_pct'] == 0.8


@pytest.mark.slow
def test_mindir_scores_are_the_checkpoints(street, tmp_path):
    pytest.importorskip('mindspore')
    found = scores(tmp_path, street.recipe, '--model', street.file('net.mindir'))
    same_segmentation(found, street.expected(tmp_path))
    assert found['conditions']['engine'] == 'mindspore'


@pytest.mark.slow
def test_views_of_files_for_any_size_are_the_checkpoints(street, tmp_path):
    for words in ((), ('--slide',), ('--ms-flip',), ('--boundary',), ('--set', 'eval_size=[80,120]')):
        found = scores(tmp_path, street.recipe, '--model', street.file(dynamic=True), *words)
        same_segmentation(found, street.expected(tmp_path, *words))


HIDDEN = """
import sys
from twinseg.common import cli
for name in ('torch', 'mindspore'):
    sys.modules[name] = None
sys.exit(cli.main(sys.argv[1:]))
"""


def test_no_framework_is_needed(street, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', HIDDEN, 'eval', str(street.recipe), '--model', str(street.file())],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and 'mIoU' in done.stdout, done.stderr


BAD = {
    'no network': ([], 'give the network'),
    'two networks': (['--model', 'net.onnx', '--checkpoint', 'a.safetensors'], 'give the network'),
    'absent': (['--model', 'absent.onnx'], 'absent.onnx: no such file'),
    'other suffix': (['--model', 'net.om'], 'cannot run .om on the host'),
    'other engine': (['--model', 'net.onnx', '--engine', 'mindspore'], 'choose onnxruntime or openvino'),
    'multi-scale': (['--model', 'net.onnx', '--ms-flip'], 'made for images of 64x96 only; export it again with --dynamic'),
    'scales': (['--model', 'net.onnx', '--scales', '0.5,1'], 'made for images of 64x96 only; export it again with --dynamic'),
    'no data': (['--model', 'net.onnx'], 'no folder for custom: set data_url'),
    'other task': (['fast_scnn_camvid-360x480', '--model', 'photo.onnx'], 'set: camvid is not for classification'),
    'no facts': (['--model', 'bare.onnx'], 'expected a file of `twinseg export`'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_requests_are_refused(street, photo, case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('TWINSEG_DATA', raising=False)
    for name, path in {'net.onnx': street.file(), 'photo.onnx': photo.file()}.items():
        Path(name).write_bytes(path.read_bytes())
    Path('net.om').write_bytes(b'')
    model = onnx.load('net.onnx')
    del model.metadata_props[:]
    onnx.save(model, 'bare.onnx')
    words, message = BAD[case]
    assert twinseg('eval', *words) == 2
    assert message in capsys.readouterr().err


# --- before and after a program on a card -------------------------------------------------------------------------------


def drawn_model(path: Path, keys: dict, classifies: bool = False, size: tuple[int, int] = SIZE, batch: int | str = 1) -> Path:
    """A convolution with random weights as an exported file, made without a framework."""
    weight = np.random.default_rng(1).standard_normal((CLASSES, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node('Conv', ['image', 'mean'], ['features'], pads=[1, 1, 1, 1], strides=[2, 2]),
        *(
            [
                helper.make_node('GlobalAveragePool', ['features'], ['pooled']),
                helper.make_node('Flatten', ['pooled'], ['logits']),
            ]
            if classifies
            else [helper.make_node('Identity', ['features'], ['logits'])]
        ),
    ]
    sides: list = [None, None] if isinstance(batch, str) else list(size)
    out = [batch, CLASSES] if classifies else [batch, CLASSES, None, None]
    graph = helper.make_graph(
        nodes,
        'drawn',
        [helper.make_tensor_value_info('image', TensorProto.FLOAT, [batch, 3, *sides])],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weight, 'mean')],
    )  # PyTorch's exporter names things so, too
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    facts = {
        'num_classes': CLASSES,
        'classes': [],
        'palette': [],
        'mean': [100, 110, 120],
        'std': [50, 60, 70],
        'input_size': list(size),
        'align_corners': None if classifies else False,
        'step': 1,
        'set': keys['set'],
    }
    facts |= {'crop_pct': keys['crop_pct']} if classifies else {}
    helper.set_model_props(model, {'arch': 'drawn', **{key: json.dumps(value) for key, value in facts.items()}})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder to stand in: ``streets``, ``recipe.yaml``, ``net.onnx``; ``photos`` and ``photo.onnx``."""
    monkeypatch.chdir(tmp_path)
    keys = street_keys(streets.make(Path('streets').absolute(), count=3, size=SIZE))
    Path('recipe.yaml').write_text(json.dumps(keys))
    drawn_model(Path('net.onnx'), keys)
    photos.make(Path('photos').absolute(), train=1, val=3)
    drawn_model(Path('photo.onnx'), photo_keys('photos'), classifies=True, size=(32, 32))
    return tmp_path


def card(model: str, error: float = 0.0, aipp: bool = False) -> None:
    """Stands for ascend310_infer on a card that computes with an error, of the largest logit; with AIPP it normalises, too."""
    engine = OnnxRuntime(Path(model))
    Path('result_Files').mkdir(exist_ok=True)
    for path in Path('preprocess_Result/00_data').iterdir():
        image = np.fromfile(path, np.uint8 if aipp else np.float32)
        if aipp:
            pixels = (image.reshape(*SIZE, 3) - np.array([100, 110, 120])) / np.array([50, 60, 70])
            image = pixels.transpose(2, 0, 1).astype(np.float32)
        found = engine(np.ascontiguousarray(image).reshape(engine.shape))
        found = found + error * np.abs(found).max()
        found.astype(np.float16 if error else np.float32).tofile(f'result_Files/{path.name.partition(".")[0]}_0.bin')


def test_inputs_and_labels_are_those_of_the_model_zoo(place):
    assert twinseg('preprocess', 'net.onnx', 'custom', 'streets', '--config', 'recipe.yaml') == 0
    names = [f'{i:06d}_{i:03d}' for i in range(3)]
    assert sorted(path.name for path in Path('preprocess_Result/00_data').iterdir()) == [f'{name}.bin' for name in names]
    pixels = np.array(Image.open('streets/images/val/001.png'))
    expected = (pixels - np.array([100, 110, 120], np.float32)) / np.array([50, 60, 70], np.float32)
    found = np.fromfile('preprocess_Result/00_data/000001_001.bin', np.float32).reshape(3, *SIZE)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-6)
    label = np.fromfile('preprocess_Result/label/000001_001_label.bin', np.int32).reshape(SIZE)
    np.testing.assert_array_equal(label, np.array(Image.open('streets/labels/val/001.png')))
    for path in ('photos', 'photos/val'):
        assert twinseg('preprocess', 'photo.onnx', 'imagenet2012', path, '--out', f'{path}_Result') == 0
        classes = json.loads(Path(f'{path}_Result/imagenet_label.json').read_text())
        assert list(classes.values()) == [0] * 3 + [1] * 3 + [2] * 3
        assert all(Path(f'{path}_Result/00_data/{name}.bin').stat().st_size == 4 * 3 * 32 * 32 for name in classes)


def test_scores_of_results_are_the_files(place, capsys):
    assert twinseg('preprocess', 'net.onnx', 'custom', 'streets', '--config', 'recipe.yaml') == 0
    card('net.onnx')
    assert twinseg('postprocess', 'net.onnx', '--json', 'found.json') == 0
    found, expected = json.loads(Path('found.json').read_text()), scores(place, 'recipe.yaml', '--model', 'net.onnx')
    assert found['confusion'] == expected['confusion'] and found['mIoU'] == expected['mIoU']
    assert f'mIoU: {found["mIoU"]:.2f}' in capsys.readouterr().out
    assert found['conditions']['compared_difference'] == 0 and found['conditions']['compared_images'] == 3


def test_inputs_for_a_card_that_normalises(place):
    assert twinseg('preprocess', 'net.onnx', 'custom', 'streets', '--config', 'recipe.yaml', '--uint8') == 0
    pixels = np.fromfile('preprocess_Result/00_data/000001_001.bin', np.uint8).reshape(*SIZE, 3)
    np.testing.assert_array_equal(pixels, np.array(Image.open('streets/images/val/001.png')))
    card('net.onnx', aipp=True)
    assert twinseg('postprocess', 'net.onnx', '--json', 'found.json') == 0
    found, expected = json.loads(Path('found.json').read_text()), scores(place, 'recipe.yaml', '--model', 'net.onnx')
    assert found['mIoU'] == expected['mIoU'] and found['conditions']['compared_difference'] < 1e-5


def test_scores_of_a_classifiers_results_are_the_files(place, capsys):
    assert twinseg('preprocess', 'photo.onnx', 'imagenet2012', 'photos') == 0
    card('photo.onnx')
    assert twinseg('postprocess', 'photo.onnx', '--json', 'found.json') == 0
    found = json.loads(Path('found.json').read_text())
    expected = scores(place, '--model', 'photo.onnx', '--set', 'data_url=photos')
    assert found['confusion'] == expected['confusion']
    assert (found['top1'], found['top5'], found['loss']) == (expected['top1'], expected['top5'], expected['loss'])
    assert f'Top1 acc: {found["top1"]:.2f}\nTop5 acc: {found["top5"]:.2f}\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    'error, precision, status', [(0.01, 'fp32', 1), (0.01, 'fp16', 0), (0.05, 'fp16', 1), (0.05, 'int8', 0), (0.2, 'int8', 1)]
)
def test_results_that_differ_fail(place, error, precision, status, capsys):
    assert twinseg('preprocess', 'net.onnx', 'custom', 'streets', '--config', 'recipe.yaml') == 0
    card('net.onnx', error=error)
    assert twinseg('postprocess', 'net.onnx', '--precision', precision) == status
    out, err = capsys.readouterr()
    assert 'mIoU' in out and ('the results differ from those of net.onnx' in err) == bool(status)


def lose_a_result():
    Path('result_Files/000001_001_0.bin').unlink()


def cut_a_result():
    Path('result_Files/000001_001_0.bin').write_bytes(b'1234')


def pipe_a_result():
    Path('result_Files/000001_001_0.bin').unlink()
    os.mkfifo('result_Files/000001_001_0.bin')  # nobody will ever write to it


def lengthen_a_result():
    with open('result_Files/000001_001_0.bin', 'ab') as file:
        file.write(b'1234')


def leave_the_folder():
    path = Path('preprocess_Result/meta.json')
    path.write_text(path.read_text().replace('000001_001', '../../secret'))


def change_the_task():
    path = Path('preprocess_Result/meta.json')
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, 'samples': [{**sample, 'label': 1} for sample in meta['samples']]}))


@pytest.mark.parametrize(
    'change, message',
    [
        (lose_a_result, '000001_001_0.bin: No such file'),
        (cut_a_result, '000001_001_0.bin: 4 bytes; expected 30720'),
        (lengthen_a_result, '000001_001_0.bin: 30724 bytes; expected 30720'),
        (pipe_a_result, '000001_001_0.bin: a pipe, not a file; expected a file for every input'),
        (leave_the_folder, 'meta.json: not what `twinseg preprocess` writes'),
        (change_the_task, 'was not written for segmentation, which net.onnx is for'),
    ],
)
def test_damaged_results_are_refused(place, change, message, capsys):
    assert twinseg('preprocess', 'net.onnx', 'custom', 'streets', '--config', 'recipe.yaml') == 0
    card('net.onnx')
    change()
    assert twinseg('postprocess', 'net.onnx') == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'words, message',
    [
        (['net.onnx', 'kitti', 'streets'], 'DATASET_NAME kitti: not a data set of this suite'),
        (['net.onnx', 'custom', 'streets'], 'give the recipe that describes the folders'),
        (['net.onnx', 'imagenet2012', 'photos'], 'set: imagenet is not for segmentation'),
        (['any.onnx', 'custom', 'streets', '--config', 'recipe.yaml'], 'cards take fixed ones'),
        (['net.onnx', 'custom', 'streets', '--config', 'recipe.yaml', '--out', 'streets'], 'streets: is there already'),
    ],
)
def test_models_and_data_that_will_not_do(place, words, message, capsys):
    drawn_model(Path('any.onnx'), street_keys('streets'), batch='batch')
    (place / 'streets' / '00_data').mkdir()
    assert twinseg('preprocess', *words) == 2
    assert message in capsys.readouterr().err


# --- scripts/run_infer_310.sh -------------------------------------------------------------------------------------------


def script(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {key: os.environ[key] for key in ('PATH', 'HOME', 'OMP_NUM_THREADS') if key in os.environ}
    return subprocess.run(
        ['bash', str(ROOT / 'scripts' / name), *words],
        capture_output=True,
        text=True,
        env={**clean, 'TWINSEG_PYTHON': sys.executable, **environment},
    )


@pytest.fixture(scope='module')
def program(tmp_path_factory) -> str:
    """The folder that ascend310_infer is built in."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    if not all(shutil.which(tool, path=path) for tool in ('cmake', 'make', 'c++')):
        pytest.skip('cmake, make or a C++ compiler is not installed')
    return str(tmp_path_factory.mktemp('program'))


@pytest.mark.slow
def test_the_whole_chain_on_the_host(place, program, street, photo):
    done = script(
        'run_infer_310.sh', str(street.file()), 'custom', 'streets', CONFIG='recipe.yaml', DEVICE_TYPE='CPU', OUT=program
    )
    assert done.returncode == 0 and 'NN inference cost average time' in done.stdout, done.stderr
    expected = scores(place, '--checkpoint', street.checkpoint, '--set', f'data_url={place}/streets')
    same_segmentation(json.loads(Path('infer_310/result.json').read_text()), expected)
    done = script('run_infer_310.sh', str(photo.file()), 'imagenet2012', 'photos/val', '0', ENGINE='openvino', OUT=program)
    assert done.returncode == 0 and 'Top5 acc: ' in done.stdout, done.stderr
    expected = scores(place, '--checkpoint', photo.checkpoint, '--set', f'data_url={place}/photos')
    same_classification(json.loads(Path('infer_310_2/result.json').read_text()), expected)


@pytest.mark.slow
def test_inputs_are_as_the_model_was_converted(place, program):
    """Up to the program, which has no engine for .om here."""
    for name in ('plain.om', 'aipp.om', 'aipp.aipp.cfg'):
        Path(name).touch()
    for folder, model, size in (('infer_310', 'plain.om', 4), ('infer_310_2', 'aipp.om', 1)):
        done = script('run_infer_310.sh', model, 'custom', 'streets', CONFIG='recipe.yaml', REFERENCE='net.onnx', OUT=program)
        assert done.returncode == 1 and 'infer failed with status 1' in done.stderr, done.stderr
        written = {path.stat().st_size for path in Path(folder, 'preprocess_Result/00_data').iterdir()}
        assert written == {size * 3 * SIZE[0] * SIZE[1]}


USAGE = 'usage: bash scripts/run_infer_310.sh MODEL_PATH DATASET_NAME DATASET_PATH [DEVICE_ID]'
GOOD = ['net.onnx', 'camvid', 'streets']
BAD_CALLS: list[tuple[list[str], dict[str, str], str]] = [
    ([], {}, USAGE),
    (['net.onnx', 'camvid'], {}, USAGE),
    ([*GOOD, '0', 'more'], {}, USAGE),
    (['absent.om', 'camvid', 'streets'], {}, 'MODEL_PATH absent.om: no such file'),
    (['recipe.yaml', 'camvid', 'streets'], {}, 'expected .om, .mindir or .onnx'),
    (['net.onnx', 'camvid', 'absent'], {}, 'DATASET_PATH absent: no such folder'),
    (['net.onnx', 'custom', 'streets'], {}, 'CONFIG=FILE.yaml describes the folders'),
    ([*GOOD, '-1'], {}, 'DEVICE_ID -1: expected a number'),
    ([*GOOD, 'zero'], {}, 'DEVICE_ID zero'),
    (GOOD, {'ENGINE': 'tensorrt'}, 'ENGINE=tensorrt: expected ascendcl mslite openvino'),
    (GOOD, {'DEVICE_TYPE': 'GPU'}, 'DEVICE_TYPE=GPU: expected Ascend CPU'),
    (GOOD, {'PRECISION': 'int4'}, 'PRECISION=int4: expected fp32 fp16 int8'),
    (GOOD, {'CONFIG': 'absent'}, 'CONFIG=absent: no such file'),
    (['other.om', 'camvid', 'streets'], {}, 'give the .onnx that the model was made from: REFERENCE=FILE.onnx'),
    (['other.om', 'camvid', 'streets'], {'REFERENCE': 'absent'}, 'REFERENCE=absent: no such file'),
    (GOOD, {'TWINSEG_PYTHON': '/absent'}, 'TWINSEG_PYTHON=/absent is no program'),
]


def test_bad_calls_are_refused_and_leave_nothing(place):
    Path('other.om').write_bytes(b'')
    before = sorted(place.rglob('*'))
    for words, environment, message in BAD_CALLS:
        done = script('run_infer_310.sh', *words, **environment)
        assert done.returncode == 2 and message in done.stderr and not done.stdout, (words, done.stderr)
    assert sorted(place.rglob('*')) == before


def test_a_step_that_fails_ends_the_chain(place):
    done = script('run_infer_310.sh', 'net.onnx', 'kitti', 'streets')
    assert done.returncode == 2 and 'preprocess failed with status 2' in done.stderr, done.stderr
    assert 'kitti: not a data set of this suite' in done.stderr
    assert sorted(path.name for path in Path('infer_310').iterdir()) == ['preprocess.log']


# --- preprocessing and argmax inside the file ---------------------------------------------------------------------------


def surrounded(path: Path, keys: dict, uint8: bool, argmax: bool, align_corners: bool | None, batch: int | str = 1) -> Path:
    """The drawn model as export makes it with --uint8 and --argmax."""
    drawn_model(path, keys, classifies=align_corners is None, batch=batch, size=SIZE if align_corners is not None else (32, 32))
    model = onnx.load(str(path))
    if isinstance(batch, str):
        for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ('height', 'width')):
            dim.dim_param = name
    facts = {item.key: item.value for item in model.metadata_props}
    facts |= {
        'input': json.dumps('uint8' if uint8 else 'float32'),
        'output': json.dumps('class_ids' if argmax else 'logits'),
        'align_corners': json.dumps(align_corners),
    }
    onnx.save(onnx_graph.finish(model, 17, facts), str(path))
    return path


@pytest.mark.parametrize('align_corners', [False, True, None])
@pytest.mark.parametrize('uint8, argmax', [(True, False), (False, True), (True, True)])
def test_a_file_with_preprocessing_and_argmax_computes_the_same(place, uint8, argmax, align_corners):
    classifies = align_corners is None
    keys = photo_keys('photos') if classifies else street_keys('streets')
    size = (32, 32) if classifies else SIZE
    plain = OnnxRuntime(drawn_model(Path('plain.onnx'), keys, classifies, size))
    model = surrounded(Path('full.onnx'), keys, uint8, argmax, align_corners)
    differences = compare(model, plain, [(1, 3, *size)])
    assert set(differences) == {'onnxruntime', 'openvino'} and max(differences.values()) < 1e-5
    wrong = compare(model, lambda images: -plain(images), [(1, 3, *size)])
    assert min(wrong.values()) > 0.1
    engine = OnnxRuntime(model)
    image = np.zeros(engine.shape, np.uint8 if uint8 else np.float32)
    found = engine(image)
    assert engine.shape == ((1, *size, 3) if uint8 else (1, 3, *size))
    if argmax:
        assert found.dtype == np.int32 and found.shape == ((1,) if classifies else (1, *size))


@pytest.mark.parametrize('uint8', [False, True])
def test_class_ids_of_any_size(place, uint8):
    plain = OnnxRuntime(drawn_model(Path('plain.onnx'), street_keys('streets'), batch='batch'))
    model = surrounded(Path('full.onnx'), street_keys('streets'), uint8, True, False, batch='batch')
    shapes = [(1, 3, 64, 96), (2, 3, 33, 50)]
    assert max(compare(model, plain, shapes).values()) < 1e-5


def test_scores_of_a_file_with_preprocessing_and_argmax(place):
    expected = scores(place, 'recipe.yaml', '--model', 'net.onnx')
    surrounded(Path('full.onnx'), street_keys('streets'), True, True, False)
    assert scores(place, 'recipe.yaml', '--model', 'full.onnx')['mIoU'] == pytest.approx(expected['mIoU'], abs=APART)
    assert twinseg('preprocess', 'full.onnx', 'custom', 'streets', '--config', 'recipe.yaml') == 0
    assert {path.stat().st_size for path in Path('preprocess_Result/00_data').iterdir()} == {SIZE[0] * SIZE[1] * 3}
    engine = OnnxRuntime(Path('full.onnx'))
    Path('result_Files').mkdir()
    for path in Path('preprocess_Result/00_data').iterdir():
        engine(np.fromfile(path, np.uint8).reshape(engine.shape)).tofile(f'result_Files/{path.stem}_0.bin')
    assert twinseg('postprocess', 'full.onnx', '--json', 'found.json') == 0
    found = json.loads(Path('found.json').read_text())
    assert found['mIoU'] == pytest.approx(expected['mIoU'], abs=APART) and found['conditions']['compared_difference'] == 0


@pytest.mark.slow
def test_export_with_preprocessing_and_argmax(street, photo, tmp_path):
    model = street.file(uint8=True, argmax=True)
    same_segmentation(scores(tmp_path, street.recipe, '--model', model), street.expected(tmp_path))
    photo.file(uint8=True)
    words = ['--model', photo.file(uint8=True), '--set', f'data_url={photo.keys["data_url"]}']
    same_classification(scores(tmp_path, *words), photo.expected(tmp_path))


def drawn_facts(**changes) -> dict[str, str]:
    facts = {
        'num_classes': tiny.CLASSES,
        'mean': [100, 110, 120],
        'std': [50, 60, 70],
        'input_size': [16, 24],
        'align_corners': False,
        'input': 'uint8',
        'output': 'class_ids',
        **changes,
    }
    return {'arch': 'tiny', **{key: json.dumps(value) for key, value in facts.items()}}


@pytest.mark.parametrize(
    'options',
    [{}, {'output': 'logits', 'dynamic': True}, {'input': 'float32', 'align_corners': True}, {'align_corners': None}],
    ids=['both', 'uint8, any size', 'argmax', 'of a classifier'],
)
def test_mindir_with_preprocessing_and_argmax(options, tmp_path):
    """The export compares the file with the network; here once more with the two steps in numpy."""
    pytest.importorskip('mindspore')
    backend, facts = get_backend('mindspore'), drawn_facts(**{k: v for k, v in options.items() if k != 'dynamic'})
    backend.setup('cpu', threads=1)
    network = (tiny.tiny_classifier if options == {'align_corners': None} else tiny.tiny_network)('mindspore')
    specification = FileSpecification((1, 3, 16, 24), options.get('dynamic', False), facts)
    export_network(backend, network, tmp_path / 'net.mindir', specification)
    predictor = ExportedNetwork(tmp_path / 'net.mindir')
    image = tiny.batch(1, 1)[0]
    normalised = (image - np.array([100, 110, 120]).reshape(3, 1, 1)) / np.array([50, 60, 70]).reshape(3, 1, 1)
    expected = backend.forward(network, normalised)['logits']
    found = predictor.run(predictor.inputs(predictor.pixels(image)))
    if options.get('output') == 'logits':
        np.testing.assert_allclose(found, expected, atol=1e-4)
        return
    if predictor.metadata.align_corners is not None:
        expected = resize_bilinear(expected, (16, 24), predictor.metadata.align_corners)
    assert found.dtype == np.int32 and (found == expected.argmax(1)).mean() > 0.99


def test_mindir_with_argmax_is_for_one_size(tmp_path):
    pytest.importorskip('mindspore')
    get_backend('mindspore').setup('cpu', threads=1)
    with pytest.raises(UserError, match='--argmax with --dynamic is for ONNX'):
        get_backend('mindspore').write(
            tiny.tiny_network('mindspore'),
            tmp_path / 'net.mindir',
            'mindir',
            shape=(1, 3, 16, 24),
            metadata=drawn_facts(),
            dynamic=True,
        )


# --- scripts/convert_om.sh ----------------------------------------------------------------------------------------------

SOC = ['--soc', 'Ascend310P3']
ATC = """#!/usr/bin/env bash
printf '%s\\n' "$@" > atc.log
for word; do case $word in --output=*) : > "${word#*=}.om" ;; esac; done
"""


def test_the_command_line_of_atc(place):
    done = script('convert_om.sh', 'net.onnx', *SOC, '--dry-run')
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        'atc',
        '--framework=5',
        f'--model={place}/net.onnx',
        f'--output={place}/net',
        '--soc_version=Ascend310P3',
        '--input_format=NCHW',
        '--input_shape=image:1\\,3\\,64\\,96',
        '--precision_mode=allow_fp32_to_fp16',
    ]
    done = script('convert_om.sh', 'net.onnx', *SOC, '--lite', '--dry-run', MS_LITE_HOME='/opt/lite')
    assert done.stdout.split() == [
        '/opt/lite/tools/converter/converter/converter_lite',
        '--fmk=ONNX',
        f'--modelFile={place}/net.onnx',
        f'--outputFile={place}/net_lite',
        '--saveType=MINDIR',
        '--optimize=ascend_oriented:Ascend310P3',
        '--inputShape=image:1\\,3\\,64\\,96',
    ]
    assert not list(place.glob('*.cfg')) and not list(place.glob('*.om'))


def test_atc_runs_with_preprocessing_on_the_chip(place):
    atc = place / 'bin' / 'atc'
    atc.parent.mkdir()
    atc.write_text(ATC)
    atc.chmod(0o755)
    path = f'{atc.parent}{os.pathsep}{os.environ["PATH"]}'
    done = script('convert_om.sh', 'net.onnx', *SOC, '--aipp', '--precision', 'force_fp16', '--out', 'card.om', PATH=path)
    assert done.returncode == 0 and f'wrote {place}/card.om' in done.stderr, done.stderr
    words = Path('atc.log').read_text().splitlines()
    assert f'--insert_op_conf={place}/card.aipp.cfg' in words and '--precision_mode=force_fp16' in words
    lines = dict(line.strip().split(': ') for line in Path('card.aipp.cfg').read_text().splitlines()[1:-1])
    assert lines['src_image_size_w'] == '96' and lines['input_format'] == 'RGB888_U8'
    for channel, (mean, std) in enumerate(((100, 50), (110, 60), (120, 70))):
        assert lines[f'mean_chn_{channel}'] == '0' and float(lines[f'min_chn_{channel}']) == mean
        assert float(lines[f'var_reci_chn_{channel}']) == pytest.approx(1 / std, rel=1e-6)
    assert script('convert_om.sh', 'net.onnx', *SOC, '--out', 'card.om', PATH=path).returncode == 0
    assert not Path('card.aipp.cfg').exists()  # it would speak of another file


BAD_CONVERSIONS: list[tuple[list[str], str]] = [
    ([], 'usage: bash scripts/convert_om.sh'),
    (['net.onnx', 'photo.onnx', *SOC], 'usage:'),
    (['net.onnx', '--fast'], 'usage:'),
    (['absent.onnx', *SOC], 'absent.onnx: no such file'),
    (['recipe.yaml', *SOC], 'expected an .onnx'),
    (['net.onnx'], 'expected a chip such as Ascend310P3'),
    (['net.onnx', '--soc'], '--soc: no value'),
    (['net.onnx', '--soc', '310 P'], 'expected a chip'),
    (['net.onnx', *SOC, '--precision', 'int8'], '--precision int8'),
    (['net.onnx', *SOC, '--aipp', '--lite'], '--aipp is for ATC'),
    (['net.onnx', *SOC, '--out', 'net.mindir'], 'with .om'),
    (['net.onnx', *SOC, '--out', 'absent/net.om'], 'no such folder'),
    (['net.onnx', *SOC], 'atc is not here: source the set_env.sh of the CANN toolkit first'),
    (['net.onnx', *SOC, '--lite'], 'converter_lite is not here: set MS_LITE_HOME'),
    (['any.onnx', *SOC, '--dry-run'], 'cards take fixed ones'),
]


def test_conversions_that_will_not_do(place):
    drawn_model(Path('any.onnx'), street_keys('streets'), batch='batch')
    before = sorted(place.rglob('*'))
    for words, message in BAD_CONVERSIONS:
        done = script('convert_om.sh', *words)
        assert done.returncode == 2 and message in done.stderr, (words, done.stderr)
    assert sorted(place.rglob('*')) == before


# --- int8 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, words, figure', [('net', ['recipe.yaml'], 'mIoU'), ('photo', ['--set', 'data_url=photos'], 'top1')]
)
def test_int8_says_what_it_costs(place, name, words, figure):
    source = f'{name}.onnx'
    assert twinseg('quantize', source, *words, '--images', '3', '--json', 'found.json') == 0
    found = json.loads(Path('found.json').read_text())
    path = Path(f'{name}_int8.onnx')
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert {'QuantizeLinear', 'DequantizeLinear'} <= {node.op_type for node in model.graph.node}
    kinds = {item.dims[0]: item.data_type for item in model.graph.initializer if len(item.dims) == 4}
    assert kinds == {CLASSES: TensorProto.INT8}
    assert OnnxRuntime(path).metadata == OnnxRuntime(Path(source)).metadata
    image = np.random.default_rng(0).standard_normal((1, 3, *(SIZE if name == 'net' else (32, 32))), np.float32)
    logits = [engine(path)(image) for engine in (OnnxRuntime, OpenVino)]
    assert np.abs(logits[0] - logits[1]).mean() < 0.05 * np.abs(logits[0]).max()
    for kind, file in (('float32', source), ('int8', path)):
        assert (
            scores(place, *(words if words[0] != '--set' else []), '--model', file, *(words if words[0] == '--set' else []))[
                figure
            ]
            == found[kind][figure]
        )
    assert found[f'{figure} lost'] == pytest.approx(found['float32'][figure] - found['int8'][figure], abs=1e-3)
    assert abs(found[f'{figure} lost']) < 20
    assert not [path for path in place.iterdir() if path.name.startswith('.')]


@pytest.mark.parametrize(
    'words, message',
    [
        (['net.onnx', 'recipe.yaml', '--out', 'net.onnx'], 'the model itself'),
        (['net.onnx', 'recipe.yaml', '--out', 'net.om'], 'int8 is for ONNX'),
        (['absent.onnx'], 'absent.onnx: no such file'),
        (['int8.onnx', 'recipe.yaml'], 'is quantised already'),
    ],
)
def test_what_cannot_be_quantised(place, words, message, capsys):
    model = onnx.load('net.onnx')
    model.graph.node.extend([helper.make_node('QuantizeLinear', ['logits', 'scale'], ['rounded'])])
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), 'scale'))
    onnx.save(model, 'int8.onnx')
    before = Path('net.onnx').read_bytes()
    assert twinseg('quantize', *words) == 2
    assert message in capsys.readouterr().err and Path('net.onnx').read_bytes() == before
    assert sorted(path.name for path in place.glob('*.on*')) == ['int8.onnx', 'net.onnx', 'photo.onnx']


def test_a_file_whose_input_has_another_name_is_quantised(place):
    model = onnx.load('net.onnx')
    model.graph.input[0].name = 'pixels'
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == 'image':
                node.input[index] = 'pixels'
    onnx.save(model, 'other.onnx')
    assert twinseg('quantize', 'other.onnx', 'recipe.yaml', '--images', '2') == 0
    assert OnnxRuntime(Path('other_int8.onnx')).input == 'pixels'


def test_a_quantiser_that_fails_is_one_line(place, monkeypatch, capsys):
    from onnxruntime import quantization

    def fail(*_, **__):
        raise ValueError('no\nsuch scale')

    monkeypatch.setattr(quantization, 'quantize_static', fail)
    assert twinseg('quantize', 'net.onnx', 'recipe.yaml') == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == 'twinseg: error: net.onnx: ONNX Runtime cannot quantise it: no'
    assert not Path('net_int8.onnx').exists()


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Input and output under the names that another converter gives."""
    names = {'image': 'pixel_values', 'logits': 'output_0'}
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    for end in (*model.graph.input, *model.graph.output):
        end.name = names[end.name]
    return model


def in_half(model: onnx.ModelProto, keep_io_types: bool) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=keep_io_types)


def optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """By ONNX Runtime, written after what it does for every machine: constants folded, nodes fused."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = 'optimised.onnx'
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return onnx.load('optimised.onnx')


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """As onnxsim and onnx-simplifier leave it: every value in between has another name, weights are also inputs or constants of
    nodes, shapes are inferred, and what the exporter said of the file is lost, but for what TwinSeg said."""
    from onnx import shape_inference

    ends = {end.name for end in (*model.graph.input, *model.graph.output)}
    names = {name: name if name in ends else f'onnx::{index}' for index, name in enumerate(_values(model))}
    for node in model.graph.node:
        node.name = ''
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for weight in model.graph.initializer:
        weight.name = names[weight.name]
    constant = helper.make_node('Constant', [], [model.graph.initializer[0].name], value=model.graph.initializer[0])
    del model.graph.initializer[0]
    model.graph.node.insert(0, constant)
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    model.producer_name = model.producer_version = model.graph.name = ''
    return shape_inference.infer_shapes(model)


def _values(model: onnx.ModelProto) -> list[str]:
    weights = [weight.name for weight in model.graph.initializer]
    return list(dict.fromkeys([*weights, *(name for node in model.graph.node for name in (*node.input, *node.output))]))


SECOND_HAND = {  # what somebody made of a file -> the status of quantize, and what it says
    'float16': (lambda model: in_half(model, False), 2, 'its weights are float16 numbers (first mean)'),
    'float16 between float32': (lambda model: in_half(model, True), 2, 'its weights are float16 numbers (first mean)'),
    'renamed': (renamed, 0, 'mIoU lost'),
    'optimised': (optimised, 0, 'mIoU lost'),
    'simplified': (simplified, 0, 'mIoU lost'),
    'a batch of two': (lambda model: drawn_of(2), 0, 'mIoU lost'),
}


def drawn_of(batch: int) -> onnx.ModelProto:
    return onnx.load(str(drawn_model(Path('batched.onnx'), street_keys('streets'), batch=batch)))


@pytest.mark.parametrize('case', SECOND_HAND)
def test_files_that_came_through_other_hands(place, case, capsys):
    change, status, said = SECOND_HAND[case]
    expected = scores(place, 'recipe.yaml', '--model', 'net.onnx')
    onnx.save(change(onnx.load('net.onnx')), 'other.onnx')
    found = scores(place, 'recipe.yaml', '--model', 'other.onnx')
    assert found['mIoU'] == pytest.approx(expected['mIoU'], abs=0.5)
    assert twinseg('predict', '--model', 'other.onnx', 'streets/images/val/000.png', '--out', 'predicted') == 0
    assert twinseg('quantize', 'other.onnx', 'recipe.yaml', '--images', '2') == status
    assert said in ''.join(capsys.readouterr())
    assert twinseg('preprocess', 'other.onnx', 'custom', 'streets', '--config', 'recipe.yaml') == 0
    kind = np.float16 if case == 'float16' else np.float32
    inputs = sorted(Path('preprocess_Result/00_data').iterdir())
    assert all(path.stat().st_size == 3 * 64 * 96 * kind(0).itemsize for path in inputs)
    engine = OnnxRuntime(Path('other.onnx'))
    batch = engine.shape[0]
    Path('result_Files').mkdir()
    for first in range(0, len(inputs), batch):
        paths = inputs[first : first + batch]
        images = [np.fromfile(path, kind).reshape(engine.shape[1:]) for path in paths]
        results = engine(np.stack([*images, *[images[-1]] * (batch - len(images))]))
        for path, result in zip(paths, results):
            result.astype(np.float16 if 'float16' in case else np.float32).tofile(f'result_Files/{path.stem}_0.bin')
    assert twinseg('postprocess', 'other.onnx', '--json', 'found.json') == 0
    assert json.loads(Path('found.json').read_text())['confusion'] == found['confusion']
    shown = script('convert_om.sh', 'other.onnx', *SOC, '--dry-run').stdout
    assert f'--input_shape={"pixel_values" if case == "renamed" else "image"}:{batch}\\,3\\,64\\,96' in shown


@pytest.mark.slow
@pytest.mark.parametrize('case', SECOND_HAND)
def test_the_program_takes_files_that_came_through_other_hands(place, program, case):
    """The whole of run_infer_310.sh: inputs and results of half precision, too."""
    onnx.save(SECOND_HAND[case][0](onnx.load('net.onnx')), 'other.onnx')
    done = script('run_infer_310.sh', 'other.onnx', 'custom', 'streets', CONFIG='recipe.yaml', PRECISION='fp16', OUT=program)
    assert done.returncode == 0 and 'NN inference cost average time' in done.stdout, done.stderr
    found = json.loads(Path('infer_310/result.json').read_text())
    assert found['mIoU'] == pytest.approx(scores(place, 'recipe.yaml', '--model', 'other.onnx')['mIoU'], abs=0.5)
