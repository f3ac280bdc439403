"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from twinseg.common.files import PART, fitting_name, is_text, plain_path, remove_unfinished, write_text, written_beside
from twinseg.common.printable import ESCAPED, printable


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


def test_printable_shows_what_would_drive_a_terminal():
    latin, shown = os.fsdecode(b'caf\xe9'), printable
    assert shown(latin) == r'caf\xe9' and shown(Path(latin) / 'x') == r'caf\xe9/x'
    assert shown('a\nb\t\x1b[31m\x00\x7f\x9b') == r'a\nb\t\x1b[31m\x00\x7f\x9b'
    assert shown('\u202egnp \u2028 \u2066') == r'\u202egnp \u2028 \u2066'
    for text in ('plain name.png', '図 é e\u0301 👩\u200d🔬', r'C:\n', '[bold]'):
        assert shown(text) == text
    for text in (latin, '\ud800'):
        shown(text).encode()


def test_text_that_no_encoding_takes_is_written_as_it_is_shown(tmp_path):
    write_text(tmp_path / 'page.html', f'図 {os.fsdecode(b"caf" + bytes([0xE9]))}\n')
    assert (tmp_path / 'page.html').read_bytes() == '図 caf\\xe9\n'.encode()
    assert '図\u202e\udcff'.encode('ascii', ESCAPED) == rb'\u56f3\u202e\xff'


@pytest.mark.parametrize('stem', ['a' * 251, '図' * 84, os.fsdecode(b'\xff' * 255), 'x' * 300])
def test_a_name_that_is_too_long_is_cut_and_stays_its_own(stem):
    names = {fitting_name(stem + more, '_overlay.png') for more in ('', 'b', 'c')}
    assert len(names) == 3
    for name in names:
        assert len(os.fsencode(name)) <= 255 and name.endswith('_overlay.png') and name[:30] == stem[:30]
        assert is_text(name) == is_text(stem)
    assert fitting_name('a' * 243, '_overlay.png') == 'a' * 243 + '_overlay.png'


@pytest.mark.parametrize('name', [b'a' * 251 + b'.txt', b'\xff' * 251 + b'.txt', b'\xff\n.\xfe', '図'.encode() * 83 + b'.txt'])
def test_any_name_can_be_written(tmp_path, name):
    path = tmp_path / os.fsdecode(b'f\xff') / os.fsdecode(name)
    with written_beside(path) as part:
        assert is_text(part.name)
        part.write_text('whole')
    assert os.listdir(os.fsencode(path.parent)) == [name] and path.read_text() == 'whole'


def test_compiled_libraries_read_and_write_by_a_link(tmp_path):
    folder = tmp_path / os.fsdecode(b'f\xff')
    folder.mkdir()
    for name in ('plain.png', os.fsdecode(b'\xfe.png')):
        with plain_path(folder / name) as plain:
            assert is_text(plain) and plain.suffix == '.png'
            plain.write_bytes(b'content')
        assert (folder / name).read_bytes() == b'content' and not plain.exists()
    with plain_path(tmp_path / 'a.png') as plain:
        assert plain == tmp_path / 'a.png'


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path):
    with pytest.raises(OSError) as caught, written_beside(tmp_path / 'a.png') as part:
        raise OSError(28, 'No space left on device', str(part))
    assert caught.value.filename == str(tmp_path / 'a.png')
