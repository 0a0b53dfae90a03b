"""Statistics of item scores: bootstrap intervals, paired differences, diversity of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, betaincinv, ndtri

from cola.evaluation.clusters import (
    CONFIDENCE,
    cluster_numbers,
    clustered_mean,
    effective_items,
)
from cola.evaluation.items import Id

RESAMPLES = 2000


def percentile_interval(resampled: np.ndarray) -> tuple[float, float]:
    """The middle `CONFIDENCE` of a statistic's values over resamples."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95% interval of a share, 0 to 1.

    It has a width where all items are right, or none, where a bootstrap's has none.
    """
    return _exact_interval(successes, trials)


def sign_test(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test on the items that one of two alone has."""
    fewer, discordant = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(fewer, discordant, 0.5)))


def paired_share_interval(
    only_first: float, only_second: float, items: float
) -> tuple[float, float]:
    """Tango's score interval (1998) of the difference of two shares of the same items, -1 to 1.

    `only_first` and `only_second` count the items that one of the two alone has. It holds where
    they are few, and has a width where there is none.
    """
    z = float(ndtri(0.5 + CONFIDENCE / 2))

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


def clustered_share_interval(right_N: np.ndarray, clusters_N: np.ndarray) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson), 0 to 1, of its effective items."""
    items = effective_items(right_N, clusters_N)
    return _exact_interval(items * float(np.mean(right_N)), items)


def _exact_interval(right: float, items: float) -> tuple[float, float]:
    """Quantiles of two beta distributions; `items` may be a fraction."""
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(right, items - right + 1, tail)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, items - right, 1 - tail)) if right < items else 1.0
    return low, high


def clustered_paired_interval(
    differences_N: np.ndarray, clusters_N: np.ndarray
) -> tuple[float, float]:
    """Tango's interval of a difference of shares, of its effective items.

    `differences_N` are 1 where the first alone is right, -1 where the second is, else 0.
    """
    n = len(differences_N)
    scale = effective_items(differences_N, clusters_N) / n
    only_first, only_second = (int((differences_N == sign).sum()) for sign in (1, -1))
    return paired_share_interval(only_first * scale, only_second * scale, n * scale)


@dataclass(frozen=True)
class Difference:
    """Mean of first minus second over `items` of `clusters` documents or texts.

    The 95% interval is a bootstrap's (seed 0) where each item is a cluster by itself, else
    Student's t over clusters; None of one cluster.
    """

    mean: float
    low: float | None
    high: float | None
    items: int
    clusters: int


def paired_difference(
    first: Mapping[Id, float],
    second: Mapping[Id, float],
    clusters: Mapping[Id, Id] | None = None,
) -> Difference:
    """Over the items, both models' values of an item together; `clusters` has what each is of.

    Raises:
        ValueError: when the items differ, or there is none.
    """
    if first.keys() != second.keys() or not first:
        raise ValueError("the two models were not measured on the same items")
    values_N = np.array([first[item] - second[item] for item in first])
    clusters_N = cluster_numbers(list(first), clusters or {})
    found = clustered_mean(values_N, clusters_N)
    low: float | None
    high: float | None
    if found.clusters < len(values_N):
        low, high = found.interval if found.clusters > 1 else (None, None)
    else:
        drawn = np.random.default_rng(0).integers(len(values_N), size=(RESAMPLES, len(values_N)))
        low, high = percentile_interval(values_N[drawn].mean(1))
    return Difference(found.mean, low, high, len(values_N), found.clusters)


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


def token_entropy(text: Tokens) -> float:
    """Entropy (nats) of the frequencies of the tokens within one text, at most the logarithm of its
    length: the field's measure of how various samples are (as in arXiv 2409.02908)."""
    _, counts = np.unique(text, return_counts=True)
    shares = counts / len(text)
    return float(-(shares * np.log(shares)).sum())


def ngrams(text: Tokens, n: int) -> list[tuple[int, ...]]:
    """All runs of n tokens, in order."""
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]
