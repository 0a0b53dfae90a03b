"""Where the items of few-shot tasks come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cola.evaluation.items import Item
from cola.evaluation.sources import Hub, load_items
from cola.records import FEW_SHOT_TASKS
from cola.study import EvaluationSpec


def items_from(folder: str | None) -> Callable[[str, int], Sequence[Item]]:
    """The first so many items of a few-shot task: of `<folder>/<task>.jsonl`, or of the task's
    public data set where there is no folder."""
    source = Hub() if folder is None else Path(folder).expanduser()
    return lambda task, limit: load_items(
        task, source, limit=limit, option="evaluation.task_folder"
    )


def check_items(settings: EvaluationSpec) -> None:
    """Read the items of all few-shot tasks that are asked for.

    Raises:
        SpecError: when one cannot be read, before anything is trained for it.
    """
    items_of = items_from(settings.task_folder)
    for task in set(settings.tasks) & set(FEW_SHOT_TASKS):
        items_of(task, settings.task_items)
