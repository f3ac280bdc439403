"""Evaluation: every pixel counted once at the label's size, averaged views, both backends the same."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support import streets
from tests.support.tiny import batch, tiny_network
from twinseg.common import config
from twinseg.common.backend import Predictor, get_backend
from twinseg.common.cli import main
from twinseg.common.data.open import open_dataset
from twinseg.common.data.protocols import eval_transform
from twinseg.common.data.samples import LabelledImages, loaded_images
from twinseg.common.data.thread_loader import make_loader
from twinseg.common.errors import UserError
from twinseg.common.images.interpolation import resize_bilinear
from twinseg.common.inference import views
from twinseg.common.metrics import confusion_matrix
from twinseg.common.tasks import segmentation
from twinseg.common.tasks.base import SCALES, EvalOptions

PIXELS_APART = 1e-4  # share of the pixels on which the twins may disagree (docs/design.md section 4)


class Bright(Predictor):
    """Stands for a network: class 1 where the red channel is above the middle, else class 0; logits at half size."""

    def logits(self, images, size=None):
        high = images[:, :1] > 127
        logits = 4.0 * np.concatenate([~high, high], 1).astype(np.float32)
        return logits if size in (None, images.shape[2:]) else logits[:, :, ::2, ::2]

    def class_ids(self, images, size=None):
        return self.logits(images).argmax(1).astype(np.uint8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return streets.make(tmp_path_factory.mktemp('streets'), count=5)


def evaluate(predictor, dataset, *, batch_size=1, boundary=False, make_loader=make_loader, workers=0, progress=None):
    settings = config.from_flat({'eval_batch_size': batch_size, 'num_parallel_workers': workers})
    return segmentation.evaluate(predictor, dataset, settings, make_loader, EvalOptions(boundary=boundary), progress=progress)


@pytest.fixture(scope='module')
def dataset(folder):
    return open_dataset(config.from_flat(streets.settings(folder)).data, 'val')


@pytest.mark.parametrize('batch_size', [1, 2, 5, 9])
def test_every_image_counts_once_whatever_the_batch(dataset, batch_size):
    expected = sum(
        confusion_matrix(label, (image[..., 0] > 127).astype(np.uint8), 3)
        for image, label in map(dataset.read, range(len(dataset)))
    )
    done = []
    found = evaluate(Bright(), dataset, batch_size=batch_size, progress=lambda *at: done.append(at))
    assert np.array_equal(found.matrix, expected)
    assert done[-1] == (5, 5)


@pytest.fixture(scope='module')
def sizes(tmp_path_factory):
    """Validation images of several sizes, two of each, mixed."""
    folder = streets.make(tmp_path_factory.mktemp('sizes'), count=6)
    for index in (1, 2, 5):
        for kind, flag in (('images', cv2.IMREAD_COLOR), ('labels', cv2.IMREAD_UNCHANGED)):
            path = folder / kind / 'val' / f'{index:03d}.png'
            cv2.imwrite(str(path), cv2.imread(str(path), flag)[:40, : 60 + index // 5])
    return folder


@pytest.mark.parametrize('workers', [0, 2])
def test_a_loader_brings_every_image_once_in_batches_of_one_size(backend, sizes, workers):
    dataset = open_dataset(config.from_flat(streets.settings(sizes)).data, 'val')
    batches = list(loaded_images(backend.make_loader, LabelledImages(dataset, config.Augment()), range(6), 2, workers))
    assert [images.shape for images, _ in batches] == [
        (1, 3, 64, 96), (2, 3, 40, 60), (2, 3, 64, 96), (1, 3, 40, 61)
    ]  # fmt: skip
    read = [dataset.read(index) for index in range(6)]
    images, labels = (np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*batches))
    assert np.array_equal(images, np.concatenate([image.transpose(2, 0, 1).reshape(-1) for image, _ in read]))
    assert np.array_equal(labels, np.concatenate([label.reshape(-1) for _, label in read]))
    loaded = evaluate(Bright(), dataset, batch_size=2, make_loader=backend.make_loader, workers=workers).matrix
    assert np.array_equal(loaded, evaluate(Bright(), dataset).matrix)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_broken_validation_image_ends_training_and_evaluation_in_one_line(
    backend_name, tmp_path, monkeypatch, capsys, workers
):
    monkeypatch.chdir(tmp_path)
    keys = {'num_parallel_workers': workers, 'max_iters': 1, 'graph_mode': int(backend_name == 'mindspore')}
    chosen = config.from_flat(streets.settings(streets.make(tmp_path / 'data'), **keys))
    (tmp_path / 'small.yaml').write_text(config.dump(chosen), encoding='utf-8')
    command = ['--backend', backend_name, '--device', 'cpu']
    assert main(['train', 'small.yaml', *command, '--work-dir', 'whole']) == 0
    (tmp_path / 'data' / 'images' / 'val' / '003.png').write_bytes(b'no image')
    for words in (['train', 'small.yaml', '--work-dir', 'broken'], ['eval', '--checkpoint', 'whole']):
        capsys.readouterr()
        assert main([*words, *command]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('twinseg: error')]
        assert '003.png' in line and 'Traceback' not in line and 'Caught' not in line


def test_boundary_pixels_are_counted_when_asked_for(dataset):
    assert evaluate(Bright(), dataset).scores.boundary_iou is None
    found = evaluate(Bright(), dataset, boundary=True).scores
    assert (0 <= found.boundary_iou).all() and (found.boundary_iou <= 1).all() and found.boundary_iou[:2].any()


def test_a_class_that_the_data_set_lacks_is_an_error(dataset):
    class Wrong(Bright):
        def class_ids(self, images, size=None):
            return np.full((len(images), *size), 7, np.uint8)

    with pytest.raises(UserError, match='predicts class 7, but custom has 3 classes'):
        evaluate(Wrong(), dataset)


def test_averaging_a_mirrored_view_mirrors_it_back(dataset):
    images = np.stack([dataset.read(0)[0].transpose(2, 0, 1)])
    once, mirrored_too = (views.TestTimeAugmentation(Bright(), flip=flip) for flip in (False, True))
    assert np.allclose(views.probabilities(once, images), views.probabilities(mirrored_too, images))


def test_exponentials_of_large_logits_are_finite(dataset):
    class Large(Slow):
        def logits(self, images, size=None):
            return 100 * super().logits(images, size)

    images = np.stack([dataset.read(0)[0].transpose(2, 0, 1)])
    predictor = views.TestTimeAugmentation(Large(), (1.0, 0.5), flip=True, average='exponentials')
    shares = views.probabilities(predictor, images)
    assert np.isfinite(shares).all() and np.array_equal(shares.argmax(1), predictor.class_ids(images))


@pytest.mark.parametrize('window', [(64, 96), (32, 48), (50, 33), (500, 500)])
def test_windows_cover_the_image(dataset, window):
    images = np.stack([dataset.read(0)[0].transpose(2, 0, 1)])
    shown = views.TestTimeAugmentation(Bright(), window=window)
    assert np.allclose(views.probabilities(shown, images), views.probabilities(Bright(), images))


def test_the_twins_count_the_same_pixels(dataset, folder):
    pytest.importorskip('torch')
    pytest.importorskip('mindspore')
    settings = config.from_flat(streets.settings(folder))
    matrices = []
    for name in ('pytorch', 'mindspore'):
        backend = get_backend(name)
        backend.setup('cpu', threads=1)
        predictor = backend.make_predictor(backend.build_model('fast_scnn', num_classes=3), settings)
        matrices.append(evaluate(predictor, dataset, batch_size=5).matrix)
    apart = np.abs(matrices[0] - matrices[1]).sum() / 2
    assert apart <= PIXELS_APART * matrices[0].sum()


def test_multi_scale_runs_on_a_network(dataset, folder):
    pytest.importorskip('torch')
    backend = get_backend('pytorch')
    backend.setup('cpu', threads=1)
    settings = config.from_flat(streets.settings(folder))
    predictor = backend.make_predictor(backend.build_model('fast_scnn', num_classes=3), settings)
    matrix = evaluate(views.TestTimeAugmentation(predictor, SCALES, True, (48, 64)), dataset, batch_size=5).matrix
    assert matrix.sum() == sum((dataset.read(i)[1] != 255).sum() for i in range(len(dataset)))


class Slow(Bright):
    """Logits that depend on the whole image, at a third of its size, and their plain bilinear resize."""

    def logits(self, images, size=None):
        x = images.astype(np.float64)
        x = np.stack([x[:, 0], x[:, 1] + x.mean((1, 2, 3))[:, None, None], 255 - x[:, 2]], 1)[:, :, ::3, ::3] / 64
        return (x if size is None else resize_bilinear(x, size, False)).astype(np.float32)

    def class_ids(self, images, size=None):
        return self.logits(images, size or images.shape[2:]).argmax(1).astype(np.uint8)


def plain(predictor, image, size, scales, flip, window, stride=None, average='probabilities'):
    """Probabilities (C, h, w) of one image, pixel by pixel and window by window, as mmsegmentation's tools/test.py describes
    them: softmax of the logits at the label's size, added up, divided by their number; or those of mean logits or of mean
    exponentials."""
    found = []
    sums = []  # exponentials of the logits' mean over the mirrored image, of each scale
    steps = stride or (window and (window[0] * 2 // 3, window[1] * 2 // 3))
    for scale in scales:
        height, width = (int(side * scale + 0.5) for side in image.shape[1:])
        scaled = cv2.resize(image.transpose(1, 2, 0), (width, height)).transpose(2, 0, 1)
        for mirrored in (False, True)[: 1 + flip]:
            view = scaled[:, :, ::-1] if mirrored else scaled
            if window is None:
                logits = predictor.logits(view[None], size)[0]
            else:
                h, w = min(window[0], height), min(window[1], width)
                total, count = np.zeros((3, height, width)), np.zeros((height, width))
                for row in range(-(-max(height - h, 0) // steps[0]) + 1):
                    for column in range(-(-max(width - w, 0) // steps[1]) + 1):
                        top = min(row * steps[0], height - h)
                        left = min(column * steps[1], width - w)
                        total[:, top : top + h, left : left + w] += predictor.logits(
                            view[None, :, top : top + h, left : left + w], (h, w)
                        )[0]
                        count[top : top + h, left : left + w] += 1
                logits = np.stack([cv2.resize(plane, size[::-1]) for plane in total / count])
            shares = np.exp(logits) / np.exp(logits).sum(0) if average == 'probabilities' else logits
            found.append(shares[:, :, ::-1] if mirrored else shares)
        sums.append(np.exp(sum(found[-1 - flip :]) / (1 + flip)))
    if average == 'logits':
        return np.exp(sum(found) / len(found)) / np.exp(sum(found) / len(found)).sum(0)
    return sum(sums) / sum(sums).sum(0) if average == 'exponentials' else sum(found) / len(found)


@pytest.mark.parametrize(
    'scales, flip, window',
    [
        ((1.0,), True, None),
        ((0.5, 1.0, 1.75), False, None),
        (SCALES, True, None),
        ((1.0,), False, (30, 42)),
        ((0.75, 1.25), True, (33, 41)),
        ((1.0,), False, (500, 20)),
    ],
)
def test_views_are_averaged_as_the_plain_way_does(dataset, scales, flip, window):
    image = dataset.read(1)[0].transpose(2, 0, 1)[:, :61, :93]
    predictor = views.TestTimeAugmentation(Slow(), scales, flip, window)
    found = views.probabilities(predictor, image[None])[0]
    expected = plain(Slow(), image, (61, 93), scales, flip, window)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(predictor.class_ids(image[None])[0], found.argmax(0))


@pytest.mark.parametrize(
    'keys, options, expected',
    [
        ({'eval_scales': [0.75, 1.5]}, {}, ((0.75, 1.5), False, None)),
        ({'eval_flip': True, 'eval_average': 'logits'}, {}, ((1.0,), True, None, None, 'logits')),
        ({'eval_scales': [0.75]}, {'scales': (0.5, 1.25), 'flip': True}, ((0.5, 1.25), True, None)),
        (
            {'eval_average': 'exponentials', 'eval_scales': [0.5, 1.25]},
            {'flip': True},
            ((0.5, 1.25), True, None, None, 'exponentials'),
        ),
        ({'eval_scales': [0.75], 'eval_flip': True}, {'ms_flip': True}, (SCALES, True, None)),
        ({}, {'slide': True}, ((1.0,), False, (48, 60))),
        (
            {'slide_window': [30, 42], 'slide_stride': [30, 11]},
            {'slide': True},
            ((1.0,), False, (30, 42), (30, 11)),
        ),
        (
            {'slide_window': [30, 42], 'slide_stride': [30, 11], 'eval_average': 'logits', 'eval_flip': True},
            {'slide': True, 'stride': (7, 40), 'scales': (0.5, 1.75)},
            ((0.5, 1.75), True, (30, 42), (7, 40), 'logits'),
        ),
    ],
)
def test_views_are_those_of_the_configuration_or_of_the_command(dataset, keys, options, expected):
    image = dataset.read(1)[0].transpose(2, 0, 1)[:, :61, :93]
    chosen = config.from_flat({'crop_size': [48, 60], **keys})
    predictor = views.as_published(Slow(), chosen, EvalOptions(**options))
    np.testing.assert_allclose(
        views.probabilities(predictor, image[None])[0], plain(Slow(), image, (61, 93), *expected), atol=1e-5
    )


def test_a_network_without_views_is_shown_as_it_is():
    network = Slow()
    assert views.as_published(network, config.from_flat({'slide_stride': [9, 9]}), EvalOptions()) is network


@pytest.mark.parametrize(
    'keys, message',
    [
        ({'eval_scales': []}, r'eval_scales: expected a list of one to 100 numbers above 0 and at most 8, such as'),
        ({'eval_scales': [0.0]}, 'eval_scales: expected a list of one to 100 numbers above 0'),
        ({'eval_scales': [9.0]}, 'eval_scales: expected a list of one to 100 numbers above 0'),
        ({'eval_resized': [30, 0]}, r'eval_resized: expected \[height, width\] in pixels'),
        (
            {'eval_resized': [30, 42], 'eval_center_crop': [30, 30]},
            'eval_resized: give eval_resized or eval_center_crop, not both',
        ),
        ({'set': 'imagenet', 'eval_flip': True}, 'eval_flip: true has no effect with set: imagenet'),
    ],
)
def test_evaluations_that_cannot_be_are_refused(keys, message):
    with pytest.raises(UserError, match=message):
        config.from_flat(keys)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'ms_flip': True, 'scales': (0.5,)}, '--scales: --ms-flip has six scales of its own; give one of the two'),
        ({'stride': (3, 3)}, '--stride: has no effect without --slide'),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        segmentation.check_options(EvalOptions(**options), 'x')


def test_a_stride_beyond_the_window_is_refused():
    with pytest.raises(UserError, match=r'slide_stride \(--stride\) 40x40: steps over pixels between windows of 30x42'):
        views.as_published(Slow(), config.from_flat({'crop_size': [30, 42]}), EvalOptions(slide=True, stride=(40, 40)))


# Protocols


def yassouali(image, label, size):
    """Image and label as _val_augmentation of yassouali/pytorch-segmentation@33434fa, base/base_dataset.py, has them."""
    height, width = label.shape
    new = (size, int(size * width / height)) if height < width else (int(size * height / width), size)
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    box = np.s_[top : top + size, left : left + size]
    small = Image.fromarray(label).resize(new[::-1], Image.NEAREST)
    return cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)[box], np.asarray(small)[box]


def davidtvs(image, label, size):
    """As the transforms of davidtvs/PyTorch-ENet@e17d404, main.py, have them: Pillow's resize, of labels NEAREST."""
    picture, labels = Image.fromarray(image), Image.fromarray(label)
    return np.asarray(picture.resize(size[::-1], Image.BILINEAR)), np.asarray(labels.resize(size[::-1], Image.NEAREST))


@pytest.mark.parametrize('shape', [(64, 96), (96, 64), (41, 53), (50, 50), (30, 200)])
@pytest.mark.parametrize(
    'protocol, size, publisher', [('eval_center_crop', [40, 40], yassouali), ('eval_resized', [36, 48], davidtvs)]
)
def test_protocols_are_those_of_the_publishers(shape, protocol, size, publisher):
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, 19, shape, np.uint8)
    augment = config.from_flat({protocol: size}).augment
    expected = publisher(image, label, 40 if protocol == 'eval_center_crop' else tuple(size))
    for ours, theirs in zip(eval_transform(image, label, augment), expected):
        assert ours.shape[:2] == tuple(size) and np.array_equal(ours, theirs)


def test_a_centre_need_not_be_square():
    image, label = np.zeros((60, 100, 3), np.uint8), np.arange(100, dtype=np.uint8)[None].repeat(60, 0)
    for size, columns in ([30, 20], range(30, 70, 2)), ([20, 50], range(0, 100, 2)):
        augment = config.from_flat({'eval_center_crop': size}).augment
        small, ids = eval_transform(image, label, augment)
        assert small.shape[:2] == ids.shape == tuple(size) and np.abs(ids[0].astype(int) - list(columns)).max() <= 1


@pytest.mark.parametrize('workers', [0, 1])
def test_scores_are_counted_as_the_protocol_has_images_and_labels(backend, sizes, workers):
    dataset = open_dataset(config.from_flat(streets.settings(sizes)).data, 'val')
    keys = {'eval_center_crop': [32, 32], 'num_parallel_workers': workers, 'eval_batch_size': 4}
    settings = config.from_flat(keys)
    found = segmentation.evaluate(Bright(), dataset, settings, backend.make_loader, EvalOptions())
    expected = 0
    for image, label in map(dataset.read, range(len(dataset))):
        image, label = yassouali(image, label, 32)
        expected = expected + confusion_matrix(label, (image[..., 0] > 127).astype(np.uint8), 3)
    assert np.array_equal(found.matrix, expected) and found.conditions['protocol'] == 'center_crop 32x32'
    assert evaluate(Bright(), dataset).conditions['protocol'] == 'full'


def test_images_are_scaled_to_the_evaluation_size_and_labels_are_not(dataset):
    class Watching(Slow):
        seen = []

        def class_ids(self, images, size=None):
            self.seen.append((images.shape[2:], size))
            return super().class_ids(images, size)

    predictor = Watching()
    scaled = views.TestTimeAugmentation(predictor, size=[32, 500])
    found = evaluate(scaled, dataset)
    assert set(predictor.seen) == {((32, 48), (64, 96))}
    image = dataset.read(0)[0]
    half = cv2.resize(image, (48, 32)).transpose(2, 0, 1)
    assert np.array_equal(scaled.class_ids(image.transpose(2, 0, 1)[None]), predictor.class_ids(half[None], (64, 96)))
    assert found.matrix.sum() == evaluate(Slow(), dataset).matrix.sum()


@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('size', [(37, 53), (5, 7)])
def test_class_ids_are_the_largest_of_the_resized_logits(backend_name, backend, align_corners, size):
    network = tiny_network(backend_name)
    network.align_corners = {'logits': align_corners}
    images = batch(0)[0]
    predictor = backend.make_predictor(network, config.from_flat({}))
    resized = np.sort(predictor.logits(images, size), 1)
    clear = resized[:, -1] - resized[:, -2] > 1e-6
    assert np.array_equal(predictor.class_ids(images, size)[clear], predictor.logits(images, size).argmax(1)[clear])
    assert clear.mean() > 0.95


def test_evaluation_without_compiling():
    ms = pytest.importorskip('mindspore')
    backend = get_backend('mindspore')
    backend.setup('cpu', threads=1)
    network, images = tiny_network('mindspore'), batch(0)[0]
    compiled = backend.make_predictor(network, config.from_flat({})).class_ids(images)
    before = ms.get_context('mode')
    try:
        predictor = backend.make_predictor(network, config.from_flat({'graph_mode': 1}))
        assert ms.get_context('mode') == ms.PYNATIVE_MODE
        assert np.array_equal(predictor.class_ids(images), compiled)
    finally:
        ms.set_context(mode=before)
