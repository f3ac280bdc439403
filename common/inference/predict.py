"""Prediction on images, folders and videos."""

from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from twinseg.common import tasks
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import written_beside
from twinseg.common.tasks.base import TrainedNetwork
from twinseg.common.tasks.video import VIDEOS

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


def predict(network: TrainedNetwork, files: Sequence[Path], out: Path, logits: Optional[Path] = None) -> list[Path]:
    """Writes what a network sees in images and videos (see ``input_files``) to the folder ``out``; returns the files written.

    What they are depends on the task (see ``predict`` there). ``logits`` is a file for the raw logits of a single image as
    ``.npy``, float32 (1, C, h, w) at the head's size, of a classifier (1, C). Raises UserError for anything that cannot be read
    or written.
    """
    task = tasks.of(network.task)
    if logits is not None and (len(files) != 1 or files[0].suffix.lower() in VIDEOS):
        raise UserError(f'--logits keeps the logits of one image; given {len(files)} files')
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = task.predict(network, files, out)
        if logits is not None:
            with written_beside(logits) as part, part.open('wb') as file:  # np.save would append .npy to other names
                np.save(file, task.logits(network, network.read(files[0])))
            written.append(logits)
    except OSError as error:
        raise UserError(f'{error.filename or out}: cannot be written ({error.strerror or error})') from None
    return written


def input_files(inputs: Sequence[Path]) -> list[Path]:
    """Images and videos of paths and folders, in order; UserError for what is neither, or would be written twice."""
    seen: dict[str, Path] = {}
    for path in inputs:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES + VIDEOS)
            if not files:
                raise DataError(f'{path}: no images or videos in it; expected {", ".join(IMAGES + VIDEOS)}')
        elif path.is_file():
            if path.suffix.lower() not in IMAGES + VIDEOS:
                raise DataError(f'{path}: neither an image nor a video; expected {", ".join(IMAGES + VIDEOS)}')
            files = [path]
        else:
            raise DataError(f'{path}: no such file or folder')
        for file in files:
            if file.stem in seen:
                raise UserError(
                    f'{file} and {seen[file.stem]} would be written under one name; predict them into different folders'
                )
            seen[file.stem] = file
    return list(seen.values())
