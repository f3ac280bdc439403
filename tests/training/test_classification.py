"""Image classification: scores over every image, the training loop with mixing and averages, resume, command line, report."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.golden import golden
from tests.support import photos
from tests.support.group import together
from twinseg.common import checkpoint, cli, config
from twinseg.common.backend import get_backend
from twinseg.common.data.open import open_dataset
from twinseg.common.errors import DataError, UserError
from twinseg.common.inference.evaluate import evaluate_run
from twinseg.common.inference.runs import load_run
from twinseg.common.measure.benchmark import benchmark
from twinseg.common.measure.parity import parity
from twinseg.common.metrics import ImageScores
from twinseg.common.report.page import write_report
from twinseg.common.tasks import classification
from twinseg.common.tasks.base import EvalOptions
from twinseg.common.training.loop import train

MIXED = {
    'mix_up': 0.2,
    'cutmix': 1.0,
    'label_smoothing': 0.1,
    'auto_augment': 'rand-m9-mstd0.5-inc1',
    're_prob': 0.5,
    'with_ema': True,
    'ema_decay': 0.5,
    'drop_path_rate': 0.1,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return photos.make(tmp_path_factory.mktemp('photos'))


def settings(folder, **changes):
    return config.from_flat(photos.settings(folder, **changes))


def in_turn(samples, batches, workers):
    """A loader without a framework."""
    for keys in batches:
        images, labels = zip(*(samples[key] for key in keys))
        yield np.stack(images), np.stack(labels)


class Bright:
    """Stands for a network: the class whose channel is the brightest."""

    def __init__(self):
        self.sizes = []

    def logits(self, images, size=None):
        self.sizes += [images.shape[2:]] * len(images)
        return images.mean((2, 3), dtype=np.float32)[:, ::-1] / 10


def records(work_dir, kind):
    lines = [json.loads(line) for line in (work_dir / 'metrics.jsonl').read_text().splitlines()]
    return [line for line in lines if line['kind'] == kind]


def test_scores_by_hand():
    logits = np.array(
        [[3.0, 1, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6], [0, 9, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0]], np.float32
    )
    labels = np.array([0, 1, 1, 0])  # right, sixth, right, second
    scores = ImageScores.from_logits(logits, labels, 'abcdefg')
    losses = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits.astype(float), labels)]
    assert (scores.top1, scores.top5) == (0.5, 0.75)
    assert scores.loss == pytest.approx(np.mean(losses))
    assert scores.accuracy[:2].tolist() == [0.5, 0.5] and np.isnan(scores.accuracy[2:]).all()
    assert scores.images.tolist() == [2, 2, 0, 0, 0, 0, 0]
    assert scores.to_json()['classes']['a'] == {'Acc': 50.0, 'images': 2}


def test_an_unreadable_image_does_not_count_as_wrong():
    scores = ImageScores.from_logits(np.eye(3, dtype=np.float32), np.array([0, -1, 2]), 'abc')
    assert (scores.top1, scores.broken, scores.images.tolist()) == (1.0, 1, [1, 0, 1])


@pytest.mark.parametrize('batch_size', [1, 4, 7, 99])
def test_every_image_counts_once_whatever_the_batch(folder, batch_size):
    chosen = settings(folder, eval_batch_size=batch_size)
    dataset, done = open_dataset(chosen.data, 'val'), []
    found = classification.evaluate(Bright(), dataset, chosen, in_turn, progress=lambda *at: done.append(at))
    assert found.matrix.tolist() == np.diag([5, 5, 5]).tolist()
    assert found.scores.top1 == 1 and found.scores.images.sum() == 15 and done[-1] == (15, 15)


def test_processes_share_the_images_and_count_none_twice(folder):
    chosen = settings(folder)
    dataset = open_dataset(chosen.data, 'val')
    whole = classification.evaluate(Bright(), dataset, chosen, in_turn)
    for size in (4, 16):  # more processes than images
        for found in together(size, lambda group: classification.evaluate(Bright(), dataset, chosen, in_turn, group=group)):
            assert found.to_json() == whole.to_json()


def test_real_size(folder):
    chosen, network = settings(folder), Bright()
    dataset = open_dataset(chosen.data, 'val')
    classification.evaluate(network, dataset, chosen, in_turn)
    assert set(network.sizes) == {(32, 32)}
    network.sizes.clear()
    assert classification.evaluate(network, dataset, chosen, in_turn, EvalOptions(real_size=True)).scores.top1 == 1
    assert set(network.sizes) == {(40, 48)}


def test_broken_images_of_the_validation_set(tmp_path):
    photos.make(tmp_path)
    (tmp_path / 'val' / 'red' / '001.png').write_bytes(b'no image')
    dataset = open_dataset(settings(tmp_path).data, 'val')
    with pytest.raises(DataError, match='001.png'):
        classification.evaluate(Bright(), dataset, settings(tmp_path), in_turn)
    found = classification.evaluate(Bright(), dataset, settings(tmp_path, on_error='skip'), in_turn)
    assert found.scores.broken == 1 and found.matrix.sum() == found.scores.images.sum() == 14
    with pytest.raises(DataError, match='1 broken images .* max_errors: 0'):
        classification.evaluate(Bright(), dataset, settings(tmp_path, on_error='skip', max_errors=0), in_turn)


def test_a_run_learns_and_leaves_its_files(request, backend_name, folder, tmp_path, capsys):
    if backend_name == 'mindspore' and not request.config.getoption('--slow'):
        pytest.skip('needs --slow; cli/test_model_zoo.py trains, evaluates and exports a classifier in every run')
    chosen = settings(folder, max_iters=30, val_interval=30, batch_size=8, with_ema=True, ema_decay=0.8, base_lr=0.005)
    scores = train(chosen, backend_name, 'cpu', tmp_path / 'run')
    assert scores['top1'] > 60 and set(scores['current']) == {'top1', 'top5', 'mAcc', 'loss'}
    assert 'weights not averaged: top1' in capsys.readouterr().out
    files = {path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()}
    assert files >= {'best.safetensors', 'step_00000030.safetensors'}
    run = load_run(tmp_path / 'run', backend_name, 'cpu')
    again = evaluate_run(run)
    assert again.matrix.tolist() == records(tmp_path / 'run', 'eval')[-1]['confusion']
    assert again.scores.to_json()['classes'] == scores['classes']
    page = write_report([tmp_path / 'run'], tmp_path / 'page.html', device='cpu').read_text()
    assert 'Validation top1' in page and 'top1, %' in page and 'truth: ' in page and 'Percent of the images' in page
    with pytest.raises(UserError, match='--slide is for segmentation'):
        evaluate_run(run, EvalOptions(slide=True))


class Killed(BaseException):
    """What stops a run at a step, like a signal."""


def test_resume_in_the_middle_of_an_epoch_is_exact(request, backend_name, folder, tmp_path, monkeypatch):
    if backend_name == 'mindspore' and not request.config.getoption('--slow'):
        pytest.skip('needs --slow; test_training.py resumes a segmentation exactly')
    changes = {**MIXED, 'max_iters': 8, 'val_interval': 8, 'checkpoint_interval': 4}  # an epoch has 6 steps
    train(settings(folder, **changes), backend_name, 'cpu', tmp_path / 'whole')
    backend = get_backend(backend_name)
    make = backend.make_trainer

    def stops_after_step_5(network, chosen):
        made, steps = make(network, chosen), []
        step = made.step

        def counted(*arguments):
            if len(steps) == 5:
                raise Killed
            steps.append(None)
            return step(*arguments)

        made.step = counted
        return made

    monkeypatch.setattr(backend, 'make_trainer', stops_after_step_5)
    with pytest.raises(Killed):
        train(settings(folder, **changes), backend_name, 'cpu', tmp_path / 'killed')
    monkeypatch.undo()
    train(settings(folder, **changes), backend_name, 'cpu', tmp_path / 'killed', resume=True)
    (first, _), (second, _) = (
        checkpoint.load(tmp_path / name / 'checkpoints' / 'step_00000008.safetensors') for name in ('whole', 'killed')
    )
    assert first.keys() == second.keys() and any(name.startswith('ema.') for name in first)
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []
    whole, again = ([line['loss'] for line in records(tmp_path / name, 'train')] for name in ('whole', 'killed'))
    assert whole == again


class Spy:
    """Stands for a trainer: keeps eight batches."""

    ahead = False

    def __init__(self, batches):
        self.batches = batches

    def lr_mult_followers(self):
        return {}

    def frozen(self):
        return {}

    def settle(self):
        pass

    def step(self, parts, rate):
        self.batches += parts
        if len(self.batches) == 8:
            raise Killed
        return {'loss': 1.0, 'overflow': 0.0, 'grad_norm': 1.0, 'loss_scale': 1.0}

    def predictor(self, ema=False):
        return Bright()

    def state(self):
        return {}, {}


def test_both_backends_get_the_same_mixed_batches(folder, tmp_path, monkeypatch):
    seen = {}
    for name in ('pytorch', 'mindspore'):
        pytest.importorskip({'pytorch': 'torch'}.get(name, name))
        backend = get_backend(name)
        monkeypatch.setattr(backend, 'make_trainer', lambda network, chosen, name=name: Spy(seen.setdefault(name, [])))
        with pytest.raises(Killed):
            train(settings(folder, max_iters=9, **MIXED), name, 'cpu', tmp_path / name)
    for (images, targets), (others, labels) in zip(seen['pytorch'], seen['mindspore']):
        assert np.array_equal(images, others) and np.array_equal(targets, labels)
        assert targets.shape == (4, 3) and np.allclose(targets.sum(1), 1, atol=1e-6)


def test_start_epoch_leaves_out_the_first_steps(folder, tmp_path):
    pytest.importorskip('torch')
    chosen = settings(folder, max_iters=8, val_interval=8, start_epoch=1, lr_scheduler='cosine_lr')
    train(chosen, 'pytorch', 'cpu', tmp_path / 'run')
    steps = records(tmp_path / 'run', 'train')
    assert [line['step'] for line in steps] == [7, 8]
    assert steps[0]['lr'] < 0.2 * chosen.optimizer.base_lr
    with pytest.raises(UserError, match='start_epoch: 9'):
        train(settings(folder, max_iters=8, start_epoch=9), 'pytorch', 'cpu', tmp_path / 'late')


def test_commands(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip('torch')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'small.yaml').write_text(config.dump(settings(folder, max_iters=2, val_interval=2)), encoding='utf-8')
    assert cli.main(['train', 'small.yaml', '--device', 'cpu', '--work-dir', 'run']) == 0
    capsys.readouterr()
    assert cli.main(['eval', '--checkpoint', 'run', '--device', 'cpu', '--real-size', '--json', 'scores.json']) == 0
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert {'top1', 'top5', 'loss', 'classes', 'confusion'} <= scores.keys() and scores['conditions']['real_size'] is True
    assert 'of 15 images' in capsys.readouterr().out
    assert cli.main(['browse', 'small.yaml', '--out', 'look']) == 0
    found = json.loads((tmp_path / 'look' / 'browse.json').read_text())
    assert found['splits']['train']['classes'] == {name: pytest.approx(100 / 3, abs=1e-3) for name in photos.CLASSES}
    assert Image.open(tmp_path / 'look' / 'browse.png').width > 600
    assert cli.main(['eval', '--checkpoint', 'run', '--ms-flip']) == 2
    assert '--ms-flip is for segmentation' in capsys.readouterr().err


def test_prediction_and_export(folder, tmp_path, monkeypatch, capsys):
    """The same five classes from the checkpoint and from the exported file."""
    pytest.importorskip('torch')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'small.yaml').write_text(config.dump(settings(folder, max_iters=2, val_interval=2)), encoding='utf-8')
    assert cli.main(['train', 'small.yaml', '--device', 'cpu', '--work-dir', 'run', '--backend', 'pytorch']) == 0
    assert cli.main(['export', '--checkpoint', 'run', '--backend', 'pytorch', '--out', 'net.onnx']) == 0
    images = str(folder / 'val' / 'red')
    capsys.readouterr()
    assert cli.main(['predict', images, '--checkpoint', 'run', '--backend', 'pytorch', '--out', 'a']) == 0
    assert 'predictions.json' in capsys.readouterr().out
    assert cli.main(['predict', images, '--model', 'net.onnx', '--out', 'b']) == 0
    first, second = (json.loads((tmp_path / name / 'predictions.json').read_text()) for name in 'ab')
    assert len(first) == 5 and first.keys() == second.keys()
    for image, guesses in first.items():
        assert [guess['class'] for guess in guesses] == [guess['class'] for guess in second[image]]
        assert sorted(guess['class'] for guess in guesses) == photos.CLASSES
        assert sum(guess['probability'] for guess in guesses) == pytest.approx(1, abs=1e-5)
        assert guesses[0]['probability'] == pytest.approx(second[image][0]['probability'], abs=1e-4)


def test_benchmark_and_parity_of_a_classifier():
    pytest.importorskip('torch')
    chosen = config.from_flat({'set': 'imagenet', 'arch': 'resnet18', 'image_size': 32, 'batch_size': 2, 'num_classes': 7})
    found = benchmark(chosen, 'pytorch', 'cpu', runs=1)
    assert found.input_size == (32, 32) and found.training.batch == 2
    pytest.importorskip('mindspore')
    assert parity(chosen, steps=2, size=(32, 48)).ok


def test_a_published_classifier_predicts_at_once(golden_folder, folder, tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip('torch')
    state = golden.state_dict(golden.load(golden_folder / 'official_ddrnet_23_slim_cls.json')[0])
    torch.save({key: torch.from_numpy(np.asarray(array)) for key, array in state.items()}, tmp_path / 'slim.pth')
    monkeypatch.chdir(tmp_path)
    assert cli.main(['convert', 'slim.pth']) == 0
    assert cli.main(['predict', str(folder / 'val' / 'red' / '000.png'), '--checkpoint', 'slim.safetensors']) == 0
    (guesses,) = json.loads((tmp_path / 'predictions' / 'predictions.json').read_text()).values()
    assert len(guesses) == 5 and all(0 <= guess['index'] < 1000 for guess in guesses)
    assert 'likeliest classes' in capsys.readouterr().out
