"""By how much two measurements differ, with intervals over documents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.held_out_sets.measured import Sums
from cola.evaluation.clusters import CONFIDENCE, ClusteredMean, clustered_mean


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95% interval; None where it has none, as of a single document."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def mean_of(sums: Sums) -> ClusteredMean:
    """The mean with its standard error over documents."""
    return clustered_mean(sums.values_G, sums.documents_G, sums.weights_G)


def estimate_of(sums: Sums) -> Estimate:
    """The mean with its interval: of a difference of two models on the same documents."""
    found = mean_of(sums)
    low, high = found.interval
    return Estimate(found.mean, *(None if math.isnan(end) else end for end in (low, high)))


def difference(first: Sums, second: Sums) -> Estimate:
    """First less second, of one model or of differences of two.

    Of the same documents they are paired: each document's pull on both means counts together. Of
    others they are independent, with Welch and Satterthwaite's degrees of freedom.
    """
    a, b = mean_of(first), mean_of(second)
    if first.documents_of == second.documents_of:
        return _paired(first, second, a.mean - b.mean)
    squares = [found.standard_error**2 for found in (a, b)]
    if any(math.isnan(square) for square in squares):
        return Estimate(a.mean - b.mean, None, None)
    terms = [square**2 / found.degrees for square, found in zip(squares, (a, b), strict=True)]
    total = sum(squares)
    degrees = total**2 / sum(terms) if sum(terms) else math.inf
    joint = ClusteredMean(a.mean - b.mean, math.sqrt(total), a.clusters + b.clusters, degrees)
    return Estimate(joint.mean, *joint.interval)


def _paired(first: Sums, second: Sums, mean: float) -> Estimate:
    """By linearisation: a mean moves with a document's total by its residual over all weights."""
    pulls: dict[int, float] = {}
    for sums, sign in ((first, 1.0), (second, -1.0)):
        total = sums.weights_G.sum()
        residual_G = sums.values_G - sums.values_G.sum() / total * sums.weights_G
        for document, pull in zip(sums.documents_G.tolist(), residual_G / total, strict=True):
            pulls[document] = pulls.get(document, 0.0) + sign * float(pull)
    count = len(pulls)
    spread = clustered_mean(count * np.array(list(pulls.values())), np.arange(count))
    if math.isnan(spread.standard_error):
        return Estimate(mean, None, None)
    low, high = spread.interval
    return Estimate(mean, mean + low, mean + high)


PER_CENT = f"{CONFIDENCE:.0%}"
