"""``twinseg.train``, ``evaluate``, ``export``, ``load``: from Python what the commands do; the examples of docstrings hold."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twinseg
from tests.support import streets
from tests.support.checkpoints import SIZE, write
from twinseg.common.backend import available
from twinseg.common.doors import api
from twinseg.common.errors import UserError
from twinseg.common.inference import model as models
from twinseg.common.tasks.base import EvalOptions
from twinseg.common.training.callbacks import Callback

CLOSE = 1e-5  # of probabilities


class Heard(Callback):
    def __init__(self):
        self.words = []

    def start(self, training):
        self.words.append(f'start {training.first_step}-{training.last_step} {training.backend} {len(training.classes)}')

    def step(self, step, figures):
        self.words.append(f'step {step} {sorted(figures)[0]}')
        assert figures['loss'] > 0 and figures['img_per_s'] > 0

    def evaluation(self, step, scores):
        self.words.append(f'evaluation {step}')
        assert 0 <= scores['mIoU'] <= 100 and set(scores['classes']) == set(streets.CLASSES)

    def end(self, step, scores):
        self.words.append(f'end {step}')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, backend_name):
    """A run of two steps in each backend, and what a callback heard of it."""
    folder, heard = tmp_path_factory.mktemp('api'), Heard()
    keys = streets.settings(streets.make(folder / 'data'), graph_mode=int(backend_name == 'mindspore'))
    settings = {'max_iters': 2, 'val_interval': 2}
    run = twinseg.train(keys, settings, backend=backend_name, device='cpu', work_dir=folder / 'run', callbacks=[heard])
    return run, heard.words


def test_callbacks_hear_of_start_steps_evaluation_and_end(trained, backend_name):
    assert trained[1] == [f'start 0-2 {backend_name} 3', 'step 1 broken', 'step 2 broken', 'evaluation 2', 'end 2']


def test_train_evaluate_and_predict_are_one_run(trained, backend_name):
    run, _ = trained
    evaluation = twinseg.evaluate(run.folder, backend=backend_name, device='cpu')
    assert evaluation.scores.to_json()['mIoU'] == pytest.approx(run.scores['mIoU'])
    result = run.load(device='cpu').predict(np.zeros((*SIZE, 3), np.uint8))
    assert result.classes == tuple(streets.CLASSES) and sum(result.shares.values()) == pytest.approx(1)


def test_bad_input_is_one_error_that_says_what_to_change(tmp_path, trained):
    cases = {
        "did you mean 'base_lr'": lambda: twinseg.train({'arch': 'enet'}, {'bas_lr': 1}),
        "did you mean 'fast_scnn_toy_street'": lambda: twinseg.train('fast_scnn_toystreet'),
        'absent': lambda: twinseg.evaluate(tmp_path / 'absent'),
        '--boundary|--real-size': lambda: twinseg.evaluate(
            trained[0].folder, device='cpu', options=EvalOptions(real_size=True)
        ),
        'no readable checkpoint': lambda: twinseg.export(tmp_path),
    }
    for said, attempt in cases.items():
        with pytest.raises(UserError, match=said):
            attempt()


def test_export_gives_a_file_that_load_opens(trained, backend_name, tmp_path):
    pytest.importorskip('onnxruntime')
    run, _ = trained
    report = twinseg.export(run.folder, tmp_path / 'net.onnx', backend=backend_name)
    assert report.file.difference <= report.file.tolerance
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    masks = [
        twinseg.load(path, device=device).predict(image).mask
        for path, device in ((run.folder, 'cpu'), (tmp_path / 'net.onnx', None))
    ]
    assert (masks[0] == masks[1]).mean() > 0.99


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    if not available():
        pytest.skip('no framework is installed')
    return twinseg.load(write(tmp_path_factory.mktemp('model'), available()[0], 'fast_scnn'), device='cpu')


def test_images_come_in_any_form(network, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    expected = network.predict(image).mask
    forms = [tmp_path / 'a.png', Image.fromarray(image), Image.open(tmp_path / 'a.png')]
    for form in forms:
        np.testing.assert_array_equal(network.predict(form).mask, expected)
    np.testing.assert_array_equal(network.predict(image[..., ::-1], channels='bgr').mask, expected)
    assert network.predict(forms[2]).name == 'a'


def test_an_iterator_is_predicted_one_image_after_the_other(network):
    asked = []

    def images():
        for index in range(3):
            asked.append(index)
            yield np.zeros((*SIZE, 3), np.uint8)

    results = network.predict(images())
    assert asked == []
    assert next(results).mask.shape == SIZE and asked == [0]


def test_a_turned_photo_is_predicted_upright(network, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / 'a.jpg', exif=exif)
    assert (
        network.predict(tmp_path / 'a.jpg').mask.shape
        == network.predict(Image.open(tmp_path / 'a.jpg')).mask.shape
        == SIZE[::-1]
    )


def test_probabilities_are_those_of_the_mask(network):
    image = np.random.default_rng(1).integers(0, 256, (20, 70, 3), np.uint8)  # lower than the smallest image of a network
    result = network.predict(image, probabilities=True)
    assert result.probabilities.shape == (5, 20, 70) and result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=CLOSE)
    np.testing.assert_array_equal(result.mask, result.probabilities.argmax(0))
    assert (result.mask == network.predict(image).mask).mean() > 0.999
    assert network.predict(image).probabilities is None


def test_a_notebook_shows_the_overlay(network):
    html = network.predict(np.zeros((*SIZE, 3), np.uint8))._repr_html_()
    assert html.startswith('<img src="data:image/jpeg;base64,') and 'alt="image"' in html


def test_wrong_channels_are_refused(network):
    with pytest.raises(UserError, match="channels: 'gbr'; expected 'rgb' or 'bgr'"):
        network.predict(np.zeros((*SIZE, 3), np.uint8), channels='gbr')


@pytest.mark.parametrize('module', [api, models], ids=['api', 'model'])
def test_the_examples_hold(module, tmp_path: Path):
    if 'pytorch' not in available():
        pytest.skip('pytorch is not installed')
    names = {**vars(module), 'folder': tmp_path}
    examples = [test for test in doctest.DocTestFinder().find(module, globs=names) if test.examples]
    assert examples
    for test in examples:
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(test)
        assert runner.summarize(verbose=False).failed == 0, test.name
