"""Files appear whole or not at all."""

import os

import pytest

from twinseg.common.files import PART, remove_unfinished, write_text, written_beside


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path):
    path = tmp_path / 'new' / 'file.onnx'
    with written_beside(path) as part:
        assert part.parent == path.parent and part.suffix == '.onnx' and not part.exists()
        part.write_bytes(b'whole')
        assert not path.exists()
    assert path.read_bytes() == b'whole' and os.listdir(path.parent) == ['file.onnx']


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / 'file.json'
    write_text(path, 'before')
    with pytest.raises(RuntimeError), written_beside(path) as part:
        part.write_text('half')
        raise RuntimeError
    assert path.read_text() == 'before' and os.listdir(tmp_path) == ['file.json']


def test_a_block_may_move_the_file_elsewhere(tmp_path):
    path = tmp_path / 'file.onnx'
    with written_beside(path) as part:
        part.write_bytes(b'wrong')
        os.replace(part, tmp_path / 'file.onnx.rejected')
    assert os.listdir(tmp_path) == ['file.onnx.rejected']


def test_a_folder_that_cannot_be_made_is_an_error_before_the_work(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(OSError), written_beside(tmp_path / 'file' / 'below'):
        pytest.fail('the block began')


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / f'{PART}step_00000001.4711.safetensors').write_bytes(b'half')
    write_text(tmp_path / 'kept.txt', 'whole')
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ['kept.txt']
