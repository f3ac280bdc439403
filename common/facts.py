"""What a network was made for, as its file says it, compared with what it is used on: classes, normalisation, sizes, task.

Every command that brings the two together calls ``check``: evaluation, prediction, export, quantisation, a training that is
continued, comparisons and measurements.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Optional

from twinseg.common import config as configuration
from twinseg.common.checkpoint import RunMeta
from twinseg.common.config import Config
from twinseg.common.data.base import IGNORE, Dataset
from twinseg.common.data.open import description
from twinseg.common.errors import StateError, UserError
from twinseg.common.printable import MOST_NAMES, listed
from twinseg.common.settings.of_task import TASK_TEXTS, TaskName

NORMALISATION = ('mean', 'std')
SIZES: dict[TaskName, tuple[str, ...]] = {  # keys that decide what a network sees of an image
    'segmentation': ('crop_size', 'eval_size'),
    'classification': ('image_size', 'crop_pct', 'square_resize', 'interpolation'),
}
OWN_CLASSES = ('custom', 'image_folder')  # data sets whose classes are a user's: equal names do not mean equal classes
Colour = tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """Facts about a network or about data, as far as ``source``, their origin, says them: none where a field is empty."""

    source: str  # as messages call it: a file, a configuration, a data set
    task: Optional[TaskName] = None
    set: Optional[str] = None
    folder: Optional[str] = None  # folder of the data
    num_classes: Optional[int] = None  # outputs of the network, or classes of the data
    classes: tuple[str, ...] = ()  # names, in the order of the class ids
    palette: tuple[Colour, ...] = ()  # RGB colours, in that order
    label_map: Mapping[int | str, int] = field(default_factory=dict)  # id or colour in label files -> class id
    settings: Mapping[str, Any] = field(default_factory=dict)  # keys of the configuration: NORMALISATION, SIZES


class Differences(NamedTuple):
    """Lines about what differs: what cannot be right, and what may be."""

    wrong: list[str]
    doubtful: list[str]


def of_checkpoint(meta: RunMeta, source: object) -> Facts:
    """The facts that a checkpoint carries. Of published weights, which were trained elsewhere, only those that the file states;
    of a run its defaults, too."""
    stated_only = meta.source is not None or not meta.config
    try:
        config = configuration.from_flat(meta.config, str(source), trusted=True)
    except UserError:  # written by a version with other keys
        return Facts(str(source), num_classes=meta.num_classes, classes=tuple(meta.classes), palette=_colours(meta.palette))
    facts = of_config(config, source, stated_only)
    return replace(
        facts,
        num_classes=meta.num_classes or facts.num_classes,
        classes=tuple(meta.classes) or (() if stated_only else facts.classes),
        palette=_colours(meta.palette) or (() if stated_only else facts.palette),
    )


def of_config(config: Config, source: object = 'the configuration', stated_only: bool = False) -> Facts:
    """The facts that a configuration states, with ``stated_only`` without its defaults; the classes where they are known before
    any file is read."""
    stated = config.flat()
    keys = [key for key in (*NORMALISATION, *SIZES[config.task]) if not stated_only or key in stated]
    if stated_only and 'set' not in stated:
        return Facts(str(source), num_classes=config.model.num_classes, settings=_settings(config, keys))
    about = description(config.data)
    classes, palette = ((), ()) if about is None else (about.classes, _colours(about.palette.tolist()))
    return Facts(
        str(source),
        config.task,
        config.data.set,
        config.data.data_url,
        config.model.num_classes or len(classes) or None,
        classes,
        palette,
        _label_map(config, len(classes)),
        _settings(config, keys),
    )


def of_dataset(dataset: Dataset, config: Config) -> Facts:
    """The facts of an opened split of a configuration's data, whose settings are left to ``of_config``."""
    about = dataset.description
    return Facts(
        f'{dataset.name} {dataset.split}',
        config.task,
        config.data.set,
        config.data.data_url,
        config.model.num_classes or len(about.classes),
        tuple(about.classes),
        _colours(about.palette.tolist()),
    )


def check(
    stored: Facts, used: Facts, continued: bool = False, tell: Callable[[str], object] = warnings.warn, quiet: bool = False
) -> None:
    """Compares what a network was made for, ``stored``, with what it is ``used`` on: StateError where it cannot be right;
    ``tell`` hears of everything else that differs, unless ``quiet``. ``continued``: a training goes on, which takes no other
    classes and no other normalisation."""
    differences = compare(stored, used, continued)
    if differences.wrong:
        raise StateError('; '.join(differences.wrong))
    for line in differences.doubtful if not quiet else ():
        tell(line)


def check_start(stored: Facts, used: Facts, tell: Callable[[str], object] = warnings.warn) -> None:
    """Compares the origin of initial weights with the training that they start: another normalisation, and a classifier of as
    many classes in another order, can be trained away, so ``tell`` hears of them. Other classes and another task are meant."""
    same_count = len(stored.classes) == len(used.classes)
    differences = compare(
        replace(
            stored,
            task=None,
            num_classes=None,
            classes=stored.classes if same_count else (),
            palette=(),
            label_map={},
            settings={key: value for key, value in stored.settings.items() if key in NORMALISATION},
        ),
        used if same_count else replace(used, classes=()),
    )
    for line in (*differences.wrong, *differences.doubtful):
        tell(line)


def check_dataset(stored: Facts, dataset: Dataset, config: Config, quiet: bool = False) -> None:
    """``check`` of the classes that only the files of a data set tell; of others the configuration has told before."""
    if description(config.data) is None:
        check(stored, of_dataset(dataset, config), quiet=quiet)


def compare(stored: Facts, used: Facts, continued: bool = False) -> Differences:
    """What differs between a network, ``stored``, and what it is ``used`` on; see ``check``."""
    if stored.task and used.task and stored.task != used.task:
        return Differences(
            [
                f'{stored.source}: a network for {TASK_TEXTS[stored.task]}, but set: {used.set} of {used.source} is for '
                f'{TASK_TEXTS[used.task]}'
            ],
            [],
        )
    found = Differences([], [])
    names_agree = _compare_classes(stored, used, continued, found)
    if names_agree and not continued and _differ(stored.palette, used.palette):
        index = next(index for index, colour in enumerate(stored.palette) if colour != used.palette[index])
        found.doubtful.append(
            f'{stored.source}: other colours than those of {used.source}: class {index} ({used.classes[index]}) is '
            f'{list(stored.palette[index])}, there {list(used.palette[index])}'
        )
    for key in NORMALISATION if continued else (*NORMALISATION, *SIZES[used.task or 'segmentation']):
        was, now = (facts.settings.get(key) for facts in (stored, used))
        if key in stored.settings and key in used.settings and was != now:
            line = f'{stored.source}: was made with {key}: {was}, but {used.source} says {key}: {now}'
            if continued:
                found.wrong.append(f'{line}; a run is continued with the settings that it began with')
            else:
                found.doubtful.append(line + ('; the network expects its own' if key in NORMALISATION else ''))
    return found


def _compare_classes(stored: Facts, used: Facts, continued: bool, found: Differences) -> bool:
    """Adds to ``found`` how the classes differ; True where the names are known and as many."""
    ours, theirs = stored.classes, used.classes
    if not ours or not theirs:
        if stored.num_classes and used.num_classes and stored.num_classes != used.num_classes:
            found.wrong.append(_other_count(stored, used, stored.num_classes, used.num_classes))
        elif theirs and stored.num_classes and len(theirs) != stored.num_classes:  # num_classes is given beside the data
            found.doubtful.append(_other_count(stored, used, stored.num_classes, len(theirs)))
        elif theirs and (stored.set != used.set or used.set in OWN_CLASSES and stored.folder != used.folder):
            found.doubtful.append(
                f'{stored.source}: says no names of its classes: whether they are those of {used.source} '
                f'({listed(theirs)}) is not known'
            )
        return False
    if len(ours) != len(theirs):
        found.wrong.append(_other_count(stored, used, len(ours), len(theirs)))
        return False
    if stored.num_classes and used.num_classes not in (None, stored.num_classes, len(theirs)):
        found.wrong.append(
            f'{stored.source}: a network of {stored.num_classes} outputs, but {used.source} says num_classes: '
            f'{used.num_classes}'
        )
    if moved := _moved(ours, theirs):
        found.wrong.append(
            f'{stored.source}: has classes of {used.source} in another order: '
            + listed([f'{ours[here]} is its class {here}, there class {there}' for here, there in moved.items()])
            + _reordered(stored, used, moved)
        )
    elif ours != theirs:
        pairs = [f'class {index} is {a!r}, there {b!r}' for index, (a, b) in enumerate(zip(ours, theirs)) if a != b]
        only_spelling = all(_plain(a) == _plain(b) for a, b in zip(ours, theirs))
        line = f'{stored.source}: other names of classes than {used.source}: {listed(pairs)}'
        if continued and not only_spelling:
            found.wrong.append(f'{line}; a run is continued with the classes that it began with')
        else:
            found.doubtful.append(line if only_spelling else f'{line}; are they the same classes?')
    _compare_ids(stored, used, continued, found)
    return True


def _compare_ids(stored: Facts, used: Facts, continued: bool, found: Differences) -> None:
    """Adds the ids of the same label files that mean another class now."""
    if not _same_files(stored, used):
        return
    other = [
        f'{number} was {stored.classes[was]}, is {used.classes[now]}'
        for number, was in stored.label_map.items()
        if (now := used.label_map.get(number, IGNORE)) != was and max(was, now) < len(used.classes)
    ]
    if other:
        line = f'{stored.source}: label_map: ids of the label files meant other classes: {listed(other)}'
        (found.wrong if continued else found.doubtful).append(line)


def _other_count(stored: Facts, used: Facts, ours: int, theirs: int) -> str:
    return (
        f'{stored.source}: a network of {ours} classes{_named(stored.classes)}, but {used.source} has '
        f'{theirs}{_named(used.classes)}; use data of its classes, or train on these (pretrained, reset_classifier: true)'
    )


def _moved(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Class ids that another one has on the other side, by name: id -> id there; names that a side has twice are left out."""
    here, there = _ids(ours), _ids(theirs)
    return {index: there[name] for name, index in here.items() if name in there and there[name] != index}


def _ids(names: Sequence[str]) -> dict[str, int]:
    plain = [_plain(name) for name in names]
    times = Counter(plain)
    return {name: index for index, name in enumerate(plain) if times[name] == 1}


def _plain(name: str) -> str:
    """A name without what spelling changes: case, blanks, hyphens."""
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()


def _reordered(stored: Facts, used: Facts, moved: Mapping[int, int]) -> str:
    """The keys that put a user's own classes into the network's order; empty where they cannot be told."""
    ours, names = stored.classes, f'classes: [{listed(stored.classes)}]'
    if used.set != 'custom' or sorted(map(_plain, ours)) != sorted(map(_plain, used.classes)) or len(ours) > MOST_NAMES:
        return ''
    if _same_files(stored, used):
        return f'; on these files it was trained with {names}'
    back = {there: here for here, there in moved.items()}
    ids = {number: back.get(train_id, train_id) for number, train_id in used.label_map.items()}
    return f'; in its order they are {names}, label_map: {ids}' if 0 < len(ids) <= MOST_NAMES else ''


def _same_files(stored: Facts, used: Facts) -> bool:
    return stored.set == used.set and stored.folder == used.folder


def _named(classes: Sequence[str]) -> str:
    return f' ({listed(classes)})' if classes else ''


def _differ(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    return bool(ours and theirs) and len(ours) == len(theirs) and ours != theirs


def _colours(palette: Sequence[Sequence[int]]) -> tuple[Colour, ...]:
    return tuple(tuple(colour) for colour in palette)


def _label_map(config: Config, count: int) -> dict[int | str, int]:
    """Of a user's own data: id or colour in a label file -> class id."""
    if config.data.set != 'custom':
        return {}
    return dict(config.data.label_map or {index: index for index in range(count)})


def _settings(config: Config, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(getattr(config, configuration.KEYS[key]), key) for key in keys}
