"""Downloads that break, lie, crawl or never end, and two processes that want the same file."""

import errno
import fcntl
import hashlib
import itertools
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.support.web import remote, server
from twinseg.common.errors import DataError
from twinseg.common.files import download
from twinseg.common.files.download import RemoteFile, fetch

CONTENT = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, 'PAUSE', 0.0)


def test_a_download_is_checked_and_kept(tmp_path):
    with server({'x.tar': CONTENT}) as (address, asked):
        heard = []
        path = fetch(remote(address, 'x.tar', CONTENT), tmp_path, lambda *at: heard.append(at))
        assert path.read_bytes() == CONTENT and heard[-1] == (len(CONTENT), len(CONTENT))
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path) == path and asked == [None]
    assert [found.name for found in tmp_path.iterdir()] == ['x.tar']


def test_a_broken_download_goes_on_where_it_stopped(tmp_path):
    with server({'x.tar': CONTENT}, break_after=300_000) as (address, asked):
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path).read_bytes() == CONTENT
        assert asked == [None, 'bytes=300000-', 'bytes=600000-', 'bytes=900000-']


def test_a_download_goes_on_in_a_later_run(tmp_path):
    (tmp_path / 'x.tar.part').write_bytes(CONTENT[:1000])
    with server({'x.tar': CONTENT}) as (address, asked):
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path).read_bytes() == CONTENT and asked == ['bytes=1000-']
    (tmp_path / 'x.tar').rename(tmp_path / 'x.tar.part')
    with server({'x.tar': CONTENT}) as (address, asked):
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path).read_bytes() == CONTENT  # nothing was left


def test_a_server_that_cannot_go_on_starts_again(tmp_path):
    (tmp_path / 'x.tar.part').write_bytes(b'other')
    with server({'x.tar': CONTENT}, ranges=False) as (address, _):
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(tmp_path):
    with server({'x.tar': b'evil'}) as (address, _):
        with pytest.raises(DataError, match='sha256 .*, expected .*run again to download it again'):
            fetch(remote(address, 'x.tar', CONTENT), tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / 'x.tar').write_bytes(b'evil')
    with pytest.raises(DataError, match='delete it to fetch it again'):
        fetch(remote('http://127.0.0.1:1', 'x.tar', CONTENT), tmp_path)


def test_what_cannot_be_had_is_said(tmp_path, monkeypatch):
    with server({}) as (address, _):
        with pytest.raises(DataError, match='HTTP status 404'):
            fetch(remote(address, 'x.tar', CONTENT), tmp_path)
    with pytest.raises(DataError, match='not reached .*put it into'):
        fetch(remote('http://127.0.0.1:1', 'x.tar', CONTENT), tmp_path)
    with server({'x.tar': CONTENT}, break_after=0) as (address, asked):
        with pytest.raises(DataError, match='not reached'):
            fetch(remote(address, 'x.tar', CONTENT), tmp_path)
        assert len(asked) == download.PATIENCE


def test_the_first_digits_of_a_digest_are_enough(tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    with server({'x.pth': CONTENT}) as (address, _):
        assert fetch(RemoteFile(f'{address}/x.pth', f'sha256:{digest[:8]}'), tmp_path).read_bytes() == CONTENT
    (tmp_path / 'x.pth').write_bytes(b'evil')
    found = hashlib.sha256(b'evil').hexdigest()
    with pytest.raises(DataError, match=f'x.pth: 4 bytes with sha256 {found}, expected {digest[:8]}'):
        fetch(RemoteFile('http://127.0.0.1:1/x.pth', f'sha256:{digest[:8]}'), tmp_path)


def test_the_rest_of_another_download_does_not_matter(tmp_path):
    """A proxy's page, of which a part was kept, before the file."""
    (tmp_path / 'x.tar.part').write_bytes(b'<html>')
    with server({'x.tar': CONTENT}) as (address, asked):
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path).read_bytes() == CONTENT
        assert asked == ['bytes=6-', None]


def test_without_a_network_there_is_one_try(tmp_path, monkeypatch):
    tried = []

    def resolve(*address, **_):
        tried.append(address)
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', resolve)
    with pytest.raises(DataError) as error:
        fetch(RemoteFile('http://example.org/models/x.pth', None), tmp_path)
    assert str(error.value) == (
        'http://example.org/models/x.pth: not reached ([Errno -2] Name or service not known); run again to go on, '
        f'or fetch it by other means and put it into {tmp_path}'
    )
    assert len(tried) == 1 and not list(tmp_path.iterdir())


def test_a_firewall_costs_one_wait_for_all_addresses(tmp_path, monkeypatch):
    waited = []

    def connect(address, timeout, source):
        waited.append(timeout)
        time.sleep(timeout)
        raise TimeoutError('timed out')

    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (f'192.0.2.{number}', 80)) for number in range(8)]
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **__: addresses)
    monkeypatch.setattr(socket, 'create_connection', connect)
    monkeypatch.setattr(download, 'CONNECT', 0.2)
    with pytest.raises(DataError, match='not reached .timed out'):
        fetch(RemoteFile('http://example.org/x.pth', None), tmp_path)
    assert len(waited) == 8 and sum(waited) < 0.2 + 7 * 0.1 + 0.05


def busy(times: int, status: int, **headers: str):
    """A server that answers the first ``times`` requests with a status, and then with the file."""
    left = iter(range(times))

    def answer(handler):
        if next(left, None) is None:
            handler.send_response(200)
            handler.send_header('Content-Length', str(len(CONTENT)))
            handler.end_headers()
            handler.wfile.write(CONTENT)
            return
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace('_', '-'), value)
        handler.end_headers()

    return answer


@pytest.mark.parametrize('status', [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(tmp_path, status):
    with server({'x.tar': b'x'}, answer=busy(download.PATIENCE - 1, status)) as (address, asked):
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path).read_bytes() == CONTENT
        assert len(asked) == download.PATIENCE
    with server({'y.tar': b'x'}, answer=busy(99, status)) as (address, asked):
        with pytest.raises(DataError, match=f'HTTP status {status}'):
            fetch(remote(address, 'y.tar', CONTENT), tmp_path)
        assert len(asked) == download.PATIENCE


@pytest.mark.parametrize(
    'asked_for, waited', [('7', 7), ('99999999999', 0), ('3600', 60), ('Wed, 21 Oct 2026 07:28:00 GMT', 0)]
)
def test_a_busy_server_says_how_long(tmp_path, monkeypatch, asked_for, waited):
    pauses: list[float] = []
    monkeypatch.setattr(download.time, 'sleep', pauses.append)
    with server({'x.tar': b'x'}, answer=busy(1, 503, Retry_After=asked_for)) as (address, _):
        fetch(remote(address, 'x.tar', CONTENT), tmp_path)
    assert pauses == [waited]


def body(*pieces: bytes, wait: float = 0.0, headers: dict[str, str] | None = None, status: int = 200):
    """Answers with the pieces, one after the other, the last one for ever."""

    def answer(handler):
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        for piece in itertools.chain(pieces, itertools.repeat(pieces[-1])):
            handler.wfile.write(piece)
            time.sleep(wait)

    return answer


def test_a_body_that_crawls_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, 'WINDOW', 0.1)
    monkeypatch.setattr(download, 'PATIENCE', 2)
    with server({'x.tar': b''}, answer=body(b'x', wait=0.01)) as (address, asked):
        with pytest.raises(DataError, match=r'not reached \(\d+ bytes in 0.1 seconds\)'):
            fetch(remote(address, 'x.tar', CONTENT), tmp_path)
        assert len(asked) == 2


@pytest.mark.parametrize('wait', [0, 5], ids=['nothing', 'silence'])
def test_a_server_that_does_not_answer_is_given_up_at_once(tmp_path, monkeypatch, wait):
    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    with server({'x.tar': b''}, answer=lambda handler: time.sleep(wait)) as (address, asked):
        with pytest.raises(DataError, match='not reached'):
            fetch(remote(address, 'x.tar', CONTENT), tmp_path)
        assert len(asked) == 1


def test_what_is_too_large_is_not_kept(tmp_path):
    with server({'x.tar': CONTENT}) as (address, _):
        with pytest.raises(DataError, match='1024000 bytes, more than the limit of 1000'):
            fetch(remote(address, 'x.tar', CONTENT)._replace(limit=1000), tmp_path)
    with server({'x.tar': b''}, answer=body(bytes(10000))) as (address, _):
        with pytest.raises(DataError, match='more than the limit of 1000000 bytes'):
            fetch(remote(address, 'x.tar', CONTENT)._replace(limit=1_000_000), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_goes_on_elsewhere_is_not_believed(tmp_path, monkeypatch):
    (tmp_path / 'x.tar.part').write_bytes(CONTENT[:1000])
    monkeypatch.setattr(download, 'PATIENCE', 2)
    headers = {'Content-Range': 'bytes 0-9/10', 'Content-Length': '10'}
    with server({'x.tar': b''}, answer=body(bytes(10), headers=headers, status=206)) as (address, asked):
        with pytest.raises(DataError):
            fetch(remote(address, 'x.tar', CONTENT), tmp_path)
        assert asked[:2] == ['bytes=1000-', None]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_no_fault_of_the_network(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(download, '_receive', full)
    with server({'x.tar': CONTENT}) as (address, asked):
        with pytest.raises(DataError, match='x.tar.part: not written: No space left on device; choose another folder'):
            fetch(remote(address, 'x.tar', CONTENT), tmp_path)
        assert len(asked) == 1


FETCHING = """
import sys
from pathlib import Path
from twinseg.common.files.download import RemoteFile, fetch
print(fetch(RemoteFile(sys.argv[1], sys.argv[2]), Path(sys.argv[3]), tell=print))
"""


def test_of_several_processes_one_downloads(tmp_path):
    started = threading.Event()

    def slowly(handler):
        started.set()
        time.sleep(1)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)

    with server({'x.tar': b''}, answer=slowly) as (address, asked):
        file = remote(address, 'x.tar', CONTENT)
        command = [sys.executable, '-c', FETCHING, file.url, str(file.digest), str(tmp_path)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        said = [process.communicate()[0].splitlines() for process in processes]
        assert started.is_set() and [process.returncode for process in processes] == [0, 0, 0] and len(asked) == 1
    assert {lines[-1] for lines in said} == {str(tmp_path / 'x.tar')}
    assert [file.name for file in tmp_path.iterdir()] == ['x.tar']


def test_a_process_that_waits_says_so_and_takes_over(tmp_path):
    lines: list[str] = []
    with open(tmp_path / 'x.tar.part', 'wb') as other:  # of a process that ends without a file
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(CONTENT[:5000])
        other.flush()
        with server({'x.tar': CONTENT}) as (address, asked):
            run = threading.Thread(
                target=fetch, args=(remote(address, 'x.tar', CONTENT), tmp_path), kwargs={'tell': lines.append}
            )
            run.start()
            while not lines:
                time.sleep(0.01)
            assert lines == [f'{tmp_path}/x.tar.part: another process downloads it; waiting'] and not asked
            fcntl.flock(other, fcntl.LOCK_UN)
            run.join()
            assert asked == ['bytes=5000-'] and (tmp_path / 'x.tar').read_bytes() == CONTENT


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with server({'x.tar': CONTENT}) as (address, _):
        assert fetch(remote(address, 'x.tar', CONTENT), tmp_path).read_bytes() == CONTENT
