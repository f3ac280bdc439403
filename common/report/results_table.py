"""A page of results, made from run folders: what was trained how, on what, what it scored, and what is published for it
under the same split and protocol."""

import json
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence

from twinseg.common import checkpoint, tasks
from twinseg.common import config as configuration
from twinseg.common.backend import available, get_backend, used_arguments
from twinseg.common.config import Config
from twinseg.common.data.open import is_trained_on
from twinseg.common.errors import StateError, UserError
from twinseg.common.files import read_bounded, write_text
from twinseg.common.inference.runs import find_checkpoint, network_arguments, num_classes
from twinseg.common.report.records import MAX_FILE, Record, read_run
from twinseg.common.settings import published_scores
from twinseg.common.settings.published_scores import PublishedScore
from twinseg.common.settings.recipes import RECIPES

OF_ANY_RUN = ('data_url', 'num_parallel_workers', 'eval_batch_size', 'on_error', 'max_errors')  # keys that change no score
NONE = '-'
OPENING = [
    '# Results',
    '',
    'Made by `twinseg results RUN... --out FILE` from run folders; not to be edited.',
    'A score is that of the best evaluation of a run.',
    '',
]
RUN = ('data', 'recipe', 'backend', 'seed')  # columns that say which run a row is of


def write_results(runs: Sequence[Path], out: Path, add: bool = False) -> Path:
    """Writes a Markdown table with a row for each run folder, and returns its path.

    With ``add`` the rows that ``out`` has already stay, but those of the same runs (see RUN). Scores are those of the best
    checkpoint on the validation split: the highest evaluation of the training, and of several scales and mirrored those in a
    JSON file that ``twinseg eval --ms-flip --json RUN/FILE.json`` left in the folder.
    UserError for a folder that is no run, or has no evaluation yet, and with ``add`` for another file.
    """
    if not runs:
        raise UserError('results: name at least one run folder')
    rows = [{column: _cell(value) for column, value in row(folder).items()} for folder in runs]
    columns = list(rows[0])
    head = [*OPENING, _line(columns), '|' + ' --- |' * len(columns)]
    if add:
        new = {tuple(cells[key] for key in RUN) for cells in rows}
        rows += [cells for cells in _rows_of(out, head) if tuple(cells[key] for key in RUN) not in new]
    rows.sort(key=lambda cells: (*(cells[key] for key in RUN[:-1]), int(cells['seed'])))
    lines = [*head, *(_line(cells.values()) for cells in rows), '']
    try:
        write_text(out, '\n'.join(lines))
    except OSError as error:
        raise UserError(f'{out}: not written: {error.strerror}; choose another folder') from None
    return out


def row(folder: Path) -> dict[str, Any]:
    """A run's row of the page."""
    record = read_run(folder)
    if record.best is None:
        raise UserError(f'{folder}: has no evaluation yet')
    config, figure = record.config, record.figures[0]
    try:
        meta = checkpoint.load(find_checkpoint(folder))[1]
    except StateError as error:
        raise UserError(f'{folder}: {error}') from None
    counted, size = sizes(folder, config, meta), tasks.of(config.task).input_size(config)
    several = _several_scales(folder, config, figure)
    return {
        'data': config.data.set,
        'recipe': recipe_of(config),
        'backend': meta.backend,
        'seed': config.runtime.seed,
        'steps': record.steps[-1]['step'] if record.steps else record.best['step'],
        'hours': hours(record),
        'hardware': hardware(meta),
        'score': f'{figure} {record.best[figure]:.2f}{_kind_of_score(config)}',
        'multi-scale, flip': several,
        'parameters, M': counted and f'{counted[0] / 1e6:.3f}',
        'G MACs': counted and f'{counted[1] / 1e9:.3f}',
        'at': f'{size[0]}x{size[1]}',
        'published': published(config),
    }


def hours(record: Record) -> Optional[str]:
    """Time that the processes of a run spent on it; None where its metrics do not say."""
    seconds = [line['elapsed'] for line in (*record.steps, *record.evaluations) if 'elapsed' in line]
    return f'{max(seconds) / 3600:.2f}' if seconds else None


def published(config: Config) -> Optional[str]:
    """The published scores of a run's recipe that were counted as the run's: on its data set and split, by the recipe's
    protocol, at its size of evaluation, nothing left out; None where there is none."""
    known = published_scores.of_recipe(config.runtime.recipe).scores
    if not known:
        return None
    recipe = configuration.load(RECIPES / f'{config.runtime.recipe}.yaml')
    if config.data.set != recipe.data.set:
        return None
    texts = [
        score.text
        for score in known
        if score.split == config.data.val_split
        and score.protocol is None
        and config.augment.protocol == recipe.augment.protocol
        and config.augment.eval_size == _size(score, recipe)
    ]
    return '; '.join(texts) or None


def _size(score: PublishedScore, recipe: Config) -> Optional[list[int]]:
    """The ``eval_size`` that a published score was counted with."""
    if score.eval_size is None:
        return recipe.augment.eval_size
    return None if score.eval_size == 'file' else score.eval_size


def _kind_of_score(config: Config) -> str:
    """What keeps a score from being compared with others, in brackets; empty where nothing does."""
    augment = config.augment
    notes = ['trained on'] if is_trained_on(config.data) else []
    notes += [augment.protocol] if augment.protocol != 'full' else []
    notes += [f'scales {", ".join(f"{scale:g}" for scale in augment.eval_scales)}'] if augment.eval_scales != [1.0] else []
    notes += ['flip'] if augment.eval_flip else []
    return f' ({"; ".join(notes)})' if notes else ''


def recipe_of(config: Config) -> str:
    """The recipe, and the keys that were changed."""
    if config.runtime.recipe is None:
        return config.model.arch
    try:
        before = configuration.load(RECIPES / f'{config.runtime.recipe}.yaml')
    except UserError:
        return f'{config.runtime.recipe} (no longer a recipe)'
    changed = [
        f'{key}={_value(key, getattr(getattr(config, group), key))}'
        for key, group in configuration.KEYS.items()
        if group != 'runtime'
        and key not in OF_ANY_RUN
        and getattr(getattr(config, group), key) != getattr(getattr(before, group), key)
    ]
    return config.runtime.recipe + (f' with {", ".join(changed)}' if changed else '')


def _value(key: str, value: Any) -> Any:
    """A key's value as ``--set`` takes it: of weights to start from the run folder, not where it was on some machine."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return Path(*Path(value).parts[-3:]) if key == 'pretrained' and value else value


def hardware(meta: checkpoint.RunMeta) -> str:
    machine = meta.machine
    if 'gpu' in machine:
        return f'{meta.world_size} x {machine["gpu"]}'
    threads = f', {machine["threads"]} threads' if 'threads' in machine else ''
    return f'{machine["cpu"]}{threads}' if 'cpu' in machine else meta.device or NONE


def sizes(folder: Path, config: Config, meta: checkpoint.RunMeta) -> Optional[tuple[int, int]]:
    """Parameters in training, and multiply-accumulates in inference at the size of evaluation; None without a framework."""
    names = [name for name in (meta.backend, *available()) if name in available()]
    if not names:
        return None
    backend = get_backend(names[0])
    backend.setup('cpu')
    arguments = network_arguments(config, num_classes(config, meta.num_classes, str(folder)))
    arch, without_heads = config.model.arch, {**arguments, 'auxiliary': False}
    whole = backend.build_model(arch, seed=None, **used_arguments(backend.MODELS, arch, arguments))
    inference = backend.build_model(arch, seed=None, **used_arguments(backend.MODELS, arch, without_heads))
    return backend.parameters(whole), backend.macs(inference, tasks.of(config.task).input_size(config))


def _several_scales(folder: Path, config: Config, figure: str) -> Optional[str]:
    """The score in a JSON file of ``twinseg eval --ms-flip`` on the validation split; the newest one."""
    for path in sorted(folder.glob('*.json'), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            result = json.loads(read_bounded(path, MAX_FILE))
            conditions = result['conditions']
            same_protocol = conditions.get('protocol', 'full') == config.augment.protocol
            if conditions['ms_flip'] and same_protocol and conditions['split'] == config.data.val_split:
                return f'{result[figure]:.2f}'
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            continue  # another kind of file
    return None


def _rows_of(page: Path, head: list[str]) -> list[dict[str, str]]:
    """The rows of a page written earlier, not changed; none where there is no page."""
    try:
        lines = read_bounded(page, MAX_FILE).decode().splitlines() if page.exists() else head
    except (OSError, ValueError) as error:
        raise UserError(f'{page}: not read: {error}') from None
    columns = _split(head[-2])
    table = [_split(line) for line in lines[len(head) :]]
    rows = [dict(zip(columns, cells)) for cells in table]
    if (
        lines[: len(head)] != head
        or any(len(cells) != len(columns) for cells in table)
        or not all(cells['seed'].isdigit() for cells in rows)
    ):
        raise UserError(f'{page}: is no page of results of this version; leave out --add, or name another file')
    return rows


def _line(cells: Iterable[str]) -> str:
    return '| ' + ' | '.join(cells) + ' |'


def _split(line: str) -> list[str]:
    return line.removeprefix('| ').removesuffix(' |').split(' | ')


def _cell(value: Any) -> str:
    return NONE if value is None else str(value).replace('|', '\\|')
