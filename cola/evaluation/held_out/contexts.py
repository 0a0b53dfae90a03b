"""What a finished model makes of sequences that are longer than those of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cola.data import PreparedData
from cola.evaluation.held_out.texts import metrics_on
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.statistics import paired_difference
from cola.evaluation.tasks.contexts import ContextLikelihoodTask
from cola.evaluation.tasks.evaluate import answer_locally, evaluate_tasks
from cola.evaluation.tasks.task import Task, TaskResult
from cola.evaluation.tasks.token_tasks import ContinuationTask
from cola.held_out_sets.long_contexts import long_rows
from cola.records import OWN_TEXT, VALIDATION_SEED, Metric
from cola.study import RunSpec


def context_metrics(
    evaluated: EvaluatedModel,
    run: RunSpec,
    *,
    data: PreparedData,
    folder: Path,
    about: dict[str, object],
    rows: int,
    keep_alive: Callable[[], None],
) -> dict[str, float]:
    """Metrics of sequences of the study's own text that are longer than those of training, as far
    as the model can read them.

    The likelihood within and beyond the training length, and continuations at the end: of the whole
    prompt, and of its last tokens, as many as training knows.
    """
    metrics, trained = dict[str, float](), run.data.sequence_length
    for length in run.readable_lengths:
        likelihood, continuation = context_tasks(run, data, length)
        found = list[TaskResult]()
        for context, tasks in ((length, [likelihood, continuation]), (trained, [continuation])):
            found += evaluate_tasks(
                tasks,
                answer_locally(replace(evaluated, context=context), rows),
                folder / str(length) / f"context-{context}",
                about=about | {"held_out": f"{OWN_TEXT}/{length}", "context": context},
                progress=lambda task, done, total: keep_alive(),
            )
        metrics |= metrics_on(f"{OWN_TEXT}/{length}", found[:2])
        metrics |= gain_of_context(length, *found[1:])
    return metrics


def context_tasks(run: RunSpec, data: PreparedData, length: int) -> tuple[Task, Task]:
    """Likelihood of longer sequences, and the continuation at their end."""
    settings, trained = run.evaluation, run.data.sequence_length
    count = settings.sequences_of(length, trained)
    asked = settings.context_sequences(length, trained)
    text = long_rows(run.data, data, length, sequences=asked)
    likelihood = ContextLikelihoodTask(
        text.rows_NL[:count],
        text.bytes_N[:count],
        settings.likelihood,
        seed=VALIDATION_SEED,
        documents_N=text.documents_N[:count],
        trained=trained,
    )
    items, new = settings.task_items, settings.new_tokens_of_contexts(trained)
    continuation = ContinuationTask(
        text.rows_NL[:items],
        length - new,
        settings.generation.model_copy(update={"max_new_tokens": new}),
        seed=VALIDATION_SEED,
        documents_N=text.documents_N[:items],
    )
    return likelihood, continuation


def gain_of_context(length: int, whole: TaskResult, cut: TaskResult) -> dict[str, float]:
    """What continuations of prompts cut to the training length get right, and what whole prompts
    have more, by the same item, with the half of its 95% interval."""
    gain = paired_difference(whole.per_item, cut.per_item, whole.clusters)
    values = {f"cut_{name}": cut.metrics[name] for name in ("accuracy", "first_token_accuracy")}
    values["gain"] = gain.mean
    if gain.low is not None and gain.high is not None:
        values["gain_half_interval"] = (gain.high - gain.low) / 2
    text = f"{OWN_TEXT}/{length}"
    return {Metric.held_out(text, whole.task, name): value for name, value in values.items()}
