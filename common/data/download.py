"""Archives of data sets: fetched in parts if need be, checked, and unpacked without leaving their folder."""

import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any, Callable, Iterator, NamedTuple

from twinseg.common.data.base import OnProgress
from twinseg.common.errors import DataError

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte
PATIENCE = 5  # tries in a row that bring nothing
PAUSE = 1.0  # seconds between tries
MAX_BYTES = 4 << 30  # bytes of a download: more than each of the archives known here has
MAX_RATIO = 50  # unpacked bytes for each packed one (tars of images have 1, label PNGs 2); and FREE_BYTES at no ratio
FREE_BYTES = 64 << 20
MAX_FILES = 1 << 20
Member = tuple[str, int, Callable[[], IO[bytes]]]  # path, bytes, and a stream of them


class Archive(NamedTuple):
    """A file that may be fetched; ``digest``: algorithm:hexadecimal digits, as published or as others check it."""

    url: str
    digest: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return PurePosixPath(self.url).name


def fetch(archive: Archive, folder: Path, progress: OnProgress = lambda done, total: None) -> Path:
    """The path of the archive in the folder, downloaded unless it is there; a download that broke off goes on where it stopped.

    DataError when it cannot be had, or is not the file that the digest belongs to.
    """
    path, part = folder / archive.name, folder / f'{archive.name}.part'
    if path.is_file():
        _verify(path, archive, f'delete it to fetch it again from {archive.url}')
        return path
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _receive(archive, part, before, progress):
                break
            raise ConnectionError('the connection closed early')
        except urllib.error.HTTPError as error:
            raise DataError(
                f'{archive.url}: HTTP status {error.code} ({error.reason}); fetch it by other means and put it into {folder}'
            ) from None
        except (OSError, HTTPException) as error:  # URLError, timeouts and broken connections
            failures = 0 if part.is_file() and part.stat().st_size > before else failures + 1
            if failures == PATIENCE:
                raise DataError(
                    f'{archive.url}: not reached ({getattr(error, "reason", None) or error}); run again to go on, '
                    f'or fetch it by other means and put it into {folder}'
                ) from None
            time.sleep(PAUSE)
    try:
        _verify(part, archive, f'downloaded from {archive.url}; run again to download it again')
    except DataError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def _receive(archive: Archive, part: Path, start: int, progress: OnProgress) -> bool:
    """Appends what is missing of a download; whether it is whole."""
    request = urllib.request.Request(archive.url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left, or the file is another one: its digest will tell
            return True
        raise
    with response:
        if response.status != 206:
            start = 0  # the server cannot go on in the middle
        length = response.headers.get('Content-Length')
        total = start + int(length) if length and length.isdecimal() else 0
        if total > MAX_BYTES:
            raise DataError(f'{archive.url}: {total} bytes, more than the limit of {MAX_BYTES}')
        with part.open('ab' if start else 'wb') as file:
            done = start
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if done > MAX_BYTES:
                    raise DataError(f'{archive.url}: more than the limit of {MAX_BYTES} bytes')
                progress(done, max(total, done))
    return done >= total


def _verify(path: Path, archive: Archive, advice: str) -> None:
    """DataError, with the advice, when a file has another digest than the archive."""
    algorithm, _, expected = archive.digest.partition(':')
    digest = hashlib.new(algorithm)
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise DataError(f'{path}: {algorithm} {digest.hexdigest()}, expected {expected}: broken or another file; {advice}')


def unpack(path: Path, folder: Path, progress: OnProgress = lambda done, total: None) -> int:
    """Unpacks a tar, packed or not, or a zip into the folder and returns the number of files.

    DataError for what is no whole archive, for a member that is a link or a device or would lie outside the folder, and when
    the files would fill the disk or grow beyond MAX_RATIO.
    """
    limit = max(MAX_RATIO * path.stat().st_size, FREE_BYTES)
    files = done = 0
    try:
        for name, size, opened in _members(path):
            target = _inside(folder, name, path)
            files, done = files + 1, done + size
            if done > limit or files > MAX_FILES:
                raise DataError(f'{path}: unpacks to more than {limit} bytes or {MAX_FILES} files; not a data set')
            if size > shutil.disk_usage(folder).free:
                raise DataError(f'{folder}: the disk is full: {path.name} needs {size} bytes more')
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened() as source, target.open('wb') as file:
                shutil.copyfileobj(source, file, CHUNK)
            if target.stat().st_size != size:
                raise DataError(f'{path}: {name} is cut off')
            progress(done, max(done, path.stat().st_size))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f'{path}: not readable as an archive, truncated or broken ({error})') from None
    except OSError as error:
        raise DataError(f'{path}: not unpacked: {error.strerror or error}') from None
    return files


def _members(path: Path) -> Iterator[Member]:
    """The files of an archive, one after the other; DataError for what is neither file nor folder."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = info.external_attr >> 28  # Unix file type: 8 a file, 4 a folder, 0 unknown
                if kind not in (0, 4, 8):
                    raise DataError(f'{path}: {info.filename} is a link or a device; only files are unpacked')
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: archive.open(info)  # type: ignore[misc]
        return
    with tarfile.open(path, 'r|*') as tar:
        for member in tar:
            if member.isfile():
                yield member.name, member.size, lambda member=member: _extracted(tar, member)  # type: ignore[misc]
            elif not member.isdir():
                raise DataError(f'{path}: {member.name} is a link or a device; only files are unpacked')


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return tar.extractfile(member)


def _inside(folder: Path, name: str, path: Path) -> Path:
    """Path to which a member of the archive ``path`` is unpacked; DataError when that is not in the folder."""
    parts = PurePosixPath(name.replace('\\', '/')).parts
    target = folder.joinpath(*parts)
    if name.startswith('/') or '..' in parts or not target.resolve().is_relative_to(folder.resolve()):
        raise DataError(f'{path}: {name} would lie outside {folder}')
    return target
