"""What a reference model says of texts behind prompts, kept item by item as answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cola.batches import batches
from cola.data import TextTokenizer
from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.items import Id
from cola.evaluation.mauve import COMPARABLE, MauveScore, mauve, of_halves
from cola.evaluation.models.features import FeatureModel
from cola.evaluation.models.judge import Reference
from cola.evaluation.tasks.answer_log import ItemLog
from cola.evaluation.tasks.task import Record

KEPT_AT_ONCE = 128  # chosen: texts judged between two writes
MAUVE = "mauve"  # the item of a log that has it
KEPT = ("value", "standard_error", "texts")


@dataclass
class ReferenceJudge:
    """A reference, opened when it is needed, by the nats of a text's tokens given its prompt.

    `digest` tells it from other references in names of files. The reference reads the tokens as
    they are, ends of text included.
    """

    open: Callable[[], Reference]
    digest: str
    prompts: Prompts

    @cached_property
    def reference(self) -> Reference:
        """The model."""
        return self.open()

    @cached_property
    def prompt_nats(self) -> np.ndarray:
        """Of each prompt alone, (P,)."""
        rows = [self.prompts.prompt(number) for number in range(self.prompts.count)]
        return self.reference.judge_tokens(rows).nll_N

    def of_texts(self, numbers: Sequence[int], texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Nats of each text behind the prompt of its number, (N,)."""
        rows = [self.prompts.prompt(n) + list(text) for n, text in zip(numbers, texts, strict=True)]
        return np.asarray(self.reference.judge_tokens(rows).nll_N - self.prompt_nats[numbers])

    @cached_property
    def truth_nats(self) -> np.ndarray:
        """Of the text's own tokens behind each prompt, (P,)."""
        numbers = range(self.prompts.count)
        return self.of_texts(numbers, [self.prompts.truth(number) for number in numbers])

    def of_records(self, records: Mapping[Id, Record], path: Path) -> dict[Id, float]:
        """Nats of each item's text; those that the log at `path` has are not judged again."""
        with ItemLog(path) as log:
            lacking = [item for item in records if item not in log.records]
            for part in batches(lacking, KEPT_AT_ONCE):
                numbers = [int(item) % self.prompts.count for item in part]
                found = self.of_texts(numbers, [records[item]["tokens"] for item in part])
                for item, nats in zip(part, found, strict=True):
                    log.append(item, {"nats": float(nats)})
            return {item: log.records[item]["nats"] for item in records}


@dataclass
class MauveJudge:
    """MAUVE of the first draw behind each prompt against the text's own tokens, prompts included,
    on the states of a model; of `COMPARABLE` prompts or more.

    `features` gives the features of rows of tokens, `digest` tells its model from others.
    """

    features: Callable[[Sequence[Sequence[int]]], np.ndarray]
    digest: str
    name: str
    prompts: Prompts

    @property
    def has_enough(self) -> bool:
        """Whether there are as many texts as it takes."""
        return self.prompts.count >= COMPARABLE

    @cached_property
    def truth_features(self) -> np.ndarray:
        """Features of prompts with the text's own tokens."""
        return self._of([self.prompts.truth(number) for number in range(self.prompts.count)])

    @cached_property
    def halves(self) -> MauveScore | None:
        """One half of the text's own tokens against the other."""
        return of_halves(self.truth_features)

    def of_records(self, records: Mapping[Id, Record], path: Path) -> MauveScore:
        """The score, which the log at `path` keeps."""
        with ItemLog(path) as log:
            if MAUVE not in log.records:
                texts = [records[number]["tokens"] for number in range(self.prompts.count)]
                found = mauve(self._of(texts), self.truth_features)
                log.append(MAUVE, {key: getattr(found, key) for key in KEPT})
            return MauveScore(**log.records[MAUVE])

    def _of(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        return self.features([self.prompts.prompt(n) + list(t) for n, t in enumerate(texts)])


def reference_features(
    judge: ReferenceJudge,
) -> Callable[[Sequence[Sequence[int]]], np.ndarray]:
    """The reference's hidden states behind rows of tokens."""
    return lambda rows: judge.reference.judge_tokens(rows).features_Nd


def external_features(
    open_model: Callable[[], FeatureModel], tokenizer: TextTokenizer
) -> Callable[[Sequence[Sequence[int]]], np.ndarray]:
    """The states of a model with a tokenizer of its own, behind the text of rows of tokens."""
    opened: list[FeatureModel] = []

    def features(rows: Sequence[Sequence[int]]) -> np.ndarray:
        if not opened:
            opened.append(open_model())
        return opened[0].features([tokenizer.decode(list(row)) for row in rows])

    return features
