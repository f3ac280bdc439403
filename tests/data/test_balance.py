"""Rare classes: weights as the papers compute them, and orders in which every class comes equally often."""

import numpy as np
import pytest

from tests.support import streets
from twinseg.common import config
from twinseg.common.data.balance import balanced_order, class_counts, class_weights
from twinseg.common.data.base import Dataset, Description, Sample
from twinseg.common.data.open import open_dataset
from twinseg.common.data.sampling import training_batches
from twinseg.common.errors import DataError
from twinseg.common.inference.runs import stored_config
from twinseg.common.training import loop

COUNTS = np.array([[60, 40, 0, 0], [90, 0, 10, 0], [100, 0, 0, 0]])  # pixels of four classes in three labels


def test_counts_leave_out_what_is_ignored_or_broken():
    class Labels(Dataset):
        def read(self, index):
            if index == 1:
                raise DataError('broken')
            return np.zeros((2, 2, 3), np.uint8), np.array([[0, 2], [255, 2]], np.uint8)

    dataset = Labels('x', 'train', Description(('a', 'b', 'c'), np.zeros((3, 3), np.uint8)), [Sample('', None, None)] * 3)
    counts, sizes = class_counts(dataset)
    assert counts.tolist() == [[1, 0, 2], [0, 0, 0], [1, 0, 2]] and sizes.tolist() == [4, 0, 4]


def test_median_frequency():
    # frequencies 250/300, 40/100, 10/100: median 0.4; the last class is never shown
    assert class_weights(COUNTS, 'median_frequency') == [0.48, 1.0, 4.0, 0.0]


def test_enet():
    shares = np.array([250, 40, 10]) / 300
    assert class_weights(COUNTS, 'enet') == [*np.round(1 / np.log(1.02 + shares), 4), 0.0]


def test_shares_of_all_pixels():
    """As davidtvs' ``enet_weighing`` counts them: unlabeled pixels are in the divisor."""
    sizes = np.array([100, 200, 100])
    assert class_weights(COUNTS, 'enet', sizes) == [*np.round(1 / np.log(1.02 + np.array([250, 40, 10]) / 400), 4), 0.0]
    # frequencies 250/400, 40/100, 10/200: median 0.4
    assert class_weights(COUNTS, 'median_frequency', sizes) == [0.64, 1.0, 8.0, 0.0]


def test_every_class_comes_equally_often():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (300, 1)) * (np.arange(300)[:, None] % [1, 10, 100] == 0)  # in all, 30 and 3 of 300 labels
    order = balanced_order(counts, seed=0)(0)
    rarest = np.isin(order, [0, 100, 200]).mean()
    assert len(order) == 300 and rarest > 0.33 and len(set(order.tolist())) > 100
    assert np.array_equal(order, balanced_order(counts, seed=0)(0))
    assert not np.array_equal(order, balanced_order(counts, seed=0)(1))


def test_a_sample_that_comes_again_is_augmented_anew():
    order = balanced_order(np.array([[5, 0], [5, 0], [5, 0], [0, 5]]), seed=1)
    keys = [key for batch in training_batches(4, 2, 1, 0, 20, order=order) for key in batch]
    assert len(keys) == len(set(keys)) == 40
    assert sum(index == 3 for _, index in keys) == 20
    shards = [list(training_batches(4, 1, 1, 0, 20, rank, 2, order=order)) for rank in range(2)]
    assert [sum(parts, []) for parts in zip(*shards)] == list(training_batches(4, 2, 1, 0, 20, order=order))


def test_training_counts_and_balances(tmp_path):
    pytest.importorskip('torch')
    keys = streets.settings(
        streets.make(tmp_path / 'data'),
        class_weight='enet',
        class_weight_of='all',
        sampling='class_balanced',
        max_iters=2,
        lr_batch_size=8,
        repeat=3,
    )
    loop.train(config.from_flat(keys), 'pytorch', 'cpu', tmp_path / 'run')
    stored = stored_config(tmp_path / 'run')
    counts, sizes = class_counts(open_dataset(stored.data, 'train'))
    assert stored.loss.class_weight == class_weights(counts, 'enet', sizes) and min(stored.loss.class_weight) > 1
    assert stored.loss.class_weight != class_weights(counts, 'enet')
    log = (tmp_path / 'run/log.txt').read_text()
    assert '6 steps an epoch' in log
    assert 'a global batch of 4: learning rates, made for 8, are multiplied by 0.5' in log
    loop.train(config.load(tmp_path / 'run/config.yaml', ['max_iters=3']), 'pytorch', 'cpu', tmp_path / 'run', resume=True)


def test_labels_without_any_class_are_an_error():
    with pytest.raises(DataError, match='no label shows any class'):
        balanced_order(np.zeros((3, 2), int), seed=0)
