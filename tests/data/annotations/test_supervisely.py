"""Projects of Supervisely: drawn as its SDK draws them, and hostile ones refused."""

import base64
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinseg.common.data.annotations.supervisely import read_supervisely
from twinseg.common.errors import DataError

PROJECT = Path(__file__).parent / 'supervisely'  # made with its SDK: make_supervisely.py
DRAWN = Path(__file__).parent / 'supervisely_labels'


def test_objects_are_drawn_as_the_sdk_draws_them():
    found = read_supervisely(PROJECT)
    assert found.classes == ['leaf', 'stone'] and found.colours == {'leaf': (0, 255, 127), 'stone': (128, 16, 32)}
    assert [image.group for image in found.images] == ['train', 'train', 'val'] and not found.remarks
    for image in found.images:
        theirs = np.array(Image.open(DRAWN / image.image.name))
        assert np.array_equal(image.draw({'leaf': 1, 'stone': 2}, 0), theirs) and len(np.unique(theirs)) == 3


def changed(folder: Path, *objects: dict, **keys) -> Path:
    """The project with other objects on its first image."""
    shutil.copytree(PROJECT, folder)
    path = folder / 'train/ann/photo 0.png.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'objects': objects, **keys}))
    return folder


def bitmap(data: bytes, origin=(0, 0)) -> dict:
    return {
        'classTitle': 'leaf',
        'geometryType': 'bitmap',
        'bitmap': {'data': base64.b64encode(data).decode(), 'origin': list(origin)},
    }


def polygon(exterior, interior=(), kind='polygon') -> dict:
    return {'classTitle': 'leaf', 'geometryType': kind, 'points': {'exterior': exterior, 'interior': interior}}


def test_kinds_without_area_are_left_out_and_said(tmp_path):
    found = read_supervisely(changed(tmp_path / 'p', polygon([[1, 1]], kind='point'), polygon([[1, 1], [5, 5]], kind='line')))
    assert not found.images[0].labels
    assert found.remarks == [f'1 objects of the kind {kind} cover no area and are left out' for kind in ('point', 'line')]


def test_tags_name_the_split(tmp_path):
    assert read_supervisely(changed(tmp_path / 'p', tags=[{'name': 'sunny'}, {'name': 'val'}])).images[0].group == 'val'


@pytest.mark.parametrize(
    'item, message',
    [
        ({}, 'classTitle is missing'),
        (polygon('x'), 'points are str'),
        (polygon([[1, 2], [3, float('inf')]]), 'coordinates are pixels'),
        (polygon([[1, 2]]), 'a polygon has 1 points'),
        (polygon([[1, 2], [3, 4], [5, 6]], kind='rectangle'), 'a rectangle has 3 points'),
        (polygon([[1, 2], [3, 4], [5, 6]], [[[0, 10**400]]]), 'coordinates are pixels'),
        (bitmap(b'\0\0'), 'no packed PNG'),
        (bitmap(zlib.compress(b'x')), 'not readable as a PNG'),
        (bitmap(zlib.compress(bytes(1 << 28))), 'not readable as a PNG'),  # 268 MB
        (bitmap(zlib.compress(b''), ['a', 'b']), 'a point is list'),
    ],
)
def test_hostile_objects_are_refused(tmp_path, item, message):
    with pytest.raises(DataError, match=message):
        read_supervisely(changed(tmp_path / 'p', item))


@pytest.mark.parametrize('content', ['[]', '7', '"x"', 'null', '{"size": [], "objects": []}'])
def test_a_file_that_describes_no_image_is_refused(tmp_path, content):
    shutil.copytree(PROJECT, tmp_path / 'p')
    (tmp_path / 'p/train/ann/photo 1.png.json').write_text(content)
    with pytest.raises(DataError, match='photo 1.png.json: '):
        read_supervisely(tmp_path / 'p')


def test_what_is_missing_is_said(tmp_path):
    shutil.copytree(PROJECT, tmp_path / 'p')
    (tmp_path / 'p/train/img/photo 1.png').unlink()
    with pytest.raises(DataError, match='photo 1.png.json: its image .*train/img/photo 1.png is missing'):
        read_supervisely(tmp_path / 'p')
    (tmp_path / 'p/meta.json').unlink()
    with pytest.raises(DataError, match='no meta.json'):
        read_supervisely(tmp_path / 'p')
