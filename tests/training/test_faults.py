"""What befalls a training: processes that are killed or hang, numbers that are no longer finite, disks that are full or lie.

That nothing is lost when processes are killed is shown by test_soak.py.
"""

import errno
import fcntl
import itertools
import json
import multiprocessing
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support import faulty, photos, ranks, streets
from tests.support.tiny import tiny_classifier, tiny_network
from twinseg.common import checkpoint, cli, config
from twinseg.common.backend import get_backend
from twinseg.common.data.reading import read_image
from twinseg.common.data.sampling import training_batches
from twinseg.common.errors import DataError, DivergedError, StateError
from twinseg.common.files import PART
from twinseg.common.inference.evaluate import evaluate_run
from twinseg.common.inference.runs import load_run
from twinseg.common.training import log, loop

TINY = {
    'arch': 'tiny',
    'auxiliary_weights': {},
    'model_args': {},
    'crop_size': [32, 48],
    'with_ema': True,
    'max_iters': 10,
    'val_interval': 10,
    'checkpoint_interval': 3,
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return streets.make(tmp_path_factory.mktemp('streets'))


@pytest.fixture
def backend_with_tiny(backend_name, monkeypatch):
    backend = get_backend(backend_name)
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network(backend_name, 0.5, num_classes))
    return backend


def run(backend, data, work_dir, *, resume=False, **changes):
    settings = config.from_flat(streets.settings(data, **TINY, **changes))
    loop.train(settings, backend.name, 'cpu', work_dir, resume=resume)


def last(work_dir, step=10) -> dict[str, np.ndarray]:
    return checkpoint.load(checkpoint.step_path(work_dir / 'checkpoints', step))[0]


def batches(*places: int) -> list[list[tuple[int, int]]]:
    """The keys of some batches of a run."""
    return [next(training_batches(8, 4, 0, place, place + 1)) for place in places]


@pytest.mark.parametrize(
    'bad, at, behind',
    [  # after step 6 a checkpoint is due, which is not written then
        (4, 6, 3),
        (5, 6, 3),
        pytest.param(6, 8, 6, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_behind_the_batches_that_broke_it(backend_with_tiny, data, tmp_path, monkeypatch, bad, at, behind):
    with monkeypatch.context() as patch:
        faulty.poison(backend_with_tiny, batches(bad), patch.setattr)
        run(backend_with_tiny, data, tmp_path / 'broken', nan_policy='rollback')
    text = (tmp_path / 'broken' / 'log.txt').read_text()
    assert f'step {at}: ' in text and 'training has diverged' in text
    assert f'at step {behind}, the batches used since then are skipped; rollback 1 of 3' in text
    lines = [json.loads(line) for line in (tmp_path / 'broken' / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines if line['kind'] == 'train'] == list(range(1, 11))
    assert all(line['loss'] is not None for line in lines if line['kind'] == 'train')

    def without_them(*arguments, start=0, stop=None, **options):
        keys = training_batches(*arguments, start=0, stop=stop + at - behind, **options)
        return itertools.islice((key for place, key in enumerate(keys) if not behind <= place < at), start, None)

    monkeypatch.setattr(loop, 'training_batches', without_them)
    run(backend_with_tiny, data, tmp_path / 'whole')
    assert all(np.array_equal(value, last(tmp_path / 'broken')[name]) for name, value in last(tmp_path / 'whole').items())


def test_a_resume_leaves_the_same_batches_out(data, tmp_path, monkeypatch):
    backend = get_backend('pytorch')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    faulty.poison(backend, batches(4), monkeypatch.setattr)
    run(backend, data, tmp_path, nan_policy='rollback')
    whole = last(tmp_path)
    checkpoint.step_path(tmp_path / 'checkpoints', 10).unlink()
    run(backend, data, tmp_path, resume=True, nan_policy='rollback')
    assert 'continues from' in (tmp_path / 'log.txt').read_text()
    assert all(np.array_equal(value, last(tmp_path)[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    'bad, settings, rollbacks',
    [([4], {}, 0), (range(4, 40), {'nan_policy': 'rollback', 'max_rollbacks': 2}, 2), ([0], {'nan_policy': 'rollback'}, 0)],
)
def test_a_run_does_not_go_on_with_nan(data, tmp_path, monkeypatch, bad, settings, rollbacks):
    backend = get_backend('pytorch')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    faulty.poison(backend, batches(*bad), monkeypatch.setattr)
    with pytest.raises(DivergedError, match='training has diverged; lower base_lr'):
        run(backend, data, tmp_path, **settings)
    assert (tmp_path / 'log.txt').read_text().count('nan_policy: rollback: back to') == rollbacks
    for path in checkpoint.steps(tmp_path / 'checkpoints'):
        assert all(np.isfinite(value).all() for value in checkpoint.load(path)[0].values())


def test_a_run_that_skips_too_many_steps_in_a_row_ends(data, tmp_path, monkeypatch):
    backend = get_backend('pytorch')
    make, overflows = backend.make_trainer, iter('++-+++')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    monkeypatch.setattr(loop, 'MAX_SKIPPED', 3)

    def overflowing(network, settings):
        made = make(network, settings)
        step = made.step
        made.step = lambda *batch: {**step(*batch), 'overflow': float(next(overflows) == '+')}
        return made

    monkeypatch.setattr(backend, 'make_trainer', overflowing)
    with pytest.raises(DivergedError, match=r'step 6: .* has diverged \(3 steps skipped in a row\)'):
        run(backend, data, tmp_path, amp_level='O2')


def test_the_log_names_the_damaged_checkpoints_that_a_resume_passes_over(data, tmp_path, monkeypatch):
    backend = get_backend('pytorch')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    run(backend, data, tmp_path)
    whole, (third, sixth, ninth, tenth) = (
        last(tmp_path),
        [checkpoint.step_path(tmp_path / 'checkpoints', step) for step in (3, 6, 9, 10)],
    )
    assert not third.exists() and sixth.exists()
    content = bytearray(ninth.read_bytes())
    content[-40] ^= 1
    ninth.write_bytes(content)
    tenth.write_bytes(tenth.read_bytes()[:-100])
    run(backend, data, tmp_path, resume=True)
    text = (tmp_path / 'log.txt').read_text()
    assert f'skipped a broken checkpoint: {tenth}: not a readable checkpoint (truncated' in text
    assert f'skipped a broken checkpoint: {ninth}: damaged: its checksum does not agree' in text
    assert f'continues from {sixth} at step 6' in text
    assert all(np.array_equal(value, last(tmp_path)[name]) for name, value in whole.items())


def test_the_log_counts_files_that_are_not_used_and_images_of_both_splits(tmp_path, monkeypatch, caplog):
    backend, folder = get_backend('pytorch'), streets.make(tmp_path / 'streets', 4)
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    (folder / 'images/train/000.json').write_text('{}')
    (folder / 'labels/val/lonely.png').write_bytes(b'')
    os.symlink(folder / 'images/train/001.png', folder / 'images/val/linked.png')
    os.symlink(folder / 'labels/train/001.png', folder / 'labels/val/linked.png')
    run(backend, folder, tmp_path / 'run')
    lines = (tmp_path / 'run/log.txt').read_text().splitlines()
    warnings = [line.partition('warning: ')[2] for line in lines if 'warning: ' in line]
    assert warnings == [
        'custom train: 1 file is not used: 1 .json (000.json)',
        'custom val: 1 file is not used: 1 label without an image (lonely.png)',
        'custom: 1 of 5 images of val are images of train, too (linked): scores on them say nothing of other images',
    ]
    evaluate_run(load_run(tmp_path / 'run', 'pytorch', 'cpu'))
    assert [record.message for record in caplog.records if 'not used' in record.message] == warnings[1:2]


@pytest.mark.parametrize('what', ['broken', 'vanished'])
@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_an_image_that_cannot_be_read_ends_a_training_with_workers(backend_name, tmp_path, monkeypatch, task, split, what):
    backend, make_loader = get_backend(backend_name), get_backend(backend_name).make_loader
    if task == 'classification':
        monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes, **_: tiny_classifier(backend_name))
        folder = photos.make(tmp_path / 'photos')
        keys = photos.settings(folder, arch='tiny', batch_size=4, max_iters=8, model_args={})
        image = sorted((folder / split).glob('*/*'))[-1]
    else:
        monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network(backend_name, 0.5, num_classes))
        folder = streets.make(tmp_path / 'streets')
        keys = streets.settings(folder, **TINY)
        image = folder / 'images' / split / '006.png'

    def spoiled(*arguments, **options):  # the data sets are opened, and the training begins
        image.write_bytes(image.read_bytes()[:60]) if what == 'broken' else image.unlink(missing_ok=True)
        return make_loader(*arguments, **options)

    monkeypatch.setattr(backend, 'make_loader', spoiled)
    mode = {'graph_mode': 1} if backend_name == 'mindspore' else {}  # nothing is compiled
    settings = config.from_flat({**keys, **mode, 'num_parallel_workers': 2, 'val_interval': 2})
    with pytest.raises(DataError) as error:
        loop.train(settings, backend_name, 'cpu', tmp_path / 'run')
    assert str(image) in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 400
    assert multiprocessing.active_children() == []
    steps = len([line for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines() if '"train"' in line])
    saved = [checkpoint.load(path)[1].step for path in checkpoint.steps(tmp_path / 'run/checkpoints')]
    assert saved == ([steps] if split == 'train' and steps else []), 'what was done is saved, but not without its evaluation'


def test_a_run_that_an_image_ended_goes_on_as_if_nothing_had_been(data, tmp_path, monkeypatch):
    backend, folder = get_backend('pytorch'), streets.make(tmp_path / 'streets')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    run(backend, folder, tmp_path / 'whole')
    _, index = batches(1)[0][-1]  # of the second step
    image = folder / f'images/train/{index:03d}.png'
    content = image.read_bytes()
    image.write_bytes(content[:60])
    with pytest.raises(DataError):
        run(backend, folder, tmp_path / 'ended', num_parallel_workers=1)
    assert 'ends after step 1, which is saved' in (tmp_path / 'ended/log.txt').read_text()
    image.write_bytes(content)
    run(backend, folder, tmp_path / 'ended', resume=True, num_parallel_workers=1)
    assert all(np.array_equal(value, last(tmp_path / 'ended')[name]) for name, value in last(tmp_path / 'whole').items())


@pytest.mark.parametrize('number', [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENOSPC])
def test_a_disk_that_fails_is_named(data, tmp_path, monkeypatch, number):
    backend = get_backend('pytorch')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    append = log._append

    def fails(file, text):
        if '"step": 2' in text:
            raise OSError(number, os.strerror(number), file.name)
        append(file, text)

    monkeypatch.setattr(log, '_append', fails)
    with pytest.raises(StateError, match=f'run/metrics.jsonl: .*{os.strerror(number)}; .* continue with --resume'):
        run(backend, data, tmp_path / 'run')


def test_an_image_below_a_mount_that_is_gone_is_named(monkeypatch, tmp_path):
    image = streets.make(tmp_path, 1) / 'images/train/000.png'

    def gone(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, 'open', gone)
    with pytest.raises(DataError, match='000.png: not readable: Stale file handle; see to the disk or the mount'):
        read_image(image)


def test_a_full_log_file_is_named(data, tmp_path, monkeypatch):
    backend = get_backend('pytorch')

    def network(num_classes):  # is built when the folder was looked through: a link that is there before is refused
        (tmp_path / 'run/log.txt').unlink(missing_ok=True)
        (tmp_path / 'run/log.txt').symlink_to('/dev/full')
        return tiny_network('pytorch', 0.5, num_classes)

    monkeypatch.setitem(backend.MODELS, 'tiny', network)
    with pytest.raises(StateError, match='run/log.txt: not written: No space left on device; free space and continue with'):
        run(backend, data, tmp_path / 'run')


def test_a_checkpoint_of_a_newer_version_is_called_newer_by_every_command(data, tmp_path, monkeypatch, capsys):
    backend = get_backend('pytorch')
    monkeypatch.setitem(backend.MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.5, num_classes))
    run(backend, data, tmp_path / 'run')
    for path in (tmp_path / 'run/checkpoints').iterdir():
        tensors, meta = checkpoint.load(path)
        monkeypatch.setattr(checkpoint.RunMeta, 'to_json', lambda meta: json.dumps({'format': 9, 'layout': 'of later days'}))
        checkpoint.save(path, tensors, meta)
    folder, file = str(tmp_path / 'run'), str(path)
    for words in (
        ['train', '--work-dir', folder, '--resume'],
        ['train', '--checkpoint', file, '--work-dir', str(tmp_path / 'new')],
        ['eval', '--checkpoint', folder],
        ['eval', '--checkpoint', file],
        ['predict', '--checkpoint', folder, str(data / 'images/val/000.png')],
        ['export', '--checkpoint', file, '--out', str(tmp_path / 'x.onnx')],
        ['results', folder],
    ):
        assert cli.main([*words, *['--device', 'cpu'] * (words[0] in ('train', 'eval', 'predict'))]) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert 'has format 9, written by a newer version of twinseg' in line, words


class Terminal:
    """A training whose terminal is closed in the middle."""

    def __init__(self, folder: Path, data: Path, *, ignores: bool, steps: int):
        keys = streets.settings(data, **{**TINY, 'max_iters': steps, 'val_interval': steps})
        (folder / 'run.yaml').write_text('\n'.join(f'{key}: {json.dumps(value)}' for key, value in keys.items()))
        self.metrics = folder / 'run/metrics.jsonl'
        master, slave = pty.openpty()

        def prepare():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignores else signal.SIG_DFL)

        words = 'train run.yaml --backend pytorch --device cpu --work-dir run'.split()
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tests.support.faulty', *words],
            cwd=folder,
            env=ranks.environment(TERM='xterm'),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=prepare,
        )
        os.close(slave)
        while not self.metrics.exists() or self.metrics.read_text().count('\n') < 3:
            assert self.process.poll() is None
            if select.select([master], [], [], 0.05)[0]:
                os.read(master, 1 << 16)
        os.close(master)
        self.status = self.process.wait(120)


def test_a_closed_terminal_ends_a_run_after_its_step(data, tmp_path):
    ended = Terminal(tmp_path, data, ignores=False, steps=100000)
    assert ended.status == 129
    step = json.loads(ended.metrics.read_text().splitlines()[-1])['step']
    assert checkpoint.load(checkpoint.latest(tmp_path / 'run/checkpoints'))[1].step == step
    assert f'stopped by SIGHUP after step {step}' in (tmp_path / 'run/log.txt').read_text().splitlines()[-1]


def test_below_nohup_a_run_goes_on_without_its_terminal(data, tmp_path):
    ended = Terminal(tmp_path, data, ignores=True, steps=40)
    assert ended.status == 0
    assert checkpoint.load(tmp_path / 'run/checkpoints/best.safetensors')[1].step == 40


def test_a_user_without_home_folder_and_name_trains_and_exports(request, backend_name, data, tmp_path):
    if backend_name == 'mindspore' and not request.config.getoption('--slow'):
        pytest.skip('needs --slow')
    keys = streets.settings(data, **{**TINY, 'max_iters': 1, 'val_interval': 1})
    (tmp_path / 'run.yaml').write_text('\n'.join(f'{key}: {json.dumps(value)}' for key, value in keys.items()))
    environment = ranks.environment(NOBODY='1')
    for name in ('HOME', 'TWINSEG_CACHE', 'XDG_CACHE_HOME'):
        environment.pop(name, None)
    commands = ['train run.yaml --work-dir run']
    if backend_name == 'pytorch':  # it writes ONNX
        commands.append('export --checkpoint run --out net.onnx --size 32x48')
    for words in commands:
        command = [sys.executable, '-m', 'tests.support.faulty', *words.split(), '--backend', backend_name, '--device', 'cpu']
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} - {'net.onnx'} == {'run', 'run.yaml'}


# --- groups of two processes ------------------------------------------------------------------------------------------


@pytest.fixture
def two(request, backend_name, data, tmp_path):
    """Starts two processes of a long training, or of another command."""
    if backend_name == 'mindspore' and not request.config.getoption('--slow'):
        pytest.skip('needs --slow: half a minute each')
    return Two(backend_name, data, tmp_path)


class Two:
    """Two processes that train, in a folder."""

    def __init__(self, backend_name: str, data: Path, folder: Path):
        self.backend_name, self.folder, self.run = backend_name, folder, folder / 'run'
        keys = streets.settings(data, **TINY, batch_size=2, collective_timeout=10)
        (folder / 'two.yaml').write_text('\n'.join(f'{key}: {json.dumps(value)}' for key, value in keys.items()))

    def start(self, *more: str, size: int = 2, command: str = 'train', **faults: str) -> subprocess.Popen:
        words = [
            '-m',
            'tests.support.faulty',
            command,
            'two.yaml',
            '--backend',
            self.backend_name,
            '--device',
            'cpu',
            *(['--work-dir', 'run'] if command == 'train' else []),
            *more,
        ]
        with (self.folder / 'output').open('w') as output:
            return subprocess.Popen(
                ranks.command(self.backend_name, size, self.folder / 'msrun', *words),
                cwd=self.folder,
                env=ranks.environment(PIDS=str(self.folder), **faults),
                stdout=output,
                stderr=output,
            )

    def ends(self, *more: str, size: int = 2, command: str = 'train', **faults: str) -> int:
        return self.start(*more, size=size, command=command, **faults).wait(200)

    def disturbed(self, number: int) -> tuple[int, float]:
        """The status, and the seconds until all had ended, after a signal to rank 1 of a training that never ends."""
        process = self.start('--set', 'max_iters=100000', 'val_interval=100000')
        path = self.run / 'metrics.jsonl'
        while not path.exists() or path.read_text().count('\n') < 5:
            assert process.poll() is None, self.said()
            time.sleep(0.05)
        rank_1 = int((self.folder / '1').read_text())
        os.kill(rank_1, number)
        before = time.monotonic()
        try:
            return process.wait(120), time.monotonic() - before
        finally:
            if Path(f'/proc/{rank_1}').exists():
                os.kill(rank_1, signal.SIGKILL)

    def said(self) -> str:
        return '\n'.join(path.read_text() for path in [self.folder / 'output', *self.folder.glob('msrun/*.log')])


def test_the_others_end_soon_when_a_process_is_killed(two):
    status, seconds = two.disturbed(signal.SIGKILL)
    print(f'{two.backend_name}: ended after {seconds:.1f} s')
    assert status != 0 and seconds < 45
    assert 'internal error' not in two.said()
    if two.backend_name == 'pytorch':  # msrun kills the others within a second
        named = 'twinseg: error: rank 0: lost the other processes: rank 1 has ended, or hangs'
        assert named in two.said(), two.said()


@pytest.mark.slow
def test_the_others_do_not_wait_for_a_process_that_hangs(two):
    status, seconds = two.disturbed(signal.SIGSTOP)
    print(f'{two.backend_name}: ended after {seconds:.1f} s')
    assert status != 0 and seconds < 75  # 10 of the timeout, 30 in which torchrun waits for a process to end
    assert 'twinseg: error: rank 0: lost the other processes: rank 1 has ended, or hangs for longer than' in two.said()


@pytest.mark.slow
def test_all_processes_end_when_the_disk_is_full_and_the_last_checkpoint_is_whole(two):
    assert two.ends(FULL_DISK='2') != 0
    assert 'twinseg: error: rank 0: ' in two.said() and 'No space left on device; free space or choose another' in two.said()
    found = checkpoint.latest(two.run / 'checkpoints')
    assert checkpoint.load(found)[1].step == 3 and not list((two.run / 'checkpoints').glob(f'{PART}*'))
    assert two.ends('--resume') == 0, two.said()


def test_a_process_without_its_data_is_named(two):
    assert two.ends(NO_DATA='1') != 0
    assert 'twinseg: error: rank 1: ' in two.said() and '/missing/streets' in two.said()
    assert not list(two.folder.glob('run/checkpoints/*'))


def test_all_processes_go_back_when_one_has_nan(two):
    assert two.ends('--set', 'nan_policy=rollback', POISON='1') == 0, two.said()
    assert (two.run / 'log.txt').read_text().count('nan_policy: rollback: back to') == 1
    assert all(np.isfinite(value).all() for value in last(two.run).values())


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_as_two_and_back(two):
    assert two.ends('--set', 'batch_size=4', size=1) == 0, two.said()
    whole = last(two.run)
    for size, batch_size in ((2, 2), (1, 4)):
        for step in (9, 10) if size == 2 else (10,):
            checkpoint.step_path(two.run / 'checkpoints', step).unlink()
        assert two.ends('--resume', '--set', f'batch_size={batch_size}', size=size) == 0, two.said()
        for name, value in last(two.run).items():
            np.testing.assert_allclose(value, whole[name], rtol=1e-4, atol=1e-5, err_msg=name)
    text = (two.run / 'log.txt').read_text()
    assert 'at step 6' in text and 'at step 9' in text and '2 processes with batches of 2' in text


def test_two_processes_evaluate_like_one(two):
    assert two.ends('--set', 'batch_size=4', size=1) == 0, two.said()
    found = []
    for size in (1, 2):
        words = '--checkpoint', 'run', '--boundary', '--json', f'{size}.json'
        assert two.ends(*words, size=size, command='eval') == 0, two.said()
        found.append(json.loads((two.folder / f'{size}.json').read_text()))
    assert [scores['conditions'].pop('processes') for scores in found] == [1, 2]
    assert found[0] == found[1]
