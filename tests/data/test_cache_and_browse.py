"""`prepare --cache` and `browse`: what they write, what they find, and what they refuse."""

import errno
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.streets import make, settings
from twinseg.common import config, console
from twinseg.common.data.cache import CachedDataset, CacheSummary, build_cache, cache_folder
from twinseg.common.data.open import open_dataset, open_files, open_for_cache
from twinseg.common.data.samples import TrainSamples
from twinseg.common.errors import DataError
from twinseg.common.report import browse


@pytest.fixture
def streets(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('TWINSEG_CACHE', str(tmp_path / 'cache'))
    return make(tmp_path / 'streets', count=4, size=(48, 64))


def configuration(streets: Path, **changes) -> config.Config:
    return config.from_flat(settings(streets, crop_size=[32, 48], **changes))


def build(run: config.Config, *progress) -> dict[str, CacheSummary]:
    """The caches of both splits, by split."""
    summaries = build_cache(open_for_cache(run.data), run.data.on_error, *progress)
    return {summary.split: summary for summary in summaries}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Cache


def test_cache_gives_the_same_pixels_and_the_same_samples(streets):
    run = configuration(streets)
    heard = []
    summary = build(run, lambda done, total: heard.append((done, total)))
    assert heard == [(done, 8) for done in range(1, 9)]
    assert summary['train'].samples == 4 and summary['train'].bytes == 4 * 48 * 64 * 4 and not summary['val'].problems
    cached, files = open_dataset(run.data, 'train'), open_files(run.data, 'train')
    assert isinstance(cached, CachedDataset) and not isinstance(files, CachedDataset)
    for index in range(4):
        assert all(np.array_equal(a, b) for a, b in zip(cached.read(index), files.read(index)))
        a, b = (TrainSamples(dataset, run.augment, 0)[2, index] for dataset in (cached, files))
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_cache_is_mapped_not_read_and_travels_to_processes_by_name(streets):
    run = configuration(streets)
    build(run)
    cached = open_dataset(run.data, 'train')
    image, _ = cached.read(1)
    assert not image.flags.writeable and not image.flags.owndata
    sent = pickle.dumps(cached)
    assert len(sent) < 10000 and np.array_equal(pickle.loads(sent).read(1)[0], image)


def change_image(streets: Path) -> dict:
    path = streets / 'images/train/002.png'
    cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    return {}


def touch(streets: Path) -> dict:
    os.utime(streets / 'labels/train/001.png', ns=(1, 1))
    return {}


def add(streets: Path) -> dict:
    for kind in ('images', 'labels'):
        (streets / kind / 'train/new.png').write_bytes((streets / kind / 'train/000.png').read_bytes())
    return {}


def map_ids(streets: Path) -> dict:
    return {'label_map': {0: 0, 1: 1, 2: 255}}


def cut_cache(streets: Path) -> dict:
    for path in cache_folder().glob('*.bin'):
        truncate(path)
    return {}


def cut_index(streets: Path) -> dict:
    for path in cache_folder().glob('*.json'):
        truncate(path)
    return {}


@pytest.mark.parametrize('change', [change_image, touch, add, map_ids, cut_cache, cut_index])
def test_stale_cache_is_not_used(streets, caplog, change):
    build(configuration(streets))
    run = configuration(streets, **change(streets))
    dataset = open_dataset(run.data, 'train')
    assert not isinstance(dataset, CachedDataset)
    assert 'not used; make it again with `twinseg prepare --cache`' in caplog.text
    build(run)
    assert isinstance(open_dataset(run.data, 'train'), CachedDataset)


def test_broken_sample_stops_the_cache_or_is_left_out(streets):
    truncate(streets / 'images/train/002.png')
    with pytest.raises(DataError, match='002.png: .*truncated'):
        build(configuration(streets))
    assert list(cache_folder().iterdir()) == []
    summary = build(configuration(streets, on_error='skip'))
    assert summary['train'].samples == 3 and '002.png' in summary['train'].problems[0]
    cached = open_dataset(configuration(streets).data, 'train')
    assert isinstance(cached, CachedDataset) and cached.read(3)[0].shape == (48, 64, 3)
    with pytest.raises(DataError, match='002.png: .*truncated'):
        cached.read(2)


def test_cache_folder_that_cannot_be_written(streets, monkeypatch):
    (streets / 'file').write_text('')
    monkeypatch.setenv('TWINSEG_CACHE', str(streets / 'file/below'))
    with pytest.raises(DataError, match='the cache cannot be written .* TWINSEG_CACHE'):
        build(configuration(streets))


def test_toy_street_needs_no_cache():
    with pytest.raises(DataError, match='nothing to cache'):
        open_for_cache(config.from_flat({}).data)


def flip_a_pixel(pixels: Path, index: Path) -> None:
    content = bytearray(pixels.read_bytes())
    content[48 * 64 * 4 + 100] ^= 1
    pixels.write_bytes(content)


def flip_a_label(pixels: Path, index: Path) -> None:
    content = bytearray(pixels.read_bytes())
    content[48 * 64 * 8 - 3] = 200  # beyond the classes
    pixels.write_bytes(content)


def swap_the_file(pixels: Path, index: Path) -> None:
    pixels.write_bytes(np.random.default_rng(0).bytes(pixels.stat().st_size))


def change_index(pixels: Path, index: Path, **changes) -> None:
    content = json.loads(index.read_text())
    block = dict(zip(('offset', 'height', 'width', 'checksum'), content['blocks'][1]))
    content['blocks'][1] = list({**block, **changes}.values())
    index.write_text(json.dumps(content))


def move(pixels: Path, index: Path) -> None:
    change_index(pixels, index, offset=5)


def turn(pixels: Path, index: Path) -> None:
    change_index(pixels, index, height=64, width=48)


def sum_differs(pixels: Path, index: Path) -> None:
    change_index(pixels, index, checksum=1)


@pytest.mark.parametrize('change', [flip_a_pixel, flip_a_label, swap_the_file, move, turn, sum_differs])
def test_a_cache_whose_content_was_changed_is_noticed_and_the_files_are_read(streets, caplog, change):
    run = configuration(streets)
    pixels = build(run)['train'].file
    change(pixels, pixels.with_suffix('.json'))
    cached, files = open_dataset(run.data, 'train'), open_files(run.data, 'train')
    assert isinstance(cached, CachedDataset)
    for _ in range(2):
        for index in range(4):
            assert all(np.array_equal(a, b) for a, b in zip(cached.read(index), files.read(index)))
    lines = [record.message for record in caplog.records]
    first = '000' if change is swap_the_file else '001'
    assert lines == [
        f'the cache {pixels} was changed, first seen at {first}; its files are read instead; '
        'make it again with `twinseg prepare --cache`'
    ]


@pytest.mark.parametrize(
    'text',
    [
        '[' * 100000,
        '{"version": 3}',
        '{"version": ' + '9' * 5000 + '}',
        '{"version": 2, "fingerprint": "x", "bytes": 0, "places": []}',
        'BLOCKS [[-1, 48, 64, 0], null, null, null]',
        'BLOCKS [[0, 48, 64], null, null, null]',
        'BLOCKS [[0, "48", 64, 0], null, null, null]',
        'BLOCKS [[0, 1e9, 64, 0], null, null, null]',
        'BLOCKS [[0, 48000, 64000, 0], null, null, null]',
        'BLOCKS [null]',
    ],
)
def test_an_index_that_is_none_or_of_an_earlier_version_is_refused_by_name(streets, caplog, text):
    run = configuration(streets)
    pixels = build(run)['train'].file
    index = pixels.with_suffix('.json')
    if text.startswith('BLOCKS'):
        content = json.loads(index.read_text())
        text = json.dumps({**content, 'blocks': json.loads(text.removeprefix('BLOCKS'))})
    index.write_text(text)
    assert not isinstance(open_dataset(run.data, 'train'), CachedDataset)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f'the cache {pixels} ') and line.endswith('not used; make it again with `twinseg prepare --cache`')
    assert len(line) < 500


def test_a_disk_that_fails_below_a_cache(streets, caplog, monkeypatch):
    run = configuration(streets)
    build(run)
    cached, files = open_dataset(run.data, 'train'), open_files(run.data, 'train')

    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, 'pread', fails)
    assert np.array_equal(cached.read(0)[0], files.read(0)[0])
    assert 'is unreadable (Input/output error), first seen at 000' in caplog.text


def test_checksums_are_compared_once_for_all_workers(streets, monkeypatch):
    run = configuration(streets)
    build(run)
    cached = open_dataset(run.data, 'train')
    worker = multiprocessing.get_context('fork').Process(target=lambda: [cached.read(index) for index in range(4)])
    worker.start()
    worker.join()
    monkeypatch.setattr(os, 'pread', pytest.fail)
    assert cached.read(3)[0].shape == (48, 64, 3)


# Browse


def test_browse_counts_and_draws(streets, tmp_path):
    summary = browse.browse(configuration(streets), tmp_path / 'out', 2)
    assert json.loads((tmp_path / 'out/browse.json').read_text()) == summary
    found = summary['splits']['train']
    labels = np.stack([open_files(configuration(streets).data, 'train').read(index)[1] for index in range(4)])
    assert found['images'] == 4 and found['sizes'] == {'64x48': 4} and not found['absent'] and not summary['problems']
    assert found['classes']['sky'] == pytest.approx(100 * (labels == 2).sum() / (labels != 255).sum(), abs=1e-3)
    assert found['ignored'] == pytest.approx(100 * (labels == 255).mean(), abs=1e-3)
    picture = cv2.imread(summary['picture'])
    assert picture.shape[1] > 5 * 300 and picture.shape[0] > 2 * 200


def test_browse_lists_everything_that_is_wrong(streets, tmp_path, capsys):
    truncate(streets / 'images/train/000.png')
    (streets / 'labels/train/001.png').unlink()
    cv2.imwrite(str(streets / 'labels/train/002.png'), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(streets / 'labels/val/003.png'), np.full((48, 64), 9, np.uint8))
    summary = browse.browse(configuration(streets), tmp_path / 'out', 9)
    expected = [('000.png', 'truncated'), ('001.png', 'no such file'), ('002.png', 'one size'), ('003.png', '[9]')]
    assert len(summary['problems']) == 4
    for problem, words in zip(summary['problems'], expected):
        assert all(word in problem for word in words), problem
    console.show_browse(summary)
    printed = capsys.readouterr().out
    assert '003.png' in printed and 'sky' in printed


def test_browse_goes_on_without_one_split(streets, tmp_path):
    summary = browse.browse(configuration(streets, val_split='nowhere'), tmp_path / 'out', 1)
    assert list(summary['splits']) == ['train'] and 'nowhere' in summary['problems'][0]
    with pytest.raises(DataError, match='nowhere'):
        browse.browse(configuration(streets, train_split='nowhere', val_split='nowhere'), tmp_path / 'out', 1)


def test_browse_of_drawn_scenes(tmp_path):
    run = config.from_flat({'train_samples': 2, 'val_samples': 1, 'image_size': [32, 64], 'crop_size': [32, 64]})
    summary = browse.browse(run, tmp_path, 4)
    assert summary['splits']['train']['images'] == 2 and (tmp_path / 'browse.png').is_file()


def test_browse_into_a_folder_that_cannot_be_written(streets):
    (streets / 'file').write_text('')
    with pytest.raises(DataError, match='cannot be written'):
        browse.browse(configuration(streets), streets / 'file/below', 1)


def test_browse_counts_what_is_not_used(streets, tmp_path, capsys):
    (streets / 'images/train/000.json').write_text('{}')
    (streets / 'labels/val/lonely.png').write_bytes(b'')
    (streets / 'images/val/.hidden.png').write_bytes(b'')
    summary = browse.browse(configuration(streets), tmp_path / 'out', 1)
    assert summary['problems'] == [
        'custom train: 1 file is not used: 1 .json (000.json)',
        'custom val: 2 files are not used: 1 hidden (.hidden.png), 1 label without an image (lonely.png)',
    ]
    one = browse.browse(configuration(streets, image_dir='images/val', label_dir='labels/val'), tmp_path / 'out', 1)
    assert len(one['problems']) == 1 and one['problems'][0].startswith('custom train and val: 2 files')
    assert one['warnings'] == [
        'custom: 4 of 4 images of val are images of train, too (000, 001, 002, ...): scores on them say nothing of other images'
    ]
    console.show_browse(one)
    assert 'warning: custom: 4 of 4' in capsys.readouterr().out


def test_hidden_files_are_no_problem(streets, tmp_path):
    (streets / 'images/train/._000.png').write_bytes(b'')
    summary = browse.browse(configuration(streets), tmp_path / 'out', 1)
    assert not summary['problems']
    assert summary['warnings'] == ['custom train: 1 file is not used: 1 hidden (._000.png)']


def test_a_part_of_a_published_set_may_lack_classes(tmp_path):
    """A user's own class that no label shows is a problem; of the 21 of Pascal VOC a few images show some."""
    for part in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (tmp_path / part).mkdir(parents=True)
    for split, name in (('train', 'a'), ('val', 'b')):
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / f'JPEGImages/{name}.jpg')
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 2).save(tmp_path / f'SegmentationClass/{name}.png')
        (tmp_path / f'ImageSets/Segmentation/{split}.txt').write_text(name)
    keys = {'set': 'voc', 'data_url': str(tmp_path), 'crop_size': [8, 8]}
    summary = browse.browse(config.from_flat(keys), tmp_path / 'out')
    assert summary['problems'] == []
    (line,) = summary['warnings']
    assert line.startswith('voc train: no label shows the classes bicycle, bird, ')
