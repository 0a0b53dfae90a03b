"""Answers the items of an evaluation by Ray workers, each with a copy of the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from cola.evaluation.items import Id
from cola.evaluation.tasks.evaluate import Answers
from cola.evaluation.tasks.task import Record, Task
from cola.logs import set_up_logging
from orchestration.inference.target import Target

log = logging.getLogger(__name__)


class Evaluator:
    """One worker, with its copy of the target's model."""

    def __init__(self, target: Target, gpu: bool, threads: int) -> None:
        import torch

        set_up_logging()
        torch.set_num_threads(threads)
        self._subject = target.open("cuda" if gpu else "cpu")

    def answer(self, task: Task, ids: Sequence[Id], rows: int) -> list[tuple[Id, Record]]:
        """Answers to these items, at most `rows` at once (see `Task.answer`)."""
        return list(task.answer(self._subject, ids, rows))


def answered_by_workers(
    target: Target, workers: int, *, cpus_per_worker: int, gpu: bool, rows: int
) -> Answers:
    """A function that answers tasks by `workers` actors of the running Ray session.

    Answers come in the order in which they are ready. A worker that dies is restarted up to twice,
    and its items are answered again.
    """
    import ray
    from ray.util import ActorPool

    actor = ray.remote(
        num_cpus=cpus_per_worker,
        num_gpus=1 if gpu else 0,
        max_restarts=2,
        max_task_retries=2,
    )(Evaluator)
    log.info("%s: %d evaluation workers", target.name, workers)
    pool = ActorPool([actor.remote(target, gpu, cpus_per_worker) for _ in range(workers)])

    def answers(task: Task, ids: Sequence[Id]) -> Iterator[tuple[Id, Record]]:
        stored = ray.put(task)
        parts = [list(ids[start : start + rows]) for start in range(0, len(ids), rows)]
        answered = pool.map_unordered(lambda a, part: a.answer.remote(stored, part, rows), parts)
        for records in answered:
            yield from records

    return answers
