"""Rare classes: weights of the loss, and orders of the samples, from how often the labels show each class."""

from typing import Callable, Literal, Optional

import numpy as np

from twinseg.common.data.base import Dataset
from twinseg.common.data.label_faults import class_pixels
from twinseg.common.data.sampling import balanced_order_rng
from twinseg.common.errors import DataError

ENET_CONSTANT = 1.02  # ENet, arXiv:1606.02147, section 5.2


def class_counts(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class in each label, int64 (N, C), and pixels of each label, ignored ones included, int64 (N,); zeros for
    a label that cannot be read."""
    counts = np.zeros((len(dataset), len(dataset.description.classes)), np.int64)
    sizes = np.zeros(len(dataset), np.int64)
    for index in range(len(dataset)):
        try:
            label = dataset.read_label(index)
        except DataError:
            continue  # training says so, or skips it
        counts[index] = class_pixels(label)[: counts.shape[1]]
        sizes[index] = label.size
    return counts, sizes


def class_weights(
    counts: np.ndarray, scheme: Literal['median_frequency', 'enet'], sizes: Optional[np.ndarray] = None
) -> list[float]:
    """A weight for each class, from ``class_counts``; 0 for a class that no label shows.

    - ``median_frequency`` (Eigen and Fergus 2015, section 6.3.2; SegNet): the median of the classes' frequencies divided by
      the class's frequency, which is its share of the pixels of the images that show it;
    - ``enet``: 1 / ln(1.02 + p), p the share of the class of all pixels.

    ``sizes``, int64 (N,), are the pixels of each label that shares are taken of, by default the labelled ones.
    """
    pixels, seen = counts.sum(0), counts.any(0)
    sizes = counts.sum(1) if sizes is None else sizes
    if scheme == 'enet':
        weights = 1 / np.log(ENET_CONSTANT + pixels / max(sizes.sum(), 1))
    else:
        images = ((counts > 0) * sizes[:, None]).sum(0)
        frequency = pixels / np.maximum(images, 1)
        weights = (np.median(frequency[seen]) if seen.any() else 0) / np.where(seen, frequency, 1)
    return [round(float(weight), 4) for weight in np.where(seen, weights, 0)]


def balanced_order(counts: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
    """The order of an epoch by its number, int64 (N,): the classes take turns, in shuffled rounds, and each takes the next
    image of a shuffled list of those that show it. An image may come several times in an epoch, or not at all.
    DataError when no label shows any class."""
    shown = [np.flatnonzero(column) for column in counts.T if column.any()]
    if not shown:
        raise DataError('sampling: class_balanced: no label shows any class')

    def order(epoch: int) -> np.ndarray:
        rng = balanced_order_rng(seed, epoch)
        rounds = -(-len(counts) // len(shown))
        queues = [np.concatenate([rng.permutation(images) for _ in range(-(-rounds // len(images)))]) for images in shown]
        return np.concatenate([[queues[index][turn] for index in rng.permutation(len(shown))] for turn in range(rounds)])[
            : len(counts)
        ]

    return order
