"""Files appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinseg.common import files
from twinseg.common.cli import main
from twinseg.common.files import (
    PART,
    fitting_name,
    is_text,
    made_folder,
    plain_path,
    read_bounded,
    remove_unfinished,
    write_text,
    written_beside,
)
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


WRITER = """import os, sys
from twinseg.common.files import Path, written_beside
with written_beside(Path(sys.argv[1])) as part:
    part.write_bytes(b'half')
    print(part, flush=True)
    sys.stdin.read()
"""


def writer(path) -> subprocess.Popen:
    """Another process that is writing a file."""
    process = subprocess.Popen(
        [sys.executable, '-c', WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert Path(process.stdout.readline().strip()).is_file()
    return process


def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_what_others_write_is_not(tmp_path):
    path = tmp_path / 'file.json'
    write_text(path, 'before')
    killed, running = writer(path), writer(path)
    killed.kill()  # and not yet waited for: its number is still taken
    while len(os.listdir(tmp_path)) > 2:
        write_text(path, 'after')
    assert path.read_text() == 'after'
    running.communicate('')
    assert path.read_bytes() == b'half' and os.listdir(tmp_path) == ['file.json'] and running.returncode == 0
    killed.communicate()


def test_two_blocks_for_one_file_do_not_meet(tmp_path):
    path = tmp_path / 'file.json'
    with written_beside(path) as outer:
        outer.write_text('outer')
        with written_beside(path) as inner:
            inner.write_text('inner')
        assert path.read_text() == 'inner'
    assert path.read_text() == 'outer' and os.listdir(tmp_path) == ['file.json']


def test_whose_a_temporary_file_is(tmp_path):
    with written_beside(tmp_path / 'x.bin') as part:
        own = part.name
    host, process, start, number = own.split('.')[3].split('-')
    names = {
        'this process': own,
        'an earlier process of the same number': f'{PART}x.{host}-{process}-{int(start, 16) - 1:x}-{number}.bin',
        'no process': f'{PART}x.{host}-{2**22 + 1:x}-1-0.bin',
        'another host': f'{PART}x.00000000-1-1-0.bin',
        'another host, long ago': f'{PART}y.00000000-1-1-0.bin',
        'not ours': f'{PART}notes',
    }
    for what, name in names.items():
        (tmp_path / name).write_bytes(b'half')
        if 'long ago' in what or what == 'not ours':
            os.utime(tmp_path / name, (1, 1))
    remove_unfinished(tmp_path)
    kept = {what for what, name in names.items() if (tmp_path / name).exists()}
    assert kept == {'this process', 'another host', 'not ours'}


def test_what_a_library_put_beside_goes_with_a_block_that_fails(tmp_path):
    with pytest.raises(RuntimeError), written_beside(tmp_path / 'x.ckpt') as part:
        part.with_suffix('.tmp').write_bytes(b'half')
        (tmp_path / 'x.tmp').write_bytes(b'mine')
        raise RuntimeError
    assert os.listdir(tmp_path) == ['x.tmp']


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_a_fault_of_the_disk_names_the_file(tmp_path, monkeypatch, number):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    write_text(tmp_path / 'page.html', 'before')
    monkeypatch.setattr(os, 'fsync', fails)
    with pytest.raises(OSError) as error:
        write_text(tmp_path / 'page.html', 'after')
    assert error.value.filename == str(tmp_path / 'page.html') and error.value.errno == number
    assert os.listdir(tmp_path) == ['page.html'] and (tmp_path / 'page.html').read_text() == 'before'


@pytest.mark.parametrize('target', ['link', 'new/..', '..', '.'], ids=str)
def test_links_in_circles_and_to_folders_are_refused_before_anything_is_written(tmp_path, target):
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'link').symlink_to(target)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(OSError, match='link'):
        files.write_text(folder / 'link', 'whole')
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(
    'words', [['report', 'l'], ['prepare', 'custom', '--from', 'labelme', 'l'], ['browse', 'l.yaml'], ['trace', 'l', 'l']]
)
def test_links_in_circles_are_one_line(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    for name in ('l', 'l.yaml'):
        Path(name).symlink_to(name)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith('twinseg: error: ')


def test_links_are_followed_and_pipes_get_the_content(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'link').symlink_to('elsewhere/file')
    write_text(tmp_path / 'link', 'whole')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'elsewhere/file').read_text() == 'whole'
    os.mkfifo(tmp_path / 'pipe')
    reader = subprocess.Popen(['cat', tmp_path / 'pipe'], stdout=subprocess.PIPE, text=True)
    write_text(tmp_path / 'pipe', 'content')
    assert reader.communicate()[0] == 'content' and (tmp_path / 'pipe').is_fifo()


def test_a_folder_of_many_files_is_looked_through_once(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'CROWDED', 3)
    seen = []
    monkeypatch.setattr(os, 'scandir', lambda folder, scan=os.scandir: seen.append(folder) or scan(folder))
    for number in range(9):
        write_text(tmp_path / f'{number}.txt', '')
    assert len(seen) == 5


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


def test_small_files_are_read_up_to_a_limit(tmp_path):
    path = tmp_path / 'x.json'
    path.write_bytes(b'12345')
    assert read_bounded(path, 5) == b'12345'
    with pytest.raises(OSError, match='more than 4 bytes'):
        read_bounded(path, 4)
    with pytest.raises(OSError, match='more than 4 bytes'):
        read_bounded(Path('/dev/zero'), 4)


def test_a_named_pipe_is_no_file_and_that_of_a_shell_is(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='a pipe, not a file'):  # opening it would wait for a writer
        read_bounded(tmp_path / 'pipe', 5)
    reader, writer = os.pipe()
    os.write(writer, b'12345')
    os.close(writer)
    assert read_bounded(Path(f'/dev/fd/{reader}'), 5) == b'12345'
    os.close(reader)


def test_a_folder_that_was_made_goes_where_nothing_was_put_into_it(tmp_path):
    with made_folder(tmp_path / 'a/b'), made_folder(tmp_path / 'a/b'):
        assert (tmp_path / 'a/b').is_dir()
    assert not (tmp_path / 'a').exists()
    with pytest.raises(RuntimeError), made_folder(tmp_path / 'a/b'):
        (tmp_path / 'a/c').touch()
        raise RuntimeError
    assert os.listdir(tmp_path / 'a') == ['c']
