"""A task by what its prompts' lengths leave over: does a length that a patch divides matter?

Each prompt is also given without its first token, without its first two, ...: k lengths, of which
every remainder modulo k is one, in front of the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from cola.evaluation.clusters import (
    cluster_numbers,
    clustered_mean,
    with_error,
    with_half_interval,
)
from cola.evaluation.items import Id
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.task import Record, Task, TaskResult, digest_of
from cola.spec import GenerationSpec, LikelihoodSpec

# By task: what is measured of an item, from its record and from what its first metric is a mean of.
T = TypeVar("T", bound=Task)
Measure = Callable[[Record, float], float]
MEASURES: dict[str, dict[str, Measure]] = {
    "cloze": {"accuracy": lambda record, first: first},
    "continuation": {
        "accuracy": lambda record, first: first,
        "first_token_accuracy": lambda record, first: float(record["right"][0]),
    },
    "predictive": {
        "first_token_accuracy": lambda record, first: float(record["mixture_right"][0]),
        "first_token_draw_accuracy": lambda record, first: float(record["draw_right"][0]),
        "brier_1": lambda record, first: first,
    },
}


class RemainderTask:
    """A task whose `variants` leave out 0, 1, ..., k - 1 first tokens of each prompt.

    Its result is that of the whole prompts, with measurements by the remainder of a prompt's length
    modulo k beside it, and for each divisor d of k what lengths that d divides have more than
    others, by the same item.
    """

    def __init__(self, variants: Sequence[Task]) -> None:
        self._variants = variants
        self.name = variants[0].name
        self.digest = digest_of("remainders", *(variant.digest for variant in variants))

    @property
    def settings(self) -> GenerationSpec | LikelihoodSpec:
        """See `Task.settings`."""
        return self._variants[0].settings

    def ids(self) -> list[Id]:
        """See `Task.ids`."""
        return [
            self._id(item, skipped)
            for skipped, variant in enumerate(self._variants)
            for item in variant.ids()
        ]

    def answer(
        self, evaluated: EvaluatedModel, ids: Sequence[Id], rows: int
    ) -> Iterator[tuple[Id, Record]]:
        """See `Task.answer`."""
        asked = set(ids)
        for skipped, variant in enumerate(self._variants):
            mine = [item for item in variant.ids() if self._id(item, skipped) in asked]
            for item, record in variant.answer(evaluated, mine, rows) if mine else ():
                yield self._id(item, skipped), record

    def summary(self, records: Mapping[Id, Record]) -> TaskResult:
        """See `Task.summary`."""
        parts = [
            {item: records[self._id(item, skipped)] for item in variant.ids()}
            for skipped, variant in enumerate(self._variants)
        ]
        results = [v.summary(part) for v, part in zip(self._variants, parts, strict=True)]
        whole, items = results[0], list(parts[0])
        clusters_I = cluster_numbers(items, whole.clusters)
        left_over_KI = np.array([[part[item]["prompt_tokens"] for item in items] for part in parts])
        left_over_KI %= len(parts)
        # A prompt that the context cuts has one length, whatever was left out of it.
        each_I = (np.sort(left_over_KI, axis=0) == np.arange(len(parts))[:, None]).all(axis=0)
        metrics = dict(whole.metrics)
        if not each_I.any():
            return whole
        for name, measure in MEASURES[self.name].items():
            values_KI = np.array(
                [
                    [measure(part[item], result.per_item[item]) for item in items]
                    for part, result in zip(parts, results, strict=True)
                ]
            )
            metrics |= by_remainder(
                name,
                values_KI[:, each_I],
                left_over_KI[:, each_I],
                clusters_I=clusters_I[each_I],
            )
        return replace(whole, metrics=metrics)

    @staticmethod
    def _id(item: Id, skipped: int) -> Id:
        return f"{item}/{skipped}" if skipped else item


def by_lengths(variants: Sequence[T]) -> T | RemainderTask:
    """The task, by the remainders of its prompts' lengths where it has several variants."""
    return RemainderTask(variants) if len(variants) > 1 else variants[0]


def by_remainder(
    name: str, values_KI: np.ndarray, left_over_KI: np.ndarray, *, clusters_I: np.ndarray
) -> dict[str, float]:
    """Means and standard errors by remainder, and by divisor of K what lengths that it divides have
    more than the others, with the half of its 95% interval.

    values_KI: of each item with K lengths, which leave left_over_KI over modulo K, each once.
    """
    count = len(values_KI)
    order_KI = np.argsort(left_over_KI, axis=0)
    sorted_KI = np.take_along_axis(values_KI, order_KI, axis=0)  # row r: remainder r
    metrics: dict[str, float] = {}
    for remainder, values_I in enumerate(sorted_KI):
        found = clustered_mean(values_I, clusters_I)
        metrics |= with_error(f"{name}_at_remainder_{remainder}", found)
    for divisor in (d for d in range(2, count + 1) if count % d == 0):
        divided = np.arange(count) % divisor == 0
        gain_I = sorted_KI[divided].mean(axis=0) - sorted_KI[~divided].mean(axis=0)
        found = clustered_mean(gain_I, clusters_I)
        metrics |= with_half_interval(f"{name}_gain_divisible_by_{divisor}", found)
    return metrics
