"""What a person sees of a training: progress, pictures, trackers, an end with the next commands, and how it ends early."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.support import streets
from tests.support.events import events
from twinseg.common import cli, config
from twinseg.common.errors import BackendError, Interrupted
from twinseg.common.training import live, loop, trackers
from twinseg.common.training.callbacks import Callback, TrainingFacts

FIGURES = {
    'step': 123456,
    'epoch': 1234.56,
    'loss': 12.3456,
    'lr': 1.23e-4,
    'img_per_s': 1234.5,
    'data_share': 0.99,
    'memory_mb': 123456.0,
    'seconds_left': 360000,
    'loss_scale': 1.0,
    'overflows': 0,
    'broken': 0,
}


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return streets.make(tmp_path_factory.mktemp('streets'))


def train(data: Path, folder: Path, callbacks=(), resume=False, **changes):
    pytest.importorskip('torch')
    chosen = config.from_flat(streets.settings(data, **changes))
    return loop.train(chosen, 'pytorch', 'cpu', folder, callbacks=callbacks, resume=resume)


@pytest.fixture(scope='module')
def run(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('trained') / 'a run'
    train(data, folder, max_iters=4, val_interval=2)
    return folder


@pytest.mark.parametrize('width', [80, 120])
def test_progress_is_whole_in_two_lines(width):
    console = Console(width=width, record=True, force_terminal=True, file=(Path('/dev/null')).open('w'))
    console.print(live.progress(FIGURES, 200000, 'mIoU 43.21, best 44.02'))
    lines = console.export_text().splitlines()
    assert len(lines) == 2 and all(len(line) <= width for line in lines)
    for text in (
        'epoch 1234.56',
        '123456/200000',
        '4 days, 4:00:00 left',
        'loss 12.3456',
        '1234.5 img/s',
        'data 99%',
        '123.5 GB',
    ):
        assert text in ' '.join(lines)


def test_a_training_ends_with_its_score_and_commands_that_run(run):
    lines = [line[21:] for line in (run / 'log.txt').read_text().splitlines()]
    best = max(json.loads(line)['mIoU'] for line in (run / 'metrics.jsonl').read_text().splitlines() if 'mIoU' in line)
    last = lines[lines.index('next:') - 1 :]
    assert last[0].startswith(f'best mIoU {best:.2f} at step ') and last[0].endswith('best.safetensors')
    assert [line.split()[1] for line in last[2:]] == ['predict', 'report', 'export']
    command = shlex.split(last[3])
    assert (
        command[:2] == ['twinseg', 'report'] and cli.main([*command[1:], '--pictures', '0', '--out', str(run / 'r.html')]) == 0
    )


def test_tensorboard_has_pictures_classes_and_the_configuration(run):
    written = events(run / 'tensorboard')
    kinds = {(value.tag.partition('/')[0], value.WhichOneof('value')) for _, value in written}
    assert {('validation', 'image'), ('IoU', 'simple_value'), ('configuration', 'tensor'), ('best', 'simple_value')} <= kinds
    pictures = [(step, value) for step, value in written if value.tag.startswith('validation/')]
    assert sorted(step for step, _ in pictures) == [2, 2, 2, 4, 4, 4]
    assert {(value.image.height, value.image.width) for _, value in pictures} == {(64, 4 * 96)}
    assert {value.tag for _, value in written if value.tag.startswith('IoU/')} == {f'IoU/{name}' for name in streets.CLASSES}


def test_patience_ends_a_training_whose_score_does_not_rise(data, tmp_path, monkeypatch):
    scores = iter([10.0, 20.0, 15.0, 20.0, 30.0, 40.0])
    real = loop.Run._score

    def scored(self, *arguments):
        values, matrix = real(self, *arguments)
        return {**values, 'mIoU': next(scores)}, matrix

    monkeypatch.setattr(loop.Run, '_score', scored)
    train(data, tmp_path / 'run', max_iters=6, val_interval=1, patience=2, tensorboard_images=0)
    text = (tmp_path / 'run' / 'log.txt').read_text()
    assert 'patience: 2 evaluations without a better score: ends after step 4' in text and 'best mIoU 20.00 at step 2' in text
    heard = Heard()
    train(data, tmp_path / 'run', [heard], resume=True, max_iters=6, val_interval=1, patience=2)
    assert heard.words == ['start', 'end'], 'a resume does not forget'


def test_max_hours_saves_and_ends_as_sigterm_does(data, tmp_path):
    with pytest.raises(
        Interrupted, match=r'stopped by max_hours: 1e-09 after step 1, which is saved: continue with --resume'
    ) as end:
        train(data, tmp_path / 'run', max_iters=4, max_hours=1e-9)
    assert end.value.status == 75
    assert (tmp_path / 'run' / 'checkpoints' / 'step_00000001.safetensors').is_file()


class Heard(Callback):
    def __init__(self):
        self.words = []

    def start(self, training):
        self.words.append('start')

    def step(self, step, figures):
        self.words.append('step')

    def end(self, step, scores):
        self.words.append('end')


def test_callbacks_hear_of_the_end_by_an_error(data, tmp_path):
    class Broken(Heard):
        def step(self, step, figures):
            raise ValueError('broken callback')

    broken = Broken()
    with pytest.raises(ValueError, match='broken callback'):
        train(data, tmp_path / 'run', [broken])
    assert broken.words == ['start', 'end']


class FakeTracker(trackers.Tracker):
    package = 'json'
    sent: list = []

    def open(self, training, identity, resumed):
        self.sent.append(('open', resumed))
        return identity

    def log(self, values, step):
        self.sent.append((step, sorted(values)))

    def close(self):
        self.sent.append(('close',))


def test_a_tracker_gets_due_steps_and_evaluations_and_a_resume_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, 'wandb', FakeTracker)
    keys = {'tracker': 'wandb', 'log_interval': 2, 'val_interval': 4, 'tensorboard_images': 0}
    train(data, tmp_path / 'run', max_iters=4, **keys)
    identity = (tmp_path / 'run' / trackers.ID_FILE).read_text()
    kinds = [entry[0] for entry in FakeTracker.sent]
    assert kinds == ['open', 2, 4, 4, 'close'] and FakeTracker.sent[0] == ('open', False)
    assert 'train/loss' in FakeTracker.sent[1][1] and {'eval/mIoU', 'eval/road/IoU'} <= set(FakeTracker.sent[3][1])
    train(data, tmp_path / 'run', resume=True, max_iters=6, **keys)
    assert FakeTracker.sent[5] == ('open', True) and (tmp_path / 'run' / trackers.ID_FILE).read_text() == identity


def test_a_tracker_that_is_not_installed_is_named_before_the_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.Wandb, 'package', 'no_such_tracker')
    with pytest.raises(BackendError, match=r'no_such_tracker is not installed: pip install "twinseg\[track\]"'):
        train(data, tmp_path / 'run', tracker='wandb')
    assert not (tmp_path / 'run').exists()


OFFLINE = {
    'wandb': {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true'},
    'mlflow': {},
    'swanlab': {'SWANLAB_MODE': 'offline'},
}


@pytest.mark.parametrize('name', OFFLINE)
def test_each_tracker_writes_offline(name, tmp_path, monkeypatch):
    """The library itself, without a network: a run that begins, logs and ends leaves files in the run folder."""
    pytest.importorskip(name)
    for key, value in OFFLINE[name].items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'run'
    folder.mkdir()
    tracker = trackers.tracker(name, 1)
    tracker.start(TrainingFacts(folder, {'arch': 'enet', 'base_lr': 0.1}, 'pytorch', 'cpu', ('road',), 0, 2))
    tracker.step(1, {'step': 1, 'loss': 0.5, 'lr': np.float64(0.1).item()})
    tracker.evaluation(2, {'mIoU': 50.0, 'classes': {'traffic light': {'IoU': 50.0}}})
    tracker.end(2, {})
    left = {path.name for path in folder.iterdir()}
    assert left == {trackers.ID_FILE, {'wandb': 'wandb', 'mlflow': 'mlruns', 'swanlab': 'swanlog'}[name]}
    assert sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) > 500
