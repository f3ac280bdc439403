"""Exported files on data sets: the scores of the checkpoint that they came from, without a framework."""
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from common import cli
from common.export import export_checkpoint
from tests import photos, streets
from tests.checkpoints import CLASSES, SIZE, write

ROOT = Path(__file__).parent.parent
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
            export_checkpoint(None, 'pytorch', 'cpu', self.checkpoint, path.suffix[1:], path, **options)  # type: ignore
            self._files[key] = path
        return self._files[key]

    def expected(self, folder: Path, *words) -> dict:
        return scores(folder, '--checkpoint', self.checkpoint, '--backend', 'pytorch', *words)


@pytest.fixture(scope='module')
def street(tmp_path_factory) -> Task:
    pytest.importorskip('torch')
    folder = tmp_path_factory.mktemp('street')
    data = streets.make(folder / 'data', count=5, size=SIZE)
    names = [f'class {i}' for i in range(CLASSES)]
    return Task(folder, 'fast_scnn', {'set': 'custom', 'data_url': str(data), 'image_dir': 'images/{split}',
                                      'label_dir': 'labels/{split}', 'image_suffix': '.png', 'classes': names})


@pytest.fixture(scope='module')
def photo(tmp_path_factory) -> Task:
    pytest.importorskip('torch')
    folder = tmp_path_factory.mktemp('photo')
    data = photos.make(folder / 'data', train=1)
    return Task(folder, 'resnet18', {'set': 'image_folder', 'data_url': str(data), 'image_size': [32, 32],
                                     'crop_size': [512, 1024], 'eval_batch_size': 4, 'crop_pct': 0.8})


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
    for words in ((), ('--slide',), ('--ms-flip',), ('--boundary',)):
        found = scores(tmp_path, street.recipe, '--model', street.file(dynamic=True), *words)
        same_segmentation(found, street.expected(tmp_path, *words))


HIDDEN = """
import sys
from common import cli
for name in ('torch', 'mindspore'):
    sys.modules[name] = None
sys.exit(cli.main(sys.argv[1:]))
"""


def test_no_framework_is_needed(street, tmp_path):
    done = subprocess.run([sys.executable, '-c', HIDDEN, 'eval', str(street.recipe), '--model', str(street.file())], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0 and 'mIoU' in done.stdout, done.stderr


BAD = {
    'no network': ([], 'give the network'),
    'two networks': (['--model', 'net.onnx', '--checkpoint', 'a.safetensors'], 'give the network'),
    'absent': (['--model', 'absent.onnx'], 'absent.onnx: no such file'),
    'other suffix': (['--model', 'net.om'], 'cannot run .om on the host'),
    'other engine': (['--model', 'net.onnx', '--engine', 'mindspore'], 'choose onnxruntime or openvino'),
    'multi-scale': (['--model', 'net.onnx', '--ms-flip'], 'made for images of 64x96 only; export it again with --dynamic'),
    'no data': (['--model', 'net.onnx'], 'no folder for custom: set data_url'),
    'other task': (['fast_scnn_camvid-360x480', '--model', 'photo.onnx'], 'set: camvid is not for classification'),
    'no facts': (['--model', 'bare.onnx'], 'expected a file of `twinseg export`'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_requests_are_refused(street, photo, case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, path in {'net.onnx': street.file(), 'photo.onnx': photo.file()}.items():
        Path(name).write_bytes(path.read_bytes())
    Path('net.om').write_bytes(b'')
    model = onnx.load('net.onnx')
    del model.metadata_props[:]
    onnx.save(model, 'bare.onnx')
    words, message = BAD[case]
    assert twinseg('eval', *words) == 2
    assert message in capsys.readouterr().err
