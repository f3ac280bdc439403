"""Scores as the model zoo's programs print them."""

import json
from pathlib import Path

NAMES = {'top1': 'Top1 acc', 'top5': 'Top5 acc', 'mIoU': 'mIoU'}


def score_lines(file: Path) -> list[str]:
    """``Top1 acc: 76.60`` and its like, of the scores that ``twinseg eval --json`` wrote."""
    scores = json.loads(file.read_text(encoding='utf-8'))
    return [f'{name}: {scores[key]:.2f}' for key, name in NAMES.items() if scores.get(key) is not None]
