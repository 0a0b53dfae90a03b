"""Texts behind held-out prompts at one setting: what a frontier's point is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cola.errors import SpecError
from cola.evaluation.frontier.scores import ENTROPY, REFERENCE, PromptScores
from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.statistics import token_entropy
from cola.evaluation.tasks.continuations import continuations
from cola.evaluation.tasks.predictive import PromptTexts
from cola.evaluation.tasks.task import Record, TaskResult, digest_of
from cola.evaluation.tasks.unconditional import variety
from cola.spec import GenerationSpec


@dataclass(frozen=True)
class Prompts:
    """`count` beginnings of held-out sequences (rows_NL), each with the `new` tokens behind it.

    They end at multiples of `prompt_tokens`, spread over sequences first and lengths then.
    """

    texts: PromptTexts
    prompt_tokens: int
    new: int
    count: int

    @classmethod
    def of(cls, texts: PromptTexts, prompt_tokens: int, new: int, *, asked: int) -> Prompts:
        """At most `asked` prompts: as many as the text gives.

        Raises:
            SpecError: it gives none.
        """
        length = texts.rows_NL.shape[1]
        cuts = range(prompt_tokens, length - new + 1, prompt_tokens)
        if not cuts or not len(texts.rows_NL):
            raise SpecError(
                f"generation.max_new_tokens={new} behind prompt_tokens={prompt_tokens}: a sequence "
                f"has {length} tokens; give fewer by --set"
            )
        return cls(texts, prompt_tokens, new, min(asked, len(texts.rows_NL) * len(cuts)))

    @property
    def cuts(self) -> range:
        """Where prompts end."""
        return range(self.prompt_tokens, self.texts.rows_NL.shape[1] - self.new + 1,
                     self.prompt_tokens)  # fmt: skip

    def prompt(self, number: int) -> list[int]:
        """The tokens of a prompt."""
        sequence, cut = self.texts.place(number, self.cuts)
        return list(self.texts.rows_NL[sequence, :cut].tolist())

    def truth(self, number: int) -> list[int]:
        """The text's own `new` tokens behind it."""
        sequence, cut = self.texts.place(number, self.cuts)
        return list(self.texts.rows_NL[sequence, cut : cut + self.new].tolist())

    def clusters(self) -> np.ndarray:
        """The document of each prompt."""
        places = (self.texts.place(number, self.cuts)[0] for number in range(self.count))
        return np.array([self.texts.document(sequence) for sequence in places])

    def lengths(self) -> list[int]:
        """How many tokens each prompt has."""
        return [self.texts.place(number, self.cuts)[1] for number in range(self.count)]


class FrontierTask:
    """`draws` texts of `prompts.new` tokens behind each prompt: item d P + i is draw d of prompt i
    of P. An end of text is a token like any other, so that all texts are of one length."""

    name = "frontier"

    def __init__(
        self, prompts: Prompts, settings: GenerationSpec, *, draws: int, seed: int
    ) -> None:
        self.settings = settings.model_copy(update={"max_new_tokens": prompts.new})
        self._prompts, self._draws, self._seed = prompts, draws, seed
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
            evaluated, prompts, self.settings, seed=self._seed, rows=rows, ends_at_eos=False
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
    """The same numbers of the text's own tokens, as far as one text behind a prompt has them."""
    texts = [prompts.truth(number) for number in range(prompts.count)]
    found = {ENTROPY: float(np.mean([token_entropy(text) for text in texts]))} | variety(texts)
    if reference is not None:
        found[REFERENCE] = float(np.mean(reference)) / prompts.new
    return found
