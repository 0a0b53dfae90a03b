"""The tasks of a run's own specification, on its finished model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cola.data import PreparedData
from cola.evaluation.catalog import held_out, make_tasks
from cola.evaluation.evaluation import answered_here, evaluated
from cola.evaluation.subject import Subject
from cola.evaluation.task import TaskResult
from cola.families.interface.family import Family
from cola.records import Artifact, Metric
from cola.study import RunSpec
from orchestration.ledger import write_atomically
from orchestration.task_items import items_from
from orchestration.validation import VALIDATION_SEED

ANSWERS = "evaluation"  # folder of a run: what its model answered, and the results
ROWS_AT_ONCE = 16


def task_metrics(
    family: Family,
    model: nn.Module,
    run: RunSpec,
    data: PreparedData,
    run_folder: Path,
    device: torch.device,
    alive: Callable[[], None],
) -> dict[str, float]:
    """Metrics of the tasks that the run's evaluation names; answers are kept in its folder.

    `alive` is called after every answer. Answers of an earlier attempt are of another model.
    """
    settings, folder = run.evaluation, run_folder / ANSWERS
    shutil.rmtree(folder, ignore_errors=True)
    if not settings.tasks:
        return {}
    subject = Subject(
        family, model.to(device).eval(), data.tokenizer, run.data.sequence_length, device
    )
    held = held_out(data, settings.task_items)
    items_of = items_from(settings.task_folder)
    tasks = make_tasks(settings, held, items_of, VALIDATION_SEED, subject.context)
    answers = answered_here(subject, ROWS_AT_ONCE)
    about = about_model(family.name, subject.context, VALIDATION_SEED)
    results = list(evaluated(tasks, answers, folder, about, lambda task, done, total: alive()))
    keep_results(run_folder)
    return metrics_of(results)


def metrics_of(results: Iterable[TaskResult]) -> dict[str, float]:
    """The results' metrics by their names in `cola.records`."""
    return {
        Metric.task(result.task, name): value
        for result in results
        for name, value in result.metrics.items()
    }


def about_model(family: str, context: int | None, seed: int) -> dict[str, Any]:
    """What a kept result says beside its task."""
    return {"family": family, "context": context, "seed": seed}


def keep_results(run_folder: Path) -> Path:
    """Put all results of a run, of any settings, into the one file that MLflow gets; its path."""
    kept = sorted((run_folder / ANSWERS).rglob("*.json"))
    found = [json.loads(path.read_text()) for path in kept]
    path = run_folder / Artifact.EVALUATION
    write_atomically(path, json.dumps(found, indent=1) + "\n")
    return path
