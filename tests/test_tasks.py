"""Segmentation and classification answer the same questions, and no other module asks which of them it is."""

import ast
from pathlib import Path

import pytest

from tests.support import signatures
from twinseg.common import config, tasks
from twinseg.common.settings.groups.data import IMAGE_FOLDERS
from twinseg.common.tasks.base import Task

ROOT = Path(__file__).parents[1]
NAMES = ('segmentation', 'classification')
MAY_ASK = ('common/config.py', 'common/tasks/')  # where the task is derived, and where it is answered for
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for folder in ('common', 'pytorch_impl', 'mindspore_impl')
    for path in sorted((ROOT / folder).rglob('*.py'))
}
OTHERS = [name for name in SOURCES if not name.startswith(MAY_ASK)]


@pytest.mark.parametrize('name', NAMES)
def test_a_task_answers_all_questions(name):
    task, expected = tasks.of(name), signatures.of_protocol(Task)
    assert signatures.of_module(task, expected) == expected
    assert all(hasattr(task, constant) for constant in signatures.constants(Task))
    assert task.NAME == name


def test_the_task_is_that_of_the_data_set():
    assert config.from_flat({'set': 'camvid'}).task == 'segmentation'
    assert all(config.from_flat({'set': name}).task == 'classification' for name in IMAGE_FOLDERS)
    assert tasks.of_logits(None).NAME == 'classification' and tasks.of_logits(False).NAME == 'segmentation'


def questions(source: str) -> list[int]:
    """Lines that compare something with the name of a task, or ask for the kind of scores or of task."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            words = [item.value for item in ast.walk(node) if isinstance(item, ast.Constant)]
            lines += [node.lineno] * any(word in NAMES for word in words)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'isinstance':
            kinds = [item.id for item in ast.walk(node.args[1]) if isinstance(item, ast.Name)]
            lines += [node.lineno] * bool({'Scores', 'ImageScores', 'TrainImages', 'EvaluationImages'} & set(kinds))
        if isinstance(node, ast.Attribute) and node.attr in ('classifies', 'segments'):
            lines.append(node.lineno)
        if isinstance(node, (ast.MatchValue,)) and isinstance(node.value, ast.Constant) and node.value.value in NAMES:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize('name', OTHERS)
def test_no_other_module_asks(name):
    assert questions(SOURCES[name].read_text(encoding='utf-8')) == []


@pytest.mark.parametrize(
    'source',
    ["if config.task == 'classification': pass", 'isinstance(x, ImageScores)', 'config.classifies', "x in ('segmentation',)"],
)
def test_a_question_is_found(source):
    assert questions(source)
