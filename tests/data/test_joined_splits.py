"""Several splits that are trained on as one: `train_split: [train, val]`."""

import logging
import pickle

import numpy as np
import pytest

from tests.data.test_datasets import data, ids, photo, save, voc
from tests.support.streets import make, settings
from twinseg.common import config
from twinseg.common.data import label_faults
from twinseg.common.data.balance import class_counts
from twinseg.common.data.cache import CachedDataset, build_cache
from twinseg.common.data.open import open_dataset, open_files, open_for_cache, open_splits, shared_images, unused_files
from twinseg.common.data.samples import TrainSamples
from twinseg.common.errors import DataError, UserError
from twinseg.common.facts import Facts
from twinseg.common.inference.evaluate import evaluate
from twinseg.common.report import browse
from twinseg.common.tasks.base import PLAIN, EvalOptions

BOTH = ['train', 'val']


def camvid(root):
    for number, split in enumerate(('train', 'val', 'test')):
        for name in 'ab'[: number + 1]:
            save(root / split / f'{name}.png', photo(number))
            save(root / f'{split}annot/{name}.png', ids(number, 5))
    return {'set': 'camvid'}


def camvid32(root):
    for number, split in enumerate(('train', 'val')):
        save(root / f'701_StillsRaw_full/{number}.png', photo(number))
        save(root / f'LabeledApproved_full/{number}_L.png', np.full((6, 8, 3), 128, np.uint8))
        (root / f'{split}.txt').write_text(f'{number}.png\n')
    return {'set': 'camvid32'}


def cityscapes(root):
    for number, split in enumerate(BOTH):
        save(root / f'leftImg8bit/{split}/ulm/ulm_{number}_1_leftImg8bit.png', photo(number))
        save(root / f'gtFine/{split}/ulm/ulm_{number}_1_gtFine_labelIds.png', ids(7, 8))
    return {'set': 'cityscapes'}


def test_fine_and_coarse_labels_of_cityscapes(tmp_path):
    keys = {**cityscapes(tmp_path), 'data_url': str(tmp_path)}
    save(tmp_path / 'leftImg8bit/train_extra/bonn/bonn_0_1_leftImg8bit.png', photo(3))
    save(tmp_path / 'gtCoarse/train_extra/bonn/bonn_0_1_gtCoarse_labelIds.png', ids(0, 26, 33))
    save(tmp_path / 'gtCoarse/train/ulm/ulm_0_1_gtCoarse_labelIds.png', ids(26))
    coarse = open_dataset(data(**keys), 'train_extra')
    assert [sample.name for sample in coarse.samples] == ['bonn_0_1']
    assert np.array_equal(coarse.read(0)[1], ids(255, 13, 18)) and np.array_equal(coarse.read(0)[0], photo(3))
    both = open_dataset(data(**keys), ['train', 'train_extra'])
    assert [np.unique(both.read_label(index)).tolist() for index in range(2)] == [[0, 1], [13, 18, 255]]
    save(tmp_path / 'gtCoarse/train_extra/bonn/bonn_0_1_gtCoarse_labelTrainIds.png', ids(0, 18, 255))
    assert np.array_equal(open_dataset(data(**keys), 'train_extra').read(0)[1], ids(0, 18, 255))
    (tmp_path / 'gtCoarse/train_extra/bonn/bonn_0_1_gtCoarse_labelTrainIds.png').unlink()
    (tmp_path / 'gtCoarse/train_extra/bonn/bonn_0_1_gtCoarse_labelIds.png').unlink()
    with pytest.raises(DataError, match='gtCoarse/train_extra/bonn/bonn_0_1_gtCoarse_labelIds.png'):
        open_dataset(data(**keys), 'train_extra')


def image_folder(root):
    for name in ('train/cat/1', 'train/eel/2', 'val/dog/1'):
        save(root / f'{name}.png', photo(len(name)))
    return {'set': 'image_folder'}


def toy_street(root):
    return {'set': 'toy_street', 'data_url': None, 'train_samples': 3, 'val_samples': 2, 'image_size': [32, 64]}


def streets(root):
    return settings(make(root, count=2, size=(32, 48)), crop_size=[16, 24])


def pascal(root):
    voc(root)
    return {'set': 'voc'}


@pytest.mark.parametrize('layout', [camvid, camvid32, cityscapes, pascal, image_folder, toy_street, streets])
def test_samples_of_both_follow_each_other(tmp_path, layout):
    keys = {'data_url': str(tmp_path), **layout(tmp_path), 'train_split': BOTH}
    run = config.from_flat(keys).data
    joined = open_splits(run)[0]
    train, val = (open_dataset(run, split) for split in BOTH)
    assert joined.split == 'train+val' and len(joined) == len(train) + len(val) and joined.name == train.name
    assert joined.description.classes == train.description.classes == val.description.classes
    assert [sample.name for sample in joined.samples] == [sample.name for part in (train, val) for sample in part.samples]
    sent = pickle.loads(pickle.dumps(joined))
    for index in range(len(joined)):
        part, place = (train, index) if index < len(train) else (val, index - len(train))
        image, label = part.read(place)
        for dataset in (joined, sent):
            assert np.array_equal(dataset.read(index)[0], image) and np.array_equal(dataset.read(index)[1], label)
            assert np.array_equal(dataset.read_image(index), image) and np.array_equal(dataset.read_label(index), label)
    with pytest.raises(IndexError):
        joined.read(len(joined))
    assert joined.drawn == (layout is toy_street)


def test_one_name_is_that_split(tmp_path):
    assert config.from_flat({'train_split': ['train']}) == config.from_flat({'train_split': 'train'})
    both = config.from_flat({'train_split': BOTH})
    assert config.from_flat(both.flat()) == both and 'train_split: [train, val]' in config.dump(both)


@pytest.mark.parametrize(
    'split, message',
    [
        (['train', 'val', 'train'], "train_split: expected each split once, found 'train' twice"),
        ([], r'train_split: expected the name of a split, or a list such as \[train, val\], found \[\]'),
        (['train', ''], 'train_split: expected the name of a split, or a list such as'),
        ([1], 'train_split: expected the name of a split, or a list such as'),
        (3, 'train_split: expected the name of a split, or a list such as'),
    ],
)
def test_refused_names(split, message):
    with pytest.raises(UserError, match=message):
        config.from_flat({'train_split': split})


def test_unknown_splits_and_images_of_two_splits_are_refused(tmp_path):
    keys = camvid(tmp_path)
    with pytest.raises(DataError, match='extra: no such folder'):
        open_dataset(data(**keys, data_url=str(tmp_path)), ['train', 'extra'])
    with pytest.raises(DataError, match="toy_street has no split 'test'"):
        open_dataset(data(set='toy_street'), ['train', 'test'])
    (tmp_path / 'trainval').mkdir()
    (tmp_path / 'trainval/c.png').symlink_to('../train/a.png')
    save(tmp_path / 'trainvalannot/c.png', ids(0, 5))
    message = r'train_split: 1 of 1 images of trainval are images of train, too \(c\); leave one of the two out'
    with pytest.raises(DataError, match=message):
        open_dataset(data(**keys, data_url=str(tmp_path)), ['train', 'trainval'])
    with pytest.raises(DataError, match='val_fraction: divides one split, but train_split names 2'):
        run = data(set='image_folder', data_url=str(tmp_path), train_split=BOTH, val_fraction=0.5)
        open_dataset(run, run.train_split)


def test_classes_of_image_folders_are_those_of_both(tmp_path):
    run = data(**image_folder(tmp_path), data_url=str(tmp_path), train_split=BOTH)
    joined, val = open_splits(run)
    assert joined.description.classes == val.description.classes == ('cat', 'dog', 'eel')
    assert [joined.read_label(index) for index in range(3)] == [0, 2, 1]
    with pytest.raises(DataError, match="'val' are not among the 2 classes of train"):
        open_splits(data(**image_folder(tmp_path), data_url=str(tmp_path)))


@pytest.mark.parametrize('layout', [camvid, toy_street])
def test_a_scored_split_that_is_trained_on_is_told(tmp_path, layout, caplog):
    keys = {'data_url': str(tmp_path), **layout(tmp_path), 'train_split': BOTH}
    run = config.from_flat(keys)
    expected = f'{keys["set"]}: val is trained on, too (train+val): scores on it say nothing of other images'
    assert shared_images(*open_splits(run.data)) == [expected]
    if layout is camvid:
        test = run.replace(val_split='test')
        assert shared_images(*open_splits(test.data)) == []
    assert expected in browse.browse(run.replace(crop_size=[32, 32]), tmp_path / 'out', 1)['warnings']


def test_evaluation_tells_it(tmp_path, caplog):
    class Predictor:
        def class_ids(self, images, size):
            return np.zeros((len(images), *size), np.uint8)

    def loader(samples, keys, workers):
        for (index,) in keys:
            image, label = samples[index]
            yield image[None], label[None]

    run = config.from_flat({'data_url': str(tmp_path), **camvid(tmp_path), 'train_split': BOTH, 'val_split': 'test'})
    for options, told in ((PLAIN, False), (EvalOptions(split='val'), True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            evaluate(Predictor(), Facts('a network'), run, loader, options)
        assert ('val is trained on, too' in caplog.text) == told


def test_caches_are_those_of_the_splits(tmp_path, monkeypatch):
    monkeypatch.setenv('TWINSEG_CACHE', str(tmp_path / 'cache'))
    run = config.from_flat({**streets(tmp_path / 'streets'), 'train_split': BOTH})
    summaries = build_cache(open_for_cache(run.data), 'raise')
    assert [summary.split for summary in summaries] == BOTH
    cached, files = open_splits(run.data)[0], open_files(run.data, BOTH)
    assert all(isinstance(part, CachedDataset) for part in cached.parts)
    assert isinstance(open_dataset(run.replace(train_split='train').data, 'train'), CachedDataset), 'it is the same cache'
    assert np.array_equal(class_counts(cached)[0], class_counts(files)[0])
    for index in range(4):
        a, b = (TrainSamples(dataset, run.augment, 0)[1, index] for dataset in (cached, files))
        assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_what_is_not_used_and_what_labels_show(tmp_path):
    keys = {**streets(tmp_path), 'train_split': BOTH}
    (tmp_path / 'images/val/note.txt').write_text('')
    run = config.from_flat(keys)
    training, validation = open_splits(run.data)
    [line] = unused_files(training, validation)
    assert line.startswith('custom val: 1 file is not used')
    found = label_faults.look(training)
    assert found.looked_at == found.total == 4 and label_faults.faults(training, found, training=True) == []
    summary = browse.browse(run, tmp_path / 'out', 1)
    assert list(summary['splits']) == ['train+val', 'val'] and summary['splits']['train+val']['images'] == 4
    assert len(summary['problems']) == 1 and 'note.txt' in summary['problems'][0]
