"""The data set that is drawn: the same scenes for everybody, all classes in them, image and label in register."""

import pickle

import numpy as np
import pytest

from twinseg.common import config
from twinseg.common.data.classes import CITYSCAPES_CLASSES
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import DataError


def toy(split: str = 'train', **keys):
    return open_dataset(config.from_flat({'image_size': [128, 256], **keys}).data, split)


def test_form():
    dataset = toy(train_samples=5, val_samples=3)
    assert len(dataset) == 5 and len(toy('val', val_samples=3)) == 3
    assert dataset.samples[0].image is None and dataset.samples[4].name == 'train_00004'
    assert dataset.description.classes == CITYSCAPES_CLASSES
    image, label = dataset.read(0)
    assert image.shape == (128, 256, 3) and label.shape == (128, 256) and image.dtype == label.dtype == np.uint8
    with pytest.raises(IndexError):
        dataset.read(5)
    assert np.array_equal(dataset.read(0)[0], image) and len(pickle.dumps(dataset)) < 10000


def test_a_scene_depends_on_its_split_and_index_only():
    image, label = toy().read(3)
    again = toy(train_samples=4).read(3)
    assert np.array_equal(image, again[0]) and np.array_equal(label, again[1])
    assert np.array_equal(toy().read_image(3), image)
    assert not np.array_equal(toy('val').read_image(3), image) and not np.array_equal(toy().read_image(4), image)


def test_all_classes_appear_and_something_is_ignored():
    labels = [toy().read(index)[1] for index in range(40)]
    present = np.array([np.bincount(label.ravel(), minlength=256) > 0 for label in labels])
    assert set(np.flatnonzero(present.any(0))) == {*range(19), 255}
    assert present[:, [0, 1, 2, 10]].all()  # road, sidewalk, building, sky
    assert (present[:, :19].sum(0) >= 3).all()


def test_classes_can_be_told_apart_by_sight():
    """Sky is bluer than road in every picture, and the picture changes where the label does."""
    for index in range(5):
        image, label = toy().read(index)
        sky, road = (image[label == i].mean(0) for i in (10, 0))
        assert sky[2] - sky[0] > road[2] - road[0]
        steps = np.abs(np.diff(image.astype(int).sum(-1), axis=1))
        edges = np.diff(label.astype(int), axis=1) != 0
        assert steps[edges].mean() > 2 * steps[~edges].mean()


@pytest.mark.parametrize('size', [(1, 1), (5, 9), (64, 32), (256, 512)])
def test_any_size(size):
    image, label = toy(image_size=list(size)).read(0)
    assert image.shape == (*size, 3) and label.shape == size


def test_unknown_split():
    with pytest.raises(DataError, match="no split 'test'; choose train or val"):
        toy('test')
