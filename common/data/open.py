"""Opens a data set by its name: the one module that knows every kind.

``open_dataset(config.data, split)`` gives a list of samples and a description. Reading a sample gives an RGB image, uint8, and
its label: train ids, uint8 (255: ignored), or the number of a class. Whatever is wrong with a file is a DataError that names
it.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from twinseg.common import config
from twinseg.common.data.base import Dataset, Description, FileDataset, JoinedDataset
from twinseg.common.data.cache import use_cache
from twinseg.common.data.classes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, default_palette
from twinseg.common.data.custom import custom_spec
from twinseg.common.data.image_folder import ImageSample, open_image_folder
from twinseg.common.data.layouts import DATASETS, FOLDERS, open_split
from twinseg.common.data.listing import some
from twinseg.common.data.plugin_data import dataset_spec
from twinseg.common.data.toy_street import ToyStreet
from twinseg.common.errors import DataError
from twinseg.common.files import home_expanded
from twinseg.common.plugins import PLUGINS
from twinseg.common.settings.groups.data import IMAGE_FOLDERS, SplitNames

USED_BY = {  # data sets -> keys that others of their task do not know
    ('custom',): (
        *('image_dir', 'label_dir', 'image_suffix', 'label_suffix', 'split_list'),
        *('classes', 'palette', 'label_map', 'label_pixels', 'unknown_colors'),
    ),
    ('custom', *IMAGE_FOLDERS): ('val_fraction',),
}


def open_dataset(data: config.Data, split: SplitNames) -> Dataset:
    """The samples of a split, sorted by name, or of several, one split after the other.

    ``data.data_url`` is the folder; without it ``$TWINSEG_DATA/<set>``, then ``$TWINSEG_DATA``. DataError when the folder,
    the images or some labels are missing: it says what was found and which layout is expected. Decoded pixels come from
    the cache of ``twinseg prepare --cache`` if there is one of these files as they are now.
    """
    return _joined([use_cache(files) for files in open_files(data, split).parts])


def open_splits(data: config.Data) -> tuple[Dataset, Optional[Dataset]]:
    """What is trained on and what is validated on, or None, as ``open_dataset`` opens them; DataError says what is wrong with
    both."""
    opened: dict[str, Dataset] = {}
    errors: dict[str, str] = {}
    for key, split in {'train_split': data.train_split, 'val_split': data.val_split}.items():
        try:
            if split is not None:
                opened[key] = open_dataset(data, split)
        except DataError as error:
            errors[key] = str(error)
    if errors:
        alone = '; val_split: null trains without validation' if [*errors] == ['val_split'] else ''
        raise DataError('; '.join(dict.fromkeys(errors.values())) + alone)
    return opened['train_split'], opened.get('val_split')


def open_validation(data: config.Data, split: Optional[str] = None) -> Dataset:
    """A split to be scored, by default the configuration's, as ``open_dataset`` opens it; DataError where there is none."""
    chosen = split or data.val_split
    if chosen is None:
        raise DataError('val_split: null: there is no validation split; name a split to score, with --split or val_split')
    return open_dataset(data, chosen)


def open_files(data: config.Data, split: SplitNames, check: bool = True) -> Dataset:
    """The same, always from the files themselves, never from a cache; with ``check`` off, files may be missing.

    DataError, too, for several splits that have images in common.
    """
    _check_keys(data)
    if not isinstance(split, str):
        parts = [open_files(data, name, check) for name in split]
        _check_disjoint(parts)
        return _joined(parts)
    if data.set == 'toy_street':
        return ToyStreet(data, split)
    root = data_root(data)
    if data.set in IMAGE_FOLDERS:
        return open_image_folder(root, data, split)
    return _open_split(root, data, split, check)


def _joined(parts: Sequence[Dataset]) -> Dataset:
    return parts[0] if len(parts) == 1 else JoinedDataset(parts)


def _check_disjoint(parts: Sequence[Dataset]) -> None:
    """DataError where an image of one split is one of another, too: an epoch would show it twice."""
    split_of: dict[tuple[str, int], str] = {}
    for part in parts:
        shared = [
            (sample.name, split_of[file])
            for sample, file in zip(part.samples, _image_files(part))
            if split_of.setdefault(file, part.split) != part.split
        ]
        if shared:
            raise DataError(
                f'train_split: {len(shared)} of {len(part)} images of {part.split} are images of {shared[0][1]}, too '
                f'({some([name for name, _ in shared])}); leave one of the two out'
            )


def description(data: config.Data) -> Optional[Description]:
    """Classes and colours of a data set where they are known before any of its files is read; None for folders of images, whose
    classes are their folders, and for a custom set without classes."""
    if data.set == 'toy_street':
        return Description.of(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE)
    if data.set in DATASETS or data.set in PLUGINS.datasets:
        spec = dataset_spec(data.set)
        return Description.of(spec.classes, spec.palette)
    if data.set == 'custom' and data.classes:
        return Description.of(data.classes, data.palette or default_palette(len(data.classes)))
    return None


def open_for_cache(data: config.Data) -> list[FileDataset]:
    """The training and the validation split, from their files, as ``build_cache`` takes them; DataError for a kind of data set
    that is not cached."""
    _check_keys(data)
    if data.set == 'toy_street':
        raise DataError('toy_street is drawn on the fly: there is nothing to cache')
    if data.set in IMAGE_FOLDERS:
        raise DataError(f'set: {data.set}: only images with label images are cached; those of classifiers are read as is')
    return [_open_split(data_root(data), data, split) for split in dict.fromkeys(data.split_names)]


def _check_keys(data: config.Data) -> None:
    """DataError for keys that the data set would not heed: is it the one that is meant?"""
    for sets, keys in USED_BY.items():
        given = [key for key in keys if getattr(data, key) != config.Data.model_fields[key].default]
        if given and data.set not in sets:
            raise DataError(
                f'{", ".join(given)}: for set: {" or ".join(sets)}, but the set is {data.set}, which has its own; change set, '
                f'or leave {"it" if len(given) == 1 else "them"} out'
            )
    if data.set == 'toy_street' and data.data_url is not None:
        others = ', '.join((*DATASETS, 'custom', *IMAGE_FOLDERS))
        raise DataError(
            f'data_url: {data.data_url}, but the set is toy_street, which is drawn and has no files; say which set the folder '
            f'holds (set: {others}), or leave data_url out'
        )


def _open_split(root: Path, data: config.Data, split: str, check: bool = True) -> FileDataset:
    """A split of image and label files; DataError, too, for impossible keys of ``set: custom``."""
    spec = custom_spec(data) if data.set == 'custom' else dataset_spec(data.set)
    return open_split(spec, root, data, split, check)


def unused_files(*datasets: Dataset) -> list[str]:
    """Lines that count the files which splits of a data set do not use, by reason."""
    splits: dict[tuple[str, str], list[str]] = {}  # two splits of one folder have one line
    for dataset in (part for whole in datasets for part in whole.parts):
        if dataset.file_facts.unused:
            splits.setdefault((dataset.name, str(dataset.file_facts)), []).append(dataset.split)
    return [f'{name} {" and ".join(dict.fromkeys(names))}: {note}' for (name, note), names in splits.items()]


def shared_images(training: Dataset, validation: Optional[Dataset]) -> list[str]:
    """Lines that name the images which a split has twice, or which two splits share, whatever folders and links lead to them;
    none where they are one split, as the configuration says, and nothing is there twice."""
    if validation is not None and len(training.parts) > 1 and validation.split in (part.split for part in training.parts):
        return [trained_on(training.name, [part.split for part in training.parts], validation.split)]
    lines: list[str] = []
    seen: list[set[tuple[str, int]]] = []
    for dataset in dict.fromkeys((training, validation or training)):
        files: set[tuple[str, int]] = set()
        twice, shared = [], []
        for sample, file in zip(dataset.samples, _image_files(dataset)):
            if file in files:
                twice.append(sample.name)
            elif seen and file in seen[0]:
                shared.append(sample.name)
            files.add(file)
        seen.append(files)
        if twice:
            lines.append(
                f'{dataset.name} {dataset.split}: {len(twice)} images are there twice, under other names ({some(twice)})'
            )
        if shared and validation is not None and training.split != validation.split:
            lines.append(
                f'{dataset.name}: {len(shared)} of {len(dataset)} images of {dataset.split} are images of {training.split}, '
                f'too ({some(shared)}): scores on them say nothing of other images'
            )
    return list(dict.fromkeys(lines))


def is_trained_on(data: config.Data, split: Optional[str] = None) -> bool:
    """Whether a split that is scored, by default the validation split, is one of several that are trained on."""
    return len(data.train_splits) > 1 and (split or data.val_split) in data.train_splits


def trained_on(name: str, training: Sequence[str], split: str) -> str:
    """The line about such a split."""
    return f'{name}: {split} is trained on, too ({"+".join(training)}): scores on it say nothing of other images'


def _image_files(dataset: Dataset) -> Iterator[tuple[str, int]]:
    """The real path of each sample's image, and where it begins in that file; samples that are drawn have none."""
    folders: dict[str, str] = {}  # one of a million images is not looked up by itself
    links = {path: target for part in dataset.parts for path, target in part.file_facts.links.items()}
    for sample in dataset.samples:
        path, offset = (sample.path, sample.offset) if isinstance(sample, ImageSample) else (str(sample.image or ''), 0)
        if path in links:
            yield links[path], offset
        elif path:
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            yield f'{folders[folder]}/{name}', offset


def data_root(data: config.Data) -> Path:
    """The folder of a data set, or the tar that it may be for classifiers; DataError when there is none."""
    if data.data_url is not None:
        root = home_expanded(data.data_url)
        tar = data.set in IMAGE_FOLDERS
        if not (root.is_dir() or (tar and root.is_file())):
            raise DataError(
                f'data_url: {root} is {"no folder" if root.exists() else "missing"} (read from {Path.cwd()}); '
                f'expected the folder {"or the tar " if tar else ""}of {data.set}'
            )
        return root
    base = os.environ.get('TWINSEG_DATA')
    if not base:
        raise DataError(
            f'no folder for {data.set}: set data_url, or the environment variable TWINSEG_DATA to the folder that '
            f'holds {FOLDERS.get(data.set, data.set)}/; toy_street needs no files'
        )
    candidates = [home_expanded(base) / FOLDERS.get(data.set, data.set), home_expanded(base)]
    for root in candidates:
        if root.is_dir():
            return root
    raise DataError(f'TWINSEG_DATA: neither {candidates[0]} nor {candidates[1]} is a folder; set it, or data_url, to the data')
