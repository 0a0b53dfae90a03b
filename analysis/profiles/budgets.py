"""Which runs share a budget, where no column names it: those of nearly the same compute."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Runs of one budget differ by at most this factor in compute: their best sizes then differ by about
# 10% (N* grows like C^0.5), which a first-order correction of the losses removes.
WIDEST = 1.2
CLEAR_GAP = 1.05  # chosen: below this factor two amounts of compute are never two budgets
GAP_STANDS_OUT = 3.0  # chosen: times other gaps, or what it separates


def group_compute(compute: Array) -> Array:
    """The budget of each run: the geometric mean compute of the runs that it shares one with.

    A budget is never wider than a factor of `WIDEST`, so a chain of runs without gaps becomes
    several bins.
    """
    return _centres(compute, numbered_groups(np.log(compute), np.log(WIDEST), np.log(CLEAR_GAP)))


def numbered_groups(values: Array, widest: float, gap: float = np.inf) -> NDArray[np.int64]:
    """A group's number for each value: groups are at most `widest` wide, numbered upwards.

    What is wider is divided at a gap that stands out, or where none does into equal bins; what is
    not, where a gap above `gap` is much wider than the two or more values on each side are apart.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.zeros(len(values), bool)
    waiting = [(0, len(values))] if len(values) else []
    while waiting:
        low, high = waiting.pop()
        cuts = _divisions(ordered[low:high], widest, gap)
        ends = [low, *(low + cut for cut in cuts), high]
        if cuts:
            waiting += pairwise(ends)
        else:
            starts[low] = True
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(starts) - 1
    return numbers


def _divisions(values: Array, widest: float, gap: float) -> list[int]:
    """Where to divide these sorted values; nowhere if they are one group."""
    width = float(values[-1] - values[0])
    if width == 0:
        return []
    gaps = np.diff(values)
    cut = int(np.argmax(gaps)) + 1
    largest = float(gaps[cut - 1])
    if width > widest * (1 + 1e-9):
        if largest > widest or largest >= GAP_STANDS_OUT * np.median(gaps[gaps > 0]):
            return [cut]
        bins = np.floor((values - values[0]) / width * np.ceil(width / widest) * (1 - 1e-12))
        return [int(place) + 1 for place in np.flatnonzero(np.diff(bins))]
    left, right = values[cut - 1] - values[0], values[-1] - values[cut]
    apart = largest > gap and largest >= GAP_STANDS_OUT * max(left, right)
    return [cut] if apart and 2 <= cut <= len(values) - 2 else []


def _centres(compute: Array, codes: NDArray[np.int64]) -> Array:
    """Geometric mean of each group's compute; exactly the runs' where all have the same."""
    groups = pd.Series(np.log(compute)).groupby(codes)
    spread = groups.transform("max") - groups.transform("min")
    means = np.exp(groups.transform("mean").to_numpy(float))
    return np.where(spread.to_numpy(float) < 1e-12, compute, means)
