"""Prediction: images of any size and kind, folders and videos, from checkpoints and from exported files."""

import json
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import twinseg
from tests.conftest import operator_by_operator
from tests.support.checkpoints import CLASSES, SIZE, write
from tests.support.tiny import tiny_network
from twinseg.common import checkpoint as checkpoints
from twinseg.common import tasks
from twinseg.common.backend import get_backend
from twinseg.common.cli import main
from twinseg.common.config import Config, override
from twinseg.common.data.classes import CITYSCAPES_PALETTE
from twinseg.common.deploy.export import ExportOptions, export_checkpoint
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.errors import PartialError, UserError
from twinseg.common.images import drawing
from twinseg.common.images.drawing import blend, overlay, shares
from twinseg.common.inference.predict import input_files, predict
from twinseg.common.inference.runs import load_run, stored_config
from twinseg.common.inference.views import as_published
from twinseg.common.tasks import tiles
from twinseg.common.tasks.base import SMALLEST, EvalOptions, TrainedNetwork

SIZES = [SIZE, (1, 1), (20, 30), (31, 200), (97, 61), (64, 33)]
SHIPPED = Path(__file__).parents[2] / 'weights' / 'fast_scnn_camvid.safetensors'
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
        name: read(predict(load_run(checkpoint, name, 'cpu').trained(), input_files([image]), tmp_path / name)[1])
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
    written = [tmp_path / 'out' / f'drive_{kind}.mp4' for kind in ('overlay', 'mask')]
    assert run(checkpoint, [path], tmp_path / 'out') == written and set((tmp_path / 'out').iterdir()) == set(written)
    video = cv2.VideoCapture(str(tmp_path / 'out' / 'drive_overlay.mp4'))
    assert video.get(cv2.CAP_PROP_FPS) == rate
    frames = []
    while (found := video.read())[0]:
        frames.append(found[1])
    assert len(frames) == 3 and frames[0].shape[1] >= 320 and frames[0].shape[0] > frames[0].shape[1] * SIZE[0] // SIZE[1]


@pytest.fixture(scope='module')
def exported(checkpoint) -> dict[bool, Path]:
    """Files for one size, and for any."""
    models = {dynamic: checkpoint.parent / f'dynamic_{dynamic}.onnx' for dynamic in (False, True)}
    for dynamic, model in models.items():
        export_checkpoint(checkpoint, model, 'onnx', ExportOptions(dynamic=dynamic), backend_name='pytorch', device='cpu')
    return models


def test_exported_files_predict_what_the_checkpoint_does(checkpoint, exported, tmp_path):
    sizes = {'exact': SIZE, 'odd': (97, 61), 'small': (20, 30)}
    images = [saved(tmp_path / f'{name}.png', size) for name, size in sizes.items()]
    expected = [read(path) for path in run(checkpoint, images, tmp_path / 'expected')[1::2]]
    for dynamic, same in ((False, 1), (True, 3)):  # a file for one size scales other images to it
        model = exported[dynamic]
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


def test_a_long_strip_is_drawn_in_the_memory_of_its_pixels(monkeypatch):
    """With white beside it for a legend, 30 x 16,777,236 pixels took 20 GB."""
    monkeypatch.setattr(drawing, 'MAX_ENLARGED', 1)
    monkeypatch.setattr(drawing, 'MAX_WIDENED', 320 * 1000)
    image, ids = picture((1001, 3)), np.zeros((1001, 3), np.uint8)
    assert overlay(image, ids, ['a'], PALETTE[:1]).shape == image.shape
    assert overlay(image[:1000], ids[:1000], ['a'], PALETTE[:1]).shape[1] == 320


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
    assert not (tmp_path / 'out').exists()


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
    one = saved(tmp_path / 'a.png')
    with pytest.raises(UserError, match='logits of one image; given 2'):
        run(checkpoint, [one, saved(tmp_path / 'b.png')], tmp_path / 'out', logits=tmp_path / 'raw.npy')
    with pytest.raises(UserError, match='no such file'):
        run(tmp_path / 'absent.onnx', [one], tmp_path / 'out')
    assert main(['predict', str(one)]) == 2
    assert 'give the network' in capsys.readouterr().err
    for words, said in (
        (['--engine', 'mindspore'], '--engine mindspore: runs .mindir files; of a checkpoint give --backend mindspore'),
        (['--engine', 'openvino', '--device', 'gpu'], '--engine openvino: runs on the CPU, not on --device gpu'),
    ):
        assert main(['predict', str(one), '--checkpoint', str(checkpoint), *words]) == 2
        assert said in capsys.readouterr().err
    assert main(['predict', str(tmp_path / 'absent.png'), '--checkpoint', str(tmp_path / 'absent.safetensors')]) == 2
    assert 'absent.png: no such file' in capsys.readouterr().err  # the inputs are looked at before the network


@pytest.mark.parametrize('engine', [pytest.param('onnxruntime', marks=pytest.mark.slow), 'openvino'])
def test_an_engine_runs_a_checkpoint(engine, checkpoint, tmp_path):
    pytest.importorskip(engine)
    sizes = [SIZE, (20, 130)]
    images = [str(saved(tmp_path / f'{number}.png', size, number)) for number, size in enumerate(sizes)]
    for out, words in (('plain', []), ('engine', ['--engine', engine])):
        assert main(['predict', *images, '--checkpoint', str(checkpoint), '--out', str(tmp_path / out), *words]) == 0
    for number, size in enumerate(sizes):
        plain, fast = (read(tmp_path / out / f'{number}_ids.png') for out in ('plain', 'engine'))
        assert plain.shape == fast.shape == size and (plain != fast).mean() <= DIFFERENT


def test_a_prediction_that_cannot_be_written_ends_the_work(checkpoint, tmp_path):
    """It is written while the next image is predicted, and by the end of the work at the latest."""
    for names in (['a'], ['a', 'b', 'c']):
        out = tmp_path / f'out{len(names)}'
        (out / 'a_ids.png').mkdir(parents=True)  # in the way
        with pytest.raises(UserError, match='a_ids.png: cannot be written'):
            run(checkpoint, [saved(tmp_path / f'{name}.png') for name in names], out)


def test_run_folders_hold_their_network(checkpoint, tmp_path):
    folder = tmp_path / 'run' / 'checkpoints'
    folder.mkdir(parents=True)
    (folder / 'best.safetensors').write_bytes(checkpoint.read_bytes())
    ids = read(run(tmp_path / 'run', [saved(tmp_path / 'a.png')], tmp_path / 'out')[1])
    expected = load_run(checkpoint, 'pytorch', 'cpu').predictor.class_ids(picture(SIZE).transpose(2, 0, 1)[None].copy())[0]
    np.testing.assert_array_equal(ids, expected)


# What people have


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(files: list[str], inputs: list[str], out: str = 'o') -> dict[str, str]:
    """What files of the current folder are called when some inputs are predicted."""
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    return {str(file.path): file.name for file in input_files(list(map(Path, inputs)), Path(out))}


@pytest.mark.parametrize(
    'inputs, expected',
    [
        (['in/a/x.jpg', 'in/a/b/x.jpg', 'in/y.PNG'], ['a/x', 'a/b/x', 'y']),
        (['in/x.jpg', 'in/x.png', 'in/z.tif'], ['x.jpg', 'x.png', 'z']),
        (['in/x.jpg', 'in/x.png', 'in/x.jpg.png'], ['x.jpg', 'x.png', 'x.jpg.png']),
        (['in/x.jpg', 'in/x.mp4', 'in/c/x.mp4'], ['x.jpg', 'x.mp4', 'c/x']),
        (['in/._x.jpg', 'in/.h/x.jpg', 'in/.ipynb_checkpoints/x.jpg', 'in/x.jpg'], [None, None, None, 'x']),
    ],
)
def test_a_folder_s_tree_is_kept(folder, inputs, expected):
    assert names(inputs, ['in']) == {path: name for path, name in zip(inputs, expected) if name}


@pytest.mark.parametrize(
    'inputs, expected',
    [
        (['a/x.jpg', 'b/x.jpg'], ['a/x', 'b/x']),
        (['a/i/x.jpg', 'b/i/x.jpg', 'b/y.jpg'], ['a/i/x', 'b/i/x', 'y']),
        (['a/x.jpg', 'b/x.png', 'b/x.jpg'], ['a/x', 'x.png', 'b/x']),
        (['a/x.jpg', './a/../a/x.jpg'], ['x']),
        (['./-x.jpg', '../{here}/-x.jpg', 'x.Jpeg'], ['-x', None, 'x']),
    ],
)
def test_equal_names_are_told_apart(folder, inputs, expected):
    inputs = [path.format(here=folder.name) for path in inputs]
    given = names([path for path in inputs if '..' not in path], inputs)
    assert list(given.values()) == [name for name in expected if name]


def test_folders_beside_each_other(folder):
    assert names(['a/d/x.jpg', 'b/d/x.jpg', 'b/y.jpg'], ['a', 'b']) == {
        'a/d/x.jpg': 'a/d/x',
        'b/d/x.jpg': 'b/d/x',
        'b/y.jpg': 'y',
    }
    assert names(['c/one.jpg'], ['c', 'c/one.jpg', 'c']) == {'c/one.jpg': 'one'}


def test_what_is_not_predicted_is_counted_and_named(folder):
    with pytest.warns(
        UserWarning, match=r'^in: not predicted: 2 \.txt \(a/notes\.txt, b\.TXT\), 1 in in/out, where predictions'
    ):
        assert names(['in/x.jpg', 'in/a/notes.txt', 'in/b.TXT', 'in/.hidden', 'in/out/x_ids.png'], ['in'], 'in/out') == {
            'in/x.jpg': 'x'
        }
    with pytest.raises(UserError, match='in/a: no images or videos in it'):
        input_files([Path('in/a')])
    with pytest.raises(UserError, match='in/no.jpg, no: no such file or folder'):
        input_files([Path('in/x.jpg'), Path('in/no.jpg'), Path('no')])


def test_an_input_is_never_written_over(folder):
    with pytest.raises(UserError, match='in/x_ids.png would be written over: it is an input; choose another folder'):
        names(['in/x.jpg', 'in/x_ids.png'], ['in'], 'in')
    assert names([], ['in/x.jpg'], 'in') == {'in/x.jpg': 'x'}


def test_a_broken_file_does_not_end_the_rest(checkpoint, folder, capsys):
    for name in 'acd':
        saved(folder / 'in' / f'{name}.png')
    (folder / 'in' / 'b.jpg').touch()
    command = ['predict', '--checkpoint', str(checkpoint), '--device', 'cpu', '--out', 'o']
    assert main([*command, 'in']) == 1
    said = capsys.readouterr()
    assert said.out.split() == [f'o/{name}_{kind}.png' for name in 'acd' for kind in ('overlay', 'ids')]
    met, end = said.err.splitlines()
    assert met.startswith('twinseg: warning: not predicted: in/b.jpg: not readable as an image')
    assert end.startswith('twinseg: error: 1 of 4 files could not be predicted: in/b.jpg: not readable as an image')
    assert main([*command, 'in/b.jpg']) == 2
    assert capsys.readouterr().err.startswith('twinseg: error: in/b.jpg: not readable as an image')
    (folder / 'in' / 'e.jpg').touch()
    assert main([*command, 'in/b.jpg', 'in/e.jpg']) == 2
    assert '2 of 2 files could not be predicted: in/b.jpg: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    'error',
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")],
    ids=['python', 'torch'],
)
def test_memory_that_is_not_there_ends_one_file(checkpoint, folder, monkeypatch, error):
    network = load_run(checkpoint, 'pytorch', 'cpu').trained()
    actual = network.predictor.class_ids

    def ids(images, size=None):
        if images.shape[3] == 200:
            raise error
        return actual(images, size)

    monkeypatch.setattr(network.predictor, 'class_ids', ids)
    files = input_files([saved(Path('a.png'), (40, 200)), saved(Path('b.png'))])
    with pytest.raises(PartialError, match='1 of 2 .*: a.png: takes more memory than there is'):
        with pytest.warns(UserWarning, match='a.png: takes more memory than there is'):
            predict(network, files, Path('o'))
    assert sorted(os.listdir('o')) == ['b_ids.png', 'b_overlay.png']


def test_a_classifier_takes_folders_of_equal_names(folder, backend_name):
    keys = {'set': 'image_folder', 'image_size': [32, 32], 'crop_pct': 1.0}
    classifier = write(folder, backend_name, 'resnet18', **keys)
    network = load_run(classifier, backend_name, 'cpu').trained()
    model = twinseg.load(classifier, backend_name, device='cpu')
    files = [saved(Path('in') / name / '1.png', (32, 32), seed) for seed, name in enumerate(('cat', 'dog'))]
    Path('in/clip.mp4').touch()
    with pytest.raises(PartialError, match='in/clip.mp4: a video; a classifier takes images'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with operator_by_operator():
            predict(network, input_files([Path('in')]), Path('o'))
    guesses = json.loads(Path('o/predictions.json').read_text())
    assert list(guesses) == list(map(str, files))
    with operator_by_operator():
        assert [guesses[str(file)] for file in files] == [model.predict(file).to_json() for file in files]
    for option in (EvalOptions(slide=True), EvalOptions(ms_flip=True)):
        with pytest.raises(UserError, match='is for segmentation, but .*resnet18.* is not'):
            load_run(classifier, backend_name, 'cpu').trained(option)


# Views


@pytest.mark.parametrize(
    'words, options',
    [
        (['--slide'], EvalOptions(slide=True)),
        (['--ms-flip'], EvalOptions(ms_flip=True)),
        (['--flip'], EvalOptions(flip=True)),
        (['--scales', '0.75,1.25'], EvalOptions(scales=(0.75, 1.25))),
        (['--slide', '--stride', '20x31'], EvalOptions(slide=True, stride=(20, 31))),
    ],
)
def test_views_are_those_of_an_evaluation(words, options, folder):
    pytest.importorskip('torch')
    image, settings = saved(folder / 'a.png', (80, 150)), ['eval_size=null', 'crop_size=[64, 96]']
    plain = load_run(SHIPPED, 'pytorch', 'cpu', override(stored_config(SHIPPED), settings))
    planes = picture((80, 150)).transpose(2, 0, 1)[None].copy()
    expected = as_published(plain.predictor, plain.config, options).class_ids(planes)[0]
    assert (expected != plain.predictor.class_ids(planes)[0]).any()
    command = ['predict', '--checkpoint', str(SHIPPED), '--backend', 'pytorch', '--device', 'cpu', str(image), *words]
    assert main([*command, '--out', 'o', '--set', *settings]) == 0
    np.testing.assert_array_equal(read(folder / 'o' / 'a_ids.png'), expected)


@pytest.mark.parametrize(
    'words, message',
    [
        (['--scales', '1,x'], "--scales '1,x': expected numbers with commas, such as 0.75,1,1.25"),
        (['--scales', '1,99'], '--scales: eval_scales: expected a list of one to 100 numbers above 0 and at most 8'),
        (['--slide', '--stride', '20'], "--stride '20': expected height x width"),
        (['--stride', '20x20'], '--stride: has no effect without --slide'),
        (['--ms-flip', '--scales', '1'], '--scales: --ms-flip has six scales of its own'),
    ],
)
def test_views_that_cannot_be_are_refused(words, message, folder, capsys):
    pytest.importorskip('torch')
    image = saved(folder / 'a.png')
    assert main(['predict', '--checkpoint', str(SHIPPED), '--backend', 'pytorch', '--device', 'cpu', str(image), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('size', [(1, 1), (3, 300), (40, 7)])
def test_views_of_the_smallest_images(size, checkpoint):
    network = load_run(checkpoint, 'pytorch', 'cpu').trained(EvalOptions(ms_flip=True, slide=True))
    assert tasks.of('segmentation').predict_image(network, picture(size), 'a').mask.shape == size


def test_settings_have_no_effect_on_exported_files(folder, capsys):
    words = ['predict', str(saved(folder / 'a.png')), '--model', 'x.onnx', '--set', 'mean=[1.0,2.0,3.0]']
    assert main(words) == 2
    assert '--set: has no effect on an exported file' in capsys.readouterr().err


def test_views_of_exported_files(checkpoint, exported, folder, capsys):
    image, ids = saved(folder / 'a.png', (80, 150)), {}
    for dynamic, model in exported.items():
        for option in ('--slide', '--flip', '--ms-flip', '--scales=0.75'):
            status = main(['predict', '--model', str(model), str(image), option, '--out', f'{dynamic}{option}'])
            assert status == (2 if option in ('--ms-flip', '--scales=0.75') and not dynamic else 0)
            if not status:
                ids[dynamic, option] = read(folder / f'{dynamic}{option}' / 'a_ids.png')
    assert 'made for images of 64x96 only; export it again with --dynamic' in capsys.readouterr().err
    del ids[False, '--flip']  # the file scales images to its size
    for (_, option), found in ids.items():  # windows have the file's size, which is the crop size
        main(['predict', '--checkpoint', str(checkpoint), '--device', 'cpu', str(image), option, '--out', 'expected'])
        assert (found != read(folder / 'expected' / 'a_ids.png')).mean() <= DIFFERENT


# Large images and narrow ones


@pytest.mark.parametrize('side', [1, 100, 2048, 2049, 2111, 2112, 3000, 5000, 15000, 20000])
def test_tiles_cover_an_axis_once_and_overlap(side):
    spans = tiles.spans(side)
    assert [kept for span in spans for kept in span[2:]] == sorted(kept for span in spans for kept in span[2:])
    assert spans[0][2] == 0 and spans[-1][3] == side and all(a[3] == b[2] for a, b in zip(spans, spans[1:]))
    assert len({end - start for start, end, _, _ in spans}) == 1 and spans[-1][1] == side
    for start, end, first, last in spans:
        assert start % tiles.ALIGNED == 0 and 0 <= start <= first < last <= end and end - start < tiles.TILE + tiles.ALIGNED
        assert (start == 0 or first - start >= tiles.MARGIN) and (end == side or end - last >= tiles.MARGIN)


class Constant:
    """A predictor that sees the first class everywhere."""

    def class_ids(self, images, size=None):
        return np.zeros((len(images), *(size or images.shape[2:])), np.uint8)


@pytest.fixture
def small_tiles(monkeypatch):
    for name, value in {'MAX_WHOLE': 20_000, 'TILE': 128, 'MARGIN': 32, 'ALIGNED': 16}.items():
        monkeypatch.setattr(tiles, name, value)


def test_tiles_give_what_the_whole_image_gives(small_tiles, backend_name):
    """... where the network looks no further than the margin: the tiny one sees five pixels."""
    backend = get_backend(backend_name)
    backend.setup('cpu', threads=1)
    config = Config()
    predictor = backend.make_predictor(tiny_network(backend_name), config)
    network = TrainedNetwork('segmentation', predictor, config.augment, SIZE, list('abcde'), PALETTE)
    image = picture((200, 332))
    with operator_by_operator():
        whole = predictor.class_ids(image.transpose(2, 0, 1)[None].copy())[0]
        with pytest.warns(
            UserWarning, match=r'^pano: 332x200 pixels are predicted in 8 overlapping tiles of 140x136(; whole, it)?'
        ):
            ids = tasks.of('segmentation').predict_image(network, image, 'pano').mask
    assert len(np.unique(whole)) > 2
    np.testing.assert_array_equal(ids, whole)


def test_tiles_of_a_video_are_said_once(small_tiles, folder, recwarn):
    """... though the memory that is measured differs from frame to frame."""
    writer = cv2.VideoWriter('a.avi', cv2.VideoWriter.fourcc(*'MJPG'), 5, (200, 200))
    for seed in range(3):
        writer.write(picture((200, 200), seed))
    writer.release()
    network = TrainedNetwork('segmentation', Constant(), Config().augment, SIZE, list('abcde'), PALETTE)
    predict(network, input_files([Path('a.avi')]), folder / 'o')
    assert [str(warning.message).split(' pixels')[0] for warning in recwarn if 'tiles' in str(warning.message)] == [
        'a: 200x200'
    ]


def test_what_scales_images_takes_them_whole(small_tiles, checkpoint, recwarn):
    run = load_run(checkpoint, 'pytorch', 'cpu')
    scaled = run._replace(config=run.config.replace(eval_size=[64, 96])).trained()
    tasks.of('segmentation').predict_image(scaled, picture((200, 333)), 'a')
    assert not [warning for warning in recwarn if 'tiles' in str(warning.message)]


def test_the_memory_of_the_whole_is_said(small_tiles, monkeypatch):
    monkeypatch.setattr(tiles, 'reset_peak_memory', lambda: None)
    peaks = iter([1000.0, 1512.0])
    monkeypatch.setattr(tiles, 'peak_memory', lambda: next(peaks))
    with pytest.warns(UserWarning, match=r'tiles of 128x128; whole, it would take about 8\.0 GB of memory$'):
        tiles.class_ids(lambda part: part[..., 0], picture((512, 512)), 'a')


def test_images_are_larger_than_pillow_s_limit_and_have_one_of_their_own(checkpoint, folder, monkeypatch):
    image = saved(folder / 'a.png', (100, 100))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 4000)
    network = load_run(checkpoint, 'pytorch', 'cpu').trained()
    assert len(predict(network, input_files([image]), folder / 'o')) == 2 and Image.MAX_IMAGE_PIXELS == 4000
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1 << 20)
    monkeypatch.setattr(tiles, 'MAX_PREDICTED', 9999)
    with pytest.raises(UserError, match='100x100 pixels, more than the limit of 9999'):
        predict(network, input_files([image]), folder / 'o')


@pytest.mark.parametrize('size', [(1, 1), (2000, 3), (60_000, 2), (3, 2000)])
def test_pictures_of_narrow_images_stay_small(size):
    drawn = overlay(picture(size), np.zeros(size, np.uint8), [f'class {i}' for i in range(CLASSES)], PALETTE)
    assert drawn.shape[1] >= 320 and drawn.size <= 3 * (max(drawing.MAX_ENLARGED, size[0] * 320) + 320 * 40)


def test_an_image_is_blended_in_strips_as_in_one_piece(monkeypatch):
    image, ids = picture((61, 40)), np.random.default_rng(0).integers(0, 7, (61, 40), np.uint8)
    whole = blend(image, ids, PALETTE)
    monkeypatch.setattr(drawing, 'STRIP', 40 * 8)
    np.testing.assert_array_equal(blend(image, ids, PALETTE), whole)
