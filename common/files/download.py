"""Files from the internet: fetched in parts if need be, and checked."""

import errno
import hashlib
import http.client
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Callable, NamedTuple, Optional

from twinseg.common.errors import DataError
from twinseg.common.files.locks import is_at, lock

CHUNK = 1 << 20
CONNECT = 10  # seconds for a connection, all addresses of a server together
TIMEOUT = 30  # seconds without a byte
WINDOW = 30  # seconds in which at least SLOWEST bytes arrive
SLOWEST = 1 << 16
PATIENCE = 5  # tries in a row that bring less than SLOWEST bytes
PAUSE = 1.0  # seconds between tries
BUSY = (429, 502, 503, 504)  # statuses of a server that has too much to do, and may have less soon
LONGEST_PAUSE = 60  # seconds that a busy server may ask for (Retry-After)
MAX_BYTES = 4 << 30  # bytes of a download: more than each of the archives known here has
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # faults of the disk, not of the network


class RemoteFile(NamedTuple):
    """A file that may be fetched.

    ``digest``: algorithm:hexadecimal digits, or the first of them, as published or as others check it; None: not known.
    ``limit``: bytes that it has at most.
    """

    url: str
    digest: Optional[str]
    limit: int = MAX_BYTES

    @property
    def name(self) -> str:
        """The name of the file."""
        return PurePosixPath(self.url).name


def fetch(
    file: RemoteFile,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """The path of the file in the folder, downloaded unless it is there; a download that broke off goes on where it stopped.

    Of several processes one downloads, and the others wait; ``tell`` hears of that. DataError when the file cannot be had, or
    is not the one that the digest belongs to; where no server is reached, it comes after one try.
    """
    path, part = folder / file.name, folder / f'{file.name}.part'
    advice = f'delete it to fetch it again from {file.url}'
    if path.is_file():
        verify(path, file.digest, advice)
        return path
    with alone(part, tell):
        if path.is_file():  # another process was faster
            verify(path, file.digest, advice)
            return path
        for left in (1, 0) if part.stat().st_size else (0,):  # what an earlier download left may be of another file
            _download(file, part, progress)
            try:
                verify(part, file.digest, f'downloaded from {file.url}; run again to download it again')
                break
            except DataError:
                os.truncate(part, 0)
                if not left:
                    raise
        os.replace(part, path)
    return path


@contextmanager
def alone(part: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process is in such a block for ``part``, and keeps others out; a lock ends with its process.

    The file is there during the block, and where it is empty, gone after it.
    """
    while True:
        with part.open('ab') as held:
            try:
                lock(held.fileno())
            except BlockingIOError:
                tell(f'{part}: another process downloads it; waiting')
                lock(held.fileno(), wait=True)
            if not is_at(held.fileno(), part):
                continue
            try:
                yield
            finally:
                if part.is_file() and not part.stat().st_size:
                    part.unlink(missing_ok=True)
            return


def _download(file: RemoteFile, part: Path, progress: Callable[[int, int], None]) -> None:
    """Fills ``part``; DataError where that fails."""
    opener = urllib.request.build_opener(_Handler, _SecureHandler)
    by_hand = f'fetch it by other means and put it into {part.parent}'
    failures, reached = 0, False
    while True:
        start = part.stat().st_size
        request = urllib.request.Request(file.url, headers={'Range': f'bytes={start}-'} if start else {})
        try:
            with opener.open(request, timeout=TIMEOUT) as response:
                reached = True
                if _receive(response, file, part, start, progress):
                    return
            raise ConnectionError('the connection closed early')
        except urllib.error.HTTPError as error:
            if error.code == 416 and start:  # nothing is left, or the file is another one: its digest will tell
                return
            reached, failures = True, failures + 1
            if error.code not in BUSY or failures == PATIENCE:
                raise DataError(f'{file.url}: HTTP status {error.code} ({error.reason}); {by_hand}') from None
            asked = error.headers.get('Retry-After') or ''
            time.sleep(min(int(asked), LONGEST_PAUSE) if asked.isdecimal() and len(asked) < 9 else PAUSE * 2**failures)
        except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and broken connections
            if getattr(error, 'errno', None) in FULL:
                raise DataError(f'{part}: not written: {error.strerror}; choose another folder') from None  # type: ignore[union-attr]
            failures = 0 if part.stat().st_size >= start + SLOWEST else failures + 1
            if failures == PATIENCE or not reached:
                reason = getattr(error, 'reason', None) or error
                raise DataError(f'{file.url}: not reached ({reason}); run again to go on, or {by_hand}') from None
            time.sleep(PAUSE)


def _receive(
    response: http.client.HTTPResponse, file: RemoteFile, part: Path, start: int, progress: Callable[[int, int], None]
) -> bool:
    """Appends what is missing of a download; whether it is whole."""
    if response.status != 206:
        start = 0  # the server cannot go on in the middle
    elif not (sent := response.headers.get('Content-Range', f'bytes {start}-')).startswith(f'bytes {start}-'):
        os.truncate(part, 0)
        raise ConnectionError(f'the server sends {sent}, asked for bytes {start}-')
    length = response.headers.get('Content-Length')
    total = start + int(length) if length and length.isdecimal() else 0
    if total > file.limit:
        raise DataError(f'{file.url}: {total} bytes, more than the limit of {file.limit}')
    with part.open('ab' if start else 'wb') as written:
        done = mark = start
        since = time.monotonic()
        while chunk := response.read1(CHUNK):
            written.write(chunk)
            done += len(chunk)
            if done > file.limit:
                written.truncate(0)
                raise DataError(f'{file.url}: more than the limit of {file.limit} bytes')
            progress(done, max(total, done))
            if time.monotonic() > since + WINDOW:
                if done < mark + SLOWEST:
                    raise ConnectionError(f'{done - mark} bytes in {WINDOW} seconds')
                mark, since = done, time.monotonic()
    return done >= total


def _connect(address: tuple[str, int], timeout: float = TIMEOUT, source_address: Any = None) -> socket.socket:
    """A connection to the first address of a server that answers; a firewall in the way costs CONNECT seconds, not those for
    each address."""
    until = time.monotonic() + CONNECT
    failure: OSError = OSError(f'{address[0]} has no address')
    for *_, (host, port, *_) in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        try:
            connection = socket.create_connection((str(host), int(port)), max(until - time.monotonic(), 0.1), source_address)
            connection.settimeout(timeout)
            return connection
        except OSError as error:
            failure = error
    raise failure


class _Connection(http.client.HTTPConnection):
    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._create_connection = _connect  # type: ignore[attr-defined]


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._create_connection = _connect  # type: ignore[attr-defined]


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_SecureConnection, req)


def verify(path: Path, digest: Optional[str], advice: str) -> None:
    """DataError, with the advice, when a file has another digest (or another beginning of it) than is known of it."""
    if digest is None:
        return
    algorithm, _, expected = digest.partition(':')
    found = hashlib.new(algorithm)
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if not found.hexdigest().startswith(expected):
        size = path.stat().st_size
        raise DataError(
            f'{path}: {size} bytes with {algorithm} {found.hexdigest()}, expected {expected}: broken or another file; {advice}'
        )
