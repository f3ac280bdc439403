"""Scores of a segmentation, all from one integer confusion matrix, boundary IoU, and scores of an image classification."""

from dataclasses import dataclass
from typing import Any, ClassVar, Sequence

import cv2
import numpy as np

from twinseg.common.errors import DataError

DILATION_RATIO = 0.02  # share of the image's diagonal; Cheng et al. 2021, "Boundary IoU", section 4.3
BYTES = 256  # values of a byte
MAX_COUNTED = 1 << 24  # pixels that are counted at once: OpenCV gives counts as float32, which has all integers up to here


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int = 255) -> np.ndarray:
    """Counts pixels: int64 (C, C), row: true class, column: predicted class.

    ``truth`` and ``prediction`` are integer arrays of one shape; pixels whose truth is ``ignore_index`` do not count.
    Raises DataError when there are ids outside 0..C-1, and lists them.
    """
    if truth.shape != prediction.shape:
        raise DataError(f'prediction of size {prediction.shape} against a label of size {truth.shape}')
    if truth.dtype == prediction.dtype == np.uint8 and num_classes <= BYTES:
        return _matrix_of_bytes(truth, prediction, num_classes, ignore_index)
    counted = truth != ignore_index
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, ids in (('label', rows), ('prediction', columns)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise _outside(name, np.unique(ids[(ids < 0) | (ids >= num_classes)]), num_classes, ignore_index)
    return np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(num_classes, num_classes)


def _matrix_of_bytes(truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """The same for uint8 arrays: pairs of any bytes are counted in one pass, and then it is looked at which there are."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    rows, columns = truth.reshape(-1, 1), prediction.reshape(-1, 1)
    for start in range(0, len(rows), MAX_COUNTED):
        part = [_interleaved(ids[start : start + MAX_COUNTED]) for ids in (rows, columns)]
        pairs = cv2.calcHist(part, [0, 1], None, [BYTES, BYTES], [0, BYTES, 0, BYTES])
        if 0 <= ignore_index < BYTES:
            pairs[ignore_index] = 0
        for name, outside in (('label', pairs[num_classes:].any(1)), ('prediction', pairs[:, num_classes:].any(0))):
            if outside.any():
                raise _outside(name, num_classes + np.flatnonzero(outside), num_classes, ignore_index)
        matrix += pairs[:num_classes, :num_classes].astype(np.int64)
    return matrix


def _interleaved(ids: np.ndarray) -> np.ndarray:
    """The ids (N, 1) in an order in which neighbours come from four places: within a region all pixels are one pair, and a
    processor waits when it adds to one counter time and again."""
    if len(ids) % 4:
        return np.ascontiguousarray(ids)
    return cv2.merge(list(np.ascontiguousarray(ids).reshape(4, -1))).reshape(-1, 1)


def _outside(name: str, ids: np.ndarray, num_classes: int, ignore_index: int) -> DataError:
    """The error for ids of a label or of a prediction that no class has."""
    return DataError(
        f'{name} with the ids {ids.tolist()[:20]}; expected 0..{num_classes - 1}'
        + (f' or {ignore_index} (ignored)' if name == 'label' else '')
    )


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1 per class, float64 (C,), NaN where there is nothing to divide by, and their means without the NaNs.

    As in mmsegmentation, the IoU of a class that the labels lack is NaN only where it is never predicted either.
    """

    FIGURES: ClassVar = ('mIoU', 'mAcc', 'aAcc')  # scores of ``to_json`` that a reader sees first; the first one decides
    classes: tuple[str, ...]
    iou: np.ndarray
    accuracy: np.ndarray
    precision: np.ndarray
    f1: np.ndarray
    aacc: float
    boundary_iou: np.ndarray | None = None

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, classes: Sequence[str], boundary: np.ndarray | None = None) -> 'Scores':
        """Scores from a confusion matrix, int (C, C), rows truth, and summed ``boundary_counts`` (2, C) where there are any."""
        right, truth, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
        return cls(
            tuple(classes),
            iou=_ratio(right, truth + predicted - right),
            accuracy=_ratio(right, truth),
            precision=_ratio(right, predicted),
            f1=_ratio(2 * right, truth + predicted),
            aacc=float(_ratio(right.sum(), matrix.sum())),
            boundary_iou=None if boundary is None else boundary_iou(boundary),
        )

    @property
    def recall(self) -> np.ndarray:
        """The same as the accuracy of a class."""
        return self.accuracy

    @property
    def miou(self) -> float:
        return mean(self.iou)

    @property
    def macc(self) -> float:
        return mean(self.accuracy)

    @property
    def mf1(self) -> float:
        return mean(self.f1)

    def to_json(self) -> dict[str, Any]:
        """In percent, under the field's names; None where there is no value."""
        columns = {'IoU': self.iou, 'Acc': self.accuracy, 'precision': self.precision, 'recall': self.recall, 'F1': self.f1}
        means = {'mIoU': percent(self.miou), 'mAcc': percent(self.macc), 'aAcc': percent(self.aacc), 'mF1': percent(self.mf1)}
        if self.boundary_iou is not None:
            columns['boundary IoU'] = self.boundary_iou
            means['boundary mIoU'] = percent(mean(self.boundary_iou))
        return {
            **means,
            'classes': {
                name: {key: percent(values[index]) for key, values in columns.items()}
                for index, name in enumerate(self.classes)
            },
        }


@dataclass(frozen=True)
class ImageScores:
    """Scores of an image classification in 0..1, and the mean cross-entropy; NaN where there is nothing to divide by."""

    FIGURES: ClassVar = ('top1', 'top5', 'mAcc', 'loss')
    classes: tuple[str, ...]
    accuracy: np.ndarray  # (C,)
    images: np.ndarray  # (C,) int64
    top1: float
    top5: float
    loss: float
    broken: int  # images that could not be read, and do not count

    @classmethod
    def from_logits(cls, logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> 'ImageScores':
        """Scores from float32 logits (N, K) and labels (N,) of all images; label -1: not readable."""
        return cls.from_ranks(rank_of_truth(logits, labels), classes)

    @classmethod
    def from_ranks(cls, ranks: np.ndarray, classes: Sequence[str]) -> 'ImageScores':
        """Scores from the rows of ``rank_of_truth`` for all images."""
        broken = ranks[:, 0] < 0
        labels, rank = ranks[~broken, :2].T.astype(np.int64)
        losses = ranks[~broken, 3]
        images = np.bincount(labels, minlength=len(classes))
        correct = np.bincount(labels[rank == 0], minlength=len(classes))
        count = np.array(len(labels))
        return cls(
            tuple(classes),
            _ratio(correct, images),
            images,
            float(_ratio((rank == 0).sum(), count)),
            float(_ratio((rank < 5).sum(), count)),
            float(_ratio(losses.sum(), count)),
            int(broken.sum()),
        )

    @property
    def macc(self) -> float:
        return mean(self.accuracy)

    def to_json(self) -> dict[str, Any]:
        """In percent but for the loss, under the field's names; None where there is no value."""
        return {
            'top1': percent(self.top1),
            'top5': percent(self.top5),
            'mAcc': percent(self.macc),
            'loss': None if np.isnan(self.loss) else round(self.loss, 6),
            'broken': self.broken,
            'classes': {
                name: {'Acc': percent(accuracy), 'images': int(count)}
                for name, accuracy, count in zip(self.classes, self.accuracy, self.images)
            },
        }


def rank_of_truth(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits (N, K) and labels (N,) -> label, number of classes with a larger logit than the right one, predicted class and
    cross-entropy, float64 (N, 4). Only the label counts where it is -1: an image that could not be read."""
    logits = logits.astype(np.float64)
    right = np.take_along_axis(logits, np.maximum(labels, 0)[:, None], 1)
    top = logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits - top).sum(1)) + (top - right)[:, 0]
    return np.stack([labels, (logits > right).sum(1), logits.argmax(1), losses], 1)


def boundary_counts(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int = 255, dilation_ratio: float = DILATION_RATIO
) -> np.ndarray:
    """Pixels of each class near its contour: int64 (2, C), intersection and union; sum these over the images.

    The contour band of a mask is what an erosion by ``dilation_ratio`` of the diagonal removes, the image's border being
    contour too. Ignored pixels are in no mask, neither of the label nor of the prediction.
    """
    distance = max(1, round(dilation_ratio * float(np.hypot(truth.shape[0], truth.shape[1]))))
    prediction = np.where(truth == ignore_index, ignore_index, prediction)
    counts = np.zeros((2, num_classes), np.int64)
    for index in np.union1d(truth, prediction):
        if index != ignore_index:
            ours, theirs = _band(prediction == index, distance), _band(truth == index, distance)
            counts[:, index] = np.count_nonzero(ours & theirs), np.count_nonzero(ours | theirs)
    return counts


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Boundary IoU per class in 0..1, NaN where a class is absent, from summed ``boundary_counts``."""
    return _ratio(counts[0], counts[1])


def mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float('nan')


def percent(value: float) -> float | None:
    """0..1 -> percent, rounded to 4 decimals; None for NaN."""
    return None if np.isnan(value) else round(100 * float(value), 4)


def show(value: float) -> str:
    """0..1 -> text for a table, in percent; n/a for NaN."""
    return 'n/a' if np.isnan(value) else f'{100 * value:.2f}'


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid='ignore'):
        return np.true_divide(part, whole)  # 0 / 0 is NaN


def _band(mask: np.ndarray, distance: int) -> np.ndarray:
    padded = np.pad(mask.astype(np.uint8), 1)
    return mask & (cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1] == 0)
