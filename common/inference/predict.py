"""Prediction on images, folders and videos: class ids and overlays; of a classifier the likeliest classes."""

import json
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

import cv2
import numpy as np

from twinseg.common.config import Config
from twinseg.common.data.reading import read_image
from twinseg.common.drawing import overlay
from twinseg.common.errors import DataError, UserError
from twinseg.common.inference.model import Classifier, Segmenter, open_checkpoint, open_exported

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def predict(
    config: Optional[Config],
    backend_name: Optional[str],
    device: Optional[str],
    checkpoint: Optional[Path],
    inputs: Sequence[Path],
    out: Path,
    *,
    logits: Optional[Path] = None,
    model: Optional[Path] = None,
    engine: Optional[str] = None,
) -> list[Path]:
    """Segments images, folders of images and videos; returns the files written.

    For an image ``<stem>_overlay.png`` (colours and a legend of the classes present) and ``<stem>_ids.png`` (uint8 class
    ids of the image's size) are written to ``out``, for a video ``<stem>_overlay.mp4``. ``logits`` keeps the raw logits
    of a single image as ``.npy``, float32 (1, C, h, w) at the head's size. A classifier writes ``predictions.json``, for every
    image the five likeliest classes with their probabilities; its logits are (1, C). The network comes from ``checkpoint``, or
    from ``model``, an exported .onnx or .mindir file, run by ``engine`` (of ``host_engines.ENGINES``). Raises UserError for
    anything that cannot be read or written.
    """
    files = list(_files(inputs))
    if logits is not None and (len(files) != 1 or files[0].suffix.lower() in VIDEOS):
        raise UserError(f'--logits keeps the logits of one image; given {len(files)} files')
    if model is not None:
        network = open_exported(model, engine)
    elif checkpoint is not None:
        network = open_checkpoint(checkpoint, backend_name, device, config)
    else:
        raise UserError('give the network: a checkpoint (--checkpoint) or an exported file (--model)')
    written: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        if isinstance(network, Classifier):
            written.append(out / 'predictions.json')
            guesses = {str(path): _classify(network, path) for path in files}
            written[-1].write_text(json.dumps(guesses, indent=1) + '\n', encoding='utf-8')
        else:
            for path in files:
                written += _segment(network, path, out)
        if logits is not None:
            logits.parent.mkdir(parents=True, exist_ok=True)
            with logits.open('wb') as file:  # np.save would append .npy to other names
                np.save(file, network.logits(read_image(files[0])))
            written.append(logits)
    except OSError as error:
        raise UserError(f'{error.filename or out}: cannot be written ({error.strerror or error})') from None
    return written


def _classify(model: Classifier, path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() in VIDEOS:
        raise DataError(f'{path}: a video; a classifier takes images')
    return model.predict(path).to_json()


def _segment(model: Segmenter, path: Path, out: Path) -> list[Path]:
    if path.suffix.lower() in VIDEOS:
        return [_video(model, path, out / f'{path.stem}_overlay.mp4')]
    return model.predict(path).save(out)


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    """Images and videos of paths and folders, in order; UserError for what is neither, or would be written twice."""
    seen: dict[str, Path] = {}
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES + VIDEOS)
            if not found:
                raise DataError(f'{path}: no images or videos in it; expected {", ".join(IMAGES + VIDEOS)}')
        elif path.is_file():
            if path.suffix.lower() not in IMAGES + VIDEOS:
                raise DataError(f'{path}: neither an image nor a video; expected {", ".join(IMAGES + VIDEOS)}')
            found = [path]
        else:
            raise DataError(f'{path}: no such file or folder')
        for file in found:
            if file.stem in seen:
                raise UserError(
                    f'{file} and {seen[file.stem]} would be written under one name; predict them into different folders'
                )
            seen[file.stem] = file
            yield file


def _video(segmenter: Segmenter, path: Path, out: Path) -> Path:
    """Writes a video with every frame overlaid, under a temporary name first."""
    video = cv2.VideoCapture(str(path))
    part = out.with_name(f'.{out.name}.part.mp4')
    writer, frames = None, 0
    try:
        while True:
            read, frame = video.read()
            if not read:
                break
            image = np.ascontiguousarray(frame[..., ::-1])
            picture = overlay(image, segmenter.class_ids(image), segmenter.classes, segmenter.palette, all_classes=True)
            height, width = (side - side % 2 for side in picture.shape[:2])  # codecs take even sides
            if writer is None:
                rate = video.get(cv2.CAP_PROP_FPS)
                rate = rate if 0 < rate <= 240 else 25.0
                writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*'mp4v'), rate, (width, height))
                if not writer.isOpened():
                    raise UserError(f'{out}: cannot be written as mp4')
            writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
            frames += 1
        if not frames:
            raise DataError(f'{path}: no frame of it can be decoded')
        if writer is not None:
            writer.release()
        part.replace(out)
    finally:
        video.release()
        if writer is not None:
            writer.release()
        part.unlink(missing_ok=True)
    return out
