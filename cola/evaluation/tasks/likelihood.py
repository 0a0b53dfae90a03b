"""The likelihood of held-out sequences, the three families in one frame (B rows, L positions)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.task import Record, TaskResult, digest_of, sample_id
from cola.seeding import Stream
from cola.spec import LikelihoodSpec


class LikelihoodTask:
    """NLL of each sequence (rows_NL, its UTF-8 bytes in bytes_N), with its kind and its cost."""

    name = "likelihood"

    def __init__(
        self, rows_NL: np.ndarray, bytes_N: np.ndarray, settings: LikelihoodSpec, *, seed: int
    ) -> None:
        self._rows, self._bytes, self._seed = rows_NL, bytes_N, seed
        self.settings = settings
        self.digest = digest_of(self.name, settings.canonical_json(), seed, rows_NL.tobytes())

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return list(range(len(self._rows)))

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        family, length = evaluated.family, self._rows.shape[1]
        about = {
            "kind": family.nll_kind(self.settings),
            "function_evaluations": family.likelihood_evaluations(
                evaluated.model, self.settings, length
            ),
        }
        for start in range(0, len(ids), rows):
            chosen = [int(item) for item in ids[start : start + rows]]
            yield from self._likelihoods(evaluated, chosen, about)

    @torch.no_grad()
    def _likelihoods(
        self, evaluated: EvaluatedModel, ids: list[int], about: Record
    ) -> Iterator[tuple[Id, Record]]:
        tokens_BL = torch.from_numpy(self._rows[ids]).to(evaluated.device)
        stream = Stream(self._seed, 0, [sample_id(item) for item in ids], device=evaluated.device)
        likelihood = evaluated.family.likelihood(
            evaluated.model, tokens_BL, self.settings, stream=stream
        )
        named = likelihood.parts | likelihood.diagnostics
        numbers = {name: value.tolist() for name, value in named.items()}
        by_position = (
            None if likelihood.by_position_BL is None else likelihood.by_position_BL.tolist()
        )
        for row, item in enumerate(ids):
            yield (
                item,
                about
                | {
                    "nll": float(likelihood.nll_B[row]),
                    "bytes": int(self._bytes[item]),
                    "parts": {name: value[row] for name, value in numbers.items()},
                    "by_position": None if by_position is None else by_position[row],
                },
            )

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`.

        Metrics: nats per token with the standard error over sequences, bits per byte, and network
        evaluations a sequence. The error says how well these sequences stand for the corpus, not
        how tight a bound is. Details: `kind`, nats a token by position (None: not known).
        """
        ordered, length = list(records.values()), self._rows.shape[1]
        nll_B = np.array([record["nll"] for record in ordered])
        total_bytes = sum(record["bytes"] for record in ordered)
        metrics = {
            "nll_nats_per_token": float(nll_B.mean() / length),
            "bits_per_byte": float(nll_B.sum() / math.log(2) / total_bytes),
            "function_evaluations": float(ordered[0]["function_evaluations"]),
        }
        if len(nll_B) > 1:
            error = nll_B.std(ddof=1) / len(nll_B) ** 0.5 / length
            metrics["nll_standard_error"] = float(error)
        positions = [record["by_position"] for record in ordered]
        by_position = None if None in positions else np.array(positions).mean(0).round(4).tolist()
        parts = {
            name: float(np.mean([record["parts"][name] for record in ordered]))
            for name in ordered[0]["parts"]
        }
        details = {
            "kind": ordered[0]["kind"],
            "tokens": length,
            "parts_nats_per_sequence": parts,
            "nll_by_position": by_position,
            "likelihood": self.settings.model_dump(),
        }
        nats = {item: record["nll"] / length for item, record in records.items()}
        return TaskResult(self.name, len(ordered), metrics, details, nats)
