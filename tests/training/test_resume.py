"""Continuing a run: what must be as it was, what may change by name, what is told; readers that go away, and signals."""

import os
import signal
import sys

import numpy as np
import pytest

from tests.support import streets
from tests.support.tiny import batch, tiny_network
from twinseg.common import checkpoint, config, console
from twinseg.common.backend import get_backend
from twinseg.common.checkpoint import RunMeta
from twinseg.common.errors import Interrupted, StateError, UserError
from twinseg.common.parallel.processes import ALONE
from twinseg.common.training import loop, resume
from twinseg.common.training.signals import Stop, Stopped

FROZEN = [2.222223, 2.162945, 2.057363]  # losses of three steps behind a frozen block: both backends give them
TINY = {
    'arch': 'tiny',
    'auxiliary_weights': {},
    'model_args': {},
    'crop_size': [32, 48],
    'max_iters': 4,
    'val_interval': 4,
    'checkpoint_interval': 4,
}
BEFORE = {'set': 'custom', 'base_lr': 0.1, 'epochs': 3, 'batch_size': 4}
META = {'num_classes': 3, 'steps_per_epoch': 2, 'images': 8, 'image_names': 'a'}


def meta(config_=None, **facts):
    return RunMeta(config={**BEFORE, **(config_ or {})}, **{**META, **facts})


def compared(before, now):
    found = resume.compare(before, now, 'x')
    return {name: [one.key for one in getattr(found, name)] for name in ('course', 'network', 'said', 'scores')}


CHANGES = {  # a change -> what follows
    'learning rate': (meta({'base_lr': 0.2}), {'course': ['base_lr']}),
    'loss, crop, decay': (
        meta({'loss': 'ohem', 'crop_size': [32, 64], 'weight_decay': 0.1}),
        {'course': ['crop_size', 'weight_decay', 'loss']},
    ),
    'precision': (meta({'amp_level': 'O2'}), {'course': ['amp_level']}),
    'averages': (meta({'with_ema': True}), {'course': ['with_ema']}),
    'splits': (meta({'train_split': ['train', 'val']}), {'course': ['train_split']}),
    'repeats': (meta({'repeat': 2}, steps_per_epoch=4), {'course': ['repeat']}),
    'norms': (meta({'sync_bn': False}), {'course': ['sync_bn']}),
    'images': (meta(images=10), {'course': ['images']}),
    'as many others': (meta(image_names='b'), {'course': ['images']}),
    'the network': (meta({'arch': 'enet'}), {'network': ['arch']}),
    'the optimizer': (meta({'optimizer': 'adam'}), {'network': ['optimizer']}),
    'its other name': (meta({'optimizer': 'sgd'}), {}),
    'the number of classes, said': (meta({'num_classes': 3}), {}),
    'the scale of earlier versions, said': (meta({'loss_scale': 1.0}), {}),
    'the length': (meta({'epochs': 4}), {'said': ['epochs']}),
    'evaluation': (meta({'eval_flip': True, 'val_split': None}), {'scores': ['val_split', 'eval_flip']}),
    'the machine': (meta({'data_url': '/x', 'threads': 3, 'device_target': 'GPU', 'pretrained': 'x', 'log_interval': 1}), {}),
    'two halves': (meta({'batch_size': 2}, world_size=2), {}),
    'twice as many': (meta(world_size=2), {'course': ['batch_size']}),
    'half as many': (meta({'batch_size': 2}), {'course': ['batch_size']}),
}


@pytest.mark.parametrize('case', CHANGES)
def test_what_a_change_means(case):
    now, expected = CHANGES[case]
    assert compared(meta(), now) == {'course': [], 'network': [], 'said': [], 'scores': [], **expected}


def test_halves_without_common_norms_are_another_course():
    alone = {'sync_bn': False}
    assert compared(meta(alone), meta({**alone, 'batch_size': 2}, world_size=2))['course'] == ['processes']


def test_a_checkpoint_of_an_earlier_version_knows_its_steps():
    old = meta(images=None, image_names=None)
    assert compared(old, meta(steps_per_epoch=3))['course'] == ['images']
    assert compared(old, meta({'batch_size': 2}, steps_per_epoch=4))['course'] == ['batch_size']


def test_every_key_that_is_listed_is_one():
    assert resume.EFFECT.keys() <= config.KEYS.keys()


@pytest.mark.parametrize(
    'name, message', [('base_lt', "unknown key 'base_lt'; did you mean 'base_lr'"), ('arch', 'one network')]
)
def test_names_that_cannot_be_allowed(name, message):
    with pytest.raises(UserError, match=message):
        resume.check_names(['images', 'loss', name])


# --- runs


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return streets.make(tmp_path_factory.mktemp('streets'))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(get_backend('pytorch').MODELS, 'tiny', lambda num_classes: tiny_network('pytorch', 0.0, num_classes))


def run(data, work_dir, *, allow=(), start_from=None, again=False, **changes):
    settings = config.from_flat(streets.settings(data, **{**TINY, **changes}))
    how = {'resume': again, 'start_from': start_from, 'allow_changed': allow}
    return loop.train(settings, 'pytorch', 'cpu', work_dir, **how)


def last(work_dir):
    return checkpoint.load(checkpoint.latest(work_dir / 'checkpoints'))


def test_a_finished_run_says_so_and_how_to_train_on(tiny, data, tmp_path):
    scores = run(data, tmp_path / 'run')
    assert run(data, tmp_path / 'run', again=True) == scores
    text = (tmp_path / 'run/log.txt').read_text()
    assert 'the training is finished, all of its 4 steps are done; to train on, set a greater length' in text
    with pytest.raises(StateError, match='4 steps are done, more than the 3 of the configuration; set a greater length'):
        run(data, tmp_path / 'run', again=True, max_iters=3)
    with pytest.raises(StateError, match='the training is finished'):
        run(data, tmp_path / 'new', start_from=checkpoint.latest(tmp_path / 'run/checkpoints'))
    assert not list((tmp_path / 'new').glob('checkpoints/*'))
    run(data, tmp_path / 'run', again=True, max_iters=6)
    assert last(tmp_path / 'run')[1].step == 6
    assert '6 steps (were 4): learning rates follow the new length' in (tmp_path / 'run/log.txt').read_text()


def test_averages_end_and_begin_by_name_alone(tiny, data, tmp_path):
    run(data, tmp_path / 'run', with_ema=True)
    with pytest.raises(StateError, match=r'with_ema: False \(was True\).*--allow-changed with_ema'):
        run(data, tmp_path / 'run', again=True, max_iters=5)
    run(data, tmp_path / 'run', again=True, max_iters=5, allow=['with_ema'])
    assert not any(name.startswith('ema.') for name in last(tmp_path / 'run')[0])
    run(data, tmp_path / 'run', again=True, max_iters=6, with_ema=True, allow=['with_ema'])
    tensors, facts = last(tmp_path / 'run')
    assert any(name.startswith('ema.') for name in tensors)
    assert [one.key for one in facts.changes if one.key == 'with_ema'] == ['with_ema'] * 2


def test_parts_are_freed_by_name(tiny, data, tmp_path):
    run(data, tmp_path / 'run', freeze=['block.'])
    run(data, tmp_path / 'run', again=True, max_iters=6, allow=['freeze'])
    assert any(name.startswith('optimizer.momentum.block') for name in last(tmp_path / 'run')[0])


def test_other_images_are_refused_and_epochs_counted_anew(tiny, tmp_path):
    folder = streets.make(tmp_path / 'data')
    run(folder, tmp_path / 'run', max_iters=None, epochs=2)
    for number in range(4):
        for kind in ('images', 'labels'):
            file = folder / kind / 'train' / f'{number:03d}.png'
            file.with_name(f'more{number}.png').write_bytes(file.read_bytes())
    with pytest.raises(StateError, match=r'images: 12 \(was 8\); .* --allow-changed images'):
        run(folder, tmp_path / 'run', again=True, max_iters=None, epochs=2)
    run(folder, tmp_path / 'run', again=True, max_iters=None, epochs=2, allow=['images'])
    assert '6 steps (were 4)' in (tmp_path / 'run/log.txt').read_text() and last(tmp_path / 'run')[1].step == 6


def test_initial_weights_are_not_needed_again(tiny, data, tmp_path):
    run(data, tmp_path / 'first')
    start = tmp_path / 'start.safetensors'
    start.write_bytes((tmp_path / 'first/checkpoints/best.safetensors').read_bytes())
    run(data, tmp_path / 'run', pretrained=str(start))
    start.unlink()
    run(data, tmp_path / 'run', again=True, pretrained=str(start), max_iters=5)
    assert last(tmp_path / 'run')[1].step == 5


def test_without_validation_the_last_checkpoint_is_the_result(tiny, tmp_path):
    folder = streets.make(tmp_path / 'data')
    (folder / 'images/val').rename(folder / 'images/unused')
    with pytest.raises(UserError, match='val_split: null trains without validation'):
        run(folder, tmp_path / 'run')
    assert run(folder, tmp_path / 'run', val_split=None) == {}
    assert [path.name for path in (tmp_path / 'run/checkpoints').iterdir()] == ['step_00000004.safetensors']
    text = (tmp_path / 'run/log.txt').read_text()
    assert '8 training and no validation images' in text and 'the result is the last checkpoint' in text


# --- signals and readers


def test_a_signal_during_an_evaluation_saves_the_step_and_the_evaluation_is_made_up_for(tiny, data, tmp_path, monkeypatch):
    run(data, tmp_path / 'whole')
    with monkeypatch.context() as patch:
        score = loop.Run._score

        def signalled(self, *arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            return score(self, *arguments)

        patch.setattr(loop.Run, '_score', signalled)
        with pytest.raises(Interrupted, match='stopped by SIGTERM after step 4, which is saved') as error:
            run(data, tmp_path / 'run')
    assert error.value.status == 75 and last(tmp_path / 'run')[1].scores == {}
    run(data, tmp_path / 'run', again=True)
    whole, made_up = (checkpoint.load(tmp_path / name / 'checkpoints/best.safetensors')[1].scores for name in ('whole', 'run'))
    assert whole['mIoU'] == made_up['mIoU'] and made_up['step'] == 4


def test_a_signal_while_a_batch_is_waited_for_saves_the_last_step(tiny, data, tmp_path, monkeypatch):
    backend = get_backend('pytorch')
    make_loader = backend.make_loader

    def slow(*arguments):
        for number, made in enumerate(make_loader(*arguments)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield made

    monkeypatch.setattr(backend, 'make_loader', slow)
    with pytest.raises(Interrupted, match='stopped by SIGINT after step 2, which is saved'):
        run(data, tmp_path / 'run')
    assert last(tmp_path / 'run')[1].step == 2


def test_the_third_interrupt_alone_ends_at_once(capfd):
    with Stop(ALONE) as stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.asked(0)[0] == signal.SIGINT
        with pytest.raises(Stopped), stop.at_once():
            pass
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count('the step at hand is finished and saved') == 1


def test_output_that_nobody_reads_is_lost_and_nothing_else(monkeypatch):
    before = os.dup(1)
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(writer)
    try:
        with open(1, 'w', closefd=False, buffering=1) as stream:
            monkeypatch.setattr(sys, 'stdout', stream)
            with console.outliving_readers():
                print('read')
                os.close(reader)
                for _ in range(3):
                    print('lost', flush=True)
    finally:
        os.dup2(before, 1)
        os.close(before)


def test_frozen_parts_keep_weights_statistics_and_averages(backend_name):
    keys = {'freeze': ['block.'], 'with_ema': True, 'weight_decay': 0.1, 'graph_mode': int(backend_name == 'mindspore')}
    trainer = get_backend(backend_name).make_trainer(tiny_network(backend_name), config.from_flat(keys))
    before, _ = trainer.state()
    losses = [trainer.step([batch(step)], 0.1)['loss'] for step in range(3)]
    after, _ = trainer.state()
    moved = {name for name in before if name in after and not np.array_equal(before[name], after[name])}
    assert trainer.frozen() == {'block.': 3} and not any('.block.' in name for name in moved)
    assert {'model.classifier.weight', 'ema.classifier.weight'} <= moved
    np.testing.assert_allclose(losses, FROZEN, rtol=1e-5)


def test_a_pattern_that_freezes_nothing_or_all():
    for keys, message in (
        (['blok.'], "freeze: no parameter of the network starts with 'blok.'"),
        (['*'], 'no parameter to train'),
    ):
        with pytest.raises(UserError, match=message):
            get_backend('pytorch').make_trainer(tiny_network('pytorch'), config.from_flat({'freeze': keys}))
