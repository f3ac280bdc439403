"""Prediction: images of any size and kind, folders and videos, from checkpoints and from exported files."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import twinseg
from tests.support.checkpoints import CLASSES, SIZE, write
from twinseg.common import checkpoint as checkpoints
from twinseg.common.cli import main
from twinseg.common.data.classes import CITYSCAPES_PALETTE
from twinseg.common.deploy.export import ExportOptions, export_checkpoint
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.drawing import blend, overlay, shares
from twinseg.common.errors import UserError
from twinseg.common.inference.predict import input_files, predict
from twinseg.common.inference.runs import load_run
from twinseg.common.tasks.base import SMALLEST

SIZES = [SIZE, (1, 1), (20, 30), (31, 200), (97, 61), (64, 33)]
DIFFERENT = 1e-3  # share of the pixels that an exported file may give another class
PALETTE = np.array(CITYSCAPES_PALETTE[:CLASSES], np.uint8)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    pytest.importorskip('torch')
    return write(tmp_path_factory.mktemp('checkpoint'), 'pytorch', 'fast_scnn')


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Coloured blobs, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def saved(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(size, seed)).save(path)
    return path


def run(checkpoint, inputs, out, logits=None) -> list[Path]:
    """From a checkpoint or an exported file."""
    exported = checkpoint.suffix == '.onnx'
    network = ExportedNetwork(checkpoint) if exported else load_run(checkpoint, 'pytorch', 'cpu')
    return predict(network.trained(), input_files(inputs), out, logits)


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


@pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[0]}x{size[1]}')
def test_ids_have_the_images_size_and_the_overlay_a_legend(size, checkpoint, tmp_path):
    overlay_path, ids_path = run(checkpoint, [saved(tmp_path / 'a.png', size)], tmp_path / 'out')
    assert (overlay_path.name, ids_path.name) == ('a_overlay.png', 'a_ids.png')
    ids, drawn = read(ids_path), read(overlay_path)
    assert ids.shape == size and ids.dtype == np.uint8 and ids.max() < CLASSES
    factor = drawn.shape[1] // size[1]
    assert drawn.shape[1] == factor * size[1] >= 320
    legend = drawn[factor * size[0] :]
    swatches = {i for i in range(CLASSES) if (legend == PALETTE[i]).all(-1).sum() > 100}
    assert swatches == set(np.unique(ids)) == set(shares(ids, CLASSES))


@pytest.mark.parametrize('size', [(97, 61), (20, 200)])
def test_ids_are_the_argmax_of_the_logits(size, checkpoint, tmp_path):
    files = run(checkpoint, [saved(tmp_path / 'a.png', size)], tmp_path / 'out', logits=tmp_path / 'new' / 'raw.npy')
    assert files[-1] == tmp_path / 'new' / 'raw.npy'
    logits, ids = np.load(files[-1]), read(files[1])
    height, width = (max(SMALLEST, side) for side in size)
    assert logits.dtype == np.float32 and logits.shape[:2] == (1, CLASSES) and logits.shape[2:] < (height, width)
    large = np.stack([cv2.resize(plane, (width, height)) for plane in logits[0]]).argmax(0)[: size[0], : size[1]]
    assert (large == ids).mean() > 0.9  # interpolated differently at the edges


def test_backends_predict_the_same(tmp_path):
    """A checkpoint of one backend runs in the other."""
    pytest.importorskip('torch'), pytest.importorskip('mindspore')
    checkpoint, image = write(tmp_path, 'pytorch', 'fast_scnn'), saved(tmp_path / 'a.png', (37, 61))
    ids = {
        name: read(predict(load_run(checkpoint, name, 'cpu').trained(), [image], tmp_path / name)[1])
        for name in ('pytorch', 'mindspore')
    }
    assert (ids['pytorch'] != ids['mindspore']).mean() <= DIFFERENT


def test_folders_grey_and_transparent_images(checkpoint, tmp_path):
    saved(tmp_path / 'in' / 'a.png')
    saved(tmp_path / 'in' / 'b.JPG', (50, 40))
    Image.fromarray(picture(SIZE)[..., 0]).save(tmp_path / 'in' / 'grey.png')
    Image.fromarray(picture(SIZE)).convert('RGBA').save(tmp_path / 'in' / 'transparent.png')
    (tmp_path / 'in' / 'notes.txt').write_text('not an image')
    files = run(checkpoint, [tmp_path / 'in'], tmp_path / 'out')
    assert {path.name for path in files} == {
        f'{stem}_{kind}.png' for stem in ('a', 'b', 'grey', 'transparent') for kind in ('overlay', 'ids')
    }
    assert sorted(files) == sorted((tmp_path / 'out').iterdir())
    np.testing.assert_array_equal(read(tmp_path / 'out' / 'a_ids.png'), read(tmp_path / 'out' / 'transparent_ids.png'))


def test_video(checkpoint, tmp_path):
    path, rate = tmp_path / 'drive.mp4', 12.0
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), rate, SIZE[::-1])
    for seed in range(3):
        writer.write(picture(SIZE, seed))
    writer.release()
    assert run(checkpoint, [path], tmp_path / 'out') == [tmp_path / 'out' / 'drive_overlay.mp4']
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['drive_overlay.mp4']
    video = cv2.VideoCapture(str(tmp_path / 'out' / 'drive_overlay.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == rate
    frames = []
    while (found := video.read())[0]:
        frames.append(found[1])
    assert len(frames) == 3 and frames[0].shape[1] >= 320 and frames[0].shape[0] > frames[0].shape[1] * SIZE[0] // SIZE[1]


def test_exported_files_predict_what_the_checkpoint_does(checkpoint, tmp_path):
    sizes = {'exact': SIZE, 'odd': (97, 61), 'small': (20, 30)}
    images = [saved(tmp_path / f'{name}.png', size) for name, size in sizes.items()]
    expected = [read(path) for path in run(checkpoint, images, tmp_path / 'expected')[1::2]]
    for dynamic, same in ((False, 1), (True, 3)):  # a file for one size scales other images to it
        model = tmp_path / f'dynamic_{dynamic}.onnx'
        export_checkpoint(checkpoint, model, 'onnx', ExportOptions(dynamic=dynamic), backend_name='pytorch', device='cpu')
        files = run(model, images, tmp_path / model.stem)
        found = [read(path) for path in files[1::2]]
        np.testing.assert_array_equal(twinseg.load(model).predict(images[0]).mask, found[0])
        assert [ids.shape for ids in found] == [ids.shape for ids in expected]
        for ours, theirs in list(zip(found, expected))[:same]:
            assert (ours != theirs).mean() <= DIFFERENT
        assert (read(files[0])[SIZE[0] :] == read(tmp_path / 'expected' / 'exact_overlay.png')[SIZE[0] :]).mean() > 0.99


def test_a_network_without_class_names_has_numbered_classes(checkpoint, tmp_path):
    tensors, meta = checkpoints.load(checkpoint)
    nameless, model, image = tmp_path / 'nameless.safetensors', tmp_path / 'net.onnx', saved(tmp_path / 'a.png')
    checkpoints.save(nameless, tensors, meta.model_copy(update={'classes': [], 'palette': []}))
    export_checkpoint(nameless, model, 'onnx', backend_name='pytorch', device='cpu')
    ours, theirs = run(nameless, [image], tmp_path / 'one'), run(model, [image], tmp_path / 'two')
    legends = [read(files[0])[4 * SIZE[0] :] for files in (ours, theirs)]
    assert legends[0].size and legends[0].shape == legends[1].shape
    assert (legends[0] == legends[1]).mean() > 0.99


def test_overlay_leaves_ignored_pixels_and_colours_the_rest():
    image, ids = picture((40, 40)), np.zeros((40, 40), np.uint8)
    ids[:, 20:] = 1
    ids[:10] = 255
    drawn = blend(image, ids, PALETTE)
    np.testing.assert_array_equal(drawn[:10], image[:10])
    assert np.abs(drawn[30, 5].astype(int) - (image[30, 5] / 2 + PALETTE[0] / 2)).max() <= 1
    assert shares(ids, CLASSES) == {0: 0.5, 1: 0.5}
    everything = overlay(image, ids, [f'a rather long name {i}' for i in range(CLASSES)], PALETTE, all_classes=True)
    assert all((everything == colour).all(-1).any() for colour in PALETTE)


def absent(folder: Path) -> Path:
    return folder / 'absent.png'


def truncated(folder: Path) -> Path:
    path = saved(folder / 'cut.png')
    path.write_bytes(path.read_bytes()[:200])
    return path


def text(folder: Path) -> Path:
    (folder / 'notes.txt').write_text('text')
    return folder / 'notes.txt'


def text_called_image(folder: Path) -> Path:
    (folder / 'notes.png').write_text('text')
    return folder / 'notes.png'


def text_called_video(folder: Path) -> Path:
    (folder / 'notes.mp4').write_text('text' * 100)
    return folder / 'notes.mp4'


def empty_folder(folder: Path) -> Path:
    (folder / 'empty').mkdir()
    return folder / 'empty'


@pytest.mark.parametrize('make', [absent, truncated, text, text_called_image, text_called_video, empty_folder])
def test_what_cannot_be_read_is_named(make, checkpoint, tmp_path):
    path = make(tmp_path)
    with pytest.raises(UserError, match=str(path)):
        run(checkpoint, [path], tmp_path / 'out')
    assert not [file for file in tmp_path.glob('out/*')]


def test_what_cannot_be_written_is_named(checkpoint, tmp_path):
    image, blocked = saved(tmp_path / 'a.png'), tmp_path / 'file'
    blocked.write_text('in the way')
    for out in (blocked, blocked / 'inside'):
        with pytest.raises(UserError, match=f'{blocked}.*cannot be written'):
            run(checkpoint, [image], out)
    with pytest.raises(UserError, match=f'{blocked}.*cannot be written'):
        run(checkpoint, [image], tmp_path / 'out', logits=blocked / 'raw.npy')
    assert blocked.read_text() == 'in the way'


def test_what_makes_no_sense_is_said(checkpoint, tmp_path, capsys):
    one, two = saved(tmp_path / 'a.png'), saved(tmp_path / 'other' / 'a.png')
    with pytest.raises(UserError, match='under one name'):
        run(checkpoint, [one, two], tmp_path / 'out')
    with pytest.raises(UserError, match='logits of one image; given 2'):
        run(checkpoint, [one, saved(tmp_path / 'b.png')], tmp_path / 'out', logits=tmp_path / 'raw.npy')
    with pytest.raises(UserError, match='no such file'):
        run(tmp_path / 'absent.onnx', [one], tmp_path / 'out')
    assert main(['predict', str(one)]) == 2
    assert 'give the network' in capsys.readouterr().err
    assert main(['predict', str(one), '--checkpoint', str(checkpoint), '--engine', 'openvino']) == 2
    assert '--engine openvino: has no effect on a checkpoint' in capsys.readouterr().err
    assert main(['predict', str(tmp_path / 'absent.png'), '--checkpoint', str(tmp_path / 'absent.safetensors')]) == 2
    assert 'absent.png: no such file' in capsys.readouterr().err  # the inputs are looked at before the network


def test_run_folders_hold_their_network(checkpoint, tmp_path):
    folder = tmp_path / 'run' / 'checkpoints'
    folder.mkdir(parents=True)
    (folder / 'best.safetensors').write_bytes(checkpoint.read_bytes())
    ids = read(run(tmp_path / 'run', [saved(tmp_path / 'a.png')], tmp_path / 'out')[1])
    expected = load_run(checkpoint, 'pytorch', 'cpu').predictor.class_ids(picture(SIZE).transpose(2, 0, 1)[None].copy())[0]
    np.testing.assert_array_equal(ids, expected)
