"""An evaluation: tasks on one model, answered item by item, gone on with after a cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import Subject
from cola.evaluation.tasks.answer_log import ItemLog
from cola.evaluation.tasks.task import Record, Task, TaskResult
from cola.files import write_atomically

Answers = Callable[[Task, Sequence[Id]], Iterator[tuple[Id, Record]]]
Progress = Callable[[str, int, int], None]  # task, items answered, items in all


def evaluated(
    tasks: Sequence[Task],
    answers: Answers,
    folder: Path,
    about: Mapping[str, Any],
    progress: Progress = lambda task, done, total: None,
) -> Iterator[TaskResult]:
    """Each task's result, kept in `<folder>/<task>-<digest>.json`.

    Answers are kept beside it as JSON lines and are not asked for again. The folder stands for one
    model in one context; tasks of other items or settings have other names. `about` says of the
    model what stands beside each kept result.
    """
    for task in tasks:
        ids = task.ids()
        path = folder / f"{task.name}-{task.digest}.jsonl"
        with ItemLog(path) as log:
            left = [item for item in ids if item not in log.records]
            done = len(ids) - len(left)
            progress(task.name, done, len(ids))
            for item, record in answers(task, left) if left else ():
                log.append(item, record)
                done += 1
                progress(task.name, done, len(ids))
            result = task.summary({item: log.records[item] for item in ids})
        kept = {**about, **result.as_json()}
        write_atomically(path.with_suffix(".json"), json.dumps(kept, indent=1) + "\n")
        yield result


def answered_here(subject: Subject, rows: int) -> Answers:
    """Answers by this process' model, `rows` items at once."""
    return lambda task, ids: task.answer(subject, ids, rows)
