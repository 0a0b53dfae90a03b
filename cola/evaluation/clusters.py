"""Means of values that come in clusters: sequences of one document, questions on one paragraph.

Values of a cluster resemble each other, so that n of them say less than n independent ones. All
errors here are from the clusters' totals. Few clusters, or some much larger than others, give fewer
degrees of freedom for Student's t (Bell and McCaffrey, 2002; equal ones: the clusters less one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from cola.evaluation.items import Id

CONFIDENCE = 0.95
_TAIL = 0.5 + CONFIDENCE / 2
# Chosen: correlation within a cluster by which degrees of freedom are computed; intervals of equal
# clusters do not depend on it, those of unequal ones little.
_WORKING_CORRELATION = 0.5


@dataclass(frozen=True)
class ClusteredMean:
    """A mean with its standard error, NaN where there is one cluster only.

    `degrees` are those of Student's t for its interval.
    """

    mean: float
    standard_error: float
    clusters: int
    degrees: float = math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval; NaN where the standard error is."""
        if math.isnan(self.standard_error):
            return math.nan, math.nan
        half = float(stdtrit(self.degrees, _TAIL)) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float:
        """Of the mean being zero (two-sided t); 1 where nothing speaks against it."""
        if math.isnan(self.standard_error) or self.mean == 0:
            return 1.0
        if self.standard_error == 0:
            return 0.0
        return float(2 * stdtr(self.degrees, -abs(self.mean) / self.standard_error))


def clustered_mean(
    values_N: np.ndarray, clusters_N: np.ndarray, weights_N: np.ndarray | None = None
) -> ClusteredMean:
    """sum of values / sum of weights (1 each by default), with its error over clusters.

    With cluster totals e_g of values less mean times weights, and h_g the cluster's share of the
    weights W, the variance is that of a ratio with each residual corrected for its cluster's own
    pull on the mean, sum of e_g^2 / (1 - h_g) / W^2 (CR2), divided by what its expectation is of
    the variance in a model of correlated values; the degrees of freedom are Satterthwaite's by the
    same model. For clusters of equal weight this is the variance of their means over their number.
    """
    values_N = np.asarray(values_N, dtype=float)
    weights_N = np.ones(len(values_N)) if weights_N is None else np.asarray(weights_N, dtype=float)
    total = float(weights_N.sum())
    mean = float(values_N.sum() / total)
    _, cluster_N = np.unique(clusters_N, return_inverse=True)
    residual_G = np.bincount(cluster_N, weights=values_N - mean * weights_N)
    if len(residual_G) < 2:
        return ClusteredMean(mean, math.nan, len(residual_G))
    share_G = np.bincount(cluster_N, weights=weights_N) / total
    bias, degrees = _working_model(share_G, len(values_N))
    variance = float((residual_G**2 / (1 - share_G)).sum()) / total**2 / bias
    return ClusteredMean(mean, math.sqrt(variance), len(residual_G), degrees)


def with_error(name: str, found: ClusteredMean) -> dict[str, float]:
    """A mean by its name in results, with its standard error where that is known."""
    if math.isnan(found.standard_error):
        return {name: found.mean}
    return {name: found.mean, f"{name}_standard_error": found.standard_error}


def with_half_interval(name: str, found: ClusteredMean) -> dict[str, float]:
    """A mean by its name in results, with the half of its 95% interval where that is known."""
    low, high = found.interval
    if math.isnan(low):
        return {name: found.mean}
    return {name: found.mean, f"{name}_half_interval": (high - low) / 2}


def _working_model(share_G: np.ndarray, items: int) -> tuple[float, float]:
    """Expectation of CR2 over the variance, and Satterthwaite's degrees of freedom.

    A cluster's total has the variance w_g = r n_g^2 + (1 - r) n_g of n_g values that correlate by
    r. Residual totals then have the covariance S = (1 - h 1') diag(w) (1 - 1 h'), of which only
    tr(aS) and tr(aSaS) with a = 1 / (1 - h) are needed: sums over clusters.
    """
    n_G, h_G, r = items * share_G, share_G, _WORKING_CORRELATION
    w_G = r * n_G**2 + (1 - r) * n_G
    a_G, total = 1 / (1 - h_G), float(w_G.sum())
    shared_G = h_G**2 * total - 2 * h_G * w_G  # the diagonal of S, but for w
    diagonal_G = w_G + shared_G
    hh, ww, hw = (float((a_G * x * y).sum()) for x, y in ((h_G, h_G), (w_G, w_G), (h_G, w_G)))
    square = 2 * hh * ww + 2 * hw**2 + (total * hh) ** 2 - 4 * total * hh * hw
    square += float((a_G**2 * (diagonal_G**2 - shared_G**2)).sum())
    trace = float((a_G * diagonal_G).sum())
    return trace / total, trace**2 / square


def cluster_numbers(items: Sequence[Id], clusters: Mapping[Id, Id]) -> np.ndarray:
    """A number for the cluster of each item: (N,); an item without a cluster is one by itself."""
    numbers: dict[tuple[bool, Id], int] = {}
    keys = [(item in clusters, clusters.get(item, item)) for item in items]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def effective_items(values_N: np.ndarray, clusters_N: np.ndarray) -> float:
    """How many independent items say as much of the mean as these do: at most all of them.

    Korn and Graubard (1998): the items over the variance's inflation by clusters, with what
    Student's t costs for few clusters. Values that are all equal say as much as there are clusters.
    """
    n = len(values_N)
    found = clustered_mean(values_N, clusters_N)
    if found.clusters == n:
        return float(n)
    alone = float(np.var(values_N)) / n
    if found.clusters < 2 or alone == 0:
        return float(found.clusters)
    price = float(stdtrit(n - 1, _TAIL) / stdtrit(found.degrees, _TAIL)) ** 2
    spread = found.standard_error**2
    return n if spread == 0 else min(float(n), n * alone / spread * price)
