"""What a finished model does under other settings of likelihood and generation: no training."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from cola.data import PreparedData, open_prepared
from cola.families import family_of
from cola.records import Metric
from cola.seeding import Stream
from cola.spec.run import EvaluationSpec
from orchestration.catalog import load_run_spec
from orchestration.evaluate import VALIDATION_SEED, likelihood_rows, standard_error, summary_of
from orchestration.generate import data_folder

ROWS_AT_ONCE = 32


@torch.no_grad()
def measure(run_folder: Path, settings: EvaluationSpec, likelihood: bool) -> dict[str, float]:
    """Metrics of the run's exported model on validation text, by their names in `cola.records`.

    Continuations of `validation_sequences` texts after `prompt_tokens` tokens; with `likelihood`
    also the NLL.
    """
    spec = load_run_spec(run_folder)
    data = open_prepared(data_folder(run_folder))
    family = family_of(spec.family)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = family.load(run_folder / "model").to(device).eval()
    ids = np.arange(settings.validation_sequences)
    found = continuations(family, model, data, ids, settings)
    if likelihood:
        rows: dict[int, dict[str, float]] = {}
        for chosen in np.array_split(ids, -(-len(ids) // 8)):
            rows |= likelihood_rows(family, model, settings.likelihood, data, chosen, device)
        found |= summary_of(rows, ids, data)
    return found


def continuations(
    family: object, model: object, data: PreparedData, ids: np.ndarray, settings: EvaluationSpec
) -> dict[str, float]:
    """How often continuations are the text's own: their first token, and all by position.

    Fractions in [0, 1], the standard error of the second over sequences, seconds a new token.
    """
    generation, cut = settings.generation, settings.prompt_tokens
    rows = data.validation.rows(ids)
    new = min(generation.max_new_tokens, rows.shape[1] - cut)
    generation = generation.model_copy(update={"max_new_tokens": new})
    right_BN = np.zeros((len(ids), new), dtype=bool)
    began = time.perf_counter()
    for start in range(0, len(ids), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        generated = family.generate(  # type: ignore[attr-defined]
            model,
            [row[:cut].tolist() for row in rows[part]],
            generation,
            Stream(VALIDATION_SEED, 0, [int(i) for i in ids[part]]),
            None,
        )
        for place, tokens in enumerate(generated):
            wanted = rows[start + place, cut : cut + len(tokens)]
            right_BN[start + place, : len(tokens)] = np.asarray(tokens) == wanted
    seconds = time.perf_counter() - began
    share_B = right_BN.mean(1)
    return {
        Metric.continuation("first_token_accuracy"): float(right_BN[:, 0].mean()),
        Metric.continuation("token_accuracy"): float(share_B.mean()),
        Metric.continuation("token_accuracy_standard_error"): standard_error(share_B),
        Metric.continuation("seconds_per_token"): seconds / (len(ids) * new),
    }
