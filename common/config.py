"""The configuration: flat YAML outside, typed groups inside.

A recipe is one flat YAML file. Its keys are the MindSpore model zoo's where the zoo has one (``base_lr``, ``amp_level``,
...) and mmsegmentation's otherwise (``ratio_range``, ``cat_max_ratio``, ...). ``base:`` names one or several files or
recipes, whose keys are taken first. ``published:`` says what others scored with the file's settings, and is no setting
(``settings/published_scores.py``). In code the keys live in typed groups: ``config.optimizer.base_lr``.
"""

from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from twinseg.common.errors import UserError, did_you_mean, reason_of, similar
from twinseg.common.files import read_bounded, resolved
from twinseg.common.settings import foreign_keys, published_scores, yaml_text, zoo_keys
from twinseg.common.settings.groups.augment import Augment
from twinseg.common.settings.groups.data import IMAGE_FOLDERS, Data
from twinseg.common.settings.groups.loss import Loss
from twinseg.common.settings.groups.model import Model
from twinseg.common.settings.groups.optimizer import Optimizer, Schedule
from twinseg.common.settings.groups.runtime import Precision, Runtime
from twinseg.common.settings.kinds import Group
from twinseg.common.settings.limits import MAX_CLASS_IDS
from twinseg.common.settings.messages import first_problem, refuse, shown
from twinseg.common.settings.of_task import CLASSIFICATION_DEFAULTS, OTHER_TASKS, TASK_TEXTS, TaskName
from twinseg.common.settings.recipes import RECIPES, find, find_base

MAX_BYTES = 1 << 20  # largest configuration file
MAX_FILES = 100  # files that a configuration may be composed of

GROUPS: dict[str, type[Group]] = {
    'model': Model,
    'data': Data,
    'augment': Augment,
    'optimizer': Optimizer,
    'schedule': Schedule,
    'loss': Loss,
    'precision': Precision,
    'runtime': Runtime,
}

EXCLUSIVE = (
    ('epochs', 'max_iters'),
    ('warmup_length', 'warmup_iters'),
    ('ratio_range', 'scale_set'),
    ('eval_resized', 'eval_center_crop'),
)
KEYS: dict[str, str] = {key: group for group, kind in GROUPS.items() for key in kind.model_fields}


class Config(BaseModel):
    """All settings of a run, in groups."""

    model_config = ConfigDict(extra='forbid', frozen=True, protected_namespaces=())

    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    precision: Precision = Precision()
    runtime: Runtime = Runtime()

    @property
    def task(self) -> TaskName:
        """The task: segmentation, or classification of whole images."""
        return 'classification' if self.data.set in IMAGE_FOLDERS else 'segmentation'

    @model_validator(mode='after')
    def _one_task(self):
        for key in OTHER_TASKS[self.task]:
            group = getattr(self, KEYS[key])
            if getattr(group, key) != type(group).model_fields[key].default:
                refuse(
                    f'{shown(getattr(group, key))} has no effect with set: {self.data.set}, which is for '
                    f'{TASK_TEXTS[self.task]}; leave it out',
                    key,
                )
        if self.task == 'classification' and self.loss.loss != 'cross_entropy':
            refuse(f'{self.loss.loss} is for segmentation; image classification has cross_entropy', 'loss')
        return self

    @model_validator(mode='after')
    def _whole_steps(self):
        if not self.data.drop_last and self.optimizer.accumulation_step > 1:
            refuse(
                f'false with accumulation_step: {self.optimizer.accumulation_step}: a step would hold batches of unequal '
                'size; leave one of them out',
                'drop_last',
            )
        return self

    @model_validator(mode='after')
    def _detail_target_of_sgd(self):
        if self.loss.detail_target == 'decaying' and self.optimizer.optimizer not in ('sgd', 'momentum'):
            refuse(f'decaying follows optimizer: sgd, not {self.optimizer.optimizer}; choose constant', 'detail_target')
        return self

    @model_validator(mode='after')
    def _class_counts(self):
        weights, classes = self.loss.class_weight, self.model.num_classes or len(self.data.classes or ())
        if self.task == 'segmentation' and classes > MAX_CLASS_IDS:
            key = 'num_classes' if self.model.num_classes else 'classes'
            refuse(f'{classes} classes; a segmentation has at most {MAX_CLASS_IDS}: ids are bytes, and 255 is ignored', key)
        if isinstance(weights, list) and classes and len(weights) != classes:
            refuse(f'{len(weights)} weights for {classes} classes; give one for each', 'class_weight')
        return self

    def flat(self) -> dict[str, Any]:
        """The keys that were set, as one flat mapping: what ``from_flat`` takes."""
        return {key: value for group in GROUPS for key, value in getattr(self, group).model_dump(exclude_unset=True).items()}

    def replace(self, **keys: Any) -> 'Config':
        """A copy with some flat keys changed."""
        return _typed(_overlay(_given(self.flat(), 'configuration', trusted=True), _given(keys, 'configuration')))


class Given(NamedTuple):
    """A key's value, and where it comes from."""

    value: Any
    origin: str  # file or option, and the key as it is written there
    trusted: bool = False  # whether a run was trained with it


def load(name: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a recipe.

    ``name`` is a path, or a recipe below ``common/configs`` with or without its folder and suffix, or mmsegmentation's name of
    the same configuration. ``overrides`` are ``key=value`` strings, value in YAML; ``group.key=value`` is taken too.
    Raises UserError for an unknown key (naming the nearest one) or a wrong value, and says where it is given.
    """
    path = find(name)
    keys = _overlay(_read(path, (), []), _overrides(overrides))
    if path.resolve().is_relative_to(RECIPES.resolve()):
        title = str(path.resolve().relative_to(RECIPES.resolve()).with_suffix(''))
        keys = {'recipe': Given(title, str(path)), **keys}
    return _typed(keys, str(path))


def override(config: Config, overrides: Iterable[str]) -> Config:
    """A configuration with ``key=value`` strings applied, as ``load`` takes them."""
    return _typed(_overlay(_given(config.flat(), 'configuration', trusted=True), _overrides(overrides)))


def parse_override(text: str) -> tuple[str, Any]:
    """``group.key=value`` or ``key=value`` -> the flat key and the value, read as YAML."""
    key, sign, value = text.partition('=')
    if not sign or not key.strip():
        raise UserError(f'--set {shown(text)}: expected key=value')
    key = key.strip()
    group, dot, rest = key.partition('.')
    if dot and group in GROUPS:
        if KEYS.get(rest) != group:
            raise UserError(f'--set {key}: ' + _unknown(rest, GROUPS[group].model_fields))
        key = rest
    if yaml.reader.Reader.NON_PRINTABLE.search(value):  # YAML knows no such characters; names of files may have them
        return key, value
    return key, yaml_text.parse(value, f'--set {key}')


def from_flat(keys: Mapping[str, Any], where: str = 'configuration', trusted: bool = False) -> Config:
    """Typed groups from flat keys; UserError naming the key and what is wrong with it.

    Takes the model zoo's spellings, too. With the data set of a classifier some defaults are others. ``trusted``: a run was
    trained with the keys, so that what is merely unreasonable (a range with the highest value first) is accepted.
    """
    return _typed(_given(keys, where, trusted), where)


def _overrides(overrides: Iterable[str]) -> dict[str, Given]:
    return _given(dict(map(parse_override, overrides)), '--set')


def _given(keys: Mapping[str, Any], where: str, trusted: bool = False) -> dict[str, Given]:
    """Flat keys in the suite's spelling, with their origin; UserError for an unknown one."""
    ours = zoo_keys.translated(keys, where)
    for key in ours:
        if key not in KEYS:
            raise UserError(f'{where}: ' + _unknown(key, KEYS))
    written = {zoo_keys.KEYS.get(key, key): key for key in keys}
    joint = ' ' if where == '--set' else ': '
    return {key: Given(value, f'{where}{joint}{written.get(key, key)}', trusted) for key, value in ours.items()}


def _typed(keys: Mapping[str, Given], where: str = 'configuration') -> Config:
    """Typed groups; UserError naming the key and where it was given."""
    values = {key: given.value for key, given in keys.items()}
    arch = values.get('arch')
    if (
        isinstance(arch, str) and arch in zoo_keys.ARCHS
    ):  # expanded last, so that another arch laid over it leaves none of its keys
        values = {**zoo_keys.ARCHS[values.pop('arch')], **values}
    if values.get('set') in IMAGE_FOLDERS:
        values = {**CLASSIFICATION_DEFAULTS, **values}
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for key, value in values.items():
        groups[KEYS[key]][key] = value
    context = {'trusted': {key for key, given in keys.items() if given.trusted}}
    typed: dict[str, Group] = {}
    kind: type[BaseModel] = Config
    try:
        for group, kind in GROUPS.items():
            typed[group] = kind.model_validate(groups[group], context=context)
        kind = Config
        return Config.model_validate(typed, context=context)
    except ValidationError as error:
        problem = first_problem(error, kind)
        given = keys.get(problem.key or '')
        origin = given.origin if given else f'{where}: {problem.key}' if problem.key else where
        raise UserError(f'{origin}: {problem.text}') from None


def dump(config: Config) -> str:
    """The configuration as flat YAML, grouped by comments; ``load`` reads it back to an equal one."""
    lines = []
    for group in GROUPS:
        keys = getattr(config, group).model_dump()
        lines += [f'# {group}', *(f'{key}: {yaml_text.written(value)}' for key, value in keys.items()), '']
    return '\n'.join(lines)


def _read(path: Path, above: tuple[Path, ...], read: list[Path]) -> dict[str, Given]:
    """The flat keys of a file over those of its ``base``; ``above``: the files that lead to it, ``read``: all read so far."""
    real = resolved(path)
    if real in above:
        raise UserError(f'{above[-1]}: base: leads back to {"the file itself" if real == above[-1] else path}')
    read.append(path)
    if len(read) > MAX_FILES:
        raise UserError(f'{path}: base: more than {MAX_FILES} files')
    try:
        text = read_bounded(path, MAX_BYTES).decode('utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        reason = 'no UTF-8; save it as UTF-8' if isinstance(error, UnicodeDecodeError) else reason_of(error)
        raise UserError(f'{path}: not readable as YAML: {reason}') from None
    keys = yaml_text.parse(text, str(path))
    if keys is None:
        keys = {}
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
        raise UserError(f'{path}: expected flat "key: value" lines')
    if published_scores.KEY in keys:  # of this file alone: a base's scores are not those of what is built on it
        published_scores.parse(keys.pop(published_scores.KEY), f'{path}: {published_scores.KEY}')
    below: dict[str, Given] = {}
    for name in _bases(keys.pop('base', None), path):
        below = _overlay(below, _read(find_base(name, (path.parent, real.parent), str(path)), (*above, real), read))
    of_a_run = path.name == 'config.yaml' and (path.parent / 'metrics.jsonl').is_file()
    return _overlay(below, _given(keys, str(path), trusted=of_a_run))


def _bases(base: Any, path: Path) -> list[str]:
    """The names in ``base``: one, or a list of which later ones win."""
    names = [] if base is None else base if isinstance(base, list) else [base]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(
                f'{path}: base: expected the name of a recipe or a file, or a list of such names, found {shown(name)}'
            )
    return names


def _overlay(below: Mapping[str, Given], above: Mapping[str, Given]) -> dict[str, Given]:
    """Keys of ``above`` win; one of a pair that excludes each other replaces the other."""
    replaced = {
        other for pair in EXCLUSIVE for key, other in (pair, pair[::-1]) if key in above and above[key].value is not None
    }
    return {**{key: given for key, given in below.items() if key not in replaced}, **above}


def _unknown(key: str, known: Iterable[str]) -> str:
    answer = foreign_keys.answer(key)
    if answer is not None:
        return f'unknown key {shown(key)}: {answer}'
    near = similar(key.lower(), known, most=1)
    return f'unknown key {shown(key)}{did_you_mean(near, "`twinseg list --keys` names all keys")}'
