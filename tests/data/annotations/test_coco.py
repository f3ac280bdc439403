"""COCO's JSON files: drawn as pycocotools draws them, categories and images found, and hostile ones refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinseg.common.data.annotations import coco
from twinseg.common.data.annotations.coco import read_coco
from twinseg.common.errors import BackendError, DataError

mask_api = pytest.importorskip('pycocotools.mask')
from pycocotools.coco import COCO  # noqa: E402

HEIGHT, WIDTH = 40, 55
SQUARE = [1, 1, 9, 1, 9, 8, 1, 8]
CATEGORIES = [{'id': 7, 'name': 'cat'}, {'id': 90, 'name': 'dog'}]


def save_image(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (width, height)).save(path)


def annotation(segmentation, category: int = 7, image: int = 1, **keys) -> dict:
    return {'id': 1, 'image_id': image, 'category_id': category, 'segmentation': segmentation, 'iscrowd': 0, **keys}


def write(path: Path, annotations, images=None, categories=CATEGORIES, **keys) -> Path:
    images = [{'id': 1, 'file_name': 'a.png', 'height': HEIGHT, 'width': WIDTH}] if images is None else images
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories, **keys}))
    return path


def random_segmentation(rng, number: int):
    """Polygons of one or several parts, with corners on pixels, between them and outside; masks in both forms."""
    if number % 4 == 3:
        mask = np.asfortranarray(rng.random((HEIGHT, WIDTH)) < 0.1, np.uint8)
        if number % 8 == 3:
            return {'size': [HEIGHT, WIDTH], 'counts': mask_api.encode(mask)['counts'].decode()}
        flat = mask.ravel(order='F')
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
        return {'size': [HEIGHT, WIDTH], 'counts': np.diff([0, *edges.tolist(), flat.size]).tolist()}
    parts = []
    for _ in range(int(rng.integers(1, 3))):
        corners = rng.uniform(-0.2, 1.2, (int(rng.integers(3, 8)), 2)) * [WIDTH, HEIGHT]
        parts.append(np.round(corners, int(rng.integers(0, 4))).ravel().tolist())
    return parts


def test_objects_are_drawn_as_pycocotools_draws_them(tmp_path):
    """Against annToMask, one over the other in the file's order; crowds first."""
    rng = np.random.default_rng(0)
    images = [{'id': i, 'file_name': f'{i}.png', 'height': HEIGHT, 'width': WIDTH} for i in range(60)]
    annotations = []
    for number in range(360):
        segmentation = random_segmentation(rng, number)
        crowd = int(isinstance(segmentation, dict) and number % 3 == 0)
        keys = {'id': number + 1, 'iscrowd': crowd}
        annotations.append(annotation(segmentation, int(rng.choice([7, 90])), number // 6, **keys))
    for image in images:
        save_image(tmp_path / 'images' / image['file_name'])
    path = write(tmp_path / 'a.json', annotations, images)
    theirs = COCO(str(path))
    for image in read_coco(tmp_path).images:
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        entries = theirs.loadAnns(theirs.getAnnIds(int(Path(image.name).name)))
        for entry in sorted(entries, key=lambda entry: -entry['iscrowd']):
            expected[theirs.annToMask(entry) == 1] = 1 if entry['category_id'] == 7 else 2
        assert np.array_equal(image.draw({'cat': 1, 'dog': 2}, 0), expected) and len(entries) == 6


def test_outlines_are_drawn_exactly_within_a_part_of_the_image():
    rng = np.random.default_rng(1)
    for number in range(1500):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        corners = np.round(rng.uniform(-0.3, 1.3, (int(rng.integers(3, 9)), 2)) * [width, height], number % 4)
        theirs = mask_api.decode(mask_api.frPyObjects([corners.ravel().tolist()], height, width))[..., 0]
        label = np.zeros((height, width), np.uint8)
        coco._paint(label, corners.tolist(), 1)
        assert np.array_equal(label, theirs), corners.tolist()


def test_classes_are_the_categories_by_id(tmp_path):
    """Sparse ids in any order; Roboflow's category 0 is the heading of the others."""
    heading = {'id': 0, 'name': 'pets', 'supercategory': 'none'}
    below = [{**category, 'supercategory': 'pets'} for category in reversed(CATEGORIES)]
    save_image(tmp_path / 'a.png')
    write(tmp_path / '_annotations.coco.json', [annotation([SQUARE])], categories=[heading, *below])
    assert read_coco(tmp_path).classes == ['cat', 'dog']
    write(tmp_path / '_annotations.coco.json', [annotation([SQUARE], 0)], categories=[heading, *below])
    assert read_coco(tmp_path).classes == ['pets', 'cat', 'dog']


@pytest.mark.parametrize(
    'image, named, document',
    [
        ('a.png', 'a.png', 'a.json'),
        ('images/a.png', 'a.png', 'annotations/instances_default.json'),  # CVAT
        ('images/default/a.png', 'a.png', 'annotations/instances_default.json'),
        ('images/a.png', 'images\\a.png', 'result.json'),
        ('images/1-a.png', '../../label-studio/data/media/upload/1/1-a.png', 'result.json'),
        ('train2017/a.png', 'a.png', 'annotations/instances_train2017.json'),
        ('train/a.png', 'a.png', 'train/_annotations.coco.json'),
    ],
)
def test_images_are_found_by_name(tmp_path, image, named, document):
    save_image(tmp_path / image)
    for other in ('val2017/a.png', 'valid/a.png') if image.startswith('train') else ():
        save_image(tmp_path / other)
    entry = {'id': 1, 'file_name': named, 'height': HEIGHT, 'width': WIDTH}
    path = write(tmp_path / document, [annotation([SQUARE])], [entry])
    assert read_coco(tmp_path).images[0].image == tmp_path / image
    if path.parent == tmp_path:
        assert read_coco(path).images[0].image == tmp_path / image  # the file itself may be given


def test_what_is_left_out_is_said(tmp_path):
    save_image(tmp_path / 'a.png')
    save_image(tmp_path / 'b.png')
    (tmp_path / 'other.json').write_text('[]')
    two_points = [[1, 1, 5, 5]]  # which pycocotools takes for a box
    objects = [annotation([SQUARE]), annotation([]), annotation(two_points), {**annotation(None), 'bbox': [0, 0, 3, 3]}]
    write(tmp_path / 'a.json', objects)
    found = read_coco(tmp_path)
    assert list(found.images[0].labels) == ['cat']
    remarks = '\n'.join(found.remarks)
    assert '3 objects without a polygon of 3 points or a mask' in remarks
    assert '1 images without an entry' in remarks and '1 JSON files are none of COCO' in remarks
    write(tmp_path / 'a.json', objects[1:])
    with pytest.raises(DataError, match='no object has a segmentation; boxes'):
        read_coco(tmp_path)


RUNS = {'size': [HEIGHT, WIDTH], 'counts': [0, HEIGHT * WIDTH]}


@pytest.mark.parametrize(
    'item, message',
    [
        ('x', 'an object with image_id is expected'),
        (annotation([SQUARE], 8), 'category_id 8 is none of the categories'),
        (annotation([SQUARE], True), 'category_id is bool'),
        (annotation([SQUARE], image=5), '1 image_id of annotations are no image, first 5'),
        (annotation('x'), 'a segmentation is a str'),
        (annotation(['x']), 'a polygon is no list'),
        (annotation([[1, 2, 3, 4, 5]]), 'a polygon is no list of x, y'),
        (annotation([[1, 2, 3, 4, 5, float('inf')]]), 'coordinates are pixels'),
        (annotation([[1, 2, 3, 4, 5, float('nan')]]), 'coordinates are pixels'),
        (annotation([[1, 2, 3, 4, 5, 2e9]]), 'coordinates are pixels'),
        (annotation([[1, 2, 3, 4, 5, '6']]), 'a point is list'),
        (annotation([[number % 7 * 10_000 for number in range(4000)]]), 'outlines of'),
        (annotation({**RUNS, 'size': [WIDTH, HEIGHT]}), 'a mask of size'),
        (annotation({**RUNS, 'counts': None}), 'counts of a mask are neither'),
        (annotation({**RUNS, 'counts': [0, 1]}), 'counts of a mask make 1 pixels'),
        (annotation({**RUNS, 'counts': [-1, HEIGHT * WIDTH + 1]}), 'counts of a mask are neither'),
        (annotation({**RUNS, 'counts': [10**30]}), 'counts of a mask make'),
    ],
)
def test_hostile_annotations_are_refused(tmp_path, item, message):
    save_image(tmp_path / 'a.png')
    write(tmp_path / 'a.json', [item, annotation([SQUARE])])
    with pytest.raises(DataError, match=message) as caught:
        read_coco(tmp_path)
    assert 'a.json' in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize('counts', ['', '0', 'zzzz', 'P' * 1000, '\x01\x02', 'o' * 16, '1' * 1000, 'é', 'P1O'])
def test_broken_masks_are_refused(tmp_path, counts):
    save_image(tmp_path / 'a.png')
    write(tmp_path / 'a.json', [annotation({'size': [HEIGHT, WIDTH], 'counts': counts})])
    with pytest.raises(DataError, match='counts of a mask'):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    'keys, message',
    [
        ({'categories': None}, 'categories is missing'),
        ({'categories': [{'id': 1}]}, 'name is missing'),
        ({'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'a'}]}, 'equal ids or equal names'),
        ({'images': [{'id': 1, 'file_name': 'a.png', 'height': HEIGHT, 'width': WIDTH}] * 2}, 'two images have the id 1'),
        ({'images': [{'id': 1, 'file_name': 'a.png', 'height': WIDTH, 'width': HEIGHT}]}, 'both must be of one size'),
        ({'images': [{'id': 1, 'file_name': 'a.png', 'height': 1 << 40, 'width': 1 << 40}]}, 'pixels; expected 1 to'),
        ({'images': [{'id': 1, 'file_name': '../x.png', 'height': HEIGHT, 'width': WIDTH}]}, 'put the images there'),
        ({'images': [{'id': 1, 'height': HEIGHT, 'width': WIDTH}]}, 'file_name is missing'),
        ({'images': []}, 'image_id of annotations are no image'),
    ],
)
def test_hostile_files_are_refused(tmp_path, keys, message):
    save_image(tmp_path / 'd/a.png')
    save_image(tmp_path / 'x.png')
    write(tmp_path / 'd/a.json', [annotation([SQUARE])], **keys)
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path / 'd')


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr('twinseg.common.errors.importlib.util.find_spec', lambda name: None)
    with pytest.raises(BackendError, match=r'pycocotools is not installed: pip install "twinseg\[coco\]"'):
        read_coco(tmp_path)
