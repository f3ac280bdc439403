"""The checkpoints that ship: small, described, the same in both backends, and with the scores that their card gives."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinseg.common import config as configuration
from twinseg.common import weights
from twinseg.common.backend import get_backend
from twinseg.common.cli import main
from twinseg.common.data.classes import CAMVID_CLASSES
from twinseg.common.data.open import open_dataset
from twinseg.common.inference.evaluate import evaluate_run
from twinseg.common.inference.runs import load_run
from twinseg.common.weights.by_name import SHIPPED, shipped

FILES = list(shipped().values())
LARGEST = 20e6  # bytes, all together
LOGITS = 1e-4  # relative to the largest
SCORE = 0.05  # points of mIoU
each = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


def card(path: Path) -> list[str]:
    """The cells of a file's row in the README.md beside it."""
    return [
        cell.strip()
        for line in (SHIPPED / 'README.md').read_text(encoding='utf-8').splitlines()
        if line.startswith(f'| `{path.stem}` |')
        for cell in line.strip('|').split('|')
    ]


def test_they_are_few_and_small():
    assert len(FILES) >= 2 and sum(path.stat().st_size for path in FILES) <= LARGEST


def test_the_checkout_has_them_where_they_were():
    for path in FILES:
        assert (Path(__file__).parents[2] / 'weights' / path.name).samefile(path)


@each
def test_the_card_counts_the_parameters(path):
    state = weights.load(path).state
    count = sum(array.size for name, array in state.items() if not name.endswith(('running_mean', 'running_var')))
    assert float(card(path)[2]) == pytest.approx(count / 1e6, abs=5e-4)


@each
def test_both_backends_compute_the_same(path):
    pytest.importorskip('torch')
    pytest.importorskip('mindspore')
    street = open_dataset(configuration.from_flat({'set': 'toy_street', 'image_size': [96, 128]}).data, 'val').read_image(0)
    pixels = np.ascontiguousarray(street.transpose(2, 0, 1))[None]
    found = []
    for name in ('pytorch', 'mindspore'):
        get_backend(name).setup('cpu', threads=1)
        found.append(load_run(path, name, 'cpu').predictor.logits(pixels))
    assert np.abs(found[0] - found[1]).max() <= LOGITS * np.abs(found[0]).max()


@each
def test_it_predicts_at_once(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    street = open_dataset(configuration.from_flat({'set': 'toy_street', 'image_size': [200, 300]}).data, 'val').read_image(0)
    Image.fromarray(street).save('street.png')
    assert main(['predict', 'street.png', '--checkpoint', str(path), '--device', 'cpu']) == 0
    ids = np.array(Image.open('predictions/street_ids.png'))
    assert ids.shape == (200, 300) and ids.max() < len(CAMVID_CLASSES) and len(np.unique(ids)) > 2


@pytest.mark.slow
@each
def test_its_scores_are_those_of_the_card(path, backend_name, data_folder):
    config = load_run(path, backend_name, 'cpu').config.replace(data_url=str(data_folder / 'camvid'))
    found = evaluate_run(load_run(path, backend_name, 'cpu', config)).scores.miou
    assert 100 * found == pytest.approx(float(card(path)[3]), abs=SCORE)
