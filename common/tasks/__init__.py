"""The tasks, chosen once: segmentation or classification."""

from typing import Optional

from twinseg.common.settings.of_task import TaskName
from twinseg.common.tasks import classification, segmentation
from twinseg.common.tasks.base import Task

TASKS: dict[TaskName, Task] = {'segmentation': segmentation, 'classification': classification}


def of(name: TaskName) -> Task:
    """The task of that name."""
    return TASKS[name]


def of_logits(align_corners: Optional[bool]) -> Task:
    """The task of a network whose logits are resized so to the image's size; None: they are never resized."""
    return classification if align_corners is None else segmentation
