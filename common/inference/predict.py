"""Prediction on images, folders and videos: class ids and overlays; of a classifier the likeliest classes."""

import json
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence

import cv2
import numpy as np
from PIL import Image

from twinseg.common.config import Config
from twinseg.common.data.classes import default_palette
from twinseg.common.data.classification_transforms import eval_image
from twinseg.common.data.reading import read_image
from twinseg.common.data.segmentation_transforms import channels_first
from twinseg.common.deploy.exported_file import FilePredictor
from twinseg.common.drawing import overlay
from twinseg.common.errors import DataError, UserError
from twinseg.common.inference.evaluate import Views, class_ids, load_run, published_views

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
SMALLEST = 32  # pixels a side that a network is given: smaller images are padded by repeating their edge
Size = tuple[int, int]


class Classifier(NamedTuple):
    """A classifier as prediction sees it: ``logits`` takes one uint8 image (H, W, 3) and returns float32 logits (1, C)."""

    logits: Callable[[np.ndarray], np.ndarray]
    classes: Sequence[str]


class Segmenter(NamedTuple):
    """A network as prediction sees it: ``logits`` takes one uint8 image (H, W, 3) and returns float32 logits (1, C, h, w)
    at the head's size; ``class_ids`` returns uint8 ids (H, W)."""

    logits: Callable[[np.ndarray], np.ndarray]
    class_ids: Callable[[np.ndarray], np.ndarray]
    classes: Sequence[str]
    palette: np.ndarray


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
        network = _from_file(model, engine)
    elif checkpoint is not None:
        network = _from_checkpoint(config, backend_name, device, checkpoint)
    else:
        raise UserError('give the network: a checkpoint (--checkpoint) or an exported file (--model)')
    written: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        if isinstance(network, Classifier):
            written.append(out / 'predictions.json')
            guesses = {str(path): likeliest(network, path) for path in files}
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


def likeliest(network: Classifier, path: Path, count: int = 5) -> list[dict[str, Any]]:
    """The likeliest classes of an image: ``class``, ``index`` and ``probability``, the best first."""
    if path.suffix.lower() in VIDEOS:
        raise DataError(f'{path}: a video; a classifier takes images')
    logits = network.logits(read_image(path))[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind='stable')[:count]
    return [
        {
            'class': network.classes[index] if index < len(network.classes) else f'class {index}',
            'index': int(index),
            'probability': round(float(shares[index]), 6),
        }
        for index in order
    ]


def _segment(network: Segmenter, path: Path, out: Path) -> list[Path]:
    if path.suffix.lower() in VIDEOS:
        return [_video(network, path, out / f'{path.stem}_overlay.mp4')]
    image = read_image(path)
    ids = network.class_ids(image)
    written = []
    for kind, pixels in {'overlay': overlay(image, ids, network.classes, network.palette), 'ids': ids}.items():
        written.append(out / f'{path.stem}_{kind}.png')
        Image.fromarray(pixels).save(written[-1])
    return written


def _from_checkpoint(
    config: Optional[Config], backend_name: Optional[str], device: Optional[str], path: Path
) -> Segmenter | Classifier:
    run = load_run(path, backend_name, device, config)
    if run.config.classifies:

        def classify(image: np.ndarray) -> np.ndarray:
            scaled = eval_image(image, run.config.augment, run.config.input_size)
            return run.predictor.logits(channels_first(scaled)[None])

        return Classifier(classify, run.meta.get('classes') or ())
    classes, palette = _names(run.meta, run.meta.get('num_classes') or run.config.model.num_classes or 0)

    def ids(image: np.ndarray) -> np.ndarray:
        pixels = _planes(image)
        return class_ids(run.predictor, pixels, published_views(run.config))[0, : image.shape[0], : image.shape[1]]

    return Segmenter(lambda image: run.predictor.logits(_planes(image)), ids, classes, palette)


def _from_file(path: Path, engine: Optional[str]) -> Segmenter | Classifier:
    network = FilePredictor(path, engine)
    facts = network.facts
    if facts.task == 'classification':
        size = network.size or facts.input_size

        def classify(image: np.ndarray) -> np.ndarray:
            return network.logits(channels_first(eval_image(image, facts.augment, size))[None])

        return Classifier(classify, facts.classes)

    def planes(image: np.ndarray) -> np.ndarray:
        return _planes(image) if network.size is None else image.transpose(2, 0, 1)[None]

    def ids(image: np.ndarray) -> np.ndarray:
        views = Views(size=facts.eval_size if network.size is None else None)
        return class_ids(network, planes(image), views)[0, : image.shape[0], : image.shape[1]]

    return Segmenter(lambda image: network.logits(planes(image)), ids, *_names(facts.model_dump(), facts.num_classes))


def _names(meta: Any, count: int) -> tuple[list[str], np.ndarray]:
    classes = meta.get('classes') or [f'class {i}' for i in range(count)]
    return list(classes), np.array(meta.get('palette') or default_palette(len(classes)), np.uint8)


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (1, 3, H, W), edges repeated below and on the right where the image is smaller than SMALLEST."""
    height, width = (max(SMALLEST, side) for side in image.shape[:2])
    padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode='edge')
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None])


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
