"""Which runs share a budget: runs of nearly the same compute, or those that a column names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Runs of one budget differ by at most this factor in compute: their best sizes then differ by about
# 10% (N* grows like C^0.5), which a first-order correction of the losses removes.
WIDEST = 1.2
CLEAR_GAP = 1.05  # chosen: below this factor two amounts of compute are never two budgets
GAP_OVER_WIDTH = 3.0  # chosen: a gap this much wider than what it separates divides two budgets
ANOTHER_UNIT = 10.0  # chosen: conventions of FLOPs differ by less than this, units by 1000 and more


def group_compute(compute: Array) -> Array:
    """The budget of each run: the geometric mean compute of the runs that it shares one with.

    A budget is never wider than a factor of `WIDEST`, so a chain of runs without gaps becomes
    several bins.
    """
    return _centres(compute, numbered_groups(np.log(compute), np.log(WIDEST), np.log(CLEAR_GAP)))


def named_compute(
    labels: Sequence[object], compute: Array, column: str
) -> tuple[Array, tuple[str, ...]]:
    """The budget of each run where a column names it, and what to know of it.

    A label that is a number and near its runs' compute is the budget's C (FLOPs). Other labels only
    name the budgets: C is the geometric mean of their runs' compute.
    """
    text = pd.Series(list(labels), dtype=object).astype(str)
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(float)
    codes = pd.factorize(text)[0] if np.isnan(numbers).any() else pd.factorize(numbers)[0]
    centres = _centres(compute, codes)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(np.log(numbers / centres))
    if (off <= np.log(ANOTHER_UNIT)).all():  # NaN compares false
        return numbers, ()
    example = text.iloc[int(np.argmax(np.where(np.isfinite(off), off, np.inf)))]
    note = (
        f"column {column!r} only names the budgets: its value {example!r} is not the compute of "
        "its runs in FLOPs; C of a budget is the geometric mean of its runs' compute"
    )
    return centres, (note,)


def numbered_groups(values: Array, widest: float, gap: float = np.inf) -> NDArray[np.int64]:
    """A group's number for each value: groups are at most `widest` wide, numbered upwards.

    They are divided at their largest gaps, and also where a gap above `gap` is much wider than the
    two or more values on each side of it are apart.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.zeros(len(values), bool)
    waiting = [(0, len(values))] if len(values) else []
    while waiting:
        low, high = waiting.pop()
        cut = _division(ordered[low:high], widest, gap)
        if cut is None:
            starts[low] = True
        else:
            waiting += [(low, low + cut), (low + cut, high)]
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(starts) - 1
    return numbers


def _division(values: Array, widest: float, gap: float) -> int | None:
    """Where to divide these sorted values, or None."""
    if values[-1] == values[0]:
        return None
    gaps = np.diff(values)
    cut = int(np.argmax(gaps)) + 1
    left, right = values[cut - 1] - values[0], values[-1] - values[cut]
    apart = gaps[cut - 1] > gap and gaps[cut - 1] >= GAP_OVER_WIDTH * max(left, right)
    several = 2 <= cut <= len(values) - 2
    too_wide = values[-1] - values[0] > widest * (1 + 1e-9)
    return cut if too_wide or (apart and several) else None


def _centres(compute: Array, codes: NDArray[np.int64]) -> Array:
    """Geometric mean of each group's compute; exactly the runs' where all have the same."""
    groups = pd.Series(np.log(compute)).groupby(codes)
    spread = groups.transform("max") - groups.transform("min")
    means = np.exp(groups.transform("mean").to_numpy(float))
    return np.where(spread.to_numpy(float) < 1e-12, compute, means)
