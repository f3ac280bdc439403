"""Evaluation of a network on a data set: of pixels one confusion matrix at the labels' full size, of images top-1 and top-5."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from twinseg.common import checkpoint
from twinseg.common import config as configuration
from twinseg.common.backend import Predictor, get_backend, preferred, used_arguments
from twinseg.common.config import Config
from twinseg.common.data.base import Dataset
from twinseg.common.data.open import open_dataset
from twinseg.common.data.samples import EvaluationImages, loaded_images
from twinseg.common.data.segmentation_transforms import scaled_size
from twinseg.common.deploy.exported_file import FilePredictor
from twinseg.common.errors import DataError, StateError, UserError
from twinseg.common.metrics import ImageScores, Scores, boundary_counts, confusion_matrix, judge
from twinseg.common.parallel.processes import ALONE, Group, naming_lost_ranks

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # mmsegmentation's multi-scale test
Size = tuple[int, int]


class Counts(NamedTuple):
    """Pixels counted over a data set."""

    matrix: np.ndarray  # (C, C) int64, rows are the truth
    boundary: np.ndarray  # (2, C) int64, intersection and union near the contours; zeros unless asked for


class Views(NamedTuple):
    """What a network is shown of an image; over several views, class probabilities are averaged."""

    scales: tuple[float, ...] = (1.0,)  # of the image, after ``size``
    flip: bool = False  # mirrored, too
    window: Optional[Size] = None  # height and width of overlapping windows in place of the whole
    size: Optional[Sequence[int]] = None  # height and width that the image is scaled to fit into, proportions kept

    @property
    def averages(self) -> bool:
        """Whether there are several."""
        return self.scales != (1.0,) or self.flip or self.window is not None


WHOLE = Views()  # the image as it is


class Run(NamedTuple):
    """A trained network, ready to run."""

    config: Config
    predictor: Predictor
    meta: checkpoint.RunMeta
    device: str
    network: Any
    backend: str


def network_arguments(config: Config, num_classes: int) -> dict[str, Any]:
    """What the network's builder is given."""
    return {'num_classes': num_classes, **config.model.arguments()}


def num_classes(config: Config, known: Optional[int], source: str) -> int:
    """Classes of the network: ``num_classes`` of the configuration, else the ``known`` ones of ``source``, a data set or a
    checkpoint. UserError where the configuration says less than ``known``, StateError where neither says anything."""
    if config.model.num_classes is None:
        if known is None:
            raise StateError(f'{source}: does not say how many classes it has; set num_classes')
        return known
    if known is not None and config.model.num_classes < known:
        raise UserError(f'num_classes: {config.model.num_classes}, but {source} has {known} classes')
    return config.model.num_classes


def load_run(
    path: Path, backend_name: Optional[str] = None, device: Optional[str] = None, config: Optional[Config] = None
) -> Run:
    """The network of a checkpoint file, or of a run folder (its best checkpoint, else its latest).

    The configuration comes from the checkpoint unless one is given. Averaged (EMA) weights are taken where there are any.
    """
    path = find_checkpoint(path)
    state, meta = checkpoint.model_state(path)
    stored = config is None
    if config is None:
        config = configuration.from_flat(meta.config, str(path))
    name = backend_name or config.runtime.backend or preferred(meta.backend)
    backend = get_backend(name)
    device = backend.setup(
        device or config.runtime.device_target,
        seed=config.runtime.seed,
        threads=config.runtime.threads,
        timeout=config.runtime.collective_timeout,
    )
    if stored:  # earlier versions took arguments that have no effect
        used = used_arguments(backend.MODELS, config.model.arch, config.model.arguments())
        config = config.replace(model_args={key: value for key, value in config.model.model_args.items() if key in used})
    classes = num_classes(config, meta.num_classes, str(path))
    network = backend.build_model(config.model.arch, **network_arguments(config, classes))
    try:
        backend.load_state(network, state)
    except StateError as error:
        raise StateError(f'{path}: for {config.model.arch}: {error}') from None
    return Run(config, backend.make_predictor(network, config), meta, device, network, name)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint file itself, or of a run folder the best one, else the latest."""
    if not path.is_dir():
        return path
    folder = path / 'checkpoints'
    best = folder / checkpoint.BEST
    found = best if best.is_file() else checkpoint.latest(folder)
    if found is None:
        raise StateError(f'{path}: holds no readable checkpoint')
    return found


def stored_config(path: Path) -> Config:
    """The configuration that a checkpoint (or a run folder's checkpoint) carries."""
    path = find_checkpoint(path)
    return configuration.from_flat(checkpoint.load(path)[1].config, str(path))


def evaluate_run(
    path: Path,
    backend_name: Optional[str] = None,
    device: Optional[str] = None,
    config: Optional[Config] = None,
    *,
    ms_flip: bool = False,
    slide: bool = False,
    boundary: bool = False,
    real_size: bool = False,
    split: Optional[str] = None,
    progress: Optional[Callable[[int, int], None]] = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint on its data set; several processes, as torchrun or msrun start them, share the images.

    Returns ``matrix`` (int64, rows are the truth), ``scores`` (boundary IoU among them if ``boundary``) and ``conditions``
    (what a reader needs to repeat it). ``ms_flip``, ``slide`` and ``boundary`` are for segmentation, ``real_size`` (images
    neither resized nor cropped) for image classification; UserError for the other one.
    """
    run = load_run(path, backend_name, device, config)
    backend = get_backend(run.backend)
    group = backend.group()
    with naming_lost_ranks(group):
        found, conditions = _evaluate(
            run.predictor,
            run.config,
            backend.make_loader,
            split,
            ms_flip=ms_flip,
            slide=slide,
            boundary=boundary,
            real_size=real_size,
            group=group,
            progress=progress,
        )
    return {
        **found,
        'conditions': {
            'checkpoint': str(path),
            'step': run.meta.step,
            'arch': run.config.model.arch,
            'backend': run.backend,
            'device': run.device,
            'processes': group.size,
            **conditions,
            'amp_level': run.config.precision.amp_level,
        },
    }


def evaluate_file(
    predictor: FilePredictor,
    config: Config,
    *,
    ms_flip: bool = False,
    slide: bool = False,
    boundary: bool = False,
    real_size: bool = False,
    split: Optional[str] = None,
    progress: Optional[Callable[[int, int], None]] = None,
) -> dict[str, Any]:
    """Evaluates an exported file as ``evaluate_run`` evaluates its checkpoint; no framework is needed for ONNX.

    ``config`` (``Facts.configuration``) gives the data. A file for one size sees images scaled to it, which the conditions say;
    the scores are the checkpoint's where the images have that size. Other scales need a file for any size; windows have the
    file's size.
    """
    size = predictor.size
    for name, given in {'--ms-flip': ms_flip, '--real-size': real_size}.items():
        if given and size is not None:
            raise UserError(
                f'{name}: {predictor.path} was made for images of {size[0]}x{size[1]} only; export it again with --dynamic'
            )
    if size is not None:
        config = config.replace(eval_size=None)  # the file's size decides
    found, conditions = _evaluate(
        predictor,
        config,
        read_in_order,
        split,
        ms_flip=ms_flip,
        slide=slide,
        boundary=boundary,
        real_size=real_size,
        window=size or predictor.facts.input_size,
        progress=progress,
    )
    return {
        **found,
        'conditions': {
            'model': str(predictor.path),
            'step': predictor.facts.step,
            'arch': predictor.facts.arch,
            'engine': predictor.engine.name,
            **conditions,
            'input_size': 'any' if size is None else f'{size[0]}x{size[1]}, images are scaled to it',
        },
    }


def read_in_order(samples: Any, batches: list[list[int]], workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of images and labels, read by ``workers`` threads: a loader without a framework."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for batch in batches:
            images, labels = zip(*pool.map(samples.__getitem__, batch))
            yield np.stack(images), np.stack(labels)


def _evaluate(
    predictor: Predictor,
    config: Config,
    make_loader: Callable[..., Iterator],
    split: Optional[str],
    *,
    ms_flip: bool,
    slide: bool,
    boundary: bool,
    real_size: bool,
    window: Optional[Size] = None,
    group: Group = ALONE,
    progress: Optional[Callable[[int, int], None]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``matrix`` and ``scores``, and what they depend on."""
    asked: dict[str, Any] = {'ms_flip': ms_flip, 'slide': slide, 'boundary': boundary, 'real_size': real_size}
    for name in ('ms_flip', 'slide', 'boundary') if config.classifies else ('real_size',):
        if asked.pop(name):
            raise UserError(
                f'--{name.replace("_", "-")} is for {"segmentation" if config.classifies else "classifiers"}, '
                f'but set: {config.data.set} is not'
            )
    dataset = open_dataset(config.data, split or config.data.val_split)
    if config.classifies:
        scores: Scores | ImageScores
        scores, matrix = evaluate_images(
            predictor, dataset, config, make_loader, real_size=real_size, group=group, progress=progress
        )
        asked |= {'image_size': None if real_size else config.data.image_size, 'crop_pct': config.augment.crop_pct}
    else:
        counts = evaluate(
            predictor,
            dataset,
            batch_size=config.data.eval_batch_size,
            views=published_views(config, ms_flip, slide, window),
            boundary=boundary,
            make_loader=make_loader,
            workers=config.data.num_parallel_workers,
            group=group,
            progress=progress,
        )
        matrix = counts.matrix
        scores = Scores.from_matrix(matrix, dataset.description.classes, counts.boundary if boundary else None)
        asked |= {'eval_size': config.augment.eval_size}
    return (
        {'matrix': matrix, 'scores': scores},
        {'data': dataset.name, 'split': dataset.split, 'images': len(dataset), **asked},
    )


def evaluate_images(
    predictor: Predictor,
    dataset: Dataset,
    config: Config,
    make_loader: Callable[..., Iterator],
    *,
    real_size: bool = False,
    group: Group = ALONE,
    progress: Optional[Callable[[int, int], None]] = None,
) -> tuple[ImageScores, np.ndarray]:
    """Scores of a classifier over every image of a data set, and its confusion matrix (K, K) int64, rows the truth.

    Images are resized and cropped as ``augment`` says, or with ``real_size`` taken one by one as they are. The
    processes of a ``group`` share the images, none of them twice, and all of them get the scores of the whole.
    """
    data = config.data
    samples = EvaluationImages(dataset, config.augment, None if real_size else data.image_size, data.on_error)
    own = range(group.rank, len(dataset), group.size)
    size = 1 if real_size else data.eval_batch_size
    batches = [list(own[start : start + size]) for start in range(0, len(own), size)]
    judged, classes, done = np.zeros((-(-len(dataset) // group.size), 4)), 0, 0
    for images, labels in make_loader(samples, batches, data.num_parallel_workers):
        logits = predictor.logits(images)
        judged[done : done + len(labels)], classes = judge(logits, labels), logits.shape[1]
        done += len(labels)
        if progress:
            progress(done, len(own))
    judged = group.all_gather(judged).swapaxes(0, 1).reshape(-1, 4)[: len(dataset)]  # in the data set's order
    classes = int(group.all_gather(np.array([classes])).max())
    scores, matrix = score_images(judged, dataset.description.classes, classes)
    if scores.broken > data.max_errors:
        raise DataError(
            f'{scores.broken} broken images in {dataset.name} {dataset.split}, more than max_errors: {data.max_errors}'
        )
    return scores, matrix


def score_images(judged: np.ndarray, names: Sequence[str], count: int) -> tuple[ImageScores, np.ndarray]:
    """Scores and confusion matrix (K, K) int64, rows the truth, from what ``metrics.judge`` says of every image by a network
    of ``count`` classes; those that ``names`` lacks are numbered."""
    names = (*names, *(f'class {index}' for index in range(len(names), count)))
    truth, predicted = judged[:, [0, 2]].T.astype(np.int64)
    return ImageScores.from_judged(judged, names), confusion_matrix(truth, predicted, len(names), ignore_index=-1)


def figures(config: Config) -> tuple[str, ...]:
    """The scores that a reader sees first; the best checkpoint has the highest of the first one."""
    return ImageScores.FIGURES if config.classifies else Scores.FIGURES


def published_views(config: Config, ms_flip: bool = False, slide: bool = False, window: Optional[Size] = None) -> Views:
    """The views that scores are published for: at ``eval_size``, if asked at six scales and mirrored, or by windows of the
    crop size or another one."""
    height, width = window or config.augment.crop_size
    return Views(SCALES if ms_flip else (1.0,), ms_flip, (height, width) if slide else None, config.augment.eval_size)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    batch_size: int = 1,
    views: Views = WHOLE,
    boundary: bool = False,
    make_loader: Callable[..., Iterator] = read_in_order,
    workers: int = 0,
    group: Group = ALONE,
    progress: Optional[Callable[[int, int], None]] = None,
) -> Counts:
    """Counts the pixels of a data set by true and predicted class, predictions compared at each label's full size.

    The processes of a ``group`` share the images, none of them twice, and all of them get the counts of the whole.
    """
    classes = len(dataset.description.classes)
    counts = Counts(np.zeros((classes, classes), np.int64), np.zeros((2, classes), np.int64))
    done, own = 0, range(group.rank, len(dataset), group.size)
    for images, labels in loaded_images(make_loader, dataset, own, batch_size, workers):
        predicted = class_ids(predictor, images, views)
        if predicted.max() >= classes:
            raise UserError(f'the network predicts class {predicted.max()}, but {dataset.name} has {classes} classes')
        counts.matrix[:] += confusion_matrix(labels, predicted, classes, dataset.description.ignore_index)
        if boundary:
            for truth, prediction in zip(labels, predicted):
                counts.boundary[:] += boundary_counts(truth, prediction, classes, dataset.description.ignore_index)
        done += len(images)
        if progress:
            progress(done, len(own))
    return Counts(*map(group.sum, counts))


def class_ids(predictor: Predictor, images: np.ndarray, views: Views = WHOLE) -> np.ndarray:
    """uint8 (N, 3, H, W) RGB -> uint8 class ids (N, H, W)."""
    size = (images.shape[2], images.shape[3])
    images = _scaled(images, scaled_size(*size, views.size))
    if not views.averages:
        return predictor.class_ids(images, size)
    return averaged_probabilities(predictor, images, size, views).argmax(1).astype(np.uint8)


def averaged_probabilities(predictor: Predictor, images: np.ndarray, size: Size, views: Views) -> np.ndarray:
    """Mean class probabilities (N, C, h, w) at ``size`` over scales and flips of ``images``, uint8 (N, 3, H, W)."""
    total: Any = 0.0
    for scale in views.scales:
        view = _scaled(images, tuple(max(1, int(side * scale + 0.5)) for side in images.shape[2:]))
        for flipped in (False, True) if views.flip else (False,):
            shown = np.ascontiguousarray(view[..., ::-1]) if flipped else view
            logits = (
                predictor.logits(shown, size) if views.window is None else slide_logits(predictor, shown, views.window, size)
            )
            probabilities = _softmax(logits)
            total += probabilities[..., ::-1] if flipped else probabilities
    total /= len(views.scales) * (2 if views.flip else 1)
    return total


def _scaled(images: np.ndarray, size: Any) -> np.ndarray:
    """uint8 (N, 3, H, W) resized bilinearly to ``size``."""
    if images.shape[2:] == size:
        return images
    return np.stack([cv2.resize(image.transpose(1, 2, 0), size[::-1]).transpose(2, 0, 1) for image in images])


def slide_logits(predictor: Predictor, images: np.ndarray, window: Size, size: Size) -> np.ndarray:
    """Mean logits over windows that overlap by a third (mmsegmentation's slide mode), resized to ``size``."""
    sides = images.shape[2:]
    total: Any = None
    count = np.zeros(sides, np.float32)
    window = (min(window[0], sides[0]), min(window[1], sides[1]))
    for top in _starts(sides[0], window[0]):
        for left in _starts(sides[1], window[1]):
            part = np.s_[..., top : top + window[0], left : left + window[1]]
            logits = predictor.logits(np.ascontiguousarray(images[part]), window)
            if total is None:
                total = np.zeros((*logits.shape[:2], *sides), np.float32)
            total[part] += logits
            count[part] += 1
    total /= count
    if sides == size:
        return total
    return np.stack([np.stack([cv2.resize(plane, size[::-1]) for plane in logits]) for logits in total])


def _starts(side: int, window: int) -> list[int]:
    stride = max(1, window * 2 // 3)
    steps = max(0, -(-(side - window) // stride))
    return [min(i * stride, side - window) for i in range(steps + 1)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    power = logits - logits.max(1, keepdims=True)
    np.exp(power, out=power)
    power /= power.sum(1, keepdims=True)
    return power
