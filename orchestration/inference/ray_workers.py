"""Items of an evaluation answered by many Ray workers, each with its own copy of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cola.evaluation.items import Id
from cola.evaluation.tasks.evaluate import Answers
from cola.evaluation.tasks.task import Record, Task
from cola.logs import set_up_logging
from orchestration.inference.target import Target


class Evaluator:
    """One worker's model; see `Task.answer`."""

    def __init__(self, target: Target, gpu: bool, threads: int) -> None:
        import torch

        set_up_logging()
        torch.set_num_threads(threads)
        self._subject = target.open("cuda" if gpu else "cpu")

    def answer(self, task: Task, ids: Sequence[Id], rows: int) -> list[tuple[Id, Record]]:
        """The answers to these items."""
        return list(task.answer(self._subject, ids, rows))


def answered_by_workers(
    target: Target, workers: int, cpus_per_worker: int, gpu: bool, rows: int
) -> Answers:
    """Answers by `workers` actors on the cluster of the running Ray session, as they come.

    A worker that dies is started again, twice at most, and its items are asked for again.
    """
    import ray
    from ray.util import ActorPool

    actor = ray.remote(
        num_cpus=cpus_per_worker,
        num_gpus=1 if gpu else 0,
        max_restarts=2,
        max_task_retries=2,
    )(Evaluator)
    pool = ActorPool([actor.remote(target, gpu, cpus_per_worker) for _ in range(workers)])

    def answers(task: Task, ids: Sequence[Id]) -> Iterator[tuple[Id, Record]]:
        kept = ray.put(task)
        parts = [list(ids[start : start + rows]) for start in range(0, len(ids), rows)]
        found = pool.map_unordered(lambda a, part: a.answer.remote(kept, part, rows), parts)
        for part in found:
            yield from part

    return answers
