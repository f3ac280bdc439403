"""Data sets: where their files lie, and what their labels mean.

``open_dataset(config.data, split)`` gives a list of samples and a description. Reading a sample gives an RGB image and a
label of train ids (255: ignored), both uint8, or the number of a class (``common/data/image_folder.py``); whatever is wrong
with a file is a DataError that names it.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Mapping, Optional, Sequence

import cv2
import numpy as np
from PIL import Image, ImageOps

from twinseg.common import config
from twinseg.common.errors import DataError

IGNORE = 255
IMAGE_FOLDERS = ('imagenet', 'image_folder')  # the sets of whole images, for classifiers
MAX_PIXELS = 1 << 26  # of one image: 67 million, thirty Cityscapes images; more is taken for a decompression bomb
_UNKNOWN = 254  # mark of an id outside the label map

CAMVID_CLASSES = (
    'sky',
    'building',
    'pole',
    'road',
    'pavement',
    'tree',
    'sign_symbol',
    'fence',
    'car',
    'pedestrian',
    'bicyclist',
)
CAMVID_PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),  # SegNet's
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)

# label_colors.txt of the CamVid release, in its order, and the usual grouping into 11 classes.
CAMVID32: dict[str, tuple[tuple[int, int, int], Optional[str]]] = {
    'Animal': ((64, 128, 64), 'pedestrian'),
    'Archway': ((192, 0, 128), 'building'),
    'Bicyclist': ((0, 128, 192), 'bicyclist'),
    'Bridge': ((0, 128, 64), 'building'),
    'Building': ((128, 0, 0), 'building'),
    'Car': ((64, 0, 128), 'car'),
    'CartLuggagePram': ((64, 0, 192), 'pedestrian'),
    'Child': ((192, 128, 64), 'pedestrian'),
    'Column_Pole': ((192, 192, 128), 'pole'),
    'Fence': ((64, 64, 128), 'fence'),
    'LaneMkgsDriv': ((128, 0, 192), 'road'),
    'LaneMkgsNonDriv': ((192, 0, 64), 'road'),
    'Misc_Text': ((128, 128, 64), 'sign_symbol'),
    'MotorcycleScooter': ((192, 0, 192), 'bicyclist'),
    'OtherMoving': ((128, 64, 64), 'car'),
    'ParkingBlock': ((64, 192, 128), 'pavement'),
    'Pedestrian': ((64, 64, 0), 'pedestrian'),
    'Road': ((128, 64, 128), 'road'),
    'RoadShoulder': ((128, 128, 192), 'pavement'),
    'Sidewalk': ((0, 0, 192), 'pavement'),
    'SignSymbol': ((192, 128, 128), 'sign_symbol'),
    'Sky': ((128, 128, 128), 'sky'),
    'SUVPickupTruck': ((64, 128, 192), 'car'),
    'TrafficCone': ((0, 0, 64), 'pole'),
    'TrafficLight': ((0, 64, 64), 'sign_symbol'),
    'Train': ((192, 64, 128), 'car'),
    'Tree': ((128, 128, 0), 'tree'),
    'Truck_Bus': ((192, 128, 192), 'car'),
    'Tunnel': ((64, 0, 64), 'building'),
    'VegetationMisc': ((192, 192, 0), 'tree'),
    'Void': ((0, 0, 0), None),
    'Wall': ((64, 192, 0), 'building'),
}

CITYSCAPES_CLASSES = (
    'road',
    'sidewalk',
    'building',
    'wall',
    'fence',
    'pole',
    'traffic light',
    'traffic sign',
    'vegetation',
    'terrain',
    'sky',
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'train',
    'motorcycle',
    'bicycle',
)
CITYSCAPES_PALETTE = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of the train ids 0..18
CITYSCAPES_NAMES = (
    'unlabeled',
    'ego vehicle',
    'rectification border',
    'out of roi',
    'static',
    'dynamic',
    'ground',
    'road',
    'sidewalk',
    'parking',
    'rail track',
    'building',
    'wall',
    'fence',
    'guard rail',
    'bridge',
    'tunnel',
    'pole',
    'polegroup',
    'traffic light',
    'traffic sign',
    'vegetation',
    'terrain',
    'sky',
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'caravan',
    'trailer',
    'train',
    'motorcycle',
    'bicycle',
)  # of label ids 0..33

VOC_CLASSES = (
    'background',
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)
VOC_PLACES = ('.', 'VOC2012', 'VOCdevkit/VOC2012', 'VOCtrainval_11-May-2012/VOCdevkit/VOC2012')  # below data_url
VOC_AUGMENTED = {'train_aug': ('train_aug.txt', 'trainaug.txt'), 'trainval_aug': ('trainval_aug.txt', 'trainvalaug.txt')}

EXPECTED = {
    'camvid': '{split}/*.png with {split}annot/*.png of the same names (ids 0 to 10, 11 for void)',
    'camvid32': '{split}/*.png with {split}_labels/*_L.png, or 701_StillsRaw_full/*.png with LabeledApproved_full/*_L.png '
    'and {split}.txt that lists the names',
    'cityscapes': 'leftImg8bit/{split}/<city>/*_leftImg8bit.png with gtFine/{split}/<city>/*_gtFine_labelIds.png or '
    '*_gtFine_labelTrainIds.png',
    'voc': 'VOCdevkit/VOC2012/JPEGImages/*.jpg with SegmentationClass/*.png, or SegmentationClassAug/*.png of SBD, and '
    'ImageSets/Segmentation/{split}.txt (split train_aug: `twinseg prepare voc` makes it)',
}


@dataclass(frozen=True)
class Description:
    """What the train ids mean: names and RGB colours (uint8 (C, 3)) of the classes."""

    classes: tuple[str, ...]
    palette: np.ndarray
    ignore_index: int = IGNORE


@dataclass(frozen=True)
class Sample:
    """One image with its label; without paths where the sample is drawn on the fly."""

    name: str
    image: Optional[Path]
    label: Optional[Path]


class Dataset:
    """A list of samples, each with a ``name``, and what their labels mean."""

    def __init__(self, name: str, split: str, description: Description, samples: list[Any]):
        self.name, self.split, self.description, self.samples = name, split, description, samples

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> tuple[np.ndarray, Any]:
        """Image, uint8 (H, W, 3) RGB, and label, uint8 (H, W) train ids or the number of a class; DataError names a broken
        file."""
        raise NotImplementedError

    def read_image(self, index: int) -> np.ndarray:
        """The image alone, uint8 (H, W, 3) RGB."""
        return self.read(index)[0]


class FileDataset(Dataset):
    """Pairs of files; ``ids`` maps the ids in the label files to train ids, ``colours`` RGB colours to such ids."""

    def __init__(
        self,
        name: str,
        split: str,
        description: Description,
        samples: list[Sample],
        ids: Mapping[int, int],
        colours: Optional[np.ndarray] = None,
    ):
        super().__init__(name, split, description, samples)
        self.ids, self.colours = dict(ids), colours
        self._table = np.full(256, _UNKNOWN, np.uint8)
        self._table[list(ids)] = list(ids.values())

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        image, label = self.read_image(index), self._read_label(sample)
        if image.shape[:2] != label.shape:
            raise DataError(
                f'{sample.image}: {_size(image)} pixels (width x height), but its label {sample.label} has '
                f'{_size(label)}; both must be of one size'
            )
        return image, label

    def read_image(self, index: int) -> np.ndarray:
        path = self.samples[index].image
        assert path is not None
        return read_image(path)

    def _read_label(self, sample: Sample) -> np.ndarray:
        path = sample.label
        assert path is not None
        label = read_label(path, self.colours)
        train_ids = cv2.LUT(label, self._table)
        if (train_ids == _UNKNOWN).any():
            found = np.unique(label)
            outside = [int(i) for i in found if self._table[i] == _UNKNOWN]
            raise DataError(
                f'{path}: ids outside the label map of {self.name}: {outside} (ids found: {found.tolist()}, '
                f'ids known: {_ranges(self.ids)}); correct the label, or map the ids (set: custom, label_map)'
            )
        return train_ids


def open_dataset(data: config.Data, split: str) -> Dataset:
    """The samples of one split, sorted by name.

    ``data.data_url`` is the folder; without it ``$TWINSEG_DATA/<set>``, then ``$TWINSEG_DATA``. DataError when the folder,
    the images or some labels are missing: it says what was found and which layout is expected. Decoded pixels come from
    the cache of ``twinseg prepare --cache`` if there is one of these files as they are now.
    """
    from twinseg.common.data import cache  # here: both build on this module

    return cache.attach(open_files(data, split))


def open_files(data: config.Data, split: str, check: bool = True) -> Dataset:
    """The same, always from the files themselves, never from a cache; with ``check`` off, labels may be missing."""
    if data.set == 'toy_street':
        from twinseg.common.data.toy_street.scene import ToyStreet

        return ToyStreet(data, split)
    if data.set in IMAGE_FOLDERS:
        from twinseg.common.data.image_folder import open_image_folder

        return open_image_folder(data, split)
    root = data_root(data)
    opener = {'camvid': _camvid, 'camvid32': _camvid32, 'cityscapes': _cityscapes, 'voc': _voc, 'custom': _custom}[data.set]
    dataset = opener(root, split, data)
    missing = [sample.label for sample in dataset.samples if sample.label is not None and not sample.label.is_file()]
    if check and missing:
        raise DataError(
            f'{len(missing)} of {len(dataset)} images have no label, first {missing[0]}; {_layout(data, split, root)}'
        )
    return dataset


def data_root(data: config.Data) -> Path:
    """The folder of a data set, or the tar that it may be for classifiers; DataError when there is none."""
    if data.data_url is not None:
        root = Path(data.data_url).expanduser()
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
            f'holds {data.set}/; toy_street needs no files'
        )
    candidates = [Path(base).expanduser() / data.set, Path(base).expanduser()]
    for root in candidates:
        if root.is_dir():
            return root
    raise DataError(f'TWINSEG_DATA: neither {candidates[0]} nor {candidates[1]} is a folder; set it, or data_url, to the data')


def read_image(path: Path) -> np.ndarray:
    """Any 8-bit image file as RGB, uint8 (H, W, 3), in the orientation it is stored in. DataError names a broken one."""
    image = decode(path, path)
    if image.mode not in ('RGB', 'L', 'P', 'RGBA', 'LA', 'CMYK', '1'):
        raise DataError(f'{path}: pixels of kind {image.mode}; expected an 8-bit RGB or grey image')
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))


def read_label(path: Path, colours: Optional[np.ndarray] = None) -> np.ndarray:
    """A label file as ids, uint8 (H, W): grey values or palette indices; with ``colours``, uint8 (n, 3), also RGB files,
    where the id is the colour's row."""
    image = decode(path, path)
    if image.mode == 'L' or (image.mode == 'P' and colours is None):
        return np.array(image)
    if colours is None or image.mode not in ('RGB', 'RGBA', 'P'):
        raise DataError(
            f'{path}: pixels of kind {image.mode}; expected a label with one 8-bit channel of class ids '
            f'(grey or palette){"" if colours is None else " or RGB colours"}'
        )
    pixels = np.array(image.convert('RGB'))
    codes = _colour_codes(pixels)
    known = _colour_codes(colours)
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    ids = order[place].astype(np.uint8)
    wrong = known[ids] != codes
    if wrong.any():
        found = np.unique(pixels[wrong], axis=0)
        raise DataError(
            f'{path}: {len(found)} colours that belong to no class: {found[:8].tolist()}'
            f'{" ..." if len(found) > 8 else ""}; expected the colours of label_colors.txt'
        )
    return ids


def decode(source: Path | BinaryIO, name: str | Path, exif_rotate: bool = False) -> Image.Image:
    """The decoded image of a file; DataError, with the ``name``, when it is missing, broken or too large. ``exif_rotate`` turns
    it as its EXIF data says."""
    try:
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f'{name}: {image.width}x{image.height} pixels, more than the limit of {MAX_PIXELS}')
            image.load()
            if exif_rotate:
                ImageOps.exif_transpose(image, in_place=True)
            return image
    except FileNotFoundError:
        raise DataError(f'{name}: no such file') from None
    except Image.DecompressionBombError as error:
        raise DataError(f'{name}: {error}') from None
    except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:  # Pillow's ways of saying: no whole image
        raise DataError(f'{name}: not readable as an image, truncated or broken ({error})') from None


def _colour_codes(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.int32) * np.array([1 << 16, 1 << 8, 1], np.int32)).sum(-1, dtype=np.int32)


def _camvid(root: Path, split: str, data: config.Data) -> FileDataset:
    images = _images(root / split, '*.png', data, split, root)
    samples = [Sample(path.stem, path, root / f'{split}annot' / path.name) for path in images]
    ids = {**{i: i for i in range(len(CAMVID_CLASSES))}, 11: IGNORE, IGNORE: IGNORE}
    return FileDataset(data.set, split, _description(CAMVID_CLASSES, CAMVID_PALETTE), samples, ids)


def _camvid32(root: Path, split: str, data: config.Data) -> FileDataset:
    if (root / split).is_dir():
        images = _images(root / split, '*.png', data, split, root)
        folders = [root / f'{split}_labels', root / f'{split}annot', root / split / 'labels']
    else:
        images = _images(root / '701_StillsRaw_full', '*.png', data, split, root)
        folders = [root / 'LabeledApproved_full']
        chosen = _names(root / f'{split}.txt', split)
        unknown = sorted(chosen - {path.stem for path in images})
        if unknown:
            raise DataError(
                f'{root / split}.txt: {len(unknown)} names without an image in 701_StillsRaw_full, first {unknown[0]!r}'
            )
        images = [path for path in images if path.stem in chosen]
    labels = next((folder for folder in folders if folder.is_dir()), folders[0])
    samples = [Sample(path.stem, path, _first(labels / f'{path.stem}_L.png', labels / path.name)) for path in images]
    ids = {i: IGNORE if name is None else CAMVID_CLASSES.index(name) for i, (_, name) in enumerate(CAMVID32.values())}
    colours = np.array([colour for colour, _ in CAMVID32.values()], np.uint8)
    return FileDataset(data.set, split, _description(CAMVID_CLASSES, CAMVID_PALETTE), samples, ids, colours)


def _cityscapes(root: Path, split: str, data: config.Data) -> FileDataset:
    images = _images(root / 'leftImg8bit' / split, '*/*_leftImg8bit.png', data, split, root)
    stems = [path.name.removesuffix('_leftImg8bit.png') for path in images]
    folders = [root / 'gtFine' / split / path.parent.name for path in images]
    train_ids = (folders[0] / f'{stems[0]}_gtFine_labelTrainIds.png').is_file()
    suffix = '_gtFine_labelTrainIds.png' if train_ids else '_gtFine_labelIds.png'
    samples = [Sample(stem, path, folder / (stem + suffix)) for stem, path, folder in zip(stems, images, folders)]
    ids = {i: IGNORE for i in range(len(CITYSCAPES_NAMES))}
    ids.update({label: train for train, label in enumerate(CITYSCAPES_LABEL_IDS)})
    if train_ids:
        ids = {i: i for i in range(len(CITYSCAPES_CLASSES))}
    ids[IGNORE] = IGNORE  # label id -1, the licence plate, in 8 bits
    return FileDataset(data.set, split, _description(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE), samples, ids)


def voc_root(folder: Path) -> Optional[Path]:
    """The folder VOC2012 at or below a folder, with JPEGImages in it."""
    return next((folder / place for place in VOC_PLACES if (folder / place / 'JPEGImages').is_dir()), None)


def _voc(root: Path, split: str, data: config.Data) -> FileDataset:
    base = voc_root(root)
    if base is None:
        raise DataError(f'{root}: no folder JPEGImages in it; {_layout(data, split, root)}')
    samples = []
    for line in _voc_lines(base, split, data, root):
        image, _, label = line.partition(' ')
        if label:  # as DrSleep's lists have it: /JPEGImages/x.jpg /SegmentationClassAug/x.png
            paths = _inside(base, image), _inside(base, label.strip())
        else:
            labels = [_inside(base, f'{folder}/{image}.png') for folder in ('SegmentationClass', 'SegmentationClassAug')]
            paths = _inside(base, f'JPEGImages/{image}.jpg'), _first(*labels)
        samples.append(Sample(paths[0].stem, *paths))
    samples.sort(key=lambda sample: sample.name)
    ids = {**{i: i for i in range(len(VOC_CLASSES))}, IGNORE: IGNORE}
    return FileDataset(data.set, split, _description(VOC_CLASSES, [[0, 0, 0], *default_palette(20)]), samples, ids)


def _voc_lines(base: Path, split: str, data: config.Data, root: Path) -> list[str]:
    """The lines of a split file; mmsegmentation's train_aug is aug.txt with train.txt."""
    folder = base / 'ImageSets/Segmentation'
    names = [name for name in VOC_AUGMENTED.get(split, (f'{split}.txt',)) if (folder / name).is_file()][:1]
    if not names and split in VOC_AUGMENTED and (folder / 'aug.txt').is_file():
        names = ['aug.txt', f'{split.removesuffix("_aug")}.txt']
    lines = []
    for name in names or [f'{split}.txt']:
        try:
            lines += (folder / name).read_text(encoding='utf-8').split('\n')
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f'{folder / name}: not readable ({getattr(error, "strerror", None) or error}); {_layout(data, split, root)}'
            ) from None
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise DataError(f'{folder / names[0]}: names no image')
    return found


def _inside(base: Path, name: str) -> Path:
    """A path that a list names, below the data set's folder; DataError for one that leads out of it."""
    parts = Path(name.lstrip('/')).parts
    if '..' in parts:
        raise DataError(f'{base}/ImageSets/Segmentation: names {name!r}, which leads out of the folder')
    return base.joinpath(*parts)


def _custom(root: Path, split: str, data: config.Data) -> FileDataset:
    missing = [key for key in ('image_dir', 'label_dir', 'classes') if getattr(data, key) is None]
    if missing or not data.image_dir or not data.label_dir or not data.classes:
        raise DataError(
            f'set: custom needs the keys image_dir, label_dir and classes; missing or empty: '
            f'{", ".join(missing) or "one of them"}'
        )
    count = len(data.classes)
    if count >= _UNKNOWN:
        raise DataError(f'classes: {count} names; at most {_UNKNOWN - 1} fit into 8-bit labels')
    if data.palette is not None and len(data.palette) != count:
        raise DataError(f'palette: {len(data.palette)} colours for {count} classes')
    ids = data.label_map or {i: i for i in range(count)}
    wrong = {key: value for key, value in ids.items() if not 0 <= key <= 255 or not (0 <= value < count or value == IGNORE)}
    if wrong:
        raise DataError(f'label_map: {wrong}; expected ids 0 to 255 mapped to 0 to {count - 1}, or to 255 (ignored)')
    folder = root / data.image_dir.replace('{split}', split)
    label_folder = root / data.label_dir.replace('{split}', split)
    samples = []
    for path in _images(folder, f'**/*{data.image_suffix}', data, split, root):
        name = str(path.relative_to(folder)).removesuffix(data.image_suffix)
        samples.append(Sample(name, path, label_folder / (name + data.label_suffix)))
    palette = data.palette or default_palette(count)
    return FileDataset(data.set, split, _description(data.classes, palette), samples, {IGNORE: IGNORE, **ids})


def default_palette(count: int) -> list[list[int]]:
    """Distinct RGB colours: Pascal VOC's bit pattern, without its black."""

    def channel(i: int, first: int) -> int:
        return sum(((i >> (3 * bit + first)) & 1) << (7 - bit) for bit in range(3))

    return [[channel(i, 0), channel(i, 1), channel(i, 2)] for i in range(1, count + 1)]


def _description(classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Description:
    return Description(tuple(classes), np.array(palette, np.uint8))


def _images(folder: Path, pattern: str, data: config.Data, split: str, root: Path) -> list[Path]:
    try:
        found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f'{folder}: {error.strerror}') from None
    if not found:
        what = f'no {pattern} in it' if folder.is_dir() else 'no such folder'
        raise DataError(f'{folder}: {what}; {_layout(data, split, root)}')
    return found


def _layout(data: config.Data, split: str, root: Path) -> str:
    expected = EXPECTED.get(data.set, f'{data.image_dir}/**/*{data.image_suffix} with {data.label_dir}/**/*{data.label_suffix}')
    entries = sorted(path.name + '/' * path.is_dir() for path in root.iterdir())
    found = ', '.join(entries[:8]) + (', ...' if len(entries) > 8 else '') if entries else 'nothing'
    return f'expected below {root}: {expected.replace("{split}", split)}; found there: {found}'


def _names(path: Path, split: str) -> set[str]:
    """Stems of the images that a split file lists, one a line, with or without folder and suffix."""
    try:
        lines = path.read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: not readable ({error}); expected: {EXPECTED["camvid32"].replace("{split}", split)}') from None
    return {Path(line.split()[0]).stem for line in lines if line.strip()}


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.is_file()), paths[0])


def _size(pixels: np.ndarray) -> str:
    return f'{pixels.shape[1]}x{pixels.shape[0]}'


def _ranges(ids: Mapping[int, int]) -> str:
    """0 to 11, 255: the keys in short."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ', '.join(f'{first} to {last}' if first < last else str(first) for first, last in runs)
