"""Two families against each other: compute multiplier, crossover, exponents, predictions.

All of it is computed from every refit of both families, so that every number has its interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, Refits, percentiles
from analysis.fitting.estimate import Fit, fit_law, solve
from analysis.fitting.law import Array, Inputs, predicted
from analysis.fitting.solver import Resampled
from analysis.fitting.table import inputs
from cola.errors import FitError

MULTIPLIER_POINTS = 60  # chosen: losses at which a multiplier curve is drawn
PREDICTION_SEED = 0  # of a new run's noise
GRID = 400  # points of compute in which curves are inverted
PAIRED_BUDGETS = 6  # from which resampling whole budgets says something


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval (NaN where it is not defined)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def at_compute(compute: Array) -> Inputs:
    """Points of a law of compute alone."""
    return Inputs(np.ones_like(compute), compute)


def curves(refits: Refits, compute: Array) -> Array:
    """Loss of the fit (first row) and of every refit at these C, (1 + K, n)."""
    theta = np.concatenate([refits.fit.theta[None], refits.theta_KP])
    return predicted(refits.fit.law, theta, at_compute(compute))


def compute_for_loss(refits: Refits, loss: Array, compute: Array) -> Array:
    """C at which each curve reaches each loss, (1 + K, n); NaN outside the grid `compute`."""
    reached = []
    for curve in curves(refits, compute):
        falling = np.minimum.accumulate(curve)
        logs = np.interp(-loss, -falling, np.log(compute), left=np.nan, right=np.nan)
        reached.append(np.exp(logs))
    return np.array(reached)


def multiplier_curve(one: Refits, other: Refits) -> pd.DataFrame:
    """How much less compute `other` needs than `one` for the same loss, over the losses of both.

    Columns: loss, multiplier, low, high, observed (whether both families were measured there).
    Curves are followed a factor of ten beyond their points, no further.
    """
    spans = [_span(refits.fit) for refits in (one, other)]
    grids = [np.geomspace(low / 10, high * 10, GRID) for low, high in spans]
    reached = [
        refits.fit.loss(at_compute(np.array([low, high])))
        for refits, (low, high) in zip((one, other), spans, strict=True)
    ]
    losses = np.linspace(
        max(r[0] for r in reached) if _overlap(reached) else max(map(max, reached)),
        min(map(min, reached)),
        MULTIPLIER_POINTS,
    )
    needed = [
        compute_for_loss(refits, losses, grid)
        for refits, grid in zip((one, other), grids, strict=True)
    ]
    ratio = needed[0] / needed[1]
    bands = np.array([percentiles(column, LEVEL) for column in ratio[1:].T])
    observed = np.logical_and(*[(losses <= max(r)) & (losses >= min(r)) for r in reached])
    return pd.DataFrame(
        {
            "loss": losses,
            "multiplier": ratio[0],
            "low": bands[:, 0],
            "high": bands[:, 1],
            "observed": observed,
        }
    )


def _overlap(reached: list[Array]) -> bool:
    return bool(max(r.min() for r in reached) < min(r.max() for r in reached))


def losses_overlap(one: Fit, other: Fit) -> bool:
    """Whether the two curves reach common losses within their measured compute."""
    return _overlap([fit.loss(at_compute(np.array(_span(fit)))) for fit in (one, other)])


def multiplier_at(one: Refits, other: Refits, loss: float) -> Estimate:
    """The multiplier at one loss."""
    grids = [
        np.geomspace(low / 10, high * 10, GRID) for low, high in map(_span, (one.fit, other.fit))
    ]
    needed = [
        compute_for_loss(refits, np.array([loss]), grid)[:, 0]
        for refits, grid in zip((one, other), grids, strict=True)
    ]
    ratio = needed[0] / needed[1]
    return Estimate(float(ratio[0]), *percentiles(ratio[1:], LEVEL))


@dataclass(frozen=True)
class Crossover:
    """Compute at which two curves meet, and the share of refits in which they meet at all within
    a factor of a thousand around the data."""

    compute: Estimate
    share: float


def crossover(one: Refits, other: Refits) -> Crossover | None:
    """Where the curves cross; None where the fits do not."""
    low = min(_span(one.fit)[0], _span(other.fit)[0])
    high = max(_span(one.fit)[1], _span(other.fit)[1])
    grid = np.geomspace(low / 1e3, high * 1e3, 2 * GRID)
    rows = min(len(one.theta_KP), len(other.theta_KP)) + 1
    gap = curves(one, grid)[:rows] - curves(other, grid)[:rows]
    log_crossings = np.array([_first_zero(row, np.log(grid)) for row in gap])
    if not np.isfinite(log_crossings[0]):
        return None
    crosses = np.isfinite(log_crossings[1:])
    interval = (
        np.exp(np.percentile(log_crossings[1:][crosses], [2.5, 97.5]))
        if crosses.any()
        else (np.nan,) * 2
    )
    estimate = Estimate(float(np.exp(log_crossings[0])), float(interval[0]), float(interval[1]))
    return Crossover(estimate, float(crosses.mean()))


def _first_zero(gap: Array, x: Array) -> float:
    change = np.flatnonzero(np.sign(gap[:-1]) * np.sign(gap[1:]) < 0)
    if not len(change):
        return float("nan")
    i = int(change[0])
    return float(x[i] - gap[i] * (x[i + 1] - x[i]) / (gap[i + 1] - gap[i]))


def exponent_difference(
    law: str, one: pd.DataFrame, other: pd.DataFrame, *, name: str, samples: int, seed: int
) -> Estimate:
    """Difference of an exponent between families, budgets being resampled in pairs.

    Both families get the same budgets in every refit, so that what a budget does to both cancels.

    Raises:
        FitError: when a family cannot be fitted, or too few budgets are common to resample them.
    """
    common = np.array(sorted(set(one["budget"]) & set(other["budget"])))
    if len(common) < PAIRED_BUDGETS:
        raise FitError(f"{len(common)} common budgets are too few to resample")
    rows = [frame[frame["budget"].isin(common)] for frame in (one, other)]
    fits = [fit_law(law, inputs(frame)) for frame in rows]
    counts = np.random.default_rng(seed).multinomial(
        len(common), np.full(len(common), 1 / len(common)), samples
    )
    column = fits[0].law.names.index(name)
    values = []
    for fit, frame in zip(fits, rows, strict=True):
        column_of_row = np.searchsorted(common, frame["budget"].to_numpy(float))
        data = Resampled(counts[:, column_of_row].astype(float))
        start = np.tile(fit.theta, (samples, 1))
        theta = solve(fit.law, fit.points, start, estimator=fit.estimator, data=data).theta
        values.append(fit.law.public(theta)[:, column])
    difference = values[0] - values[1]
    estimate = fits[0].parameters[name] - fits[1].parameters[name]
    # Refits with fewer than three different budgets do not determine a curve.
    determined = (counts > 0).sum(1) >= 3
    return Estimate(estimate, *percentiles(difference[determined], LEVEL))


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
    largest = _span(refits.fit)[1]
    return Prediction(compute, loss, float(new_low[0]), float(new_high[0]), compute / largest)


def _span(fit: Fit) -> tuple[float, float]:
    return float(fit.points.compute.min()), float(fit.points.compute.max())
