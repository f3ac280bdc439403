"""Archives of strangers, unpacked into a new folder: nothing leaves it, nothing that is there is replaced, and what an archive
says of its sizes costs neither memory nor disk before it is compared with what it has."""

import bz2
import filecmp
import gzip
import io
import lzma
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Callable, NamedTuple

from twinseg.common.errors import DataError, reason_of
from twinseg.common.files.locks import lock

CHUNK = 1 << 20
MAX_RATIO = 50  # unpacked bytes for each packed one (tars of images have 1, label PNGs 2); and FREE_BYTES at no ratio
FREE_BYTES = 64 << 20
MAX_FILES = 1 << 20
MAX_NAME, MAX_DEPTH = 1024, 32  # bytes of a name, and folders in it
MAX_HEADER = 1 << 20  # bytes of a member's headers in a tar, names and notes among them
MAX_DIRECTORY = 32 << 20  # bytes of the table of contents of a zip
NOTES = (  # types of members of a tar that say something of the next one
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
BLOCK = 10240  # bytes that tarfile reads at once
TAR_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {  # opened by the first bytes; they unpack no more than is read
    b'\x1f\x8b': gzip.open,
    b'BZh': bz2.open,
    b'\xfd7zXZ\0': lzma.open,
}
ZIP_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the rest unpack blocks of any size at once
UNPRINTABLE = re.compile('[\0-\x1f\x7f]')
NOTE = re.compile(r'(readme|licen[cs]e)(\.(txt|md))?', re.IGNORECASE)  # files that all archives of a data set have
OnUnpacked = Callable[[int, int], None]  # bytes so far, and of all


class Member(NamedTuple):
    """A file of an archive; it is read when it is its turn."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(path: Path, folder: Path, progress: OnUnpacked = lambda done, total: None) -> int:
    """Unpacks a tar, packed or not, or a zip into the folder, all of it or nothing, and returns the number of files.

    The files are unpacked into a new folder in it, and then moved. A file that is there already stays: it has to be the same,
    or be a README or a licence. DataError where it is not, and for what ``unpacked`` refuses.
    """
    with unpacked(path, folder, folder, progress) as (part, count):
        try:
            _move(part, folder, path)
        except OSError as error:
            raise DataError(f'{path}: not unpacked: {reason_of(error)}') from None
        return count


@contextmanager
def unpacked(
    path: Path, beside: Path, existing: Path | None = None, progress: OnUnpacked = lambda done, total: None
) -> Iterator[tuple[Path, int]]:
    """A new folder in the folder ``beside`` with the files of a tar or a zip, and their number; it is gone after the block, but
    for what was moved elsewhere. Files that are the same below ``existing`` are left out.

    DataError for what is no whole archive; for a member that is a link, a device, encrypted, there twice or outside the folder;
    for a file below ``existing`` that is another one; when the files would fill the disk, or grow beyond MAX_RATIO.
    """
    if path.exists() and not path.is_file():
        raise DataError(f'{path}: no file, but a folder or a device; not readable as an archive')
    with _new_folder(beside / f'.{path.name}.unpacking', path) as part:
        yield part, _unpack(path, part, existing, progress)


def _unpack(path: Path, part: Path, existing: Path | None, progress: OnUnpacked) -> int:
    limit = max(MAX_RATIO * path.stat().st_size, FREE_BYTES)
    files = done = 0
    try:
        for member in _members(path, limit):
            name = _parts(member.name, path)
            files, done = files + 1, done + member.size
            if done > limit or files > MAX_FILES:
                raise DataError(f'{path}: unpacks to more than {limit} bytes or {MAX_FILES} files; not a data set')
            if existing and os.path.lexists(existing.joinpath(*name)):
                _keep(existing.joinpath(*name), member, path, note=bool(len(name) == 1 and NOTE.fullmatch(name[0])))
                continue
            if member.size > shutil.disk_usage(part).free:
                raise DataError(f'{part.parent}: the disk is full: {path.name} needs {member.size} bytes more')
            target = part.joinpath(*name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, target.open('xb') as file:
                shutil.copyfileobj(source, file, CHUNK)
            if target.stat().st_size != member.size:
                raise DataError(f'{path}: {member.name} is cut off')
            progress(done, max(done, path.stat().st_size))
    except DataError:
        raise
    except FileExistsError as error:
        twice = os.path.relpath(error.filename, part)
        raise DataError(f'{path}: {twice} is there twice, as this file system compares names') from None
    except OSError as error:
        raise DataError(f'{path}: not unpacked: {reason_of(error)}') from None
    except Exception as error:  # the readers of the standard library fail in many ways
        reason = reason_of(error)
        raise DataError(f'{path}: not readable as an archive, truncated or broken ({reason})') from None
    return files


def _keep(target: Path, member: Member, path: Path, note: bool) -> None:
    """DataError unless a file that is there has the content of the member, or is a note of the archive."""
    if note and target.is_file():
        return
    same = target.is_file() and target.stat().st_size == member.size
    if same:
        with member.open() as source, target.open('rb') as file:
            while same and (chunk := source.read(CHUNK)):
                same = file.read(len(chunk)) == chunk
    if not same:
        raise DataError(f'{path}: {target} is there already and differs from the one in the archive; move one of them away')


def _move(part: Path, folder: Path, path: Path) -> None:
    """Moves what was unpacked to where nothing is; folders that are there take up what they lack. DataError before anything is
    moved where that cannot be."""
    moves: list[tuple[Path, Path]] = []
    left = [(entry, folder / entry.name) for entry in part.iterdir()]
    while left:
        source, target = left.pop()
        if not os.path.lexists(target):
            moves.append((source, target))
        elif source.is_dir() and target.is_dir():
            left += [(entry, target / entry.name) for entry in source.iterdir()]
        elif not (source.is_file() and target.is_file() and filecmp.cmp(source, target, shallow=False)):
            raise DataError(f'{path}: {target} is in the way; move it away')
    for source, target in moves:
        source.rename(target)


@contextmanager
def _new_folder(folder: Path, path: Path) -> Iterator[Path]:
    """An empty folder that is gone after the block, or, where this process is killed, after a later one. DataError where
    another process is in such a block."""
    with ExitStack() as at_end:
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            at_end.callback(os.close, handle)
            try:
                lock(handle)
            except BlockingIOError:
                raise DataError(f'{path}: another process unpacks it; wait until it is done') from None
            at_end.callback(shutil.rmtree, folder, ignore_errors=True)
            for entry in folder.iterdir():  # a process that was killed left them
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        except OSError as error:
            raise DataError(f'{path}: not unpacked: {folder}: {reason_of(error)}') from None
        yield folder


def _parts(name: str, path: Path) -> tuple[str, ...]:
    """The folders and the name of a member; DataError for a name that leads out of the folder, or is none."""
    parts = PurePosixPath(name.replace('\\', '/')).parts
    if UNPRINTABLE.search(name) or not parts or len(os.fsencode(name)) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise DataError(f'{path}: {name[:64]!r} is no name of a file')
    if parts[0].startswith('/') or '..' in parts:
        raise DataError(f'{path}: {name} would lie outside the folder that it is unpacked into')
    return parts


def _members(path: Path, limit: int) -> Iterator[Member]:
    """The files of an archive, one after the other; DataError for what is neither file nor folder."""
    return _of_zip(path) if zipfile.is_zipfile(path) else _of_tar(path, limit)


def _of_zip(path: Path) -> Iterator[Member]:
    with path.open('rb') as file, zipfile.ZipFile(_Bounded(file)) as archive:  # type: ignore[arg-type]
        for info in archive.infolist():
            kind = info.external_attr >> 28  # Unix file type: 8 a file, 4 a folder, 0 unknown
            if kind not in (0, 4, 8):
                raise DataError(f'{path}: {info.filename} is a link or a device; only files are unpacked')
            if '\0' in info.orig_filename:  # where zipfile ends the name
                raise DataError(f'{path}: {info.orig_filename[:64]!r} is no name of a file')
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise DataError(f'{path}: {info.filename} is encrypted; only open archives are unpacked')
            if info.compress_type not in ZIP_PACKED:
                raise DataError(
                    f'{path}: {info.filename} is packed by method {info.compress_type}; expected deflate (8) or none (0)'
                )
            yield Member(info.filename, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]


class _Bounded(io.BufferedIOBase):
    """A zip as zipfile reads it: nothing larger than its table of contents may be is read at once."""

    def __init__(self, file: IO[bytes]):
        self.file = file

    def read(self, size: int | None = -1, /) -> bytes:
        data = self.file.read(MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f'a table of contents of more than {MAX_DIRECTORY} bytes')
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _of_tar(path: Path, limit: int) -> Iterator[Member]:
    with ExitStack() as at_end:
        file = at_end.enter_context(path.open('rb'))
        start = file.read(max(map(len, TAR_PACKED)))
        file.seek(0)
        opened = next((opener for magic, opener in TAR_PACKED.items() if start.startswith(magic)), None)
        stream = _Rationed(at_end.enter_context(opened(file)) if opened else file)
        stream.left = MAX_HEADER + BLOCK
        tar = at_end.enter_context(tarfile.open(fileobj=stream, mode='r|', tarinfo=_Header))  # type: ignore[call-overload]
        headers = 0
        while True:
            before, stream.left = stream.done, MAX_HEADER + 2 * BLOCK
            member = tar.next()
            if member is None:
                return
            tar.members = []  # by default the tar remembers all members
            headers += stream.done - before
            if headers > limit:
                raise DataError(f'{path}: unpacks to more than {limit} bytes; not a data set')
            if member.isfile() and not member.issparse():
                stream.left = member.size + 2 * BLOCK
                yield Member(member.name, member.size, lambda member=member: _extracted(tar, member))  # type: ignore[misc]
                stream.left = member.size + 2 * BLOCK  # what was not read is skipped by the next step
                tar.fileobj.seek(member.offset_data + member.size)  # type: ignore[union-attr]
            elif not member.isdir():
                raise DataError(f'{path}: {member.name} is a link or a device; only files are unpacked')


class _Rationed:
    """The bytes of a tar, no more than ``left`` of them."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left, self.done = file, 0, 0

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise tarfile.ReadError('a member that is larger than it says, or headers of more than a megabyte')
        data = self.file.read(size)
        self.left -= len(data)
        self.done += len(data)
        return data


class _Header(tarfile.TarInfo):
    """A member of a tar; large notes, and the list of the holes of a sparse file, are refused before they are read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> '_Header':
        try:
            header = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f'no header where one is expected: {error}') from None  # tarfile takes it for the end
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f'{header.name[:64]!r} is a sparse file')
        if header.size < 0 or header.type in NOTES and header.size > MAX_HEADER:
            raise tarfile.ReadError(f'{header.size} bytes of notes')
        return header


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return tar.extractfile(member)
