"""``twinseg card``: a folder in Hugging Face's layout that ``twinseg.load`` and ``--checkpoint`` take."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import twinseg
from tests.support.checkpoints import CLASSES, SIZE, write
from twinseg.common import checkpoint, cli
from twinseg.common.backend import available


@pytest.fixture(scope='module')
def file(tmp_path_factory) -> Path:
    if not available():
        pytest.skip('no framework is installed')
    return write(tmp_path_factory.mktemp('card'), available()[0], 'fast_scnn')


def test_the_folder_is_opened_like_the_checkpoint(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(['card', str(file), '--out', 'mine', '--licence', 'apache-2.0']) == 0
    assert {path.name for path in Path('mine').iterdir()} == {'README.md', 'model.safetensors', 'config.json'}
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    masks = [twinseg.load(path, device='cpu').predict(image).mask for path in (file, 'mine')]
    np.testing.assert_array_equal(*masks)
    tensors, meta = checkpoint.load('mine/model.safetensors')
    assert meta.trainer is None and all(name.startswith('model.') for name in tensors)


def test_the_card_says_what_a_reader_asks(file, tmp_path):
    assert cli.main(['card', str(file), '--out', str(tmp_path / 'mine')]) == 0
    text = (tmp_path / 'mine' / 'README.md').read_text()
    head = yaml.safe_load(text.split('---\n')[1])
    assert head['library_name'] == 'twinseg' and head['license'] == 'other' and head['pipeline_tag'] == 'image-segmentation'
    for word in ('licence of the weights', 'not stated', 'classes', 'road', 'Not scored', 'fast_scnn', 'twinseg predict'):
        assert word in text
    assert len(json.loads((tmp_path / 'mine' / 'config.json').read_text())['id2label']) == CLASSES


def test_scores_of_weights_that_ship_have_their_conditions(tmp_path):
    assert cli.main(['card', 'enet_camvid', '--out', str(tmp_path / 'mine')]) == 0
    text = (tmp_path / 'mine' / 'README.md').read_text()
    head = yaml.safe_load(text.split('---\n')[1])
    metrics = {entry['type']: entry['value'] for entry in head['model-index'][0]['results'][0]['metrics']}
    assert 60 < metrics['mIoU'] < 75 and f'- mIoU: {metrics["mIoU"]:.2f} %' in text and 'split val' in text and 'CamVid' in text


def test_a_folder_with_files_is_not_written_over(file, tmp_path, capsys):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'README.md').write_text('mine')
    assert cli.main(['card', str(file), '--out', str(tmp_path / 'mine')]) == 2
    assert 'choose another folder' in capsys.readouterr().err and (tmp_path / 'mine' / 'README.md').read_text() == 'mine'
    assert cli.main(['card', str(tmp_path / 'absent')]) == 2


def test_a_licence_is_an_identifier(file, tmp_path, capsys):
    assert cli.main(['card', str(file), '--out', str(tmp_path / 'new'), '--licence', 'my own']) == 2
    assert 'expected an SPDX identifier' in capsys.readouterr().err and not (tmp_path / 'new').exists()
