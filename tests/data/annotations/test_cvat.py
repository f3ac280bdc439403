"""CVAT's export "Segmentation mask 1.1": colours of labelmap.txt become class ids."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinseg.common.data.annotations.cvat import read_cvat
from twinseg.common.errors import DataError

LABEL_MAP = '# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,0,0::\nroof tile:0,200,10:door,window:\n'
COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 200, 10]], np.uint8)


def export(folder: Path, label_map: str = LABEL_MAP) -> np.ndarray:
    """An export of two images, one in a folder of its own; the ids of their masks."""
    ids = np.random.default_rng(0).integers(0, 3, (10, 14))
    for name in ('a b', 'sub/c'):
        for kind in ('JPEGImages', 'SegmentationClass', 'SegmentationObject'):
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (14, 10)).save(folder / f'JPEGImages/{name}.jpg')
        Image.fromarray(COLOURS[ids]).save(folder / f'SegmentationClass/{name}.png')
        Image.fromarray(COLOURS[ids]).save(folder / f'SegmentationObject/{name}.png')
    (folder / 'ImageSets/Segmentation').mkdir(parents=True)
    (folder / 'ImageSets/Segmentation/Train.txt').write_text('a b\n')
    (folder / 'ImageSets/Segmentation/Validation.txt').write_text('sub/c\n')
    (folder / 'labelmap.txt').write_text(label_map, encoding='utf-8-sig')
    return ids


@pytest.mark.parametrize(
    'root, below', [('', ''), ('', 'task_1'), ('Segmentation of ImageSets', ''), ('SegmentationClass', 'x')]
)
def test_colours_become_ids(tmp_path, root, below):
    ids = export(tmp_path / root / below)
    (tmp_path / root / below / 'README.txt').write_bytes(b'\xff no list')
    found = read_cvat(tmp_path / root)
    assert found.classes == ['background', 'road', 'roof tile'] and found.colours['roof tile'] == (0, 200, 10)
    assert [(Path(image.name).name, image.group) for image in found.images] == [('a b', 'Train'), ('c', 'Validation')]
    for image in found.images:
        assert np.array_equal(image.draw({'background': 5, 'road': 3, 'roof tile': 4}, 0), np.array([5, 3, 4])[ids])
    assert not found.remarks


def test_black_that_is_no_label_is_background(tmp_path):
    ids = export(tmp_path, LABEL_MAP.replace('background:0,0,0::\n', ''))
    found = read_cvat(tmp_path)
    assert found.classes == ['road', 'roof tile']
    assert np.array_equal(found.images[0].draw({'road': 1, 'roof tile': 2}, 255), np.array([255, 1, 2])[ids])


def test_other_colours_are_refused(tmp_path):
    export(tmp_path, LABEL_MAP.replace('0,200,10', '0,200,11'))
    with pytest.raises(DataError, match=r'a b.png.*0, 200, 10'):
        read_cvat(tmp_path).images[0].draw({'background': 0, 'road': 1, 'roof tile': 2}, 0)


def test_label_maps_that_differ_are_refused(tmp_path):
    export(tmp_path / 'a')
    export(tmp_path / 'b', LABEL_MAP.replace('road', 'kerb'))
    with pytest.raises(DataError, match='b/labelmap.txt: other labels or colours than in .*a/labelmap.txt'):
        read_cvat(tmp_path)


@pytest.mark.parametrize(
    'line', ['road', 'road:1,2', 'road:a,b,c::', 'road:1,2,300::', ':1,2,3::', 'other:128,0,0::', 'road:9,9,9::']
)
def test_broken_label_maps_are_refused(tmp_path, line):
    export(tmp_path, LABEL_MAP + line + '\n')
    with pytest.raises(DataError, match='labelmap.txt: line 5'):
        read_cvat(tmp_path)


def test_exports_of_other_kinds_are_answered(tmp_path):
    (tmp_path / 'annotations.xml').write_text('<annotations/>')
    with pytest.raises(
        DataError, match='annotations.xml is of the format "CVAT for images"; export from CVAT as "Segmentation mask 1.1"'
    ):
        read_cvat(tmp_path)
    (tmp_path / 'labelmap.txt').write_text(LABEL_MAP)
    with pytest.raises(DataError, match='no PNG files in SegmentationClass'):
        read_cvat(tmp_path)
    (tmp_path / 'SegmentationClass').mkdir()
    Image.new('RGB', (3, 3)).save(tmp_path / 'SegmentationClass/a.png')
    with pytest.raises(DataError, match='export from CVAT with "Save images"'):
        read_cvat(tmp_path)
