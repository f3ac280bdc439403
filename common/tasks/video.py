"""Videos, frame by frame."""

from pathlib import Path
from typing import Callable

import cv2
import numpy as np

from twinseg.common.errors import DataError, UserError
from twinseg.common.files import written_beside

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
USUAL_RATE = 25.0  # frames a second where the file says nothing, or nonsense


def rewrite(path: Path, out: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes an .mp4 of the changed frames (uint8 RGB) of a video; DataError where no frame can be decoded."""
    video = cv2.VideoCapture(str(path))
    writer, frames = None, 0
    try:
        with written_beside(out) as part:
            while True:
                read, frame = video.read()
                if not read:
                    break
                picture = change(np.ascontiguousarray(frame[..., ::-1]))
                height, width = (side - side % 2 for side in picture.shape[:2])  # codecs take even sides
                if writer is None:
                    rate = video.get(cv2.CAP_PROP_FPS)
                    rate = rate if 0 < rate <= 240 else USUAL_RATE
                    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*'mp4v'), rate, (width, height))
                    if not writer.isOpened():
                        raise UserError(f'{out}: cannot be written as mp4')
                writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
                frames += 1
            if not frames or writer is None:
                raise DataError(f'{path}: no frame of it can be decoded')
            writer.release()
    finally:
        video.release()
        if writer is not None:
            writer.release()
