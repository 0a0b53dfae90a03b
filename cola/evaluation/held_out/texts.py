"""What a finished model makes of further held-out texts, beside the study's own test split."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from cola.data import PreparedData
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.reference_lines import token_frequencies
from cola.evaluation.tasks.catalog import HeldOut, in_domain_task
from cola.evaluation.tasks.evaluate import answer_locally, evaluate_tasks
from cola.evaluation.tasks.predictive import PromptTexts
from cola.evaluation.tasks.task import Task, TaskResult
from cola.held_out_sets.texts import TextRows, prepare_texts
from cola.records import OWN_TEXT, VALIDATION_SEED, Metric
from cola.study import EvaluationSpec, RunSpec


def held_out_metrics(
    evaluated: EvaluatedModel,
    run: RunSpec,
    *,
    data: PreparedData,
    folder: Path,
    about: dict[str, object],
    rows: int,
    keep_alive: Callable[[], None],
) -> dict[str, float]:
    """Metrics of the likelihood of every text and of the study's own, and of predictive draws
    where the run has that task, by their names in `cola.records`.

    Results are kept below `folder`, a folder a text. Answers on the study's own text that a task
    has given, kept in the folder above, are not asked for again. `keep_alive` is called after every
    answer.
    """
    settings = run.evaluation
    texts = prepare_texts(
        settings.held_out,
        run.held_out_fingerprints,
        data=data,
        sequences=settings.held_out_sequences,
    )
    metrics: dict[str, float] = {}
    for name, text in texts.items():
        held = held_out_of(text, data, settings)
        tasks: list[Task] = [
            held.likelihood_task(len(held.rows_NL), settings.likelihood, VALIDATION_SEED)
        ]
        if settings.predictive_prompts:
            tasks.append(in_domain_task("predictive", settings, held, seed=VALIDATION_SEED))
        if name == OWN_TEXT:
            take_answers(tasks, folder.parent, folder / name)
        results = evaluate_tasks(
            tasks,
            answer_locally(evaluated, rows),
            folder / name,
            about=about | {"held_out": name, "documents_of": text.documents_of},
            progress=lambda task, done, total: keep_alive(),
        )
        metrics |= metrics_on(name, results)
    return metrics


def held_out_of(text: TextRows, data: PreparedData, settings: EvaluationSpec) -> HeldOut:
    """A text as tasks take it: the likelihood is of the first `validation_sequences` sequences."""
    count = min(settings.validation_sequences, len(text.rows_NL))
    prompts = None
    if settings.predictive_prompts:
        rows_NL = text.rows_NL[: settings.predictive_prompts]
        prompts = PromptTexts(rows_NL, text.documents_N[: len(rows_NL)], token_frequencies(data))
    return HeldOut(
        text.rows_NL[:count],
        text.bytes_N[:count],
        data.tokenizer,
        documents_N=text.documents_N[:count],
        prompts=prompts,
    )


def take_answers(tasks: Iterable[Task], known: Path, folder: Path) -> None:
    """Copy the tasks' answers, as far as the folder `known` has any."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"{task.name}-{task.digest}.jsonl" for task in tasks):
        if (known / name).is_file():
            shutil.copyfile(known / name, folder / name)


def metrics_on(text: str, results: Iterable[TaskResult]) -> dict[str, float]:
    """The results' metrics on a text, with their numbers of items and documents."""
    return {
        Metric.held_out(text, result.task, name): value
        for result in results
        for name, value in (
            *result.metrics.items(),
            ("items", float(result.items)),
            ("documents", float(len(set(result.clusters.values())))),
        )
    }
