"""Classification: a class for every image. The functions are those of ``base.Task``."""

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

import numpy as np

from twinseg.common import console, metrics
from twinseg.common.backend import Predictor
from twinseg.common.config import Config
from twinseg.common.data.base import Dataset, OnProgress
from twinseg.common.data.classification_transforms import eval_image
from twinseg.common.data.samples import EvaluationImages, TrainImages
from twinseg.common.data.segmentation_transforms import channels_first
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import write_text
from twinseg.common.images.drawing import NOTEBOOK, READABLE, data_uri, legend, shrink
from twinseg.common.images.interpolation import Size
from twinseg.common.metrics import ImageScores, confusion_matrix, rank_of_truth
from twinseg.common.parallel.processes import ALONE, Group
from twinseg.common.settings.of_task import TaskName
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
from twinseg.common.tasks.video import is_video

NAME: TaskName = 'classification'
FIGURES: tuple[str, ...] = ImageScores.FIGURES
CLASS_FIGURE = 'Acc'
COUNTED = 'images'
HAS_COLOURS = False
DEFAULT_CLASSES = 1000  # ImageNet
PRINTED_SIZE: Size = (224, 224)
EXPORTED_KEYS: Mapping[str, str] = {
    'input_size': 'image_size',
    **{key: key for key in ('crop_pct', 'square_resize', 'interpolation')},
}
SCORED_OUTPUTS: tuple[str, ...] = ('logits',)  # class ids give no top-5
LABELS = 'imagenet_label.json'  # file of class numbers for the model zoo's programs
LIKELIEST = 5


def input_size(config: Config) -> Size:
    height, width = config.data.image_size
    return height, width


def training_size(config: Config) -> Size:
    return input_size(config)


def training_samples(dataset: Dataset, config: Config) -> TrainImages:
    data = config.data
    return TrainImages(dataset, config.augment, data.image_size, config.runtime.seed, data.on_error, data.max_errors)


def evaluation_samples(dataset: Dataset, config: Config, size: Size) -> EvaluationImages:
    return EvaluationImages(dataset, config.augment, list(size), 'raise')


def check_options(options: EvalOptions, subject: str) -> None:
    for name in ('ms_flip', 'slide', 'boundary', 'scales', 'flip', 'stride'):
        if getattr(options, name):
            raise UserError(f'--{name.replace("_", "-")} is for segmentation, but {subject} is not')


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    config: Config,
    make_loader: MakeLoader,
    options: EvalOptions = PLAIN,
    group: Group = ALONE,
    progress: Optional[OnProgress] = None,
) -> Evaluation:
    """Ranks the true class of every image, resized and cropped as ``augment`` says, or with ``real_size`` unchanged."""
    data = config.data
    samples = EvaluationImages(dataset, config.augment, None if options.real_size else data.image_size, data.on_error)
    indices = range(group.rank, len(dataset), group.size)
    batch_size = 1 if options.real_size else data.eval_batch_size
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    ranks, classes, done = np.zeros((-(-len(dataset) // group.size), 4)), 0, 0
    for images, labels in make_loader(samples, batches, data.num_parallel_workers):
        outputs = predictor.logits(images)
        ranks[done : done + len(labels)], classes = rank_of_truth(outputs, labels), outputs.shape[1]
        done += len(labels)
        if progress:
            progress(done, len(indices))
    ranks = group.all_gather(ranks).swapaxes(0, 1).reshape(-1, 4)[: len(dataset)]  # rows in the data set's order
    classes = int(group.all_gather(np.array([classes])).max())
    scores, matrix = _score(ranks, dataset.description.classes, classes)
    if scores.broken > data.max_errors:
        raise DataError(
            f'{scores.broken} broken images in {dataset.name} {dataset.split}, more than max_errors: {data.max_errors}'
        )
    conditions = {
        'data': dataset.name,
        'split': dataset.split,
        'images': len(dataset),
        'real_size': options.real_size,
        'image_size': None if options.real_size else data.image_size,
        'crop_pct': config.augment.crop_pct,
    }
    return Evaluation(NAME, scores, matrix, conditions)


def _score(ranks: np.ndarray, names: Sequence[str], count: int) -> tuple[ImageScores, np.ndarray]:
    """Scores and confusion matrix (K, K) int64 from ``metrics.rank_of_truth`` of every image by a network of ``count`` classes;
    those that ``names`` lacks are numbered."""
    names = (*names, *(f'class {index}' for index in range(len(names), count)))
    truth, predicted = ranks[:, [0, 2]].T.astype(np.int64)
    return ImageScores.from_ranks(ranks, names), confusion_matrix(truth, predicted, len(names), ignore_index=-1)


def show_scores(scores: ImageScores) -> None:
    console.show_image_scores(scores)


def model_zoo_lines(scores: ImageScores) -> str:
    return f'Top1 acc: {metrics.show(scores.top1)}\nTop5 acc: {metrics.show(scores.top5)}'


def logits(network: TrainedNetwork, image: np.ndarray) -> np.ndarray:
    return network.predictor.logits(channels_first(eval_image(image, network.augment, network.size))[None])


@dataclass(frozen=True)
class Guess:
    """A class that a classifier takes an image for."""

    name: str
    index: int
    probability: float


@dataclass(frozen=True, eq=False)
class Classification:
    """The likeliest classes of an image, the best first."""

    image: np.ndarray  # uint8 (H, W, 3) in RGB
    classes: tuple[Guess, ...]
    name: str  # what it is saved under, without the ending
    probabilities: Optional[np.ndarray] = None  # float32 (K,), of all classes

    def to_json(self) -> list[dict[str, Any]]:
        """``class``, ``index`` and ``probability`` of every guess."""
        return [
            {'class': guess.name, 'index': guess.index, 'probability': round(guess.probability, 6)} for guess in self.classes
        ]

    def save(self, folder: str | Path = '.') -> list[Path]:
        """Writes ``NAME_classes.json`` into a folder, made if need be; returns its path in a list."""
        path = output_path(Path(folder), self.name, '_classes.json')
        write_text(path, json.dumps(self.to_json(), indent=1) + '\n')
        return [path]

    def overlay(self) -> np.ndarray:
        """The image with the likeliest classes and their probabilities below it, uint8 (h, w, 3); a small image is enlarged."""
        factor = max(1, -(-READABLE // self.image.shape[1]))
        picture = self.image.repeat(factor, 0).repeat(factor, 1)
        texts = [f'{100 * guess.probability:.1f} %' for guess in self.classes]
        colours = np.array([[round(255 * (1 - guess.probability))] * 3 for guess in self.classes], np.uint8)
        return np.concatenate([picture, legend(picture.shape[1], [guess.name for guess in self.classes], colours, texts)])

    def _repr_html_(self) -> str:
        """The image and the likeliest classes, for notebooks."""
        return f'<img src="{data_uri(shrink(self.overlay(), NOTEBOOK, smooth=True), ".jpg")}" alt="{escape(self.name)}">'


def predict_image(network: TrainedNetwork, image: np.ndarray, name: str) -> Classification:
    shares = _softmax(logits(network, image)[0].astype(np.float64))
    order = np.argsort(-shares, kind='stable')[:LIKELIEST].tolist()
    guesses = (Guess(_name(network.classes, index), index, float(shares[index])) for index in order)
    return Classification(image, tuple(guesses), name, shares.astype(np.float32))


def predict_probabilities(network: TrainedNetwork, image: np.ndarray, name: str, shares: Shares) -> Classification:
    return predict_image(network, image, name)  # which has them anyway


def predict(
    network: TrainedNetwork, files: Sequence[InputFile], out: Path, outcome: Outcome, drawing: Drawing = DRAWING
) -> None:
    """``predictions.json``: of every image, by its path, the likeliest classes with their probabilities."""
    guesses = {}
    for file in files:
        with outcome.attempt(file):
            if is_video(file.path):
                raise DataError(f'{file.path}: a video; a classifier takes images')
            guesses[str(file.path)] = predict_image(network, network.read(file.path), file.name).to_json()
    if guesses:
        written = out / 'predictions.json'
        write_text(written, json.dumps(guesses, indent=1) + '\n')
        outcome.add(written)


def _softmax(values: np.ndarray) -> np.ndarray:
    power = np.exp(values - values.max())
    return power / power.sum()


def _name(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else f'class {index}'


def random_labels(rng: np.random.Generator, count: int, size: Size, classes: int) -> np.ndarray:
    return rng.integers(0, classes, count)


def labels_of_streets(rng: np.random.Generator, labels: np.ndarray, classes: int) -> np.ndarray:
    return rng.integers(0, classes, len(labels))


def data_of_published(classes: Optional[int]) -> DataNames:
    return DataNames('imagenet', (), ())


def write_labels(folder: Path, labels: Iterable[tuple[str, np.ndarray]]) -> list[tuple[str, int]]:
    """One JSON file, name -> number of the class; returns the same."""
    numbers = {name: int(label) for name, label in labels}
    write_text(folder / LABELS, json.dumps(numbers, indent=1) + '\n')
    return list(numbers.items())


def fits(label: Any) -> bool:
    return isinstance(label, int)


def score_outputs(
    outputs: Iterable[np.ndarray],
    labels: Sequence[tuple[str, int]],
    folder: Path,
    class_ids: Callable[[np.ndarray, Size], np.ndarray],
    classes: Sequence[str],
    ignore_index: int,
) -> tuple[ImageScores, np.ndarray]:
    ranks, count = [], 0
    for output, (_, label) in zip(outputs, labels):
        ranks.append(rank_of_truth(output, np.array([label])))
        count = output.shape[1]
    return _score(np.concatenate(ranks), classes, count)


def augmented(dataset: Dataset, config: Config, index: int, epochs: int) -> list[np.ndarray]:
    samples = TrainImages(dataset, config.augment, config.data.image_size, config.runtime.seed)
    return [dataset.read_image(index), *(samples[epoch, index][0].transpose(1, 2, 0) for epoch in range(epochs))]


def validation_picture(predictor: Predictor, dataset: Dataset, config: Config, index: int) -> np.ndarray:
    """The image as evaluation shows it, with its class and the likeliest ones below it."""
    image, label = EvaluationImages(dataset, config.augment, config.data.image_size, 'skip')[index]
    shares = _softmax(predictor.logits(image[None])[0].astype(np.float64))
    order = np.argsort(-shares, kind='stable')[:LIKELIEST].tolist()
    names = dataset.description.classes
    guesses = tuple(Guess(_name(names, guess), guess, float(shares[guess])) for guess in order)
    truth = names[int(label)] if label >= 0 else 'not readable'
    picture = Classification(image.transpose(1, 2, 0), guesses, '').overlay()
    return np.concatenate([legend(picture.shape[1], [f'truth: {truth}'], np.zeros((1, 3), np.uint8)), picture])


def report_pictures(
    dataset: Dataset, indices: Sequence[int], networks: Mapping[str, TrainedNetwork], count: int
) -> list[PictureRow]:
    """``count`` images in one row, each with its class and those that the networks take it for; those that most networks take
    for another class, and for their own class least, first."""
    names, pictures = dataset.description.classes, []
    for index in indices:
        image, label = dataset.read(index)
        lines, wrong, of_truth = [f'truth: {names[int(label)]}'], 0, 0.0
        for name, network in networks.items():
            shares = _softmax(logits(network, image)[0])
            best = int(shares.argmax())
            wrong, of_truth = wrong + (best != int(label)), of_truth + float(shares[int(label)])
            lines.append(f'{name}: {_name(names, best)} ({100 * shares[best]:.0f} %)')
        pictures.append((-wrong, of_truth, index, Picture(lines, image, True)))
    return [PictureRow(None, [picture for *_, picture in sorted(pictures, key=lambda entry: entry[:3])[:count]])]
