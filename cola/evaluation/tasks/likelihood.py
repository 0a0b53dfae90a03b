"""The likelihood of held-out sequences, the three families in one frame (B rows, L positions)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from cola.evaluation.clusters import clustered_mean
from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.task import Record, TaskResult, digest_of, document_sums, sample_id
from cola.families.registry import definition_of
from cola.records import SOLVER_DIFFERENCE, nll_kind_of, weakest_kind
from cola.seeding import Stream
from cola.spec import LikelihoodSpec

# Of stored answers: those of another one, by another solver of the likelihood, are not reused.
FORMAT = 2


@dataclass(frozen=True)
class Amount:
    """An amount of text; bytes are those of its UTF-8 form."""

    sequences: int
    tokens: int
    bytes: int


class LikelihoodTask:
    """NLL of each sequence (rows_NL, its UTF-8 bytes in bytes_N), with its kind and its cost.

    `documents_N` has the document of each (None: each is one by itself). `last` is a shorter
    sequence behind them, with its bytes, a document by itself: its NLL is that of a continuation of
    nothing, a bound where that of a sequence is one. `total` is the text that they are taken from,
    where that is known.
    """

    name = "likelihood"

    def __init__(
        self,
        rows_NL: np.ndarray,
        bytes_N: np.ndarray,
        settings: LikelihoodSpec,
        *,
        seed: int,
        last: tuple[np.ndarray, int] | None = None,
        total: Amount | None = None,
        documents_N: np.ndarray | None = None,
    ) -> None:
        self._rows, self._bytes, self._seed = rows_NL, bytes_N, seed
        numbers = np.arange(len(rows_NL)) if documents_N is None else documents_N[: len(rows_NL)]
        self._documents: list[int] = numbers.tolist()
        if last is not None:
            self._documents.append(-1)
        self._last, self._total = last, total
        self.settings = settings
        parts = [rows_NL.tobytes()] if last is None else [rows_NL.tobytes(), last[0].tobytes()]
        self.digest = digest_of(self.name, FORMAT, settings.canonical_json(), seed, *parts)

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return list(range(len(self._rows) + (self._last is not None)))

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        family, length = evaluated.family, self._rows.shape[1]
        about = {
            "kind": definition_of(family.name).nll_kind(
                family.sizes_of(evaluated.model), self.settings
            ),
            "function_evaluations": family.likelihood_evaluations(
                evaluated.model, self.settings, length
            ),
        }
        whole = [int(item) for item in ids if int(item) < len(self._rows)]
        for start in range(0, len(whole), rows):
            yield from self._likelihoods(evaluated, whole[start : start + rows], about)
        if self._last is not None and len(self._rows) in ids:
            yield len(self._rows), about | self._last_likelihood(evaluated, *self._last)

    @torch.no_grad()
    def _likelihoods(
        self, evaluated: EvaluatedModel, ids: list[int], about: Record
    ) -> Iterator[tuple[Id, Record]]:
        tokens_BL = torch.from_numpy(self._rows[ids]).to(evaluated.device)
        stream = Stream(self._seed, 0, [sample_id(item) for item in ids], device=evaluated.device)
        likelihood = evaluated.family.likelihood(
            evaluated.model, tokens_BL, self.settings, stream=stream
        )
        parts = {name: value.tolist() for name, value in likelihood.parts.items()}
        measured = {name: value.tolist() for name, value in likelihood.diagnostics.items()}
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
                    "parts": {name: value[row] for name, value in parts.items()},
                    "measurements": {name: value[row] for name, value in measured.items()},
                    "by_position": None if by_position is None else by_position[row],
                },
            )

    @torch.no_grad()
    def _last_likelihood(self, evaluated: EvaluatedModel, ids_T: np.ndarray, size: int) -> Record:
        item = len(self._rows)
        found = evaluated.family.conditional_nll(
            evaluated.model,
            [[]],
            [ids_T.tolist()],
            settings=self.settings,
            stream=Stream(self._seed, 0, [sample_id(item)], device=evaluated.device),
            eos_token_id=evaluated.tokenizer.eos_token_id,
        )
        nll = float(found.nll_B[0])
        return {
            "kind": found.kind,
            "nll": nll,
            "bytes": size,
            "tokens": len(ids_T),
            "parts": {},
            "by_position": None,
        }

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`.

        Metrics: nats per token with the standard error over documents, bits per byte, and network
        evaluations a sequence. The error says how well these documents stand for the corpus, not
        how tight a bound is. Details: `kind`, nats a token by position (None: not known), parts
        and the family's measurements of the sequences of full length, the amount of text `measured`
        and, where known, in `text`, and nats, tokens and bytes `by_document`.
        """
        ordered, length = list(records.values()), self._rows.shape[1]
        documents: dict[Id, Id] = {item: self._documents[int(item)] for item in records}
        nll_B = np.array([record["nll"] for record in ordered])
        tokens_B = np.array([record.get("tokens", length) for record in ordered])
        measured = Amount(
            len(ordered), int(tokens_B.sum()), sum(record["bytes"] for record in ordered)
        )
        metrics = _rates(
            nll_B, tokens_B, measured.bytes, documents_B=np.array(list(documents.values()))
        )
        kind = weakest_kind(record["kind"] for record in ordered)
        full = _means([record for record in ordered if "tokens" not in record])
        difference = full["measurements"].get(SOLVER_DIFFERENCE)
        metrics["function_evaluations"] = float(ordered[0]["function_evaluations"])
        details = {
            "kind": nll_kind_of(kind, difference),
            "tokens": length,
            "clusters": len(set(documents.values())),
            "by_document": document_sums(
                documents.values(), nll_B, tokens_B, [record["bytes"] for record in ordered]
            ),
            "measured": asdict(measured),
            "text": None if self._total is None else asdict(self._total),
            **full,
            "likelihood": self.settings.model_dump(),
        }
        nats = {
            item: record["nll"] / record.get("tokens", length) for item, record in records.items()
        }
        return TaskResult(self.name, len(ordered), metrics, details, nats, clusters=documents)


def _rates(
    nll_B: np.ndarray, tokens_B: np.ndarray, total_bytes: int, *, documents_B: np.ndarray
) -> dict[str, float]:
    """Nats per token with the standard error over documents, and bits per byte."""
    found = clustered_mean(nll_B, documents_B, tokens_B)
    metrics = {"nll_nats_per_token": found.mean}
    if total_bytes:
        metrics["bits_per_byte"] = float(nll_B.sum() / math.log(2) / total_bytes)
    if not math.isnan(found.standard_error):
        metrics["nll_standard_error"] = found.standard_error
    return metrics


def _means(full: Sequence[Record]) -> dict[str, Any]:
    """Parts, measurements and nats by position, over the sequences of full length."""
    positions = [record["by_position"] for record in full]
    known = bool(positions) and None not in positions
    return {
        "parts_nats_per_sequence": {
            name: float(np.mean([record["parts"][name] for record in full]))
            for name in (full[0]["parts"] if full else ())
        },
        "measurements": {
            name: float(np.mean([record["measurements"][name] for record in full]))
            for name in (full[0].get("measurements", {}) if full else ())
        },
        "nll_by_position": np.array(positions).mean(0).round(4).tolist() if known else None,
    }
