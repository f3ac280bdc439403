"""labelme's JSON files: drawn as labelme draws them, with their images found, and hostile ones refused."""

import base64
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinseg.common.data.annotations.labelme import read_labelme
from twinseg.common.errors import DataError

FIXTURES = Path(__file__).parent / 'labelme'  # made by labelme itself: make_labelme.py
VALUES = {'_background_': 0, 'cat': 1, 'dog': 2, 'line of trees': 3, 'Zaun': 4}
TRIANGLE = [[1, 1], [9, 1], [5, 8]]


def png(width: int, height: int, **options) -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (width, height)).save(file, 'PNG', **options)
    return file.getvalue()


def turned(width: int, height: int) -> bytes:
    """A PNG that is stored lying and shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(width, height, exif=exif)


def shape(**keys) -> dict:
    return {'label': 'cat', 'points': TRIANGLE, 'shape_type': 'polygon', **keys}


def annotate(path: Path, *shapes: dict, **keys) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'imagePath': f'{path.stem}.png', 'imageData': None, 'shapes': shapes, **keys}))
    return path


@pytest.mark.parametrize('name', ['small', 'odd', 'row', 'wide', 'turned'])
def test_shapes_are_drawn_as_labelme_draws_them(tmp_path, name):
    for path in FIXTURES.glob(f'{name}.[jJ]*'):
        shutil.copy(path, tmp_path)
    [image] = read_labelme(tmp_path).images
    theirs = np.array(Image.open(FIXTURES / f'{name}.png'))
    assert np.array_equal(image.draw(VALUES, 0), theirs) and len(np.unique(theirs)) > 2
    assert (image.content is None) == (name == 'turned')  # the others' images are in the JSON files alone


def test_a_named_folder_counts_more_than_that_of_the_source(tmp_path):
    for name, width in (('x', 12), ('y', 13)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.png').write_bytes(png(width, 10))
    annotate(tmp_path / 'x/a.json', shape(), imagePath='../y/a.png')
    assert [image.size[1] for image in read_labelme(tmp_path).images] == [13]


def test_images_are_told_apart_by_case_and_known_by_either_form_of_accents(tmp_path):
    for name, width in (('A.png', 12), ('a.png', 13), ('cafe\u0301.png', 14)):
        (tmp_path / name).write_bytes(png(width, 10))
    for name in ('A', 'a', 'caf\xe9'):
        annotate(tmp_path / f'{name}.json', shape())
    assert {image.size[1] for image in read_labelme(tmp_path).images} == {12, 13, 14}


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF'])
def test_the_size_of_a_turned_image_is_that_of_the_upright_one(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (12, 10)).save(tmp_path / f'a.{kind.lower()}', exif=exif)
    annotate(tmp_path / 'a.json', shape(), imageHeight=12, imageWidth=10)
    assert [image.size for image in read_labelme(tmp_path).images] == [(12, 10)]


def test_what_no_object_covers_and_what_is_ignored(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(12, 10))
    annotate(tmp_path / 'a.json', shape(points=[[0, 0], [5, 9]], shape_type='rectangle', label='__ignore__'))
    [image] = read_labelme(tmp_path).images
    label = image.draw({'__ignore__': 255}, 7)
    assert (label[:, :6] == 255).all() and (label[:, 6:] == 7).all()


@pytest.mark.parametrize(
    'image, named',
    [
        ('a.png', 'a.png'),
        ('a.PNG', 'a.png'),
        ('images/a.png', '..\\images\\a.png'),
        ('images/a.png', 'C:\\Users\\me\\Pictures\\a.png'),
        ('images/a.png', '/home/me/a.png'),
        ('json/a.png', 'renamed.png'),  # by the name of the JSON file
        ('json/a.jpg', 'a.png'),  # converted since
    ],
)
def test_images_are_found_by_name(tmp_path, image, named):
    annotate(tmp_path / 'json/a.json', shape(), imagePath=named)
    (tmp_path / image).parent.mkdir(exist_ok=True)
    (tmp_path / image).write_bytes(png(12, 10))
    [found] = read_labelme(tmp_path).images
    assert found.image == tmp_path / image and found.name == str(Path(image).with_suffix(''))


def test_of_images_of_one_name_that_of_the_named_folder_is_meant(tmp_path):
    for folder in ('x', 'y'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'a.png').write_bytes(png(12, 10))
    annotate(tmp_path / 'json/a.json', shape(), imagePath='../y/a.png')
    assert read_labelme(tmp_path).images[0].image == tmp_path / 'y/a.png'
    annotate(tmp_path / 'json/a.json', shape(), imagePath='a.png')
    with pytest.raises(DataError, match='may be .*x/a.png or .*y/a.png'):
        read_labelme(tmp_path)


def test_no_image_outside_the_folder_is_read(tmp_path):
    (tmp_path / 'secret.png').write_bytes(png(12, 10))
    for named in ('../secret.png', str(tmp_path / 'secret.png'), '..'):
        annotate(tmp_path / 'd/a.json', shape(), imagePath=named)
        with pytest.raises(DataError, match='is not below the folder given'):
            read_labelme(tmp_path / 'd')


def test_files_of_older_versions_are_read(tmp_path):
    """labelme 2 and 3: no shape_type, colours of lines, no size; the image in the file."""
    old = {'label': 'cat', 'points': TRIANGLE, 'line_color': None, 'fill_color': None}
    content = base64.b64encode(png(12, 10)).decode()
    annotate(tmp_path / 'a.json', old, imageData=content, lineColor=[0, 255, 0, 128], imagePath='gone.jpg')
    [image] = read_labelme(tmp_path).images
    assert image.content() == png(12, 10) and image.image == tmp_path / 'a.png'
    assert image.draw({'cat': 1}, 0).shape == (10, 12)


def test_what_is_left_out_is_said(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / f'{name}.png').write_bytes(png(12, 10))
    annotate(tmp_path / 'a.json', shape(), shape(points=TRIANGLE[:2]), shape(points=[]))
    (tmp_path / 'package.json').write_text('{}')
    (tmp_path / '.ipynb_checkpoints').mkdir()
    (tmp_path / '.ipynb_checkpoints/a.json').write_text('broken')
    found = read_labelme(tmp_path)
    assert len(found.images[0].labels) == 1
    remarks = '\n'.join(found.remarks)
    assert '1 images without a JSON file' in remarks and 'b.png' in remarks
    assert '1 JSON files are none of labelme' in remarks and 'package.json' in remarks
    assert '2 polygons or lines of too few points' in remarks


@pytest.mark.parametrize(
    'content, size, message',
    [
        pytest.param(turned(12, 10), (10, 12), None, id='upright'),
        pytest.param(
            turned(12, 10), (12, 10), r'drawn on 12x10 pixels.*EXIF orientation \(6\).*save the images upright', id='lying'
        ),
        pytest.param(png(12, 10), (10, 12), 'on 10x12 pixels, but .* has 12x10; both must be of one size', id='no EXIF'),
        pytest.param(png(24, 20), (12, 10), 'drawn on 12x10 pixels, but .* has 24x20', id='scaled'),
    ],
)
def test_sizes_that_disagree_are_refused(tmp_path, content, size, message):
    (tmp_path / 'a.png').write_bytes(content)
    annotate(tmp_path / 'a.json', shape(), imageWidth=size[0], imageHeight=size[1])
    if message is None:
        assert read_labelme(tmp_path).images[0].draw({'cat': 1}, 0).shape == size[::-1]
        return
    with pytest.raises(DataError, match=message):
        read_labelme(tmp_path)


def test_all_broken_files_are_named_at_once(tmp_path):
    for name in ('a', 'b', 'c'):
        (tmp_path / f'{name}.png').write_bytes(png(12, 10))
    annotate(tmp_path / 'a.json', shape(shape_type='spiral'))
    annotate(tmp_path / 'b.json', shape())
    (tmp_path / 'c.json').write_bytes('{}'.encode('utf-16'))
    with pytest.raises(
        DataError, match=r"2 of 3 cannot be converted: .*a.json: shape_type 'spiral'.*c.json: its text is UTF-16"
    ):
        read_labelme(tmp_path)


LONG = [[x / 10, 0 if x % 2 else 10] for x in range(20_000)]
MASK = base64.b64encode(png(3, 3)).decode()


@pytest.mark.parametrize(
    'item, message',
    [
        ('x', "str 'x' where an object with label is expected"),
        ({}, 'label is missing'),
        (shape(label=7), 'label is int'),
        (shape(label=' '), 'has no label'),
        (shape(points='x'), 'points are str'),
        (shape(points=None), 'points are missing'),
        (shape(points=[[1, 1], [2, 2], [3]]), 'a point is list'),
        (shape(points=[[1, 1], [2, 2], ['3', 4]]), 'a point is list'),
        (shape(points=[[1, 1], [2, 2], [True, 4]]), 'a point is list'),
        (shape(points=[[1, 1], [2, 2], [float('nan'), 4]]), 'coordinates are pixels'),
        (shape(points=[[1, 1], [2, 2], [float('inf'), 4]]), 'coordinates are pixels'),
        (shape(points=[[1, 1], [2, 2], [10**400, 4]]), 'coordinates are pixels'),
        (shape(points=[[1, 1], [2, 2], [-1e6, 4]]), 'coordinates are pixels'),
        (shape(points=[[x, 100_000 * (x % 2)] for x in range(200)]), 'outlines of'),
        (shape(points=[[1, 1]], shape_type='circle'), 'circle has 1 points; expected 2'),
        (shape(points=TRIANGLE, shape_type='rectangle'), 'rectangle has 3 points'),
        (shape(points=TRIANGLE, shape_type=['polygon']), 'shape_type'),
        (shape(points=[[0, 0], [2, 2]], shape_type='mask'), 'mask is missing'),
        (shape(points=[[0, 0], [2, 2]], shape_type='mask', mask='#'), 'no base64|not readable as a PNG'),
        (shape(points=[[0, 0], [2, 2]], shape_type='mask', mask='AAAA'), 'not readable as a PNG'),
        (shape(points=[[0, 0], [5, 5]], shape_type='mask', mask=MASK), r'a mask of shape \(3, 3\) in the box'),
        (shape(points=[[10, 8], [12, 10]], shape_type='mask', mask=MASK), 'they must fit'),
        (shape(points=[[-1, 0], [1, 2]], shape_type='mask', mask=MASK), 'they must fit'),
    ],
)
def test_hostile_shapes_are_refused(tmp_path, item, message):
    (tmp_path / 'a.png').write_bytes(png(12, 10))
    annotate(tmp_path / 'a.json', item)
    with pytest.raises(DataError, match=message) as caught:
        read_labelme(tmp_path)
    assert 'a.json' in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    'content, message',
    [
        (b'{"shapes": ', 'not readable as JSON'),
        pytest.param(b'[' * 200_000, 'nested too deeply', id='deep'),
        pytest.param(b'{"shapes": [], "imageHeight": ' + b'9' * 5000 + b'}', 'not readable as JSON', id='digits'),
        (b'{"shapes": [], "imageHeight": 1e999, "imageWidth": 3}', "imageHeight is float 'inf'"),
        (b'{"shapes": [], "imagePath": 5}', 'imagePath is int'),
        (b'{"shapes": [], "imageData": 5}', 'imageData is int'),
        (b'{"shapes": [], "imageData": "AAAA"}', 'not readable as an image'),
        (b'{"shapes": {}}', 'no JSON file of labelme'),
        (b'\xff\xfe\x00', 'UTF-16'),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, message):
    (tmp_path / 'x.json').write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_labelme(tmp_path)
    assert len(str(caught.value)) < 500


def test_a_huge_image_is_refused_by_its_header(tmp_path):
    image = png(2, 2)
    (tmp_path / 'a.png').write_bytes(image[:16] + (1 << 20).to_bytes(4, 'big') * 2 + image[24:])
    annotate(tmp_path / 'a.json', shape())
    with pytest.raises(DataError, match='a.png'):
        read_labelme(tmp_path)


def test_many_points_are_drawn_or_refused_within_seconds(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(2000, 2000))
    begin = time.process_time()
    annotate(tmp_path / 'a.json', shape(points=LONG))
    read_labelme(tmp_path).images[0].draw({'cat': 1}, 0)
    annotate(tmp_path / 'a.json', shape(points=LONG * 2))
    with pytest.raises(DataError, match='outlines of 40000 corners'):
        read_labelme(tmp_path)
    annotate(tmp_path / 'a.json', *[shape(points=[[0, 0], [2000, 2000]], shape_type='rectangle')] * 3000)
    with pytest.raises(DataError, match='outlines of .* at most'):
        read_labelme(tmp_path)
    assert time.process_time() - begin < 20
