"""``set: custom``: any pair of folders, as the keys of the configuration describe them."""

from dataclasses import dataclass, replace
from typing import Optional

from twinseg.common import config
from twinseg.common.data import splits
from twinseg.common.data.base import Sample
from twinseg.common.data.classes import default_palette
from twinseg.common.data.labels import IGNORE, UNMAPPED, Colour
from twinseg.common.data.layouts import DatasetSpec, Split, SplitFiles, colour_of, labelled
from twinseg.common.data.listing import Tally
from twinseg.common.data.packed import Joined
from twinseg.common.data.pairs import Ending, PairFiles
from twinseg.common.errors import DataError
from twinseg.common.settings.groups.data import TRANSPARENT

UNLISTED = 'image(s) that no list names'


def custom_spec(data: config.Data) -> DatasetSpec:
    """The data set that the keys of the configuration describe; DataError when they do not fit together."""
    missing = [key for key in ('image_dir', 'label_dir', 'classes') if getattr(data, key) is None]
    if missing or not data.image_dir or not data.label_dir or not data.classes:
        raise DataError(
            f'set: custom needs the keys image_dir, label_dir and classes; missing or empty: '
            f'{", ".join(missing) or "one of them"}'
        )
    count = len(data.classes)
    if count >= UNMAPPED:
        raise DataError(f'classes: {count} names; at most {UNMAPPED - 1} fit into 8-bit labels')
    if data.palette is not None and len(data.palette) != count:
        raise DataError(f'palette: {len(data.palette)} colours for {count} classes')
    ids, colours = _label_map(data, count)
    if data.val_fraction is not None:
        _check_fraction(data)
    layout = (
        f'images as {data.image_dir}/**/*{Ending.of(data.image_suffix)} with labels as '
        f'{data.label_dir}/**/*{Ending.of(data.label_suffix)}'
    )
    return DatasetSpec(
        classes=data.classes,
        palette=data.palette or default_palette(count),
        layout=layout + (f', listed in {data.split_list}' if data.split_list else ''),
        find=lambda split: _find(data, split),
        label_map={IGNORE: IGNORE, **ids},
        colours=colours,
    )


def _label_map(data: config.Data, count: int) -> tuple[dict[int, int], dict[Colour, int]]:
    """Train ids of ids and of colours, from ``label_map`` and ``palette``; DataError where these are impossible."""
    given = data.label_map or {}
    wrong = {
        key: value
        for key, value in given.items()
        if isinstance(key, int) and not 0 <= key <= 255 or not (0 <= value < count or value == IGNORE)
    }
    if wrong:
        raise DataError(f'label_map: {wrong}; expected ids 0 to 255 mapped to 0 to {count - 1}, or to 255 (ignored)')
    ids = {key: value for key, value in given.items() if isinstance(key, int)} or {i: i for i in range(count)}
    colours: dict[Colour, int] = {}
    for train_id, channels in enumerate(data.palette or ()):
        if train_id != colours.setdefault(colour_of(channels), train_id):
            classes = data.classes or []
            same = classes[colours[colour_of(channels)]], classes[train_id]
            raise DataError(
                f'palette: {channels} is the colour of {same[0]!r} and of {same[1]!r}; give each class one of its own'
            )
    colours |= {
        colour_of([int(channel) for channel in key.split(',')]): value
        for key, value in given.items()
        if isinstance(key, str) and key != TRANSPARENT
    }
    return ids, colours


def _check_fraction(data: config.Data) -> None:
    """DataError where the split is given twice."""
    named = [key for key in ('image_dir', 'split_list') if '{split}' in (getattr(data, key) or '')]
    if named:
        raise DataError(
            f'val_fraction divides the images of one folder or list, but {named[0]} has one for each {{split}}: '
            f'leave out val_fraction, or {{split}} in {named[0]}'
        )


def _find(data: config.Data, split: Split) -> SplitFiles:
    """The samples of a split: all images of its folder, those that its list names, or its share."""
    assert data.image_dir and data.label_dir
    pairs = split.pairs(
        split.root / data.image_dir.replace('{split}', split.name),
        split.root / data.label_dir.replace('{split}', split.name),
        data.image_suffix,
        data.label_suffix,
        listed=data.split_list is not None,
    )
    images = pairs.images
    listed = _listed(data.split_list, split, pairs) if data.split_list is not None else None
    if listed is not None:
        images = [image for image in images if image in listed.labels]
    if data.val_fraction is not None:
        splits.check_share(data, split.name)
        held_out = splits.share({pairs.stem(image) for image in images}, data.val_fraction, data.split_seed)
        images = [image for image in images if (pairs.stem(image) in held_out) == (split.name == data.val_split)]
    one_split = ('{split}' in data.image_dir) == ('{split}' in data.label_dir)  # else the labels of others are there, too
    files = labelled(pairs, images, given=listed.labels if listed is not None else None, orphans=one_split)
    if listed is not None:
        _count_unlisted(data, split, pairs, listed)
        absent = [Sample(name, pairs.folder / name, pairs.labels.folder / name) for name in listed.absent]
        files = replace(files, samples=Joined((files.samples, absent)), missing=listed.missing + files.missing)
    return replace(files, facts=pairs.facts(images))


@dataclass(frozen=True)
class _Listed:
    """The images that a list names, with the labels that it names for them; images that are ``absent``; and a line of text on
    these, and on absent labels."""

    labels: dict[str, Optional[str]]
    absent: list[str]
    missing: list[str]


def _listed(template: str, split: Split, pairs: PairFiles) -> _Listed:
    """What the list of a split names; DataError where it cannot be read, or names no image that is there."""
    path = split.root / template.replace('{split}', split.name)
    lines = split.read_list(path)
    images = splits.Names(split.root, pairs.folder, pairs.images, pairs.ending.stem)
    labels = splits.Names(split.root, pairs.labels.folder, pairs.labels.names, pairs.labels.ending.stem)
    named, unknown = splits.entries(path, lines, images, labels, pairs.tally)
    missing = [splits.unnamed(path, unknown, len(lines), f'no image below {pairs.folder}')] if unknown else []
    without = [entry.line for entry in named if entry.label is not None and labels(entry.label) is None]
    if without:
        missing.append(splits.unnamed(path, without, len(lines), f'no label below {pairs.labels.folder}'))
    if not named:
        raise DataError(f'{missing[0]}; {split.expected()}')
    return _Listed({entry.image: entry.label for entry in named}, [line.text.strip() for line in unknown], missing)


def _count_unlisted(data: config.Data, split: Split, pairs: PairFiles, listed: _Listed) -> None:
    """Counts the images of the folder that neither this list nor that of another split names, if that one is there."""
    template, images = data.split_list or '', set(listed.labels)
    one_folder = '{split}' in template and '{split}' not in (data.image_dir or '')
    try:
        for name in {*data.split_names} - {split.name} if one_folder else ():
            images |= set(_listed(template, replace(split, name=name), replace(pairs, tally=Tally())).labels)
    except DataError:
        return  # said where that split is opened
    pairs.tally.add(UNLISTED, *(name for name in pairs.images if name not in images and not pairs.labels.is_used(name)))
