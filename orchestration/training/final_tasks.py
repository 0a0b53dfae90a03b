"""Tasks that a run's specification names, answered by its finished model."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cola.data import PreparedData
from cola.evaluation.held_out.contexts import context_metrics
from cola.evaluation.held_out.texts import held_out_metrics
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.catalog import held_out, make_tasks
from cola.evaluation.tasks.evaluate import answer_locally, evaluate_tasks
from cola.evaluation.tasks.task import TaskResult
from cola.families.interface.family import Family
from cola.files import write_atomically
from cola.records import VALIDATION_SEED, Metric
from cola.study import RunSpec
from orchestration.state.paths import RunFolder
from orchestration.training.task_items import item_loader

ROWS_AT_ONCE = 16  # chosen: items of one forward pass

log = logging.getLogger(__name__)


def task_metrics(
    family: Family,
    model: nn.Module,
    run: RunSpec,
    *,
    data: PreparedData,
    run_folder: Path,
    device: torch.device,
    keep_alive: Callable[[], None],
) -> dict[str, float]:
    """Metrics of the tasks and texts that the run's evaluation names; answers are written to its
    folder.

    `keep_alive` is called after every answer. Answers of an earlier attempt are deleted: they are
    another model's.
    """
    settings, folder = run.evaluation, RunFolder(run_folder).answers
    shutil.rmtree(folder, ignore_errors=True)
    if not (settings.tasks or settings.held_out or settings.context_lengths):
        return {}
    evaluated = EvaluatedModel(
        family, model.to(device).eval(), data.tokenizer, run.data.sequence_length, device
    )
    held = held_out(data, settings.task_items, settings.predictive_prompts)
    items_of = item_loader(settings, VALIDATION_SEED)
    tasks = make_tasks(settings, held, items_of, seed=VALIDATION_SEED, context=evaluated.context)
    log.info("answering tasks: %s", ", ".join(settings.tasks))
    answers = answer_locally(evaluated, ROWS_AT_ONCE)
    about = about_model(family.name, evaluated.context, VALIDATION_SEED)
    results = list(
        evaluate_tasks(
            tasks,
            answers,
            folder,
            about=about,
            sizes=run.model,
            progress=lambda task, done, total: keep_alive(),
        )
    )
    metrics = metrics_of(results)
    for measure, name in ((held_out_metrics, "held-out"), (context_metrics, "contexts")):
        metrics |= measure(
            evaluated,
            run,
            data=data,
            folder=folder / name,
            about=about,
            rows=ROWS_AT_ONCE,
            keep_alive=keep_alive,
        )
    collect_results(run_folder)
    return metrics


def metrics_of(results: Iterable[TaskResult]) -> dict[str, float]:
    """Metrics of all results with their numbers of items, by their names in `cola.records`."""
    return {
        Metric.task(result.task, name): value
        for result in results
        for name, value in (*result.metrics.items(), ("items", float(result.items)))
    }


def about_model(family: str, context: int | None, seed: int) -> dict[str, Any]:
    """Fields of a written result that describe the model."""
    return {"family": family, "context": context, "seed": seed}


def collect_results(run_folder: Path) -> Path:
    """Write all results of a run, at any settings, into the one file that MLflow gets; its path."""
    files = sorted(RunFolder(run_folder).answers.rglob("*.json"))
    results = [json.loads(file.read_text()) for file in files]
    path = RunFolder(run_folder).evaluation
    write_atomically(path, json.dumps(results, indent=1) + "\n")
    return path
