"""Augmentation of whole images: RandAugment against Pillow's own calls, crops against plain Pillow, boxes in bounds."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from twinseg.common import config
from twinseg.common.data.classification_transforms import (
    check_augmentation,
    color_jitter,
    crop_box,
    erase,
    erased_boxes,
    eval_image,
    train_image,
)
from twinseg.common.data.open import open_dataset
from twinseg.common.data.rand_augment import BASE_LEVELS, INCREASING_LEVELS, WEIGHTS, RandAugment
from twinseg.common.errors import UserError

BICUBIC, BILINEAR, AFFINE = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Transform.AFFINE
FILL = (124, 116, 104)
STANDARD_DEVIATIONS = 5  # of a share that a test counts, from its expectation
few = settings(max_examples=60, deadline=None)


def augment(**keys) -> config.Augment:
    return config.from_flat({'set': 'image_folder', **keys}).augment


def plain(**keys) -> config.Augment:
    """Crops alone."""
    return augment(**{'flip_prob': 0.0, 'color_jitter': 0.0, **keys})


def photo(height: int = 37, width: int = 50, seed: int = 0) -> Image.Image:
    """A picture with smooth parts and noise, that leaves out the ends of the range."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 220, (4, 5, 3), dtype=np.uint8)).resize((width, height), BICUBIC)
    return Image.fromarray(np.asarray(coarse) // 2 + rng.integers(10, 90, (height, width, 3), dtype=np.uint8))


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def near(count: int, total: int, share: float) -> bool:
    return abs(count - total * share) <= STANDARD_DEVIATIONS * math.sqrt(total * share * (1 - share))


# RandAugment's operations, each against the call of Pillow that it stands for. m: magnitude 0..10, s: sign


def masked(image: Image.Image, bits: int) -> Image.Image:
    """Posterize: the highest bits of each value."""
    step = 256 >> bits
    return (
        Image.fromarray(np.asarray(image) // np.array(step, np.uint16) * step).convert('RGB')
        if bits
        else Image.new('RGB', image.size)
    )


def added(image: Image.Image, amount: int) -> Image.Image:
    pixels = np.asarray(image).astype(int)
    return Image.fromarray(np.where(pixels < 128, np.minimum(pixels + amount, 255), pixels).astype(np.uint8))


def shifted(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, AFFINE, matrix, resample=BICUBIC, fillcolor=FILL)


BOTH = {
    'AutoContrast': lambda i, m, s: ImageOps.autocontrast(i),
    'Equalize': lambda i, m, s: ImageOps.equalize(i),
    'Invert': lambda i, m, s: ImageOps.invert(i),
    'Rotate': lambda i, m, s: i.rotate(s * 3.0 * m, resample=BICUBIC, fillcolor=FILL),
    'SolarizeAdd': lambda i, m, s: added(i, 11 * m),
    'ShearX': lambda i, m, s: shifted(i, 1, s * (m / 10.0) * 0.3, 0, 0, 1, 0),
    'ShearY': lambda i, m, s: shifted(i, 1, 0, 0, s * (m / 10.0) * 0.3, 1, 0),
    'TranslateXRel': lambda i, m, s: shifted(i, 1, 0, s * (m / 10.0) * 0.45 * 50, 0, 1, 0),
    'TranslateYRel': lambda i, m, s: shifted(i, 1, 0, 0, 0, 1, s * (m / 10.0) * 0.45 * 37),
}
POSTERIZE_BITS = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4]  # of magnitudes 0 to 10
SOLARIZE_THRESHOLDS = [0, 25, 51, 76, 102, 128, 153, 179, 204, 230, 256]
BASE = {
    **BOTH,
    'Posterize': lambda i, m, s: masked(i, POSTERIZE_BITS[m]),
    'Solarize': lambda i, m, s: ImageOps.solarize(i, SOLARIZE_THRESHOLDS[m]),
    'Color': lambda i, m, s: ImageEnhance.Color(i).enhance((m / 10.0) * 1.8 + 0.1),
    'Contrast': lambda i, m, s: ImageEnhance.Contrast(i).enhance((m / 10.0) * 1.8 + 0.1),
    'Brightness': lambda i, m, s: ImageEnhance.Brightness(i).enhance((m / 10.0) * 1.8 + 0.1),
    'Sharpness': lambda i, m, s: ImageEnhance.Sharpness(i).enhance((m / 10.0) * 1.8 + 0.1),
}
INCREASING = {
    **BOTH,
    'Posterize': lambda i, m, s: masked(i, 4 - POSTERIZE_BITS[m]),
    'Solarize': lambda i, m, s: ImageOps.solarize(i, 256 - SOLARIZE_THRESHOLDS[m]),
    'Color': lambda i, m, s: ImageEnhance.Color(i).enhance(max(0.1, 1 + s * (m / 10.0) * 0.9)),
    'Contrast': lambda i, m, s: ImageEnhance.Contrast(i).enhance(max(0.1, 1 + s * (m / 10.0) * 0.9)),
    'Brightness': lambda i, m, s: ImageEnhance.Brightness(i).enhance(max(0.1, 1 + s * (m / 10.0) * 0.9)),
    'Sharpness': lambda i, m, s: ImageEnhance.Sharpness(i).enhance(max(0.1, 1 + s * (m / 10.0) * 0.9)),
}


def test_all_operations_are_compared():
    assert set(BASE) == set(INCREASING) == set(BASE_LEVELS) == set(INCREASING_LEVELS) and len(BASE) == 15


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize('magnitude', range(11))
@pytest.mark.parametrize('description, references', [('rand', BASE), ('rand-inc0', BASE), ('rand-inc1', INCREASING)])
def test_each_operation_is_pillows(description, references, magnitude, sign):
    image, operations = photo(), RandAugment(description, FILL)
    for name, reference in references.items():
        found = operations.apply(image, name, magnitude / 10, sign)
        assert found.mode == 'RGB' and same(found, reference(image, magnitude, sign)), name


def test_posterize_is_pillows_where_pillow_has_it():
    for magnitude in range(3, 11):
        found = RandAugment('rand').apply(photo(), 'Posterize', magnitude / 10, 1)
        assert same(found, ImageOps.posterize(photo(), POSTERIZE_BITS[magnitude]))


@pytest.mark.parametrize('name', ['Rotate', 'ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel'])
def test_what_moves_in_has_the_mean_colour_and_pixels_are_interpolated(name):
    grey = Image.new('RGB', (50, 37), (7, 7, 7))
    moved = np.asarray(RandAugment('rand', FILL).apply(grey, name, 1.0, 1)).reshape(-1, 3)
    assert {(7, 7, 7), FILL} <= set(map(tuple, moved.tolist()))
    found = [RandAugment('rand', FILL).apply(photo(), name, 0.37, 1, way) for way in (BILINEAR, BICUBIC)]
    assert not same(*found)


@pytest.mark.parametrize('increasing', [False, True])
def test_every_operation_draws_its_sign_both_ways(increasing):
    operations = RandAugment('rand-m7-n1-p1' + '-inc1' * increasing)
    references, image = (INCREASING if increasing else BASE), photo()
    signed = {name for name, call in references.items() if not same(call(image, 7, 1), call(image, 7, -1))}
    assert signed == {'Rotate', 'ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel'} | (
        {'Color', 'Contrast', 'Brightness', 'Sharpness'} if increasing else set()
    )
    expected = {(name, sign): np.asarray(references[name](image, 7, sign)).tobytes() for name in references for sign in (-1, 1)}
    found = {np.asarray(operations(image, np.random.default_rng(seed))).tobytes() for seed in range(400)}
    assert found == set(expected.values())


# Its description


@pytest.mark.parametrize(
    'description, magnitude, std, largest, count, probability, increasing, weighted',
    [
        ('rand', 10, 0, 10, 2, 0.5, False, False),
        ('rand-m9-mstd0.5-inc1', 9, 0.5, 10, 2, 0.5, True, False),
        ('rand-m9-mstd0.5-inc0', 9, 0.5, 10, 2, 0.5, False, False),
        ('rand-inc1-n3-m7', 7, 0, 10, 3, 0.5, True, False),
        ('rand-mstd1-w0', 10, 1, 10, 2, 0.5, False, True),
        ('rand-m12-mmax15-p0.25', 12, 0, 15, 2, 0.25, False, False),
        ('rand-m6-mstd101', 6, 101, 10, 2, 0.5, False, False),
    ],
)
def test_descriptions(description, magnitude, std, largest, count, probability, increasing, weighted):
    made = RandAugment(description)
    assert (made.magnitude, made.std, made.largest, made.count, made.probability) == (
        magnitude,
        std,
        largest,
        count,
        probability,
    )
    assert made.levels is (INCREASING_LEVELS if increasing else BASE_LEVELS) and (made.weights is not None) is weighted


@pytest.mark.parametrize(
    'description, part',
    [
        ('v0', "starts with 'v0'"),
        ('augmix-m5', "starts with 'augmix'"),
        ('', "starts with ''"),
        ('RAND-m9', "'RAND'"),
        ('rand-m9-q3', "'q3'"),
        ('rand-m', "'m'"),
        ('rand-m9.5', "'m9.5'"),
        ('rand-m-9', "'m'"),
        ('rand-n0', "'n0'"),
        ('rand-w1', "'w1'"),
        ('rand-p1.5', "'p1.5'"),
        ('rand-inc2', "'inc2'"),
        ('rand-mstdinf', "'mstdinf'"),
        ('rand-', "''"),
        ('rand-m9-m8', 'm is given twice'),
        ('rand-w0-n14', 'n14 is more than the 13'),
        ('rand-mmax0', "'mmax0'"),
    ],
)
def test_a_part_that_means_nothing_is_named(description, part):
    with pytest.raises(UserError, match=f'auto_augment: .*{part}'):
        RandAugment(description)


class Recorded(RandAugment):
    """Remembers the operations and levels instead of applying them."""

    def __init__(self, description):
        super().__init__(description)
        self.calls = []

    def apply(self, image, name, level, sign, interpolation=BICUBIC):
        self.calls.append((name, level, sign, interpolation))
        return image


def drawn(description: str, runs: int = 3000) -> list[tuple]:
    operations = Recorded(description)
    rng = np.random.default_rng(0)
    for _ in range(runs):
        operations(photo(2, 2), rng, (BILINEAR, BICUBIC))
    return operations.calls


def test_operations_are_drawn_evenly_with_repetition():
    calls = drawn('rand')
    assert near(len(calls), 6000, 0.5)
    for name in BASE:
        assert near(sum(call[0] == name for call in calls), len(calls), 1 / 15)
    assert near(sum(call[2] == 1 for call in calls), len(calls), 0.5)
    assert near(sum(call[3] == BILINEAR for call in calls), len(calls), 0.5)
    pairs = drawn('rand-p1')
    assert near(sum(first[0] == second[0] for first, second in zip(pairs[::2], pairs[1::2])), 3000, 1 / 15)


def test_weighted_operations_are_drawn_without_repetition():
    calls = drawn('rand-w0-n1-p1')
    for name in BASE:
        assert near(sum(call[0] == name for call in calls), len(calls), WEIGHTS.get(name, 0))
    names = [call[0] for call in drawn('rand-w0-n13-p1', runs=20)]
    assert all(len(set(names[first : first + 13])) == 13 for first in range(0, len(names), 13))


def test_magnitudes():
    normal = np.array([call[1] for call in drawn('rand-m5-mstd0.5-p1')])
    assert abs(normal.mean() - 0.5) < 0.003 and abs(normal.std() - 0.05) < 0.003
    cut = np.array([call[1] for call in drawn('rand-m9-mstd3-p1')])
    assert cut.min() >= 0 and cut.max() == 1 and 0.3 < (cut == 1).mean() < 0.45
    uniform = np.array([call[1] for call in drawn('rand-m8-mstd101-p1')])
    assert uniform.min() < 0.01 and 0.79 < uniform.max() <= 0.8 and abs(uniform.mean() - 0.4) < 0.01
    assert {call[1] for call in drawn('rand-m14-mmax12', 50)} == {1.2} and {call[1] for call in drawn('rand-m14', 50)} == {1.0}


# Crops


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1), st.floats(0.2, 1), st.integers(0, 10000))
@few
def test_random_boxes_lie_in_the_image(height, width, scale, ratio, seed):
    keys = augment(scale=[scale / 2, scale], ratio=[ratio, 1 / ratio])
    top, left, box_height, box_width = crop_box(height, width, keys, np.random.default_rng(seed))
    assert top >= 0 and left >= 0 and box_height > 0 and box_width > 0
    assert top + box_height <= height and left + box_width <= width


def test_random_boxes_have_the_area_and_the_ratio_asked_for():
    boxes = np.array([crop_box(450, 450, augment(), np.random.default_rng(seed)) for seed in range(2000)])
    area, ratio = boxes[:, 2] * boxes[:, 3] / 450**2, boxes[:, 3] / boxes[:, 2]
    assert 0.079 < area.min() < 0.1 and 0.9 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.35 and abs(np.log(ratio).mean()) < 0.02


@pytest.mark.parametrize(
    'size, ratio, expected',
    [
        ((100, 1000), [3 / 4, 4 / 3], (0, 433, 100, 133)),
        ((1000, 100), [3 / 4, 4 / 3], (433, 0, 133, 100)),
        ((60, 60), [1.2, 1.3], (5, 0, 50, 60)),
    ],
)
def test_the_centre_is_taken_where_no_box_fits(size, ratio, expected):
    assert crop_box(*size, augment(scale=[1.0, 1.0], ratio=ratio), np.random.default_rng(0)) == expected


@pytest.mark.parametrize('name', ['nearest', 'bilinear', 'bicubic', 'lanczos'])
def test_a_crop_is_resized_as_pillow_does(name):
    image, keys = photo(80, 100), plain(interpolation=name)
    top, left, height, width = crop_box(80, 100, keys, np.random.default_rng(3))
    expected = image.crop((left, top, left + width, top + height)).resize((32, 24), Image.Resampling[name.upper()])
    assert np.array_equal(train_image(np.asarray(image), keys, (24, 32), np.random.default_rng(3)), np.asarray(expected))


def test_random_interpolation_draws_both():
    image, keys = photo(80, 100), plain(interpolation='random', scale=[1.0, 1.0], ratio=[1.25, 1.25])
    expected = {np.asarray(image.resize((32, 24), way)).tobytes() for way in (BILINEAR, BICUBIC)}
    found = [train_image(np.asarray(image), keys, (24, 32), np.random.default_rng(seed)).tobytes() for seed in range(20)]
    assert set(found) == expected


def test_flip():
    image = np.asarray(photo(24, 32))
    for probability, expected in ((1.0, image[:, ::-1]), (0.0, image)):
        keys = plain(flip_prob=probability, scale=[1.0, 1.0], ratio=[4 / 3, 4 / 3])
        assert np.array_equal(train_image(image, keys, (24, 32), np.random.default_rng(0)), expected)


@pytest.mark.parametrize(
    'image_size, size, crop_pct, kept, squared',
    [
        ((375, 500), (224, 224), 0.875, (256, 341), (256, 256)),
        ((500, 333), (224, 224), 0.95, (352, 235), (235, 235)),
        ((32, 32), (64, 64), 1.0, (64, 64), (64, 64)),
        ((20, 90), (64, 64), 0.875, (73, 328), (73, 73)),
        ((300, 301), (96, 160), 0.9, (176, 177), (106, 177)),
        ((301, 140), (160, 96), 0.9, (227, 106), (177, 106)),
    ],
)
@pytest.mark.parametrize('square', [False, True])
def test_evaluation_is_a_resize_and_a_centre_crop(image_size, size, crop_pct, kept, squared, square):
    image = photo(*image_size)
    found = eval_image(np.asarray(image), augment(crop_pct=crop_pct, square_resize=square), size)
    scaled = squared if square else kept
    top, left = round((scaled[0] - size[0]) / 2), round((scaled[1] - size[1]) / 2)
    expected = image.resize(scaled[::-1], BICUBIC).crop((left, top, left + size[1], top + size[0]))
    assert found.dtype == np.uint8 and np.array_equal(found, np.asarray(expected))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(1, 50), st.floats(0.1, 1), st.booleans())
@few
def test_any_image_is_evaluated(height, width, out_height, out_width, crop_pct, square):
    keys = augment(crop_pct=crop_pct, square_resize=square)
    assert eval_image(np.asarray(photo(height, width)), keys, (out_height, out_width)).shape == (out_height, out_width, 3)


def test_a_line_of_pixels_is_evaluated():
    assert eval_image(np.zeros((1, 60000, 3), np.uint8), augment(), (224, 224)).shape == (224, 224, 3)


# Colour, erasing, and all together


def test_colour_jitter_is_three_enhancements_in_any_order():
    image, orders = photo(), set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        factors, order = rng.uniform(0.6, 1.4, 3), rng.permutation(3)
        expected = image
        for place in order:
            enhancement = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[place]
            expected = enhancement(expected).enhance(factors[place])
        assert same(color_jitter(image, 0.4, np.random.default_rng(seed)), expected)
        orders.add(tuple(order))
    assert len(orders) == 6


def test_colour_jitter_never_inverts():
    dark = [np.asarray(color_jitter(photo(), 3.0, np.random.default_rng(seed))).mean() for seed in range(30)]
    assert min(dark) >= 0 and max(dark) > 150


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 5), st.integers(0, 10000))
@few
def test_erased_boxes_lie_in_the_image(height, width, most, seed):
    boxes = erased_boxes(height, width, most, np.random.default_rng(seed))
    assert len(boxes) <= most
    for top, left, box_height, box_width in boxes:
        assert 0 <= top <= height - box_height and 0 <= left <= width - box_width
        assert box_height < height and box_width < width


def test_erased_boxes_have_the_area_and_the_aspect_asked_for():
    for most in (1, 3):
        drawn = [erased_boxes(400, 500, most, np.random.default_rng(seed)) for seed in range(600)]
        counts = np.bincount([len(boxes) for boxes in drawn])
        assert len(counts) == most + 1 and all(near(count, 600, 1 / most) for count in counts[1:] if most > 1)
        shares = np.array([height * width / 200000 * len(boxes) for boxes in drawn for _, _, height, width in boxes])
        aspects = np.array([height / width for boxes in drawn for _, _, height, width in boxes])
        assert 0.019 < shares.min() < 0.03 and 0.32 < shares.max() < 0.34
        assert 0.29 < aspects.min() < 0.32 and 3.1 < aspects.max() < 3.5 and abs(np.log(aspects).mean()) < 0.1


@pytest.mark.parametrize('mode', ['const', 'rand', 'pixel'])
def test_erased_colours(mode):
    colours = []
    for seed in range(200):
        pixels = np.zeros((40, 50, 3), np.uint8)
        erase(
            pixels,
            augment(re_prob=1.0, re_mode=mode, mean=[120.0, 110.0, 100.4], std=[10.0, 20.0, 30.0]),
            np.random.default_rng(seed),
        )
        inside = pixels.reshape(-1, 3)[pixels.any(-1).ravel()]
        assert 0 < len(inside) < 1000
        assert len(np.unique(inside, axis=0)) == 1 or mode == 'pixel'
        colours.append(inside if mode == 'pixel' else inside[:1])
    found = np.concatenate(colours)
    assert np.allclose(found.mean(0), [120, 110, 100.4], atol=0.5 if mode != 'rand' else 8)
    assert np.allclose(found.std(0), [0, 0, 0] if mode == 'const' else [10, 20, 30], rtol=0.2)


def test_erasing_has_its_probability():
    count = 0
    for seed in range(400):
        pixels = np.zeros((20, 20, 3), np.uint8)
        erase(pixels, augment(re_prob=0.25), np.random.default_rng(seed))
        count += bool(pixels.any())
    assert near(count, 400, 0.25)


def test_what_cannot_be_done_is_known_before_the_first_image():
    with pytest.raises(UserError, match="auto_augment: 'v0'"):
        check_augmentation(augment(auto_augment='v0'))
    check_augmentation(augment(auto_augment='rand-m9-mstd0.5-inc1'))


ZOO = {'auto_augment': 'rand-m9-mstd0.5-inc1', 're_prob': 0.25, 're_mode': 'pixel', 'interpolation': 'bicubic'}


@pytest.mark.parametrize(
    'keys',
    [
        ZOO,
        {},
        {'interpolation': 'random', 'auto_augment': 'rand-w0-n3'},
        {'interpolation': 'lanczos', 'auto_augment': 'rand-p1'},
    ],
)
def test_real_images(data_folder: Path, keys):
    tar = str(data_folder / 'cifar10-imagefolder.tar')
    if not Path(tar).is_file():
        pytest.skip(f'{tar} is absent')
    dataset = open_dataset(config.from_flat({'set': 'image_folder', 'data_url': tar}).data, 'val')
    options = augment(**keys)
    for index in range(0, 2000, 100):
        image = dataset.read_image(index)
        before = image.copy()
        first, second, other = (
            train_image(image, options, (64, 64), np.random.default_rng([seed, index])) for seed in (0, 0, 1)
        )
        assert first.shape == (64, 64, 3) and first.dtype == np.uint8 and first.flags.writeable
        assert np.array_equal(first, second) and not np.array_equal(first, other)
        assert np.array_equal(image, before)


def test_without_random_parts_the_image_stays():
    image = np.asarray(photo(64, 64))
    keys = plain(scale=[1.0, 1.0], ratio=[1.0, 1.0])
    assert np.array_equal(train_image(image, keys, (64, 64), np.random.default_rng(0)), image)
