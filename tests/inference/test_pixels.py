"""Prediction reads files as training does, and pictures as people see them."""

import numpy as np
import pytest
from PIL import Image

import twinseg
from tests.support.checkpoints import SIZE, write
from twinseg.common.cli import main
from twinseg.common.deploy.export import ExportOptions, export_checkpoint
from twinseg.common.errors import DataError

pytest.importorskip('torch')
STORED = {
    6: lambda a: np.rot90(a),
    3: lambda a: np.rot90(a, 2),
    2: lambda a: a[:, ::-1],
}  # EXIF orientation -> as a camera stores


def picture() -> np.ndarray:
    return np.kron(
        np.random.default_rng(0).integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)
    )


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp('checkpoint'), 'pytorch', 'fast_scnn', white_level=4095.0)


def photo(path, turn: int):
    exif = Image.Exif()
    exif[0x112] = turn
    Image.fromarray(np.ascontiguousarray(STORED[turn](picture()))).save(path, exif=exif)
    return path


@pytest.mark.parametrize('turn', STORED)
def test_a_phones_photo_is_segmented_upright(checkpoint, tmp_path, turn):
    expected = twinseg.load(checkpoint, device='cpu').predict(picture())
    path = photo(tmp_path / 'phone.png', turn)
    assert main(['predict', '--checkpoint', str(checkpoint), str(path), '--out', str(tmp_path / 'out'), '--device', 'cpu']) == 0
    with Image.open(tmp_path / 'out/phone_ids.png') as ids:
        assert np.array_equal(np.array(ids), expected.mask) and not ids.getexif()
    with Image.open(tmp_path / 'out/phone_overlay.png') as overlay:
        assert np.array_equal(np.array(overlay), expected.overlay()) and not overlay.getexif()


def test_so_is_it_classified_by_a_network_of_imagenet(tmp_path):
    path = write(tmp_path, 'pytorch', 'stdc1', set='imagenet', image_size=[64, 64])
    model = twinseg.load(path, device='cpu')
    assert model.predict(photo(tmp_path / 'phone.png', 6)).to_json() == model.predict(picture()).to_json()


def test_the_white_level_of_the_training_is_that_of_the_prediction(checkpoint, tmp_path):
    samples = picture().astype(np.uint16) * 16 + 7
    grey, dark = tmp_path / 'grey.png', tmp_path / 'dark.png'
    Image.fromarray(samples[..., 0]).save(grey)
    Image.fromarray(samples[..., 0] // 16).save(dark)
    levels = np.stack([np.rint(samples[..., 0] * (255 / 4095)).astype(np.uint8)] * 3, -1)
    export_checkpoint(
        checkpoint, tmp_path / 'x.onnx', 'onnx', ExportOptions(dynamic=False), backend_name='pytorch', device='cpu'
    )
    for model in (twinseg.load(checkpoint, device='cpu'), twinseg.load(tmp_path / 'x.onnx')):
        assert np.array_equal(model.predict(grey).mask, model.predict(levels).mask)
    plain = twinseg.load(write(tmp_path, 'pytorch', 'fast_scnn'), device='cpu')
    with pytest.raises(DataError, match='white_level'):
        plain.predict(grey)
