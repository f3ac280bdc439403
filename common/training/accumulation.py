"""Batches that a step accumulates: what their losses divide by is counted over all of them."""

from typing import Optional, Sequence

import numpy as np

from twinseg.common.backend import Batch
from twinseg.common.data.base import IGNORE


def mean_count(batches: Sequence[Batch], class_weight: Optional[Sequence[float]] = None) -> np.ndarray:
    """(2,) float32: the number of the pixels that are not ignored, and the sum of their classes' weights, as means over the
    batches, whose labels are uint8 (N, H, W)."""
    counts = np.sum([np.bincount(labels.ravel(), minlength=IGNORE + 1) for _, labels in batches], axis=0)[:IGNORE]
    pixels = counts.sum()
    weights = pixels if class_weight is None else counts[: len(class_weight)] @ np.array(class_weight)
    return (np.array([pixels, weights]) / len(batches)).astype(np.float32)
