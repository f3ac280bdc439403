"""Data sets of image and label files: where their files are, one ``DatasetSpec`` each.

A new data set is an entry of ``DATASETS``, its classes in ``classes.py``, and its name in ``config.Data.set``.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from twinseg.common import config
from twinseg.common.data.base import IGNORE, UNMAPPED, Description, FileDataset, Sample
from twinseg.common.data.classes import (
    CAMVID32,
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_LABEL_IDS,
    CITYSCAPES_NAMES,
    CITYSCAPES_PALETTE,
    VOC_CLASSES,
    VOC_PALETTE,
    default_palette,
)
from twinseg.common.errors import DataError

VOC_FOLDERS = ('.', 'VOC2012', 'VOCdevkit/VOC2012', 'VOCtrainval_11-May-2012/VOCdevkit/VOC2012')  # below data_url
VOC_AUGMENTED_LISTS = {
    'train_aug': ('train_aug.txt', 'trainaug.txt'),
    'trainval_aug': ('trainval_aug.txt', 'trainvalaug.txt'),
}


@dataclass(frozen=True)
class Split:
    """One split of a data set below the folder ``root``; ``layout`` says which files are expected there."""

    root: Path
    name: str
    layout: str

    def expected(self) -> str:
        """Text for an error: the files that are expected, and those that are there."""
        entries = sorted(path.name + '/' * path.is_dir() for path in self.root.iterdir())
        present = ', '.join(entries[:8]) + (', ...' if len(entries) > 8 else '') if entries else 'nothing'
        return f'expected below {self.root}: {self.layout.replace("{split}", self.name)}; found there: {present}'

    def images(self, folder: Path, pattern: str) -> list[Path]:
        """The files of a folder that match a pattern of ``Path.glob``, sorted; DataError when there are none."""
        try:
            paths = sorted(folder.glob(pattern)) if folder.is_dir() else []
        except OSError as error:
            raise DataError(f'{folder}: {error.strerror}') from None
        if not paths:
            what = f'no {pattern} in it' if folder.is_dir() else 'no such folder'
            raise DataError(f'{folder}: {what}; {self.expected()}')
        return paths


@dataclass(frozen=True)
class DatasetSpec:
    """A data set of image and label files: its classes, and the files of a split.

    ``layout`` is the text for users, with ``{split}`` for the split's name. ``find`` gives the samples of a split, sorted by
    name, or DataError. ``label_map`` maps the ids in the label files to train ids; where label files hold RGB colours,
    ``colours`` are those of the ids 0, 1, ... Label files whose names end in ``train_id_suffix`` hold train ids instead; all
    of a split are of one kind.
    """

    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    layout: str
    find: Callable[[Split], list[Sample]]
    label_map: Mapping[int, int]
    colours: Optional[Sequence[Sequence[int]]] = None
    train_id_suffix: Optional[str] = None


def open_split(root: Path, data: config.Data, split: str, check: bool = True) -> FileDataset:
    """The samples of one split of ``data.set`` below the folder ``root``, sorted by name.

    DataError when images are missing, or labels (unless ``check`` is off), and for impossible keys of ``set: custom``: it says
    what was found and which layout is expected.
    """
    spec = _custom(data) if data.set == 'custom' else DATASETS[data.set]
    files = Split(root, split, spec.layout)
    samples = spec.find(files)
    missing = [sample.label for sample in samples if sample.label is not None and not sample.label.is_file()]
    if check and missing:
        raise DataError(f'{len(missing)} of {len(samples)} images have no label, first {missing[0]}; {files.expected()}')
    if spec.train_id_suffix and str(samples[0].label).endswith(spec.train_id_suffix):
        spec = replace(spec, label_map=_train_ids(spec.classes))
    colours = None if spec.colours is None else np.array(spec.colours, np.uint8)
    return FileDataset(data.set, split, Description.of(spec.classes, spec.palette), samples, spec.label_map, colours)


def _train_ids(classes: Sequence[str]) -> dict[int, int]:
    """The label map of files that hold train ids."""
    return {**{i: i for i in range(len(classes))}, IGNORE: IGNORE}


def _find_camvid(split: Split) -> list[Sample]:
    images = split.images(split.root / split.name, '*.png')
    return [Sample(path.stem, path, split.root / f'{split.name}annot' / path.name) for path in images]


def _find_camvid32(split: Split) -> list[Sample]:
    root = split.root
    if (root / split.name).is_dir():
        images = split.images(root / split.name, '*.png')
        label_folders = [root / f'{split.name}_labels', root / f'{split.name}annot', root / split.name / 'labels']
    else:
        images = split.images(root / '701_StillsRaw_full', '*.png')
        label_folders = [root / 'LabeledApproved_full']
        listed = _listed_stems(split)
        unknown = sorted(listed - {path.stem for path in images})
        if unknown:
            raise DataError(
                f'{root / split.name}.txt: {len(unknown)} names without an image in 701_StillsRaw_full, first {unknown[0]!r}'
            )
        images = [path for path in images if path.stem in listed]
    labels = next((path for path in label_folders if path.is_dir()), label_folders[0])
    return [Sample(path.stem, path, _first_file(labels / f'{path.stem}_L.png', labels / path.name)) for path in images]


def _listed_stems(split: Split) -> set[str]:
    """Stems of the images that CamVid's split file lists, one a line, with or without folder and suffix."""
    path = split.root / f'{split.name}.txt'
    try:
        lines = path.read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        expected = split.layout.replace('{split}', split.name)
        raise DataError(f'{path}: not readable ({error}); expected: {expected}') from None
    return {Path(line.split()[0]).stem for line in lines if line.strip()}


def _find_cityscapes(split: Split) -> list[Sample]:
    images = split.images(split.root / 'leftImg8bit' / split.name, '*/*_leftImg8bit.png')
    stems = [path.name.removesuffix('_leftImg8bit.png') for path in images]
    label_folders = [split.root / 'gtFine' / split.name / path.parent.name for path in images]
    train_ids = (label_folders[0] / f'{stems[0]}_gtFine_labelTrainIds.png').is_file()
    suffix = '_gtFine_labelTrainIds.png' if train_ids else '_gtFine_labelIds.png'
    return [Sample(stem, path, labels / (stem + suffix)) for stem, path, labels in zip(stems, images, label_folders)]


def voc_root(folder: Path) -> Optional[Path]:
    """The folder VOC2012 at or below a folder, with JPEGImages in it; None if there is none."""
    return next((folder / name for name in VOC_FOLDERS if (folder / name / 'JPEGImages').is_dir()), None)


def _find_voc(split: Split) -> list[Sample]:
    base = voc_root(split.root)
    if base is None:
        raise DataError(f'{split.root}: no folder JPEGImages in it; {split.expected()}')
    samples = []
    for line in _voc_lines(base, split):
        image, _, label = line.partition(' ')
        if label:  # DrSleep's lists have lines /JPEGImages/x.jpg /SegmentationClassAug/x.png
            paths = _below(base, image), _below(base, label.strip())
        else:
            labels = [_below(base, f'{name}/{image}.png') for name in ('SegmentationClass', 'SegmentationClassAug')]
            paths = _below(base, f'JPEGImages/{image}.jpg'), _first_file(*labels)
        samples.append(Sample(paths[0].stem, *paths))
    return sorted(samples, key=lambda sample: sample.name)


def _voc_lines(base: Path, split: Split) -> list[str]:
    """The lines of a split file; mmsegmentation's train_aug is aug.txt with train.txt."""
    lists = base / 'ImageSets/Segmentation'
    names = [name for name in VOC_AUGMENTED_LISTS.get(split.name, (f'{split.name}.txt',)) if (lists / name).is_file()][:1]
    if not names and split.name in VOC_AUGMENTED_LISTS and (lists / 'aug.txt').is_file():
        names = ['aug.txt', f'{split.name.removesuffix("_aug")}.txt']
    lines = []
    for name in names or [f'{split.name}.txt']:
        try:
            lines += (lists / name).read_text(encoding='utf-8').split('\n')
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f'{lists / name}: not readable ({getattr(error, "strerror", None) or error}); {split.expected()}'
            ) from None
    unique = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not unique:
        raise DataError(f'{lists / names[0]}: names no image')
    return unique


def _below(base: Path, name: str) -> Path:
    """A path that a list names, below the data set's folder; DataError for one that leads out of it."""
    parts = Path(name.lstrip('/')).parts
    if '..' in parts:
        raise DataError(f'{base}/ImageSets/Segmentation: names {name!r}, which leads out of the folder')
    return base.joinpath(*parts)


def _first_file(*paths: Path) -> Path:
    """The first path that is a file, else the first."""
    return next((path for path in paths if path.is_file()), paths[0])


def _custom(data: config.Data) -> DatasetSpec:
    """The data set that the keys of the configuration describe; DataError when they do not fit together."""
    missing = [key for key in ('image_dir', 'label_dir', 'classes') if getattr(data, key) is None]
    if missing or not data.image_dir or not data.label_dir or not data.classes:
        raise DataError(
            f'set: custom needs the keys image_dir, label_dir and classes; missing or empty: '
            f'{", ".join(missing) or "one of them"}'
        )
    image_dir, label_dir, count = data.image_dir, data.label_dir, len(data.classes)
    if count >= UNMAPPED:
        raise DataError(f'classes: {count} names; at most {UNMAPPED - 1} fit into 8-bit labels')
    if data.palette is not None and len(data.palette) != count:
        raise DataError(f'palette: {len(data.palette)} colours for {count} classes')
    ids = data.label_map or {i: i for i in range(count)}
    wrong = {key: value for key, value in ids.items() if not 0 <= key <= 255 or not (0 <= value < count or value == IGNORE)}
    if wrong:
        raise DataError(f'label_map: {wrong}; expected ids 0 to 255 mapped to 0 to {count - 1}, or to 255 (ignored)')

    def find(split: Split) -> list[Sample]:
        image_folder = split.root / image_dir.replace('{split}', split.name)
        label_folder = split.root / label_dir.replace('{split}', split.name)
        samples = []
        for path in split.images(image_folder, f'**/*{data.image_suffix}'):
            name = str(path.relative_to(image_folder)).removesuffix(data.image_suffix)
            samples.append(Sample(name, path, label_folder / (name + data.label_suffix)))
        return samples

    return DatasetSpec(
        classes=data.classes,
        palette=data.palette or default_palette(count),
        layout=f'{image_dir}/**/*{data.image_suffix} with {label_dir}/**/*{data.label_suffix}',
        find=find,
        label_map={IGNORE: IGNORE, **ids},
    )


DATASETS = {
    'camvid': DatasetSpec(
        classes=CAMVID_CLASSES,
        palette=CAMVID_PALETTE,
        layout='{split}/*.png with {split}annot/*.png of the same names (ids 0 to 10, 11 for void)',
        find=_find_camvid,
        label_map={**_train_ids(CAMVID_CLASSES), 11: IGNORE},
    ),
    'camvid32': DatasetSpec(
        classes=CAMVID_CLASSES,
        palette=CAMVID_PALETTE,
        layout='{split}/*.png with {split}_labels/*_L.png, or 701_StillsRaw_full/*.png with LabeledApproved_full/*_L.png '
        'and {split}.txt that lists the names',
        find=_find_camvid32,
        label_map={i: IGNORE if name is None else CAMVID_CLASSES.index(name) for i, (_, name) in enumerate(CAMVID32.values())},
        colours=[colour for colour, _ in CAMVID32.values()],
    ),
    'cityscapes': DatasetSpec(
        classes=CITYSCAPES_CLASSES,
        palette=CITYSCAPES_PALETTE,
        layout='leftImg8bit/{split}/<city>/*_leftImg8bit.png with gtFine/{split}/<city>/*_gtFine_labelIds.png or '
        '*_gtFine_labelTrainIds.png',
        find=_find_cityscapes,
        label_map={
            **{i: IGNORE for i in range(len(CITYSCAPES_NAMES))},
            **{label: train for train, label in enumerate(CITYSCAPES_LABEL_IDS)},
            IGNORE: IGNORE,  # label id -1, the licence plate, in 8 bits
        },
        train_id_suffix='_gtFine_labelTrainIds.png',
    ),
    'voc': DatasetSpec(
        classes=VOC_CLASSES,
        palette=VOC_PALETTE,
        layout='VOCdevkit/VOC2012/JPEGImages/*.jpg with SegmentationClass/*.png, or SegmentationClassAug/*.png of SBD, and '
        'ImageSets/Segmentation/{split}.txt (split train_aug: `twinseg prepare voc` makes it)',
        find=_find_voc,
        label_map=_train_ids(VOC_CLASSES),
    ),
}
