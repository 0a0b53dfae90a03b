"""Two families against each other: compute multiplier, crossover, exponents, predictions.

All of it is computed from every refit of both families, so that every number has its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, Refits, percentiles
from analysis.fitting.frontier import ScalingCurve, at_compute
from analysis.fitting.law import Array

MULTIPLIER_POINTS = 60  # chosen: values at which a multiplier curve is drawn
BEYOND = 10  # chosen: factor in compute that a drawn curve is followed beyond its points
FAR, GRID = 1e3, 800  # chosen: factor within which curves may cross, and points of compute there
RESOLVED = 1e-9  # chosen: share of the values below which a gap is none
PREDICTION_SEED = 0  # of a new run's noise


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval (NaN where it is not defined)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Multiplier:
    """Compute of the first curve over compute of the second for the same value `at`.

    Where both curves reach common values within their measured compute: `value`, and its 95%
    interval, an end of which is infinite where so many refits never get there (NaN: not known).
    Else `value` is None and `bound` says which side is known: at least `low`, or at most `high`;
    supported_by is the share of refits that agree on which curve is the better one there.
    """

    at: float
    value: float | None
    low: float
    high: float
    bound: Literal["at least", "at most"] | None = None
    supported_by: float | None = None

    @property
    def inverse(self) -> Multiplier:
        """Of the second curve over the first."""
        with np.errstate(divide="ignore"):
            low, high = (float(np.divide(1.0, end)) for end in (self.high, self.low))
        bound: Literal["at least", "at most"] | None = None
        if self.bound is not None:
            bound = "at most" if self.bound == "at least" else "at least"
        value = None if self.value is None else 1 / self.value
        return Multiplier(self.at, value, low, high, bound, self.supported_by)

    @property
    def interval(self) -> list[float | None]:
        """Its ends; None where one is open or not known. Empty without refits."""
        if self.bound is None and np.isnan(self.low) and np.isnan(self.high):
            return []
        return [end if np.isfinite(end) else None for end in (self.low, self.high)]


def compare_compute(first: ScalingCurve, second: ScalingCurve, level: float = LEVEL) -> Multiplier:
    """How much less compute the second curve needs than the first.

    It is taken in the middle of the values that both reach within their measured compute; where
    they reach none in common it is bounded from one side, without extrapolating either.
    """
    reached = [curve.values(np.array(curve.span))[0] for curve in (first, second)]
    if not _overlap(reached):
        return _bounded(first, second, reached)
    lowest, highest = max(map(min, reached)), min(map(max, reached))
    lower = first.better == "lower"  # a loss, whose ratios count
    middle = np.sqrt(lowest * highest) if lower else (lowest + highest) / 2
    return multiplier_at(first, second, float(middle), level=level)


def multiplier_at(
    first: ScalingCurve, second: ScalingCurve, value: float, *, level: float = LEVEL
) -> Multiplier:
    """The multiplier at one value with its interval."""
    return _multiplier(value, first.compute_for(value), second.compute_for(value), level=level)


def _multiplier(value: float, one: Array, other: Array, *, level: float = LEVEL) -> Multiplier:
    """From the compute that each curve needs for the value: the fit's, then the refits'."""
    rows = min(len(one), len(other))
    # A refit may need more compute for it than a number holds, or never come there.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = np.asarray(one[:rows] / other[:rows])
    return Multiplier(value, float(ratio[0]), *ends(ratio[1:], level))


def _overlap(reached: Sequence[Array]) -> bool:
    return bool(max(r.min() for r in reached) < min(r.max() for r in reached))


def _bounded(first: ScalingCurve, second: ScalingCurve, reached: Sequence[Array]) -> Multiplier:
    """One side of the multiplier: what the worse curve reaches with its largest compute, the better
    one has with its smallest."""
    lower = first.better == "lower"
    leads = bool(reached[1].max() <= reached[0].min()) == lower  # the second curve does
    better, worse = (second, first) if leads else (first, second)
    most = worse.span[1] / better.span[0]
    better_start = better.values(np.array([better.span[0]]))[:, 0]
    worse_end = worse.values(np.array([worse.span[1]]))[:, 0]
    rows = min(len(better_start), len(worse_end))
    ahead = better_start[1:rows] <= worse_end[1:rows]
    agree = float((ahead if lower else ~ahead).mean()) if rows > 1 else None
    at = float(worse_end[0])
    if leads:
        return Multiplier(at, None, most, float("inf"), "at least", agree)
    return Multiplier(at, None, 0.0, 1 / most, "at most", agree)


def ends(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Central interval of values that may be infinite; NaN without any, and where over a tenth of
    them are not known."""
    known = values[~np.isnan(values)]
    if not len(known) or len(known) < 0.9 * len(values):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def multiplier_curve(one: ScalingCurve, other: ScalingCurve) -> pd.DataFrame:
    """How much less compute `other` needs than `one` for the same value, over the values of both.

    Columns: value, multiplier, low, high, observed (whether both families were measured there).
    Curves are followed a factor of ten beyond their points, no further. Empty where they reach no
    value in common within their points.
    """
    reached = [curve.values(np.array(curve.span))[0] for curve in (one, other)]
    columns = ["value", "multiplier", "low", "high", "observed"]
    if not _overlap(reached):
        return pd.DataFrame(columns=columns)
    best, worst = (min, max) if one.better == "lower" else (max, min)
    # From the worst value that both were measured at to the best that either was.
    start = best(worst(r) for r in reached)
    rows = []
    for value in np.linspace(start, best(best(r) for r in reached), MULTIPLIER_POINTS):
        needed = [curve.compute_for(float(value)) for curve in (one, other)]
        spans = [curve.span for curve in (one, other)]
        followed = all(
            low / BEYOND <= c[0] <= high * BEYOND
            for c, (low, high) in zip(needed, spans, strict=True)
        )
        if not followed:
            continue
        found = _multiplier(float(value), *needed)
        observed = all(min(r) <= value <= max(r) for r in reached)
        rows.append((found.at, found.value, found.low, found.high, observed))
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Crossover:
    """Compute at which two curves meet, without an interval where over a tenth of the refits do not
    meet; the share of refits in which they meet at all within a factor of a thousand around the
    data; and how far beyond the compute that both were measured at it lies (1: inside)."""

    compute: Estimate
    share: float
    beyond: float


def crossover(one: ScalingCurve, other: ScalingCurve, level: float = LEVEL) -> Crossover | None:
    """Where the curves cross; None where the fits do not."""
    low, high = min(one.span[0], other.span[0]), max(one.span[1], other.span[1])
    grid = np.geomspace(low / FAR, high * FAR, GRID)
    first, second = one.values(grid), other.values(grid)
    rows = min(len(first), len(second))
    gap = first[:rows] - second[:rows]
    # Two curves at their common floor or ceiling differ by rounding.
    gap[np.abs(gap) < RESOLVED * np.abs(first).max()] = 0.0
    log_crossings = _first_zeros(gap, np.log(grid))
    if not np.isfinite(log_crossings[0]):
        return None
    drawn = log_crossings[1:]
    crosses = drawn[np.isfinite(drawn)]
    interval = [float(np.exp(end)) for end in percentiles(drawn, level)]
    at = float(np.exp(log_crossings[0]))
    beyond = max([1.0, *(max(curve.span[0] / at, at / curve.span[1]) for curve in (one, other))])
    share = len(crosses) / len(drawn) if len(drawn) else float("nan")
    return Crossover(Estimate(at, interval[0], interval[1]), share, beyond)


def _first_zeros(gap_Bn: Array, x: Array) -> Array:
    """(B,): where each row first changes its sign, between points; NaN where it does not."""
    change = gap_Bn[:, :-1] * gap_Bn[:, 1:] < 0
    i, row = change.argmax(1), np.arange(len(gap_Bn))
    left, right = gap_Bn[row, i], gap_Bn[row, i + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        at = x[i] - left * (x[i + 1] - x[i]) / (right - left)
    return np.where(change.any(1), at, np.nan)


@dataclass(frozen=True)
class Prediction:
    """Loss at a target compute, and how far beyond the data it lies."""

    compute: float
    loss: Estimate
    prediction_low: float
    prediction_high: float
    extrapolation: float  # target over the largest measured compute

    @property
    def extrapolation_note(self) -> str:
        """The extrapolation ratio for people."""
        ratio = self.extrapolation
        if ratio <= 1:
            return "inside the measured budgets"
        if ratio < 10:
            return f"{ratio:.1f} times beyond the largest measured budget"
        return (
            f"{ratio:,.0f} times beyond the largest measured budget: this rests on the law, "
            "not on data"
        )


def predict(refits: Refits, compute: float) -> Prediction:
    """Loss at a target budget, with confidence and prediction interval."""
    points = at_compute(np.array([compute]))
    low, high = refits.confidence_band(points)
    new_low, new_high = refits.prediction_band(points, PREDICTION_SEED)
    loss = Estimate(float(refits.fit.loss(points)[0]), float(low[0]), float(high[0]))
    largest = float(refits.fit.points.compute.max())
    return Prediction(compute, loss, float(new_low[0]), float(new_high[0]), compute / largest)
