"""What runs reached, as the MindSpore model zoo's programs and pages say it."""

import json
from pathlib import Path

from twinseg.common import checkpoint
from twinseg.common.errors import UserError
from twinseg.common.inference.runs import find_checkpoint
from twinseg.common.report.records import read_run
from twinseg.common.report.results_table import hardware, hours

NAMES = {'top1': 'Top1 acc', 'top5': 'Top5 acc', 'mIoU': 'mIoU'}


def score_lines(file: Path) -> list[str]:
    """``Top1 acc: 76.60`` and its like, of the scores that ``twinseg eval --json`` wrote."""
    scores = json.loads(file.read_text(encoding='utf-8'))
    return [f'{name}: {scores[key]:.2f}' for key, name in NAMES.items() if scores.get(key) is not None]


def performance(folder: Path) -> str:
    """The table "Training Performance" of the zoo's pages for a run, in Markdown. UserError for a folder that is no run, or has
    not trained a step yet."""
    record = read_run(folder)
    if not record.steps:
        raise UserError(f'{folder}: has not logged a step yet')
    meta, parameters = _stored(folder)
    config, last, best = record.config, record.steps[-1], record.best or {}
    images = config.data.batch_size * config.optimizer.accumulation_step * meta.world_size
    speeds = [line['img_per_s'] for line in record.steps if line.get('img_per_s')]
    figure = record.figures[0]
    rows = {
        'Model': config.model.arch,
        'Resource': hardware(meta),
        'Versions': ', '.join(f'{name} {number}' for name, number in meta.versions.items()),
        'Dataset': config.data.set,
        'Optimizer': f'{config.optimizer.optimizer}, lr {config.optimizer.base_lr:g}',
        'Training Parameters': f'batch {images}, {last["step"]} steps',
        'Loss Function': config.loss.loss,
        'Final loss': f'{last["loss"]:.4f}' if last.get('loss') is not None else None,
        'Speed': f'{1000 * images / sorted(speeds)[len(speeds) // 2]:.2f} ms/step' if speeds else None,
        'Total time': f'{time} hours' if (time := hours(record)) else None,
        'Parameters (M)': f'{parameters / 1e6:.3f}',
        NAMES.get(figure, figure): f'{best[figure]:.2f}' if best.get(figure) is not None else None,
    }
    lines = [f'| {name} | {value} |' for name, value in rows.items() if value]
    return '\n'.join(['| Parameters | |', '| --- | --- |', *lines, ''])


def _stored(folder: Path) -> tuple[checkpoint.RunMeta, int]:
    """What the best checkpoint says of its run, and the numbers of its network, running statistics left out."""
    state, meta = checkpoint.model_state(find_checkpoint(folder))
    return meta, sum(array.size for name, array in state.items() if not name.rpartition('.')[2].startswith('running_'))
