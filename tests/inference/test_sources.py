"""What ``predict`` looks at beside files and folders: patterns, addresses, cameras; how it draws; nothing is written over."""

import functools
import http.server
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.checkpoints import CLASSES, SIZE, write
from twinseg.common.backend import available
from twinseg.common.cli import main
from twinseg.common.errors import DataError
from twinseg.common.inference import sources
from twinseg.common.inference.runs import load_run


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    if not available():
        pytest.skip('no framework is installed')
    return write(tmp_path_factory.mktemp('checkpoint'), available()[0], 'fast_scnn')


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """``photos/a.jpg``, ``photos/deep/b.png`` and a text, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(('photos/a.jpg', 'photos/deep/b.png')):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)
    (tmp_path / 'photos/notes.txt').write_text('no image')
    return tmp_path


@pytest.fixture
def server(photos):
    """The address of a server of the current folder on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(photos))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()
        thread.join()


def predicted(checkpoint, *words) -> int:
    return main(['predict', *map(str, words), '--checkpoint', str(checkpoint), '--device', 'cpu'])


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_patterns_and_addresses_are_predicted_like_files(photos, server, checkpoint):
    assert predicted(checkpoint, 'photos/**/*.*', f'{server}/photos/deep/b.png?size=large') == 0
    assert {'a_ids.png', 'b_ids.png'} < {Path(name).name for name in names(photos / 'predictions')}
    assert len([name for name in names(photos / 'predictions') if name.endswith('_ids.png')]) == 3


def test_a_second_prediction_writes_nothing_over(photos, checkpoint):
    for _ in range(3):
        assert predicted(checkpoint, '.') == 0
    written = [names(photos / f'predictions{end}') for end in ('', '-2', '-3')]
    assert (
        written[0]
        == written[1]
        == written[2]
        == {f'photos/{name}_{end}.png' for name in ('a', 'deep/b') for end in ('ids', 'overlay')}
    )


@pytest.mark.parametrize(
    'word, said',
    [
        ('nothing/*.jpg', 'nothing/*.jpg: no image or video fits this pattern'),
        ('ftp://localhost/a.jpg', 'begins with http:// or https://'),
        ('http://localhost/page.html', 'its file name ends as neither images nor videos do'),
        ('http://127.0.0.1:9/a.jpg', 'not reached'),
        ('7', 'camera 7 gives no picture'),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(word, said, photos, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(cv2, 'VideoCapture', lambda *_: Camera(0))
    assert predicted(checkpoint, word) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and not (photos / 'predictions').exists()


def test_a_file_of_an_address_has_a_limit(photos, server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'MAX_BYTES', 100)
    with pytest.raises(DataError, match='more than the limit of 100'):
        sources.paths([f'{server}/photos/a.jpg'], tmp_path / 'fetched')


def test_ids_may_have_a_palette_and_colours_an_opacity(photos, checkpoint):
    assert predicted(checkpoint, 'photos/deep/b.png', '--out', 'plain') == 0
    assert predicted(checkpoint, 'photos/deep/b.png', '--out', 'drawn', '--palette-png', '--opacity', '0') == 0
    plain, drawn = Image.open('plain/b_ids.png'), Image.open('drawn/b_ids.png')
    assert (plain.mode, drawn.mode) == ('L', 'P')
    np.testing.assert_array_equal(np.array(plain), np.array(drawn))
    palette = np.array(drawn.getpalette()[: 3 * CLASSES]).reshape(-1, 3)
    np.testing.assert_array_equal(np.array(drawn.convert('RGB')), palette[np.array(plain)])
    assert (np.array(Image.open('plain/b_overlay.png')) != np.array(Image.open('drawn/b_overlay.png'))).any()
    assert predicted(checkpoint, 'photos/a.jpg', '--opacity', '2') == 2


class Camera:
    """A camera of so many frames."""

    def __init__(self, frames: int):
        self.frames = frames

    def read(self):
        self.frames -= 1
        return self.frames >= 0, np.full((*SIZE, 3), self.frames * 20 % 256, np.uint8)

    def release(self):
        pass


@pytest.mark.filterwarnings('ignore:no encoder of H.264')
@pytest.mark.parametrize('frames', [2, 7])
def test_a_camera_is_written_as_two_videos(frames, checkpoint, tmp_path, monkeypatch):
    real = cv2.VideoCapture
    network = load_run(checkpoint, None, 'cpu').trained()
    monkeypatch.setattr(cv2, 'VideoCapture', lambda *which: real(*which) if which[1:] else Camera(frames))
    written = sources.predict_camera(network, 0, tmp_path)
    assert [path.name for path in written] == ['camera0_overlay.mp4', 'camera0_mask.mp4']
    for path in written:
        video = real(str(path))
        assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == frames
        video.release()
