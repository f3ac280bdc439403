"""Videos, frame by frame: read by OpenCV's FFmpeg, written as H.264 where there is an encoder for it."""

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Callable, Optional, Protocol

import cv2
import numpy as np

from twinseg.common.data.reading import opencv_logging
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import plain_path, written_beside
from twinseg.common.images.interpolation import Size

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.3gp')
CONTAINERS = 'mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm'  # FFmpeg's names of the only formats that are read
ISO_BOXES = (b'ftyp', b'moov', b'mdat', b'free', b'skip', b'wide', b'pnot')  # boxes that a QuickTime or MP4 file begins with
MATROSKA = b'\x1a\x45\xdf\xa3'
USUAL_RATE = 25.0  # frames a second where the file says nothing, or nonsense
ENCODERS = ('libx264', 'libopenh264')  # FFmpeg's encoders of H.264 that need no device
FEWER = 0.02  # share of the frames by which a container's own count may be wrong


def is_video(path: Path) -> bool:
    """Whether a file's name ends as those of videos do."""
    return path.name.lower().endswith(VIDEOS)


def rewrite(path: Path, out: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes an .mp4 of the changed frames (uint8 RGB) of a video, upright, at its frame rate.

    It is H.264, which every browser plays, where FFmpeg (the program ``ffmpeg``, or the package imageio-ffmpeg) or OpenCV has
    an encoder for it; else MPEG-4 Part 2, and a warning says so. DataError where no frame can be decoded, or the file is no
    video; a warning where frames at its end are missing. Raises OSError where ``out`` cannot be written.
    """
    check_container(path)
    frames = 0
    with _opened(path) as video, recorded(out, _rate(video)) as record:
        expected = video.get(cv2.CAP_PROP_FRAME_COUNT)
        while True:
            read, frame = video.read()
            if not read:
                break
            record(change(np.ascontiguousarray(frame[..., ::-1])))
            frames += 1
        if not frames:
            raise DataError(f'{path}: no frame of it can be decoded')
    if expected > 0 and frames < expected * (1 - FEWER) - 1:
        warnings.warn(f'{path}: {frames} of about {expected:.0f} frames could be decoded; the rest is missing', stacklevel=2)


def frame_rate(path: Path) -> float:
    """Frames a second of a video; USUAL_RATE where it says nothing, or nonsense."""
    with _opened(path) as video:
        return _rate(video)


def _rate(video: cv2.VideoCapture) -> float:
    rate = video.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= 240 else USUAL_RATE


@contextmanager
def recorded(out: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes the frames (uint8 RGB) of an .mp4, which is there when the block ends well and any came; frames of
    another size than the first one's are scaled to it. Raises OSError where ``out`` cannot be written."""
    sink: Optional[Sink] = None
    size: Size = (0, 0)
    with written_beside(out) as part:

        def record(frame: np.ndarray) -> None:
            nonlocal sink, size
            picture = _even(frame)
            if sink is None:
                size = (picture.shape[0], picture.shape[1])
                sink = _sink(part, rate, size)
            if picture.shape[:2] != size:  # a video whose frames change their size
                picture = cv2.resize(picture, size[::-1])
            sink.write(picture)

        try:
            yield record
            if sink is not None:
                sink.close()
                sink = None
                if not _is_whole(part):
                    raise OSError(0, 'the disk may be full', str(out))
        finally:
            if sink is not None:
                sink.abort()


def check_container(path: Path) -> None:
    """DataError for a file that does not begin as MP4, QuickTime, AVI, Matroska or WebM do: FFmpeg reads much else, such as
    playlists, which show other files."""
    if path.exists() and not path.is_file():  # opening a FIFO would wait for ever
        raise DataError(f'{path}: no file, but a folder or a device; not readable as a video')
    try:
        with path.open('rb') as file:
            head = file.read(12)
    except OSError as error:
        raise DataError(f'{path}: not readable ({error.strerror})') from None
    if head[4:8] in ISO_BOXES or (head[:4], head[8:12]) == (b'RIFF', b'AVI ') or head[:4] == MATROSKA:
        return
    raise DataError(f'{path}: not a video: it does not begin as MP4, QuickTime, AVI, Matroska or WebM files do')


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """The decoder of a video. FFmpeg is told which formats it may find in the file, and that it may open no other: of the
    containers' own references to files it follows none by default."""
    options = {
        'OPENCV_FFMPEG_CAPTURE_OPTIONS': f'format_whitelist;{CONTAINERS}|protocol_whitelist;file',
        'OPENCV_FFMPEG_LOGLEVEL': '-8',  # what FFmpeg says of a broken file is said in one line
    }
    with plain_path(path.absolute()) as plain:  # an absolute path names no protocol, such as concat:
        with _environment(options), _quiet():
            video = cv2.VideoCapture(str(plain), cv2.CAP_FFMPEG)
        try:
            video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            yield video
        finally:
            video.release()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _even(picture: np.ndarray) -> np.ndarray:
    """The picture with even sides, which codecs take; its last row or column is repeated."""
    height, width = picture.shape[:2]
    if height % 2 == width % 2 == 0:
        return picture
    return cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)


def _is_whole(path: Path) -> bool:
    """Whether a video that was written can be read again: OpenCV does not say when the disk is full."""
    with _opened(path) as video:
        return bool(video.read()[0])


class Sink(Protocol):
    """An encoder that takes frames, uint8 (H, W, 3) RGB."""

    def write(self, picture: np.ndarray) -> None: ...

    def close(self) -> None:
        """Ends the file. Raises OSError where it could not be written."""

    def abort(self) -> None:
        """Ends the encoder; the file is of no use."""


def _sink(path: Path, rate: float, size: Size) -> Sink:
    """The best encoder that there is."""
    found = ffmpeg()
    if found is not None:
        return FfmpegSink(*found, path, rate, size)
    return OpenCvSink(path, rate, size)


class FfmpegSink:
    """H.264 by the program ``ffmpeg``, which gets the frames through a pipe."""

    def __init__(self, program: str, encoder: str, path: Path, rate: float, size: Size):
        self.path, self.errors = path, tempfile.TemporaryFile()
        exact = Fraction(rate).limit_denominator(1001)
        inputs = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{size[1]}x{size[0]}', '-r', str(exact), '-i', 'pipe:0']
        output = ['-c:v', encoder, '-pix_fmt', 'yuv420p', '-movflags', '+faststart', '-f', 'mp4', f'file:{path.absolute()}']
        if encoder == 'libopenh264':  # it knows no constant quality
            output = ['-b:v', str(int(size[0] * size[1] * rate * 0.15)), *output]
        command = [program, '-hide_banner', '-loglevel', 'error', '-y', *inputs, *output]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.errors)

    def write(self, picture: np.ndarray) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(np.ascontiguousarray(picture).data)
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        if self.process.wait():
            self.errors.seek(0)
            said = self.errors.read().decode(errors='replace').split('\n')
            raise OSError(0, f'ffmpeg: {next((line.strip() for line in said if line.strip()), "failed")}', str(self.path))
        self.errors.close()

    def abort(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


class OpenCvSink:
    """H.264 by OpenCV where it was built with an encoder, else MPEG-4 Part 2."""

    def __init__(self, path: Path, rate: float, size: Size):
        with plain_path(path.absolute()) as plain, _quiet():
            for code in ('avc1', 'mp4v'):
                self.writer = cv2.VideoWriter(str(plain), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), rate, size[::-1])
                if self.writer.isOpened():
                    break
            else:
                raise UserError(f'{path.parent}: OpenCV cannot write MP4 here: install FFmpeg')
        if code == 'mp4v':
            warnings.warn(
                'no encoder of H.264: videos are written as MPEG-4 Part 2, which browsers do not play; install FFmpeg, or '
                '`pip install imageio-ffmpeg`',
                stacklevel=2,
            )

    def write(self, picture: np.ndarray) -> None:
        self.writer.write(np.ascontiguousarray(picture[..., ::-1]))

    def close(self) -> None:
        self.writer.release()

    abort = close


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV without its lines about encoders that it lacks."""
    level = opencv_logging.getLogLevel()
    opencv_logging.setLogLevel(0)
    try:
        yield
    finally:
        opencv_logging.setLogLevel(level)


@lru_cache(maxsize=1)
def ffmpeg() -> Optional[tuple[str, str]]:
    """What ``find_ffmpeg`` finds; it is looked for once."""
    return find_ffmpeg()


def find_ffmpeg() -> Optional[tuple[str, str]]:
    """The program ``ffmpeg``, of the PATH or of the package imageio-ffmpeg, with its encoder of H.264; None without one."""
    for program in (shutil.which('ffmpeg'), _packaged_ffmpeg()):
        if program is not None:
            try:
                listed = subprocess.run([program, '-hide_banner', '-encoders'], capture_output=True, timeout=60, check=True)
            except (OSError, subprocess.SubprocessError):
                continue
            names = listed.stdout.decode(errors='replace').split()
            for encoder in ENCODERS:
                if encoder in names:
                    return program, encoder
    return None


def _packaged_ffmpeg() -> Optional[str]:
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:  # the package without its program
        return None
