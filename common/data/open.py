"""Opens a data set by its name: the one module that knows every kind.

``open_dataset(config.data, split)`` gives a list of samples and a description. Reading a sample gives an RGB image, uint8, and
its label: train ids, uint8 (255: ignored), or the number of a class. Whatever is wrong with a file is a DataError that names
it.
"""

import os
from pathlib import Path

from twinseg.common import config
from twinseg.common.data.base import Dataset, FileDataset
from twinseg.common.data.cache import use_cache
from twinseg.common.data.image_folder import open_image_folder
from twinseg.common.data.layouts import open_split
from twinseg.common.data.toy_street import ToyStreet
from twinseg.common.errors import DataError


def open_dataset(data: config.Data, split: str) -> Dataset:
    """The samples of one split, sorted by name.

    ``data.data_url`` is the folder; without it ``$TWINSEG_DATA/<set>``, then ``$TWINSEG_DATA``. DataError when the folder,
    the images or some labels are missing: it says what was found and which layout is expected. Decoded pixels come from
    the cache of ``twinseg prepare --cache`` if there is one of these files as they are now.
    """
    return use_cache(open_files(data, split))


def open_files(data: config.Data, split: str, check: bool = True) -> Dataset:
    """The same, always from the files themselves, never from a cache; with ``check`` off, labels may be missing."""
    if data.set == 'toy_street':
        return ToyStreet(data, split)
    root = data_root(data)
    if data.set in config.IMAGE_FOLDERS:
        return open_image_folder(root, data, split)
    return open_split(root, data, split, check)


def open_for_cache(data: config.Data) -> list[FileDataset]:
    """The training and the validation split, from their files, as ``build_cache`` takes them; DataError for a kind of data set
    that is not cached."""
    if data.set == 'toy_street':
        raise DataError('toy_street is drawn on the fly: there is nothing to cache')
    if data.set in config.IMAGE_FOLDERS:
        raise DataError(f'set: {data.set}: only images with label images are cached; those of classifiers are read as is')
    return [open_split(data_root(data), data, split) for split in dict.fromkeys([data.train_split, data.val_split])]


def data_root(data: config.Data) -> Path:
    """The folder of a data set, or the tar that it may be for classifiers; DataError when there is none."""
    if data.data_url is not None:
        root = Path(data.data_url).expanduser()
        tar = data.set in config.IMAGE_FOLDERS
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
            f'holds {data.set}/; toy_street needs no files'
        )
    candidates = [Path(base).expanduser() / data.set, Path(base).expanduser()]
    for root in candidates:
        if root.is_dir():
            return root
    raise DataError(f'TWINSEG_DATA: neither {candidates[0]} nor {candidates[1]} is a folder; set it, or data_url, to the data')
