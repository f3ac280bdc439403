"""Evaluation: every pixel counted once at the label's size, averaged views, both backends the same."""
import numpy as np
import pytest

from common import config
from common.backend import get_backend
from common.data.datasets import open_dataset
from common.errors import UserError
from common.evaluation import SCALES, averaged_probabilities, evaluate, slide_logits
from common.metrics import confusion_matrix
from tests import streets

PIXELS_APART = 1e-4  # share of the pixels on which the twins may disagree (DESIGN section 4)


class Bright:
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


@pytest.fixture(scope='module')
def dataset(folder):
    return open_dataset(config.from_flat(streets.settings(folder)).data, 'val')


@pytest.mark.parametrize('batch_size', [1, 2, 5, 9])
def test_every_image_counts_once_whatever_the_batch(dataset, batch_size):
    expected = sum(confusion_matrix(label, (image[..., 0] > 127).astype(np.uint8), 3)
                   for image, label in map(dataset.read, range(len(dataset))))
    done = []
    counts = evaluate(Bright(), dataset, batch_size=batch_size, progress=lambda *at: done.append(at))
    assert np.array_equal(counts.matrix, expected)
    assert done[-1] == (5, 5)


def test_boundary_pixels_are_counted_when_asked_for(dataset):
    assert not evaluate(Bright(), dataset).boundary.any()
    intersection, union = evaluate(Bright(), dataset, boundary=True).boundary
    assert (intersection <= union).all() and union.all()


def test_a_class_that_the_data_set_lacks_is_an_error(dataset):
    class Wrong(Bright):
        def class_ids(self, images, size=None):
            return np.full((len(images), *size), 7, np.uint8)

    with pytest.raises(UserError, match='predicts class 7, but custom has 3 classes'):
        evaluate(Wrong(), dataset)


def test_averaging_a_mirrored_view_mirrors_it_back(dataset):
    images = np.stack([dataset.read(0)[0].transpose(2, 0, 1)])
    once = averaged_probabilities(Bright(), images, images.shape[2:], (1.0,), False, None)
    assert np.allclose(once, averaged_probabilities(Bright(), images, images.shape[2:], (1.0,), True, None))


@pytest.mark.parametrize('window', [(64, 96), (32, 48), (50, 33), (500, 500)])
def test_windows_cover_the_image(dataset, window):
    images = np.stack([dataset.read(0)[0].transpose(2, 0, 1)])
    assert np.allclose(slide_logits(Bright(), images, window, images.shape[2:]), Bright().logits(images))


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
    matrix = evaluate(predictor, dataset, batch_size=5, scales=SCALES, flip=True, window=(48, 64)).matrix
    assert matrix.sum() == sum((dataset.read(i)[1] != 255).sum() for i in range(len(dataset)))
