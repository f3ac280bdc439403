"""``twinseg parity`` passes for twins, and fails for networks that are not."""

import json

import numpy as np
import pytest
import yaml

from tests.support.streets import settings
from twinseg.common.backend import get_backend
from twinseg.common.cli import main
from twinseg.common.measure import parity as comparing

STEPS = 2
ROWS = ['logits', 'aux_gfe', 'aux_ltd', 'gradients, worst parameter', 'gradients, median parameter']


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``command(*words)``: exit status and figures of ``twinseg parity`` on a small Fast-SCNN.

    MindSpore runs operator by operator: compiling the training step takes up to a minute (tests of training do it).
    """
    pytest.importorskip('torch')
    ms = pytest.importorskip('mindspore')
    backend = get_backend('mindspore')
    setup = backend.setup

    def setup_without_compiler(*arguments, **options):
        device = setup(*arguments, **options)
        ms.set_context(mode=ms.PYNATIVE_MODE)
        return device

    monkeypatch.setattr(backend, 'setup', setup_without_compiler)
    recipe, figures = tmp_path / 'small.yaml', tmp_path / 'parity.json'
    recipe.write_text(yaml.safe_dump(settings(tmp_path, num_classes=5)))

    def run(*words: str) -> tuple[int, dict]:
        status = main(['parity', str(recipe), '--steps', str(STEPS), '--size', '64x96', '--json', str(figures), *words])
        return status, json.loads(figures.read_text())

    yield run
    ms.set_context(mode=ms.GRAPH_MODE)


def test_twins_pass(command, capsys):
    status, found = command()
    failed = [row for row in found['rows'] if not row['passed']]
    assert status == 0 and found['ok'] and not failed, failed
    names = [row['compared'] for row in found['rows']]
    assert names[:5] == ROWS and names[5] == f'parameters after {STEPS} steps' and names[6].startswith('loss, worst of 2')
    assert list(found['losses']) == ['pytorch', 'mindspore', 'pytorch in float64']
    assert all(len(losses) == STEPS and np.isfinite(losses).all() for losses in found['losses'].values())
    assert found['conditions']['amp_level'] == 'O0' and found['conditions']['batch_size'] == 4
    shown = capsys.readouterr().out
    assert 'tolerance' in shown and ' NO ' not in shown


def test_a_twin_that_differs_in_one_number_fails(command, monkeypatch, capsys):
    mindspore = get_backend('mindspore')
    load = mindspore.load_state

    def changed(network, state, **options):
        bias = state['classifier.conv.bias'].copy()
        bias[0] += 1e-3
        return load(network, {**state, 'classifier.conv.bias': bias}, **options)

    monkeypatch.setattr(mindspore, 'load_state', changed)
    monkeypatch.setattr(comparing, '_train', lambda *_: ([1.0] * STEPS, np.ones(3)))  # no wait for what is not compared
    status, found = command()
    assert status == 1 and not found['ok']
    assert {row['compared'] for row in found['rows'] if not row['passed']} >= {'logits'}
    assert ' NO ' in capsys.readouterr().out


DRIFTS = [  # PyTorch's to the other precision, and from weights one rounding error apart -> tolerance of the parameters
    (1e-6, 1e-6, comparing.PARAMETERS),
    (0.01, 1e-6, 0.01 * comparing.PARAMETER_DRIFT),
    (1e-6, 0.01, 0.01 * comparing.PARAMETER_DRIFT),
]


@pytest.mark.parametrize('other, nudged, parameters', DRIFTS)
def test_training_is_held_to_the_contract_or_to_pytorchs_own_drift(other, nudged, parameters):
    def rows(loss: float, weight: float) -> list[bool]:
        losses = {'pytorch': [1.0, 1.0], 'mindspore': [1.0, loss], 'other': [1.0, 1.02]}
        apart = {'pytorch': 0.0, 'mindspore': weight - 1, 'other': other, 'nudged': nudged}
        weights = {name: np.array([1.0 + value]) for name, value in apart.items()}
        return [row.passed for row in comparing._training(losses, weights)]

    assert rows(1.039, 1 + 0.9 * parameters) == [True, True]
    assert rows(1.041, 1 + 0.9 * parameters) == [True, False]
    assert rows(1.039, 1 + 1.1 * parameters) == [False, True]


def test_one_rounding_error_is_the_next_number():
    state = {'a': np.array([1.0, -2.0, 0.0, 3e-5], np.float32)}
    moved = comparing.one_rounding_error_apart(state)['a']
    assert (np.abs(moved - state['a']) <= 2.0**-22 * np.abs(state['a'])).all()
    assert (moved != state['a']).tolist() == [True, True, False, True]


def test_labels_beyond_the_classes_are_ignored():
    (images, labels), *others = comparing.street_batches(2, 3, (32, 48), 4)
    assert len(others) == 1 and images.shape == (3, 3, 32, 48) and images.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2, 3, 255}


def test_a_data_sets_images_are_compared_pixel_by_pixel(tmp_path, monkeypatch, capsys):
    """Two checkpoints stand in for two backends: they differ in one classifier, and the worst images become pictures."""
    pytest.importorskip('torch')
    pytest.importorskip('mindspore')
    from twinseg.common.measure import parity_on_data as on_data

    class Halves:
        def __init__(self, wrong):
            self.wrong = wrong

        def class_ids(self, images, size):
            ids = np.zeros((len(images), *size), np.uint8)
            ids[:, : size[0] // 2] = 1
            if self.wrong:
                ids[:, :2] = 2
            return ids

    class Run:
        def __init__(self, name, config):
            self.config, self.predictor = config, Halves(name == 'mindspore')

    monkeypatch.setattr(on_data, 'load_run', lambda path, name, device, config: Run(name, config))
    monkeypatch.setattr(on_data.views, 'as_published', lambda predictor, config: predictor)
    from twinseg.common import config as configuration

    config = configuration.from_flat({'set': 'toy_street', 'image_size': [32, 48], 'val_samples': 3})
    result = on_data.parity_on_data(tmp_path / 'any.safetensors', config, tmp_path / 'pictures', most=2)
    assert result.images == 2 and result.pixels == 2 * 32 * 48 and result.differing == 2 * 2 * 48 and not result.ok
    assert [path.name for path in result.pictures] == ['0000.png', '0001.png']
    assert set(result.scores) == {'pytorch', 'mindspore'}


def test_options_of_data_alone_are_refused_without_it(capsys):
    assert main(['parity', 'fast_scnn_toy_street', '--images', '3']) == 2
    assert '--data' in capsys.readouterr().err
