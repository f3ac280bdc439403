"""A trained network in Python: ``load`` opens it, ``predict`` takes images and returns masks, or the likeliest classes.

``twinseg.load`` is ``load``; the command ``twinseg predict`` goes the same way.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Generic, Optional, Sequence, TypeVar, overload

import numpy as np
from PIL import Image

from twinseg.common import drawing
from twinseg.common.config import Config
from twinseg.common.data.classes import default_palette
from twinseg.common.data.classification_transforms import eval_image
from twinseg.common.data.reading import read_image
from twinseg.common.data.segmentation_transforms import channels_first
from twinseg.common.deploy.engines import ENGINES
from twinseg.common.deploy.exported_file import FilePredictor
from twinseg.common.errors import DataError, UserError
from twinseg.common.inference.evaluate import Views, class_ids, load_run, published_views

SMALLEST = 32  # pixels a side that a network is given: smaller images are padded by repeating their edge
LIKELIEST = 5  # classes of an image that a classifier names
Picture = str | Path | np.ndarray  # an image file, or uint8 (H, W, 3) in RGB
Result = TypeVar('Result')


@dataclass(frozen=True)
class Guess:
    """A class that a classifier takes an image for."""

    name: str
    index: int
    probability: float


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of every pixel of an image."""

    image: np.ndarray  # uint8 (H, W, 3) in RGB
    mask: np.ndarray  # uint8 (H, W): positions in ``classes``
    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 (C, 3) in RGB
    name: str  # of the image's file, without suffix

    def overlay(self) -> np.ndarray:
        """The image with the classes' colours over it and a legend of those present below it, uint8 (h, w, 3); a small image
        is enlarged."""
        return drawing.overlay(self.image, self.mask, self.classes, self.palette)

    def save(self, folder: str | Path = '.') -> list[Path]:
        """Writes ``NAME_overlay.png`` and ``NAME_ids.png`` (the mask) into a folder, made if need be; returns their paths."""
        files = {Path(folder) / f'{self.name}_overlay.png': self.overlay(), Path(folder) / f'{self.name}_ids.png': self.mask}
        for path, pixels in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        return list(files)


@dataclass(frozen=True, eq=False)
class Classification:
    """The likeliest classes of an image, the best first."""

    image: np.ndarray  # uint8 (H, W, 3) in RGB
    classes: tuple[Guess, ...]
    name: str  # of the image's file, without suffix

    def to_json(self) -> list[dict[str, Any]]:
        """``class``, ``index`` and ``probability`` of every guess."""
        return [
            {'class': guess.name, 'index': guess.index, 'probability': round(guess.probability, 6)} for guess in self.classes
        ]

    def save(self, folder: str | Path = '.') -> list[Path]:
        """Writes ``NAME_classes.json`` into a folder, made if need be; returns its path in a list."""
        path = Path(folder) / f'{self.name}_classes.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + '\n', encoding='utf-8')
        return [path]


class Model(ABC, Generic[Result]):
    """A network that takes images of any size."""

    @abstractmethod
    def _predict(self, image: np.ndarray, name: str) -> Result:
        """The result for uint8 (H, W, 3)."""

    @overload
    def predict(self, images: Picture) -> Result: ...

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...]) -> list[Result]: ...

    def predict(self, images: Picture | list[Any] | tuple[Any, ...]) -> Result | list[Result]:
        """The result for an image, or the results for a list of them: files, or uint8 arrays (H, W, 3) in RGB. DataError for
        what is neither."""
        if isinstance(images, (list, tuple)):
            return [self.predict(image) for image in images]
        if isinstance(images, (str, Path)):
            return self._predict(read_image(Path(images)), Path(images).stem)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 3 or images.shape[2] != 3:
            found = f'{images.dtype} {images.shape}' if isinstance(images, np.ndarray) else type(images).__name__
            raise DataError(f'image: {found}; expected a file, or a uint8 array (H, W, 3) in RGB')
        return self._predict(images, 'image')


@dataclass(frozen=True, eq=False)
class Segmenter(Model[Segmentation]):
    """A segmentation network. ``logits`` takes one uint8 image (H, W, 3) and returns float32 logits (1, C, h, w) at the
    head's size; ``class_ids`` returns uint8 ids (H, W)."""

    logits: Callable[[np.ndarray], np.ndarray]
    class_ids: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 (C, 3) in RGB

    def _predict(self, image: np.ndarray, name: str) -> Segmentation:
        return Segmentation(image, self.class_ids(image), self.classes, self.palette, name)


@dataclass(frozen=True, eq=False)
class Classifier(Model[Classification]):
    """An image classifier. ``logits`` takes one uint8 image (H, W, 3) and returns float32 logits (1, C)."""

    logits: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...]

    def _predict(self, image: np.ndarray, name: str) -> Classification:
        logits = self.logits(image)[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        order = np.argsort(-shares, kind='stable')[:LIKELIEST].tolist()
        names = [self.classes[index] if index < len(self.classes) else f'class {index}' for index in order]
        return Classification(image, tuple(map(Guess, names, order, shares[order].tolist())), name)


def load(
    path: str | Path, backend: Optional[str] = None, *, device: Optional[str] = None, engine: Optional[str] = None
) -> Segmenter | Classifier:
    """The network of a run folder, a checkpoint or an exported file.

    ``backend`` (``pytorch``, ``mindspore``; by default the one that trained it, if it is installed) and ``device`` (``cpu``,
    ``gpu``, ``ascend``; by default the best present) are for run folders and checkpoints, ``engine`` (``onnxruntime``,
    ``openvino``, ``mindspore``) for exported files. Raises UserError for what cannot be opened.
    """
    path = Path(path)
    exported = path.suffix in ENGINES
    for name, given in {'backend': backend, 'device': device}.items() if exported else {'engine': engine}.items():
        if given is not None:
            kind = 'an exported file, which an engine runs' if exported else 'no exported file'
            raise UserError(f'{name}: {given!r} is not for {path}: it is {kind}')
    return open_exported(path, engine) if exported else open_checkpoint(path, backend, device)


def open_checkpoint(
    path: Path, backend: Optional[str], device: Optional[str], config: Optional[Config] = None
) -> Segmenter | Classifier:
    """The network of a checkpoint or a run folder (see ``runs.load_run``)."""
    run = load_run(path, backend, device, config)
    if run.config.classifies:

        def classify(image: np.ndarray) -> np.ndarray:
            scaled = eval_image(image, run.config.augment, run.config.input_size)
            return run.predictor.logits(channels_first(scaled)[None])

        return Classifier(classify, tuple(run.meta.classes))

    def ids(image: np.ndarray) -> np.ndarray:
        views = published_views(run.config)
        return class_ids(run.predictor, _planes(image), views)[0, : image.shape[0], : image.shape[1]]

    names = _names(run.meta.classes, run.meta.palette, run.meta.num_classes or run.config.model.num_classes or 0)
    return Segmenter(lambda image: run.predictor.logits(_planes(image)), ids, *names)


def open_exported(path: Path, engine: Optional[str] = None) -> Segmenter | Classifier:
    """The network of an exported file, run by an engine of ``engines.ENGINES``."""
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

    return Segmenter(lambda image: network.logits(planes(image)), ids, *_names(facts.classes, facts.palette, facts.num_classes))


def _names(given: Sequence[str], palette: Sequence, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes, and their colours."""
    classes = given or [f'class {i}' for i in range(count)]
    return tuple(classes), np.array(palette or default_palette(len(classes)), np.uint8)


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (1, 3, H, W), edges repeated below and on the right where the image is smaller than SMALLEST."""
    height, width = (max(SMALLEST, side) for side in image.shape[:2])
    padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode='edge')
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None])
