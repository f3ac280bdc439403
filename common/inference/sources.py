"""What ``predict`` is asked to look at beside files and folders: patterns, addresses and cameras."""

import glob
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from twinseg.common import tasks
from twinseg.common.data.listing import IMAGE_SUFFIXES, is_image
from twinseg.common.errors import DataError, UserError
from twinseg.common.files.download import RemoteFile, fetch
from twinseg.common.images.drawing import colour_labels
from twinseg.common.tasks.base import DRAWING, Drawing, TrainedNetwork, output_path
from twinseg.common.tasks.segmentation import VIDEO_ENDINGS
from twinseg.common.tasks.video import USUAL_RATE, is_video, recorded

ADDRESS = re.compile(r'[a-z][a-z0-9+.-]*://', re.IGNORECASE)  # how an address begins
SCHEMES = ('http', 'https')
MAX_BYTES = 1 << 27  # bytes of a file that an address leads to
CAMERA = re.compile('[0-9]{1,2}')  # number of a camera
FIRST = 4  # frames by which the rate of a camera's video is measured


def is_address(word: str) -> bool:
    """Whether a word is an address, and not a file."""
    return ADDRESS.match(word) is not None


def camera_of(words: Sequence[str]) -> int | None:
    """The number of a camera, where that is the only word and no file has this name."""
    if len(words) == 1 and CAMERA.fullmatch(words[0]) and not Path(words[0]).exists():
        return int(words[0])
    return None


def paths(words: Sequence[str], folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Path]:
    """The paths that words name: themselves, what fits a pattern (``*``, ``?``, ``[]``, ``**`` for any folders), or a file
    fetched into ``folder`` from an address. DataError for a pattern that nothing fits, and for an address that gives no
    image or video of at most MAX_BYTES."""
    named: list[Path] = []
    for number, word in enumerate(words):
        if is_address(word):
            named.append(_fetched(word, folder / str(number), progress))
        elif glob.has_magic(word) and not Path(word).exists():
            fitting = sorted(name for name in glob.glob(word, recursive=True) if is_image(name) or is_video(Path(name)))
            if not fitting:
                raise DataError(f'{word}: no image or video fits this pattern (read from {Path.cwd()})')
            named += map(Path, fitting)
        else:
            named.append(Path(word))
    return named


def _fetched(address: str, folder: Path, progress: Callable[[int, int], None]) -> Path:
    parts = urlsplit(address)
    if parts.scheme.lower() not in SCHEMES:
        raise DataError(f'{address}: expected an address that begins with http:// or https://')
    name = PurePosixPath(unquote(parts.path).replace('\\', '/')).name
    if not is_image(name) and not is_video(Path(name)):
        raise DataError(
            f'{address}: its file name ends as neither images nor videos do ({", ".join(IMAGE_SUFFIXES[:5])}, ...); '
            'download it and give the file'
        )
    folder.mkdir(parents=True)
    return fetch(RemoteFile(address, None, MAX_BYTES), folder, progress).rename(folder / name)


def fresh_folder(base: Path) -> tuple[Path, list[Path]]:
    """A folder that does not exist or is empty, ``base`` or ``base-2``, ``base-3``, ..., and those before it."""
    earlier: list[Path] = []
    for number in count(1):
        folder = base if number == 1 else base.with_name(f'{base.name}-{number}')
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return folder, earlier
        earlier.append(folder)
    raise AssertionError


def predict_camera(
    network: TrainedNetwork, number: int, out: Path, seconds: float | None = None, drawing: Drawing = DRAWING
) -> list[Path]:
    """Writes what a network sees in a camera as two videos, overlay and class colours, until Ctrl-C or for some ``seconds``;
    returns their paths. DataError where the camera gives no picture, UserError for a classifier."""
    task, written = tasks.of(network.task), [output_path(out, f'camera{number}', ending) for ending in VIDEO_ENDINGS]
    if not task.HAS_COLOURS:
        raise UserError(f'{number}: a camera; a classifier takes images')
    with _frames(number) as frames:
        began, first = time.monotonic(), []

        def pictures(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            result = task.predict_image(network, frame, f'camera {number}')
            return result.overlay(all_classes=True, opacity=drawing.opacity), colour_labels(result.mask, result.palette)

        for frame in frames:
            first.append(pictures(frame))
            if len(first) == FIRST:
                break
        rate = min(max(len(first) / max(time.monotonic() - began, 1e-3), 1.0), USUAL_RATE)
        with recorded(written[0], rate) as overlay, recorded(written[1], rate) as mask:
            try:
                for pair in first:
                    overlay(pair[0])
                    mask(pair[1])
                for frame in frames:
                    if seconds is not None and time.monotonic() - began > seconds:
                        break
                    pair = pictures(frame)
                    overlay(pair[0])
                    mask(pair[1])
            except KeyboardInterrupt:  # how a user ends it: what was seen is written
                pass
    return written


@contextmanager
def _frames(number: int) -> Iterator[Iterator[np.ndarray]]:
    """The frames of a camera, uint8 (H, W, 3) in RGB. DataError where there is none."""
    camera = cv2.VideoCapture(number)
    try:
        read, frame = camera.read()
        if not read:
            raise DataError(
                f'{number}: camera {number} gives no picture; is it connected, and free? (a file of this name: ./{number})'
            )

        def frames() -> Iterator[np.ndarray]:
            nonlocal frame
            more = True
            while more:
                yield np.ascontiguousarray(frame[..., ::-1])
                more, frame = camera.read()

        yield frames()
    finally:
        camera.release()
