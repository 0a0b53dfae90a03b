"""Inference metrics of a finished model under other generation and likelihood settings."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch

from cola.data import open_prepared
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.remainders import by_lengths
from cola.evaluation.tasks.token_tasks import ContinuationTask
from cola.records import VALIDATION_SEED, Metric, of_remainders
from cola.study.run import EvaluationSpec
from orchestration.inference.target import open_run_model
from orchestration.planning.catalog import load_run_spec
from orchestration.state.paths import RunFolder
from orchestration.training.validation import likelihood_rows, summary_of

log = logging.getLogger(__name__)

# Chosen values: batches whose activations fit beside any model that trains on the same device.
GENERATION_BATCH = 32  # sequences
LIKELIHOOD_BATCH = 8  # sequences


@torch.no_grad()
def measure_inference(
    run_folder: Path, settings: EvaluationSpec, likelihood: bool
) -> dict[str, float]:
    """Metrics of the run's exported model on validation text, by their names in `cola.records`.

    Continuations of `validation_sequences` texts after `prompt_tokens` tokens; with `likelihood`
    also the NLL.
    """
    began = time.perf_counter()
    spec = load_run_spec(run_folder)
    data = open_prepared(RunFolder(run_folder).data_folder())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    evaluated = open_run_model(run_folder, spec.family, spec.data.sequence_length, device=device)
    family, model = evaluated.family, evaluated.model
    ids = np.arange(settings.validation_sequences)
    metrics = continuation_metrics(
        evaluated,
        data.validation.rows(ids),
        settings,
        documents_N=data.validation.documents_of(ids),
    )
    if likelihood:
        rows: dict[int, dict[str, float]] = {}
        for batch in np.array_split(ids, -(-len(ids) // LIKELIHOOD_BATCH)):
            rows |= likelihood_rows(
                family, model, settings.likelihood, data=data, ids=batch, device=device
            )
        metrics |= summary_of(rows, data, family)
    log.info("%s: measured in %.1f s", run_folder.name[:12], time.perf_counter() - began)
    return metrics


def continuation_metrics(
    evaluated: EvaluatedModel,
    rows_NL: np.ndarray,
    settings: EvaluationSpec,
    *,
    documents_N: np.ndarray | None = None,
) -> dict[str, float]:
    """Agreement of generated continuations with the texts' own, and what generating them cost.

    Shares (0 to 1) of first tokens and of all tokens that agree, the standard error of the latter
    over documents, chrF, seconds for each new token and network evaluations for each new token;
    and what is measured by the remainder of a prompt's length, where that is asked for.
    """
    variants = [
        ContinuationTask(
            rows_NL,
            settings.prompt_tokens,
            settings.generation,
            seed=VALIDATION_SEED,
            documents_N=documents_N,
            skipped=skipped,
        )
        for skipped in range(settings.prompt_remainders)
    ]
    task, generation = by_lengths(variants), variants[0].settings
    new_tokens = generation.max_new_tokens
    began = time.perf_counter()
    records = dict(task.answer(evaluated, task.ids(), GENERATION_BATCH))
    seconds = time.perf_counter() - began
    summary = task.summary(records).metrics
    evaluations = evaluated.family.generation_evaluations(
        evaluated.model, generation, settings.prompt_tokens
    )
    metrics = {
        "first_token_accuracy": summary["first_token_accuracy"],
        "token_accuracy": summary["accuracy"],
        "token_accuracy_standard_error": summary.get("accuracy_standard_error", float("nan")),
        "chrf": summary["chrf"],
        "seconds_per_token": seconds / (len(records) * new_tokens),
        "function_evaluations_per_token": evaluations / new_tokens,
    } | {name: value for name, value in summary.items() if of_remainders(name)}
    return {Metric.continuation(name): value for name, value in metrics.items()}
