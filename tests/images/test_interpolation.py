"""Class ids of logits that are resized class by class, against ``argmax`` of all logits at full size."""

import numpy as np
import pytest

from twinseg.common.images import interpolation
from twinseg.common.images.interpolation import bilinear_matrix, class_ids, largest

CLEAR = 1e-4  # largest logits that differ by less may change places where float32 rounds; logits here are about 1
SIZES = {  # size of the logits -> size of the result
    'eight times': ((5, 7), (40, 56)),
    'eight times, several strips': ((40, 6), (320, 48)),
    'three times, several strips, the last one short': ((50, 4), (150, 12)),
    'odd': ((9, 11), (67, 85)),
    'more strips than one, odd': ((9, 5), (301, 37)),
    'smaller': ((40, 30), (13, 15)),
    'half': ((12, 16), (6, 8)),
    'equal': ((12, 9), (12, 9)),
    'one pixel': ((1, 1), (6, 5)),
    'to one pixel': ((6, 5), (1, 1)),
    'wide alone': ((4, 3), (4, 30)),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('case', SIZES)
def test_every_pixel_has_the_class_of_the_largest_logit(rng, case, align_corners):
    given, size = SIZES[case]
    logits = rng.normal(size=(2, 6, *given)).astype(np.float32)
    rows, columns = (bilinear_matrix(*sides, align_corners).astype(np.float64) for sides in zip(given, size))
    resized = rows @ (logits @ columns.T)
    two = np.sort(resized, 1)[:, -2:]
    clear = two[:, 1] - two[:, 0] > CLEAR
    ids = class_ids(logits, size, align_corners)
    assert ids.dtype == np.uint8 and ids.shape == (2, *size)
    assert np.array_equal(ids[clear], resized.argmax(1)[clear]) and clear.mean() > 0.99


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('case', SIZES)
def test_of_equal_logits_the_first_class_is_taken(rng, case, align_corners):
    given, size = SIZES[case]
    logits = rng.normal(size=(1, 4, *given)).astype(np.float32)
    twice = np.concatenate([logits, logits[:, ::-1], logits], 1)
    assert np.array_equal(class_ids(twice, size, align_corners), class_ids(logits, size, align_corners))
    assert not class_ids(np.zeros((1, 3, *given), np.float32), size, align_corners).any()


@pytest.mark.parametrize('factor', [2, 3, 8])
def test_strips_of_rows_are_those_of_the_whole(rng, monkeypatch, factor):
    logits = rng.normal(size=(1, 5, 20, 10)).astype(np.float32)
    size = (20 * factor, 10 * factor)
    monkeypatch.setattr(interpolation, 'STRIP_ROWS', 20 * factor)
    whole = class_ids(logits, size, False)
    for rows in (1, 3 * factor, 7 * factor):
        monkeypatch.setattr(interpolation, 'STRIP_ROWS', rows)
        assert np.count_nonzero(class_ids(logits, size, False) != whole) <= 1  # where two logits differ in their last bit


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_the_largest_of_planes_is_their_argmax(rng, dtype):
    planes = rng.integers(0, 5, (200, 9, 8)).astype(dtype)  # most pixels have several largest
    ids = np.zeros((9, 8), np.uint8)
    largest(planes, ids)
    assert np.array_equal(ids, planes.argmax(0))
