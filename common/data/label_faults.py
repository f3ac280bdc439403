"""What the labels of a split show, and what is wrong with that: nothing, one class, classes that never come, vanished ids."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import cv2
import numpy as np

from twinseg.common.data.base import IGNORE, Dataset, FileDataset
from twinseg.common.data.cache import CachedDataset
from twinseg.common.errors import DataError
from twinseg.common.printable import listed

FEWEST, MOST = 50, 2000  # labels that are looked at before a training, unless there are fewer
PIXELS = 1 << 28  # and about how many pixels between the two: some seconds on two cores
THREADS = 8
UNEQUAL = 100  # times as many images as the rarest class that are called a fault in a classifier's data
EXACT = 1 << 24  # pixels up to which OpenCV's float32 histogram is exact


@dataclass(frozen=True)
class LabelCounts:
    """What the labels that were looked at show."""

    pixels: np.ndarray  # int64 (C,): pixels of each class, of a classifier images
    ignored: int  # pixels that count for nothing
    empty: Sequence[str]  # samples without a labelled pixel
    looked_at: int
    total: int  # labels of the split


class Fault(NamedTuple):
    """A fault of the labels; a training with a ``fatal`` one cannot learn, or cannot be scored."""

    line: str
    fatal: bool


def class_pixels(label: np.ndarray) -> np.ndarray:
    """Pixels of each of the ids 0 to 255 in a label, uint8 (H, W): int64 (256,)."""
    if label.size >= EXACT:
        return np.bincount(label.ravel(), minlength=256)
    return cv2.calcHist([np.ascontiguousarray(label)], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def look(dataset: Dataset) -> LabelCounts:
    """The counts of a sample of a split's labels, evenly spaced, or of all where they are few or small: at most MOST and about
    PIXELS, at least FEWEST. Labels that cannot be read are skipped: what reads them for training says so."""
    about = dataset.description
    if about.ignore_index != IGNORE:  # a classifier's labels are known without a look at any file
        labels = np.array([dataset.read_label(index) for index in range(len(dataset))], np.int64)
        return LabelCounts(np.bincount(labels, minlength=len(about.classes)), 0, [], len(dataset), len(dataset))
    first = _read(dataset, 0)
    affordable = MOST if first is None else PIXELS // max(first.size, 1)
    count = min(len(dataset), max(FEWEST, min(MOST, affordable)))
    indices = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist()
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda index: (index, _counted(dataset, index)), indices)
        return collect(dataset, found)


def collect(dataset: Dataset, labels: Iterable[tuple[int, Optional[np.ndarray]]]) -> LabelCounts:
    """Counts from (index, ``class_pixels`` of its label, None: not readable) of the labels looked at."""
    classes = len(dataset.description.classes)
    total, empty, looked_at = np.zeros(256, np.int64), [], 0
    for index, pixels in labels:
        if pixels is not None:
            looked_at += 1
            total += pixels
            if not pixels[:classes].any():
                empty.append(dataset.samples[index].name)
    return LabelCounts(total[:classes], int(total[IGNORE]), empty, looked_at, len(dataset))


def faults(dataset: Dataset, found: LabelCounts, training: bool) -> list[Fault]:
    """What is wrong with the labels of a split, a line each; of one that is not for ``training`` only what spoils scores."""
    if dataset.drawn or not found.looked_at:
        return []
    where, classes = f'{dataset.name} {dataset.split}', dataset.description.classes
    all_seen = found.looked_at == found.total
    if dataset.description.ignore_index != IGNORE:
        return _faults_of_folders(where, classes, found) if training else []
    labels = f'(labels looked at: {found.looked_at} of {found.total})'
    shown = [name for name, pixels in zip(classes, found.pixels) if pixels]
    absent = [name for name, pixels in zip(classes, found.pixels) if not pixels]
    if len(classes) == 1:
        return [Fault(_one_class(where, dataset), True)] if training else []
    if not shown:
        line = (
            f'{where}: no label has a labelled pixel {labels}: all are {IGNORE}, which is ignored, so there is nothing to '
            f'{"learn from" if training else "score"}; {_ids(dataset)}'
        )
        return [Fault(line, all_seen)]
    lines = []
    if len(shown) == 1:
        line = f'{where}: the labels show the class {shown[0]} alone, none shows {listed(absent)} {labels}'
        lines.append(Fault(line + _ignored(dataset, found, absent), all_seen and training))
    elif absent and training:
        line = f'{where}: no label shows the class{"es" * (len(absent) > 1)} {listed(absent)} {labels}'
        lines.append(Fault(line + _ignored(dataset, found, absent), False))
    if found.empty:
        line = f'{where}: labels without a labelled pixel, all {IGNORE}, which is ignored: {len(found.empty)} {labels}: '
        lines.append(Fault(line + listed(found.empty), False))
    return lines


def _faults_of_folders(where: str, classes: Sequence[str], found: LabelCounts) -> list[Fault]:
    if len(classes) == 1:
        line = f'{where}: one class alone, {classes[0]}: there is nothing to tell apart; add the folders of the other classes'
        return [Fault(line, True)]
    absent = [name for name, images in zip(classes, found.pixels) if not images]
    lines = [Fault(f'{where}: classes without images: {listed(absent)}', False)] if absent else []
    present = [index for index, images in enumerate(found.pixels) if images]
    if len(present) == 1:
        line = f'{where}: all images are of the class {classes[present[0]]}: there is nothing to tell apart'
        return [Fault(line, True)]
    rare, common = min(present, key=lambda index: found.pixels[index]), int(found.pixels.argmax())
    if found.pixels[common] > UNEQUAL * found.pixels[rare]:
        lines.append(
            Fault(
                f'{where}: very unequal classes: {found.pixels[common]} images of {classes[common]}, {found.pixels[rare]} of '
                f'{classes[rare]}; mAcc says more of the rare ones than top1',
                False,
            )
        )
    return lines


def _one_class(where: str, dataset: Dataset) -> str:
    """The line about a data set of one class, with the keys that give the rest of its images a class."""
    (name,) = dataset.description.classes
    ids = {number: train_id for number, train_id in _label_map(dataset).items() if number != IGNORE}
    rest = [number for number, train_id in ids.items() if train_id == IGNORE] or [IGNORE]
    ids = {**{number: 0 for number in rest}, **{number: 1 for number in ids if number not in rest}}
    return (
        f'{where}: one class alone, {name}: the loss over one class is 0 and its IoU 100, whatever the network computes; give '
        f'the rest of the image a class, too: classes: [background, {name}], label_map: {ids}'
    )


def _ignored(dataset: Dataset, found: LabelCounts, absent: Sequence[str]) -> str:
    """The end of a line about absent classes: the share of the pixels that vanish as 255, and the keys where these may be the
    class that is absent."""
    pixels = int(found.pixels.sum())
    if not found.ignored or _label_map(dataset).get(IGNORE) != IGNORE:
        return ''
    text = f'; {100 * found.ignored / (pixels + found.ignored):.1f} % of the pixels are {IGNORE}, which is ignored'
    if len(absent) != 1 or dataset.name != 'custom':
        return text
    ids = {number: train_id for number, train_id in _label_map(dataset).items() if train_id != IGNORE}
    position = dataset.description.classes.index(absent[0])
    ids = {**{number: train_id for number, train_id in ids.items() if train_id != position}, IGNORE: position}
    return f'{text}: if {IGNORE} is {absent[0]}, say label_map: {ids}'


def _ids(dataset: Dataset) -> str:
    if dataset.name == 'custom':
        return f'label_map says which ids of the label files are which classes (now {_label_map(dataset)})'
    return f'are they labels of {dataset.name}, and of this split?'


def _label_map(dataset: Dataset) -> dict[int, int]:
    part = dataset.parts[0]
    files: Any = part.files if isinstance(part, CachedDataset) else part
    return dict(files.label_rules.ids) if isinstance(files, FileDataset) else {}


def _counted(dataset: Dataset, index: int) -> Optional[np.ndarray]:
    label = _read(dataset, index)
    return None if label is None else class_pixels(label)


def _read(dataset: Dataset, index: int) -> Optional[np.ndarray]:
    try:
        return dataset.read_label(index)
    except DataError:
        return None
