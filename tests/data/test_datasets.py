"""Every layout as it is found in the wild, and every way in which files are broken."""

import os
import struct
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from twinseg.common import config, facts
from twinseg.common.data.classes import CAMVID32, CAMVID_CLASSES, CITYSCAPES_CLASSES, CITYSCAPES_LABEL_IDS, default_palette
from twinseg.common.data.layouts import DATASETS
from twinseg.common.data.open import open_dataset
from twinseg.common.data.reading import read_image
from twinseg.common.errors import DataError
from twinseg.common.settings.groups.data import IMAGE_FOLDERS

SIZE = (6, 8)  # height, width


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def photo(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def ids(*values: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A label that holds the values, in turn."""
    return np.resize(np.array(values, np.uint8), size)


def data(**keys) -> config.Data:
    return config.from_flat(keys).data


def camvid(root: Path, label: np.ndarray | None = None) -> config.Data:
    for split in ('train', 'val'):
        for name in 'ba':
            save(root / split / f'{name}.png', photo())
            save(root / f'{split}annot' / f'{name}.png', ids(0, 5, 10, 11) if label is None else label)
    return data(set='camvid', data_url=str(root))


def custom(root: Path, **changes) -> config.Data:
    save(root / 'photos/train/town/one.jpg', photo())
    save(root / 'masks/train/town/one_mask.png', ids(0, 4, 9))
    return data(
        **{
            'set': 'custom',
            'data_url': str(root),
            'image_dir': 'photos/{split}',
            'label_dir': 'masks/{split}',
            'label_suffix': '_mask.png',
            'classes': ['ground', 'thing'],
            'label_map': {0: 0, 4: 1, 9: 255},
            **changes,
        }
    )


# Layouts


def test_the_configuration_names_the_data_sets_that_can_be_opened():
    names = get_args(config.Data.model_fields['set'].annotation)
    assert sorted(names) == sorted(['toy_street', *IMAGE_FOLDERS, *DATASETS, 'custom'])


def test_camvid(tmp_path):
    dataset = open_dataset(camvid(tmp_path), 'train')
    assert [sample.name for sample in dataset.samples] == ['a', 'b'] and len(dataset) == 2
    assert dataset.description.classes == CAMVID_CLASSES and dataset.description.palette.shape == (11, 3)
    image, label = dataset.read(0)
    assert np.array_equal(image, photo()) and np.array_equal(dataset.read_image(0), photo())
    assert label.dtype == np.uint8 and np.array_equal(label, ids(0, 5, 10, 255))


@pytest.mark.parametrize('layout', ['release', 'folders'])
def test_camvid_with_32_colours(tmp_path, layout):
    colours = np.array([colour for colour, _ in CAMVID32.values()], np.uint8)
    numbers = ids(*range(32))
    for name in ('x1', 'x2'):
        images, labels = ('701_StillsRaw_full', 'LabeledApproved_full') if layout == 'release' else ('val', 'val_labels')
        save(tmp_path / images / f'{name}.png', photo())
        save(tmp_path / labels / f'{name}_L.png', colours[numbers])
    (tmp_path / 'val.txt').write_text('701_StillsRaw_full/x2.png other columns\n\n')
    dataset = open_dataset(data(set='camvid32', data_url=str(tmp_path)), 'val')
    assert [sample.name for sample in dataset.samples] == (['x2'] if layout == 'release' else ['x1', 'x2'])
    names = [name for _, name in CAMVID32.values()]
    expected = np.array([255 if name is None else CAMVID_CLASSES.index(name) for name in names])[numbers]
    assert np.array_equal(dataset.read(0)[1], expected)


# CamVid as XuJiacong/PIDNet@11836f4, datasets/camvid.py, reads it: its list of colours; every other colour is 255
PIDNET = np.array(
    [
        *([0, 128, 192], [128, 0, 0], [64, 0, 128], [192, 192, 128], [64, 64, 128], [64, 64, 0]),
        *([128, 64, 128], [0, 0, 192], [192, 128, 128], [128, 128, 128], [128, 128, 0]),
    ]
)


@pytest.mark.parametrize('palette_file', [False, True])
def test_camvid_with_11_of_32_colours(tmp_path, monkeypatch, palette_file):
    colours = np.array([colour for colour, _ in CAMVID32.values()], np.uint8)
    colour_map = colours[ids(*range(32))]
    label = Image.fromarray(colour_map)
    save(tmp_path / 'camvid32/701_StillsRaw_full/x.png', photo())
    (tmp_path / 'camvid32/LabeledApproved_full').mkdir()
    (label.quantize(32) if palette_file else label).save(tmp_path / 'camvid32/LabeledApproved_full/x_L.png')
    (tmp_path / 'camvid32/val.txt').write_text('x\n')
    monkeypatch.setenv('TWINSEG_DATA', str(tmp_path))
    dataset = open_dataset(data(set='camvid11of32'), 'val')
    theirs = np.full(SIZE, 255)
    for number, colour in enumerate(PIDNET):
        theirs[(colour_map == colour).sum(2) == 3] = number
    ours = dataset.read(0)[1]
    assert np.array_equal(ours == 255, theirs == 255) and len(dataset.description.classes) == 11
    known = theirs != 255
    assert np.array_equal(dataset.description.palette[ours[known]], PIDNET[theirs[known]])
    names = {name for name, colour in zip(CAMVID32, colours.tolist()) if colour in PIDNET.tolist()}
    assert set(dataset.description.classes) == names


def test_the_forms_of_camvid_are_not_confused():
    merged, eleven = (facts.of_config(config.from_flat({'set': name})) for name in ('camvid32', 'camvid11of32'))
    assert [name.lower()[:3] for name in merged.classes][:3] == ['sky', 'bui', 'pol'] and merged.num_classes == 11
    [line] = [line for line in facts.compare(merged, eleven).doubtful if 'classes' in line]
    assert "class 2 is 'pole', there 'Column_Pole'" in line and 'are they the same classes?' in line
    assert facts.compare(merged, eleven, continued=True).wrong


def test_camvid32_groups_into_all_11_classes():
    assert {name for _, name in CAMVID32.values()} == {*CAMVID_CLASSES, None}
    assert len({colour for colour, _ in CAMVID32.values()}) == 32


@pytest.mark.parametrize('kind', ['labelIds', 'labelTrainIds'])
def test_cityscapes(tmp_path, kind):
    stored = ids(*range(34), 255) if kind == 'labelIds' else ids(*range(19), 255)
    save(tmp_path / 'leftImg8bit/val/ulm/ulm_0_1_leftImg8bit.png', photo())
    save(tmp_path / f'gtFine/val/ulm/ulm_0_1_gtFine_{kind}.png', stored)
    dataset = open_dataset(data(set='cityscapes', data_url=str(tmp_path)), 'val')
    assert dataset.samples[0].name == 'ulm_0_1' and dataset.description.classes == CITYSCAPES_CLASSES
    table = np.full(256, 255)
    table[list(CITYSCAPES_LABEL_IDS) if kind == 'labelIds' else range(19)] = range(19)
    assert np.array_equal(dataset.read(0)[1], table[stored])


def voc(root: Path) -> Path:
    """Five images: three labelled by VOC (palette, 255 for borders), two by SBD alone; lists as they are found in the wild."""
    base = root / 'VOCdevkit/VOC2012'
    palette = [channel for colour in [[0, 0, 0], *default_palette(20)] for channel in colour] + [224, 224, 192] * 235
    for number, name in enumerate(('2007_000032', '2007_000039', '2008_000003', '2010_000001', '2010_000002')):
        save(base / f'JPEGImages/{name}.jpg', photo(number))
        label = Image.fromarray(ids(0, number, 20, 255)).convert('P')
        label.putpalette(palette)
        for folder in ('SegmentationClass', 'SegmentationClassAug')[number > 2 :]:
            (base / folder).mkdir(exist_ok=True)
            label.save(base / folder / f'{name}.png')
    lists = base / 'ImageSets/Segmentation'
    lists.mkdir(parents=True)
    for name, lines in {
        'train': ['2007_000032'],
        'val': ['2007_000039', '2008_000003'],
        'aug': ['2010_000002', '2010_000001'],
    }.items():
        (lists / f'{name}.txt').write_text(''.join(f'{line}\n' for line in lines))
    return base


@pytest.mark.parametrize('place', ['.', 'VOCdevkit', 'VOCdevkit/VOC2012'])
def test_voc(tmp_path, place):
    voc(tmp_path)
    dataset = open_dataset(data(set='voc', data_url=str(tmp_path / place)), 'val')
    assert [sample.name for sample in dataset.samples] == ['2007_000039', '2008_000003']
    assert dataset.description.classes[15] == 'person' and dataset.description.palette[15].tolist() == [192, 128, 128]
    assert np.array_equal(dataset.read(0)[1], ids(0, 1, 20, 255))


@pytest.mark.parametrize('listed', ['aug.txt', 'trainaug.txt', 'train_aug.txt', 'DrSleep'])
def test_voc_with_sbd(tmp_path, listed):
    lists = voc(tmp_path) / 'ImageSets/Segmentation'
    names = ['2007_000032', '2010_000001', '2010_000002']
    if listed == 'DrSleep':
        (lists / 'train_aug.txt').write_text(
            ''.join(f'/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n' for name in names)
        )
    elif listed != 'aug.txt':
        (lists / listed).write_text('\n'.join(names))
    dataset = open_dataset(data(set='voc', data_url=str(tmp_path)), 'train_aug')
    assert [sample.name for sample in dataset.samples] == names
    folders = [sample.label.parent.name for sample in dataset.samples]
    assert folders == ['SegmentationClassAug' if listed == 'DrSleep' else 'SegmentationClass'] + ['SegmentationClassAug'] * 2
    assert np.array_equal(dataset.read(2)[1], ids(0, 4, 20, 255))


@pytest.mark.parametrize(
    'text, message',
    [
        ('../../secret', 'leads out of the folder'),
        ('/JPEGImages/a.jpg /../b.png', 'leads out of the folder'),
        ('\n', 'names no image'),
        ('2009_000001\n2007_000032', r"train.txt: 1 of 2 lines name no image in .*JPEGImages: line 1 '2009_000001'"),
        ('', 'names no image'),
        ('/JPEGImages/2007_000032.jpg /SegmentationClass/x.png', '1 of 1 images have no label: 2007_000032.jpg'),
    ],
)
def test_voc_lists_are_checked(tmp_path, text, message):
    (voc(tmp_path) / 'ImageSets/Segmentation/train.txt').write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(data(set='voc', data_url=str(tmp_path)), 'train')


def test_voc_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match='no folder JPEGImages in it; expected below'):
        open_dataset(data(set='voc', data_url=str(tmp_path)), 'train')
    voc(tmp_path)
    with pytest.raises(DataError, match=r'train_aug: .twinseg prepare voc. makes it'):
        open_dataset(data(set='voc', data_url=str(tmp_path)), 'trainval_aug')


def test_custom(tmp_path):
    dataset = open_dataset(custom(tmp_path), 'train')
    assert dataset.samples[0].name == 'town/one' and dataset.description.classes == ('ground', 'thing')
    assert np.array_equal(dataset.read(0)[1], ids(0, 1, 255))
    assert len({tuple(colour) for colour in dataset.description.palette.tolist()}) == 2


def test_palette_label_is_read_as_indices(tmp_path):
    keys = custom(tmp_path)
    label = Image.fromarray(ids(0, 4, 9)).convert('P')
    label.putpalette([7, 7, 7] * 256)
    label.save(tmp_path / 'masks/train/town/one_mask.png')
    assert np.array_equal(open_dataset(keys, 'train').read(0)[1], ids(0, 1, 255))


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'CMYK', '1'])
def test_any_8_bit_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / 'image.tif'
    Image.fromarray(photo()).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (*SIZE, 3) and image.dtype == np.uint8


@pytest.mark.parametrize('place', ['camvid', '.'])
def test_found_below_the_environment_variable(tmp_path, monkeypatch, place):
    camvid(tmp_path / place)
    monkeypatch.setenv('TWINSEG_DATA', str(tmp_path))
    assert len(open_dataset(data(set='camvid'), 'val')) == 2


def test_relative_folder_and_home(tmp_path, monkeypatch):
    camvid(tmp_path / 'streets')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for url in ('streets', '~/streets'):
        assert len(open_dataset(data(set='camvid', data_url=url), 'val')) == 2


@pytest.mark.parametrize('split, count', [('train', 367), ('val', 101)])
def test_real_camvid(data_folder, split, count):
    dataset = open_dataset(data(set='camvid', data_url=str(data_folder / 'camvid')), split)
    assert len(dataset) == count
    assert all(sample.image.name == sample.label.name for sample in dataset.samples)
    found = set()
    for index in range(0, count, 10):
        image, label = dataset.read(index)
        assert image.shape == (360, 480, 3) and label.shape == (360, 480)
        found |= set(np.unique(label).tolist())
    assert found == {*range(11), 255}


# Bad input: what is missing or broken, and the words that the message must hold


def png(width: int, height: int) -> bytes:
    """A PNG that says it is this large, and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN = {
    'truncated PNG image': (
        lambda root: halved(save(root / 'train/a.png', photo(size=(60, 80)))),
        ['train/a.png', 'truncated'],
    ),
    'truncated JPEG image': (
        lambda root: halved(save(root / 'train/a.png', photo(size=(60, 80)), format='JPEG')),
        ['train/a.png', 'truncated'],
    ),
    'truncated label': (lambda root: halved(root / 'trainannot/a.png'), ['trainannot/a.png', 'truncated']),
    'empty image': (lambda root: (root / 'train/a.png').write_bytes(b''), ['train/a.png', 'not readable as an image']),
    'text for an image': (lambda root: (root / 'train/a.png').write_text('hello'), ['train/a.png', 'not readable as an image']),
    'sizes differ': (
        lambda root: save(root / 'trainannot/a.png', ids(0, size=(8, 6))),
        ['train/a.png', '8x6', 'trainannot/a.png', '6x8', 'one size'],
    ),
    'ids outside the map': (
        lambda root: save(root / 'trainannot/a.png', ids(0, 12, 77)),
        ['trainannot/a.png', '[12, 77]', '[0, 12, 77]', '0 to 11, 255', 'label_map'],
    ),
    'colour label': (lambda root: save(root / 'trainannot/a.png', photo()), ['trainannot/a.png', 'RGB', 'one 8-bit channel']),
    '16-bit label': (
        lambda root: save(root / 'trainannot/a.png', ids(0).astype(np.uint16) + 300),
        ['trainannot/a.png', '300 (48 pixels)', '0 to 255'],
    ),
    'dark 16-bit image': (
        lambda root: save(root / 'train/a.png', ids(0).astype(np.uint16) + 900),
        ['train/a.png', '900', '10 bits', 'white_level'],
    ),
    'bomb': (lambda root: (root / 'train/a.png').write_bytes(png(9000, 9000)), ['train/a.png', '9000x9000', 'limit']),
    'large bomb': (lambda root: (root / 'train/a.png').write_bytes(png(90000, 90000)), ['train/a.png', 'bomb']),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_file_is_named(tmp_path, case):
    keys = camvid(tmp_path)
    breaker, words = BROKEN[case]
    breaker(tmp_path)
    dataset = open_dataset(keys, 'train')
    with pytest.raises(DataError) as error:
        dataset.read(0)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert '\n' not in str(error.value)
    assert dataset.read(1)[0].shape == (*SIZE, 3)


def test_unknown_colours_are_listed(tmp_path):
    label = np.zeros((*SIZE, 3), np.uint8)
    label[0, 0] = (1, 2, 3)
    save(tmp_path / 'val/a.png', photo())
    save(tmp_path / 'val_labels/a_L.png', label)
    with pytest.raises(DataError, match=r'a_L\.png: 1 colours that belong to no class: \[\[1, 2, 3\]\]'):
        open_dataset(data(set='camvid32', data_url=str(tmp_path)), 'val').read(0)


def remove(*names: str):
    def apply(root: Path) -> None:
        for name in names:
            (root / name).unlink()

    return apply


MISSING = {
    'split': (lambda root: None, 'test', ['test', 'no such folder', 'test/*.png with testannot/*.png', 'found there: train/']),
    'images': (
        lambda root: (remove('train/a.png', 'train/b.png')(root), (root / 'train/note.txt').write_text('')),
        'train',
        ['train', 'no image in it', 'trainannot/', '1 .txt (note.txt)'],
    ),
    'label': (remove('trainannot/a.png'), 'train', ['1 of 2 images have no label', 'trainannot/a.png']),
}


@pytest.mark.parametrize('case', MISSING)
def test_missing_files_are_named(tmp_path, case):
    keys = camvid(tmp_path)
    breaker, split, words = MISSING[case]
    breaker(tmp_path)
    with pytest.raises(DataError) as error:
        open_dataset(keys, split)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_missing_root(tmp_path, monkeypatch):
    monkeypatch.delenv('TWINSEG_DATA', raising=False)
    with pytest.raises(DataError, match='set data_url, or the environment variable TWINSEG_DATA'):
        open_dataset(data(set='camvid'), 'train')
    monkeypatch.setenv('TWINSEG_DATA', str(tmp_path / 'none'))
    with pytest.raises(DataError, match='TWINSEG_DATA: neither .*none/camvid nor .*none is a folder'):
        open_dataset(data(set='camvid'), 'train')
    with pytest.raises(DataError, match='data_url: .*none is missing'):
        open_dataset(data(set='camvid', data_url=str(tmp_path / 'none')), 'train')


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads everything')
def test_unreadable_file(tmp_path):
    keys = camvid(tmp_path)
    (tmp_path / 'train/a.png').chmod(0)
    with pytest.raises(DataError, match='train/a.png'):
        open_dataset(keys, 'train').read(0)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'image_dir': None}, 'image_dir'),
        ({'classes': []}, 'classes'),
        ({'classes': [str(i) for i in range(254)]}, '254 names'),
        ({'palette': [[0, 0, 0]]}, '1 colours for 2 classes'),
        ({'label_map': {0: 2}}, r'label_map: \{0: 2\}'),
        ({'label_map': {300: 0}}, 'label_map'),
        ({'image_suffix': '.bmp'}, r'no image that ends in \.bmp in it; not used there: 1 \.jpg \(town/one\.jpg\)'),
        ({'image_suffix': '**'}, r'no image that ends in \*\.\*'),
    ],
)
def test_custom_settings_are_checked(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        open_dataset(custom(tmp_path, **changes), 'train')


def test_camvid32_split_file(tmp_path):
    save(tmp_path / '701_StillsRaw_full/a.png', photo())
    keys = data(set='camvid32', data_url=str(tmp_path))
    with pytest.raises(DataError, match='val.txt: not readable'):
        open_dataset(keys, 'val')
    (tmp_path / 'val.txt').write_text('')
    with pytest.raises(DataError, match='val.txt: names no image: the list is empty'):
        open_dataset(keys, 'val')
    (tmp_path / 'val.txt').write_text('a\nz\n')
    with pytest.raises(DataError, match=r"val.txt: 1 of 2 lines name no image in 701_StillsRaw_full: line 2 'z'"):
        open_dataset(keys, 'val')


# Published layouts: the same samples in the same order as sorted(Path.glob) gives


def empty(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def published_cityscapes(root: Path) -> list[tuple[str, Path, Path]]:
    frames = [
        f'{city}/{city}_{frame}' for city in ('zurich', 'aachen', 'bad-honnef', 'bad') for frame in ('9_1', '10_2', '000_3')
    ]
    empty(root, *(f'leftImg8bit/train/{frame}_leftImg8bit.png' for frame in frames))
    kinds = ('color.png', 'instanceIds.png', 'labelIds.png', 'polygons.json')
    empty(root, *(f'gtFine/train/{frame}_gtFine_{kind}' for frame in frames for kind in kinds))
    return [
        (path.name.removesuffix('_leftImg8bit.png'), path, root / 'gtFine/train' / path.parent.name
         / path.name.replace('leftImg8bit', 'gtFine_labelIds'))
        for path in sorted((root / 'leftImg8bit/train').glob('*/*_leftImg8bit.png'))
    ]  # fmt: skip


def published_camvid(root: Path) -> list[tuple[str, Path, Path]]:
    for name in ('0001TP_008550', 'Seq05VD_f00030', '0016E5_07959', '0001TP_6690'):
        empty(root, f'train/{name}.png', f'trainannot/{name}.png')
    return [(path.stem, path, root / 'trainannot' / path.name) for path in sorted((root / 'train').glob('*.png'))]


def published_camvid32(root: Path) -> list[tuple[str, Path, Path]]:
    names = ['0016E5_07959', '0001TP_006690', 'Seq05VD_f00030', '0001TP_008550']
    empty(root, *(f'701_StillsRaw_full/{name}.png' for name in names))
    empty(root, *(f'LabeledApproved_full/{name}_L.png' for name in names))
    (root / 'train.txt').write_text('\n'.join(names[:3]) + '\n')
    folders = root / '701_StillsRaw_full', root / 'LabeledApproved_full'
    return [(name, folders[0] / f'{name}.png', folders[1] / f'{name}_L.png') for name in sorted(names[:3])]


def published_voc(root: Path) -> list[tuple[str, Path, Path]]:
    base, names = root / 'VOCdevkit/VOC2012', ['2011_003276', '2007_000032', '2008_000008', '2007_000063']
    empty(base, *(f'JPEGImages/{name}.jpg' for name in [*names, '2012_000001']))
    empty(base, *(f'SegmentationClass/{name}.png' for name in [*names[1:], '2012_000001']))
    empty(base, *(f'SegmentationClassAug/{name}.png' for name in names))
    empty(base, 'ImageSets/Segmentation/train.txt', 'ImageSets/Main/train.txt')
    (base / 'ImageSets/Segmentation/train.txt').write_text('\n'.join(names) + '\n')
    folders = {name: 'SegmentationClass' if name in names[1:] else 'SegmentationClassAug' for name in names}
    return [(name, base / f'JPEGImages/{name}.jpg', base / folders[name] / f'{name}.png') for name in sorted(names)]


@pytest.mark.parametrize('name', ['cityscapes', 'camvid', 'camvid32', 'voc'])
def test_published_files_give_the_same_samples_in_the_same_order(tmp_path, name):
    make = {
        'cityscapes': published_cityscapes,
        'camvid': published_camvid,
        'camvid32': published_camvid32,
        'voc': published_voc,
    }[name]
    expected = make(tmp_path)
    dataset = open_dataset(data(set=name, data_url=str(tmp_path)), 'train')
    assert [(sample.name, sample.image, sample.label) for sample in dataset.samples] == expected and len(expected) > 2
    assert not dataset.file_facts.unused  # what publishers put beside is known


@pytest.mark.parametrize(
    'name, files, reason',
    [
        (
            'cityscapes',
            ['leftImg8bit/train/bad/x.png', 'gtFine/train/bad/y_gtFine_labelIds.png'],
            '1 file not named *_leftImg8bit.* (bad/x.png)',
        ),
        ('camvid', ['train/x.json', 'train/._a.png', 'trainannot/lonely.png'], '.json'),
        ('camvid32', ['701_StillsRaw_full/x.txt'], '.txt'),
        ('voc', ['VOCdevkit/VOC2012/JPEGImages/Thumbs.db', 'VOCdevkit/VOC2012/JPEGImages/a.xml'], '.xml'),
    ],
)
def test_other_files_in_published_layouts_are_counted(tmp_path, name, files, reason):
    globals()[f'published_{name}'](tmp_path)
    keys = data(set=name, data_url=str(tmp_path))
    before = [sample.name for sample in open_dataset(keys, 'train').samples]
    empty(tmp_path, *files)
    dataset = open_dataset(keys, 'train')
    assert [sample.name for sample in dataset.samples] == before
    assert sum(note.count for note in dataset.file_facts.unused) == len(files)
    assert reason in str(dataset.file_facts)


@pytest.mark.parametrize(
    'lines, files',
    [
        (['my photo 1', 'my photo 2', 'b3'], '.jpg'),
        (['\ufeffa1\r', 'a2\r'], '.jpg'),
        (['a1.jpg', 'a2.jpg'], '.jpg'),
        (['JPEGImages/a1.jpg\tSegmentationClass/a1.png', 'JPEGImages/a2.jpg\tSegmentationClass/a2.png'], '.jpg'),
        (['JPEGImages\\a1.jpg SegmentationClass\\a1.png', 'JPEGImages\\a2.jpg SegmentationClass\\a2.png'], '.jpg'),
        (['/JPEGImages/my photo 1.jpg /SegmentationClass/my photo 1.png'], '.jpg'),
        (['{base}/JPEGImages/a1.JPEG,{base}/SegmentationClass/a1.png'], '.JPEG'),
        (['a1', 'a2'], '.png'),
    ],
)
def test_voc_lists_as_people_write_them(tmp_path, lines, files):
    names = ['a1', 'a2', 'b3', 'my photo 1', 'my photo 2']
    empty(tmp_path, *(f'JPEGImages/{name}{files}' for name in names), *(f'SegmentationClass/{name}.png' for name in names))
    empty(tmp_path, 'ImageSets/Segmentation/train.txt')
    text = '\n'.join(lines).format(base=tmp_path)
    (tmp_path / 'ImageSets/Segmentation/train.txt').write_bytes(text.encode())
    dataset = open_dataset(data(set='voc', data_url=str(tmp_path)), 'train')
    listed = [name for name in names if name in text]
    assert [(s.name, s.image.name, s.label.name) for s in dataset.samples] == [(n, n + files, n + '.png') for n in listed]
