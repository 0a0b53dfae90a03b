"""The items of few-shot tasks that a run's specification names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cola.evaluation.few_shot.selection import Selection
from cola.evaluation.few_shot.shots import Shots
from cola.evaluation.few_shot.sources import Hub, load_items
from cola.evaluation.items import Item
from cola.records import FEW_SHOT_TASKS, VALIDATION_SEED
from cola.study import EvaluationSpec

OPTION = "evaluation.task_folder"


def item_loader(settings: EvaluationSpec, seed: int) -> Callable[[str], Sequence[Item]]:
    """A function that gives the items of a few-shot task that the settings select.

    They are read from `<task_folder>/<task>.jsonl`, or from the task's public data set without a
    folder; with `shots` they have so many demonstrations in place of the task's own.
    """
    folder = settings.task_folder
    source = Hub() if folder is None else Path(folder).expanduser()
    selection = Selection(settings.task_items, settings.task_selection, seed)

    def items_of(task: str) -> Sequence[Item]:
        items = load_items(task, source, selection=selection, option=OPTION)
        if settings.shots is None:
            return items
        return Shots(settings.shots, seed).prompted(task, items, source, option=OPTION)

    return items_of


def check_items(settings: EvaluationSpec) -> None:
    """Read the items of all few-shot tasks of the settings, before anything is trained.

    Raises:
        SpecError: the items of a task cannot be read.
    """
    items_of = item_loader(settings, VALIDATION_SEED)
    for task in set(settings.tasks) & set(FEW_SHOT_TASKS):
        items_of(task)
