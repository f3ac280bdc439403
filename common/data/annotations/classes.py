"""The classes of annotations: which label is which class id, and what the pixels are that no object covers."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

from twinseg.common.data.annotations.base import Annotations
from twinseg.common.data.classes import default_palette
from twinseg.common.data.labels import IGNORE, UNMAPPED
from twinseg.common.errors import DataError, UserError
from twinseg.common.files import read_bounded

MAX_FILE = 1 << 24  # bytes of a file of names
IGNORED = '__ignore__'  # labelme's label of pixels that are not to count
BACKGROUND = 'background'
BACKGROUNDS = ('background', '_background_', '__background__')  # as labelme and others call it


@dataclass(frozen=True)
class Classes:
    """``names`` in the order of their ids, a colour for each, the id of every label, and that of the pixels without one."""

    names: list[str]
    palette: list[list[int]]
    ids: dict[str, int]
    background: int


def classes_of(found: Annotations, given: Optional[str], unlabelled: str) -> Classes:
    """The classes, and which label means which: those that are ``given`` as ``read_classes`` takes them, else those of the
    annotations; ``unlabelled`` is the name of the class of pixels that no object covers, or ``ignored``.

    DataError for labels that are of no class; UserError for options that do not fit.
    """
    counts = Counter(label for image in found.images for label in image.labels)
    if given is None:
        names = found.classes if found.classes is not None else sorted(counts)
        aliases: dict[str, str] = {}
    else:
        names, aliases = read_classes(given, {*counts, *(found.classes or ())})
    names = [name for name in dict.fromkeys(names) if name != IGNORED]
    background = _background(names, unlabelled)
    if unlabelled == 'ignored':
        value = IGNORE
    else:
        names = names if background in names else [background, *names]
        value = names.index(background)
    ids = {IGNORED: IGNORE, **{name: names.index(name) for name in names}}
    wrong = sorted({target for target in aliases.values() if target not in ids})
    if wrong:
        raise UserError(f'--classes: {", ".join(map(repr, wrong))} after = is no class')
    ids |= {label: ids[target] for label, target in aliases.items()}
    unknown = {label: counts[label] for label in sorted({*counts, *(found.classes or ())}) if label not in ids}
    if unknown:
        listed = ', '.join(f'{label!r}{f" ({count} objects)" if count else ""}' for label, count in unknown.items())
        raise DataError(
            f'labels that --classes does not name: {listed}; add them, or say what they are with LABEL=CLASS or LABEL={IGNORED}'
        )
    if not names:
        raise DataError('no object has a label: there are no classes')
    if len(names) >= UNMAPPED:
        raise DataError(f'{len(names)} classes; at most {UNMAPPED - 1} fit into 8-bit labels')
    return Classes(names, _palette(names, background, found.colours), ids, value)


def read_classes(text: str, labels: set[str]) -> tuple[list[str], dict[str, str]]:
    """Names of classes, and LABEL=CLASS pairs, from a file with one a line or from a list with commas; a text that is one of
    the ``labels`` is a name whatever is in it. UserError where there is no name."""
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):  # False for a text that is too long for a path
        try:
            words = read_bounded(path, MAX_FILE).decode('utf-8-sig').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'--classes: {path}: not readable ({getattr(error, "strerror", None) or error})') from None
    elif path.suffix in ('.txt', '.names', '.csv') or '/' in text and ',' not in text:
        raise UserError(f'--classes: {path}: no such file')
    else:
        words = text.split(',')
    names: list[str] = []
    aliases: dict[str, str] = {}
    for word in words:
        label, sign, target = word.rpartition('=')
        if word in labels or not sign:
            names.append(word if word in labels else word.strip())
        else:
            aliases[label if label in labels else label.strip()] = target.strip()
    names = [name for name in names if name]
    if not names:
        raise UserError(f'--classes {text!r}: names no class')
    return names, aliases


def _background(names: Sequence[str], unlabelled: str) -> str:
    """Name of the class of the pixels without an object."""
    usual = next((name for name in names if name.casefold() in BACKGROUNDS), BACKGROUND)
    if unlabelled in (BACKGROUND, 'ignored'):
        return usual
    if unlabelled not in names:
        raise UserError(f'--unlabelled {unlabelled}: expected background, ignored or a class: {", ".join(names)}')
    return unlabelled


def _palette(names: Sequence[str], background: str, colours: Mapping[str, tuple[int, int, int]]) -> list[list[int]]:
    """A colour for each class: the tool's, where all differ; else black for the background and Pascal VOC's series."""
    given = {name: colours.get(name, (0, 0, 0) if name == background else None) for name in names}
    if None not in given.values() and len({*given.values()}) == len(names):
        return [list(colour) for colour in given.values() if colour]
    series = iter(default_palette(len(names)))
    return [[0, 0, 0] if name == background else next(series) for name in names]


def similar(names: Sequence[str]) -> list[str]:
    """A sentence for each class that another one's name differs from in case or blanks alone."""
    first: dict[str, str] = {}
    remarks = []
    for name in names:
        other = first.setdefault(' '.join(name.casefold().split()), name)
        if other != name:
            remarks.append(
                f'the labels {other!r} and {name!r} differ in case or blanks alone and are two classes; --classes with '
                f'{name}={other} makes them one'
            )
    return remarks
