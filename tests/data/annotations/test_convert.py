"""``prepare custom --from``: label files, lists, links and a recipe from annotations, made once or again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.annotations.test_labelme import annotate, png, shape
from twinseg.common import config
from twinseg.common.cli import main
from twinseg.common.data.annotations.classes import read_classes
from twinseg.common.data.open import open_dataset

HERE = Path(__file__).parent
BOX = [[2, 1], [7, 5]]


def photos(folder: Path, count: int = 5, **labels: str) -> Path:
    """Images of 12x10 pixels, each with a box of the class cat, or of the class that ``labels`` gives the image a, b, ..."""
    for name in 'abcdefghij'[:count]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{name}.PNG').write_bytes(png(12, 10))
        annotate(folder / f'{name}.json', shape(points=BOX, shape_type='rectangle', label=labels.get(name, 'cat')))
    return folder


def prepare(source: Path, *options: str, tool: str = 'labelme') -> int:
    return main(['prepare', 'custom', '--from', tool, str(source), *options])


def error(capsys) -> str:
    """The one line that the command ended with."""
    [line] = [line for line in capsys.readouterr().err.splitlines() if 'warning' not in line]
    assert line.startswith('twinseg: error: ')
    return line


def label(folder: Path, name: str) -> Image.Image:
    return Image.open(folder / f'labels/{name}.png')


def test_labels_lists_and_a_recipe_are_written(tmp_path, capsys):
    photos(tmp_path / 'my photos', b='dog')
    before = {path: path.read_bytes() for path in (tmp_path / 'my photos').iterdir()}
    assert prepare(tmp_path / 'my photos') == 0
    said = capsys.readouterr().out
    out = tmp_path / 'my photos-twinseg'
    assert '4 for train, 1 for val' in said and '0: background 75.0 %, 1: cat 20.0 %, 2: dog 5.0 %' in said
    assert f"twinseg train '{out}/my photos.yaml'" in said
    picture = label(out, 'b')
    expected = np.zeros((10, 12), np.uint8)
    expected[1:6, 2:8] = 2
    assert picture.mode == 'P' and np.array_equal(np.array(picture), expected)
    colours = [picture.getpalette()[3 * i : 3 * i + 3] for i in (0, 1, 2, 255)]
    read = config.load(out / 'my photos.yaml')
    assert colours == [*read.data.palette, [224, 224, 192]] and read.data.classes == ['background', 'cat', 'dog']
    for split, count in (('train', 4), ('val', 1)):
        dataset = open_dataset(read.data, split)
        assert len(dataset) == count and not str(dataset.file_facts)
        for index, sample in enumerate(dataset.samples):
            image, ids = dataset.read(index)
            assert image.shape == (10, 12, 3) and np.array_equal(ids, np.array(label(out, sample.name)))
    assert (out / 'images/a.PNG').is_symlink() and before == {path: path.read_bytes() for path in before}


def test_done_again_nothing_changes(tmp_path):
    photos(tmp_path / 'd')
    assert prepare(tmp_path / 'd') == 0
    files = [path for path in (tmp_path / 'd-twinseg').rglob('*') if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    times = {path: path.stat().st_mtime_ns for path in files if path.suffix.lower() == '.png'}
    assert prepare(tmp_path / 'd') == 0
    assert before == {path: path.read_bytes() for path in (tmp_path / 'd-twinseg').rglob('*') if path.is_file()}
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_new_and_changed_annotations_are_taken_in_and_splits_stay(tmp_path):
    out = tmp_path / 'd-twinseg'
    photos(tmp_path / 'd', 5)
    prepare(tmp_path / 'd')
    train, val = (set((out / f'{split}.txt').read_text().splitlines()) for split in ('train', 'val'))
    photos(tmp_path / 'd', 10, a='dog')
    assert prepare(tmp_path / 'd') == 0
    more, more_val = (set((out / f'{split}.txt').read_text().splitlines()) for split in ('train', 'val'))
    assert train < more and val < more_val and len(more_val) == 3  # a comment and two images
    assert label(out, 'a').getpixel((3, 3)) == 2 and label(out, 'b').getpixel((3, 3)) == 1


def test_what_was_there_is_not_replaced(tmp_path, capsys):
    photos(tmp_path / 'd')
    for name in ('labels/c.png', 'train.txt', 'd.yaml'):
        shutil.rmtree(tmp_path / 'd-twinseg', ignore_errors=True)
        path = tmp_path / 'd-twinseg' / name
        path.parent.mkdir(parents=True)
        path.write_bytes(png(12, 10))
        assert prepare(tmp_path / 'd') == 2
        assert f'{path}: is there, and was not written by twinseg' in error(capsys)
        assert path.read_bytes() == png(12, 10) and len(list((tmp_path / 'd-twinseg').rglob('*.*'))) == 1


def test_another_image_in_the_way_is_refused(tmp_path, capsys):
    photos(tmp_path / 'd')
    (tmp_path / 'd-twinseg/images').mkdir(parents=True)
    (tmp_path / 'd-twinseg/images/a.PNG').write_bytes(b'other')
    assert prepare(tmp_path / 'd') == 2 and 'is another image' in error(capsys)


def test_a_recipe_that_was_changed_by_hand_is_kept(tmp_path, capsys):
    photos(tmp_path / 'd')
    prepare(tmp_path / 'd')
    recipe = tmp_path / 'd-twinseg/d.yaml'
    mine = recipe.read_text().replace('max_iters: ', 'max_iters: 7')
    recipe.write_text(mine)
    photos(tmp_path / 'd', 6, f='dog')
    capsys.readouterr()
    assert prepare(tmp_path / 'd') == 0 and 'changed by hand and kept' in capsys.readouterr().out
    assert recipe.read_text() == mine
    assert config.load(recipe.with_name('d.new.yaml')).data.classes == ['background', 'cat', 'dog']


def test_labels_without_an_annotation_are_said(tmp_path, capsys):
    photos(tmp_path / 'd')
    prepare(tmp_path / 'd')
    (tmp_path / 'd/a.json').unlink()
    prepare(tmp_path / 'd')
    warnings = capsys.readouterr().err
    assert '1 labels in' in warnings and 'a.png' in warnings and '1 images without a JSON file' in warnings


# Classes


@pytest.mark.parametrize(
    'options, names, value, outside',
    [
        ((), ['background', 'cat', 'dog'], 2, 0),
        (('--classes', 'dog,cat'), ['background', 'dog', 'cat'], 1, 0),
        (('--classes', 'dog,cat,background'), ['dog', 'cat', 'background'], 0, 2),
        (('--classes', 'dog,cat', '--unlabelled', 'ignored'), ['dog', 'cat'], 0, 255),
        (('--classes', 'dog,cat', '--unlabelled', 'cat'), ['dog', 'cat'], 0, 1),
        (('--classes', 'cat,dog=cat'), ['background', 'cat'], 1, 0),
        (('--classes', 'cat,dog=__ignore__'), ['background', 'cat'], 255, 0),
        (('--classes', 'FILE'), ['_background_', 'dog', 'cat'], 1, 0),
    ],
)
def test_classes(tmp_path, options, names, value, outside):
    """The value of the box of the class dog, and that of the pixels outside."""
    photos(tmp_path / 'd', b='dog')
    (tmp_path / 'labels.txt').write_bytes(b'\xef\xbb\xbf__ignore__\r\n_background_\r\ndog\r\n\r\ncat\r\n')  # labelme's
    options = [str(tmp_path / 'labels.txt') if option == 'FILE' else option for option in options]
    assert prepare(tmp_path / 'd', *options) == 0
    picture = label(tmp_path / 'd-twinseg', 'b')
    assert (picture.getpixel((3, 3)), picture.getpixel((0, 0))) == (value, outside)
    assert config.load(tmp_path / 'd-twinseg/d.yaml').data.classes == names


def test_a_tilde_may_begin_a_class():
    assert read_classes('~nobody,b', set()) == (['~nobody', 'b'], {})


def test_all_unknown_labels_are_listed(tmp_path, capsys):
    photos(tmp_path / 'd', b='dgo', c='Cat', d='dgo')
    assert prepare(tmp_path / 'd', '--classes', 'cat,dog') == 2
    message = error(capsys)
    assert "labels that --classes does not name: 'Cat' (1 objects), 'dgo' (2 objects)" in message
    assert not (tmp_path / 'd-twinseg').exists()


def test_labels_that_differ_in_case_or_blanks_are_said(tmp_path, capsys):
    photos(tmp_path / 'd', b='Cat ')
    assert prepare(tmp_path / 'd') == 0
    assert "twinseg: warning: the labels 'Cat ' and 'cat' differ in case or blanks alone" in capsys.readouterr().err
    assert prepare(tmp_path / 'd', '--classes', 'cat,Cat =cat') == 0
    assert label(tmp_path / 'd-twinseg', 'b').getpixel((3, 3)) == 1


def test_names_of_classes_that_yaml_would_take_for_something_else(tmp_path):
    names = ['1e5', 'no', "it's: #1", 'straße', '路']
    photos(tmp_path / 'd', 5, **dict(zip('abcde', names)))
    assert prepare(tmp_path / 'd') == 0
    assert config.load(tmp_path / 'd-twinseg/d.yaml').data.classes == ['background', *sorted(names)]
    assert '路' in (tmp_path / 'd-twinseg/d.yaml').read_text()


@pytest.mark.parametrize(
    'options, message',
    [
        (('--classes', 'labels.txt'), 'labels.txt: no such file'),
        (('--classes', ' , '), 'names no class'),
        (('--classes', 'cat,dog=bird'), "'bird' after = is no class"),
        (('--classes', 'cat', '--unlabelled', 'bird'), '--unlabelled bird: expected background, ignored or a class'),
        (('--classes', 'cat,' + ','.join(map(str, range(300)))), '302 classes; at most 253'),
        (('--folder', 'd/out'), 'lies in the folder of the annotations'),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, capsys, monkeypatch, options, message):
    photos(tmp_path / 'd')
    monkeypatch.chdir(tmp_path)
    assert prepare(tmp_path / 'd', *options) == 2 and message in error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ['d']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['custom'], 'expected `prepare custom --from TOOL ANNOTATIONS`, TOOL one of labelme, coco, cvat, supervisely'),
        (['custom', '--from', 'yolo', '.'], "found 'yolo'"),
        (['custom', '--from', 'labelme'], 'expected `prepare custom'),
        (['voc', '--from', 'coco', '.'], 'prepare voc: expected `prepare custom'),
        (['voc', '--classes', 'a'], 'prepare voc: expected `prepare custom'),
        (['custom', '--from', 'labelme', 'nowhere'], 'nowhere: no such folder'),
    ],
)
def test_the_command_says_what_it_expects(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(['prepare', *arguments]) == 2 and message in error(capsys)


# Splits


def test_folders_name_the_splits(tmp_path):
    photos(tmp_path / 'd/train', 3)
    photos(tmp_path / 'd/Validation', 2)
    photos(tmp_path / 'd/test', 1)
    assert prepare(tmp_path / 'd') == 0
    lists = {path.stem: path.read_text().splitlines()[1:] for path in (tmp_path / 'd-twinseg').glob('*.txt')}
    assert lists == {
        'train': ['train/a.PNG', 'train/b.PNG', 'train/c.PNG'],
        'val': ['Validation/a.PNG', 'Validation/b.PNG'],
        'test': ['test/a.PNG'],
    }
    assert len(open_dataset(config.load(tmp_path / 'd-twinseg/d.yaml').data, 'val')) == 2


def test_images_for_a_test_are_not_trained_on(tmp_path):
    photos(tmp_path / 'd/street', 5)
    photos(tmp_path / 'd/test', 2)
    for options in ((), ('--val-fraction', '0.4')):
        assert prepare(tmp_path / 'd', *options) == 0
        lists = {path.stem: path.read_text().splitlines()[1:] for path in (tmp_path / 'd-twinseg').glob('*.txt')}
        assert lists['test'] == ['test/a.PNG', 'test/b.PNG']
        assert [len(lists[split]) for split in ('train', 'val')] == ([3, 2] if options else [4, 1])
    shutil.rmtree(tmp_path / 'd/street')
    shutil.rmtree(tmp_path / 'd-twinseg')
    assert prepare(tmp_path / 'd') == 0 and not (tmp_path / 'd-twinseg/test.txt').exists()


@pytest.mark.parametrize('fraction, count', [('0.5', 5), ('0', 1), ('1', 9), ('0.26', 3)])
def test_a_fraction_is_validated_on(tmp_path, fraction, count):
    photos(tmp_path / 'd', 10)
    assert prepare(tmp_path / 'd', '--val-fraction', '0.1') == 0
    assert prepare(tmp_path / 'd', '--val-fraction', fraction) == 0  # given anew, it counts for all images
    assert len((tmp_path / 'd-twinseg/val.txt').read_text().splitlines()) == 1 + count


def test_one_image_is_too_few(tmp_path, capsys):
    photos(tmp_path / 'd', 1)
    assert prepare(tmp_path / 'd') == 2 and '1 image cannot be divided' in error(capsys)


# The other tools, and images that are in the annotations alone


def test_images_of_json_files_are_written(tmp_path):
    shutil.copytree(HERE / 'labelme', tmp_path / 'd', ignore=shutil.ignore_patterns('*.png'))
    assert prepare(tmp_path / 'd', '--classes', '_background_,cat,dog,line of trees,Zaun') == 0
    out = tmp_path / 'd-twinseg'
    assert sorted(path.name for path in (out / 'images').iterdir()) == [
        'odd.png',
        'row.png',
        'small.png',
        'turned.JPG',
        'wide.png',
    ]
    for name in ('odd', 'row', 'small', 'turned', 'wide'):
        assert np.array_equal(np.array(label(out, name)), np.array(Image.open(HERE / f'labelme/{name}.png')))
    assert prepare(tmp_path / 'd', '--classes', '_background_,cat,dog,line of trees,Zaun') == 0


def test_a_project_of_supervisely(tmp_path):
    shutil.copytree(HERE / 'supervisely', tmp_path / 'd')
    assert prepare(tmp_path / 'd', tool='supervisely') == 0
    data = config.load(tmp_path / 'd-twinseg/d.yaml').data
    assert data.classes == ['background', 'leaf', 'stone']
    assert data.palette == [[0, 0, 0], [0, 255, 127], [128, 16, 32]]
    assert [len(open_dataset(data, split)) for split in ('train', 'val')] == [2, 1]


def test_an_export_of_cvat(tmp_path):
    from tests.data.annotations.test_cvat import export

    ids = export(tmp_path / 'd')
    assert prepare(tmp_path / 'd', tool='cvat') == 0
    data = config.load(tmp_path / 'd-twinseg/d.yaml').data
    assert data.classes == ['background', 'road', 'roof tile'] and data.palette == [[0, 0, 0], [128, 0, 0], [0, 200, 10]]
    assert np.array_equal(open_dataset(data, 'train').read(0)[1], ids)


def test_a_file_of_coco(tmp_path):
    pytest.importorskip('pycocotools')
    content = {
        'images': [{'id': i, 'file_name': f'{name}.PNG', 'height': 10, 'width': 12} for i, name in enumerate('abc')],
        'categories': [{'id': 3, 'name': 'cat'}],
        'annotations': [{'image_id': i, 'category_id': 3, 'segmentation': [[2, 1, 8, 1, 8, 6, 2, 6]]} for i in range(2)],
    }
    photos(tmp_path / 'd', 3)
    for path in (tmp_path / 'd').glob('*.json'):
        path.unlink()
    (tmp_path / 'd/result.json').write_text(json.dumps(content))
    assert prepare(tmp_path / 'd/result.json', tool='coco') == 0
    out = tmp_path / 'd/result-twinseg'
    assert label(out, 'a').getpixel((3, 3)) == 1 and not np.array(label(out, 'c')).any()


def test_names_in_any_bytes(tmp_path):
    photos(tmp_path / 'd', 3)
    (tmp_path / 'd/a.PNG').rename(tmp_path / 'd/b\udce9.PNG')
    (tmp_path / 'd/a.json').rename(tmp_path / 'd/b\udce9.json')
    assert prepare(tmp_path / 'd') == 0
    data = config.load(tmp_path / 'd-twinseg/d.yaml').data
    assert sum(len(open_dataset(data, split)) for split in ('train', 'val')) == 3
