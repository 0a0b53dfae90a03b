"""An evaluation: tasks on one model, answered item by item, resumed after an interruption."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.answer_log import ItemLog
from cola.evaluation.tasks.task import Record, Task, TaskResult
from cola.families.registry import definition_of
from cola.files import write_atomically
from cola.spec import GenerationSpec

log = logging.getLogger(__name__)

Answers = Callable[[Task, Sequence[Id]], Iterator[tuple[Id, Record]]]
Progress = Callable[[str, int, int], None]  # task, items answered, items in all


def evaluate_tasks(
    tasks: Sequence[Task],
    answers: Answers,
    folder: Path,
    *,
    about: Mapping[str, Any],
    sizes: Any = None,
    progress: Progress = lambda task, done, total: None,
) -> Iterator[TaskResult]:
    """Each task's result, kept in `<folder>/<task>-<digest>.json`.

    Answers are kept beside it as JSON lines and are not asked for again. The folder belongs to one
    model in one context; tasks of other items or settings have other names. `about`
    describes the model in each kept result, `sizes` is its specification (None: not known).
    """
    for task in tasks:
        ids = task.ids()
        path = folder / f"{task.name}-{task.digest}.jsonl"
        with ItemLog(path) as answer_log:
            unanswered = [item for item in ids if item not in answer_log.records]
            done = len(ids) - len(unanswered)
            log.info("task %s: %d of %d items answered before", task.name, done, len(ids))
            progress(task.name, done, len(ids))
            for item, record in answers(task, unanswered) if unanswered else ():
                answer_log.append(item, record)
                done += 1
                progress(task.name, done, len(ids))
            result = task.summary({item: answer_log.records[item] for item in ids})
            result = with_protocol(result, task, about.get("family"), sizes=sizes)
        content = {**about, **result.as_json()}
        write_atomically(path.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
        yield result


def with_protocol(result: TaskResult, task: Task, family: str | None, *, sizes: Any) -> TaskResult:
    """The result with how the family's answers were made, where the task has text generated."""
    if family is None or not isinstance(task.settings, GenerationSpec):
        return result
    protocol = asdict(definition_of(family).protocol(task.settings, sizes))
    return replace(result, details=result.details | {"protocol": protocol})


def answer_locally(evaluated: EvaluatedModel, rows: int) -> Answers:
    """Answers by this process' model, `rows` items at once."""
    return lambda task, ids: task.answer(evaluated, ids, rows)
