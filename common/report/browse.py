"""A look at a data set before it is trained on: what is in it, what is wrong with it, and how its samples look augmented."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from twinseg.common import tasks
from twinseg.common.config import Config
from twinseg.common.data.base import Dataset, OnProgress
from twinseg.common.data.label_faults import LabelCounts, faults
from twinseg.common.data.open import open_files, shared_images, unused_files
from twinseg.common.errors import DataError
from twinseg.common.facts import OWN_CLASSES
from twinseg.common.files import write_text, written_beside
from twinseg.common.images.drawing import legend

AUGMENTED = 3  # augmented versions of each sample in the picture
TILE_WIDTH, GAP = 320, 4  # pixels of one image in the picture, and between two


def browse(config: Config, out: Path, samples: int = 4, progress: OnProgress = lambda done, total: None) -> dict[str, Any]:
    """Reads every sample of both splits and writes ``browse.json`` and the picture ``browse.png`` into the folder ``out``.

    The picture has a row for each of ``samples`` training images: the image, its label over it, and augmented versions as
    the first epochs bring them. Returns what the JSON file holds: per split ``images``, ``sizes`` (width x height -> images),
    ``classes`` (name -> per cent of the labelled pixels, or of a classifier's images), ``absent`` classes, ``ignored`` (per
    cent of all pixels; None for classifiers) and ``problems``, a message for every broken or missing file, and for what is
    wrong with what the labels show (``data/label_faults.py``); for both splits ``problems``, all of these, after lines that
    count files that are not used; ``warnings`` of hidden files, of images that both splits have, and of what a part of a
    published set does not show; and ``picture``.
    DataError when no split can be opened, or ``out`` cannot be written.
    """
    training_name = '+'.join(config.data.train_splits)
    datasets, failures = {}, {}
    validation = config.data.val_split
    named = {training_name: config.data.train_split, **({} if validation is None else {validation: validation})}
    for name, split in named.items():
        try:
            datasets[name] = open_files(config.data, split, check=False)
        except DataError as error:
            failures[name] = str(error)
    if not datasets:
        raise DataError(next(iter(failures.values())))
    total, opened = sum(map(len, datasets.values())), list(datasets.values())
    parts = [part for dataset in opened for part in dataset.parts]
    unused = unused_files(*(part for part in parts if not part.file_facts.only_hidden))
    hidden = unused_files(*(part for part in parts if part.file_facts.only_hidden))
    summary: dict[str, Any] = {
        'set': config.data.set,
        'splits': {},
        'problems': [*failures.values(), *unused],
        'warnings': [*hidden, *shared_images(opened[0], opened[-1])],
    }
    good: dict[str, list[int]] = {}
    done = 0
    for split, dataset in datasets.items():
        training = split == training_name
        summary['splits'][split], good[split] = inspect(dataset, training, done, total, progress)
        for key in ('problems', 'warnings'):
            summary[key] += summary['splits'][split][key]
        done += len(dataset)
    readable = [split for split in datasets if good[split]]
    try:
        if readable:
            split = readable[0]
            picked = np.linspace(0, len(good[split]) - 1, min(samples, len(good[split]))).round().astype(int)
            picture = draw(datasets[split], config, [good[split][i] for i in dict.fromkeys(picked.tolist())])
            with written_beside(out / 'browse.png') as part:
                Image.fromarray(picture).save(part)
            summary['picture'] = str(out / 'browse.png')
        write_text(out / 'browse.json', json.dumps(summary, indent=2))
    except OSError as error:
        raise DataError(f'{out}: cannot be written ({error.strerror})') from None
    return summary


def inspect(dataset: Dataset, training: bool, done: int, total: int, progress: OnProgress) -> tuple[dict[str, Any], list[int]]:
    """Summary of one split, for ``training`` or not, as ``browse`` returns it, and the indices of its readable samples."""
    classes, ignored = dataset.description.classes, dataset.description.ignore_index
    sizes: Counter[str] = Counter()
    counts = np.zeros(max(len(classes), ignored + 1), np.int64)
    problems, good, empty = [], [], []
    for index in range(len(dataset)):
        try:
            image, label = dataset.read(index)
        except DataError as error:
            problems.append(str(error))
        else:
            good.append(index)
            sizes[f'{image.shape[1]}x{image.shape[0]}'] += 1
            pixels = np.bincount(np.ravel(label), minlength=len(counts))
            counts += pixels
            if not pixels[: len(classes)].any():
                empty.append(dataset.samples[index].name)
        progress(done + index + 1, total)
    seen = LabelCounts(counts[: len(classes)], int(counts[ignored]) if ignored >= 0 else 0, empty, len(good), len(dataset))
    found = faults(dataset, seen, training)
    grave = [fault.line for fault in found if fault.fatal or dataset.name in OWN_CLASSES]  # a part of a published set is usual
    labelled = max(int(counts[: len(classes)].sum()), 1)
    shares = {name: round(100 * int(count) / labelled, 4) for name, count in zip(classes, counts)}
    return {
        'images': len(dataset),
        'sizes': dict(sizes.most_common()),
        'classes': shares,
        'absent': [name for name, count in zip(classes, counts) if not count],
        'ignored': None if ignored < 0 else round(100 * int(counts[ignored]) / max(int(counts.sum()), 1), 4),
        'problems': problems + grave,
        'warnings': [fault.line for fault in found if fault.line not in grave],
    }, good


def draw(dataset: Dataset, config: Config, indices: list[int]) -> np.ndarray:
    """The picture of some samples, uint8 RGB."""
    task, about = tasks.of(config.task), dataset.description
    height, width = task.training_size(config)
    tile_height = round(TILE_WIDTH * min(height / width, 1))
    rows = [task.augmented(dataset, config, index, AUGMENTED) for index in indices]
    grid = np.vstack([np.hstack([_tile(image, tile_height) for image in row]) for row in rows])
    return np.vstack([grid, legend(grid.shape[1], about.classes, about.palette)]) if task.HAS_COLOURS else grid


def _tile(image: np.ndarray, height: int) -> np.ndarray:
    """The image, as large as fits, in the middle of a white tile."""
    factor = min(height / image.shape[0], TILE_WIDTH / image.shape[1])
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    tile = np.full((height + GAP, TILE_WIDTH + GAP, 3), 255, np.uint8)
    top, left = (height - size[1]) // 2, (TILE_WIDTH - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile
