"""Data sets by name: fetched, unpacked and converted, with labels in their publishers' formats."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.data.test_datasets import ids, photo, save, voc
from tests.support.web import remote, server, tar, zipped
from twinseg.common import config
from twinseg.common.cli import main
from twinseg.common.data import prepare
from twinseg.common.data.classes import CITYSCAPES_LABEL_IDS, CITYSCAPES_NAMES
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import DataError
from twinseg.common.files import download


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, 'PAUSE', 0.0)


# Data sets


def sbd(folder: Path, names: dict[str, np.ndarray]) -> dict[str, bytes]:
    """benchmark_RELEASE as SBD has it: MATLAB files and its own lists."""
    members = {}
    for name, label in names.items():
        file = io.BytesIO()
        kind = np.dtype([('Segmentation', object), ('Boundaries', object)])
        savemat(file, {'GTcls': np.array([[(label, np.zeros((20, 1)))]], kind)}, do_compression=True)
        members[f'benchmark_RELEASE/dataset/cls/{name}.mat'] = file.getvalue()
    listed = list(names)
    for split, part in {'train': listed[::2], 'val': listed[1::2]}.items():
        members[f'benchmark_RELEASE/dataset/{split}.txt'] = '\n'.join(part).encode()
    return members


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Both archives on a server, with VOC's five images, of which SBD labels two more and one of the validation split."""
    origin = voc(tmp_path / 'origin')
    labels = {
        name: ids(0, number, 20, 255) for number, name in enumerate(('2007_000039', '2010_000001', '2010_000002'), start=3)
    }
    for path in (origin / 'SegmentationClassAug').glob('*.png'):
        path.unlink()
    (origin / 'SegmentationClassAug').rmdir()
    (origin / 'ImageSets/Segmentation/aug.txt').unlink()
    whole = {str(path.relative_to(tmp_path / 'origin')): path.read_bytes() for path in origin.rglob('*') if path.is_file()}
    files = {
        'VOC.tar': tar(tmp_path / 'VOC.tar', whole).read_bytes(),
        'benchmark.tgz': tar(tmp_path / 'benchmark.tgz', sbd(tmp_path, labels), 'w:gz').read_bytes(),
    }
    with server(files) as (address, asked):
        for name, key in {'VOC.tar': 'VOC', 'benchmark.tgz': 'SBD'}.items():
            monkeypatch.setattr(prepare, key, remote(address, name, files[name]))
        yield labels, asked


def test_voc_with_sbd_from_the_archives(tmp_path, published):
    labels, asked = published
    found = prepare.prepare_dataset('voc', tmp_path / 'data')
    assert (found['train'], found['val']) == ('1', '2') and found['train_aug'].startswith('3 (10582')
    data = config.from_flat({'set': 'voc', 'data_url': found['data_url']}).data
    dataset = open_dataset(data, 'train_aug')
    assert [sample.name for sample in dataset.samples] == ['2007_000032', '2010_000001', '2010_000002']  # none of val
    assert np.array_equal(dataset.read(1)[1], labels['2010_000001'])
    with Image.open(dataset.samples[1].label) as picture:
        assert picture.mode == 'P' and picture.getpalette()[3 * 15 : 3 * 16] == [192, 128, 128]
    assert len(open_dataset(data, 'trainval_aug')) == 5 and len(open_dataset(data, 'val')) == 2
    prepare.prepare_dataset('voc', tmp_path / 'data')
    assert len(asked) == 2  # nothing is fetched again


def test_voc_goes_on_after_a_break(tmp_path, published, monkeypatch):
    saved = []

    def breaking(path):
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt
        return read(path)

    read = prepare.sbd_label
    monkeypatch.setattr(prepare, 'sbd_label', breaking)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare_dataset('voc', tmp_path / 'data')
    assert prepare.prepare_dataset('voc', tmp_path / 'data')['train_aug'].startswith('3 ')
    assert len(saved) == 4  # the second label twice, the first one once


def test_voc_with_the_png_archive(tmp_path, published):
    labels, asked = published
    pictures = {}
    for name in ('2007_000039', '2010_000001'):
        file = io.BytesIO()
        Image.fromarray(labels[name]).save(file, 'PNG')
        pictures[f'SegmentationClassAug/{name}.png'] = file.getvalue()
    (tmp_path / 'data').mkdir()
    zipped(tmp_path / 'data/SegmentationClassAug.zip', {**pictures, '__MACOSX/SegmentationClassAug/._x.png': b'x'})
    assert prepare.prepare_dataset('voc', tmp_path / 'data')['train_aug'].startswith('2 ')
    dataset = open_dataset(config.from_flat({'set': 'voc', 'data_url': str(tmp_path / 'data')}).data, 'train_aug')
    assert [sample.name for sample in dataset.samples] == ['2007_000032', '2010_000001']
    assert np.array_equal(dataset.read(1)[1], labels['2010_000001']) and len(asked) == 1


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'not readable as a label of SBD'),
        (b'MATLAB' * 100, 'not readable as a label of SBD'),
        ({'other': np.zeros((2, 2))}, 'not readable as a label of SBD'),
        ({'GTcls': 'os.system'}, 'not readable as a label of SBD'),
        (np.full((4, 4), 30, np.uint8), r'ids \[30\]; expected 0 to 20'),
        (np.zeros((2, 2, 2), np.uint8), 'expected class ids'),
        (np.zeros((4, 4)), 'float64 of shape'),
        (np.zeros((9000, 9000), np.uint8), 'unpacks to more than'),
    ],
)
def test_sbd_labels_are_checked(tmp_path, content, message):
    path = tmp_path / 'x.mat'
    if isinstance(content, np.ndarray):
        content = sbd(tmp_path, {'x': content})['benchmark_RELEASE/dataset/cls/x.mat']
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(DataError, match=message) as error:
        prepare.sbd_label(path)
    assert 'x.mat' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['cityscapes', 'camvid', 'camvid32', 'imagenet'])
def test_what_to_fetch_by_hand(tmp_path, name):
    with pytest.raises(DataError, match=f'{name}: .*https?://.*{tmp_path}/data') as error:
        prepare.prepare_dataset(name, tmp_path / 'data')
    assert '\n' not in str(error.value)


def test_the_command_takes_a_folder_or_the_environments(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('TWINSEG_DATA', raising=False)
    assert main(['prepare', 'cityscapes']) == 2
    assert 'give --folder, or set the environment variable TWINSEG_DATA' in capsys.readouterr().err
    save(tmp_path / 'camvid/train/a.png', photo())
    assert main(['prepare', 'camvid', '--folder', str(tmp_path / 'camvid')]) == 0
    monkeypatch.setenv('TWINSEG_DATA', str(tmp_path))
    assert main(['prepare', 'camvid']) == 0
    assert capsys.readouterr().out.count(f'data_url: {tmp_path}/camvid') == 2


def polygons(*objects: tuple[str, list[list[int]]], size: tuple[int, int] = (8, 6)) -> bytes:
    return json.dumps(
        {
            'imgHeight': size[1],
            'imgWidth': size[0],
            'objects': [{'label': label, 'polygon': corners} for label, corners in objects],
        }
    ).encode()


WHOLE = [[0, 0], [7, 0], [7, 5], [0, 5]]


def test_cityscapes_from_the_archives(tmp_path):
    stem = 'val/ulm/ulm_000000_000001'
    image, label = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo()).save(image, 'PNG')
    Image.fromarray(ids(*range(34))).save(label, 'PNG')
    zipped(tmp_path / 'leftImg8bit_trainvaltest.zip', {f'leftImg8bit/{stem}_leftImg8bit.png': image.getvalue()})
    with pytest.raises(DataError, match='gtFine_trainvaltest.zip'):
        prepare.prepare_dataset('cityscapes', tmp_path)
    zipped(tmp_path / 'gtFine_trainvaltest.zip', {f'gtFine/{stem}_gtFine_labelIds.png': label.getvalue()})
    assert prepare.prepare_dataset('cityscapes', tmp_path)['val'] == '1 images with labelIds'
    dataset = open_dataset(config.from_flat({'set': 'cityscapes', 'data_url': str(tmp_path)}).data, 'val')
    assert dataset.read(0)[1][0, 7] == 0  # the label id 7 is the road


def test_coarse_labels_of_cityscapes_from_the_archives(tmp_path):
    test_cityscapes_from_the_archives(tmp_path)
    stem, image = 'train_extra/bonn/bonn_000000_000001', io.BytesIO()
    Image.fromarray(photo()).save(image, 'PNG')
    zipped(tmp_path / 'leftImg8bit_trainextra.zip', {f'leftImg8bit/{stem}_leftImg8bit.png': image.getvalue()})
    zipped(tmp_path / 'gtCoarse.zip', {f'gtCoarse/{stem}_gtCoarse_polygons.json': polygons(('car', WHOLE))})
    found = prepare.prepare_dataset('cityscapes', tmp_path)
    assert found['train_extra'] == '1 images with labelTrainIds' and found['val'] == '1 images with labelIds'
    dataset = open_dataset(config.from_flat({'set': 'cityscapes', 'data_url': str(tmp_path)}).data, 'train_extra')
    assert (dataset.read(0)[1] == 13).all()


def test_cityscapes_from_polygons(tmp_path):
    stems = [f'val/ulm/ulm_000000_00000{i}' for i in range(2)]
    for stem in stems:
        save(tmp_path / f'leftImg8bit/{stem}_leftImg8bit.png', photo())
    (tmp_path / 'leftImg8bit/val/ulm/._ulm_000000_000000_leftImg8bit.png').write_bytes(b'of macOS')
    first, second = (tmp_path / f'gtFine/{stem}' for stem in stems)
    save(first.with_name(first.name + '_gtFine_labelIds.png'), ids(7, 26, 5))
    second.with_name(second.name + '_gtFine_polygons.json').write_bytes(
        polygons(
            ('road', WHOLE), ('persongroup', [[2, 2], [4, 2], [4, 4], [2, 4]]), ('license plate', [[0, 0], [1, 0], [1, 1]])
        )
    )
    assert prepare.prepare_dataset('cityscapes', tmp_path)['val'] == '2 images with labelTrainIds'
    dataset = open_dataset(config.from_flat({'set': 'cityscapes', 'data_url': str(tmp_path)}).data, 'val')
    assert np.array_equal(dataset.read(0)[1], ids(0, 13, 255))
    expected = np.zeros((6, 8), np.uint8)
    expected[2:5, 2:5] = 11
    assert np.array_equal(dataset.read(1)[1], expected)


def test_a_break_leaves_no_half_label(tmp_path, monkeypatch):
    stem = 'val/ulm/ulm_000000_000001'
    save(tmp_path / f'leftImg8bit/{stem}_leftImg8bit.png', photo())
    (tmp_path / f'gtFine/{stem}').parent.mkdir(parents=True)
    (tmp_path / f'gtFine/{stem}_gtFine_polygons.json').write_bytes(polygons(('road', WHOLE)))

    def breaking(image, path):
        path.write_bytes(b'half')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, 'save', breaking)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare_dataset('cityscapes', tmp_path)
    prepare.prepare_dataset('cityscapes', tmp_path)
    dataset = open_dataset(config.from_flat({'set': 'cityscapes', 'data_url': str(tmp_path)}).data, 'val')
    assert np.array_equal(dataset.read(0)[1], ids(0))


def test_polygons_are_drawn_as_cityscapesscripts_draws_them(tmp_path):
    drawing = pytest.importorskip('cityscapesscripts.preparation.json2labelImg')
    rng = np.random.default_rng(0)
    objects = [
        (str(name), rng.integers(-5, 70, (int(rng.integers(3, 9)), 2)).tolist())
        for name in [*CITYSCAPES_NAMES, *rng.choice(['car', 'cargroup', 'ridergroup', 'license plate', 'pole'], 30)]
    ]
    path = tmp_path / 'x.json'
    path.write_bytes(polygons(*objects, size=(64, 60)))
    drawing.json2labelImg(str(path), str(tmp_path / 'theirs.png'), 'trainIds')
    assert np.array_equal(prepare.polygon_label(path), np.array(Image.open(tmp_path / 'theirs.png')))


def test_names_and_ids_are_cityscapesscripts():
    labels = pytest.importorskip('cityscapesscripts.helpers.labels').labels
    assert CITYSCAPES_NAMES == tuple(label.name for label in labels if label.id >= 0)
    assert CITYSCAPES_LABEL_IDS == tuple(label.id for label in labels if 0 <= label.trainId < 255)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'{', 'not readable as JSON'),
        (b'[]', 'an object with imgHeight is expected'),
        (b'[' * 100000, 'nested too deeply'),
        (polygons(('spaceship', WHOLE)), "label 'spaceship' is none of Cityscapes"),
        (polygons(size=(1 << 20, 1 << 20)), '1048576x1048576 pixels'),
        (polygons(('road', [[0, 0]])), 'a polygon has 1 points'),
        (polygons(('road', WHOLE)).replace(b'[0, 0]', b'[-Infinity, 0]'), 'a point is'),
        (polygons(('road', WHOLE)).replace(b'[0, 0]', b'[1e999, 0]'), 'a point is'),
        (polygons(('road', WHOLE)).replace(b'[0, 0]', b'[NaN, 0]'), 'a point is'),
    ],
)
def test_polygons_are_checked(tmp_path, content, message):
    (tmp_path / 'x.json').write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        prepare.polygon_label(tmp_path / 'x.json')
    assert '\n' not in str(error.value)


def test_camvid(tmp_path):
    for split, count in {'train': 2, 'val': 1}.items():
        for index in range(count):
            save(tmp_path / f'{split}/{index}.png', photo())
    assert prepare.prepare_dataset('camvid', tmp_path) == {'data_url': str(tmp_path), 'train': '2 images', 'val': '1 images'}


def test_camvid32_from_the_archives(tmp_path):
    picture = io.BytesIO()
    Image.fromarray(photo()).save(picture, 'PNG')
    zipped(tmp_path / '701_StillsRaw_full.zip', {'701_StillsRaw_full/a.png': picture.getvalue()})
    zipped(tmp_path / 'LabeledApproved_full.zip', {'a_L.png': picture.getvalue()})
    found = prepare.prepare_dataset('camvid32', tmp_path)
    assert found['701_StillsRaw_full'] == found['LabeledApproved_full'] == '1 files'
    assert (tmp_path / 'LabeledApproved_full/a_L.png').is_file()
    assert prepare.prepare_dataset('camvid11of32', tmp_path) == found, 'another reading of the same files'
