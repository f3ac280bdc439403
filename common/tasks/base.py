"""The differences between segmentation and classification: functions that both tasks have under the same names.

``segmentation.py`` and ``classification.py`` are modules with the functions of ``Task``; ``tasks.of(config.task)`` chooses one.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Generator, Iterable, Mapping, NamedTuple, Optional, Protocol, Sequence

import numpy as np

from twinseg.common.backend import Batch, Predictor
from twinseg.common.config import Augment, Config
from twinseg.common.data.base import Dataset, OnProgress
from twinseg.common.data.classes import default_palette
from twinseg.common.data.reading import ImageRules, read_image
from twinseg.common.data.samples import TrainSamples
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import fitting_name
from twinseg.common.host.memory import MORE, is_out_of_memory
from twinseg.common.images.drawing import OPACITY
from twinseg.common.images.interpolation import Size
from twinseg.common.metrics import ImageScores, Scores
from twinseg.common.parallel.processes import ALONE, Group
from twinseg.common.settings.of_task import TaskName
from twinseg.common.tasks import tiles

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # mmsegmentation's multi-scale test
SMALLEST = 32  # pixels a side that a network is given: smaller images are padded by repeating their edge
Shares = Callable[[Predictor, np.ndarray], np.ndarray]  # see ``Task.predict_probabilities``
MakeLoader = Callable[..., Generator[Batch, None, None]]  # see ``Backend.make_loader``


@dataclass(frozen=True)
class EvalOptions:
    """Options of an evaluation."""

    ms_flip: bool = False  # segmentation: averaged over SCALES, mirrored too
    slide: bool = False  # segmentation: averaged over overlapping windows
    boundary: bool = False  # segmentation: boundary IoU, too
    real_size: bool = False  # classification: images neither resized nor cropped
    split: Optional[str] = None  # split; by default the validation split
    scales: tuple[float, ...] = ()  # segmentation: scales that are averaged; by default the configuration's
    flip: bool = False  # segmentation: the mirrored image, too
    stride: Optional[Size] = None  # segmentation: from a window to the next; by default the configuration's

    def of(self, augment: Augment) -> 'EvalOptions':
        """These, with what they leave to the configuration."""
        height, width = self.stride or augment.slide_stride or (0, 0)
        return replace(
            self,
            scales=SCALES if self.ms_flip else self.scales or tuple(augment.eval_scales),
            flip=self.ms_flip or self.flip or augment.eval_flip,
            stride=(height, width) if height else None,
        )


PLAIN = EvalOptions()


@dataclass(frozen=True)
class Drawing:
    """How predictions are drawn into files."""

    opacity: float = OPACITY  # of the class colours over the image, 0 to 1
    palette_png: bool = False  # segmentation: ids in a PNG whose palette has the class colours


DRAWING = Drawing()


@dataclass(frozen=True)
class Evaluation:
    """Scores over a data set."""

    task: TaskName
    scores: Scores | ImageScores
    matrix: np.ndarray  # confusion matrix (C, C), int64, rows are the truth
    conditions: Mapping[str, Any]  # JSON-able: what a reader needs to repeat it

    def to_json(self) -> dict[str, Any]:
        """Scores in percent, ``conditions`` and ``confusion``."""
        return {**self.scores.to_json(), 'conditions': dict(self.conditions), 'confusion': self.matrix.tolist()}


class TrainedNetwork(NamedTuple):
    """A network as prediction sees it."""

    task: TaskName
    predictor: Predictor
    augment: Augment
    size: Size  # size of the images that the network was made for
    classes: Sequence[str]
    palette: np.ndarray  # uint8 (C, 3)
    smallest: int = SMALLEST
    white_level: Optional[float] = None  # white in image files of more than 8 bits (see ``config.Data``)
    one_size: bool = False  # images are scaled to a size before the network sees them, so that none is too large for it
    device: str = 'cpu'

    def read(self, path: Path) -> np.ndarray:
        """An image file, uint8 (H, W, 3) RGB, as people see it: turned as its EXIF data says, whatever the training did."""
        return read_image(path, rules=ImageRules(white_level=self.white_level, most=tiles.MAX_PREDICTED))


class InputFile(NamedTuple):
    """An image or a video to predict."""

    path: Path
    name: str  # name of its outputs: a path below the output folder, with ``/``, without the ending


class Outcome:
    """Files that are predicted one by one: what was written of them, and why others could not be read."""

    def __init__(self, hear: Callable[[Path], None] = lambda path: None, done: Callable[[], None] = lambda: None):
        self.written: list[Path] = []
        self.problems: dict[Path, str] = {}
        self._hear, self._done = hear, done  # a file was written; a file of the input is done with

    def add(self, *paths: Path) -> None:
        """Notes files that were written."""
        self.written += paths
        for path in paths:
            self._hear(path)

    @contextmanager
    def attempt(self, file: InputFile) -> Iterator[None]:
        """A block that predicts a file. One that cannot be read, or that takes more memory than there is, ends the block, not
        the program: a warning names it."""
        try:
            yield
        except DataError as error:
            self._failed(file, str(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._failed(file, f'{file.path}: {error}' if isinstance(error, UserError) else f'{file.path}: takes {MORE}')
        finally:
            self._done()

    def _failed(self, file: InputFile, reason: str) -> None:
        self.problems[file.path] = reason
        warnings.warn(f'not predicted: {reason}', stacklevel=2)


class PictureRow(NamedTuple):
    """Pictures of a report that belong together."""

    title: Optional[str]
    pictures: list['Picture']


class Picture(NamedTuple):
    """A picture with the lines below it."""

    lines: Sequence[str]
    pixels: np.ndarray  # uint8 (H, W, 3)
    is_photo: bool  # may be smoothed and compressed


class DataNames(NamedTuple):
    """A data set, and its classes where a network of that many classes must be one of it."""

    set: Optional[str]
    classes: Sequence[str]
    palette: Sequence[tuple[int, int, int]]


class Task(Protocol):
    """The functions and constants of ``segmentation.py`` and ``classification.py``."""

    NAME: TaskName
    FIGURES: tuple[str, ...]  # the scores that a reader sees first; the best checkpoint has the highest of the first one
    CLASS_FIGURE: str  # score of a class; with an m before it, the mean
    COUNTED: str  # things that a confusion matrix counts
    HAS_COLOURS: bool  # classes have colours in pictures
    DEFAULT_CLASSES: int  # number of classes of a network without data
    PRINTED_SIZE: Size  # image size for which papers count multiply-accumulates
    EXPORTED_KEYS: Mapping[str, str]  # field of ``ExportMetadata`` -> key of the configuration that it is

    SCORED_OUTPUTS: tuple[str, ...]  # outputs of exported files that can be scored (``ExportMetadata.output``)

    def input_size(self, config: Config) -> Size:
        """Size of the images that the network is evaluated on, or where these have their own, trained on."""

    def training_size(self, config: Config) -> Size:
        """Size of the images that the network is trained on."""

    def training_samples(self, dataset: Dataset, config: Config) -> TrainSamples:
        """Augmented samples by (epoch, index)."""

    def evaluation_samples(self, dataset: Dataset, config: Config, size: Size) -> Any:
        """``samples[index]``: image uint8 (3, H, W) as evaluation shows it to a network for ``size``, and label."""

    def check_options(self, options: EvalOptions, subject: str) -> None:
        """UserError for an option that has no effect on this task; ``subject``: what is of this task, for the message."""

    def evaluate(
        self,
        predictor: Predictor,
        dataset: Dataset,
        config: Config,
        make_loader: MakeLoader,
        options: EvalOptions = PLAIN,
        group: Group = ALONE,
        progress: Optional[OnProgress] = None,
    ) -> Evaluation:
        """Scores of a predictor over every image of a data set.

        The processes of a ``group`` share the images, none of them twice, and all of them get the scores of the whole. What the
        network is shown of an image is the predictor's matter (``inference/views.py``).
        """

    def show_scores(self, scores: Any) -> None:
        """Prints the classes and the means."""

    def model_zoo_lines(self, scores: Any) -> str:
        """The scores as the model zoo's programs print them."""

    def logits(self, network: TrainedNetwork, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 logits (1, C, h, w) at the head's size, or (1, C)."""

    def predict_probabilities(self, network: TrainedNetwork, image: np.ndarray, name: str, shares: Shares) -> Any:
        """The same as ``predict_image``, with ``probabilities`` of all classes; ``shares`` gives those that a predictor sees in
        uint8 (1, 3, H, W) as float32 (1, C, H, W)."""

    def predict_image(self, network: TrainedNetwork, image: np.ndarray, name: str) -> Any:
        """The prediction for an image, uint8 (H, W, 3): a ``Segmentation`` or a ``Classification``; ``name`` is what it is
        saved under, without the ending."""

    def predict(
        self,
        network: TrainedNetwork,
        files: Sequence[InputFile],
        out: Path,
        outcome: Outcome,
        drawing: Drawing = DRAWING,
    ) -> None:
        """Writes what a network sees in images and videos into a folder; ``outcome`` hears of every file."""

    def random_labels(self, rng: np.random.Generator, count: int, size: Size, classes: int) -> np.ndarray:
        """Labels of ``count`` images of ``size``, as ``Trainer.step`` takes them."""

    def labels_of_streets(self, rng: np.random.Generator, labels: np.ndarray, classes: int) -> np.ndarray:
        """Labels for images of street scenes, whose pixels have the ``labels`` (N, H, W)."""

    def data_of_published(self, classes: Optional[int]) -> DataNames:
        """The data set on which published weights for so many classes were most likely trained."""

    def write_labels(self, folder: Path, labels: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Writes (name, label) of every image as the model zoo's programs for cards read them; returns, of each, name and what
        ``score_outputs`` needs to know of its label (JSON-able)."""

    def fits(self, label: Any) -> bool:
        """True where ``label`` has the form that ``write_labels`` returns."""

    def score_outputs(
        self,
        outputs: Iterable[np.ndarray],
        labels: Sequence[tuple[str, Any]],
        folder: Path,
        class_ids: Callable[[np.ndarray, Size], np.ndarray],
        classes: Sequence[str],
        ignore_index: int,
    ) -> tuple[Scores | ImageScores, np.ndarray]:
        """Scores and confusion matrix of a network's outputs (1, ...), one for each of the ``labels`` that ``write_labels``
        returned; ``class_ids(output, size)`` makes ids (1, H, W) of one."""

    def augmented(self, dataset: Dataset, config: Config, index: int, epochs: int) -> list[np.ndarray]:
        """A sample as a reader wants to check it, and as the first epochs bring it: uint8 RGB."""

    def validation_picture(self, predictor: Predictor, dataset: Dataset, config: Config, index: int) -> np.ndarray:
        """An image of a data set, its truth, what a predictor sees in it, and where that is wrong, as one picture, uint8
        (H, W, 3)."""

    def report_pictures(
        self, dataset: Dataset, indices: Sequence[int], networks: Mapping[str, TrainedNetwork], count: int
    ) -> list[PictureRow]:
        """``count`` of some images of a data set, their labels, and what networks see in them: the worst first."""


def output_path(folder: Path, name: str, ending: str) -> Path:
    """``folder/name + ending``; a name too long for a file system is cut, with a digest of the whole at its end."""
    path = folder / name
    return path.parent / fitting_name(path.name, ending)


def names_and_colours(
    classes: Optional[Sequence[str]], palette: Optional[Sequence[Sequence[int]]], count: int
) -> tuple[list[str], np.ndarray]:
    """Names and colours of ``count`` classes; where there are none, numbers and the default palette."""
    names = list(classes or [f'class {index}' for index in range(count)])
    return names, np.array(palette or default_palette(len(names)), np.uint8).reshape(-1, 3)
