"""Mixup and cutmix against their formulas, in every mode and with odd batches; the same numbers for the same step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinseg.common import config
from twinseg.common.data.mixing import Mixing, is_active, random_box, smoothed
from twinseg.common.data.sampling import mixing_rng

MODES = ['batch', 'pair', 'elem']
CLASSES = 7


def mixing(smoothing: float = 0.1, seed: int = 0, **keys) -> Mixing:
    return Mixing(config.from_flat({'set': 'image_folder', **keys}).augment, CLASSES, smoothing, seed)


def batch(count: int = 6, height: int = 20, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Noise, with labels that tell the samples apart."""
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8), np.arange(count) % CLASSES


def one_hot(labels: np.ndarray, smoothing: float) -> np.ndarray:
    rows = np.full((len(labels), CLASSES), smoothing / CLASSES)
    for row, label in zip(rows, labels):
        row[label] = 1 - smoothing + smoothing / CLASSES
    return rows


def shares(targets: np.ndarray, labels: np.ndarray, smoothing: float) -> np.ndarray:
    """What each sample keeps of itself, from its target; 1 where its partner has the same label."""
    own, other = (targets[np.arange(len(labels)), wanted] for wanted in (labels, labels[::-1]))
    return np.where(labels == labels[::-1], 1, (1 + (own - other) / (1 - smoothing)) / 2)


def test_smoothed_targets():
    expected = [[0.025, 0.925, 0.025, 0.025], [0.925, 0.025, 0.025, 0.025]]
    assert np.allclose(smoothed(np.array([1, 0]), 4, 0.1), expected) and smoothed(np.array([1]), 4, 0.1).dtype == np.float32
    assert np.array_equal(smoothed(np.array([2]), 4, 0.0), [[0, 0, 1, 0]])


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('count', [1, 2, 5, 6])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_mixup_is_the_rounded_mean_of_both(mode, count, smoothing):
    images, labels = batch(count)
    for step in range(5):
        before = images.copy()
        mixed, targets = mixing(smoothing, mix_up=0.8, mixup_mode=mode)(images, labels, step, 0.0)
        share = shares(targets, labels, smoothing)
        assert mixed.dtype == np.uint8 and targets.dtype == np.float32 and np.array_equal(images, before)
        assert np.allclose(
            targets,
            one_hot(labels, smoothing) * share[:, None] + one_hot(labels[::-1], smoothing) * (1 - share[:, None]),
            atol=1e-6,
        )
        weight = share[:, None, None, None]
        expected = images * weight + images[::-1] * (1 - weight)
        assert np.abs(mixed - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('count', [1, 2, 5, 6])
def test_cutmix_replaces_a_box_and_counts_its_pixels(mode, count):
    images, labels = batch(count)
    replaced = []
    for step in range(8):
        mixed, targets = mixing(cutmix=1.0, mixup_mode=mode)(images, labels, step, 0.0)
        share = shares(targets, labels, 0.1)
        for place in range(count):
            image, partner = images[place], images[count - 1 - place]
            changed = (mixed[place] != image).any(0)
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            if not len(rows):
                assert share[place] == pytest.approx(1, abs=1e-6)
                continue
            box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert np.array_equal(mixed[place][box], partner[box])
            assert share[place] == pytest.approx(1 - mixed[place][box][0].size / (20 * 24), abs=1e-6)
            outside = np.ones((20, 24), bool)
            outside[box[1:]] = False
            assert np.array_equal(mixed[place][:, outside], image[:, outside])
            replaced.append(share[place])
    assert count == 1 or len(replaced) >= 4


@pytest.mark.parametrize('mode', MODES)
def test_who_shares_a_draw(mode):
    images, labels = batch(7)
    found = [shares(mixing(mix_up=1.0, mixup_mode=mode)(images, labels, step, 0.0)[1], labels, 0.1) for step in range(10)]
    for share in found:
        first, last = share[:3], share[:3:-1]
        if mode == 'batch':
            assert np.allclose(np.delete(share, 3), share[0], atol=1e-6)
        elif mode == 'pair':
            assert np.allclose(first, last, atol=1e-6) and len(set(first.round(5))) == 3
        else:
            assert len(set(np.delete(share, 3).round(5))) == 6
    assert len({share[0] for share in found}) == 10


def test_the_middle_of_an_odd_batch_stays():
    images, labels = batch(5)
    for mode in MODES:
        mixed, targets = mixing(mix_up=1.0, cutmix=1.0, mixup_mode=mode)(images, labels, 3, 0.0)
        assert np.array_equal(mixed[2], images[2]) and np.allclose(targets[2], one_hot(labels, 0.1)[2])


def kinds(steps: int = 400, **keys) -> tuple[float, float]:
    """How many batches are cutmix, and how many stay."""
    images, labels = batch(2, 8, 8)
    mixer, cut, kept = mixing(**keys), 0, 0
    for step in range(steps):
        mixed, _ = mixer(images, labels, step, 0.0)
        from_one = (mixed == images) | (mixed == images[::-1])
        kept += np.array_equal(mixed, images)
        cut += from_one.all() and not np.array_equal(mixed, images)
    return cut / steps, kept / steps


def test_how_often():
    cut, kept = kinds(mix_up=2.0, cutmix=0.5, switch_prob=0.25, mixup_prob=0.8)
    assert 0.12 < cut < 0.28 and 0.15 < kept < 0.3  # 0.8 x 0.25 less empty boxes; 0.2 and those
    assert kinds(100, mix_up=2.0, switch_prob=1.0)[0] == 0  # without cutmix there is nothing to switch to
    assert kinds(100, cutmix=1.0, switch_prob=0.0)[0] > 0.5
    assert kinds(20, mix_up=1.0, cutmix=1.0, mixup_prob=0.0) == (0, 1)


@pytest.mark.parametrize('alpha', [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    images, labels = batch(2, 2, 2)
    mixer = mixing(0.0, mix_up=alpha)
    found = [mixer(images, labels, step, 0.0)[1][0, 0] for step in range(3000)]
    assert abs(np.mean(found) - 0.5) < 0.03
    assert abs(np.var(found) * 4 * (2 * alpha + 1) - 1) < 0.1  # variance of Beta(a, a): 1 / (4 (2a + 1))


@pytest.mark.parametrize('off, epoch, still', [(0.0, 99.0, False), (2.0, 1.99, False), (2.0, 2.0, True), (2.0, 50.0, True)])
def test_mixing_ends(off, epoch, still):
    images, labels = batch()
    mixed, targets = mixing(mix_up=1.0, mixup_off_epoch=off)(images, labels, 0, epoch)
    assert np.array_equal(mixed, images) is still and np.allclose(targets, one_hot(labels, 0.1)) is still


@pytest.mark.parametrize('keys, active', [({}, False), ({'mix_up': 0.2}, True), ({'cutmix': 1.0}, True)])
def test_whether_it_is_on(keys, active):
    mixer = mixing(**keys)
    assert is_active(mixer.augment) is active
    images, labels = batch()
    assert active or mixer(images, labels, 0, 0.0)[0] is images


@pytest.mark.parametrize('mode', MODES)
def test_a_step_always_draws_the_same(mode):
    images, labels = batch()

    def result(step: int, seed: int = 0) -> bytes:
        mixed, targets = mixing(seed=seed, mix_up=0.8, cutmix=1.0, mixup_mode=mode)(images, labels, step, 0.0)
        return mixed.tobytes() + targets.tobytes()

    found = [result(step) for step in range(5)]
    assert found == [result(step) for step in range(5)] and len(set(found)) == 5
    assert result(3, seed=1) != found[3]
    assert mixing_rng(0, 1).random() == mixing_rng(0, 1).random() != mixing_rng(0, 2).random()


@given(st.floats(0, 1), st.integers(1, 50), st.integers(1, 50), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_boxes_lie_in_the_image(share, height, width, seed):
    top, left, bottom, right = random_box(share, height, width, np.random.default_rng(seed))
    assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
    assert (bottom - top) * (right - left) <= (1 - share) * height * width + 1e-6


def test_boxes_have_the_images_proportions():
    box = next(
        box
        for seed in range(100)
        if (box := random_box(0.75, 100, 200, np.random.default_rng(seed)))[0] > 0
        and box[1] > 0
        and box[2] < 100
        and box[3] < 200
    )
    assert (box[2] - box[0], box[3] - box[1]) == (50, 100)
