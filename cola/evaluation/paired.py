"""Two models on the same items: the difference of their means, item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cola.evaluation.intervals import RESAMPLES, percentile_interval
from cola.evaluation.items import Id


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
