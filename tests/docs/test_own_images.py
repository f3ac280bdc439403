"""docs/own_images.md, done step by step with small photos: from annotations to an ONNX file."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.annotations.test_labelme import annotate
from twinseg.common import config
from twinseg.common.backend import available
from twinseg.common.cli import main
from twinseg.common.data.open import open_dataset

PAGE = Path(__file__).parents[2] / 'docs' / 'own_images.md'
SMALL = {'train': ['--set', 'max_iters=4', 'warmup_iters=1', 'val_interval=4', 'num_parallel_workers=0']}  # further words
HEIGHT, WIDTH = 64, 48


def photo(path: Path, number: int) -> None:
    """A photo of a green disc, stored lying, and labelme's circle in the upright picture."""
    x, y = 12 + 3 * number, 40 - 2 * number
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    pixels[(rows - y) ** 2 + (columns - x) ** 2 <= 100] = (20, 200, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(path, format='JPEG', exif=exif)
    leaf = {'label': 'leaf', 'points': [[x, y], [x + 10, y]], 'shape_type': 'circle'}
    annotate(path.with_suffix('.json'), leaf, imagePath=path.name, imageWidth=WIDTH, imageHeight=HEIGHT)


@pytest.mark.skipif('pytorch' not in available(), reason='the page uses PyTorch')
def test_the_five_steps(tmp_path, monkeypatch, capfd):
    onnxruntime = pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    Path('photos').mkdir()
    for number in range(6):
        photo(Path(f'photos/IMG_{number}.JPG'), number)
    blocks = re.findall(r'^```bash\n(.*?)^```', PAGE.read_text().partition('\n## From weights')[0], re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert [words[0] for words in commands] == ['prepare', 'browse', 'train', 'predict', 'export', 'predict']
    for words in commands:
        assert main([*words, *SMALL.get(words[0], [])]) == 0, capfd.readouterr().err
    dataset = open_dataset(config.load('photos-twinseg/photos.yaml').data, 'train')
    for image, label in map(dataset.read, range(len(dataset))):  # the disc lies where its label is
        assert image.shape == (HEIGHT, WIDTH, 3) and (label == (image[..., 0].astype(int) < 55)).mean() > 0.97
        assert 200 < label.sum() < 400
    assert 'no problems found' in capfd.readouterr().out
    masks = [np.array(Image.open(path)) for path in sorted(Path('pictures').glob('*.png')) if 'overlay' not in path.name]
    assert len(masks) == 6 and all(mask.shape == (HEIGHT, WIDTH) and mask.max() <= 1 for mask in masks)
    session = onnxruntime.InferenceSession('photos.onnx')
    [output] = session.get_outputs()
    assert output.shape[1] == 2
