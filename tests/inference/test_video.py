"""Videos: containers alone are read, frames are upright, what is written is H.264 where there is an encoder."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.inference.test_predict import picture
from twinseg.common.errors import DataError
from twinseg.common.tasks import video

RATE = 12.0


@pytest.fixture(autouse=True)
def no_encoder(monkeypatch):
    """No encoder of H.264 beside OpenCV's, unless a test brings one."""
    monkeypatch.setattr(video, 'ffmpeg', lambda: None)


def written(path: Path, size: tuple[int, int] = (64, 96), frames: int = 6, code: str = 'mp4v') -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), RATE, size[::-1])
    for seed in range(frames):
        writer.write(picture(size, seed))
    writer.release()
    return path


def read(path: Path) -> tuple[list[np.ndarray], float, str]:
    """Frames, rate and codec."""
    found = cv2.VideoCapture(str(path))
    code = int(found.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, 'little').decode()
    rate, frames = found.get(cv2.CAP_PROP_FPS), []
    while (frame := found.read())[0]:
        frames.append(frame[1])
    return frames, rate, code


def unchanged(frame: np.ndarray) -> np.ndarray:
    return frame


def rotated(path: Path) -> Path:
    """The video, with the matrix of a phone that was held upright: a quarter turn clockwise."""
    content = bytearray(path.read_bytes())
    start = content.index(b'tkhd') + 4 + 40
    content[start : start + 36] = struct.pack('>9i', 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    'name, code', [('a.mp4', 'mp4v'), ('a.MOV', 'mp4v'), ('a.avi', 'MJPG'), ('a.mkv', 'mp4v'), ('a.webm', 'VP80')]
)
def test_containers_are_read_frame_by_frame(tmp_path, name, code):
    source = written(tmp_path / f'source{Path(name).suffix.lower()}', code=code).rename(tmp_path / name)
    with pytest.warns(UserWarning, match='MPEG-4 Part 2, which browsers do not play; install FFmpeg'):
        video.rewrite(source, tmp_path / 'out.mp4', unchanged)
    frames, rate, _ = read(tmp_path / 'out.mp4')
    assert (len(frames), rate) == (6, RATE)
    assert np.abs(frames[3].astype(int) - read(source)[0][3]).mean() < 8


@pytest.mark.filterwarnings('ignore:no encoder')
def test_a_phone_s_video_is_upright(tmp_path):
    source = rotated(written(tmp_path / 'phone.mp4'))
    seen = []
    video.rewrite(source, tmp_path / 'out.mp4', lambda frame: seen.append(frame) or frame)
    assert seen[0].shape == (96, 64, 3)
    upright = np.rot90(picture((64, 96), 0)[..., ::-1], -1)
    assert np.abs(seen[0].astype(int) - upright).mean() < 8


@pytest.mark.filterwarnings('ignore:no encoder')
def test_odd_and_changing_sizes_lose_nothing(tmp_path):
    sizes = iter([(33, 47), (33, 47), (35, 41), (33, 47), (33, 47), (33, 47)])
    video.rewrite(written(tmp_path / 'a.mp4'), tmp_path / 'out.mp4', lambda frame: cv2.resize(frame, next(sizes)[::-1]))
    frames, _, _ = read(tmp_path / 'out.mp4')
    assert [frame.shape for frame in frames] == [(34, 48, 3)] * 6


def test_a_broken_tail_is_said(tmp_path):
    """AVI keeps its index at the end; its header says how many frames there were."""
    source = written(tmp_path / 'cut.avi', frames=30, code='MJPG')
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r'cut\.avi: \d+ of about 30 frames could be decoded; the rest is missing'):
        video.rewrite(source, tmp_path / 'out.mp4', unchanged)
    assert 5 < len(read(tmp_path / 'out.mp4')[0]) < 30


@pytest.mark.parametrize(
    'content',
    [
        b'#EXTM3U\n#EXTINF:1,\n{other}\n',
        b'ffconcat version 1.0\nfile {other}\n',
        b'<?xml version="1.0"?><MPD><BaseURL>{other}</BaseURL></MPD>',
        b'v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n',
        b'\0\0\0\x10ftypisom#EXTM3U\n#EXTINF:1,\n{other}\n',
        b'RIFF\0\0\0\0AVI #EXTM3U\n{other}\n',
        b'\x1a\x45\xdf\xa3ffconcat version 1.0\nfile {other}\n',
        b'',
        b'\0\0\0\x18ftypmp42' + bytes(200),
    ],
)
def test_what_is_no_container_shows_no_other_file(tmp_path, content):
    other = written(tmp_path / 'secret.mp4')
    source = tmp_path / 'list.mp4'
    source.write_bytes(content.replace(b'{other}', os.fsencode(other)))
    with pytest.raises(DataError, match='list.mp4'):
        video.rewrite(source, tmp_path / 'out.mp4', unchanged)
    assert not (tmp_path / 'out.mp4').exists()


def test_a_broken_file_is_one_line(tmp_path):
    """FFmpeg adds none of its own."""
    (tmp_path / 'a.mp4').write_bytes(b'\0\0\0\x18ftypmp42' + bytes(200))
    program = (
        'from pathlib import Path\nfrom twinseg.common.tasks.video import rewrite\n'
        'try:\n    rewrite(Path("a.mp4"), Path("o.mp4"), None)\nexcept Exception as error:\n    print(error)'
    )
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('a.mp4: no frame of it can be decoded\n', '')


def test_ffmpeg_is_told_which_formats_it_may_find(tmp_path, monkeypatch):
    """The second lock: a playlist that gets past the first is not opened."""
    other, source = written(tmp_path / 'secret.mp4'), tmp_path / 'list.mp4'
    source.write_text(f'ffconcat version 1.0\nfile {other}\n')
    monkeypatch.setattr(video, 'check_container', lambda path: None)
    with pytest.raises(DataError, match='no frame of it can be decoded'):
        video.rewrite(source, tmp_path / 'out.mp4', unchanged)
    assert 'OPENCV_FFMPEG_CAPTURE_OPTIONS' not in os.environ


@pytest.mark.filterwarnings('ignore:no encoder')
@pytest.mark.parametrize('name', [b'\xff\xfe.mp4', b'a%03d.mp4', b'concat:a.mp4', b'-i.mp4', b'line\n.mp4'])
def test_names_in_any_bytes(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / 'plain.mp4').rename(os.fsdecode(name))
    video.rewrite(Path(os.fsdecode(name)), Path(os.fsdecode(b'o\xff')) / os.fsdecode(name), unchanged)
    assert os.listdir(b'o\xff') == [name]


FAKE = """#!{python}
import sys
from pathlib import Path
words = sys.argv[1:]
if '-encoders' in words:
    print(' V....D {encoder}  H.264')
    sys.exit()
{then}
Path(words[-1].removeprefix('file:')).write_bytes(Path('{sample}').read_bytes())
Path('{sample}.words').write_text('\\n'.join([*words, str(len(sys.stdin.buffer.read()))]))
"""


def fake(folder: Path, encoder: str = 'libx264', then: str = '') -> Path:
    """A program that takes the frames and leaves a sample."""
    program = folder / 'ffmpeg'
    sample = written(folder / 'sample.mp4')
    program.write_text(FAKE.format(python=sys.executable, encoder=encoder, then=then, sample=sample))
    program.chmod(0o755)
    return program


def found(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv('PATH', str(folder))
    monkeypatch.setattr(video, 'ffmpeg', video.find_ffmpeg)
    monkeypatch.setattr(video, '_packaged_ffmpeg', lambda: None)


def test_ffmpeg_gets_the_frames_and_makes_h264(tmp_path, monkeypatch, recwarn):
    found(fake(tmp_path).parent, monkeypatch)
    video.rewrite(written(tmp_path / 'a.mp4'), tmp_path / 'o' / 'out.mp4', lambda frame: frame[:63, :95])
    *words, count = (tmp_path / 'sample.mp4.words').read_text().split('\n')
    text = ' '.join(words)
    assert int(count) == 6 * 64 * 96 * 3 and not recwarn.list
    assert '-s 96x64 -r 12 ' in text and '-c:v libx264 -pix_fmt yuv420p' in text and '-f mp4 file:/' in text
    assert os.listdir(tmp_path / 'o') == ['out.mp4']


def test_ffmpeg_that_fails_is_heard(tmp_path, monkeypatch):
    then = "print('no space left', file=sys.stderr); sys.stdin.buffer.read(10); sys.exit(1)"
    found(fake(tmp_path, then=then).parent, monkeypatch)
    with pytest.raises(OSError, match='ffmpeg: no space left') as caught:
        video.rewrite(written(tmp_path / 'a.mp4'), tmp_path / 'o' / 'out.mp4', unchanged)
    assert caught.value.filename == str(tmp_path / 'o' / 'out.mp4') and os.listdir(tmp_path / 'o') == []


def test_ffmpeg_without_the_encoder_is_not_used(tmp_path, monkeypatch):
    found(fake(tmp_path, encoder='mpeg4').parent, monkeypatch)
    assert video.find_ffmpeg() is None


def test_real_ffmpeg_makes_h264(tmp_path, monkeypatch):
    """Where there is one."""
    program = video.find_ffmpeg()
    if program is None:
        pytest.skip('no ffmpeg with an encoder of H.264')
    monkeypatch.setattr(video, 'ffmpeg', lambda: program)
    video.rewrite(written(tmp_path / 'a.mp4', frames=12), tmp_path / 'out.mp4', unchanged)
    frames, rate, code = read(tmp_path / 'out.mp4')
    assert (len(frames), rate) == (12, RATE) and code in ('avc1', 'h264')
    assert np.abs(frames[3].astype(int) - read(tmp_path / 'a.mp4')[0][3]).mean() < 8


@pytest.mark.filterwarnings('ignore:no encoder')
def test_a_video_that_was_not_written_whole_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(video.OpenCvSink, 'write', lambda self, picture: None)
    with pytest.raises(OSError, match='disk may be full'):
        video.rewrite(written(tmp_path / 'a.mp4'), tmp_path / 'o' / 'out.mp4', unchanged)
    assert os.listdir(tmp_path / 'o') == []


def test_a_named_pipe_is_no_video(tmp_path):
    os.mkfifo(tmp_path / 'v.mp4')
    with pytest.raises(DataError, match='v.mp4: no file, but a folder or a device'):  # opening it would wait for a writer
        video.check_container(tmp_path / 'v.mp4')
