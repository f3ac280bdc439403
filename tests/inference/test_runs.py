"""A run is used after it was trained: every command on it, and on machines without the device of the training."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.conftest import operator_by_operator
from tests.support import streets
from tests.support.checkpoints import write
from twinseg.common import checkpoint, cli, config
from twinseg.common.backend import get_backend
from twinseg.common.deploy.exported_file import ExportedNetwork
from twinseg.common.inference.runs import load_run, stored_config

IDS = {0: 7, 1: 8, 2: 11}  # class of streets.py -> id in the label files; 200 is of no class
CLASSES = ['no', 'Gebäude 1e3', 'null']  # names that YAML and JSON may take for something else
LABEL_MAP = {200: 255, **{number: kind for kind, number in IDS.items()}}


def twinseg(*words: object) -> int:
    with operator_by_operator():
        return cli.main([str(word) for word in words])


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Two images a split, whose labels have ids that only a label map makes classes of."""
    folder = streets.make(tmp_path_factory.mktemp('mapped'), count=2)
    for path in folder.glob('labels/*/*.png'):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        table = np.full(256, 200, np.uint8)
        table[list(IDS)] = list(IDS.values())
        cv2.imwrite(str(path), table[label])
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory, data, backend_name) -> Path:
    """Two steps on the data, from a YAML file that is made for an Ascend; the command line takes the CPU."""
    folder = tmp_path_factory.mktemp('run')
    keys = {'classes': CLASSES, 'label_map': LABEL_MAP, 'max_iters': 2, 'val_interval': 2, 'checkpoint_interval': 1}
    keys |= {'batch_size': 2, 'device_target': 'Ascend', 'graph_mode': 1 if backend_name == 'mindspore' else 0}
    recipe = {**streets.settings(data), **keys}
    (folder / 'custom.yaml').write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding='utf-8')
    words = ('train', folder / 'custom.yaml', '--backend', backend_name, '--device', 'cpu', '--work-dir', folder / 'run')
    assert twinseg(*words) == 0
    return folder / 'run'


@pytest.fixture(scope='module')
def scores(run) -> dict:
    """The scores that the training wrote last."""
    lines = map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
    return [line for line in lines if line['kind'] == 'eval'][-1]


def test_it_keeps_what_was_set(run):
    stored = checkpoint.load(run / 'checkpoints' / checkpoint.BEST)[1].config
    for found in (config.load(run / 'config.yaml'), config.from_flat(stored, trusted=True)):
        assert (found.data.label_map, found.data.classes) == (LABEL_MAP, CLASSES)
        assert found.runtime.device_target == 'CPU'  # where it was trained


def test_eval(run, scores, tmp_path, capsys):
    assert twinseg('eval', '--checkpoint', run, '--json', tmp_path / 'scores.json') == 0
    found = json.loads((tmp_path / 'scores.json').read_text())
    assert found['mIoU'] == pytest.approx(scores['mIoU'], abs=1e-3) and list(found['classes']) == CLASSES
    assert 'warning' not in capsys.readouterr().err


def test_predict(run, data, tmp_path):
    assert twinseg('predict', data / 'images/val/000.png', '--checkpoint', run, '--out', tmp_path) == 0
    ids = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in tmp_path.glob('*.png')]
    assert any(image.ndim == 2 and image.max() < len(CLASSES) for image in ids)


@pytest.mark.slow
def test_export(run, backend_name, tmp_path):
    if backend_name == 'pytorch':
        pytest.importorskip('onnxruntime')
    path = tmp_path / ('net.onnx' if backend_name == 'pytorch' else 'net.mindir')
    assert twinseg('export', '--checkpoint', run, '--format', path.suffix[1:], '--out', path) == 0
    assert list(ExportedNetwork(path).metadata.classes) == CLASSES


def test_report(run, tmp_path, capsys):
    assert twinseg('report', run, '--out', tmp_path / 'report.html', '--pictures', 1) == 0
    page = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert all(name in page for name in CLASSES) and page.count('data:image') >= 2
    assert 'warning' not in capsys.readouterr().err


def test_resume(run, backend_name):
    last = checkpoint.step_path(run / 'checkpoints', 2)
    tensors = checkpoint.load(last)[0]
    last.unlink()
    assert twinseg('train', '--resume', '--work-dir', run, '--backend', backend_name) == 0
    again = checkpoint.load(last)[0]
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


@pytest.fixture
def elsewhere(run, tmp_path) -> Path:
    """The run's checkpoint as a machine with Ascends would have written it."""
    tensors, meta = checkpoint.load(run / 'checkpoints' / checkpoint.BEST)
    meta = meta.model_copy(update={'device': 'ascend', 'config': {**meta.config, 'device_target': 'Ascend'}})
    checkpoint.save(tmp_path / 'elsewhere.safetensors', tensors, meta)
    return tmp_path / 'elsewhere.safetensors'


def test_the_device_of_the_training_is_a_fact_and_no_demand(elsewhere, backend, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backend, 'devices', lambda: ['cpu'])
    name = backend.name
    assert twinseg('predict', data / 'images/val/000.png', '--checkpoint', elsewhere, '--backend', name) == 0
    line = 'elsewhere.safetensors: trained for ascend, which is not present here: it runs on cpu'
    assert [line in text for text in capsys.readouterr().err.splitlines() if 'warning' in text] == [True]


@pytest.mark.parametrize('asked', [['--device', 'ascend'], ['--set', 'device_target=Ascend']])
def test_a_device_that_is_asked_for_must_be_there(elsewhere, backend_name, data, asked, capsys):
    if 'ascend' in get_backend(backend_name).devices():
        pytest.skip('there is an Ascend here')
    image = data / 'images/val/000.png'
    assert twinseg('predict', image, '--checkpoint', elsewhere, '--backend', backend_name, *asked) == 2
    assert 'device ascend' in capsys.readouterr().err


def test_training_takes_the_device_of_its_recipe_or_none(run, backend_name, capsys, tmp_path):
    if 'ascend' in get_backend(backend_name).devices():
        pytest.skip('there is an Ascend here')
    assert twinseg('train', run.parent / 'custom.yaml', '--backend', backend_name, '--work-dir', tmp_path / 'new') == 2
    assert 'device ascend' in capsys.readouterr().err and not (tmp_path / 'new').exists()


def test_a_checkpoint_does_not_say_where_a_training_writes(run, backend_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors, meta = checkpoint.load(checkpoint.steps(run / 'checkpoints')[0])
    meta = meta.model_copy(update={'config': {**meta.config, 'work_dir': '../elsewhere', 'device_target': 'CPU'}})
    checkpoint.save(tmp_path / 'own' / 'x.safetensors', tensors, meta)
    assert twinseg('train', '--checkpoint', tmp_path / 'own' / 'x.safetensors', '--backend', backend_name) == 0
    assert not (tmp_path.parent / 'elsewhere').exists()
    assert (tmp_path / 'runs' / f'fast_scnn-{backend_name}' / 'config.yaml').is_file()


def test_arguments_that_an_earlier_version_took_are_left_out(tmp_path, backend_name):
    path = write(tmp_path, backend_name, 'fast_scnn', model_args={'auxiliary': False})
    tensors, meta = checkpoint.load(path)
    arguments = {'auxiliary': False, 'auxiliary_heads': ['aux_gfe']}  # of which the second has no effect without the first
    checkpoint.save(path, tensors, meta.model_copy(update={'config': {**meta.config, 'model_args': arguments}}))
    for given in (None, stored_config(path)):
        assert load_run(path, backend_name, 'cpu', given).config.model.model_args == {'auxiliary': False}
