"""Tasks on the tokens of held-out text: continue it, or fill a gap in it (N new tokens)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cola.errors import SpecError
from cola.evaluation.clusters import clustered_mean
from cola.evaluation.items import Id
from cola.evaluation.models.context import fitted_gap, fitted_prompt, room_for_prompts
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.continuations import continuations, cuts_of
from cola.evaluation.tasks.task import (
    Record,
    TaskResult,
    digest_of,
    sample_id,
    skipped_part,
)
from cola.evaluation.topic_agreement import topic_agreement
from cola.seeding import Stream
from cola.spec import GenerationSpec
from cola.spec.data import GeneratedText


class ContinuationTask:
    """Continuation accuracy: share of generated tokens that equal the held-out text.

    Sequence i is row i of rows_NL; `prompt_tokens` of it are given, and `max_new_tokens` or what is
    left of it asked for. Ends of text are tokens like any other. Of a generated text also: how
    often what is made is of the topic that the prompt ends with.
    """

    name = "continuation"

    def __init__(
        self,
        rows_NL: np.ndarray,
        prompt_tokens: int,
        settings: GenerationSpec,
        *,
        seed: int,
        documents_N: np.ndarray | None = None,
        source: GeneratedText | None = None,
        skipped: int = 0,
    ) -> None:
        """`documents_N` has the document of each sequence (None: each is one by itself); `source`
        is what the text was drawn from, where that is known; `skipped` tokens at a sequence's
        beginning are not given."""
        self._documents, self._source, self._skipped = documents_N, source, skipped
        check_prompt(rows_NL, prompt_tokens)
        new = min(settings.max_new_tokens, rows_NL.shape[1] - prompt_tokens)
        self._rows, self._cut, self._seed = rows_NL, prompt_tokens, seed
        self.settings = settings.model_copy(update={"max_new_tokens": new})
        drawn_from = [] if source is None else [source.canonical_json()]
        self.digest = digest_of(
            self.name,
            self.settings.canonical_json(),
            seed,
            prompt_tokens,
            rows_NL.tobytes(),
            *drawn_from,
            *skipped_part(skipped),
        )

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return list(range(len(self._rows)))

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        prompts = {item: self._rows[int(item), self._skipped : self._cut].tolist() for item in ids}
        made = continuations(
            evaluated, prompts, self.settings, seed=self._seed, rows=rows, ends_at_eos=False
        )
        for item, found in made:
            wanted = self._rows[int(item), self._cut : self._cut + len(found.tokens)].tolist()
            about: Record = {
                "cut_tokens": found.cut_tokens,
                "prompt_tokens": self._cut - self._skipped - found.cut_tokens,
            }
            if self._source is not None:
                about["tokens"] = found.tokens
            yield item, compare_tokens(evaluated, found.tokens, wanted) | about

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`."""
        details = {"prompt_tokens": self._cut, "generation": self.settings.model_dump()}
        result = token_result(self.name, records, details, documents_N=self._documents)
        if self._source is None or self._source.topics < 2:
            return result
        rows_BL = self._rows[[int(item) for item in records]]
        made_BN = np.array([record["tokens"] for record in records.values()])
        topics = topic_agreement(
            self._source,
            rows_BL[:, : self._cut],
            made_BN,
            truth_BN=rows_BL[:, self._cut : self._cut + made_BN.shape[1]],
            clusters_B=np.array(list(result.clusters.values())),
        )
        return replace(result, metrics=result.metrics | topics)


class InfillingTask:
    """Fill a gap of `gap_tokens` tokens, centred behind the first `prompt_tokens` of a sequence.

    Centred, because Cola DLM's right context acts within the block that the gap ends in: a gap
    between two borders of blocks would have none. A family that sees no right context continues
    the left one, and the result says so (`right_context`).
    """

    name = "infilling"

    def __init__(
        self,
        rows_NL: np.ndarray,
        prompt_tokens: int,
        gap_tokens: int,
        *,
        settings: GenerationSpec,
        seed: int,
        documents_N: np.ndarray | None = None,
    ) -> None:
        """`documents_N` has the document of each sequence (None: each is one by itself)."""
        self._documents = documents_N
        self._start = max(1, prompt_tokens - gap_tokens // 2)
        self._end = self._start + gap_tokens
        if self._end >= rows_NL.shape[1]:
            raise SpecError(
                f"evaluation.gap_tokens={gap_tokens}: a gap from token {self._start} on leaves "
                f"nothing of a sequence's {rows_NL.shape[1]} tokens behind it; choose fewer, or a "
                "smaller evaluation.prompt_tokens"
            )
        self._rows, self._seed = rows_NL, seed
        self.settings = settings.model_copy(update={"max_new_tokens": gap_tokens})
        self.digest = digest_of(
            self.name, self.settings.canonical_json(), seed, self._start, rows_NL.tobytes()
        )

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return list(range(len(self._rows)))

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        for start in range(0, len(ids), rows):
            chosen = ids[start : start + rows]
            filled = self._filled(evaluated, chosen)
            for item, (tokens, cut) in zip(chosen, filled, strict=True):
                wanted = self._rows[int(item), self._start : self._end].tolist()
                how = {"right_context": evaluated.family.fills_gaps, "cut_tokens": cut}
                yield item, compare_tokens(evaluated, tokens, wanted) | how

    @torch.no_grad()
    def _filled(self, evaluated: EvaluatedModel, ids: Sequence[Id]) -> list[tuple[list[int], int]]:
        """The tokens of each gap, and how many tokens round it were cut."""
        rows = [self._rows[int(item)] for item in ids]
        lefts = [row[: self._start].tolist() for row in rows]
        room = room_for_prompts(evaluated.context, self.settings)
        stream = Stream(self._seed, 0, [sample_id(item) for item in ids], device=evaluated.device)
        if not evaluated.family.fills_gaps:
            prompts = [fitted_prompt(left, room) for left in lefts]
            made = evaluated.family.generate(
                evaluated.model,
                [prompt for prompt, _ in prompts],
                self.settings,
                stream=stream,
                eos_token_id=None,
            )
            return list(zip(made, (cut for _, cut in prompts), strict=True))
        rights = [row[self._end :].tolist() for row in rows]
        fitted = [fitted_gap(*texts, room) for texts in zip(lefts, rights, strict=True)]
        made = evaluated.family.infill(
            evaluated.model,
            [left for left, _, _ in fitted],
            [self._end - self._start] * len(rows),
            rights=[right for _, right, _ in fitted],
            settings=self.settings,
            stream=stream,
        )
        return list(zip(made, (cut for _, _, cut in fitted), strict=True))

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`."""
        details = {
            "gap": [self._start, self._end],
            "right_context": all(record["right_context"] for record in records.values()),
            "generation": self.settings.model_dump(),
        }
        return token_result(self.name, records, details, documents_N=self._documents)


def check_prompt(rows_NL: np.ndarray, prompt_tokens: int) -> None:
    """Raise a `SpecError` when nothing of a sequence is left behind the prompt."""
    length = rows_NL.shape[1]
    if prompt_tokens >= length:
        raise SpecError(
            f"evaluation.prompt_tokens={prompt_tokens}: leaves nothing of a sequence's {length} "
            "tokens; choose fewer"
        )


def compare_tokens(evaluated: EvaluatedModel, tokens: list[int], wanted: list[int]) -> Record:
    """Both texts, and by position whether the tokens are equal (1) or not (0)."""
    decode = evaluated.tokenizer.decode
    return {
        "generation": decode(tokens, skip_special_tokens=False),
        "reference": decode(wanted, skip_special_tokens=False),
        "right": [int(a == b) for a, b in zip(tokens, wanted, strict=True)],
    }


def token_result(
    name: str,
    records: Mapping[Id, Record],
    details: dict[str, Any],
    *,
    documents_N: np.ndarray | None = None,
) -> TaskResult:
    """Shares of right tokens, in all and by position, and corpus chrF (sacrebleu's defaults).

    The standard error is over documents.
    """
    from sacrebleu.metrics import CHRF

    ordered = list(records.values())
    right_BN = np.array([record["right"] for record in ordered], dtype=float)
    share_B = right_BN.mean(1)
    chrf = CHRF().corpus_score(
        [record["generation"] for record in ordered],
        [[record["reference"] for record in ordered]],
    )
    metrics = {
        "accuracy": float(share_B.mean()),
        "first_token_accuracy": float(right_BN[:, 0].mean()),
        "chrf": float(chrf.score),
    }
    of_item = {
        item: int(item if documents_N is None else documents_N[int(item)]) for item in records
    }
    documents: dict[Id, Id] = dict(of_item)
    found = clustered_mean(share_B, np.array(list(of_item.values())))
    if not np.isnan(found.standard_error):
        metrics["accuracy_standard_error"] = found.standard_error
    details = details | {"clusters": found.clusters}
    by_position = [round(float(value), 4) for value in right_BN.mean(0)]
    details = details | cuts_of(records) | {"accuracy_by_position": by_position}
    shares = dict(zip(records, share_B.tolist(), strict=True))
    return TaskResult(name, len(ordered), metrics, details, shares, clusters=documents)
