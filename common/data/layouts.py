"""Data sets of image and label files: where their files are, one ``DatasetSpec`` each.

A new data set is an entry of ``DATASETS``, its classes in ``classes.py``, and its name in ``settings.groups.data.Data.set``.
"""

import contextlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Iterable, Literal, Mapping, Optional, Sequence

from twinseg.common import config
from twinseg.common.data import splits
from twinseg.common.data.base import Description, FileDataset, Sample, image_rules_of, packed_files
from twinseg.common.data.classes import (
    CAMVID32,
    CAMVID_CLASSES,
    CAMVID_ELEVEN,
    CAMVID_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_LABEL_IDS,
    CITYSCAPES_NAMES,
    CITYSCAPES_PALETTE,
    VOC_BORDER,
    VOC_CLASSES,
    VOC_PALETTE,
)
from twinseg.common.data.labels import IGNORE, Colour, LabelRules
from twinseg.common.data.listing import FileFacts, list_files, some
from twinseg.common.data.packed import Texts
from twinseg.common.data.pairs import Ending, Labels, PairFiles, find_pairs, likely_label_suffix
from twinseg.common.errors import DataError
from twinseg.common.settings.groups.data import TRANSPARENT

VOC_FOLDERS = ('.', 'VOC2012', 'VOCdevkit/VOC2012', 'VOCtrainval_11-May-2012/VOCdevkit/VOC2012')  # below data_url
VOC_LABELS = ('SegmentationClass', 'SegmentationClassAug')  # an image's label is taken from the first that has one
VOC_AUGMENTED_LISTS = {
    'train_aug': ('train_aug.txt', 'trainaug.txt'),
    'trainval_aug': ('trainval_aug.txt', 'trainvalaug.txt'),
}
FOLDERS = {'camvid11of32': 'camvid32'}  # data sets whose files are another's -> the name of their folder
COARSE_SPLIT = 'train_extra'  # of Cityscapes: its images have coarse labels alone
TRAIN_IDS = '_labelTrainIds'  # end of the names of Cityscapes' labels that hold train ids


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

    def read_list(self, path: Path) -> list[splits.Line]:
        """The lines of a list; DataError where there are none, or it cannot be read."""
        try:
            return splits.read_list(path)
        except DataError as error:
            raise DataError(f'{error}; {self.expected()}') from None

    def pairs(
        self,
        images: Path,
        labels: Optional[Path],
        image_suffix: Optional[str] = None,
        label_suffix: Optional[str] = None,
        listed: bool = False,
    ) -> PairFiles:
        """The images below one folder and the labels below another, as ``find_pairs`` gives them; DataError when there are no
        images."""
        if not images.is_dir():
            raise DataError(f'{images}: no such folder; {self.expected()}')
        pairs = find_pairs(images, labels, image_suffix, label_suffix, listed)
        if not pairs.images:
            ending = f' that ends in {pairs.ending}' if image_suffix else ''
            unused = ''.join(f'; not used there: {note}' for note in pairs.tally.notes())
            raise DataError(f'{images}: no image{ending} in it{unused}; {self.expected()}')
        return pairs


@dataclass(frozen=True)
class SplitFiles:
    """The samples of a split; what is missing, a line each, with paths of the missing files in the samples; and what is known
    of the other files."""

    samples: Sequence[Sample]
    missing: list[str]
    facts: FileFacts


@dataclass(frozen=True)
class DatasetSpec:
    """A data set of image and label files: its classes, and the files of a split.

    ``layout`` is the text for users, with ``{split}`` for the split's name. ``find`` gives the samples of a split, sorted by
    name, or DataError. ``label_map`` maps the ids in the label files to train ids, and ``colours`` the RGB colours, where label
    files hold these; palette files hold what ``indexed`` says. Label files whose names end in ``train_id_tag`` hold train
    ids instead; all of a split are of one kind.
    """

    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    layout: str
    find: Callable[[Split], SplitFiles]
    label_map: Mapping[int, int]
    colours: Mapping[Colour, int] = field(default_factory=dict)
    indexed: Literal['ids', 'colors'] = 'ids'
    train_id_tag: Optional[str] = None


def open_split(spec: DatasetSpec, root: Path, data: config.Data, split: str, check: bool = True) -> FileDataset:
    """The samples of one split of ``data.set``, which is as ``spec`` says, below the folder ``root``, sorted by name.

    DataError when images are missing, or labels (unless ``check`` is off): it says what was found and which layout is
    expected.
    """
    files = Split(root, split, spec.layout)
    found = spec.find(files)
    if check and found.missing:
        raise DataError(f'{"; ".join(found.missing)}; {files.expected()}')
    label = found.samples[0].label
    if spec.train_id_tag and label is not None and label.stem.lower().endswith(spec.train_id_tag.lower()):
        spec = replace(spec, label_map=_train_ids(spec.classes))
    custom = data.set == 'custom'
    rules = LabelRules(
        data.set,
        spec.label_map,
        spec.classes,
        spec.colours,
        indexed=spec.indexed,
        class_colours={} if custom and not data.palette else _numbered(spec.palette),
    )
    if custom:
        rules = replace(
            rules,
            pixels=data.label_pixels,
            unknown=data.unknown_colors,
            transparent=(data.label_map or {}).get(TRANSPARENT),
            keys=True,
        )
    if label is not None and label.is_file():
        with contextlib.suppress(DataError):  # said when the sample is read
            rules.read(label)  # warns of a palette in another order, once, before a loader's workers would each do it
    description = Description.of(spec.classes, spec.palette)
    return FileDataset(data.set, split, description, found.samples, rules, image_rules_of(data), found.facts)


def colour_of(channels: Sequence[int]) -> Colour:
    """A colour as a key."""
    red, green, blue = channels
    return red, green, blue


def _numbered(palette: Sequence[Sequence[int]]) -> dict[Colour, int]:
    """The train id of each class's colour."""
    return {colour_of(channels): train_id for train_id, channels in enumerate(palette)}


def labelled(
    pairs: PairFiles,
    images: Sequence[str],
    tags: Sequence[str] = ('',),
    given: Optional[Mapping[str, Optional[str]]] = None,
    orphans: bool = True,
) -> SplitFiles:
    """Samples of some of the images, each with the label that is ``given`` for it, or else that of its name, followed by one of
    the ``tags``. With ``orphans``, labels that belong to no image are counted as not used."""
    if not given and images is pairs.images and tags == ('',) and (end := pairs.common_end):
        stems = (image[:-end] for image in images)
        return SplitFiles(_samples(pairs, stems, images, pairs.labels.names), [], pairs.facts(images))
    names, labels, without = [], [], []
    taken: set[str] = set()
    for image in images:
        stem = pairs.stem(image)
        label = given.get(image) if given else None
        if label is not None:
            pairs.labels.use(label, image)
        else:
            label = next((label for tag in tags if (label := pairs.labels.of(stem + tag, image))), None)
        if label is None:
            without.append(image)
            label = pairs.labels.ending.usual(stem + tags[0])
        names.append(image if stem in taken or not stem else stem)
        labels.append(label)
        taken.add(names[-1])
    missing = []
    if without:
        unused = pairs.labels.unused()
        suffix = likely_label_suffix(map(pairs.stem, without), unused)
        missing.append(
            f'{len(without)} of {len(images)} images have no label: {some(without)} (expected '
            f'{pairs.labels.folder / pairs.labels.ending.usual(pairs.stem(without[0]) + tags[0])})'
            + (f'; there are labels such as {unused[0]}: should label_suffix be {suffix}?' if suffix else '')
        )
    if orphans:
        pairs.count_orphans(tags)
    return SplitFiles(_samples(pairs, names, images, labels), missing, pairs.facts(images))


def _samples(pairs: PairFiles, names: Iterable[str], images: Iterable[str], labels: Iterable[str]) -> Sequence[Sample]:
    return packed_files(Texts(names), Texts(images, f'{pairs.folder}/'), Texts(labels, f'{pairs.labels.folder}/'))


def _train_ids(classes: Sequence[str]) -> dict[int, int]:
    """The label map of files that hold train ids."""
    return {**{i: i for i in range(len(classes))}, IGNORE: IGNORE}


def _find_camvid(split: Split) -> SplitFiles:
    pairs = split.pairs(split.root / split.name, split.root / f'{split.name}annot')
    return labelled(pairs, pairs.images)


def _find_camvid32(split: Split) -> SplitFiles:
    root, tags = split.root, ('_L', '')
    if (root / split.name).is_dir():
        label_folders = [root / f'{split.name}_labels', root / f'{split.name}annot', root / split.name / 'labels']
        labels = next((path for path in label_folders if path.is_dir()), label_folders[0])
        pairs = split.pairs(root / split.name, labels)
        return labelled(pairs, pairs.images, tags)
    pairs = split.pairs(root / '701_StillsRaw_full', root / 'LabeledApproved_full')
    path = root / f'{split.name}.txt'
    lines = split.read_list(path)
    named, unknown = splits.entries(
        path, lines, splits.Names(root, pairs.folder, pairs.images, pairs.ending.stem), lambda text: '', pairs.tally
    )
    if unknown:
        raise DataError(splits.unnamed(path, unknown, len(lines), 'no image in 701_StillsRaw_full'))
    listed = {entry.image for entry in named}
    return labelled(pairs, [name for name in pairs.images if name in listed], tags, orphans=False)


def label_folder(split: str) -> str:
    """The folder of Cityscapes' labels of a split, which their names have in them, too."""
    return 'gtCoarse' if split == COARSE_SPLIT else 'gtFine'


def _find_cityscapes(split: Split) -> SplitFiles:
    images = split.pairs(split.root / 'leftImg8bit' / split.name, None, '_leftImg8bit')
    kind = label_folder(split.name)
    folder = split.root / kind / split.name
    names = list_files(folder).names if folder.is_dir() else []  # colours, instances and polygons are there, too
    train_ids = Labels(folder, names, Ending.of(f'_{kind}{TRAIN_IDS}'))
    first = images.images[0]
    labels = train_ids if train_ids.of(images.stem(first), first) else Labels(folder, names, Ending.of(f'_{kind}_labelIds'))
    pairs = replace(images, labels=labels)
    files = labelled(pairs, pairs.images)
    return replace(files, samples=[replace(sample, name=Path(sample.name).name) for sample in files.samples])


def voc_root(folder: Path) -> Optional[Path]:
    """The folder VOC2012 at or below a folder, with JPEGImages in it; None if there is none."""
    return next((folder / name for name in VOC_FOLDERS if (folder / name / 'JPEGImages').is_dir()), None)


def _find_voc(split: Split) -> SplitFiles:
    base = voc_root(split.root)
    if base is None:
        raise DataError(f'{split.root}: no folder JPEGImages in it; {split.expected()}')
    pairs = split.pairs(base / 'JPEGImages', None)
    images = splits.Names(base, pairs.folder, pairs.images, pairs.ending.stem)
    labels = _VocLabels(base)
    samples, missing, without = {}, [], []
    for path in _voc_lists(base, split):
        lines = split.read_list(path)
        named, unknown = splits.entries(path, lines, images, labels, pairs.tally)
        if unknown:
            missing.append(splits.unnamed(path, unknown, len(lines), f'no image in {pairs.folder}'))
        for line in unknown:
            name = line.text.strip()
            samples[name] = Sample(name, pairs.folder / f'{name}.jpg', base / VOC_LABELS[0] / f'{name}.png')
        for entry in named:
            stem = pairs.stem(entry.image)
            label = labels(entry.label or stem)
            if label is None:
                without.append(entry.image)
            samples.setdefault(
                entry.image,
                Sample(Path(stem).name, pairs.folder / entry.image, base / (label or f'{VOC_LABELS[0]}/{stem}.png')),
            )
    if without:
        expected = base / VOC_LABELS[0] / f'{pairs.stem(without[0])}.png'
        missing.append(f'{len(without)} of {len(samples)} images have no label: {some(without)} (expected {expected})')
    return SplitFiles(sorted(samples.values(), key=lambda sample: sample.name), missing, pairs.facts(samples))


class _VocLabels:
    """Finds labels by the names that lists give, or by those of images; a folder is read when a name leads there."""

    def __init__(self, base: Path):
        self.base = base
        self._folders: dict[str, splits.Names] = {}

    def __call__(self, text: str) -> Optional[str]:
        """The path of a label below the folder of the data set; None where there is none."""
        for folder in dict.fromkeys((*VOC_LABELS, *(part for part in re.split(r'[/\\]', text)[:-1] if part.strip('.')))):
            if folder not in self._folders:
                names = list_files(self.base / folder).names if (self.base / folder).is_dir() else []
                self._folders[folder] = splits.Names(self.base, self.base / folder, names, Ending().stem)
            found = self._folders[folder](text)
            if found is not None:
                return f'{folder}/{found}'
        return None


def _voc_lists(base: Path, split: Split) -> list[Path]:
    """The files that list a split; mmsegmentation's train_aug is aug.txt with train.txt."""
    lists = base / 'ImageSets/Segmentation'
    names = [name for name in VOC_AUGMENTED_LISTS.get(split.name, (f'{split.name}.txt',)) if (lists / name).is_file()][:1]
    if not names and split.name in VOC_AUGMENTED_LISTS and (lists / 'aug.txt').is_file():
        names = ['aug.txt', f'{split.name.removesuffix("_aug")}.txt']
    return [lists / name for name in names or [f'{split.name}.txt']]


def _camvid_release(
    classes: Sequence[str], palette: Sequence[Sequence[int]], class_of: Mapping[str, Optional[str]]
) -> DatasetSpec:
    """CamVid's release, labelled in 32 colours: ``class_of`` has the class of each of the 32; the others are ignored."""
    numbers: dict[Optional[str], int] = {name: number for number, name in enumerate(classes)}
    train_ids = [numbers.get(class_of.get(name), IGNORE) for name in CAMVID32]
    return DatasetSpec(
        classes=classes,
        palette=palette,
        layout='{split}/*.png with {split}_labels/*_L.png, or 701_StillsRaw_full/*.png with LabeledApproved_full/*_L.png '
        'and {split}.txt that lists the names',
        find=_find_camvid32,
        label_map=dict(enumerate(train_ids)),
        colours={colour: train_id for (colour, _), train_id in zip(CAMVID32.values(), train_ids)},
        indexed='colors',
    )


DATASETS = {
    'camvid': DatasetSpec(
        classes=CAMVID_CLASSES,
        palette=CAMVID_PALETTE,
        layout='{split}/*.png with {split}annot/*.png of the same names (ids 0 to 10, 11 for void)',
        find=_find_camvid,
        label_map={**_train_ids(CAMVID_CLASSES), 11: IGNORE},
    ),
    'camvid32': _camvid_release(CAMVID_CLASSES, CAMVID_PALETTE, {name: group for name, (_, group) in CAMVID32.items()}),
    'camvid11of32': _camvid_release(
        CAMVID_ELEVEN, [CAMVID32[name][0] for name in CAMVID_ELEVEN], {name: name for name in CAMVID_ELEVEN}
    ),
    'cityscapes': DatasetSpec(
        classes=CITYSCAPES_CLASSES,
        palette=CITYSCAPES_PALETTE,
        layout='leftImg8bit/{split}/<city>/*_leftImg8bit.png with gtFine/{split}/<city>/*_gtFine_labelIds.png or '
        '*_gtFine_labelTrainIds.png; of the split train_extra in gtCoarse/, *_gtCoarse_labelIds.png',
        find=_find_cityscapes,
        label_map={
            **{i: IGNORE for i in range(len(CITYSCAPES_NAMES))},
            **{label: train for train, label in enumerate(CITYSCAPES_LABEL_IDS)},
            IGNORE: IGNORE,  # label id -1, the licence plate, in 8 bits
        },
        train_id_tag=TRAIN_IDS,
    ),
    'voc': DatasetSpec(
        classes=VOC_CLASSES,
        palette=VOC_PALETTE,
        layout='VOCdevkit/VOC2012/JPEGImages/*.jpg with SegmentationClass/*.png, or SegmentationClassAug/*.png of SBD, and '
        'ImageSets/Segmentation/{split}.txt (split train_aug: `twinseg prepare voc` makes it)',
        find=_find_voc,
        label_map=_train_ids(VOC_CLASSES),
        colours={**_numbered(VOC_PALETTE), VOC_BORDER: IGNORE},
    ),
}
