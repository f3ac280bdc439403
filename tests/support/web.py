"""A server on this machine with files that it serves well, in pieces, or badly; and archives to serve."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Optional

from twinseg.common.files.download import RemoteFile


@contextmanager
def server(
    files: dict[str, bytes],
    break_after: int = 1 << 40,
    ranges: bool = True,
    answer: Optional[Callable[[BaseHTTPRequestHandler], None]] = None,
) -> Iterator[tuple[str, list]]:
    """Serves the files; each answer ends after ``break_after`` bytes, or is what ``answer`` writes. Yields the address and the
    ranges that were asked for."""
    asked: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path[1:])
            if content is None:
                self.send_error(404)
                return
            asked.append(self.headers.get('Range'))
            if answer is not None:
                with suppress(OSError):  # the client may go
                    answer(self)
                return
            start = int(asked[-1][6:-1]) if ranges and asked[-1] else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header('Content-Length', str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + break_after])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        running.daemon_threads = True
        running.block_on_close = False
        threading.Thread(target=running.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
        try:
            yield f'http://127.0.0.1:{running.server_port}', asked
        finally:
            running.shutdown()


def remote(address: str, name: str, content: bytes) -> RemoteFile:
    """The file that the server has to give under an address."""
    return RemoteFile(f'{address}/{name}', f'sha256:{hashlib.sha256(content).hexdigest()}')


def tar(path: Path, members: dict[str, bytes], mode: str = 'w', **changes) -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes], mode: int | None = None) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if mode is not None:
                info.external_attr = mode << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path
