"""The twins of one checkpoint on a data set's images: pixels that differ, scores of each, the worst images as pictures."""

from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from PIL import Image

from twinseg.common import tasks
from twinseg.common.config import Config
from twinseg.common.data.base import OnProgress
from twinseg.common.data.open import open_validation
from twinseg.common.data.samples import LabelledImages
from twinseg.common.errors import UserError
from twinseg.common.files import written_beside
from twinseg.common.images.drawing import colour_labels
from twinseg.common.inference import views
from twinseg.common.inference.runs import load_run
from twinseg.common.metrics import Scores, confusion_matrix

TOLERANCE = 1e-4  # share of the pixels (docs/design.md, section 4)
WORST = 4  # pictures


class DataParity(NamedTuple):
    """Predictions of both backends on the validation split."""

    images: int
    pixels: int
    differing: int  # pixels whose classes differ
    scores: dict[str, dict[str, Any]]  # by backend, in per cent
    worst: list[tuple[int, int]]  # index of an image, pixels that differ; the worst first, none without any
    pictures: list[Path]

    @property
    def ok(self) -> bool:
        """Whether the share of differing pixels is within TOLERANCE."""
        return self.differing <= TOLERANCE * self.pixels

    def to_json(self) -> dict[str, Any]:
        """``ok`` first."""
        values = self._asdict()
        values['pictures'] = list(map(str, self.pictures))
        return {'ok': self.ok, 'share': self.differing / self.pixels, 'tolerance': TOLERANCE, **values}


def parity_on_data(
    checkpoint: Path,
    config: Config,
    out: Optional[Path] = None,
    *,
    most: Optional[int] = None,
    progress: Optional[OnProgress] = None,
) -> DataParity:
    """Predicts the validation images of ``config`` (at most ``most``) with a checkpoint's network in both backends on the CPU.

    The worst images go into the folder ``out``: image, both masks, and the pixels that differ in white. UserError for a
    classifier, and for a folder that cannot be written.
    """
    if not tasks.of(config.task).HAS_COLOURS:
        raise UserError('--data: compares pixels; the checkpoint is of a classifier')
    predictors = {}
    for name in ('pytorch', 'mindspore'):
        run = load_run(checkpoint, name, 'cpu', config)
        predictors[name] = views.as_published(run.predictor, run.config)
    dataset = open_validation(config.data)
    samples, classes = LabelledImages(dataset, config.augment), dataset.description.classes
    matrices = {name: np.zeros((len(classes), len(classes)), np.int64) for name in predictors}
    count = min(most or len(dataset), len(dataset))
    apart: list[tuple[int, int]] = []
    pixels = 0
    for index in range(count):
        planes, label = samples[index]
        ids = {
            name: predictor.class_ids(planes[None], (planes.shape[1], planes.shape[2]))
            for name, predictor in predictors.items()
        }
        for name in predictors:
            matrices[name] += confusion_matrix(label[None], ids[name], len(classes), dataset.description.ignore_index)
        differing = int((ids['pytorch'] != ids['mindspore']).sum())
        pixels += ids['pytorch'].size
        apart.append((index, differing))
        if progress:
            progress(index + 1, count)
    worst = sorted((item for item in apart if item[1]), key=lambda item: -item[1])[:WORST]
    pictures = []
    for index, _ in worst if out is not None else ():
        planes = samples[index][0]
        ids = {
            name: predictor.class_ids(planes[None], (planes.shape[1], planes.shape[2]))[0]
            for name, predictor in predictors.items()
        }
        assert out is not None
        pictures.append(_picture(out / f'{index:04d}.png', planes, ids, dataset.description.palette))
    scores = {name: Scores.from_matrix(matrix, classes).to_json() for name, matrix in matrices.items()}
    return DataParity(count, pixels, sum(number for _, number in apart), scores, worst, pictures)


def _picture(path: Path, planes: np.ndarray, ids: dict[str, np.ndarray], palette: np.ndarray) -> Path:
    masks = [colour_labels(mask, np.asarray(palette, np.uint8)) for mask in ids.values()]
    first, second = ids.values()
    white = np.repeat((first != second)[..., None] * np.uint8(255), 3, 2)
    row = np.concatenate([planes.transpose(1, 2, 0), *masks, white], 1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as part:
            Image.fromarray(row).save(part, 'PNG')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from None
    return path
