"""Predictive scores: what draws of the next tokens behind held-out text are worth.

The same prompts, in the same order, for all families; draws are made from the model as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cola.errors import SpecError
from cola.evaluation.clusters import clustered_mean, with_error
from cola.evaluation.items import Id
from cola.evaluation.models.context import room_for_prompts
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.predictive_answers import DrawnBatch
from cola.evaluation.predictive_scores import GRAMS, brier_of_independent, brierlm
from cola.evaluation.tasks.continuations import cuts_of
from cola.evaluation.tasks.task import (
    Record,
    TaskResult,
    digest_of,
    document_sums,
    skipped_part,
)
from cola.seeding import Stream
from cola.spec import GenerationSpec, PredictiveSpec

CONVENTION = (
    "Brier-n: 2 p(n-gram) - sum of p^2, by all pairs of draws, of the first n tokens; higher is "
    "better. BrierLM: 100 times the geometric mean of Brier-1 to Brier-4. A mixture is the mean of "
    "the draws' distributions."
)

# Chosen: draws of a pass, of as many prompts of one length as that gives. Passes of other sizes
# round otherwise, which now and then draws another token.
ROWS = 32


@dataclass(frozen=True)
class PromptTexts:
    """Held-out sequences that prompts are cut from: rows_NL, their documents (None: each is one by
    itself), and the token frequencies of the training text, (V,) (None: not known)."""

    rows_NL: np.ndarray
    documents_N: np.ndarray | None = None
    frequency_V: np.ndarray | None = None

    def place(self, item: int, cuts: Sequence[int]) -> tuple[int, int]:
        """The sequence that prompt number `item` is the beginning of, and how many tokens it has:
        one of the `cuts`, another one for each sequence in turn."""
        turn, sequence = divmod(item, len(self.rows_NL))
        return sequence, cuts[(sequence + turn) % len(cuts)]

    def document(self, sequence: int) -> int:
        """The document of a sequence; the sequence itself where that is not known."""
        return sequence if self.documents_N is None else int(self.documents_N[sequence])


class PredictiveTask:
    """Brier-n, BrierLM, NLL and top-1 of the tokens behind prompts.

    Prompt i is the beginning of sequence i modulo S of the S sequences. It ends at a multiple of
    `prompt_tokens`, another one for each sequence in turn, so that prompts are spread over lengths.
    """

    name = "predictive"

    def __init__(
        self,
        texts: PromptTexts,
        prompt_tokens: int,
        settings: PredictiveSpec,
        *,
        prompts: int,
        generation: GenerationSpec,
        seed: int,
        skipped: int = 0,
    ) -> None:
        """`prompts`: at most so many, whatever the settings say; `skipped` tokens at a prompt's
        beginning are not given."""
        self._skipped = skipped
        self._texts, self._asked, self._seed, self._prompts = texts, settings, seed, prompts
        self._cuts = prompt_cuts(texts.rows_NL.shape[1], prompt_tokens, settings)
        self._count = min(prompts, len(texts.rows_NL) * len(self._cuts))
        self._groups = self._grouped(max(1, ROWS // settings.draws))
        new = {"max_new_tokens": settings.tokens}
        self.settings = generation.ancestral().model_copy(update=new)
        self.digest = digest_of(
            self.name,
            self.settings.canonical_json(),
            *settings.how(),
            self._count,
            seed,
            prompt_tokens,
            texts.rows_NL.tobytes(),
            *skipped_part(skipped),
        )

    def ids(self) -> list[Id]:
        """See `Task.ids`: those of a group side by side."""
        return [item for group in self._groups for item in group]

    def _grouped(self, size: int) -> list[list[int]]:
        """Prompts of one length in groups of at most `size`, the longest first."""
        by_cut: dict[int, list[int]] = {}
        for item in range(self._count):
            by_cut.setdefault(self.place(item)[1], []).append(item)
        return [
            by_cut[cut][start : start + size]
            for cut in sorted(by_cut, reverse=True)
            for start in range(0, len(by_cut[cut]), size)
        ]

    def place(self, item: int) -> tuple[int, int]:
        """The sequence of a prompt, and how many of its tokens it has."""
        return self._texts.place(item, self._cuts)

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`: a group at once, whichever of it are asked for and whatever `rows` is,
        so that answers are equal bit by bit."""
        asked = {int(item) for item in ids}
        for group in self._groups:
            if asked.isdisjoint(group):
                continue
            for item, record in self._answers(evaluated, group):
                if item in asked:
                    yield item, record

    @torch.no_grad()
    def _answers(self, evaluated: EvaluatedModel, items: list[int]) -> Iterator[tuple[int, Record]]:
        cut = self.place(items[0])[1]
        room = room_for_prompts(evaluated.context, self.settings)
        kept = cut - self._skipped if room is None else min(cut - self._skipped, room)
        sequences = [self.place(item)[0] for item in items]
        text = torch.from_numpy(self._texts.rows_NL[sequences].astype(np.int64))
        text = text[:, cut - kept : cut + self._asked.tokens].to(evaluated.device)
        prompts_BL, truth_BN = text[:, :kept], text[:, kept:]
        stream = Stream(self._seed, 0, items, device=evaluated.device)
        parts = [
            evaluated.family.predictive_draws(
                evaluated.model,
                prompts_BL,
                truth_BN,
                self.settings,
                draws=range(first, min(first + ROWS, self._asked.draws)),
                stream=stream,
                eos_token_id=evaluated.tokenizer.eos_token_id,
            )
            for first in range(0, self._asked.draws, ROWS)
        ]
        found = DrawnBatch.of(
            parts, evaluated.family.next_tokens(evaluated.model, prompts_BL, truth_BN)
        )
        about = {
            "cut_tokens": cut - self._skipped - kept,
            "prompt_tokens": kept,
            "split_tokens": parts[0].left_out,
        }
        for row, item in enumerate(items):
            yield item, about | found.record(row, truth_BN[row].cpu().numpy())

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`.

        Metrics: Brier-n and BrierLM with standard errors over documents, of the model and of token
        frequencies (`unigram_`); `nll_nats_per_token` of the text's N tokens together; shares of
        right tokens, of the mixture's most probable one and of a single draw, in the mean over the
        places and of the first token. Details: the same by place, the NLL by number of draws, sums
        of Brier-1 and prompts `by_document`, and what is not measured.
        """
        items = [int(item) for item in records]
        ordered = list(records.values())
        documents = self._clusters(items)
        clusters_I = np.array(list(documents.values()))
        brier_IG = np.array([record["brier"] for record in ordered])
        metrics, absent = _brier_metrics(brier_IG, clusters_I)
        metrics |= _right_metrics(ordered)
        metrics |= self._unigram_metrics(items)
        if "unigram_brier_1" in metrics and "unigram_brierlm" not in metrics:
            absent["unigram_brierlm"] = "as brierlm: too few tokens, or a mean that is not above 0"
        metrics |= _likelihood_metrics(ordered, self._asked.tokens, clusters_I)
        details: dict[str, Any] = {
            "convention": CONVENTION,
            "prompts": len(ordered),
            "prompts_asked": self._prompts,
            "prompt_lengths": sorted({self.place(item)[1] for item in items}),
            "draws": self._asked.draws,
            "tokens": self._asked.tokens,
            "clusters": len(set(documents.values())),
            "by_document": document_sums(
                documents.values(), brier_IG[:, 0], np.ones(len(items), dtype=int)
            ),
            "by_place": _by_place(ordered),
            "exact": _exact(ordered),
            **_likelihood_details(ordered, self._asked.tokens),
            **cuts_of(records),
            "split_tokens": sum(record["split_tokens"] for record in ordered),
            "absent": absent,
            "generation": self.settings.model_dump(),
        }
        first = dict(zip(records, brier_IG[:, 0].tolist(), strict=True))
        clusters: dict[Id, Id] = {item: documents[int(item)] for item in records}
        return TaskResult(self.name, len(ordered), metrics, details, first, clusters=clusters)

    def _clusters(self, items: Sequence[int]) -> dict[int, int]:
        """The document of each prompt; its sequence where that is not known."""
        return {item: self._texts.document(self.place(item)[0]) for item in items}

    def _unigram_metrics(self, items: Sequence[int]) -> dict[str, float]:
        """The scores of token frequencies on the same tokens."""
        frequency_V = self._texts.frequency_V
        if frequency_V is None:
            return {}
        square = float((frequency_V**2).sum())
        grams = GRAMS[: self._asked.tokens]
        truths = [self._texts.rows_NL[sequence, cut:] for sequence, cut in map(self.place, items)]
        brier_IG = np.array(
            [
                [brier_of_independent(frequency_V[truth[:n]], square) for n in grams]
                for truth in truths
            ]
        )
        metrics = {"unigram_brier_1": float(brier_IG[:, 0].mean())}
        together = brierlm(brier_IG, np.arange(len(items))) if len(grams) == len(GRAMS) else None
        return metrics if together is None else metrics | {"unigram_brierlm": together.mean}


def prompt_cuts(length: int, prompt_tokens: int, settings: PredictiveSpec) -> range:
    """`PredictiveSpec.prompt_lengths` of sequences of this length.

    Raises:
        SpecError: when there is none.
    """
    cuts = settings.prompt_lengths(length, prompt_tokens)
    if not cuts:
        raise SpecError(
            f"evaluation.predictive.tokens={settings.tokens} behind evaluation.prompt_tokens="
            f"{prompt_tokens}: a sequence has {length} tokens; choose fewer"
        )
    return cuts


def _brier_metrics(
    brier_IG: np.ndarray, clusters_I: np.ndarray
) -> tuple[dict[str, float], dict[str, str]]:
    """Brier-n and BrierLM with their errors, and why one is absent."""
    metrics: dict[str, float] = {}
    for gram, values_I in zip(GRAMS, brier_IG.T, strict=False):
        found = clustered_mean(values_I, clusters_I)
        metrics |= with_error(f"brier_{gram}", found)
    if brier_IG.shape[1] < len(GRAMS):
        return metrics, {"brierlm": "it needs predictive.tokens of 4 or more"}
    together = brierlm(brier_IG, clusters_I)
    if together is None:
        low = [f"brier_{n}" for n, mean in zip(GRAMS, brier_IG.mean(0), strict=True) if mean <= 0]
        why = f"{', '.join(low)} not above 0, so there is no geometric mean; more prompts or draws"
        return metrics, {"brierlm": f"{why} may decide"}
    return metrics | with_error("brierlm", together), {}


def _right_metrics(ordered: Sequence[Record]) -> dict[str, float]:
    mixture_IN = np.array([record["mixture_right"] for record in ordered], dtype=float)
    draw_IN = np.array([record["draw_right"] for record in ordered], dtype=float)
    return {
        "mixture_accuracy": float(mixture_IN.mean()),
        "draw_accuracy": float(draw_IN.mean()),
        "first_token_accuracy": float(mixture_IN[:, 0].mean()),
        "first_token_draw_accuracy": float(draw_IN[:, 0].mean()),
    }


def _likelihood_metrics(
    ordered: Sequence[Record], tokens: int, clusters_I: np.ndarray
) -> dict[str, float]:
    if "nll" not in ordered[0]:
        return {}
    nll_I = np.array([record["nll"] for record in ordered]) / tokens
    found = clustered_mean(nll_I, clusters_I)
    error = {} if np.isnan(found.standard_error) else {"nll_standard_error": found.standard_error}
    return {"nll_nats_per_token": found.mean} | error


def _likelihood_details(ordered: Sequence[Record], tokens: int) -> dict[str, Any]:
    """What the NLL is: `kind`, and of a bound how it falls with the draws."""
    if "nll" not in ordered[0]:
        return {"kind": None, "nll_is": "the family gives no probabilities of its draws"}
    kind = ordered[0]["kind"]
    if kind == "exact":
        return {"kind": kind, "nll_is": "exact, of each token given all before it"}
    counts = ordered[0]["nll_by_draws"]
    return {
        "kind": kind,
        "nll_is": "an upper bound in the mean, which falls as draws grow",
        "nll_by_draws": {
            count: float(np.mean([record["nll_by_draws"][count] for record in ordered])) / tokens
            for count in counts
        },
    }


def _by_place(ordered: Sequence[Record]) -> dict[str, list[float] | None]:
    """Means by place behind the prompt. `nll` is of a token given the ones before it, where the
    family's draws say that; `marginal_nll` given the prompt alone, a bound as `nll` is."""
    keys = {
        "brier": "brier_by_place",
        "mixture_accuracy": "mixture_right",
        "draw_accuracy": "draw_right",
        "marginal_nll": "marginal_nll",
        "nll": "nll_by_place",
    }
    return {name: _means([record.get(key) for record in ordered]) for name, key in keys.items()}


def _exact(ordered: Sequence[Record]) -> dict[str, list[float] | None] | None:
    """Exact Brier-1 and top-1 by place given all tokens before; None where there are none."""
    if "exact" not in ordered[0]:
        return None
    return {
        "brier": _means([record["exact"]["brier"] for record in ordered]),
        "accuracy": _means([record["exact"]["right"] for record in ordered]),
    }


def _means(rows: Sequence[Sequence[float] | None]) -> list[float] | None:
    known = [row for row in rows if row is not None]
    return np.array(known, dtype=float).mean(0).round(5).tolist() if known else None
