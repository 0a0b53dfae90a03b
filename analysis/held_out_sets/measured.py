"""What models measured on texts, document by document, from their recorded results."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cola.records import NllKind, weakest_kind


@dataclass(frozen=True)
class Sums:
    """Sums of a measurement by document: values_G over weights_G is its mean.

    `documents_of` names the text that the G documents' numbers are of: equal numbers of one text
    are the same document.
    """

    documents_G: np.ndarray
    values_G: np.ndarray
    weights_G: np.ndarray
    documents_of: str

    def minus(self, other: Sums) -> Sums | None:
        """The difference of two models' sums on the same documents and weights; None where these
        are not the same."""
        if self.documents_of != other.documents_of:
            return None
        if not np.array_equal(self.documents_G, other.documents_G):
            return None
        if not np.array_equal(self.weights_G, other.weights_G):
            return None
        values_G = self.values_G - other.values_G
        return Sums(self.documents_G, values_G, self.weights_G, self.documents_of)


@dataclass(frozen=True)
class TextResult:
    """What one curve's largest models measured on a text, in the mean over their seeds.

    `kind` is that of the NLL. bits: bits over bytes; nats: nats over tokens; brier: Brier-1 over
    prompts (None: not measured). brierlm has its standard error beside it.
    """

    kind: NllKind
    seeds: int
    bits: Sums
    nats: Sums
    brier: Sums | None = None
    brierlm: tuple[float, float] | None = None


def texts_of(recorded: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, TextResult]:
    """Results by text, in the order in which they were measured, of runs that differ in their seed.

    `recorded` has the results of each run, as its `evaluation.json` has them: those of such texts
    name theirs in `held_out` and whose documents it has, with these in `details.by_document`.
    """
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in (result for results in recorded for result in results):
        if "documents_of" in result:
            found[result["held_out"]][result["task"]].append(result)
    return {text: _result(tasks) for text, tasks in found.items() if tasks["likelihood"]}


def _result(by_task: Mapping[str, Sequence[Mapping[str, Any]]]) -> TextResult:
    likelihoods, predictive = by_task["likelihood"], by_task.get("predictive", ())
    nats, bits = (_sums(likelihoods, weights=column) for column in (2, 3))
    return TextResult(
        kind=weakest_kind(result["details"]["kind"] for result in likelihoods),
        seeds=len(likelihoods),
        bits=Sums(bits.documents_G, bits.values_G / math.log(2), bits.weights_G, bits.documents_of),
        nats=nats,
        brier=_sums(predictive, weights=2) if predictive else None,
        brierlm=_brierlm(predictive),
    )


def _sums(results: Sequence[Mapping[str, Any]], *, weights: int) -> Sums:
    """Of rows [document, value, weight, ...] the second column over that of `weights`, in the mean
    over the results: they are of the same sequences."""
    tables = [result["details"]["by_document"] for result in results]
    first = tables[0]
    return Sums(
        np.array([row[0] for row in first]),
        np.mean([[row[1] for row in table] for table in tables], axis=0),
        np.array([row[weights] for row in first], dtype=float),
        results[0]["documents_of"],
    )


def _brierlm(results: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Mean over seeds with its standard error over documents, which seeds share; None where one has
    none."""
    values = [result["metrics"].get("brierlm") for result in results]
    if not values or None in values:
        return None
    errors = [result["metrics"].get("brierlm_standard_error", math.nan) for result in results]
    return float(np.mean(values)), float(np.mean(errors))
