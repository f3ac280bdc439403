"""Pictures of a training's evaluations: the same few validation images every time."""

import numpy as np

from twinseg.common import tasks
from twinseg.common.backend import Predictor
from twinseg.common.config import Config
from twinseg.common.data.base import Dataset
from twinseg.common.images.drawing import shrink

WIDTH = 1600  # pixels of the widest picture


def validation_pictures(predictor: Predictor, dataset: Dataset, config: Config, count: int) -> dict[str, np.ndarray]:
    """``count`` images spread over a data set -> what ``Task.validation_picture`` draws of each, uint8 (H, W, 3), by name."""
    task = tasks.of(config.task)
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)).tolist()
    return {
        dataset.samples[index].name: shrink(task.validation_picture(predictor, dataset, config, index), WIDTH, smooth=True)
        for index in indices
    }
