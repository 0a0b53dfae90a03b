"""Fits of curves: checks, the optimum, and refits whose noise is correlated along a curve."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from analysis.curve_laws.curves import LEAST_POINTS, Curve, CurvePoints, Scale, points_of, scale_of
from analysis.curve_laws.law import annealing_law
from analysis.fitting.bootstrap import Refits, scatter_factors, variance_components
from analysis.fitting.choices import Progress
from analysis.fitting.constraints import FREE, Constraints, constrained, inner_names
from analysis.fitting.estimate import Fit, assess, count_distinct, solve
from analysis.fitting.law import Array
from analysis.fitting.solver import Resampled
from cola.errors import FitError

STARTS = 48  # chosen: random starts of a fit
LEAST_SIZES = 3  # different N that B and beta need beside E
LEAST_RUNS = 5  # chosen: runs from which what one has in common is known
STRONGEST = 0.98  # largest correlation of neighbouring residuals that is assumed
CHUNK = 100  # refits that are solved at once


@dataclass(frozen=True)
class CurveFit:
    """A fit of curves; sized: whether over N. correlation: of neighbouring residuals of a run.
    common_sd: of what a run's residuals have in common; NaN: too few runs to know it."""

    fit: Fit
    curves: tuple[Curve, ...]
    scale: Scale
    sized: bool
    correlation: float
    common_sd: float

    @property
    def points(self) -> CurvePoints:
        """The fitted points."""
        assert isinstance(self.fit.points, CurvePoints)
        return self.fit.points


def fit_curves(
    curves: Sequence[Curve],
    estimator: str,
    *,
    sized: bool,
    seed: int = 0,
    starts: int = STARTS,
    constraints: Constraints = FREE,
    scale: Scale | None = None,
) -> CurveFit:
    """The law's best optimum over many starts.

    Raises:
        FitError: curves that do not determine it.
    """
    check_curves(curves, sized=sized, pinned=constraints.pinned)
    scale = scale or scale_of(curves)
    points = points_of(curves, scale)
    law = constrained(annealing_law(points, scale.unit, sized=sized), constraints)
    free = len(inner_names(law))
    if len(points) < free + 2:
        raise FitError(
            f"law annealing has {free} free parameters, and {len(points)} points after the "
            f"warm-ups do not determine them; give at least {free + 2}"
        )
    start = law.starts(points, starts, np.random.default_rng(seed))
    found = solve(law, points, start, estimator=estimator)
    best = int(found.objective.argmin())
    fit = assess(law, points, estimator, solutions=found, best=best, start=start[best])
    correlation = correlation_of(fit.residual, points)
    return CurveFit(fit, tuple(curves), scale, sized, correlation, common_scatter(fit, points))


def check_curves(curves: Sequence[Curve], *, sized: bool, pinned: Collection[str]) -> None:
    """Check that these curves determine the law.

    Raises:
        FitError: no curve is annealed, a loss does not fall, or sizes are too few.
    """
    short = [curve.name for curve in curves if (curve.steps > curve.warmup).sum() < LEAST_POINTS]
    if short:
        raise FitError(
            f"{_named(short)}: fewer than {LEAST_POINTS} losses after the warm-up; log the loss "
            "more often, or leave such runs out"
        )
    if all(curve.schedule == "constant" for curve in curves):
        raise FitError(
            f"the learning rate of {_named([curve.name for curve in curves])} stays constant after "
            "the warm-up: nothing is annealed, so that C and lambda of law annealing cannot be "
            "known; add a run whose rate decays"
        )
    rising = [curve.name for curve in curves if _rises(curve)]
    if len(rising) == len(curves):
        raise FitError(f"{_named(rising)}: the loss does not fall along the curve")
    if sized:
        sizes = count_distinct(np.array([curve.parameters for curve in curves], float))
        if sizes < LEAST_SIZES:
            raise FitError(
                f"law annealing over sizes needs at least {LEAST_SIZES} different N, the runs have "
                f"{sizes}; leave --n out and fit runs of one size, or name sizes by --group"
            )


def _rises(curve: Curve) -> bool:
    after = curve.loss[curve.steps > curve.warmup]
    third = max(1, len(after) // 3)
    return float(after[-third:].mean()) >= float(after[:third].mean())


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) + (f", ... ({len(names)} runs)" if len(names) > 8 else "")
    return f"run {shown}" if len(names) == 1 else f"runs {shown}"


def correlation_of(residual: Array, points: CurvePoints) -> float:
    """Correlation of neighbouring residuals of one run, between 0 and 0.98."""
    same = points.run[1:] == points.run[:-1]
    product = float((residual[1:] * residual[:-1])[same].sum())
    square = float(0.5 * (residual[1:] ** 2 + residual[:-1] ** 2)[same].sum())
    return float(np.clip(product / max(square, 1e-300), 0.0, STRONGEST))


def common_scatter(fit: Fit, points: CurvePoints) -> float:
    """Standard deviation of log loss that the points of a run share; NaN below five runs."""
    if len(np.unique(points.run)) < LEAST_RUNS:
        return float("nan")
    return variance_components(fit, points.run).common_sd


def refits_of(
    found: CurveFit, samples: int, seed: int, *, progress: Progress | None = None
) -> Refits:
    """Refits of losses simulated round the fit: noise whose neighbours are correlated as the
    residuals are, and where there are five runs or more what each has in common. The scatter is
    known from so many independent points only: it is drawn too (Student's t)."""
    fit, points = found.fit, found.points
    generator = np.random.default_rng(seed)
    expected, rho = np.log(fit.loss(points)), found.correlation
    runs = len(np.unique(points.run))
    independent = len(points) * (1 - rho) / (1 + rho)
    own_freedom = max(1.0, independent - len(fit.theta))
    own = fit.diagnostics.residual_sd * scatter_factors(own_freedom, samples, generator)
    common = np.zeros((samples, 1))
    if np.isfinite(found.common_sd) and found.common_sd > 0:
        common = found.common_sd * scatter_factors(max(1.0, runs - 1.0), samples, generator)
    parts = [np.empty((0, len(fit.theta)))]
    for first in range(0, samples, CHUNK):
        here = slice(first, min(first + CHUNK, samples))
        count = len(own[here])
        noise = own[here] * correlated(points, rho, count, generator)
        noise += (common[here] * generator.standard_normal((count, runs)))[:, points.run]
        drawn = Resampled(np.ones((count, len(points))), expected + noise)
        start = np.tile(fit.theta, (count, 1))
        parts.append(solve(fit.law, points, start, estimator=fit.estimator, data=drawn).theta)
        if progress is not None:
            progress(first + count, samples)
    return Refits(fit, np.concatenate(parts), fit.diagnostics.residual_sd)


def correlated(
    points: CurvePoints, rho: float, count: int, generator: np.random.Generator
) -> Array:
    """Noise of variance 1 (count, n) whose neighbours along a run are correlated by rho."""
    noise = generator.standard_normal((count, len(points)))
    for number in np.unique(points.run):
        mine = np.flatnonzero(points.run == number)
        drawn = noise[:, mine]
        drawn[:, 1:] *= np.sqrt(1 - rho**2)
        noise[:, mine] = lfilter([1.0], [1.0, -rho], drawn, axis=1)
    return noise
