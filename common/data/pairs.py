"""Images and their labels by name: which files are which, and which label belongs to which image."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Optional

from twinseg.common.data.listing import IMAGE_SUFFIXES, FileFacts, Tally, kind_of, list_files, same_name, some
from twinseg.common.errors import DataError

JPEG = ('.jpg', '.jpeg', '.jpe', '.jfif')  # such a file is the image and not the label, where a folder has both
ORPHANS = 'label(s) without an image'
COMPARED = 1000  # names that are looked through for the end of labels' names that an error suggests


@dataclass(frozen=True)
class Ending:
    """The end of the names of images, or of labels: a ``tag`` such as ``_mask``, and one of the ``suffixes``, these in lower
    case; both are compared in any case."""

    tag: str = ''
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES

    @classmethod
    def of(cls, text: Optional[str]) -> 'Ending':
        """The ending that a key of the configuration gives: ``.png``, ``png`` and ``*.png`` are suffixes, ``_mask.png`` has a
        tag, too, ``_mask`` precedes any suffix of images; None is any suffix of images."""
        text = (text or '').removeprefix('*')
        if '.' + text.lower() in IMAGE_SUFFIXES:
            text = '.' + text
        tag, suffix = ('', text) if text.rfind('.') == 0 else os.path.splitext(text)
        return cls(tag, (suffix.lower(),) if suffix else IMAGE_SUFFIXES)

    def stem(self, name: str) -> Optional[str]:
        """The name without this ending; None where it ends otherwise."""
        stem, dot, suffix = name.rpartition('.')  # quicker than os.path.splitext, and equal for names that are not hidden
        if dot + suffix.lower() not in self.suffixes:
            return None
        if not self.tag:
            return stem
        return stem[: -len(self.tag)] if stem[-len(self.tag) :].lower() == self.tag.lower() else None

    def usual(self, stem: str) -> str:
        """A name with this ending, where any suffix will do a PNG."""
        return stem + self.tag + (self.suffixes[0] if len(self.suffixes) == 1 else '.png')

    def __str__(self) -> str:
        return self.tag + (self.suffixes[0] if len(self.suffixes) == 1 else '.*')


class Labels:
    """The label files of a folder, by the names of their images; in a ``shared`` folder the images are among them."""

    def __init__(self, folder: Path, names: list[str], ending: Ending, shared: bool = False):
        self.folder, self.names, self.ending, self.shared = folder, names, ending, shared
        self._images: dict[str, str] = {}  # label -> its image

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        labels: dict[str, list[str]] = {}
        for name in self.names:
            stem = self.ending.stem(name)
            if stem is not None:
                labels.setdefault(same_name(stem), []).append(name)
        return labels

    def of(self, stem: str, image: str) -> Optional[str]:
        """The label of an image: that of the same stem, or with the image's whole name for a stem (``a.jpg.png``); None where
        there is none. DataError where there are several, and where it is another image's, too."""
        labels = self._by_stem.get(same_name(stem)) or self._by_stem.get(same_name(image)) or []
        if self.shared:
            labels = [label for label in labels if label != image]
        if len(labels) > 1:
            raise DataError(
                f'{self.folder}: the image {image} has {len(labels)} labels: {some(labels)}; remove all but one, or say with '
                'label_suffix how the names of labels end'
            )
        if not labels:
            return None
        other = self._images.setdefault(labels[0], image)
        if other != image:
            raise DataError(
                f'{self.folder}: the label {labels[0]} belongs to two images, {other} and {image}; remove one of them, or say '
                'with image_suffix how the names of images end'
            )
        return labels[0]

    def use(self, label: str, image: str) -> str:
        """Notes that a list gives an image this label; returns it."""
        self._images.setdefault(label, image)
        return label

    def is_used(self, label: str) -> bool:
        """Whether a label is an image's."""
        return label in self._images

    def unused(self, stems: Iterable[str] = ()) -> list[str]:
        """The labels that are no image's, and that belong to none of these names."""
        others = set(map(same_name, stems))
        return [
            name for stem, names in self._by_stem.items() if stem not in others for name in names if name not in self._images
        ]


@dataclass(frozen=True)
class PairFiles:
    """What two folders hold: the ``images`` below ``folder``, sorted, whose names end in ``ending``; the ``labels``; where
    images lead that are ``links``; and the count of what is neither."""

    folder: Path
    images: list[str]
    ending: Ending
    labels: Labels
    links: dict[str, str]
    tally: Tally

    def stem(self, image: str) -> str:
        """The name that an image shares with its label."""
        stem = self.ending.stem(image)
        return image if stem is None else stem

    @property
    def common_end(self) -> Optional[int]:
        """The length of the end of the images' names, where these all end alike and the label of each has its index: the usual
        case, in which nothing needs to be searched for. None where it is otherwise."""
        images, labels = self.images, self.labels.names
        if self.labels.shared or not images or len(images) != len(labels):
            return None
        stem = self.ending.stem(images[0])
        if not stem or self.labels.ending.stem(labels[0]) != stem:
            return None
        end, label_end = images[0][len(stem) :], labels[0][len(stem) :]
        same = all(
            image.endswith(end) and label.endswith(label_end) and image[: -len(end)] == label[: -len(label_end)]
            for image, label in zip(images, labels)
        )
        return len(end) if same and all(map(str.isascii, images)) and end not in images else None

    def count_orphans(self, tags: Sequence[str] = ('',)) -> None:
        """Counts the labels that belong to none of the images, in this split or another; they are called as the image, followed
        by one of the ``tags``."""
        if self.labels.unused():
            stems = [self.stem(image) for image in self.images]
            self.tally.add(ORPHANS, *self.labels.unused([*(stem + tag for tag in tags for stem in stems), *self.images]))

    def facts(self, images: Iterable[str]) -> FileFacts:
        """What is known of the files beside the images that are used."""
        links = {str(self.folder / name): self.links[name] for name in images if name in self.links} if self.links else {}
        return FileFacts(self.tally.notes(), links)


def find_pairs(
    image_folder: Path,
    label_folder: Optional[Path],
    image_suffix: Optional[str] = None,
    label_suffix: Optional[str] = None,
    listed: bool = False,
) -> PairFiles:
    """The images below one folder and the labels below another, which may be the same, or lie in it.

    The suffixes are those of the configuration. With ``listed``, a list says which files of one folder are images and which
    labels; without, DataError where they cannot be distinguished. DataError, too, for a folder that cannot be read. A folder of
    labels may be missing.
    """
    ending, label_ending = Ending.of(image_suffix), Ending.of(label_suffix)
    tally, label_names = Tally(), []
    exists = label_folder is not None and label_folder.is_dir()
    shared = label_folder is not None and exists and os.path.samefile(image_folder, label_folder)
    listing = list_files(image_folder, tuple({*ending.suffixes, *label_ending.suffixes}) if shared else ending.suffixes)
    images = listing.names
    tally.include(listing.notes)
    if shared and listed and not (image_suffix or label_suffix):
        label_names = list(images)
    elif shared:
        images, label_names = _told_apart(images, image_folder, image_suffix, label_suffix)
    elif label_folder is not None and exists:
        found = list_files(label_folder, label_ending.suffixes)
        tally.include(found.notes)
        images = _outside(images, image_folder, label_folder)
        label_names = _outside(found.names, label_folder, image_folder)
    for names, end in ((images, ending), (label_names, label_ending)):
        if end.tag or shared:
            tally.add(f'file(s) not named *{end}', *(name for name in names if end.stem(name) is None))
    if ending.tag or shared:
        images = [name for name in images if ending.stem(name) is not None]
    labels = Labels(label_folder or image_folder, label_names, label_ending, shared and listed)
    return PairFiles(image_folder, images, ending, labels, listing.links, tally)


def likely_label_suffix(stems: Iterable[str], labels: Sequence[str]) -> Optional[str]:
    """What ``label_suffix`` should be: the end that makes labels' names of images'; None where there is none."""
    wanted = {same_name(stem) for stem in stems}
    for label in labels[:COMPARED]:
        stem, suffix = os.path.splitext(label)
        for end in range(len(stem) - 1, 0, -1):
            if not stem[end].isalnum() and same_name(stem[:end]) in wanted:
                return stem[end:] + suffix
    return None


def _outside(names: list[str], folder: Path, other: Path) -> list[str]:
    """Names below a folder that are not below another one in it."""
    above, below = (os.path.abspath(path) for path in (folder, other))
    if not below.startswith(above + '/'):
        return names
    start = below[len(above) + 1 :] + '/'
    return [name for name in names if not name.startswith(start)]


def _told_apart(
    names: list[str], folder: Path, image_suffix: Optional[str], label_suffix: Optional[str]
) -> tuple[list[str], list[str]]:
    """Images and labels of one folder: by the suffixes that are given, else a JPEG is the image of another file of its name."""
    image_ending, label_ending = Ending.of(image_suffix), Ending.of(label_suffix)
    images: list[str] = []
    labels: list[str] = []
    for name in names:
        fits = image_ending.stem(name) is not None, label_ending.stem(name) is not None
        if image_suffix and label_suffix:
            image = fits[0] and not (fits[1] and len(label_ending.tag) >= len(image_ending.tag))
        elif image_suffix or label_suffix:
            image = fits[0] if image_suffix else not fits[1]
        else:
            image = kind_of(name) in JPEG
        (images if image else labels).append(name)
    if names and not (images and labels):
        suffix = likely_label_suffix([os.path.splitext(name)[0] for name in names], names) or '_mask.png'
        raise DataError(
            f'{folder}: image_dir and label_dir are one folder, and nothing tells its {len(names)} images from labels '
            f'({some(names)}); say with label_suffix how the names of labels end, such as label_suffix: {suffix}'
        )
    return images, labels
