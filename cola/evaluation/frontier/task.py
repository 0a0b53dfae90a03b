"""Texts behind held-out prompts at one setting: what a frontier's point is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.frontier.scores import ENTROPY, REFERENCE, PromptScores
from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.statistics import token_entropy
from cola.evaluation.tasks.continuations import continuations
from cola.evaluation.tasks.task import Record, TaskResult, digest_of
from cola.evaluation.tasks.unconditional import variety
from cola.spec import GenerationSpec


class FrontierTask:
    """`draws` texts of `prompts.new` tokens behind each prompt: item d P + i is draw d of prompt i
    of P. An end of text is a token like any other, so that all texts are of one length."""

    name = "frontier"

    def __init__(
        self, prompts: Prompts, settings: GenerationSpec, *, draws: int, seed: int
    ) -> None:
        self.settings = settings.model_copy(update={"max_new_tokens": prompts.new})
        self._prompts, self._draws, self.seed = prompts, draws, seed
        # More draws are more items of the same task.
        self.digest = digest_of(
            self.name,
            self.settings.canonical_json(),
            seed,
            prompts.count,
            prompts.prompt_tokens,
            prompts.texts.rows_NL.tobytes(),
        )

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return list(range(self._draws * self._prompts.count))

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        prompts = {item: self._prompts.prompt(int(item) % self._prompts.count) for item in ids}
        made = continuations(
            evaluated, prompts, self.settings, seed=self.seed, rows=rows, ends_at_eos=False
        )
        for item, found in made:
            yield item, {"tokens": found.tokens, "generation": found.text}

    def scores(
        self, records: Mapping[Id, Record], reference: Mapping[Id, float] | None = None
    ) -> PromptScores:
        """What the texts are worth, by prompt. `reference`: nats of each item's text given its
        prompt, by a reference model."""
        rows = []
        for number in range(self._prompts.count):
            items = [draw * self._prompts.count + number for draw in range(self._draws)]
            drawn_MN = np.array([records[item]["tokens"] for item in items])
            nats = None if reference is None else [reference[item] for item in items]
            truth_N = np.array(self._prompts.truth(number))
            rows.append(PromptScores.row(drawn_MN, truth_N, nats))
        return PromptScores(np.array(rows), self._prompts.clusters())

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`: without what a reference says."""
        texts = [record["tokens"] for record in records.values()]
        metrics = self.scores(records).metrics() | variety(texts)
        details: dict[str, Any] = {
            "prompts": self._prompts.count,
            "draws": self._draws,
            "generation": self.settings.model_dump(),
        }
        return TaskResult(self.name, len(records), metrics, details)


def truth_scores(prompts: Prompts, reference: Sequence[float] | None) -> dict[str, float]:
    """The same numbers of the text's own tokens, as far as one text behind a prompt has them.
    `reference`: nats of each prompt's."""
    texts = [prompts.truth(number) for number in range(prompts.count)]
    found = {ENTROPY: float(np.mean([token_entropy(text) for text in texts]))} | variety(texts)
    if reference is not None:
        found[REFERENCE] = float(np.mean(reference)) / prompts.new
    return found
