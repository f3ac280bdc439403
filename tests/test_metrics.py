"""Metrics against scikit-learn and against values counted by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt
from sklearn import metrics

from twinseg.common.errors import DataError
from twinseg.common.metrics import Scores, boundary_counts, boundary_iou, confusion_matrix, mean, percent, show

CLASSES = ('road', 'car', 'tree', 'sky')
NAN = float('nan')


def labels(seed: int, ignored: bool = True, shape: tuple[int, ...] = (2, 9, 7)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 3, 255] if ignored else [0, 1, 3], shape).astype(np.uint8)
    return truth, rng.integers(0, 4, shape).astype(np.uint8)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(2, 9, 7), (3, 8, 6)]))
def test_confusion_matrix_is_scikit_learns(seed, shape):
    truth, prediction = labels(seed, shape=shape)
    counted = truth != 255
    expected = metrics.confusion_matrix(truth[counted], prediction[counted], labels=range(4))
    found = confusion_matrix(truth, prediction, 4)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_scores_are_scikit_learns():
    truth, prediction = (array.ravel() for array in labels(1, ignored=False, shape=(50, 50)))
    scores = Scores.from_matrix(confusion_matrix(truth, prediction, 4), CLASSES)
    options = dict(labels=range(4), average=None, zero_division=0)
    present = [0, 1, 3]
    np.testing.assert_allclose(scores.iou, metrics.jaccard_score(truth, prediction, **options))
    np.testing.assert_allclose(scores.f1, metrics.f1_score(truth, prediction, **options))
    np.testing.assert_allclose(scores.precision, metrics.precision_score(truth, prediction, **options))
    np.testing.assert_allclose(scores.recall[present], metrics.recall_score(truth, prediction, **options)[present])
    assert np.isnan(scores.recall[2])  # never in the truth
    assert scores.aacc == pytest.approx(metrics.accuracy_score(truth, prediction))
    assert scores.macc == pytest.approx(scores.recall[present].mean())


def test_matrices_of_images_add_up():
    truth, prediction = labels(2)
    whole = confusion_matrix(truth, prediction, 4)
    np.testing.assert_array_equal(whole, sum(confusion_matrix(t, p, 4) for t, p in zip(truth, prediction)))


def test_classes_without_pixels_are_left_out_of_means():
    # truth     road road car  tree     prediction  road car  car  car; the sky is nowhere, the tree never predicted
    scores = Scores.from_matrix(confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 4), CLASSES)
    np.testing.assert_allclose(scores.iou, [1 / 2, 1 / 3, 0, NAN])
    np.testing.assert_allclose(scores.accuracy, [1 / 2, 1, 0, NAN])
    np.testing.assert_allclose(scores.precision, [1, 1 / 3, NAN, NAN])
    np.testing.assert_allclose(scores.f1, [2 / 3, 1 / 2, 0, NAN])
    assert (scores.miou, scores.macc, scores.aacc, scores.mf1) == pytest.approx((5 / 18, 1 / 2, 1 / 2, 7 / 18))


def test_json_is_in_percent_with_null_for_what_is_not_there():
    scores = Scores.from_matrix(confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 4), CLASSES).to_json()
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert (scores['mIoU'], scores['mAcc'], scores['aAcc']) == (27.7778, 50.0, 50.0)
    assert scores['classes']['car'] == {'IoU': 33.3333, 'Acc': 100.0, 'precision': 33.3333, 'recall': 100.0, 'F1': 50.0}
    assert set(scores['classes']['sky'].values()) == {None}


def test_nothing_counted_is_no_score():
    scores = Scores.from_matrix(confusion_matrix(np.full(5, 255), np.zeros(5, int), 4), CLASSES)
    assert scores.to_json()['mIoU'] is None
    assert np.isnan([scores.miou, scores.macc, scores.aacc]).all()
    assert (show(scores.miou), show(0.12345), percent(NAN), percent(0.5)) == ('n/a', '12.35', None, 50.0)
    assert np.isnan(mean(np.array([NAN])))


@pytest.mark.parametrize(
    'truth, prediction, message',
    [
        ([0, 7, 9, 255], [0, 0, 0, 0], r'label with the ids \[7, 9\]; expected 0\.\.3 or 255'),
        ([0, 0, 0], [0, 5, 0], r'prediction with the ids \[5\]; expected 0\.\.3'),
        ([0, 0, 0], [0, -1, 0], r'\[-1\]'),
        ([0, 0, 0], [0, 0], r'size'),
    ],
)
def test_ids_out_of_range_are_listed(truth, prediction, message):
    with pytest.raises(DataError, match=message):
        confusion_matrix(np.array(truth), np.array(prediction), 4)


def test_predictions_on_ignored_pixels_do_not_matter():
    assert confusion_matrix(np.array([255, 1]), np.array([200, 1]), 4).sum() == 1


def bands(mask: np.ndarray, distance: int) -> np.ndarray:
    """Oracle: pixels of a mask within a chessboard distance of what is outside it; outside the image is outside."""
    return mask & (distance_transform_cdt(np.pad(mask, 1), 'chessboard')[1:-1, 1:-1] <= distance)


@pytest.mark.parametrize('ratio', [0.001, 0.05, 0.1])
def test_boundary_iou_is_that_of_the_bands(ratio):
    rng = np.random.default_rng(0)
    truth, prediction = (np.kron(rng.integers(0, 3, (4, 5)), np.ones((8, 8))).astype(np.uint8) for _ in range(2))
    distance = max(1, round(ratio * np.hypot(32, 40)))
    counts = boundary_counts(truth, prediction, 4, dilation_ratio=ratio)
    for index in range(3):
        ours, theirs = bands(prediction == index, distance), bands(truth == index, distance)
        assert tuple(counts[:, index]) == ((ours & theirs).sum(), (ours | theirs).sum())
    assert np.isnan(boundary_iou(counts)[3])


def test_boundary_iou_sees_what_iou_hides():
    truth = np.zeros((100, 100), np.uint8)
    truth[10:90, 10:90] = 1
    prediction = np.zeros_like(truth)
    prediction[12:88, 12:88] = 1  # two pixels short all round
    assert Scores.from_matrix(confusion_matrix(truth, prediction, 2), 'ab').iou[1] == pytest.approx(0.9025)
    assert boundary_iou(boundary_counts(truth, prediction, 2))[1] < 0.3
    assert boundary_iou(boundary_counts(truth, truth, 2)).tolist() == [1, 1]


def test_boundary_iou_ignores_ignored_pixels():
    truth, prediction = np.zeros((2, 40, 40), np.uint8)
    truth[:, 20:] = 255
    prediction[:, 20:] = 1
    assert boundary_iou(boundary_counts(truth, prediction, 2)).tolist()[0] == 1
    assert np.isnan(boundary_iou(boundary_counts(truth, prediction, 2))[1])
