"""The training loop: what a run leaves, exact resume, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support import streets
from tests.support.tiny import tiny_network, tiny_with_detail
from twinseg.common import checkpoint, config
from twinseg.common.backend import get_backend
from twinseg.common.cli import main
from twinseg.common.errors import Interrupted, StateError, UserError
from twinseg.common.inference.evaluate import evaluate_run
from twinseg.common.inference.runs import load_run
from twinseg.common.report import results_table
from twinseg.common.training.loop import train

FIGURES = {
    'step',
    'epoch',
    'lr',
    'loss',
    'loss_logits',
    'loss_aux_gfe',
    'loss_scale',
    'overflows',
    'grad_norm',
    'img_per_s',
    'seconds_left',
    'data_share',
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return streets.make(tmp_path_factory.mktemp('streets'))


def run(backend_name, data, work_dir, *, resume=False, start_from=None, **changes):
    return train(
        config.from_flat(streets.settings(data, **changes)), backend_name, 'cpu', work_dir, resume=resume, start_from=start_from
    )


def records(work_dir, kind):
    lines = [json.loads(line) for line in (work_dir / 'metrics.jsonl').read_text().splitlines()]
    return [line for line in lines if line['kind'] == kind]


def same(one, other):
    first, second = checkpoint.load(one)[0], checkpoint.load(other)[0]
    assert first.keys() == second.keys()
    return [name for name in first if not np.array_equal(first[name], second[name])]


def test_a_run_learns_and_leaves_its_files(backend_name, data, tmp_path):
    scores = run(
        backend_name,
        data,
        tmp_path / 'run',
        max_iters=24,
        val_interval=24,
        checkpoint_interval=8,
        with_ema=True,
        ema_decay=0.5,
        max_keep_ckpts=2,
    )
    steps = records(tmp_path / 'run', 'train')
    assert [line['step'] for line in steps] == list(range(1, 25))
    assert FIGURES <= steps[0].keys()
    assert np.mean([line['loss'] for line in steps[-4:]]) < 0.7 * steps[0]['loss']
    assert scores['mIoU'] == records(tmp_path / 'run', 'eval')[-1]['mIoU'] > 20
    assert sorted(p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()) == [
        'best.safetensors',
        'step_00000016.safetensors',
        'step_00000024.safetensors',
    ]
    assert config.load(tmp_path / 'run' / 'config.yaml').data.classes == streets.CLASSES
    assert 'step 24/24' in (tmp_path / 'run' / 'log.txt').read_text()
    assert list((tmp_path / 'run' / 'tensorboard').glob('events.*'))
    again = evaluate_run(load_run(tmp_path / 'run', backend_name, 'cpu'))
    assert again.matrix.tolist() == records(tmp_path / 'run', 'eval')[-1]['confusion']


class Killed(BaseException):
    """What stops a run at a step, like a signal."""


def test_resume_is_exact(backend_name, data, tmp_path, monkeypatch):
    # Dropout, moving averages and dynamic scaling are parts of the state that a resume can lose.
    changes = {
        'arch': 'tiny',
        'auxiliary_weights': {},
        'model_args': {},
        'with_ema': True,
        'loss_scale': 1024.0,
        'is_dynamic_loss_scale': True,
        'scale_window': 4,
        'max_iters': 5,
        'val_interval': 5,
        'optimizer': 'adamw',
        'base_lr': 0.001,
        'amp_level': 'O2',
    }
    monkeypatch.setitem(
        get_backend(backend_name).MODELS, 'tiny', lambda num_classes: tiny_network(backend_name, 0.5, num_classes)
    )
    run(backend_name, data, tmp_path / 'whole', **changes)

    killed = tmp_path / 'killed'
    backend = get_backend(backend_name)
    make = backend.make_trainer

    def stops_at_step_4(network, settings):
        made = make(network, settings)
        step = made.step

        def counted(batches, learning_rate):
            counted.done += 1
            if counted.done == 4:
                raise Killed
            return step(batches, learning_rate)

        counted.done = 0
        made.step = counted
        return made

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(backend, 'make_trainer', stops_at_step_4)
        run(backend_name, data, killed, **changes)
    assert checkpoint.latest(killed / 'checkpoints').name == 'step_00000002.safetensors'
    run(backend_name, data, killed, resume=True, **changes)

    name = 'checkpoints/step_00000005.safetensors'
    assert same(tmp_path / 'whole' / name, killed / name) == []
    whole, again = ([line['loss'] for line in records(folder, 'train')] for folder in (tmp_path / 'whole', killed))
    assert whole == again


def test_a_run_on_joined_splits_is_resumed_exactly(data, tmp_path):
    changes = {'train_split': ['train', 'val'], 'max_iters': 6, 'checkpoint_interval': 3, 'val_interval': 3, 'batch_size': 2}
    run('pytorch', data, tmp_path / 'whole', **changes)
    text = (tmp_path / 'whole/log.txt').read_text()
    assert '16 training and 8 validation images of custom, 8 steps an epoch' in text
    assert 'warning: custom: val is trained on, too (train+val): scores on it say nothing of other images' in text
    run('pytorch', data, tmp_path / 'again', start_from=tmp_path / 'whole/checkpoints/step_00000003.safetensors', **changes)
    name = 'checkpoints/step_00000006.safetensors'
    assert same(tmp_path / 'whole' / name, tmp_path / 'again' / name) == []
    assert results_table.row(tmp_path / 'again')['score'].endswith(' (trained on)')


@pytest.mark.slow
@pytest.mark.parametrize('delay', [0.0, 0.7, 1.9])
def test_resume_after_kill_9(backend_name, data, tmp_path, delay):
    keys = streets.settings(data, max_iters=12, val_interval=12, with_ema=True, num_parallel_workers=1)
    (tmp_path / 'run.yaml').write_text('\n'.join(f'{key}: {json.dumps(value)}' for key, value in keys.items()))

    def command(work_dir, *more):
        return [
            sys.executable,
            '-m',
            'twinseg',
            'train',
            str(tmp_path / 'run.yaml'),
            '--backend',
            backend_name,
            '--device',
            'cpu',
            '--work-dir',
            str(tmp_path / work_dir),
            *more,
        ]

    subprocess.run(command('whole'), check=True, timeout=500)
    process = subprocess.Popen(command('killed'))
    first = tmp_path / 'killed' / 'checkpoints' / 'step_00000004.safetensors'
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run(command('killed', '--resume'), check=True, timeout=500)
    name = 'checkpoints/step_00000012.safetensors'
    assert same(tmp_path / 'whole' / name, tmp_path / 'killed' / name) == []


def test_each_backend_continues_from_the_others_checkpoint(backend_name, data, tmp_path):
    other = {'pytorch': 'mindspore', 'mindspore': 'pytorch'}[backend_name]
    pytest.importorskip({'pytorch': 'torch', 'mindspore': 'mindspore'}[other])
    run(backend_name, data, tmp_path / 'first', max_iters=4, val_interval=4, base_lr=0.01)
    half = tmp_path / 'first' / 'checkpoints' / 'step_00000002.safetensors'
    run(other, data, tmp_path / 'second', max_iters=4, val_interval=4, base_lr=0.01, start_from=half)
    ours, theirs = ([line['loss'] for line in records(tmp_path / name, 'train')][-2:] for name in ('first', 'second'))
    assert theirs == pytest.approx(ours, rel=1e-3)


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained') / 'run'
    run('pytorch', data, folder, max_iters=2, val_interval=2)
    return folder


@pytest.mark.parametrize('recorded', ['../elsewhere', 'absolute'])
@pytest.mark.parametrize('named', [[], ['--work-dir', 'mine'], ['--set', 'work_dir=mine']])
def test_a_checkpoint_does_not_choose_where_a_run_is_written(trained, tmp_path, monkeypatch, capsys, recorded, named):
    tensors, meta = checkpoint.load(trained / 'checkpoints' / 'step_00000002.safetensors')
    elsewhere = str(tmp_path / 'elsewhere') if recorded == 'absolute' else recorded
    evil = meta.model_copy(update={'config': {**meta.config, 'work_dir': elsewhere}})
    checkpoint.save(tmp_path / 'x.safetensors', tensors, evil)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert main(['train', '--checkpoint', '../x.safetensors', '--device', 'cpu', '--set', 'max_iters=3', *named]) == 0
    folder = Path('mine' if named else f'runs/{meta.config["arch"]}-pytorch')
    assert (folder / 'log.txt').is_file() and {path.name for path in tmp_path.iterdir()} == {'x.safetensors', 'here'}
    assert [path.name for path in Path().iterdir()] == [folder.parts[0]]
    assert named or f'x.safetensors: continued in {folder}; --work-dir names another folder' in capsys.readouterr().out


def test_the_best_weights_of_each_size_are_kept(data, tmp_path):
    changes = {'eval_size': [64, 96], 'more_eval_sizes': [[32, 48], [64, 96]], 'max_iters': 6, 'val_interval': 2}
    changes |= {'max_keep_ckpts': 9}
    run('pytorch', data, tmp_path / 'run', **changes)
    folder = tmp_path / 'run' / 'checkpoints'
    evaluations = records(tmp_path / 'run', 'eval')
    assert [list(line['sizes']) for line in evaluations] == [['32x48']] * 3, 'eval_size itself is scored once'
    for name, key, scores in (
        ('best.safetensors', None, [line['mIoU'] for line in evaluations]),
        ('best_32x48.safetensors', '32x48', [line['sizes']['32x48']['mIoU'] for line in evaluations]),
    ):
        meta = checkpoint.load(folder / name)[1]
        assert meta.step == 2 * (np.argmax(scores) + 1)
        assert (meta.best_at[key] if key else meta.best) == max(scores)
        assert evaluate_run(load_run(folder / name, 'pytorch', 'cpu')).scores.to_json()['mIoU'] == max(scores)
    assert ' (at 32x48: mIoU ' in (tmp_path / 'run' / 'log.txt').read_text()

    tensors, meta = checkpoint.load(folder / 'step_00000004.safetensors')  # a resume remembers both scores
    for path in folder.iterdir():
        path.unlink()
    better = meta.model_copy(update={'best': 101.0, 'best_at': {'32x48': 101.0}})
    checkpoint.save(folder / 'step_00000004.safetensors', tensors, better)
    run('pytorch', data, tmp_path / 'run', resume=True, **changes)
    assert not list(folder.glob('best*'))
    assert checkpoint.load(folder / 'step_00000006.safetensors')[1].best_at == {'32x48': 101.0}


def test_a_decaying_detail_target_is_resumed_exactly(backend_name, data, tmp_path, monkeypatch):
    """What decays follows from the number of the step: a checkpoint holds nothing of it."""
    changes = {
        'arch': 'tiny',
        'model_args': {},
        'auxiliary_weights': {'detail': 1.0},
        'detail_target': 'decaying',
        'lr_mult': {'block*bn.*': 0.0},
        'lr_scheduler': 'constant_lr',
        'weight_decay': 2.0,
        'max_iters': 4,
        'val_interval': 4,
        'graph_mode': int(backend_name == 'mindspore'),
    }
    monkeypatch.setitem(
        get_backend(backend_name).MODELS, 'tiny', lambda num_classes: tiny_with_detail(backend_name, num_classes)
    )
    losses = {}
    for name in 'decaying', 'constant':
        run(backend_name, data, tmp_path / name, **{**changes, 'detail_target': name})
        losses[name] = [line['loss'] for line in records(tmp_path / name, 'train')]
    text = (tmp_path / 'decaying' / 'log.txt').read_text()
    assert 'stride 2 counts in the first 3 steps' in text and 'lr_mult: block*bn.*: 0: 2 parameters' in text
    assert losses['decaying'][:3] == losses['constant'][:3] and losses['decaying'][3] != losses['constant'][3]

    folder = tmp_path / 'decaying' / 'checkpoints'
    whole = checkpoint.load(folder / 'step_00000004.safetensors')[0]
    (folder / 'step_00000004.safetensors').unlink()
    run(backend_name, data, tmp_path / 'decaying', resume=True, **changes)
    again = checkpoint.load(folder / 'step_00000004.safetensors')[0]
    assert [name for name, value in whole.items() if not np.array_equal(value, again[name])] == []
    assert records(tmp_path / 'decaying', 'train')[-1]['loss'] == losses['decaying'][3]


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.parametrize(
    'changes, options, message',
    [
        ({}, {}, 'holds checkpoints already; continue with --resume'),
        ({'batch_size': 2}, {'resume': True}, r'batch_size: 2 .was 4.; a run is continued'),
        ({'seed': 3}, {'resume': True}, r'seed: 3 .was 0.'),
    ],
)
def test_a_used_folder_is_not_written_over(data, trained, changes, options, message):
    before = contents(trained)
    with pytest.raises(UserError, match=message):
        run('pytorch', data, trained, **changes, **options)
    assert contents(trained) == before


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'base_lr': 1e30}, 'training has diverged; lower base_lr'),
        ({'num_classes': 2}, 'num_classes: 2, but custom has 3 classes'),
        ({'arch': 'fast_scn'}, "no network 'fast_scn'; did you mean 'fast_scnn'"),
        ({'batch_size': 99}, 'do not fill one batch of 99'),
        ({'auxiliary_weights': {'aux': 1.0}}, "no auxiliary output 'aux'"),
        ({'model_args': {'width': 2}}, "fast_scnn has no argument 'width'"),
    ],
)
def test_bad_settings(backend_name, data, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(backend_name, data, tmp_path / 'run', **changes)


@pytest.mark.parametrize('name', ['.lock', 'log.txt', 'checkpoints/best.safetensors', 'tensorboard/events'])
def test_a_link_in_a_run_folder_leads_nothing_elsewhere(data, tmp_path, name):
    """A folder that somebody packed, with links to files of the user's."""
    mine, folder = tmp_path / 'mine', tmp_path / 'run'
    mine.write_text('mine')
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(mine)
    with pytest.raises(UserError, match=f'{name}: a link to .*mine; a run writes its own files: remove the link'):
        run('pytorch', data, folder)
    assert mine.read_text() == 'mine' and [path for path in folder.rglob('*') if path.is_file()] == [folder / name]


def test_a_folder_that_cannot_be_written(data):
    with pytest.raises(UserError, match='/proc/run: cannot be written'):
        run('pytorch', data, streets.Path('/proc/run'))


def test_a_checkpoint_of_another_network(data, trained, tmp_path):
    tensors, meta = checkpoint.load(checkpoint.latest(trained / 'checkpoints'))
    tensors.pop('model.classifier.conv.weight')
    checkpoint.save(tmp_path / 'other.safetensors', tensors, meta)
    with pytest.raises(StateError, match='do not fit the network'):
        run('pytorch', data, tmp_path / 'run', start_from=tmp_path / 'other.safetensors')


def test_weights_alone_continue_no_training(data, trained, tmp_path):
    tensors, meta = checkpoint.load(checkpoint.latest(trained / 'checkpoints'))
    checkpoint.save(tmp_path / 'weights.safetensors', tensors, meta.model_copy(update={'trainer': None}))
    with pytest.raises(StateError, match='weights.safetensors: holds weights alone.* give it as pretrained'):
        run('pytorch', data, tmp_path / 'run', start_from=tmp_path / 'weights.safetensors')


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_run_after_its_step_and_nothing_is_lost(data, tmp_path, monkeypatch, request, number, status):
    if signal.getsignal(number) == signal.SIG_IGN:  # the tests were started by nohup
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))
        signal.signal(number, signal.SIG_DFL)
    run('pytorch', data, tmp_path / 'whole')
    others = psutil.Process().children()  # of tests before this one
    backend = get_backend('pytorch')
    make = backend.make_trainer

    def signals_at_step_3(network, settings):
        made = make(network, settings)
        step = made.step

        def counted(batches, learning_rate):
            if made.steps == 2:  # as a terminal and Slurm do
                workers = [child for child in psutil.Process().children() if child not in others]
                for process in psutil.Process(), *workers:
                    process.send_signal(number)
                ended, left = psutil.wait_procs(workers, timeout=1)
                assert workers and not ended and set(left) == set(workers)
            return step(batches, learning_rate)

        made.step = counted
        return made

    before = signal.getsignal(number)
    monkeypatch.setattr(backend, 'make_trainer', signals_at_step_3)
    with pytest.raises(Interrupted, match='after step 3, which is saved: continue with --resume') as error:
        run('pytorch', data, tmp_path / 'stopped', num_parallel_workers=1)
    assert error.value.status == status and signal.getsignal(number) is before
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path / 'stopped' / 'checkpoints').name == 'step_00000003.safetensors'
    run('pytorch', data, tmp_path / 'stopped', resume=True)
    name = 'checkpoints/step_00000006.safetensors'
    assert same(tmp_path / 'whole' / name, tmp_path / 'stopped' / name) == []
