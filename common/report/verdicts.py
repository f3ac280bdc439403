"""What the figures of runs say, in a sentence for each section of the page."""

from collections.abc import Sequence

import numpy as np

from twinseg.common import tasks
from twinseg.common.report.records import Record

EQUAL = 0.005  # points below which two scores are printed alike
FLAT = 0.5  # points by which a score may rise over the last third of a training and still have settled


def of_scores(records: Sequence[Record]) -> str:
    """Which run is the best, and by how much."""
    ranked = sorted((record for record in records if record.best), key=_score, reverse=True)
    if not ranked:
        return 'No run has been evaluated yet.'
    figure, first = records[0].figures[0], ranked[0]
    best = first.best or {}
    text = f'{first.name} reaches {_score(first):.2f} {figure} at step {best["step"]}'
    if len(ranked) > 1:
        ahead = _score(first) - _score(ranked[1])
        text += f', {ahead:.2f} more than {ranked[1].name}' if ahead >= EQUAL else f', as {ranked[1].name} does'
    if len(ranked) > 2:
        text += f' and {_score(first) - _score(ranked[-1]):.2f} more than {ranked[-1].name}'
    return f'{text}.'


def of_curves(records: Sequence[Record]) -> str:
    """Whether the score still rose at the end, and how the loss went."""
    sentences = []
    for record in records:
        losses = [line['loss'] for line in record.steps if line.get('loss') is not None]
        scores = [line[record.figures[0]] or 0.0 for line in record.evaluations]
        if len(losses) >= 4:
            quarter = max(1, len(losses) // 4)
            begin, end = np.mean(losses[:quarter]), np.mean(losses[-quarter:])
            sentences.append(f'{record.name}: the mean loss of a quarter went from {begin:.3g} to {end:.3g}.')
        if len(scores) >= 3:
            before = max(scores[: -(-2 * len(scores) // 3)])
            rise = max(scores) - before
            sentences.append(
                f'The score rose by {rise:.2f} points over the last third: a longer training may bring more.'
                if rise > FLAT
                else f'The score rose by {max(rise, 0):.2f} points over the last third: it has settled.'
            )
    return ' '.join(sentences)


def of_classes(records: Sequence[Record]) -> str:
    """The hardest and the easiest classes of the first run that was evaluated."""
    record = next((record for record in records if record.best), None)
    if record is None or record.best is None:
        return ''
    figure = tasks.of(record.config.task).CLASS_FIGURE
    scored = [(values[figure], name) for name, values in record.best['classes'].items() if values[figure] is not None]
    if len(scored) < 2:
        return ''
    worst, best = min(scored), max(scored)
    return f'{record.name} finds {worst[1]} hardest ({worst[0]:.1f}) and {best[1]} easiest ({best[0]:.1f}).'


def of_confusion(records: Sequence[Record]) -> str:
    """The most frequent mistake of each run, by its share of a class."""
    sentences = []
    for record in records:
        if not record.best or 'confusion' not in record.best:
            continue
        matrix, names = np.array(record.best['confusion'], float), list(record.best['classes'])
        total = matrix.sum(1, keepdims=True)
        shares = np.divide(100 * matrix, total, out=np.zeros_like(matrix), where=total > 0)
        np.fill_diagonal(shares, 0)
        if shares.size and shares.max() > 0:
            truth, seen = np.unravel_index(shares.argmax(), shares.shape)
            share = shares[truth, seen]
            sentences.append(
                f'{record.name} takes {share:.0f} % of {names[truth]} for {names[seen]}, its most frequent mistake.'
            )
    return ' '.join(sentences)


def _score(record: Record) -> float:
    return (record.best or {}).get(record.figures[0]) or 0.0
