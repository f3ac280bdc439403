"""Segmentation: a class for every pixel. The functions are those of ``base.Task``."""

import io
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

import numpy as np
from PIL import Image

from twinseg.common import console, metrics
from twinseg.common.backend import Predictor
from twinseg.common.config import Config
from twinseg.common.data.base import Dataset, OnProgress
from twinseg.common.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from twinseg.common.data.samples import LabelledImages, TrainSamples, loaded_images
from twinseg.common.data.segmentation_transforms import channels_first
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import written_beside
from twinseg.common.images.drawing import (
    NOTEBOOK,
    OPACITY,
    blend,
    colour_labels,
    data_uri,
    encoded,
    error_map,
    overlay,
    shares,
    shrink,
)
from twinseg.common.images.interpolation import Size
from twinseg.common.metrics import Scores, boundary_counts, confusion_matrix
from twinseg.common.parallel.processes import ALONE, Group
from twinseg.common.settings.of_task import TaskName
from twinseg.common.tasks import tiles
from twinseg.common.tasks.base import (
    DRAWING,
    PLAIN,
    DataNames,
    Drawing,
    EvalOptions,
    Evaluation,
    InputFile,
    MakeLoader,
    Outcome,
    Picture,
    PictureRow,
    Shares,
    TrainedNetwork,
    output_path,
)
from twinseg.common.tasks.card_files import read_array
from twinseg.common.tasks.video import check_container, frame_rate, is_video, recorded, rewrite

NAME: TaskName = 'segmentation'
FIGURES: tuple[str, ...] = Scores.FIGURES
CLASS_FIGURE = 'IoU'
COUNTED = 'pixels'
HAS_COLOURS = True
DEFAULT_CLASSES = len(CITYSCAPES_CLASSES)
PRINTED_SIZE: Size = (512, 1024)  # half of Cityscapes
EXPORTED_KEYS: Mapping[str, str] = {'input_size': 'crop_size', 'eval_size': 'eval_size'}
SCORED_OUTPUTS: tuple[str, ...] = ('logits', 'class_ids')
PANEL = 400  # pixels of the widest part of a picture of an evaluation
LABELS = 'label'  # folder of the model zoo's programs
ENDINGS = ('_overlay.png', '_ids.png')  # ends of the names of an image's predictions
VIDEO_ENDINGS = ('_overlay.mp4', '_mask.mp4')  # of a video: overlay, and class colours alone


def input_size(config: Config) -> Size:
    height, width = config.augment.eval_size or config.augment.crop_size
    return height, width


def training_size(config: Config) -> Size:
    height, width = config.augment.crop_size
    return height, width


def training_samples(dataset: Dataset, config: Config) -> TrainSamples:
    return TrainSamples(dataset, config.augment, config.runtime.seed, config.data.on_error, config.data.max_errors)


def evaluation_samples(dataset: Dataset, config: Config, size: Size) -> LabelledImages:
    return LabelledImages(dataset, config.augment)


def check_options(options: EvalOptions, subject: str) -> None:
    if options.real_size:
        raise UserError(f'--real-size is for classifiers, but {subject} is not')
    if options.ms_flip and options.scales:
        raise UserError('--scales: --ms-flip has six scales of its own; give one of the two')
    if options.stride and not options.slide:
        raise UserError('--stride: has no effect without --slide')


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    config: Config,
    make_loader: MakeLoader,
    options: EvalOptions = PLAIN,
    group: Group = ALONE,
    progress: Optional[OnProgress] = None,
) -> Evaluation:
    """Counts the pixels by true and predicted class, predictions compared at each label's full size, or as a
    publisher's protocol has it (``data/protocols.py``)."""
    names, ignored = dataset.description.classes, dataset.description.ignore_index
    matrix, boundary = np.zeros((len(names), len(names)), np.int64), np.zeros((2, len(names)), np.int64)
    done, indices = 0, range(group.rank, len(dataset), group.size)
    data, augment, shown = config.data, config.augment, options.of(config.augment)
    samples = LabelledImages(dataset, augment)
    for images, labels in loaded_images(make_loader, samples, indices, data.eval_batch_size, data.num_parallel_workers):
        predicted = predictor.class_ids(images, (images.shape[2], images.shape[3]))
        if predicted.max() >= len(names):
            raise UserError(f'the network predicts class {predicted.max()}, but {dataset.name} has {len(names)} classes')
        matrix += confusion_matrix(labels, predicted, len(names), ignored)
        if options.boundary:
            for truth, prediction in zip(labels, predicted):
                boundary += boundary_counts(truth, prediction, len(names), ignored)
        done += len(images)
        if progress:
            progress(done, len(indices))
    matrix, boundary = group.sum(matrix), group.sum(boundary)
    if not matrix.any():
        raise DataError(
            f'{dataset.name} {dataset.split}: no label has a labelled pixel: all are {ignored}, which is ignored, so there is '
            'nothing to score'
        )
    conditions = {
        'data': dataset.name,
        'split': dataset.split,
        'images': len(dataset),
        'protocol': augment.protocol,
        'ms_flip': options.ms_flip,
        'scales': list(shown.scales),
        'flip': shown.flip,
        'average': augment.eval_average,
        'slide': options.slide,
        'stride': shown.stride and list(shown.stride),
        'boundary': options.boundary,
        'eval_size': augment.eval_size,
    }
    scores = Scores.from_matrix(matrix, names, boundary if options.boundary else None)
    return Evaluation(NAME, scores, matrix, conditions)


def show_scores(scores: Scores) -> None:
    console.show_pixel_scores(scores)


def model_zoo_lines(scores: Scores) -> str:
    return f'mIoU: {metrics.show(scores.miou)}'


def logits(network: TrainedNetwork, image: np.ndarray) -> np.ndarray:
    return network.predictor.logits(_planes(image, network.smallest))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of every pixel of an image."""

    image: np.ndarray  # uint8 (H, W, 3) in RGB
    mask: np.ndarray  # uint8 (H, W): positions in ``classes``
    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 (C, 3) in RGB
    name: str  # what it is saved under, without the ending
    probabilities: Optional[np.ndarray] = None  # float32 (C, H, W), where they were asked for

    @property
    def shares(self) -> dict[str, float]:
        """Names of the classes present, with their share of the pixels, the largest first."""
        return {self.classes[index]: share for index, share in shares(self.mask, len(self.classes)).items()}

    def overlay(self, all_classes: bool = False, opacity: float = OPACITY) -> np.ndarray:
        """The image with the classes' colours over it and a legend of those present (or of all) below it, uint8 (h, w, 3); a
        small image is enlarged. ``opacity`` of the colours: 0 to 1."""
        return overlay(self.image, self.mask, self.classes, self.palette, all_classes=all_classes, opacity=opacity)

    def save(self, folder: str | Path = '.', drawing: Drawing = DRAWING) -> list[Path]:
        """Writes ``NAME_overlay.png`` and ``NAME_ids.png`` (the mask) into a folder, made if need be; returns their paths."""
        paths = [output_path(Path(folder), self.name, ending) for ending in ENDINGS]
        contents = (lambda: encoded(self.overlay(opacity=drawing.opacity)), lambda: self._ids(drawing.palette_png))
        for path, content in zip(paths, contents):
            with written_beside(path) as part:
                part.write_bytes(content())
        return paths

    def _ids(self, with_palette: bool) -> bytes:
        """The mask as a PNG: grey levels are class ids, or indices of the palette, which viewers show in its colours."""
        if not with_palette:
            return encoded(self.mask)
        ids, file = Image.fromarray(self.mask), io.BytesIO()
        ids.putpalette(self.palette.tobytes())  # makes the mode P
        ids.save(file, 'PNG')
        return file.getvalue()

    def _repr_html_(self) -> str:
        """The overlay, for notebooks."""
        return f'<img src="{data_uri(shrink(self.overlay(), NOTEBOOK, smooth=True), ".jpg")}" alt="{escape(self.name)}">'


def predict_image(network: TrainedNetwork, image: np.ndarray, name: str) -> Segmentation:
    """Every pixel's class. An image of more than ``tiles.MAX_WHOLE`` pixels is predicted in overlapping tiles, and a warning
    says so."""
    if network.one_size or image.shape[0] * image.shape[1] <= tiles.MAX_WHOLE:
        ids = _class_ids(network, image)
    else:
        ids = tiles.class_ids(lambda part: _class_ids(network, part), image, name, on_host=network.device == 'cpu')
    return Segmentation(image, ids, tuple(network.classes), network.palette, name)


def predict_probabilities(network: TrainedNetwork, image: np.ndarray, name: str, shares: Shares) -> Segmentation:
    """With the probabilities of all classes. DataError for an image of more than ``tiles.MAX_WHOLE`` pixels."""
    height, width = image.shape[:2]
    if height * width > tiles.MAX_WHOLE:
        raise DataError(
            f'{name}: probabilities of {width}x{height} pixels; they are for images of at most {tiles.MAX_WHOLE} pixels: give '
            'parts of it, or leave probabilities out'
        )
    probabilities = shares(network.predictor, _planes(image, network.smallest))[0, :, :height, :width]
    ids = probabilities.argmax(0).astype(np.uint8)
    return Segmentation(image, ids, tuple(network.classes), network.palette, name, probabilities)


def _class_ids(network: TrainedNetwork, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return network.predictor.class_ids(_planes(image, network.smallest))[0, :height, :width]


def predict(
    network: TrainedNetwork, files: Sequence[InputFile], out: Path, outcome: Outcome, drawing: Drawing = DRAWING
) -> None:
    """``<name>_overlay.png`` (colours and a legend of the classes present) and ``<name>_ids.png`` (uint8 class ids of the
    image's size); of a video ``<name>_overlay.mp4`` and ``<name>_mask.mp4``."""
    with _Writer(out, outcome, drawing) as writer:
        for file in files:
            with outcome.attempt(file):
                if is_video(file.path):
                    writer.wait()
                    outcome.add(*_predict_video(network, file, out, drawing))
                else:
                    writer.save(file, predict_image(network, network.read(file.path), file.name))


class _Writer:
    """Draws and writes the prediction of an image while the next one is computed; after the block all are written."""

    def __init__(self, out: Path, outcome: Outcome, drawing: Drawing):
        self.out, self.outcome, self.drawing = out, outcome, drawing
        self.executor = ThreadPoolExecutor(1)
        self.pending: Optional[tuple[InputFile, Future[list[Path]]]] = None

    def __enter__(self) -> '_Writer':
        return self

    def __exit__(self, *_: object) -> None:
        with self.executor:
            self.wait()

    def save(self, file: InputFile, prediction: Segmentation) -> None:
        """Begins to write a prediction, when the one before it is written."""
        self.wait()
        self.pending = file, self.executor.submit(prediction.save, self.out, self.drawing)

    def wait(self) -> None:
        """Waits for the prediction that is being written, and tells the outcome. Raises OSError where it cannot be written."""
        if self.pending is not None:
            (file, written), self.pending = self.pending, None
            with self.outcome.attempt(file):
                self.outcome.add(*written.result())


def _predict_video(network: TrainedNetwork, file: InputFile, out: Path, drawing: Drawing) -> list[Path]:
    paths, said = [output_path(out, file.name, ending) for ending in VIDEO_ENDINGS], False

    def drawn(frame: np.ndarray) -> np.ndarray:
        nonlocal said
        with warnings.catch_warnings():
            if said:  # the first frame's line is enough
                warnings.filterwarnings('ignore', '.* overlapping tiles of ')
            said = True
            result = predict_image(network, frame, file.name)
        record_mask(colour_labels(result.mask, result.palette))
        return result.overlay(all_classes=True, opacity=drawing.opacity)

    check_container(file.path)
    with recorded(paths[1], frame_rate(file.path)) as record_mask:
        rewrite(file.path, paths[0], drawn)
    return paths


def _planes(image: np.ndarray, smallest: int) -> np.ndarray:
    """(H, W, 3) -> (1, 3, H, W), edges repeated below and on the right where the image is smaller."""
    height, width = (max(smallest, side) for side in image.shape[:2])
    padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode='edge')
    return channels_first(padded)[None]


def random_labels(rng: np.random.Generator, count: int, size: Size, classes: int) -> np.ndarray:
    return rng.integers(0, classes, (count, *size)).astype(np.uint8)


def labels_of_streets(rng: np.random.Generator, labels: np.ndarray, classes: int) -> np.ndarray:
    return labels


def data_of_published(classes: Optional[int]) -> DataNames:
    if classes == len(CITYSCAPES_CLASSES):
        return DataNames('cityscapes', CITYSCAPES_CLASSES, CITYSCAPES_PALETTE)
    return DataNames(None, (), ())


def write_labels(folder: Path, labels: Iterable[tuple[str, np.ndarray]]) -> list[tuple[str, Size]]:
    """``label/<name>_label.bin``, int32 (H, W); returns their sizes."""
    (folder / LABELS).mkdir(parents=True)
    sizes = []
    for name, label in labels:
        label.astype(np.int32).tofile(folder / LABELS / f'{name}_label.bin')
        sizes.append((name, (label.shape[0], label.shape[1])))
    return sizes


def fits(label: Any) -> bool:
    return isinstance(label, tuple)


def score_outputs(
    outputs: Iterable[np.ndarray],
    labels: Sequence[tuple[str, Size]],
    folder: Path,
    class_ids: Callable[[np.ndarray, Size], np.ndarray],
    classes: Sequence[str],
    ignore_index: int,
) -> tuple[Scores, np.ndarray]:
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for output, (name, size) in zip(outputs, labels):
        label = read_array(folder / LABELS / f'{name}_label.bin', np.int32, size)
        matrix += confusion_matrix(label, class_ids(output, size)[0], len(classes), ignore_index)
    return Scores.from_matrix(matrix, classes), matrix


def augmented(dataset: Dataset, config: Config, index: int, epochs: int) -> list[np.ndarray]:
    """The image, its label over it, and augmented versions with a pale label."""
    augment, palette = config.augment.model_copy(update={'label_stride': 1}), dataset.description.palette
    samples = TrainSamples(dataset, augment, config.runtime.seed)
    image, label = dataset.read(index)
    pairs = [samples[epoch, index] for epoch in range(epochs)]
    pale = [blend(planes.transpose(1, 2, 0), ids, palette, opacity=0.35) for planes, ids in pairs]
    return [image, blend(image, label, palette), *pale]


def validation_picture(predictor: Predictor, dataset: Dataset, config: Config, index: int) -> np.ndarray:
    """Image, truth, prediction and errors, side by side."""
    image, label = LabelledImages(dataset, config.augment)[index]
    height, width = image.shape[1:]
    ids = predictor.class_ids(image[None], (height, width))[0]
    palette, pixels = dataset.description.palette, image.transpose(1, 2, 0)
    panels = (pixels, colour_labels(label, palette), colour_labels(ids, palette), error_map(pixels, label, ids))
    return np.concatenate([shrink(panel, PANEL, smooth=number == 0) for number, panel in enumerate(panels)], axis=1)


def report_pictures(
    dataset: Dataset, indices: Sequence[int], networks: Mapping[str, TrainedNetwork], count: int
) -> list[PictureRow]:
    """A row for each of ``count`` images: itself, its label, and of each network what it sees, over the image, and where that
    is wrong. The images with the lowest IoU come first; of several networks, half are those in which they differ most."""
    palette, ignored = dataset.description.palette, dataset.description.ignore_index
    seen: dict[int, dict[str, np.ndarray]] = {}
    scores: dict[int, dict[str, float]] = {}
    for index in indices:
        image, label = dataset.read(index)
        planes, size = channels_first(image)[None], (image.shape[0], image.shape[1])
        seen[index] = {name: network.predictor.class_ids(planes, size)[0] for name, network in networks.items()}
        scores[index] = {name: _iou(label, ids, len(palette), ignored) for name, ids in seen[index].items()}
    worst = sorted(indices, key=lambda index: float(np.mean(list(scores[index].values()))))
    apart = {index: _apart(list(ids.values())) for index, ids in seen.items()}
    if len(networks) > 1:
        most = sorted(indices, key=lambda index: -apart[index])[: count // 2]
        worst = [index for index in worst if index not in most][: count - len(most)] + most
    rows = []
    for index in worst[:count]:
        image, label = dataset.read(index)
        pictures = [Picture(['image'], image, True), Picture(['truth'], colour_labels(label, palette), False)]
        for name, ids in seen[index].items():
            pictures.append(Picture([f'{name}: IoU {scores[index][name]:.1f}'], blend(image, ids, palette), True))
            pictures.append(Picture([f'{name}: errors in red'], error_map(image, label, ids, ignored), False))
        note = f', networks differ in {100 * apart[index]:.2f} % of the pixels' if len(networks) > 1 else ''
        rows.append(PictureRow(f'{dataset.samples[index].name}{note}', pictures))
    return rows


def _iou(label: np.ndarray, ids: np.ndarray, classes: int, ignored: int) -> float:
    """The mean IoU of the classes that an image or its prediction has, in per cent; 100 where nothing is labelled."""
    matrix = confusion_matrix(label, ids, classes, ignored)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return float(100 * (np.diag(matrix)[union > 0] / union[union > 0]).mean()) if union.any() else 100.0


def _apart(masks: Sequence[np.ndarray]) -> float:
    """The largest share of the pixels in which two of some masks differ."""
    return max((float((one != other).mean()) for one, other in combinations(masks, 2)), default=0.0)
