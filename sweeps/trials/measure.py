"""What a finished model does under other settings of likelihood and generation: no training."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from cola.data import open_prepared
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.token_tasks import ContinuationTask
from cola.families.registry import family_of
from cola.records import Metric
from cola.study.run import EvaluationSpec
from orchestration.planning.catalog import load_run_spec
from orchestration.state.paths import RunFolder
from orchestration.training.validation import VALIDATION_SEED, likelihood_rows, summary_of

ROWS_AT_ONCE = 32


@torch.no_grad()
def measure(run_folder: Path, settings: EvaluationSpec, likelihood: bool) -> dict[str, float]:
    """Metrics of the run's exported model on validation text, by their names in `cola.records`.

    Continuations of `validation_sequences` texts after `prompt_tokens` tokens; with `likelihood`
    also the NLL.
    """
    spec = load_run_spec(run_folder)
    data = open_prepared(RunFolder(run_folder).data_folder())
    family = family_of(spec.family)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = family.load(RunFolder(run_folder).model).to(device).eval()
    evaluated = EvaluatedModel(family, model, data.tokenizer, spec.data.sequence_length, device)
    ids = np.arange(settings.validation_sequences)
    found = continuation_metrics(evaluated, data.validation.rows(ids), settings)
    if likelihood:
        rows: dict[int, dict[str, float]] = {}
        for chosen in np.array_split(ids, -(-len(ids) // 8)):
            rows |= likelihood_rows(
                family, model, settings.likelihood, data=data, ids=chosen, device=device
            )
        found |= summary_of(rows, ids, data)
    return found


def continuation_metrics(
    evaluated: EvaluatedModel, rows_NL: np.ndarray, settings: EvaluationSpec
) -> dict[str, float]:
    """How often continuations are the text's own: their first token, and all of them.

    Fractions in [0, 1], the standard error of the second over sequences, chrF, and what it cost:
    seconds and network evaluations a new token.
    """
    task = ContinuationTask(rows_NL, settings.prompt_tokens, settings.generation, VALIDATION_SEED)
    new = task.settings.max_new_tokens
    began = time.perf_counter()
    records = dict(task.answer(evaluated, task.ids(), ROWS_AT_ONCE))
    seconds = time.perf_counter() - began
    found = task.summary(records).metrics
    evaluations = evaluated.family.generation_evaluations(
        evaluated.model, task.settings, settings.prompt_tokens
    )
    named = {
        "first_token_accuracy": found["first_token_accuracy"],
        "token_accuracy": found["accuracy"],
        "token_accuracy_standard_error": found.get("accuracy_standard_error", float("nan")),
        "chrf": found["chrf"],
        "seconds_per_token": seconds / (len(rows_NL) * new),
        "function_evaluations_per_token": evaluations / new,
    }
    return {Metric.continuation(name): value for name, value in named.items()}
