"""Image folders: every layout gives the same samples, every image becomes RGB, and what is broken is named."""

import gzip
import io
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from twinseg.common import config
from twinseg.common.data import image_folder
from twinseg.common.data.open import open_dataset, open_for_cache
from twinseg.common.errors import DataError

IMAGES = {  # below a split: class folders, one with a folder of its own; sorted
    'train': ['cat/1.png', 'cat/2.PNG', 'dog/1.png', 'dog/puppies/0.png', 'eel/9.png'],
    'val': ['cat/5.png', 'eel/6.png'],
}
CLASSES = ('cat', 'dog', 'eel')


def pixels(name: str, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = 'png', **options) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def files() -> dict[str, bytes]:
    return {f'{split}/{name}': encoded(pixels(name)) for split, names in IMAGES.items() for name in names}


def write(root: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def tarred(contents: dict[str, bytes], **options) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w', **options) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def below(folder: str, contents: dict[str, bytes]) -> dict[str, bytes]:
    """What lies in a folder, named from there."""
    return {name.removeprefix(folder + '/'): content for name, content in contents.items() if name.startswith(folder + '/')}


def tars(folder: str = '') -> dict[str, bytes]:
    """A tar per class, each holding ``folder`` with its images."""
    found = {}
    for split in IMAGES:
        for name in CLASSES:
            inside = below(f'{split}/{name}', files())
            if inside:
                found[f'{split}/{name}.tar'] = tarred(
                    {f'{folder.replace("class", name)}{key}': value for key, value in inside.items()}
                )
    return found


def data(root: Path | str, **keys) -> config.Data:
    return config.from_flat({'set': 'image_folder', 'data_url': str(root), **keys}).data


LAYOUTS = {
    'folders': files,
    'tar of a split': lambda: {f'{split}.tar': tarred(below(split, files())) for split in IMAGES},
    'tar with the name of the split': lambda: {
        f'{split}.tar': tarred({f'./{split}/{name}': content for name, content in below(split, files()).items()})
        for split in IMAGES
    },
    'tar of a class': tars,
    'tar of a class with its folder': lambda: tars('class/'),
    'tar of tars': lambda: {f'{split}.tar': tarred(below(split, tars())) for split in IMAGES},
    'as published': lambda: {f'ILSVRC2012_img_{split}.tar': tarred(below(split, tars())) for split in IMAGES},
    'one tar': lambda: {'all.tar': tarred(files())},
    'one tar with a folder around': lambda: {'all.tar': tarred({f'photos/{name}': value for name, value in files().items()})},
    'one tar of tars': lambda: {'all.tar': tarred({'notes.txt': b'', '._x.png': b'', **tars()})},
    'gnu': lambda: {'all.tar': tarred(files(), format=tarfile.GNU_FORMAT)},
    'ustar': lambda: {'all.tar': tarred(files(), format=tarfile.USTAR_FORMAT)},
    'pax': lambda: {'all.tar': tarred(files(), format=tarfile.PAX_FORMAT, pax_headers={'comment': 'x' * 3000})},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_same_samples(tmp_path, layout):
    write(tmp_path, LAYOUTS[layout]())
    before = sorted(tmp_path.rglob('*'))
    root = tmp_path / 'all.tar' if (tmp_path / 'all.tar').is_file() else tmp_path
    doubled = 'with its folder' in layout
    for split, names in IMAGES.items():
        dataset = open_dataset(data(root), split)
        assert isinstance(dataset, image_folder.ImageFolder) and len(dataset) == len(names)
        assert dataset.description.classes == CLASSES and dataset.description.palette.shape == (3, 3)
        assert [sample.name for sample in dataset.samples] == [
            f'{name.split("/")[0]}/{name}' if doubled else name for name in names
        ]
        assert dataset.labels.dtype == np.int64
        for index, name in enumerate(names):
            image, label = dataset.read(index)
            assert np.array_equal(image, pixels(name)) and np.array_equal(dataset.read_image(index), image)
            assert type(label) is int and label == dataset.labels[index] == CLASSES.index(name.split('/')[0])
    assert sorted(tmp_path.rglob('*')) == before  # nothing is unpacked


@pytest.mark.parametrize('layout', ['folders', 'tar of a split', 'tar of a class', 'one tar'])
def test_without_the_training_split_classes_are_numbered_by_themselves(tmp_path, layout):
    write(tmp_path, {name: content for name, content in LAYOUTS[layout]().items() if not name.startswith('train')})
    root = tmp_path / 'all.tar' if layout == 'one tar' else tmp_path
    keys = {'train_split': 'training'} if layout == 'one tar' else {}
    dataset = open_dataset(data(root, **keys), 'val')
    assert dataset.description.classes == ('cat', 'eel') and dataset.labels.tolist() == [0, 1]


def test_a_tar_is_replaced_by_another(tmp_path):
    write(tmp_path, {'train.tar': tarred(below('train', files()))})
    assert len(open_dataset(data(tmp_path), 'train')) == 5
    write(tmp_path, {'train.tar': tarred({'a/1.png': encoded(pixels('new'))})})
    dataset = open_dataset(data(tmp_path), 'train')
    assert dataset.description.classes == ('a',) and np.array_equal(dataset.read_image(0), pixels('new'))


def test_of_a_file_that_a_tar_holds_twice_the_later_counts(tmp_path):
    (tmp_path / 'train.tar').write_bytes(tarred({'a/1.png': encoded(pixels('old'))}))
    with tarfile.open(tmp_path / 'train.tar', 'a') as tar:
        content = encoded(pixels('new'))
        member = tarfile.TarInfo('a/1.png')
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    dataset = open_dataset(data(tmp_path), 'train')
    assert len(dataset) == 1 and np.array_equal(dataset.read_image(0), pixels('new'))


def test_long_names(tmp_path):
    name = 'a' * 60 + '/' + 'b' * 200 + '/ä' + 'c' * 90 + '.png'
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        (tmp_path / 'train.tar').write_bytes(tarred({name: encoded(pixels('x'))}, format=kind))
        os.utime(tmp_path / 'train.tar', ns=(0, kind))
        assert [sample.name for sample in open_dataset(data(tmp_path), 'train').samples] == [name]


def test_found_below_the_environment_variable(tmp_path, monkeypatch):
    write(tmp_path / 'imagenet', files())
    monkeypatch.setenv('TWINSEG_DATA', str(tmp_path))
    assert len(open_dataset(config.from_flat({'set': 'imagenet'}).data, 'val')) == 2


def _read(dataset, results):
    results.put([dataset.read_image(index).tobytes() for index in range(len(dataset))])


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_processes_and_threads_read_the_same_bytes(tmp_path, method):
    write(tmp_path, LAYOUTS['tar of tars']())
    dataset = open_dataset(data(tmp_path), 'train')
    expected = [pixels(name).tobytes() for name in IMAGES['train']]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=_read, args=(dataset, results), daemon=True)
    process.start()
    assert results.get(timeout=60) == expected
    process.join()
    copied = pickle.loads(pickle.dumps(dataset))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(copied.read_image, list(range(5)) * 20))
    assert [image.tobytes() for image in found] == expected * 20


# Classes from a file


@pytest.mark.parametrize(
    'content, classes, labels',
    [
        (json.dumps({'eel': 0, 'dog': 1, 'cat': 2, 'fox': 3}), ('eel', 'dog', 'cat', 'fox'), [2, 2, 1, 1, 0]),
        (
            json.dumps({'1': ['cat', 'house cat'], '0': ['dog', 'dog'], '2': ['eel', 'sea eel']}),
            ('dog', 'house cat', 'sea eel'),
            [1, 1, 0, 0, 2],
        ),
        ('dog\ncat  house cat, tabby\n\neel\tsea eel\n', ('dog', 'house cat, tabby', 'sea eel'), [1, 1, 0, 0, 2]),
        ('\ufeffdog\r\ncat\r\neel\r\n', ('dog', 'cat', 'eel'), [1, 1, 0, 0, 2]),
    ],
)
def test_class_files(tmp_path, content, classes, labels):
    write(tmp_path, {**files(), 'classes': content.encode()})
    dataset = open_dataset(data(tmp_path, class_file=str(tmp_path / 'classes')), 'train')
    assert dataset.description.classes == classes and dataset.labels.tolist() == labels
    validation = open_dataset(data(tmp_path, class_file=str(tmp_path / 'classes')), 'val')
    assert validation.description.classes == classes and validation.labels.tolist() == [labels[0], labels[4]]


def test_a_folder_with_a_blank_in_a_class_file(tmp_path):
    write(
        tmp_path,
        {
            'train/polar bear/1.png': encoded(pixels('x')),
            'train/cat/1.png': encoded(pixels('y')),
            'classes.txt': b'polar bear\ncat house cat\n',
        },
    )
    dataset = open_dataset(data(tmp_path, class_file=str(tmp_path / 'classes.txt')), 'train')
    assert dataset.description.classes == ('polar bear', 'house cat') and dataset.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    'content, message',
    [
        (b'cat\ndog\n', r"1 class folders of the split 'train' are not among the 2 classes of .*classes: eel"),
        (b'cat\ndog\neel\ncat\n', 'are listed more than once'),
        (b'{"cat": 0, "dog": 1, "eel": 3}', 'expected the numbers 0 to 2, each once; 2 is missing'),
        (b'{"cat": 0, "dog": 0, "eel": 1}', 'expected the numbers 0 to 2, each once; 1 is missing'),
        (b'{"cat": 0, "dog": 1.5, "eel": 1}', "found 'dog': 1.5"),
        (b'{"cat": true, "dog": 0}', "found 'cat': True"),
        (b'{"0": ["cat"]}', 'not readable'),
        (b'{"x": ["cat", "cat"]}', 'not readable'),
        (b'{"cat": 0', 'not readable'),
        (b'{"cat": ' + b'[' * 100000, 'not readable'),
        (b'\xff\xfe\x00', 'not readable'),
        (b'', 'are not among the 0 classes'),
    ],
)
def test_bad_class_files(tmp_path, content, message):
    write(tmp_path, {**files(), 'classes': content})
    with pytest.raises(DataError, match=message):
        open_dataset(data(tmp_path, class_file=str(tmp_path / 'classes')), 'train')


@pytest.mark.parametrize(
    'content',
    [
        '{"a": ' + '9' * 5000 + '}',
        '{"' + '9' * 5000 + '": ["a"]}',
        '{"a": ' + '[' * 100000,
        '{"a": "' + 'x' * 9000 + '"}',
        '{"' + 'x' * 9000 + '": ["a"]}',
    ],
)
def test_class_files_that_would_fill_a_screen(tmp_path, content):
    write(tmp_path, files())
    (tmp_path / 'classes').write_text(content)
    with pytest.raises(DataError, match='class_file: .*classes: not readable') as error:
        open_dataset(data(tmp_path, class_file=str(tmp_path / 'classes')), 'train')
    assert len(str(error.value)) < 500 + len(str(tmp_path)) and '\n' not in str(error.value)


def test_a_device_without_end_is_no_class_file(tmp_path):
    write(tmp_path, files())
    with pytest.raises(DataError, match='class_file: /dev/zero: not readable .more than 16777216 bytes'):
        open_dataset(data(tmp_path, class_file='/dev/zero'), 'train')


def test_no_class_file(tmp_path):
    write(tmp_path, files())
    with pytest.raises(DataError, match='class_file: .*nowhere.txt: not readable'):
        open_dataset(data(tmp_path, class_file=str(tmp_path / 'nowhere.txt')), 'train')


# Images of every kind


def kinds() -> dict[str, bytes]:
    image = Image.fromarray(pixels('kinds', (16, 24)))
    clear = image.convert('P')
    return {
        'rgb.jpg': encoded(image, 'jpeg'),
        'cmyk.jpg': encoded(image.convert('CMYK'), 'jpeg'),
        'grey.jpg': encoded(image.convert('L'), 'jpeg'),
        'progressive.JPEG': encoded(image, 'jpeg', progressive=True),
        'palette.png': encoded(clear),
        'clear colour.png': encoded(clear, transparency=3),
        'clear palette.png': encoded(clear, transparency=bytes(range(256))),
        'rgba.png': encoded(image.convert('RGBA')),
        'grey with alpha.png': encoded(image.convert('LA')),
        'bits.png': encoded(image.convert('1')),
        'lab.tif': encoded(image.convert('LAB'), 'tiff'),
        'a.webp': encoded(image, 'webp'),
        'a.bmp': encoded(image, 'bmp'),
        'a.ppm': encoded(image, 'ppm'),
    }


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.filterwarnings('ignore:Palette images with Transparency')
def test_every_kind_of_image_becomes_rgb_as_pillow_converts_it(tmp_path, packed):
    contents = {f'a/{name}': content for name, content in kinds().items()}
    write(tmp_path, {'train.tar': tarred(contents)} if packed else {f'train/{name}': value for name, value in contents.items()})
    dataset = open_dataset(data(tmp_path), 'train')
    assert {sample.name for sample in dataset.samples} == set(contents)
    for index, sample in enumerate(dataset.samples):
        expected = Image.open(io.BytesIO(contents[sample.name])).convert('RGB')
        image = dataset.read_image(index)
        assert image.shape == (16, 24, 3) and image.dtype == np.uint8 and np.array_equal(image, np.asarray(expected))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied_but_to_imagenet(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(tmp_path, {'train/a/1.jpg': encoded(pixels('exif', (16, 24)), 'jpeg', exif=exif)})
    stored = Image.open(tmp_path / 'train/a/1.jpg').convert('RGB')
    turned = ImageOps.exif_transpose(Image.open(tmp_path / 'train/a/1.jpg')).convert('RGB')
    assert np.array_equal(open_dataset(data(tmp_path, set='imagenet'), 'train').read_image(0), stored)
    assert np.array_equal(open_dataset(data(tmp_path), 'train').read_image(0), turned)
    assert turned.size == ((24, 16) if orientation < 5 else (16, 24))


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize(
    'content, message',
    [
        (encoded(pixels('x', (64, 64)), 'jpeg')[:-900], 'truncated or broken'),
        (encoded(pixels('x', (64, 64)))[:500], 'truncated or broken'),
        (b'', 'not readable as an image'),
        (b'<html>404</html>', 'not readable as an image'),
        (encoded(Image.new('1', (40000, 2000))), r'40000x2000 pixels, more than the limit'),
    ],
)
def test_broken_images_are_named(tmp_path, packed, content, message):
    inside = {'cat/1.png': encoded(pixels('x')), 'cat/2.png': content}
    write(tmp_path, {'val.tar': tarred(inside)} if packed else {f'val/{name}': value for name, value in inside.items()})
    dataset = open_dataset(data(tmp_path), 'val')
    assert dataset.read(0)[1] == 0
    where = f'{tmp_path}/val.tar: val: cat/2.png: ' if packed else f'{tmp_path}/val/cat/2.png: '
    with pytest.raises(DataError, match=message) as error:
        dataset.read(1)
    assert str(error.value).startswith(where)


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data', 'ignore:Tag data larger than file')
def test_broken_exif_data_is_no_crash(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(pixels('exif', (8, 8)), 'jpeg', exif=exif)
    start = whole.index(b'Exif')
    contents = {}
    for place in range(start, start + 40):
        for value in (0, 1, 127, 255):
            contents[f'train/a/{place}-{value}.jpg'] = whole[:place] + bytes([value]) + whole[place + 1 :]
    write(tmp_path, contents)
    dataset = open_dataset(data(tmp_path, exif_rotate=True), 'train')
    for index in range(len(dataset)):
        try:
            assert dataset.read_image(index).shape == (8, 8, 3)
        except DataError as error:
            assert str(tmp_path) in str(error)


# Bad layouts and bad tars


@pytest.mark.parametrize(
    'contents, split, message',
    [
        ({}, 'train', 'no images of the split .train.; expected train/<class>/<image>, .*splits found: none'),
        (files(), 'test', 'no images of the split .test.; .*splits found: train, val'),
        (LAYOUTS['tar of tars'](), 'test', 'splits found: train, val'),
        (LAYOUTS['as published'](), 'test', 'splits found: train, val'),
        ({'train/cat/notes.txt': b''}, 'train', 'no images of the split .train.'),
        ({'train/1.png': b'', 'train/cat/1.png': b''}, 'train', 'train. lie in no class folder, first 1.png'),
        ({'train.tar': tarred({'1.JPEG': b''})}, 'train', 'lie in no class folder, first 1.JPEG'),
        (
            {**files(), 'val/fox/1.png': b''},
            'val',
            "1 class folders of the split 'val' are not among the 3 classes of train: fox",
        ),
        (
            {**files(), 'train/ant/notes.txt': b''},
            'train',
            "class folders of the split 'train' without images: ant; remove them",
        ),
    ],
)
def test_bad_layouts(tmp_path, contents, split, message):
    write(tmp_path, contents)
    with pytest.raises(DataError, match=message) as error:
        open_dataset(data(tmp_path), split)
    assert str(tmp_path) in str(error.value)


def test_bad_places(tmp_path):
    write(tmp_path, {'all.tar': tarred(files()), 'file.txt': b'no tar at all' * 100})
    with pytest.raises(DataError, match=r'no images of the split .test.; .*splits found: train, val'):
        open_dataset(data(tmp_path / 'all.tar'), 'test')
    with pytest.raises(DataError, match='nowhere is missing .*expected the folder or the tar of image_folder'):
        open_dataset(data(tmp_path / 'nowhere'), 'train')
    with pytest.raises(DataError, match='file.txt: not readable as a tar'):
        open_dataset(data(tmp_path / 'file.txt'), 'train')
    with pytest.raises(DataError, match='all.tar is no folder'):
        open_dataset(config.from_flat({'set': 'camvid', 'data_url': str(tmp_path / 'all.tar')}).data, 'train')


def test_a_link_to_a_folder_above(tmp_path):
    write(tmp_path, files())
    (tmp_path / 'train/cat/again').symlink_to(tmp_path / 'train')
    dataset = open_dataset(data(tmp_path), 'train')
    assert [sample.name for sample in dataset.samples] == IMAGES['train']
    assert str(dataset.file_facts) == '1 file is not used: 1 link to a folder above (cat/again)'


@pytest.mark.parametrize('layout', ['folders', 'tar of a split', 'tar of a class', 'one tar'])
def test_what_is_no_image_is_counted(tmp_path, layout):
    others = {'cat/1.json': b'', 'cat/2.JSON': b'', 'dog/._1.png': b'', 'dog/Thumbs.db': b'', 'eel/README': b''}
    contents = {**files(), **{f'train/{name}': content for name, content in others.items()}}
    packed = {
        'folders': lambda: contents,
        'tar of a split': lambda: {'train.tar': tarred(below('train', contents))},
        'tar of a class': lambda: {f'train/{name}.tar': tarred(below(f'train/{name}', contents)) for name in CLASSES},
        'one tar': lambda: {'all.tar': tarred(contents)},
    }
    write(tmp_path, packed[layout]())
    dataset = open_dataset(data(tmp_path / 'all.tar' if layout == 'one tar' else tmp_path), 'train')
    assert len(dataset) == 5
    assert {note.reason: note.count for note in dataset.file_facts.unused} == {
        '.json': 2,
        'hidden': 2,
        'file(s) without a suffix': 1,
    }


@pytest.mark.parametrize('layout', ['split', 'classes', 'tar of a split', 'tars of classes', 'tar'])
def test_a_fraction_divides_every_class(tmp_path, layout):
    inside = {f'{name}/{k}.png': b'' for name, count in (('cat', 10), ('dog', 5), ('eel', 1)) for k in range(count)}
    contents = {
        'split': lambda: {f'train/{name}': content for name, content in inside.items()},
        'classes': lambda: inside,
        'tar of a split': lambda: {'train.tar': tarred(inside)},
        'tars of classes': lambda: {f'{name}.tar': tarred(below(name, inside)) for name in CLASSES},
        'tar': lambda: {'all.tar': tarred(inside)},
    }
    write(tmp_path, contents[layout]())
    keys = data(tmp_path / 'all.tar' if layout == 'tar' else tmp_path, val_fraction=0.2)
    training, validation = open_dataset(keys, 'train'), open_dataset(keys, 'val')
    assert training.labels.tolist() == [0] * 8 + [1] * 4 + [2] and validation.labels.tolist() == [0, 0, 1]
    assert training.description.classes == validation.description.classes == CLASSES
    assert sorted(sample.name for part in (training, validation) for sample in part.samples) == sorted(inside)
    assert [sample.name for sample in validation.samples] == [sample.name for sample in open_dataset(keys, 'val').samples]
    with pytest.raises(DataError, match="no split 'test': val_fraction divides"):
        open_dataset(keys, 'test')


def test_a_fraction_of_a_set_that_has_both_splits(tmp_path):
    write(tmp_path, files())
    with pytest.raises(DataError, match="val_fraction divides train, but there are images of the split 'val', too"):
        open_dataset(data(tmp_path, val_fraction=0.2), 'train')


def test_class_folders_are_one_class_in_either_form_of_accents(tmp_path):
    write(tmp_path, {'train/caf\u00e9/1.png': encoded(pixels('x')), 'val/cafe\u0301/1.png': encoded(pixels('y'))})
    assert open_dataset(data(tmp_path), 'val').labels.tolist() == [0]
    write(tmp_path, {'train/cafe\u0301/1.png': encoded(pixels('x'))})
    with pytest.raises(DataError, match='class folders of one name'):
        open_dataset(data(tmp_path), 'train')


def test_linked_folders_are_followed(tmp_path):
    write(tmp_path / 'elsewhere', files())
    (tmp_path / 'here').mkdir()
    (tmp_path / 'here/train').symlink_to(tmp_path / 'elsewhere/train')
    assert len(open_dataset(data(tmp_path / 'here'), 'train')) == 5


@pytest.mark.parametrize('place', ['train.tar', 'train/cat.tar'])
def test_a_compressed_tar(tmp_path, place):
    write(tmp_path, {**files(), place: gzip.compress(tarred({'cat/1.png': encoded(pixels('x'))}))})
    if place == 'train.tar':
        shutil.rmtree(tmp_path / 'train')
    with pytest.raises(DataError, match=f'{place}: compressed with gzip; .* decompress the tar'):
        open_dataset(data(tmp_path), 'train')


def test_special_members_are_ignored_and_nothing_touches_the_disk(tmp_path):
    secret = tmp_path / 'secret.png'
    secret.write_bytes(encoded(pixels('secret')))
    stream = io.BytesIO(
        tarred(
            {
                f'../../{tmp_path.name}/x.png': encoded(pixels('up')),
                'a/../b/1.png': b'',
                '/cat/absolute.png': encoded(pixels('absolute')),
                'cat/1.png': encoded(pixels('x')),
            }
        )
    )
    with tarfile.open(fileobj=stream, mode='a') as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f'cat/{kind.decode()}.png')
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
    write(tmp_path / 'set', {'train.tar': stream.getvalue()})
    before = sorted(tmp_path.rglob('*'))
    dataset = open_dataset(data(tmp_path / 'set'), 'train')
    assert [sample.name for sample in dataset.samples] == ['cat/1.png', 'cat/absolute.png']
    assert np.array_equal(dataset.read_image(1), pixels('absolute')) and sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('end', [700, 1024, 1500, 4000])
def test_a_truncated_tar(tmp_path, end):
    content = tarred({f'cat/{number}.png': encoded(pixels(str(number), (40, 40))) for number in range(3)})
    write(tmp_path, {'train.tar': content[:end]})
    with pytest.raises(DataError, match='train.tar: .*(truncated or broken|broken: )'):
        open_dataset(data(tmp_path), 'train')


def test_a_broken_header_is_not_taken_for_the_end(tmp_path):
    content = bytearray(tarred({f'cat/{number}.png': encoded(pixels(str(number))) for number in range(3)}))
    content[1024 + 150] ^= 1  # in the checksum of the second
    write(tmp_path, {'train.tar': bytes(content)})
    with pytest.raises(DataError, match='train.tar: broken: no header at byte 1024'):
        open_dataset(data(tmp_path), 'train')


def test_a_list_of_holes_without_end_is_not_read(tmp_path):
    """GNU's list of the holes of a sparse file, in the file itself: tarfile would read all of it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w', format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo('cat/1.png')
        member.pax_headers = {
            'GNU.sparse.major': '1',
            'GNU.sparse.minor': '0',
            'GNU.sparse.name': 'a',
            'GNU.sparse.realsize': '1',
        }
        body = b'99999999\n' + b'1\n' * (2 << 20)
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    write(tmp_path, {'train.tar': stream.getvalue()})
    with pytest.raises(DataError, match='train.tar: .*a header of more than 1048576 bytes'):
        open_dataset(data(tmp_path), 'train')


def test_sizes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(image_folder, 'MAX_BYTES', 100)
    write(tmp_path, {'train.tar': tarred({'cat/1.png': encoded(pixels('x', (40, 40)))})})
    with pytest.raises(DataError, match='cat/1.png: [0-9]+ bytes, more than the limit of 100'):
        open_dataset(data(tmp_path), 'train').read(0)


def test_damaged_tars_are_errors_or_read(tmp_path):
    content = tarred(
        {'train/cat/1.png': encoded(pixels('x')), 'train/dog/' + 'n' * 120 + '.png': encoded(pixels('y'))},
        format=tarfile.PAX_FORMAT,
    )
    rng = np.random.default_rng(0)
    outcomes = set()
    for number in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content) if number % 2 else 512, rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 45, 48, 55, 128, 255])
        if number % 3 == 0:  # with a checksum that fits
            damaged[148:156] = b'%06o\0 ' % (sum(damaged[:148]) + sum(damaged[156:512]) + 8 * 32)
        path = tmp_path / f'{number}.tar'
        path.write_bytes(damaged)
        try:
            dataset = open_dataset(data(path), 'train')
            outcomes.add(len(dataset))
            for index in range(len(dataset)):
                dataset.read_image(index)
        except DataError as error:
            assert str(path) in str(error)
            outcomes.add('error')
    assert {2, 'error'} <= outcomes


# Elsewhere


def test_there_is_no_cache_of_image_folders(tmp_path):
    write(tmp_path, files())
    with pytest.raises(DataError, match='set: image_folder: only images with label images are cached'):
        open_for_cache(config.from_flat({'set': 'image_folder', 'data_url': str(tmp_path)}).data)


@pytest.mark.parametrize('split, count', [('train', 1000), ('val', 200)])
def test_real_images_in_their_tar(data_folder, split, count):
    tar = data_folder / 'cifar10-imagefolder.tar'
    if not tar.is_file():
        pytest.skip(f'{tar} is absent')
    dataset = open_dataset(data(tar), split)
    assert dataset.description.classes == (
        'airplane',
        'automobile',
        'bird',
        'cat',
        'deer',
        'dog',
        'frog',
        'horse',
        'ship',
        'truck',
    )
    assert np.array_equal(np.bincount(dataset.labels), [count] * 10)
    with tarfile.open(tar) as packed:
        for index in range(0, len(dataset), len(dataset) // 20):
            image, label = dataset.read(index)
            name = dataset.samples[index].name
            assert name.startswith(dataset.description.classes[label] + '/')
            expected = Image.open(packed.extractfile(f'cifar10/{split}/{name}')).convert('RGB')
            assert np.array_equal(image, np.asarray(expected))
