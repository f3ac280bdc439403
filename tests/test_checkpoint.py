"""The checkpoint file: what goes in comes out, damage is noticed, and an interrupted save harms nothing."""

import json
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save, save_file

from twinseg.common import checkpoint
from twinseg.common.checkpoint import FORMAT, Change, LossScale, NewerFormatError, RunMeta, TrainerState
from twinseg.common.errors import StateError

META = RunMeta(step=7, config={'arch': 'fast_scnn', 'base_lr': 1e-4}, best=None, classes=['road', 'Gebäude'])


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        'model.conv.weight': rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        'model.bn.running_var': np.ones(4, np.float32),
        'optimizer.momentum.conv.weight': rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        'ema.conv.weight': np.full((4, 3, 3, 3), 2, np.float32),
        'model.half': np.arange(3, dtype=np.float16),
        'model.count': np.array(12, np.int64),
        'model.nothing': np.zeros((0, 5), np.float32),
        'model.strided': rng.standard_normal((4, 6)).astype(np.float32)[:, ::2],
    }


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / 'step_00000007.safetensors'
    checkpoint.save(path, tensors(), META)
    return path


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == expected[key].dtype
        and found[key].shape == expected[key].shape
        and found[key].tobytes() == expected[key].tobytes()
        for key in expected
    )


def test_round_trip_is_exact(saved):
    found, meta = checkpoint.load(saved)
    assert same(found, tensors()) and meta == META


def test_same_content_gives_the_same_bytes(saved, tmp_path):
    checkpoint.save(tmp_path / 'again', dict(reversed(tensors().items())), META)
    assert (tmp_path / 'again').read_bytes() == saved.read_bytes()


def test_the_file_is_what_the_library_writes(saved):
    with safe_open(saved, 'np') as file:
        metadata = file.metadata()
    assert saved.read_bytes() == save({name: np.asarray(array, order='C') for name, array in tensors().items()}, metadata)


def test_numbers_of_every_kind_are_written(tmp_path):
    kinds = 'bool uint8 int8 uint16 int16 float16 uint32 int32 float32 uint64 int64 float64'.split()
    arrays = {f'model.{kind}': np.arange(3).astype(kind) for kind in kinds}
    checkpoint.save(tmp_path / 'a.safetensors', arrays, META)
    assert same(checkpoint.load(tmp_path / 'a.safetensors')[0], arrays)


@pytest.mark.parametrize('linked', [True, False])
def test_a_checkpoint_gets_another_name(saved, tmp_path, monkeypatch, linked):
    if not linked:  # a file system without hard links

        def refuse(*_):
            raise PermissionError(1, 'Operation not permitted')

        monkeypatch.setattr(os, 'link', refuse)
    best = tmp_path / 'best.safetensors'
    checkpoint.save(best, {'model.earlier': np.zeros(1, np.float32)}, META)
    for _ in range(2):  # the second time it has the name already
        checkpoint.link(saved, best)
        assert best.read_bytes() == saved.read_bytes() and best.samefile(saved) == linked
    checkpoint.rotate(tmp_path, 1)
    checkpoint.save(tmp_path / 'step_00000008.safetensors', tensors(), META)
    checkpoint.rotate(tmp_path, 1)
    assert not saved.exists() and same(checkpoint.load(best)[0], tensors())
    assert sorted(path.name for path in tmp_path.iterdir()) == ['best.safetensors', 'step_00000008.safetensors']


def test_file_mode_is_the_usual_one(saved, tmp_path):
    (tmp_path / 'plain').write_bytes(b'')
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / 'plain').stat().st_mode)


@settings(deadline=None)
@given(data=st.data())
def test_every_truncation_is_detected(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('cut')
    checkpoint.save(folder / 'whole', tensors(), META)
    content = (folder / 'whole').read_bytes()
    (folder / 'cut').write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(StateError):
        checkpoint.load(folder / 'cut')


@settings(deadline=None)
@given(data=st.data())
def test_every_changed_byte_is_detected_or_changes_nothing(tmp_path_factory, data):
    """Only white space of the JSON header may differ without a difference in content."""
    folder = tmp_path_factory.mktemp('flip')
    checkpoint.save(folder / 'whole', tensors(), META)
    content = bytearray((folder / 'whole').read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / 'flipped').write_bytes(content)
    try:
        found, meta = checkpoint.load(folder / 'flipped')
    except StateError:
        return
    assert same(found, tensors()) and meta == META


def said(path: Path, text: str) -> Path:
    """The file, saying ``text`` of itself, and with a checksum that is wrong."""
    save_file(tensors(), path, {'twinseg': json.dumps({'meta': text, 'checksum': ''})})
    return path


def test_a_whole_meta_comes_back(tmp_path):
    state = TrainerState(steps=9, optimizer_steps=8, loss_scale=LossScale(scale=2.0**15, good_steps=3))
    whole = RunMeta(
        config={'arch': 'fast_scnn', 'model_args': {'dropout': 0.0}},
        num_classes=2,
        classes=['a', 'b'],
        palette=[[1, 2, 3], [4, 5, 6]],
        backend='pytorch',
        device='cpu',
        versions={'torch': '2'},
        machine={'cpu': 'x', 'threads': 2},
        steps_per_epoch=4,
        images=9,
        image_names='0123',
        changes=[Change(step=4, key='base_lr', before=0.1, now=0.2)],
        world_size=2,
        step=9,
        epoch=2.25,
        best=31.5,
        best_at={'512x1024': 30.5},
        since_best=1,
        left_out=2,
        rollbacks=1,
        scores={'mIoU': None, 'classes': {}},
        trainer=state,
        source='mmseg',
        file='x.pth',
    )
    assert whole.model_fields_set | {'format'} == set(RunMeta.model_fields)
    checkpoint.save(tmp_path / 'x', {'model.x': np.zeros(1)}, whole)
    assert checkpoint.load(tmp_path / 'x')[1] == checkpoint.read_meta(tmp_path / 'x') == whole


def test_the_meta_alone_is_read_from_the_beginning(tmp_path):
    path = tmp_path / 'x'
    checkpoint.save(path, tensors(), META)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert checkpoint.read_meta(path) == META
    with pytest.raises(StateError, match='damaged'):
        checkpoint.load(path)
    path.write_bytes(content[:-1])
    with pytest.raises(StateError, match='not a readable checkpoint'):
        checkpoint.read_meta(path)


def test_damage_of_a_file_of_format_1_is_seen(tmp_path):
    """What ships was written in it."""
    shipped = Path(checkpoint.__file__).parent / 'weights' / 'shipped' / 'enet_camvid.safetensors'
    content = shipped.read_bytes()
    assert checkpoint.load(shipped)[1].format == 1
    (tmp_path / 'x').write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StateError, match='damaged'):
        checkpoint.load(tmp_path / 'x')


def test_a_file_without_a_number_has_format_1(tmp_path):
    meta = RunMeta.from_json('{"step": 3, "something": "of an earlier writer"}', 'x')
    assert (meta.format, meta.step, meta.world_size, meta.left_out) == (1, 3, 1, 0)


@pytest.mark.parametrize('text', [f'{{"format": {FORMAT + 1}}}', f'{{"format": {FORMAT + 41}, "config": 3, "step": "later"}}'])
def test_a_newer_format_is_named_before_anything_else(tmp_path, text):
    path = said(checkpoint.step_path(tmp_path, 2), text)
    number = json.loads(text)['format']
    message = f'step_00000002.* has format {number}, written by a newer version .* reads formats up to {FORMAT}: install'
    with pytest.raises(NewerFormatError, match=message):
        checkpoint.load(path)
    checkpoint.save(checkpoint.step_path(tmp_path, 1), tensors(), META)
    with pytest.raises(NewerFormatError):  # an earlier checkpoint is no substitute
        checkpoint.latest(tmp_path)


@pytest.mark.parametrize(
    'text',
    ['', 'null', '3', '[]', '{', '{"format": 0}', '{"format": "1"}', '{"format": null}', '{"step": -1}', '{"config": []}',
     '{"classes": [1]}', '{"palette": [[1, 2]]}', '{"palette": [[1, 2, 256]]}', '{"num_classes": 1, "classes": ["a", "b"]}',
     '{"classes": ["a"], "palette": [[1, 2, 3], [4, 5, 6]]}', '{"num_classes": 0}', '{"best": "high"}',
     '{"trainer": {"steps": 1}}', '[' * 100000],
)  # fmt: skip
def test_a_meta_that_is_not_one_is_refused(tmp_path, text):
    with pytest.raises(StateError, match='x.safetensors: damaged: what it says of itself is not readable'):
        checkpoint.load(said(tmp_path / 'x.safetensors', text))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ('exploded',)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\0' * 8,
        b'\xff' * 64,
        b'not a checkpoint',
        pickle.dumps(Bomb()),
        (2**63).to_bytes(8, 'little') + b'{}',
        (2).to_bytes(8, 'little') + b'{}',
        (4).to_bytes(8, 'little') + b'null',
        (76).to_bytes(8, 'little') + b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
    ],
    ids=['empty', 'zeros', 'ones', 'text', 'pickle', 'endless header', 'no tensors', 'null', 'four terabytes'],
)
def test_garbage_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.safetensors').write_bytes(content)
    with pytest.raises(StateError, match='x.safetensors'):
        checkpoint.load(tmp_path / 'x.safetensors')
    assert not (tmp_path / 'exploded').exists()


def test_other_safetensors_files_and_absent_ones_are_refused(tmp_path):
    save_file({'a': np.zeros(3, np.float32)}, tmp_path / 'foreign.safetensors')
    with pytest.raises(StateError, match='not one of TwinSeg'):
        checkpoint.load(tmp_path / 'foreign.safetensors')
    with pytest.raises(StateError, match='no such checkpoint'):
        checkpoint.load(tmp_path / 'absent.safetensors')
    with pytest.raises(StateError, match='a folder; give the file'):
        checkpoint.load(tmp_path)


def test_full_disk_leaves_the_previous_file(saved):
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StateError, match='not written'):
            checkpoint.save(saved, {'model.big': np.zeros(10000)}, RunMeta())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize('folder', ['/proc/nowhere', 'file'])
def test_folder_that_cannot_be_written(tmp_path, folder):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(StateError, match='not written'):
        checkpoint.save(tmp_path / folder / 'x.safetensors', tensors(), META)


KILLED = """
import sys, numpy as np
from pathlib import Path
from twinseg.common import checkpoint
for step in range(10 ** 6):
    path = checkpoint.step_path(Path(sys.argv[1]), step % 3)
    checkpoint.save(path, {'model.x': np.full(200000, step, np.float32)}, checkpoint.RunMeta(step=step))
    print(step, flush=True)
"""


def test_kill_during_save_leaves_only_whole_files(tmp_path):
    for delay in (0.0, 0.003, 0.007):
        process = subprocess.Popen([sys.executable, '-c', KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(5):
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len(checkpoint.steps(tmp_path)) == 3
        for path in checkpoint.steps(tmp_path):
            found, meta = checkpoint.load(path)
            assert (found['model.x'] == meta.step).all()
    checkpoint.save(checkpoint.steps(tmp_path)[-1], {'model.x': np.zeros(1)}, RunMeta(step=0))
    assert sorted(tmp_path.iterdir()) == checkpoint.steps(tmp_path)


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 20, 3, 100000001):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {'model.x': np.zeros(1)}, RunMeta(step=step))
    checkpoint.save(tmp_path / checkpoint.BEST, {'model.x': np.zeros(1)}, RunMeta(step=1))
    (tmp_path / 'notes.txt').write_text('mine')
    checkpoint.rotate(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'best.safetensors',
        'notes.txt',
        'step_00000020.safetensors',
        'step_100000001.safetensors',
    ]


def test_latest_passes_over_broken_files_and_says_so(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for step in (1, 2, 3):
        checkpoint.save(checkpoint.step_path(tmp_path, step), tensors(), RunMeta(step=step))
    newest = checkpoint.step_path(tmp_path, 3)
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=newest.name):
        assert checkpoint.latest(tmp_path) == checkpoint.step_path(tmp_path, 2)
    for path in checkpoint.steps(tmp_path):
        path.write_bytes(b'')
    with pytest.warns(UserWarning), pytest.raises(StateError, match='none of the 3'):
        checkpoint.latest(tmp_path)


def test_model_state_prefers_averaged_weights(saved, tmp_path):
    averaged, meta = checkpoint.model_state(saved)
    assert meta == META and (averaged['conv.weight'] == 2).all() and (averaged['bn.running_var'] == 1).all()
    last, _ = checkpoint.model_state(saved, ema=False)
    np.testing.assert_array_equal(last['conv.weight'], tensors()['model.conv.weight'])
    checkpoint.save(tmp_path / 'plain', {'model.x': np.zeros(1)}, RunMeta())
    assert list(checkpoint.model_state(tmp_path / 'plain')[0]) == ['x']
    with pytest.raises(StateError, match='with_ema'):
        checkpoint.model_state(tmp_path / 'plain', ema=True)


OWN = {'stem.weight': (4, 3), 'stem.running_mean': (4,), 'head.weight': (2, 4)}


GOOD = {key: np.zeros(shape) for key, shape in OWN.items()}


@pytest.mark.parametrize(
    'given_state, text',
    [
        (GOOD, '3 of 3 tensors matched'),
        ({**GOOD, 'stem.num_batches_tracked': np.array(1)}, '3 of 3 tensors matched'),
        ({**GOOD, 'aux.weight': np.zeros(1)}, '3 of 3 tensors matched; 1 unexpected (aux.weight)'),
    ],
)
def test_fitting_states_are_taken(given_state, text):
    assert str(checkpoint.match(OWN, given_state)) == text


def test_counters_of_batch_norm_are_not_missed():
    assert str(checkpoint.match({**OWN, 'stem.num_batches_tracked': ()}, GOOD)) == '3 of 3 tensors matched'


@pytest.mark.parametrize(
    'given_state, partial_too, message',
    [
        ({key: GOOD[key] for key in ('stem.weight', 'stem.running_mean')}, False, r'1 missing \(head.weight\)'),
        ({**GOOD, 'head.weight': np.zeros((3, 4))}, False, r'1 mismatched \(head.weight \(3, 4\), the network has \(2, 4\)\)'),
        ({**GOOD, 'stem.bias': np.zeros(4)}, False, r'1 unexpected \(stem.bias\)'),
        ({'other.weight': np.zeros(4)}, True, '0 of 3 tensors matched'),
        ({}, True, '0 of 3'),
    ],
)
def test_poor_matches_are_refused(given_state, partial_too, message):
    with pytest.raises(StateError, match=message):
        checkpoint.match(OWN, given_state)
    if partial_too:
        with pytest.raises(StateError, match=message):
            checkpoint.match(OWN, given_state, partial=True)
    else:
        assert checkpoint.match(OWN, given_state, partial=True).matched
