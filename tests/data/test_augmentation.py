"""Sampling and augmentation: pure functions of seed, epoch and index, and the same geometry as the straightforward way."""

import logging
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from twinseg.common import config
from twinseg.common.data import segmentation_transforms
from twinseg.common.data.base import Dataset, Description, Sample
from twinseg.common.data.samples import TrainSamples
from twinseg.common.data.sampling import epoch_order, rank_positions, sample_rng, steps_per_epoch, training_batches
from twinseg.common.data.segmentation_transforms import (
    Crop,
    antialiased,
    covering_size,
    is_varied,
    photometric_distortion,
    random_crop,
    scale_colors,
    scaled_size,
    train_transform,
    warp,
)
from twinseg.common.errors import DataError

GREY_LEVELS = 2  # a warp in one step against scaling everything: OpenCV rounds weights to 1/32
BORDER_SHARE = 0.02  # of label pixels whose centre falls between two pixels, on either way
few = settings(max_examples=60, deadline=None)


def augment(**keys) -> config.Augment:
    return config.from_flat({'crop_size': [24, 32], **keys}).augment


def scene(height: int = 40, width: int = 50, seed: int = 0, label_zero: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image, and a label in patches whose id can be read off the image: red is ten times the id. ``label_zero``:
    whether a patch may have the id 0."""
    rng = np.random.default_rng(seed)
    label = cv2.resize(
        rng.integers(int(not label_zero), 5, (4, 5), dtype=np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    image = cv2.resize(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), (width, height))
    image[..., 0] = label * 10
    return image, label


class Scenes(Dataset):
    """Scenes in memory; the indices in ``broken`` cannot be read."""

    def __init__(self, count: int = 10, broken: tuple[int, ...] = ()):
        super().__init__(
            'scenes',
            'train',
            Description(tuple('abcde'), np.zeros((5, 3), np.uint8)),
            [Sample(f'scene{i}', None, None) for i in range(count)],
        )
        self.broken = broken

    def read(self, index):
        if index in self.broken:
            raise DataError(f'scene{index}.png: truncated')
        return scene(seed=index)


# Sampling


def test_an_epoch_is_a_permutation_of_its_own():
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(epoch_order(50, 0, 1), orders[1])


def test_every_sample_has_its_own_numbers():
    keys = [(seed, epoch, index) for seed in (0, 1, 2**40) for epoch in range(3) for index in range(3)]
    assert len({float(sample_rng(*key).random()) for key in keys}) == len(keys)
    assert sample_rng(1, 2, 3).random() == sample_rng(1, 2, 3).random()


@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_processes_share_an_epoch_without_overlap(world_size):
    length, batch_size = 25, 4
    steps = steps_per_epoch(length, batch_size, world_size)
    shards = [list(training_batches(length, batch_size, 7, 0, steps, rank, world_size)) for rank in range(world_size)]
    seen = [key for shard in shards for batch in shard for key in batch]
    assert len(seen) == len(set(seen)) == steps * batch_size * world_size
    assert {epoch for epoch, _ in seen} == {0}
    whole = list(training_batches(length, batch_size * world_size, 7, 0, steps))
    for rank, shard in enumerate(shards):
        positions = rank_positions(batch_size, rank, world_size)
        assert shard == [[batch[position] for position in positions] for batch in whole]
        assert set(world_size * batch_size - 1 - positions) == set(positions), 'partners of the reversed batch are together'


@pytest.mark.parametrize('batch_size', [1, 2, 5, 6])
@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_the_processes_share_the_global_batch(batch_size, world_size):
    positions = [rank_positions(batch_size, rank, world_size).tolist() for rank in range(world_size)]
    assert sorted(sum(positions, [])) == list(range(batch_size * world_size))
    assert all(taken == sorted(taken) and len(taken) == batch_size for taken in positions)


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 60), st.integers(0, 30))
@few
def test_resumed_batches_are_those_of_the_whole_run(length, batch_size, start, count):
    if length < batch_size:
        return
    whole = list(training_batches(length, batch_size, 3, 0, start + count))
    assert list(training_batches(length, batch_size, 3, start, start + count)) == whole[start:]
    endless = training_batches(length, batch_size, 3, start)
    assert [next(endless) for _ in range(count)] == whole[start:]


def test_an_epoch_repeats_the_data_set():
    """Each image comes ``repeat`` times, augmented anew, and no batch is cut at the end of a pass through the data."""
    epochs = list(training_batches(5, 3, 7, 0, 10, repeat=3))
    first, second = (sum(epochs[start : start + 5], []) for start in (0, 5))
    for epoch in (first, second):
        assert sorted(index for _, index in epoch) == sorted(3 * list(range(5)))
    assert len({*first, *second}) == 30
    assert list(training_batches(5, 3, 7, 4, 10, repeat=3)) == epochs[4:]
    assert len(list(training_batches(2, 3, 7, 0, 1, repeat=2))) == 1, 'fewer images than a batch'


@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_the_last_batch_may_be_smaller(world_size):
    """25 images in batches of 4: each comes once in an epoch, or again at its end where the processes' parts of the last batch
    are filled up to pairs."""
    steps = steps_per_epoch(25, 4, world_size, drop_last=False)
    assert steps == {1: 7, 2: 4, 3: 3}[world_size]
    shards = [list(training_batches(25, 4, 7, 0, 2 * steps, rank, world_size, drop_last=False)) for rank in range(world_size)]
    for epoch in (0, 1):
        last = [shard[steps * (epoch + 1) - 1] for shard in shards]
        assert [len(part) for part in last] == [1 if world_size == 1 else 2] * world_size
        keys = [key for shard in shards for batch in shard[steps * epoch : steps * (epoch + 1)] for key in batch]
        assert sorted(index for _, index in set(keys)) == list(range(25)) and {number for number, _ in keys} == {epoch}
    alone = list(training_batches(25, 4 * world_size, 7, 0, 2 * steps, drop_last=False))
    assert all({key for part in parts for key in part} >= set(batch) for batch, parts in zip(alone, zip(*shards)))
    assert list(training_batches(25, 4, 7, 3, 2 * steps, 0, world_size, drop_last=False)) == shards[0][3:]
    assert len(list(training_batches(3, 4, 7, 0, 1, drop_last=False))[0]) == 3, 'fewer images than a batch'


def test_a_data_set_smaller_than_the_batch_is_refused():
    with pytest.raises(DataError, match=r'5 samples do not fill one batch of 6 \(batch_size 3 x 2 processes\)'):
        steps_per_epoch(5, 3, 2)


# Geometry


def slow_warp(pixels: np.ndarray, crop: Crop, interpolation: int) -> np.ndarray:
    whole = cv2.resize(pixels, (crop.scaled_width, crop.scaled_height), interpolation=interpolation)
    return whole[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


CROPS = [
    Crop(80, 100, 10, 20, 24, 32),
    Crop(20, 25, 0, 0, 20, 25),
    Crop(57, 71, 33, 39, 24, 32),
    Crop(40, 50, 3, 7, 24, 32),
    Crop(93, 50, 0, 18, 60, 32),
]


@pytest.mark.parametrize('crop', CROPS)
def test_one_warp_equals_scaling_everything_and_cropping(crop):
    image, label = scene()
    fast, slow = warp(image, crop, cv2.INTER_LINEAR), slow_warp(image, crop, cv2.INTER_LINEAR)
    assert fast.shape == slow.shape
    assert np.abs(fast.astype(int) - slow).max() <= GREY_LEVELS
    fast, slow = warp(label, crop, cv2.INTER_NEAREST), slow_warp(label, crop, cv2.INTER_NEAREST_EXACT)
    assert (fast != slow).mean() <= BORDER_SHARE


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(0.1, 4),
    st.integers(0, 1000),
    st.sampled_from([{}, {'small_image': 'enlarge'}, {'antialias': True}, {'small_image': 'enlarge', 'antialias': True}]),
)
@few
def test_any_size_gives_the_crop_size(height, width, crop_height, crop_width, ratio, seed, more):
    keys = augment(crop_size=[crop_height, crop_width], ratio_range=[ratio / 2, ratio], **more)
    image, label = scene(height, width)
    before = image.copy(), label.copy()
    image_out, label_out = train_transform(image, label, keys, np.random.default_rng(seed))
    assert image_out.shape == (crop_height, crop_width, 3) and label_out.shape == (crop_height, crop_width)
    assert image_out.dtype == label_out.dtype == np.uint8
    assert set(np.unique(label_out)) <= {*np.unique(label), *([] if more.get('small_image') else [255])}
    assert np.array_equal(image, before[0]) and np.array_equal(label, before[1])


@given(st.integers(0, 10000))
@few
def test_image_and_label_stay_aligned(seed):
    keys = augment(photometric_distortion=False, mean=[255.0, 255.0, 255.0])
    image, label = train_transform(*scene(), keys, np.random.default_rng(seed))
    inside = label != 255
    assert (image[~inside] == 255).all()
    around = np.ones((7, 7), np.uint8)
    far = inside & (cv2.erode(label, around) == cv2.dilate(label, around))  # from edges between patches
    differences = np.abs(image[..., 0].astype(int) - label.astype(int) * 10)
    assert differences[3:-3, 3:-3][far[3:-3, 3:-3]].max(initial=0) <= 1


def test_the_region_of_a_crop_is_all_that_is_read():
    image = np.zeros((1000, 20, 3), np.uint8)

    class Recorder(np.ndarray):
        rows: slice

        def __getitem__(self, place):
            Recorder.rows = place[0]
            return np.asarray(self)[place]

    warp(image.view(Recorder), Crop(500, 10, 100, 0, 50, 10), cv2.INTER_LINEAR)
    assert 195 <= Recorder.rows.start and Recorder.rows.stop <= 305


@pytest.mark.parametrize('crop', CROPS)
def test_an_antialiased_crop_is_pillows(crop):
    image, _ = scene()
    image = np.clip(image + np.random.default_rng(1).integers(-40, 40, image.shape), 0, 255).astype(np.uint8)
    whole = Image.fromarray(image).resize((crop.scaled_width, crop.scaled_height), Image.Resampling.BILINEAR)
    slow = np.array(whole)[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    fast = antialiased(image, crop)
    assert fast.shape == slow.shape and np.abs(fast.astype(int) - slow).max() <= GREY_LEVELS
    if crop.scaled_width < image.shape[1] * 0.8:  # otherwise both read four pixels
        assert np.abs(warp(image, crop, cv2.INTER_LINEAR).astype(int) - slow).max() > 4 * GREY_LEVELS


@pytest.mark.parametrize(
    'size, crop, expected',
    [
        ((128, 256), [512, 1024], (513, 1025)),  # Cityscapes at 0.125, STDC-Seg's smallest scale
        ((384, 768), [512, 1024], (513, 1025)),
        ((512, 1024), [512, 1024], None),
        ((360, 480), [720, 960], (721, 961)),
        ((100, 400), [200, 200], (201, 801)),  # the shorter relation covers the crop
        ((400, 100), [200, 200], (801, 201)),
    ],
)
def test_a_small_image_is_enlarged_until_it_covers_the_crop(size, crop, expected):
    assert covering_size(*size, crop) == expected


def test_scales_are_drawn_from_the_set():
    keys, rng = augment(base_size=[40, 80], scale_set=[0.5, 0.75, 1.0, 2.0]), np.random.default_rng(0)
    heights = [random_crop(np.zeros((40, 80), np.uint8), keys, rng).scaled_height for _ in range(400)]
    assert {height: heights.count(height) > 70 for height in set(heights)} == dict.fromkeys((20, 30, 40, 80), True)


def test_color_factors_change_the_whole_image_as_pillow_does():
    """... by the formula of Pillow's ImageEnhance: a blend with black, with the mean grey, with the grey of each pixel."""
    image, _ = scene()
    found = scale_colors(image, [0.5, 1.5], np.random.default_rng(5)).astype(float)
    brightness, contrast, saturation = np.random.default_rng(5).uniform(0.5, 1.5, 3)

    def grey(pixels):
        return np.rint(pixels @ [0.299, 0.587, 0.114])

    expected = np.clip(image * brightness, 0, 255).astype(np.uint8).astype(float)
    middle = round(grey(expected).mean())
    expected = np.clip(middle + contrast * (expected - middle), 0, 255).astype(np.uint8).astype(float)
    around = grey(expected)[..., None]
    expected = np.clip(around + saturation * (expected - around), 0, 255)
    assert np.abs(found - expected).max() <= GREY_LEVELS and np.abs(found - image).max() > 20


@pytest.mark.parametrize('scale', [0.125, 0.375, 0.5, 0.75, 1.0, 1.5])
def test_a_sample_is_that_of_stdc_seg(scale):
    """transform.py of MichaelFan01/STDC-Seg, steps written again with Pillow, given the numbers that are drawn here."""
    seed, (height, width), sizes = int(1000 * scale), (64, 128), (int(256 * scale), int(128 * scale))
    keys = config.from_flat(
        {
            'crop_size': [height, width],
            'scale_set': [scale],
            'small_image': 'enlarge',
            'antialias': True,
            'color_factors': [0.5, 1.5],
            'photometric_distortion': False,
            'cat_max_ratio': 1.0,
            'flip_prob': 0.0,
        }
    ).augment
    image, label = scene(128, 256)
    ours, our_label = train_transform(image, label, keys, np.random.default_rng(seed))

    rng = np.random.default_rng(seed)
    picture = Image.fromarray(image)
    for kind, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), rng.uniform(0.5, 1.5, 3)):
        picture = kind(picture).enhance(factor)
    rng.integers(1)
    y, x = rng.random((segmentation_transforms.CROP_TRIES, 2))[0]
    pictures = [picture.resize(sizes, Image.BILINEAR), Image.fromarray(label).resize(sizes, Image.NEAREST)]
    if sizes[0] < width or sizes[1] < height:
        factor = width / sizes[0] if sizes[0] < sizes[1] else height / sizes[1]
        sizes = (int(factor * sizes[0] + 1), int(factor * sizes[1] + 1))
        pictures = [pictures[0].resize(sizes, Image.BILINEAR), pictures[1].resize(sizes, Image.NEAREST)]
    left, top = int(x * (sizes[0] - width + 1)), int(y * (sizes[1] - height + 1))  # theirs leave out the last offset
    theirs, their_label = (np.array(one.crop((left, top, left + width, top + height))) for one in pictures)
    assert np.abs(ours.astype(int) - theirs).max() <= GREY_LEVELS
    assert (our_label != their_label).mean() <= 2 * BORDER_SHARE, 'labels are resized twice'


@pytest.mark.parametrize(
    'size, base, ratio, expected',
    [
        ((1024, 2048), None, 0.5, (512, 1024)),
        ((1024, 2048), [1024, 2048], 1.5, (1536, 3072)),
        ((360, 480), [720, 960], 1.0, (720, 960)),
        ((300, 400), [1024, 2048], 1.0, (1024, 1365)),  # limited by the short side
        ((400, 300), [1024, 2048], 1.0, (1365, 1024)),  # an upright image: long side to long side
        ((3, 1000), [10, 10], 0.5, (1, 5)),
    ],
)
def test_scaled_size_keeps_proportions(size, base, ratio, expected):
    assert scaled_size(*size, base, ratio) == expected


def test_flip():
    keys = augment(crop_size=[40, 50], ratio_range=[1.0, 1.0], photometric_distortion=False, flip_prob=1.0)
    image, label = scene()
    image_out, label_out = train_transform(image, label, keys, np.random.default_rng(0))
    assert np.array_equal(image_out, image[:, ::-1]) and np.array_equal(label_out, label[:, ::-1])


def test_rotation_turns_both_and_ignores_the_corners():
    image, label = scene()
    turned = segmentation_transforms.rotate(image, label, 90.0, [1.0, 2.0, 3.0])
    square = np.rot90(image[:, 5:45]), np.rot90(label[:, 5:45])
    assert np.array_equal(turned[0][:, 5:45], square[0]) and np.array_equal(turned[1][:, 5:45], square[1])
    assert (turned[0][:, :5] == [1, 2, 3]).all() and (turned[1][:, :5] == 255).all()


def test_rotation_stays_within_its_angle():
    keys = augment(crop_size=[40, 50], ratio_range=[1.0, 1.0], photometric_distortion=False, flip_prob=0.0, rotate=10.0)
    image, label = scene()
    shares = [(train_transform(image, label, keys, np.random.default_rng(seed))[1] == 255).mean() for seed in range(20)]
    widest = (segmentation_transforms.rotate(image, label, 10.0, [0, 0, 0])[1] == 255).mean()
    assert max(shares) <= widest and len(set(shares)) > 10


@pytest.mark.parametrize('crop_size', [[56, 70], [90, 120]])
@pytest.mark.parametrize(
    'padding, colour, class_id',
    [('ignore', [124, 116, 104], 255), ('black', [0, 0, 0], 255), ('background', [0, 0, 0], 0)],
)
def test_the_whole_image_is_turned_before_the_crop(crop_size, padding, colour, class_id):
    """yassouali's order (base_dataset.py:63-106): scale, rotation, padding, crop."""
    keys = augment(
        crop_size=crop_size,
        base_size=[80, 80],
        ratio_range=[1.0, 1.0],
        cat_max_ratio=1.0,
        photometric_distortion=False,
        flip_prob=0.0,
        rotate=10.0,
        rotate_before_crop=True,
        padding=padding,
    )
    image, label = scene(label_zero=False)
    beyond = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        crop = segmentation_transforms.random_crop(label, keys, rng)
        degrees = rng.uniform(-10, 10)
        scaled = cv2.resize(image, (80, 64)), cv2.resize(label, (80, 64), interpolation=cv2.INTER_NEAREST)
        turned = segmentation_transforms.rotate(*scaled, degrees, colour, class_id)
        box = np.s_[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        expected = [
            segmentation_transforms.pad(pixels[box], crop_size, fill) for pixels, fill in zip(turned, (colour, [class_id]))
        ]
        found = train_transform(image, label, keys, np.random.default_rng(seed))
        assert (found[1] != expected[1]).mean() < BORDER_SHARE
        inside = cv2.erode((expected[1] != class_id).astype(np.uint8), np.ones((5, 5))) > 0
        difference = np.abs(found[0].astype(int) - expected[0])[inside]  # the label's edges are steps of the red channel
        assert (difference > 8).mean() < BORDER_SHARE and np.median(difference) <= 1
        corners = cv2.erode((expected[1] == class_id).astype(np.uint8), np.ones((3, 3)), borderValue=1) > 0
        assert (found[0][corners] == colour).all()
        beyond += corners.sum()
    assert beyond > 0


@pytest.mark.parametrize('padding, class_id', [('black', 255), ('background', 0)])
def test_black_around_an_image_is_mirrored_with_it(padding, class_id):
    """HRNet's and yassouali's order: padding, flip."""
    keys = dict(crop_size=[60, 70], ratio_range=[1.0, 1.0], cat_max_ratio=1.0, photometric_distortion=False, flip_prob=1.0)
    image, label = scene(label_zero=False)
    padded = train_transform(image, label, augment(**keys, padding=padding), np.random.default_rng(0))
    beyond = np.ones((60, 70), bool)
    beyond[:40, 20:] = False
    assert (padded[0][beyond] == 0).all() and (padded[1][beyond] == class_id).all()
    assert np.array_equal(padded[0][:40, 20:], image[:, ::-1]) and np.array_equal(padded[1][:40, 20:], label[:, ::-1])
    ignored = train_transform(image, label, augment(**keys), np.random.default_rng(0))
    assert (ignored[1][:, 50:] == 255).all() and np.array_equal(ignored[1][:40, :50], label[:, ::-1])


def test_label_stride_keeps_the_top_left_pixels():
    """e-lab/ENet-training: labels of 1/8 by torch's image.scale 'simple'; here 1/4."""
    whole, small = (TrainSamples(Scenes(), augment(crop_size=[24, 32], label_stride=stride), 3) for stride in (1, 4))
    for key in ((0, 1), (2, 7)):
        (image, label), (same, shrunk) = whole[key], small[key]
        assert np.array_equal(image, same) and shrunk.shape == (6, 8)
        assert np.array_equal(shrunk, cv2.resize(label, (8, 6), interpolation=cv2.INTER_NEAREST))


def test_blur_is_yassoualis():
    keys = augment(crop_size=[40, 50], ratio_range=[1.0, 1.0], photometric_distortion=False, flip_prob=0.0, blur_sigma=1.0)
    image, label = scene()
    blurred = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        segmentation_transforms.random_crop(label, keys, rng)
        rng.random()  # flip
        sigma = rng.uniform(0, 1)
        size = int(3.3 * sigma)
        size = size + 1 if size % 2 == 0 else size
        expected = cv2.GaussianBlur(image, (size, size), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT_101)
        found, ids = train_transform(image, label, keys, np.random.default_rng(seed))
        assert np.array_equal(found, expected) and np.array_equal(ids, label)
        blurred += not np.array_equal(found, image)
    assert 4 <= blurred <= 12


@pytest.mark.parametrize('probability', [0.0, 0.5, 1.0])
def test_cutout_is_a_box_that_is_ignored(probability):
    keys = augment(
        crop_size=[40, 50],
        ratio_range=[1.0, 1.0],
        photometric_distortion=False,
        flip_prob=0.0,
        cat_max_ratio=1.0,
        cutout_prob=probability,
        cutout_ratio=[0.2, 0.5],
        mean=[7.0, 8.0, 9.0],
    )
    image, label = scene()
    cut = 0
    for seed in range(40):
        found, ids = train_transform(image, label, keys, np.random.default_rng(seed))
        rows, columns = np.nonzero(ids == 255)
        if len(rows):
            cut += 1
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width and 8 <= height <= 20 and 10 <= width <= 25
            assert (found[ids == 255] == [7, 8, 9]).all()
        assert np.array_equal(found[ids != 255], image[ids != 255])
    assert cut == 40 * probability or 0 < probability < 1 and 10 < cut < 30


@pytest.mark.parametrize('seed', range(5))
def test_class_mix_pastes_half_of_the_classes(seed):
    (image, label), (other, ids) = scene(seed=0), scene(seed=1)
    ids[:, :10] = 255
    mixed, found = segmentation_transforms.class_mix(image, label, other, ids, np.random.default_rng(seed))
    pasted = (mixed != image).any(-1) | (found != label)
    classes = np.unique(ids[pasted])
    assert len(classes) == len(np.unique(ids)) // 2 and 255 not in classes
    pasted = np.isin(ids, classes)
    assert np.array_equal(mixed[pasted], other[pasted]) and np.array_equal(found[pasted], ids[pasted])
    assert np.array_equal(mixed[~pasted], image[~pasted]) and np.array_equal(found[~pasted], label[~pasted])


def test_class_mix_of_samples_is_as_frequent_as_configured():
    plain, some, all_ = (TrainSamples(Scenes(), augment(class_mix=share), 5) for share in (0.0, 0.5, 1.0))
    keys = [(epoch, index) for epoch in range(10) for index in range(len(plain))]
    same = [np.array_equal(plain[key][0], some[key][0]) for key in keys]
    assert 0.3 < np.mean(same) < 0.7
    assert all(np.array_equal(some[key][0], all_[key][0]) for key, unmixed in zip(keys, same) if not unmixed)
    assert np.mean([np.array_equal(plain[key][0], all_[key][0]) for key in keys]) < 0.1
    assert TrainSamples(Scenes(), augment(class_mix=1.0), 5)[3, 2][1].tobytes() == all_[3, 2][1].tobytes()


def test_padding_is_the_mean_colour_and_ignored():
    keys = augment(crop_size=[50, 60], ratio_range=[1.0, 1.0], photometric_distortion=False, flip_prob=0.0)
    image, label = train_transform(*scene(), keys, np.random.default_rng(0))
    assert (image[40:] == (124, 116, 104)).all() and (image[:, 50:] == (124, 116, 104)).all()
    assert (label[40:] == 255).all() and (label[:, 50:] == 255).all()
    assert np.array_equal(image[:40, :50], scene()[0])


@pytest.mark.parametrize(
    'counts, varied',
    [
        ({0: 76, 1: 24}, False),
        ({0: 75, 1: 25}, False),
        ({0: 74, 1: 26}, True),
        ({0: 100}, False),
        ({255: 100}, False),
        ({255: 90, 0: 5, 1: 5}, True),
        ({255: 90, 0: 10}, False),
    ],
)
def test_category_ratio(counts, varied):
    label = np.repeat(np.array(list(counts), np.uint8), list(counts.values())).reshape(10, 10)
    assert is_varied(label, 0.75) is varied


def test_crops_avoid_one_class():
    label = np.zeros((200, 200), np.uint8)
    label[:, 100:] = 1
    image = np.zeros((200, 200, 3), np.uint8)

    def share_of_even_crops(limit: float) -> float:
        keys = augment(crop_size=[50, 50], ratio_range=[1.0, 1.0], cat_max_ratio=limit)
        crops = [train_transform(image, label, keys, np.random.default_rng(seed))[1] for seed in range(60)]
        return float(np.mean([is_varied(crop, 0.75) for crop in crops]))

    assert share_of_even_crops(1.0) < 0.4 and share_of_even_crops(0.75) > 0.8


# Colour


def test_photometric_distortion_off_is_identity():
    image, _ = scene()
    keys = augment(brightness_delta=0.0, contrast_range=[1.0, 1.0], saturation_range=[1.0, 1.0], hue_delta=0.0)
    there_and_back = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), cv2.COLOR_HSV2RGB)  # loses a few levels
    for seed in range(20):
        distorted = photometric_distortion(image, keys, np.random.default_rng(seed))
        assert np.array_equal(distorted, image) or np.array_equal(distorted, there_and_back)


@pytest.mark.parametrize(
    'keys, low, high',
    [
        ({'brightness_delta': 30.0}, 70, 130),
        ({'contrast_range': [0.5, 1.5]}, 50, 150),
        ({'brightness_delta': 30.0, 'contrast_range': [0.5, 1.5]}, 35, 195),
    ],
)
def test_brightness_and_contrast(keys, low, high):
    still = {'brightness_delta': 0.0, 'contrast_range': [1.0, 1.0], 'saturation_range': [1.0, 1.0], 'hue_delta': 0.0}
    grey = np.full((2, 2, 3), 100, np.uint8)
    found = {
        int(photometric_distortion(grey, augment(**{**still, **keys}), np.random.default_rng(seed))[0, 0, 0])
        for seed in range(200)
    }
    assert low <= min(found) < 100 < max(found) <= high and 100 in found and len(found) > 20


@pytest.mark.parametrize('key, value, channel', [('hue_delta', 18.0, 0), ('saturation_range', [0.5, 1.5], 1)])
def test_hue_and_saturation_change_only_themselves(key, value, channel):
    still = {'brightness_delta': 0.0, 'contrast_range': [1.0, 1.0], 'saturation_range': [1.0, 1.0], 'hue_delta': 0.0}
    red = np.full((1, 1, 3), (200, 100, 100), np.uint8)
    before = cv2.cvtColor(red, cv2.COLOR_RGB2HSV)[0, 0].astype(int)
    changed = 0
    for seed in range(50):
        after = cv2.cvtColor(
            photometric_distortion(red, augment(**{**still, key: value}), np.random.default_rng(seed)), cv2.COLOR_RGB2HSV
        )[0, 0].astype(int)
        others = [i for i in range(3) if i != channel]
        assert np.abs(after - before)[others].max() <= 2
        turned = (after[0] - before[0] + 90) % 180 - 90
        assert abs(turned) <= 19
        changed += abs(turned if channel == 0 else after[1] - before[1]) > 2
    assert changed > 10


# Samples by key


def _work(samples, keys, results):
    results.put([samples[key][0].tobytes() for key in keys])


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_loader_processes_give_the_same_bytes_and_share_what_is_broken(method):
    samples = TrainSamples(Scenes(broken=(3,)), augment(), 0, 'skip')
    keys = [(0, index) for index in range(10)]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=_work, args=(samples, keys, results), daemon=True)
    process.start()
    found = results.get(timeout=60)
    process.join()
    assert samples.broken == ['scene3']
    assert found == [samples[key][0].tobytes() for key in keys]


def test_a_broken_sample_stops_the_run_or_is_replaced(caplog):
    with pytest.raises(DataError, match='scene3.png: truncated'):
        TrainSamples(Scenes(broken=(3, 4)), augment(), 0)[0, 3]
    samples = TrainSamples(Scenes(broken=(3, 4)), augment(), 0, 'skip')
    with caplog.at_level(logging.WARNING):
        image, _ = samples[1, 3]
        samples[2, 3]
    expected, _ = train_transform(*scene(seed=5), augment(), sample_rng(0, 1, 3))
    assert np.array_equal(image, segmentation_transforms.channels_first(expected))
    assert samples.broken == ['scene3', 'scene4']
    assert [record.getMessage() for record in caplog.records] == [
        'skipped (1 broken so far): scene3.png: truncated',
        'skipped (2 broken so far): scene4.png: truncated',
    ]


def test_too_many_broken_samples_stop_the_run():
    samples = TrainSamples(Scenes(broken=(1, 2, 3)), augment(), 0, 'skip', max_errors=2)
    with pytest.raises(DataError, match='3 broken samples, more than max_errors: 2; the last: scene3.png'):
        samples[0, 1]
    samples = TrainSamples(Scenes(2, broken=(0, 1)), augment(), 0, 'skip')
    with pytest.raises(DataError, match='no readable sample among 2'):
        samples[0, 0]


def test_a_key_always_gives_the_same_bytes():  # last here: a fork while these threads end would inherit OpenCV's locks
    keys = [(epoch, index) for epoch in range(3) for index in range(10)]
    first = {key: TrainSamples(Scenes(), augment(), 5)[key] for key in keys}
    shuffled = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
    samples = TrainSamples(Scenes(), augment(), 5)
    with ThreadPoolExecutor(4) as threads:
        for key, (image, label) in zip(shuffled, threads.map(samples.__getitem__, shuffled)):
            assert image.tobytes() == first[key][0].tobytes() and label.tobytes() == first[key][1].tobytes()
    image, label = first[0, 0]
    assert image.shape == (3, 24, 32) and image.flags.c_contiguous and label.shape == (24, 32)
    assert image.dtype == label.dtype == np.uint8
    assert len({image.tobytes() for image, _ in first.values()}) == len(keys)
    assert TrainSamples(Scenes(), augment(), 6)[0, 0][0].tobytes() != image.tobytes()
