"""Archives: unpacked beside what is there, whole or not at all; those that would do harm."""

import fcntl
import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.web import tar, zipped
from twinseg.common.cli import main
from twinseg.common.errors import DataError
from twinseg.common.files import archive
from twinseg.common.files.archive import unpack, unpacked


def packed_tar(mode: str):
    return lambda path, members: tar(path, members, mode)


KINDS = {'tar': tar, **{f'tar.{kind}': packed_tar(f'w:{kind}') for kind in ('gz', 'bz2', 'xz')}, 'zip': zipped}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
def test_unpacking(tmp_path, make):
    members = {'a/b/c.txt': b'one', 'd.txt': b'two', './e.txt': b'', 'large': np.random.default_rng(0).bytes(3 << 19)}
    (tmp_path / 'folder').mkdir()
    assert unpack(make(tmp_path / 'archive', members), tmp_path / 'folder') == 4
    assert contents(tmp_path / 'folder') == {name.removeprefix('./'): content for name, content in members.items()}


def test_many_files_of_a_long_tar(tmp_path):
    """Folders, names of more than 100 bytes, and more than are read at once."""
    members = {f'{index % 7}/{"x" * 120}/{index}.png': bytes([index % 256]) * (index * 37 % 5000) for index in range(500)}
    (tmp_path / 'folder').mkdir()
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / 'archive', 'w:gz', format=format) as file:
            for name, content in members.items():
                folder = tarfile.TarInfo(name.rpartition('/')[0])
                folder.type = tarfile.DIRTYPE
                file.addfile(folder)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
        assert unpack(tmp_path / 'archive', tmp_path / 'folder') == 500  # the second time all are there
    assert contents(tmp_path / 'folder') == members


@pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)
def test_what_is_there_stays(tmp_path, make):
    """Files that are the same, and the notes of archives; another file is refused, and nothing changes."""
    (tmp_path / 'a').mkdir()
    for name, content in {'a/1.png': b'one', 'README': b'mine', 'license.txt': b'mine', 'b.txt': b'mine'}.items():
        (tmp_path / name).write_bytes(content)
    before = contents(tmp_path)
    members = {'README': b'theirs', 'a/1.png': b'one', 'a/2.png': b'two', './license.txt': b'theirs'}
    path = make(tmp_path / 'archive', members)
    assert unpack(path, tmp_path) == 4
    assert contents(tmp_path) == {**before, 'a/2.png': b'two', 'archive': path.read_bytes()}
    for name, content in {'b.txt': b'ours', 'a/1.png': b'onf', 'a': b'', 'archive': b'x', 'b.txt/c': b''}.items():
        path = make(tmp_path / 'archive', {'new': b'new', 'd/new': b'new', name: content})
        held = contents(tmp_path)
        with pytest.raises(DataError, match='is there already and differs|is in the way') as error:
            unpack(path, tmp_path)
        assert str(path) in str(error.value) and '\n' not in str(error.value)
        assert contents(tmp_path) == held and not (tmp_path / 'd').exists()


def test_a_process_that_was_killed_leaves_nothing_behind(tmp_path):
    """The next one takes its folder; while it is alive, another one is refused."""
    path = zipped(tmp_path / 'x.zip', {'a/1.png': b'one'})
    part = tmp_path / '.x.zip.unpacking'
    (part / 'a').mkdir(parents=True)
    (part / 'a/1.png').write_bytes(b'o')
    (part / 'loose').write_bytes(b'')
    with unpacked(path, tmp_path) as (folder, count):
        assert folder == part and count == 1 and contents(part) == {'a/1.png': b'one'}
        with pytest.raises(DataError, match='another process unpacks it'):
            unpack(path, tmp_path)
        assert contents(part) == {'a/1.png': b'one'}
    assert not part.exists()


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    assert unpack(zipped(tmp_path / 'x.zip', {'a': b'one'}), tmp_path) == 1


@pytest.mark.parametrize('kind', ['/dev/zero', '.'])
def test_a_link_to_a_device_is_no_archive(tmp_path, kind):
    (tmp_path / 'x.zip').symlink_to(kind)
    with pytest.raises(DataError, match='x.zip: no file, but a folder or a device'):
        unpack(tmp_path / 'x.zip', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['x.zip']


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = tar(tmp_path / 'archive', {'a': b'one', 'b': b'two'})
    monkeypatch.setattr(archive.shutil, 'disk_usage', lambda folder: type('Usage', (), {'free': 2}))
    with pytest.raises(DataError, match='the disk is full: archive needs 3 bytes more'):
        unpack(path, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ['archive']


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(path: Path, at: int, content: bytes) -> None:
    path.write_bytes(path.read_bytes()[:at] + content + path.read_bytes()[at + len(content) :])


def replaced(path: Path, old: bytes, new: bytes) -> None:
    """Another name of the same length, as zipfile would not write it."""
    assert path.read_bytes().count(old) and len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as file, pytest.warns(UserWarning):
        file.writestr('a', b'one')
        file.writestr('a', b'two')


def tar_twice(path: Path) -> None:
    with tarfile.open(path, 'w') as file:
        for name in ('a', './a'):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())


def packed_by(method: int):
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, 'w', method) as file:
            file.writestr('a', bytes(1 << 20))

    return make


def encrypted(path: Path) -> None:
    zipped(path, {'a': b'secret'})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b'PK\1\2') + 8] |= 1
    path.write_bytes(content)


def one_content_many_times(path: Path) -> None:
    """Members that share their data: each unpacks to a megabyte."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('0000', bytes(1 << 20))
    content = packed.getvalue()
    start, end = content.index(b'PK\1\2'), content.index(b'PK\5\6')
    entry = content[start:end]
    entries = b''.join(entry[:46] + f'{index:04}'.encode() + entry[50:] for index in range(3000))
    tail = struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, 3000, 3000, len(entries), start, 0)
    path.write_bytes(content[:start] + entries + tail)


def large_note(path: Path) -> None:
    """A gigabyte of notes, of zeros, in a megabyte."""
    header = tarfile.TarInfo('x')
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(path, 'wb', 9) as file:
        file.write(header.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))


def long_name(path: Path) -> None:
    tar(path, {'x' * 5000: b''}, 'w:gz')


def many_holes(path: Path) -> None:
    """GNU's list of holes in the file itself, without an end."""
    with tarfile.open(path, 'w:gz', format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo('a')
        info.pax_headers = {
            'GNU.sparse.major': '1',
            'GNU.sparse.minor': '0',
            'GNU.sparse.name': 'a',
            'GNU.sparse.realsize': '1',
        }
        body = b'99999999\n' + b'1\n' * (8 << 20)
        info.size = len(body)
        file.addfile(info, io.BytesIO(body))


def old_sparse(path: Path) -> None:
    tar(path, {'a': b'x' * 512}, type=tarfile.GNUTYPE_SPARSE)


def small_sparse(path: Path) -> None:
    with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo('a')
        info.pax_headers = {'GNU.sparse.map': '0,1', 'GNU.sparse.size': '1099511627776'}
        file.addfile(info, io.BytesIO())


def many_empty_files(path: Path) -> None:
    folder = tarfile.TarInfo('a')
    folder.type = tarfile.DIRTYPE
    header = folder.tobuf() * 1000
    with gzip.open(path, 'wb', 9) as file:
        for _ in range(140):
            file.write(header)


OUTSIDE = ('../evil', 'a/../../evil', '/tmp/evil', '..\\evil', '//evil', '..', 'a/..')
NO_NAMES = ('.', './', 'a\nb', 'a\x1b[31mb', 'x/' * 40 + 'y', 'x' * 2000)
HARM = {
    **{f'tar {name}': (lambda path, name=name: tar(path, {name: b'x'}), 'would lie outside') for name in OUTSIDE},
    **{f'zip {name}': (lambda path, name=name: zipped(path, {name: b'x'}), 'would lie outside') for name in OUTSIDE},
    **{f'tar {name[:9]!r}': (lambda path, name=name: tar(path, {name: b'x'}), 'is no name of a file') for name in NO_NAMES},
    **{
        f'zip {name[:9]!r}': (lambda path, name=name: zipped(path, {name: b'x'}), 'is no name of a file')
        for name in NO_NAMES
        if name != './'
    },
    'tar NUL': (lambda path: tar(path, {'a': b''}, pax_headers={'path': 'a\0b'}), 'is no name of a file'),
    'zip NUL': (lambda path: replaced(zipped(path, {'axb': b'x'}), b'axb', b'a\0b'), 'is no name of a file'),
    'zip no name': (lambda path: replaced(zipped(path, {'axb': b'x'}), b'axb', b'\0\0\0'), 'is no name of a file'),
    'zip no UTF-8': (
        lambda path: replaced(zipped(path, {'aä': b'x'}), 'aä'.encode(), b'a\xff\xff'),
        'not readable as an archive',
    ),
    'symbolic link': (lambda path: tar(path, {'a': b''}, type=tarfile.SYMTYPE, linkname='/etc'), 'a link or a device'),
    'hard link': (lambda path: tar(path, {'a': b''}, type=tarfile.LNKTYPE, linkname='/etc/passwd'), 'a link or a device'),
    'device': (lambda path: tar(path, {'a': b''}, type=tarfile.CHRTYPE), 'a link or a device'),
    'FIFO': (lambda path: tar(path, {'a': b''}, type=tarfile.FIFOTYPE), 'a link or a device'),
    'unknown type': (lambda path: tar(path, {'a': b''}, type=b'Z'), 'a link or a device'),
    'link in a zip': (lambda path: zipped(path, {'a': b'/etc'}, 0o120777), 'a link or a device'),
    'twice in a zip': (twice, 'a is there twice'),
    'twice in a tar': (tar_twice, 'a is there twice'),
    'a file that is a folder': (lambda path: tar(path, {'a': b'x', 'a/b': b'x'}), 'not unpacked|is there twice'),
    'a folder that is a file': (lambda path: zipped(path, {'a/b': b'x', 'a': b'x'}), 'not unpacked|is there twice'),
    'encrypted': (encrypted, 'a is encrypted'),
    'bzip2 in a zip': (packed_by(zipfile.ZIP_BZIP2), 'a is packed by method 12; expected deflate'),
    'LZMA in a zip': (packed_by(zipfile.ZIP_LZMA), 'a is packed by method 14; expected deflate'),
    'zip bomb': (lambda path: zipped(path, {f'{i}': bytes(8 << 20) for i in range(12)}), 'unpacks to more than'),
    'overlapping zip bomb': (one_content_many_times, 'unpacks to more than|not readable'),
    'tar bomb': (lambda path: tar(path, {'a': bytes(90 << 20)}, 'w:gz'), 'unpacks to more than'),
    'large note': (large_note, 'bytes of notes'),
    'long name': (long_name, 'is no name of a file'),
    'old sparse file': (old_sparse, 'is a sparse file'),
    'sparse file': (small_sparse, 'a link or a device'),
    'holes without end': (many_holes, 'headers of more than a megabyte'),
    'headers alone': (many_empty_files, 'unpacks to more than'),
    'no archive': (lambda path: path.write_bytes(b'hello' * 1000), 'not readable as an archive'),
    'empty': (lambda path: path.write_bytes(b''), 'not readable as an archive'),
    'truncated tgz': (lambda path: halved(tar(path, {'a': np.random.default_rng(0).bytes(90000)}, 'w:gz')), 'archive'),
    'truncated tar': (lambda path: halved(tar(path, {'a': bytes(90000)})), 'archive'),
    'broken header': (lambda path: changed(tar(path, {'a': b'x', 'b': b'y'}), 1024, b'z'), 'no header where one is expected'),
    'broken zip': (
        lambda path: changed(zipped(path, {'a': np.random.default_rng(0).bytes(90000)}), 2000, bytes(100)),
        'archive',
    ),
}


@pytest.mark.parametrize('case', HARM)
def test_archives_that_would_do_harm(tmp_path, case):
    """Refused in one line; nothing is left, neither where it is unpacked nor outside."""
    make, message = HARM[case]
    folder = tmp_path / 'inner/folder'
    folder.mkdir(parents=True)
    make(tmp_path / 'archive')
    with pytest.raises(DataError, match=message) as error:
        unpack(tmp_path / 'archive', folder)
    assert '\n' not in str(error.value) and '\x1b' not in str(error.value) and str(tmp_path / 'archive') in str(error.value)
    assert {path.name for path in tmp_path.rglob('*')} == {'archive', 'inner', 'folder'}


def test_large_tables_of_contents_are_not_read(tmp_path):
    """A zip that says that it has gigabytes of them, and has."""
    path = tmp_path / 'archive'
    with path.open('wb') as file:
        file.write(b'PK\3\4')
        file.truncate(1 << 31)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, 65535, 65535, (1 << 31) - 64, 64, 0))
    with pytest.raises(DataError, match='a table of contents of more than'):
        unpack(path, tmp_path)


def test_memory_and_time_of_archives_that_would_take_them(tmp_path):
    """In a process with 400 MB more than Python has."""
    for name in ('large note', 'holes without end', 'overlapping zip bomb', 'tar bomb'):
        HARM[name][0](tmp_path / name)
    code = """
import resource, sys
from pathlib import Path
from twinseg.common.files.archive import unpack
from twinseg.common.errors import DataError

held = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize() + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (held, held))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for name in sys.argv[2:]:
    try:
        unpack(Path(name), Path(sys.argv[1]))
    except DataError as error:
        print(error)
"""
    (tmp_path / 'folder').mkdir()
    words = [str(path) for path in tmp_path.iterdir() if path.is_file()]
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'folder'), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4 and 'MemoryError' not in done.stdout, done


@pytest.mark.parametrize('name', ['gtFine_trainvaltest.zip', 'leftImg8bit_trainvaltest.zip', 'mine.txt'])
def test_a_member_does_not_replace_a_users_file(tmp_path, capsys, name):
    for archived in ('gtFine_trainvaltest.zip', 'leftImg8bit_trainvaltest.zip'):
        zipped(tmp_path / archived, {'leftImg8bit/x.txt': b'x', name: b'evil'})
    (tmp_path / 'mine.txt').write_bytes(b'mine')
    before = contents(tmp_path)
    assert main(['prepare', 'cityscapes', '--folder', str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f'{name} is there already and differs from the one in the archive' in error and error.count('\n') == 1
    assert contents(tmp_path) == before and not (tmp_path / 'leftImg8bit').exists()
