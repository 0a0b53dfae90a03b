"""What texts behind prompts are worth: numbers a prompt, of which a setting's are means.

P prompts, M draws, N new tokens, K numbers a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cola.evaluation.clusters import clustered_mean, with_error
from cola.evaluation.predictive_scores import GRAMS, brier_of_draws, brierlm
from cola.evaluation.statistics import token_entropy

ENTROPY, REFERENCE, BRIERLM, RIGHT = (
    "entropy",
    "reference_nats_per_token",
    "brierlm",
    "first_token_accuracy",
)
BRIER = tuple(f"brier_{n}" for n in GRAMS)
COLUMNS = (ENTROPY, RIGHT, *BRIER, REFERENCE)  # of a prompt's numbers


@dataclass(frozen=True)
class Quality:
    """A measure of quality by its name in results; which way is better, and what it is."""

    name: str
    label: str
    better: Literal["lower", "higher"]
    note: str

    def of(self, means_K: np.ndarray) -> np.ndarray:
        """Its value from means of a prompt's numbers, over the last axis; NaN where it has none."""
        if self.name != BRIERLM:
            return np.asarray(means_K[..., COLUMNS.index(self.name)])
        brier_G = means_K[..., [COLUMNS.index(name) for name in BRIER]]
        known = np.asarray((brier_G > 0).all(-1))
        logs_G = np.log(np.where(known[..., None], brier_G, 1.0))
        return np.where(known, 100 * np.exp(logs_G.mean(-1)), np.nan)


QUALITIES = (
    Quality(
        REFERENCE,
        "NLL by the reference",
        "lower",
        "nats a token of the texts given their prompts, whose exponential is the generative "
        "perplexity",
    ),
    Quality(
        BRIERLM,
        "BrierLM",
        "higher",
        "by pairs of draws of the first four tokens, against the text's own; it needs no reference",
    ),
    Quality(
        BRIER[0],
        "Brier-1",
        "higher",
        "by pairs of draws of the first token, against the text's own; it needs no reference",
    ),
)


@dataclass(frozen=True)
class PromptScores:
    """values_PK: the numbers of each prompt, in the order of `COLUMNS`, means over its draws; NaN
    where there is no reference. clusters_P: the document of each."""

    values_PK: np.ndarray
    clusters_P: np.ndarray

    @staticmethod
    def row(
        drawn_MN: np.ndarray, truth_N: np.ndarray, nats_M: Sequence[float] | None
    ) -> list[float]:
        """The numbers of one prompt, from two draws or more."""
        reference = np.nan if nats_M is None else float(np.mean(nats_M)) / len(truth_N)
        brier = [
            brier_of_draws(drawn_MN[:, :n], truth_N[:n]) if n <= len(truth_N) else np.nan
            for n in GRAMS
        ]
        entropy = float(np.mean([token_entropy(drawn_N.tolist()) for drawn_N in drawn_MN]))
        return [entropy, float((drawn_MN[:, 0] == truth_N[0]).mean()), *brier, reference]

    def metrics(self) -> dict[str, float]:
        """Means with their standard errors over documents, and BrierLM where it is defined."""
        found: dict[str, float] = {}
        for name, values_P in zip(COLUMNS, self.values_PK.T, strict=True):
            if np.isfinite(values_P).all():
                found |= with_error(name, clustered_mean(values_P, self.clusters_P))
        brier_PG = self.values_PK[:, [COLUMNS.index(name) for name in BRIER]]
        if np.isfinite(brier_PG).all():
            together = brierlm(brier_PG, self.clusters_P)
            if together is not None:
                found |= with_error(BRIERLM, together)
        return found
