"""Statistics of item scores: bootstrap intervals, paired differences, diversity of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from cola.evaluation.items import Id

RESAMPLES = 2000
CONFIDENCE = 0.95


def percentile_interval(resampled: np.ndarray) -> tuple[float, float]:
    """The middle `CONFIDENCE` of a statistic's values over resamples."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95% interval of a share, 0 to 1.

    It has a width where all items are right, or none, where a bootstrap's has none.
    """
    found = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def paired_share_interval(only_first: int, only_second: int, items: int) -> tuple[float, float]:
    """Tango's score interval (1998) of the difference of two shares of the same items, -1 to 1.

    `only_first` and `only_second` count the items that one of the two alone has. It holds where
    they are few, and has a width where there is none.
    """
    z = float(norm.ppf(0.5 + CONFIDENCE / 2))

    def score(difference: float) -> float:
        """The score statistic of this difference, less z where it is below the estimate."""
        a = 2 * items
        b = -only_first - only_second + (2 * items - only_first + only_second) * difference
        c = -only_second * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = items * (2 * share + difference * (1 - difference))
        excess = only_first - only_second - items * difference
        return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)

    estimate, edge = (only_first - only_second) / items, 1e-12
    at_least, at_most = -1 + edge, 1 - edge
    low, high = -1.0, 1.0
    if score(at_least) > z:
        low = float(brentq(lambda d: score(d) - z, at_least, max(estimate - edge, at_least)))
    if score(at_most) < -z:
        high = float(brentq(lambda d: score(d) + z, min(estimate + edge, at_most), at_most))
    return low, high


@dataclass(frozen=True)
class Difference:
    """Mean of first minus second over `items`, with a 95% bootstrap interval (seed 0)."""

    mean: float
    low: float
    high: float
    items: int


def paired_difference(first: Mapping[Id, float], second: Mapping[Id, float]) -> Difference:
    """Over the items, drawn with replacement, both models' values of an item together.

    Raises:
        ValueError: when the items differ, or there is none.
    """
    if first.keys() != second.keys() or not first:
        raise ValueError("the two models were not measured on the same items")
    values_N = np.array([first[item] - second[item] for item in first])
    drawn = np.random.default_rng(0).integers(len(values_N), size=(RESAMPLES, len(values_N)))
    low, high = percentile_interval(values_N[drawn].mean(1))
    return Difference(float(values_N.mean()), low, high, len(values_N))


Tokens = Sequence[int]


def distinct(texts: Sequence[Tokens], n: int) -> float:
    """Share of different n-grams among all n-grams of all texts (distinct-n of 1510.03055).

    NaN where no text has n tokens.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition(texts: Sequence[Tokens], n: int) -> float:
    """Mean over texts of the share of n-grams that occurred earlier in the same text (rep-n).

    NaN where no text has n tokens.
    """
    shares = [1 - len(set(grams)) / len(grams) for text in texts if (grams := ngrams(text, n))]
    return sum(shares) / len(shares) if shares else float("nan")


def ngrams(text: Tokens, n: int) -> list[tuple[int, ...]]:
    """All runs of n tokens, in order."""
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]
