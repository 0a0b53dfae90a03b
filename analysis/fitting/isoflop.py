"""IsoFLOP profiles: the best size at every budget, and how size, tokens and loss grow with budget.

At each budget the loss is a smooth function of log N with one minimum: a parabola, or an Akima
interpolant through the points. The minima of all budgets then follow power laws in compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.interpolate import Akima1DInterpolator

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.law import Array

Method = Literal["parabola", "akima"]
LEAST_SIZES = 4  # one more than a parabola has coefficients


@dataclass(frozen=True)
class Optimum:
    """The minimum of one profile: N* and D* with the loss there. `trouble` says why it is none."""

    compute: float
    parameters: float
    tokens: float
    loss: float
    trouble: str | None = None


@dataclass(frozen=True)
class PowerFit:
    """y = coefficient (C / scale)^exponent, the least-squares line of the logs."""

    coefficient: float
    exponent: float
    scale: float

    def at(self, compute: Array) -> Array:
        """y at these C."""
        return np.asarray(self.coefficient * (compute / self.scale) ** self.exponent)


@dataclass(frozen=True)
class IsoFLOP:
    """Optima by budget, and their growth with compute (None with fewer than two good optima)."""

    optima: tuple[Optimum, ...]
    size: PowerFit | None
    tokens: PowerFit | None
    loss: PowerFit | None

    @property
    def good(self) -> list[Optimum]:
        """The optima that are minima inside their points."""
        return [optimum for optimum in self.optima if optimum.trouble is None]


def isoflop(points: pd.DataFrame, method: Method = "parabola") -> IsoFLOP:
    """Fit every budget's profile. Columns: budget, parameters, tokens, compute, loss."""
    optima = tuple(
        profile_optimum(group, method) for _, group in points.groupby("budget", sort=True)
    )
    return _with_growth(optima)


def profile_optimum(group: pd.DataFrame, method: Method = "parabola") -> Optimum:
    """The minimum of one budget's profile; compute is the geometric mean of its runs'."""
    log_n, loss = np.log(group["parameters"].to_numpy(float)), group["loss"].to_numpy(float)
    compute = float(np.exp(np.log(group["compute"].to_numpy(float)).mean()))
    sizes = len(np.unique(np.round(log_n, 3)))
    if sizes < LEAST_SIZES:
        trouble = f"{sizes} sizes at a budget; a profile needs {LEAST_SIZES}"
        return Optimum(compute, np.nan, np.nan, np.nan, trouble)
    minimum = parabola_minimum if method == "parabola" else akima_minimum
    log_size, lowest, trouble_there = minimum(log_n, loss)
    per_parameter = np.log(group["tokens"].to_numpy(float)) + log_n  # log (N D), nearly constant
    tokens = float(np.exp(per_parameter.mean() - log_size)) if np.isfinite(log_size) else np.nan
    return Optimum(compute, float(np.exp(log_size)), tokens, lowest, trouble_there)


def parabola_minimum(log_n: Array, loss: Array) -> tuple[float, float, str | None]:
    """Vertex of the least-squares parabola in log N, and why it is no minimum, if so."""
    centre = log_n.mean()
    curvature, slope, level = np.polyfit(log_n - centre, loss, 2)
    if curvature <= 0:
        return np.nan, np.nan, "the profile is not convex: it has no minimum"
    vertex = -slope / (2 * curvature)
    lowest = float(level - slope**2 / (4 * curvature))
    return float(vertex + centre), lowest, _outside(float(vertex + centre), log_n)


def akima_minimum(log_n: Array, loss: Array) -> tuple[float, float, str | None]:
    """Lowest point of the Akima interpolant through the mean loss of every size."""
    sizes = np.unique(log_n)
    means = np.array([loss[log_n == size].mean() for size in sizes])
    grid = np.linspace(sizes[0], sizes[-1], 2001)
    curve = Akima1DInterpolator(sizes, means)(grid)
    index = int(np.argmin(curve))
    log_size = float(grid[index])
    trouble = "the minimum is at the edge of the profile" if index in (0, len(grid) - 1) else None
    return log_size, float(curve[index]), trouble


def _outside(vertex: float, log_n: Array) -> str | None:
    if vertex <= log_n.min() or vertex >= log_n.max():
        return "the minimum is at or beyond the edge of the profile"
    return None


def power_fit(compute: Array, values: Array) -> PowerFit:
    """The power law through these values (n,), by least squares of logs."""
    scale = float(np.exp(np.log(compute).mean()))
    exponent, level = np.polyfit(np.log(compute / scale), np.log(values), 1)
    return PowerFit(float(np.exp(level)), float(exponent), scale)


def bootstrap_isoflop(
    points: pd.DataFrame, samples: int, seed: int, *, method: Method = "parabola"
) -> list[IsoFLOP]:
    """Whole analyses of data whose runs were drawn with replacement within every budget."""
    generator = np.random.default_rng(seed)
    groups = [group for _, group in points.groupby("budget", sort=True)]
    analyses = []
    for _ in range(samples):
        drawn = [g.iloc[generator.integers(0, len(g), len(g))] for g in groups]
        optima = tuple(profile_optimum(group, method) for group in drawn)
        analyses.append(_with_growth(optima))
    return analyses


def _with_growth(optima: tuple[Optimum, ...]) -> IsoFLOP:
    good = [optimum for optimum in optima if optimum.trouble is None]
    if len(good) < 2:
        return IsoFLOP(optima, None, None, None)
    compute = np.array([optimum.compute for optimum in good])
    columns = ("parameters", "tokens", "loss")
    fits = [power_fit(compute, np.array([getattr(o, name) for o in good])) for name in columns]
    return IsoFLOP(optima, *fits)


def exponents(analyses: Sequence[IsoFLOP], name: str = "size") -> Array:
    """The exponent of N* (or tokens, loss) in every analysis; NaN where there is none."""
    fits: list[PowerFit | None] = [getattr(analysis, name) for analysis in analyses]
    return np.array([np.nan if fit is None else fit.exponent for fit in fits])


def compute_to_reach(analysis: IsoFLOP, loss: float) -> float:
    """Compute at which the optima's losses reach a target: linear in logs between budgets.

    NaN where the target lies outside the optima: nothing is extrapolated.
    """
    good = sorted(analysis.good, key=lambda optimum: -optimum.loss)
    losses = np.log([optimum.loss for optimum in good])
    if not len(good) or not losses[-1] <= np.log(loss) <= losses[0]:
        return float("nan")
    compute = np.log([optimum.compute for optimum in good])
    return float(np.exp(np.interp(np.log(loss), losses[::-1], compute[::-1])))


def optimum_multiplier(one: IsoFLOP, other: IsoFLOP, budget: int) -> float:
    """How much less compute `other` needs for the loss that `one` has at its budget number
    `budget` (counted from 0)."""
    optimum = one.optima[budget]
    return optimum.compute / compute_to_reach(other, optimum.loss)


def compare_isoflop(
    families: Mapping[str, pd.DataFrame], samples: int, seed: int, *, method: Method = "parabola"
) -> dict[str, dict[str, object]]:
    """Exponents of two families, their difference and compute multiplier, with intervals.

    Budgets are resampled independently in each family. Keys: the families' names, `difference`,
    `multiplier` (how much less compute the second needs for the first's loss at its largest
    budget).
    """
    (name, first), (other, second) = families.items()
    whole = (isoflop(first, method), isoflop(second, method))
    refits = [
        bootstrap_isoflop(rows, samples, seed + k, method=method)
        for k, rows in enumerate((first, second))
    ]
    a, b = (exponents(analyses) for analyses in refits)
    top = len(whole[0].optima) - 1
    times = np.array([optimum_multiplier(x, y, top) for x, y in zip(*refits, strict=True)])
    estimate = [exponents([analysis])[0] for analysis in whole]
    return {
        name: _with_interval(estimate[0], a),
        other: _with_interval(estimate[1], b),
        "difference": _with_interval(estimate[0] - estimate[1], a - b),
        "multiplier": _with_interval(optimum_multiplier(*whole, top), times),
    }


def _with_interval(estimate: float, refits: Array) -> dict[str, object]:
    return {"estimate": float(estimate), "interval": percentiles(refits)}
