"""Uncertainty: refits of resampled runs, bands, and the delta method as a cross-check.

K refits, n points, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.estimate import HUBER_DELTA, Fit, solve
from analysis.fitting.law import Array, Inputs, predicted
from analysis.fitting.solver import Resampled

LEVEL = 0.95
Kind = Literal["runs", "residuals"]


@dataclass(frozen=True)
class Refits:
    """Internal parameters of the refits (K, P), and the noise of single points in log loss."""

    fit: Fit
    theta_KP: Array
    noise: float

    @property
    def public(self) -> Array:
        """(K, number of names) in the units of the data."""
        return self.fit.law.public(self.theta_KP)

    def interval(self, values_K: Array, level: float = LEVEL) -> tuple[float, float]:
        """Percentile interval of a number computed from every refit."""
        return percentiles(values_K, level)

    def intervals(self, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Of every parameter, by name."""
        columns = zip(self.fit.law.names, self.public.T, strict=True)
        return {name: self.interval(column, level) for name, column in columns}

    def confidence_band(self, points: Inputs, level: float = LEVEL) -> tuple[Array, Array]:
        """Where the curve may lie, at these points."""
        return _band(predicted(self.fit.law, self.theta_KP, points), level)

    def prediction_band(
        self, points: Inputs, seed: int = 0, level: float = LEVEL
    ) -> tuple[Array, Array]:
        """Where a new run may lie: the curve's uncertainty and a run's own noise."""
        loss_Kn = predicted(self.fit.law, self.theta_KP, points)
        drawn = np.random.default_rng(seed).standard_normal(loss_Kn.shape)
        return _band(loss_Kn * np.exp(self.noise * drawn), level)


def bootstrap(
    fit: Fit,
    samples: int,
    seed: int,
    *,
    kind: Kind = "runs",
    strata: Sequence[object] | None = None,
    clusters: Sequence[object] | None = None,
) -> Refits:
    """Refit resampled data, each refit starting from the fit.

    `runs`: runs are drawn with replacement within their stratum (a budget), so that every refit has
    all budgets; points of one cluster (a run, or a seed's runs) are drawn together. It assumes
    nothing of the noise, and needs many runs. `residuals`: losses are simulated from the fit with
    its own scatter. It assumes that the law holds and noise is alike everywhere, and serves a
    handful of runs too. Variable projection is refitted by least squares of log loss, which it
    approximates.
    """
    count, start = len(fit.points), np.tile(fit.theta, (samples, 1))
    if kind == "residuals":
        generator = np.random.default_rng(seed)
        # The scatter is known from few runs only: it is drawn too (Student's t instead of normal).
        freedom = max(1, count - len(fit.theta))
        scatter = fit.diagnostics.residual_sd * np.sqrt(
            freedom / generator.chisquare(freedom, (samples, 1))
        )
        drawn = scatter * generator.standard_normal((samples, count))
        losses = np.log(fit.loss(fit.points)) + drawn
        data = Resampled(np.ones((samples, count)), losses)
    else:
        data = Resampled(resampling_weights(count, samples, seed, strata=strata, clusters=clusters))
    estimator = "least-squares" if fit.estimator == "variable-projection" else fit.estimator
    solutions = solve(fit.law, fit.points, start, estimator=estimator, data=data)
    return Refits(fit, solutions.theta, fit.diagnostics.residual_sd)


def resampling_weights(
    count: int,
    samples: int,
    seed: int,
    *,
    strata: Sequence[object] | None = None,
    clusters: Sequence[object] | None = None,
) -> Array:
    """(samples, count): weight of each point.

    Of m clusters in a stratum m - 1 are drawn and weigh m / (m - 1) each (Rao and Wu's rescaling):
    drawing m would make the scatter too small by that factor, which matters for two or three seeds.
    One cluster alone is always there: its noise cannot be known.
    """
    generator = np.random.default_rng(seed)
    cluster = _label_numbers(clusters if clusters is not None else range(count))
    stratum = _label_numbers(strata if strata is not None else [0] * count)
    first_of = np.unique(cluster, return_index=True)[1]
    stratum_of_cluster = stratum[first_of]
    weights = np.ones((samples, len(first_of)))
    for number in np.unique(stratum_of_cluster):
        mine = np.flatnonzero(stratum_of_cluster == number)
        size = len(mine)
        if size > 1:
            drawn = generator.multinomial(size - 1, np.full(size, 1 / size), samples)
            weights[:, mine] = drawn * size / (size - 1)
    return weights[:, cluster]


def delta_method(fit: Fit) -> dict[str, float]:
    """Standard errors by the sandwich H^-1 (sum psi^2 J J^T) H^-1, in the units of the data.

    Of Huber's loss only points within delta bend H, so it is rough where those are few.
    """
    log_loss, slope = fit.law.log_loss(fit.theta[None], fit.points)
    residual, jacobian = log_loss[0] - np.log(fit.points.loss), slope[0]
    delta = np.inf if fit.estimator in ("least-squares", "variable-projection") else HUBER_DELTA
    inside = np.abs(residual) <= delta
    if not inside.any():
        return {}
    hessian = (jacobian * inside[:, None]).T @ jacobian
    pull = np.clip(residual, -delta, delta)
    meat = (jacobian * (pull**2)[:, None]).T @ jacobian
    inverse = np.linalg.pinv(hessian)
    covariance = inverse @ meat @ inverse
    small = 1e-5
    steps = small * np.eye(len(fit.theta))
    ahead, behind = (fit.law.public(fit.theta + sign * steps) for sign in (1, -1))
    gradient = (ahead - behind).T / (2 * small)  # (names, P)
    variance = np.einsum("ij,jk,ik->i", gradient, covariance, gradient)
    return {
        name: float(np.sqrt(max(0.0, value)))
        for name, value in zip(fit.law.names, variance, strict=True)
    }


def seed_noise(loss: Array, repeats: Sequence[object]) -> tuple[float, int] | None:
    """Standard deviation of log loss between repeats of one specification, pooled, and its degrees
    of freedom; None where nothing was repeated."""
    number = _label_numbers(repeats)
    squares, freedom = 0.0, 0
    for group in np.unique(number):
        logs = np.log(loss[number == group])
        squares += float(((logs - logs.mean()) ** 2).sum())
        freedom += len(logs) - 1
    return (float(np.sqrt(squares / freedom)), freedom) if freedom else None


def percentiles(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Central interval; NaN where over a tenth of the refits found nothing, or none is there."""
    tail = 50 * (1 - level)
    finite = values[np.isfinite(values)]
    if not len(finite) or len(finite) < 0.9 * len(values):
        return (float("nan"), float("nan"))
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)


def _band(loss_Kn: Array, level: float) -> tuple[Array, Array]:
    tail = 50 * (1 - level)
    low, high = np.percentile(loss_Kn, [tail, 100 - tail], axis=0)
    return low, high


def _label_numbers(labels: Sequence[object]) -> NDArray[np.int64]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])
