"""Custom data sets: which files are images, which label is whose, which images a split has, and what is said of the others."""

import os
from pathlib import Path

import pytest

from twinseg.common import config
from twinseg.common.data import splits
from twinseg.common.data.open import open_files, open_for_cache, open_splits, shared_images, unused_files
from twinseg.common.data.pairs import Ending
from twinseg.common.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')


def data(root: Path, **keys) -> config.Data:
    folders = {'image_dir': 'images', 'label_dir': 'masks', 'classes': ['ground', 'thing']}
    return config.from_flat({'set': 'custom', 'data_url': str(root), **folders, **keys}).data


def pairs(root: Path, split: str = 'train', check: bool = True, **keys) -> list[tuple[str, str]]:
    """Image and label of each sample, from the folder of the data set on."""
    dataset = open_files(data(root, **keys), split, check)
    return [(os.path.relpath(sample.image, root), os.path.relpath(sample.label, root)) for sample in dataset.samples]


def notes(root: Path, split: str = 'train', **keys) -> dict[str, int]:
    return {note.reason: note.count for note in open_files(data(root, **keys), split).file_facts.unused}


# Which label is whose


@pytest.mark.parametrize(
    'images, labels, keys',
    [
        (['a.JPG', 'b.jpeg', 'c.tif'], ['a.png', 'b.TIF', 'c.bmp'], {}),
        (['a.jpg', 'b.JPG'], ['a.png', 'b.png'], {'image_suffix': '.jpg'}),
        (['a.jpg'], ['a.png'], {'image_suffix': 'JPG', 'label_suffix': 'png'}),
        (['a.jpg'], ['a_L.png'], {'label_suffix': '_L.png'}),
        (['a.jpg'], ['a_L.PNG'], {'label_suffix': '_l'}),
        (['a_rgb.png'], ['a_ids.png'], {'image_suffix': '_rgb.png', 'label_suffix': '_ids.png'}),
        (['a.jpg', 'a.png'], ['a.jpg.png', 'a.png.png'], {}),
        (['a.jpg', 'b/c/a.jpg'], ['a.png', 'b/c/a.png'], {}),
        (['my photo.1.jpg'], ['my photo.1.png'], {}),
        (['caf\u00e9.jpg'], ['cafe\u0301.png'], {}),
        ([os.fsdecode(b'caf\xe9.jpg')], [os.fsdecode(b'caf\xe9.png')], {}),
    ],
)
def test_labels_are_found_by_name(tmp_path, images, labels, keys):
    touch(tmp_path / 'images', *images, *(['x.gif'] if 'image_suffix' in keys else []))
    touch(tmp_path / 'masks', *labels)
    assert pairs(tmp_path, **keys) == [(f'images/{image}', f'masks/{label}') for image, label in zip(images, labels)]


@pytest.mark.parametrize(
    'files, keys, images, labels',
    [
        ('a.png a_mask.png b.png b_mask.png', {'label_suffix': '_mask.png'}, 'a.png b.png', 'a_mask.png b_mask.png'),
        ('a_rgb.png a.png', {'image_suffix': '_rgb.png'}, 'a_rgb.png', 'a.png'),
        ('a_rgb.png a.png', {'image_suffix': '_rgb.png', 'label_suffix': '.png'}, 'a_rgb.png', 'a.png'),
        ('a.png a_L.png', {'image_suffix': '.png', 'label_suffix': '_L.png'}, 'a.png', 'a_L.png'),
        ('a.JPG a.png b.jpeg b.tif', {}, 'a.JPG b.jpeg', 'a.png b.tif'),
        ('1/image.png 1/mask.png 2/image.png 2/mask.png', {'image_suffix': 'image.png', 'label_suffix': 'mask.png'},
         '1/image.png 2/image.png', '1/mask.png 2/mask.png'),
    ],
)  # fmt: skip
def test_images_and_labels_in_one_folder(tmp_path, files, keys, images, labels):
    touch(tmp_path / 'data', *files.split(), '._a.png')
    found = pairs(tmp_path, image_dir='data', label_dir='data', **keys)
    assert found == [(f'data/{image}', f'data/{label}') for image, label in zip(images.split(), labels.split())]
    assert notes(tmp_path, image_dir='data', label_dir='data', **keys) == {'hidden': 1}


def test_one_folder_in_the_other(tmp_path):
    touch(tmp_path, 'set/a.png', 'set/masks/a.png', 'set/b/c.png', 'set/masks/b/c.png')
    expected = [('set/a.png', 'set/masks/a.png'), ('set/b/c.png', 'set/masks/b/c.png')]
    assert pairs(tmp_path, image_dir='set', label_dir='set/masks') == expected
    assert pairs(tmp_path / 'set', image_dir='.', label_dir='masks') == [('a.png', 'masks/a.png'), ('b/c.png', 'masks/b/c.png')]
    touch(tmp_path, 'other/a.png', 'other/images/a.png')
    assert pairs(tmp_path, image_dir='other/images', label_dir='other') == [('other/images/a.png', 'other/a.png')]


@pytest.mark.parametrize(
    'files, keys, message',
    [
        ('images/a.jpg images/a.png masks/a.png', {}, r'label a\.png belongs to two images, a\.jpg and a\.png; .*image_suffix'),
        ('images/a.jpg masks/a.png masks/a.tif', {}, r'the image a\.jpg has 2 labels: a\.png, a\.tif; .*label_suffix'),
        ('images/a.jpg images/b.jpg masks/a.png', {}, r'1 of 2 images have no label: b\.jpg \(expected .*/masks/b\.png\)'),
        (' '.join(f'images/{k}.jpg' for k in range(5)), {}, r'5 of 5 images have no label: 0\.jpg, 1\.jpg, 2\.jpg, \.\.\. \('),
        ('images/a.jpg masks/a_L.png', {}, r'labels such as a_L\.png: should label_suffix be _L\.png\?'),
        ('images/a.jpg masks/a.JSON', {'label_suffix': '.png'}, '1 of 1 images have no label'),
        ('data/a.png data/a_mask.png', {'image_dir': 'data', 'label_dir': 'data'},
         r'are one folder, and nothing tells its 2 images from labels .*such as label_suffix: _mask\.png'),
        ('images/a.jpg', {'image_dir': 'photos'}, 'photos: no such folder; expected below'),
        ('images/a.txt', {}, r'images: no image in it; not used there: 1 \.txt \(a\.txt\)'),
        ('images/._a.jpg', {}, r'images: no image in it; not used there: 1 hidden \(\._a\.jpg\)'),
    ],
)  # fmt: skip
def test_what_does_not_pair_is_said(tmp_path, files, keys, message):
    touch(tmp_path, *files.split())
    with pytest.raises(DataError, match=message) as error:
        open_files(data(tmp_path, **keys), 'train')
    assert '\n' not in str(error.value)


def test_what_is_not_used_is_counted(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'images/a.json', 'images/b.json', 'images/._a.jpg', 'images/c.png', 'masks/a.png')
    touch(tmp_path, 'masks/c.png', 'masks/d.png', 'masks/colours.txt')
    keys = {'image_suffix': '.jpg'}
    assert notes(tmp_path, **keys) == {'.json': 2, 'label(s) without an image': 2, '.png': 1, '.txt': 1, 'hidden': 1}
    [line] = unused_files(open_files(data(tmp_path, **keys), 'train'), open_files(data(tmp_path, **keys), 'val'))
    assert line == (
        'custom train and val: 7 files are not used: 2 .json (a.json, b.json), 2 labels without an image (c.png, d.png), '
        '1 .png (c.png), 1 .txt (colours.txt), 1 hidden (._a.jpg)'
    )


def test_labels_of_other_splits_in_one_folder_are_not_counted(tmp_path):
    touch(tmp_path, 'images/train/a.jpg', 'images/val/b.jpg', 'masks/a.png', 'masks/b.png')
    assert notes(tmp_path, image_dir='images/{split}') == {}


def test_endings():
    assert Ending.of('.png').stem('a.PNG') == 'a' and Ending.of('.jpg.png').stem('a.jpg.png') == 'a'
    assert Ending.of('_mask').stem('x/a_MASK.tif') == 'x/a' and Ending.of('_mask').stem('a_mask.json') is None
    assert Ending.of('*.png') == Ending.of('png') == Ending.of('.PNG')
    assert Ending.of(None).stem('a') is None and Ending.of('').stem('a.webp') == 'a'
    assert (
        Ending.of('_labelIds.PNG').stem('a_LABELids.png') == 'a' and Ending.of('_labelIds.PNG').usual('a') == 'a_labelIds.png'
    )
    assert str(Ending.of('_mask')) == '_mask.*' and Ending.of('_mask').usual('a') == 'a_mask.png'


# Splits by lists

NAMES = ['a1', 'my photo 2', 'town/b', 'town/c,d', '#5']


def listed(root: Path, content: bytes | str, **keys) -> list[str]:
    """The names of the samples of a list."""
    touch(root, *(f'images/{name}.jpg' for name in NAMES), *(f'masks/{name}.png' for name in NAMES))
    (root / 'lists').mkdir(exist_ok=True)
    (root / 'lists/train.txt').write_bytes(content.encode() if isinstance(content, str) else content)
    return [sample.name for sample in open_files(data(root, split_list='lists/{split}.txt', **keys), 'train').samples]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r', ' \n\n', '\t\r\n'])
@pytest.mark.parametrize(
    'form', ['{0}', '{0}.jpg', 'images/{0}.jpg', './images/{0}', '/images/{0}.jpg', '{root}/images/{0}.jpg', 'images\\{0}.jpg']
)
def test_names_in_a_list(tmp_path, form, end):
    lines = ''.join(form.format(name, root=tmp_path) + end for name in reversed(NAMES))
    assert listed(tmp_path, lines) == sorted(NAMES, key=lambda name: name.split('/'))


@pytest.mark.parametrize('between', ['\t', ',', ', ', ';', ' ', '   '])
@pytest.mark.parametrize('form', ['{0}.jpg{between}{0}.png', 'images/{0}.jpg{between}masks/{0}.png', '"{0}"{between}"{0}"'])
def test_images_and_labels_in_a_list(tmp_path, form, between):
    lines = '\n'.join(form.format(name, between=between) for name in NAMES)
    assert listed(tmp_path, lines) == sorted(NAMES, key=lambda name: name.split('/'))


@pytest.mark.parametrize(
    'content, expected',
    [
        (b'\xef\xbb\xbfa1\r\ntown/b', ['a1', 'town/b']),
        ('# the first\n\na1\n  # none\n   town/b  \n', ['a1', 'town/b']),
        ('#5\na1', ['#5', 'a1']),
        ('image,label\na1.jpg,a1.png\n', ['a1']),
        ('filename\na1\n', ['a1']),
        ('b\nc,d.jpg', ['town/b', 'town/c,d']),
        ('a1\ttown/b.png', ['a1']),
        ('town\\b.jpg\tmasks\\town\\b.png', ['town/b']),
        ('"my photo 2.jpg","my photo 2.png"', ['my photo 2']),
        ('my photo 2.jpg my photo 2.png', ['my photo 2']),
        ('images/town/c,d.jpg masks/town/c,d.png', ['town/c,d']),
        ('a1,\n', ['a1']),
    ],
)
def test_forms_of_lists(tmp_path, content, expected):
    assert listed(tmp_path, content) == expected


def test_a_list_says_which_label_is_whose(tmp_path):
    listed(tmp_path, 'a1')
    (tmp_path / 'lists/train.txt').write_text('a1\ttown/b.png\ntown/b\tmasks/town/b.png\n')
    assert pairs(tmp_path, split_list='lists/{split}.txt') == [
        ('images/a1.jpg', 'masks/town/b.png'),
        ('images/town/b.jpg', 'masks/town/b.png'),
    ]
    touch(tmp_path, 'mixed/x1.png', 'mixed/x2.png')
    (tmp_path / 'lists/train.txt').write_text('mixed/x1.png mixed/x2.png\n')
    keys = {'split_list': 'lists/{split}.txt', 'image_dir': 'mixed', 'label_dir': 'mixed'}
    assert pairs(tmp_path, **keys) == [('mixed/x1.png', 'mixed/x2.png')]


def test_names_of_other_bytes_in_a_list(tmp_path):
    name = os.fsdecode(b'caf\xe9')
    touch(tmp_path, f'images/{name}.jpg', f'masks/{name}.png', 'images/caf\u00e9.jpg', 'masks/caf\u00e9.png')
    assert listed(tmp_path, b'caf\xe9.jpg\ncafe\xcc\x81') == ['caf\u00e9', name]


@pytest.mark.parametrize(
    'content, message',
    [
        ('a1\nx\ny\nz\nw', r"train\.txt: 4 of 5 lines name no image .*: line 2 'x', line 3 'y', line 4 'z', \.\.\."),
        ('a1 masks/none.png', r"lists/train\.txt: 1 of 1 lines name no label below .*/masks: line 1 'a1 masks/none\.png'"),
        ('../images/a1.jpg', r"lists/train\.txt: line 1 .*leads out of the folder"),
        ('a1.jpg\t../../etc/passwd', r"lists/train\.txt: line 1 .*leads out of the folder"),
        ('a1\na1\ttown/b.png', r"lists/train\.txt: line 2 .*another label than line 1 'a1'"),
        ('/etc/passwd\na1', "1 of 2 lines name no image"),
        ('', 'names no image: the list is empty'),
        ('\n \r\n', 'names no image: the list is empty'),
        ('# all gone\n', 'names no image: every line is a comment'),
        ('\ufeffa1\n'.encode('utf-16-le'), 'the list is UTF-16; save it as UTF-8'),
        ('\ufeffa1\n'.encode('utf-16-be'), 'the list is UTF-16'),
        ('a1\n'.encode('utf-16-le'), 'the list is UTF-16 or no text'),
        ('a1\n'.encode('utf-32'), 'the list is UTF-32'),
        ('a ' * 100_000, '1 of 1 lines name no image'),
    ],
)  # fmt: skip
def test_bad_lists_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        listed(tmp_path, content)


def test_a_list_that_is_not_there(tmp_path):
    touch(tmp_path, 'images/a.jpg', 'masks/a.png')
    with pytest.raises(DataError, match=r'lists/val\.txt: not readable \(No such file or directory\)'):
        open_files(data(tmp_path, split_list='lists/{split}.txt'), 'val')


def test_a_name_that_means_several_images(tmp_path):
    touch(tmp_path, 'images/x/a.jpg', 'images/y/a.jpg', 'masks/x/a.png', 'masks/y/a.png')
    with pytest.raises(DataError, match=r"line 1 'a': 'a' means 2 files in .*: x/a\.jpg, y/a\.jpg"):
        listed(tmp_path, 'a')


def test_images_that_no_list_names_and_repeated_lines(tmp_path):
    listed(tmp_path, 'a1\na1.jpg\n')
    keys = {'split_list': 'lists/{split}.txt'}
    assert notes(tmp_path, **keys) == {'repeated line(s) of a list': 1}  # what the other list names is not known
    (tmp_path / 'lists/val.txt').write_text('town/b')
    assert notes(tmp_path, **keys) == {'image(s) that no list names': 3, 'repeated line(s) of a list': 1}
    assert notes(tmp_path, 'val', **keys) == {'image(s) that no list names': 3}


def test_a_look_at_a_list_with_missing_images_goes_on(tmp_path):
    listed(tmp_path, 'a1')
    (tmp_path / 'lists/train.txt').write_text('a1\nx.jpg\n')
    assert [image for image, _ in pairs(tmp_path, check=False, split_list='lists/{split}.txt')] == [
        'images/a1.jpg', 'images/x.jpg',
    ]  # fmt: skip


# Splits by a fraction


def fraction(root: Path, value: float, split: str, **keys) -> list[str]:
    return [Path(image).stem for image, _ in pairs(root, split, val_fraction=value, **keys)]


def test_a_fraction_divides_one_folder(tmp_path):
    names = [f'{k:03}' for k in range(50)]
    touch(tmp_path, *(f'images/{name}.jpg' for name in names), *(f'masks/{name}.png' for name in names))
    training, validation = (fraction(tmp_path, 0.2, split) for split in ('train', 'val'))
    assert len(validation) == 10 and sorted(training + validation) == names
    assert validation == fraction(tmp_path, 0.2, 'val') != fraction(tmp_path, 0.2, 'val', split_seed=1)
    assert set(validation) < set(fraction(tmp_path, 0.4, 'val'))
    assert validation != names[:10]
    for name in names:  # other suffixes, another order on the disk
        (tmp_path / f'images/{name}.jpg').rename(tmp_path / f'images/{name}.PNG')
    assert fraction(tmp_path, 0.2, 'val') == validation


def test_the_share_is_that_of_these_names_for_ever():
    assert sorted(splits.share([f'{k}' for k in range(10)], 0.3, 0)) == ['0', '4', '6']  # of SHA-256
    assert splits.share(['caf\u00e9', 'b', 'c'], 0.3, 7) <= {'caf\u00e9', 'b', 'c'}


def test_a_fraction_of_a_list_and_of_two_images(tmp_path):
    touch(tmp_path, *(f'images/{k}.jpg' for k in range(9)), *(f'masks/{k}.png' for k in range(9)))
    (tmp_path / 'good.txt').write_text('1\n2\n3\n4\n')
    found = [fraction(tmp_path, 0.25, split, split_list='good.txt') for split in ('train', 'val')]
    assert [len(names) for names in found] == [3, 1] and sorted(sum(found, [])) == ['1', '2', '3', '4']
    (tmp_path / 'good.txt').write_text('1\n2\n')
    assert [len(fraction(tmp_path, 0.01, split, split_list='good.txt')) for split in ('train', 'val')] == [1, 1]
    (tmp_path / 'good.txt').write_text('1\n')
    with pytest.raises(DataError, match='val_fraction: 1 image cannot be divided'):
        fraction(tmp_path, 0.5, 'val', split_list='good.txt')


@pytest.mark.parametrize(
    'keys, message',
    [
        ({'image_dir': 'images/{split}'}, r'image_dir has one for each \{split\}: leave out val_fraction'),
        ({'split_list': '{split}.txt'}, r'split_list has one for each \{split\}'),
        ({'val_split': 'train'}, "train_split and val_split are both 'train'"),
        ({'train_split': 'learn'}, "no split 'train': val_fraction divides the images into learn and val"),
    ],
)
def test_a_split_is_given_once(tmp_path, keys, message):
    touch(tmp_path, 'images/a.jpg', 'masks/a.png', 'images/b.jpg', 'masks/b.png')
    with pytest.raises(DataError, match=message):
        open_files(data(tmp_path, val_fraction=0.5, **keys), 'train')


@pytest.mark.parametrize(
    'name, keys, message',
    [
        ('camvid', {'val_fraction': 0.5}, 'val_fraction: for set: custom or imagenet or image_folder, .*leave it out'),
        ('camvid', {'split_list': 'x.txt', 'label_map': {0: 1}}, 'split_list, label_map: for set: custom, .*leave them out'),
        ('camvid', {'label_pixels': 'ids'}, 'label_pixels: for set: custom'),
        ('image_folder', {'classes': ['a', 'b']}, 'classes: for set: custom, but the set is image_folder'),
        (
            None,
            {'image_dir': 'images', 'classes': ['a', 'b']},
            'image_dir, classes: for set: custom, but the set is toy_street',
        ),
        (None, {}, r'data_url: .*, but the set is toy_street, which is drawn .*set: camvid, .*, or leave data_url out'),
    ],
)
def test_keys_that_a_set_does_not_know_are_refused(tmp_path, name, keys, message):
    chosen = config.from_flat({**({'set': name} if name else {}), 'data_url': str(tmp_path), **keys}).data
    for opening in (lambda: open_files(chosen, 'train'), lambda: open_for_cache(chosen)):
        with pytest.raises(DataError, match=message):
            opening()


def test_what_is_missing_in_both_splits_is_said_at_once(tmp_path):
    touch(tmp_path, 'images/train/a.jpg', 'images/val/b.jpg', 'masks/x.png')
    with pytest.raises(DataError, match=r'1 images have no label: a\.jpg .*1 images have no label: b\.jpg'):
        open_splits(data(tmp_path, image_dir='images/{split}', label_dir='masks/{split}'))


# Images that both splits have


def test_images_of_both_splits(tmp_path):
    touch(tmp_path, 'images/train/a.jpg', 'images/train/b.jpg', 'images/val/c.jpg', 'elsewhere/d.jpg')
    touch(tmp_path, *(f'masks/{split}/{name}.png' for split in ('train', 'val') for name in 'abcdef'))
    keys = data(tmp_path, image_dir='images/{split}', label_dir='masks/{split}')

    def shared() -> list[str]:
        return shared_images(open_files(keys, 'train'), open_files(keys, 'val'))

    assert shared() == []
    (tmp_path / 'images/val/a.jpg').symlink_to('../train/a.jpg')
    for split in ('train', 'val'):
        (tmp_path / f'images/{split}/d.jpg').symlink_to(tmp_path / 'elsewhere/d.jpg')
    assert shared() == [
        'custom: 2 of 3 images of val are images of train, too (a, d): scores on them say nothing of other images'
    ]
    one = data(tmp_path, image_dir='images/train', label_dir='masks/train')
    assert '3 of 3 images of val' in shared_images(open_files(one, 'train'), open_files(one, 'val'))[0]
    (tmp_path / 'images/again').symlink_to('train')
    again = data(tmp_path, image_dir='images/{split}', label_dir='masks/train', val_split='again')
    assert '3 of 3 images of again' in shared_images(open_files(again, 'train'), open_files(again, 'again'))[0]
    (tmp_path / 'images/train/linked').symlink_to('.')  # a folder above itself is not followed
    (tmp_path / 'images/train/z').symlink_to('../val')
    (tmp_path / 'images/train/y').symlink_to('../val')
    for folder in 'yz':
        (tmp_path / 'masks/train' / folder).symlink_to('../val')
    lines = shared_images(open_files(keys, 'train'), open_files(keys, 'val'))
    assert lines[0] == 'custom train: 5 images are there twice, under other names (y/a, y/d, z/a, ...)'
