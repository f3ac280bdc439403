"""``twinseg.load``: what it opens, what ``predict`` returns, and that the door opens without a framework."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twinseg
from tests.support.checkpoints import CLASSES, SIZE, write
from twinseg.common.data.classes import CITYSCAPES_CLASSES
from twinseg.common.errors import UserError
from twinseg.common.inference.predict import input_files, predict
from twinseg.common.inference.runs import load_run


@pytest.fixture(scope='module')
def segmenter(tmp_path_factory, backend_name) -> Path:
    return write(tmp_path_factory.mktemp('segmenter'), backend_name, 'fast_scnn')


@pytest.fixture(scope='module')
def classifier(tmp_path_factory, backend_name) -> Path:
    keys = {'set': 'image_folder', 'image_size': [64, 64], 'crop_pct': 1.0}
    return write(tmp_path_factory.mktemp('classifier'), backend_name, 'resnet18', **keys)


def picture(size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def saved(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def test_a_file_and_its_pixels_have_the_mask_of_the_command(segmenter, backend_name, tmp_path):
    """``predict`` from Python and on the command line: one computation, the same files."""
    image, file = picture(), saved(tmp_path / 'street.png', picture())
    model = twinseg.load(segmenter, backend=backend_name, device='cpu')
    by_pixels, by_file = model.predict([image, str(file)])
    written = predict(load_run(segmenter, backend_name, 'cpu').trained(), input_files([file]), tmp_path / 'command')
    assert by_pixels.mask.dtype == np.uint8 and by_pixels.mask.shape == SIZE
    for mask in (by_file.mask, model.predict(file).mask, np.array(Image.open(written[1]))):
        np.testing.assert_array_equal(mask, by_pixels.mask)
    assert by_pixels.classes == CITYSCAPES_CLASSES[:CLASSES]
    saved_files = by_file.save(tmp_path / 'new' / 'folder')
    assert [path.name for path in saved_files] == ['street_overlay.png', 'street_ids.png'] == [path.name for path in written]
    assert [path.read_bytes() for path in saved_files] == [path.read_bytes() for path in written]
    np.testing.assert_array_equal(np.array(Image.open(saved_files[0])), by_pixels.overlay())


def test_a_classifier_names_the_likeliest_classes(classifier, backend_name, tmp_path):
    model = twinseg.load(classifier, backend=backend_name, device='cpu')
    result = model.predict(picture((64, 64)))
    logits = model.logits(picture((64, 64)))[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [guess.index for guess in result.classes] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([guess.probability for guess in result.classes], np.sort(expected)[::-1], rtol=1e-6)
    assert {guess.name for guess in result.classes} == {f'class {number}' for number in range(CLASSES)}
    (file,) = result.save(tmp_path)
    assert file.name == 'image_classes.json' and json.loads(file.read_text()) == result.to_json()


def test_a_run_folder_is_opened_by_the_backend_that_trained_it(segmenter, backend_name, tmp_path, monkeypatch):
    """... if it is installed, else by the one that is."""
    folder = tmp_path / 'run' / 'checkpoints'
    folder.mkdir(parents=True)
    (folder / 'best.safetensors').write_bytes(segmenter.read_bytes())
    opened = []
    monkeypatch.setattr('twinseg.common.inference.runs.get_backend', lambda name: opened.append(name) or exit())
    for installed in (['pytorch', 'mindspore'], ['pytorch'], ['mindspore']):
        monkeypatch.setattr('twinseg.common.backend.available', lambda installed=installed: installed)
        with pytest.raises(SystemExit):
            twinseg.load(tmp_path / 'run')
    assert opened == [backend_name, 'pytorch', 'mindspore']


def test_what_an_opened_file_does_not_use_is_refused(tmp_path):
    with pytest.raises(UserError, match="backend: 'pytorch' is not for .*an exported file, which an engine runs"):
        twinseg.load(tmp_path / 'net.onnx', backend='pytorch')
    with pytest.raises(UserError, match="engine: 'mindspore' is not for .*no exported file; choose onnxruntime or openvino"):
        twinseg.load(tmp_path / 'net.safetensors', engine='mindspore')


@pytest.mark.parametrize(
    'image, said',
    [
        (np.zeros((3, 64, 96), np.uint8), r'uint8 \(3, 64, 96\); expected .*\(H, W, 3\)'),
        (np.zeros((64, 96, 3), np.float32), 'float32'),
        (np.zeros((0, 96, 3), np.uint8), r'\(0, 96, 3\)'),
        (np.zeros((64, 96), np.uint8), r'\(64, 96\)'),
        (None, 'NoneType'),
        ('absent.png', 'absent.png'),
    ],
)
def test_what_is_no_image_is_refused(segmenter, backend_name, image, said):
    model = twinseg.load(segmenter, backend=backend_name, device='cpu')
    with pytest.raises(UserError, match=said):
        model.predict([image])


def test_what_is_no_network_is_refused(tmp_path):
    for name in ('absent.safetensors', 'absent.onnx', 'absent'):
        with pytest.raises(UserError, match=name):
            twinseg.load(tmp_path / name)


def test_the_door_is_lazy_and_has_what_it_names():
    program = (
        'import sys, twinseg\n'
        'heavy = {"numpy", "torch", "mindspore", "pydantic", "yaml", "cv2"} & set(sys.modules)\n'
        'assert not heavy, heavy\n'
        'assert twinseg.__version__.count(".") == 2 and set(twinseg.__all__) <= set(dir(twinseg))\n'
        'assert not {"torch", "mindspore"} & set(sys.modules)\n'
        'from twinseg import get_backend, load, weights\n'
        'assert weights.read and weights.convert and load and get_backend\n'
        'assert not {"torch", "mindspore"} & set(sys.modules)\n'
        'assert not hasattr(twinseg, "lod")\n'
    )
    subprocess.run([sys.executable, '-c', program], check=True)
