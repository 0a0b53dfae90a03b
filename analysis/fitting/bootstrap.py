"""Uncertainty: refits of resampled runs, bands, and the delta method as a cross-check.

K refits, n points, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.choices import Kind, Progress
from analysis.fitting.estimate import HUBER_DELTA, Fit, at_bounds, solve
from analysis.fitting.law import Array, Inputs, predicted
from analysis.fitting.solver import Resampled

LEVEL = 0.95
# The k-th of K refits is taken for the quantile k / (K + 1), beyond which a further one lies as
# often as that says; numpy's own ranks make intervals of 200 refits hold 94%.
RANK: Literal["weibull"] = "weibull"
CHUNK_NUMBERS = 2_000_000  # chosen: entries of one (refits, n, P) array; about ten live at once


@dataclass(frozen=True)
class Refits:
    """Internal parameters of the refits (K, P), and the noise of single points in log loss.

    misfit: what predictions of larger budgets have erred by beyond what the refits and the noise
    explain; None where that was not, or could not be, tested. level: the share that intervals and
    bands are to hold.
    """

    fit: Fit
    theta_KP: Array
    noise: float
    misfit: Misfit | None = None
    level: float = LEVEL

    @property
    def public(self) -> Array:
        """(K, number of names) in the units of the data."""
        return self.fit.law.public(self.theta_KP)

    def intervals(self, level: float | None = None) -> dict[str, tuple[float, float]]:
        """Of every parameter, by name."""
        columns = zip(self.fit.law.names, self.public.T, strict=True)
        return {name: percentiles(column, level or self.level) for name, column in columns}

    def confidence_band(self, points: Inputs, level: float | None = None) -> tuple[Array, Array]:
        """Where the curve may lie, at these points."""
        return _band(predicted(self.fit.law, self.theta_KP, points), level or self.level)

    def prediction_band(
        self, points: Inputs, seed: int = 0, level: float | None = None
    ) -> tuple[Array, Array]:
        """Where a new run may lie: the curve's uncertainty, a run's own noise and, beyond the
        data, the law's misfit."""
        loss_Kn = predicted(self.fit.law, self.theta_KP, points)
        centre = self.fit.loss(points)
        return self.new_run_band(centre, loss_Kn, points.compute, seed=seed, level=level)

    def new_run_band(
        self,
        centre: Array,
        loss_Kn: Array,
        compute: Array,
        *,
        seed: int = 0,
        level: float | None = None,
    ) -> tuple[Array, Array]:
        """The same round predictions (n,) whose refits (K, n) are known, at these FLOPs."""
        level = level or self.level
        low, high = _band(self.new_runs(loss_Kn, seed), level)
        # Draws are finite: a run adds its noise to the curve's doubt, and never takes from it.
        of_curve = _band(loss_Kn, level)
        low, high = np.minimum(low, of_curve[0]), np.maximum(high, of_curve[1])
        if self.misfit is not None:
            times = self.misfit.widening(compute / self.fit.points.compute.max())
            low = centre * np.exp(-times * np.maximum(0.0, np.log(centre / low)))
            high = centre * np.exp(times * np.maximum(0.0, np.log(high / centre)))
        return low, high

    def new_runs(self, loss_Kn: Array, seed: int = 0) -> Array:
        """Losses of a run at each refit's curve. The noise is known from these points only: its
        scatter is drawn too (Student's t). A refit's draw is the same at all points, so that bands
        along a curve are smooth."""
        generator = np.random.default_rng(seed)
        drawn = generator.standard_normal((len(loss_Kn), 1))
        scatter = scatter_factors(_freedom(self.fit), len(loss_Kn), generator)
        return np.asarray(loss_Kn * np.exp(self.noise * scatter * drawn))


@dataclass(frozen=True)
class Misfit:
    """How much wider than they claim the prediction bands of a law had to be.

    The law was fitted to the smaller budgets and judged on all larger ones, split by split. times:
    the factor on the band (of log loss) with which it holds 95% of those points in every split, and
    no less than so few splits allow. held: the share that the bands held as they were. horizon: log
    of how far beyond their data the points lay, in the median.
    """

    times: float
    held: float
    folds: int
    points: int
    horizon: float

    def widening(self, extrapolation: Array) -> Array:
        """Factor on the band at these multiples of the largest compute: 1 inside the data, the
        whole of it from the horizon on."""
        share = np.log(np.maximum(1.0, extrapolation)) / max(self.horizon, 1e-9)
        return np.asarray(1 + (self.times - 1) * np.minimum(1.0, share))


def bootstrap(
    fit: Fit,
    samples: int,
    seed: int,
    *,
    kind: Kind = "runs",
    strata: Sequence[object] | None = None,
    clusters: Sequence[object] | None = None,
    progress: Progress | None = None,
) -> Refits:
    """Refit resampled data, each refit starting from the fit.

    `runs`: runs are drawn with replacement within their stratum (a budget), so that every refit has
    all budgets; points of one cluster (a run, or a seed's runs) are drawn together. It assumes
    nothing of the noise, and needs many runs. `residuals`: losses are simulated from the fit with
    its own scatter. It assumes that the law holds and noise is alike everywhere, and serves a
    handful of runs too; points of one cluster share a part of their noise, as their residuals do.
    Variable projection is refitted by least squares of log loss, which it approximates.

    Refits are solved in chunks, so that memory does not grow with their number; the chunks do not
    change the draws.
    """
    count = len(fit.points)
    draw = (
        simulated_losses(fit, samples, seed, clusters=clusters)
        if kind == "residuals"
        else resampled_runs(count, seed, strata=strata, clusters=clusters)
    )
    estimator = "least-squares" if fit.estimator == "variable-projection" else fit.estimator
    size = max(1, CHUNK_NUMBERS // (count * len(fit.theta)))
    parts = [np.empty((0, len(fit.theta)))]
    for first in range(0, samples, size):
        here = min(size, samples - first)
        start = np.tile(fit.theta, (here, 1))
        parts.append(solve(fit.law, fit.points, start, estimator=estimator, data=draw(here)).theta)
        if progress is not None:
            progress(first + here, samples)
    return Refits(fit, np.concatenate(parts), fit.diagnostics.residual_sd)


Draw = Callable[[int], Resampled]  # the next so many refits' data, in the stream's order


def simulated_losses(
    fit: Fit, samples: int, seed: int, *, clusters: Sequence[object] | None = None
) -> Draw:
    """Log losses drawn round the fit: each point's noise and, of clusters, a part in common."""
    generator, count = np.random.default_rng(seed), len(fit.points)
    expected = np.log(fit.loss(fit.points))
    if clusters is None:
        # The scatter is known from few runs only: it is drawn too (Student's t, not normal).
        freedom = _freedom(fit)
        own_sd = fit.diagnostics.residual_sd * scatter_factors(freedom, samples, generator)
        common_sd, number = None, np.zeros(count, int)
    else:
        number = _label_numbers(clusters)
        parts = variance_components(fit, number)
        own_sd = parts.own_sd * scatter_factors(parts.own_freedom, samples, generator)
        common_sd = parts.common_sd * scatter_factors(parts.common_freedom, samples, generator)
    of_clusters = np.random.default_rng([seed, 1])
    done = 0

    def draw(here: int) -> Resampled:
        nonlocal done
        mine = slice(done, done + here)
        done += here
        losses = expected + own_sd[mine] * generator.standard_normal((here, count))
        if common_sd is not None:
            shift = of_clusters.standard_normal((here, int(number.max()) + 1))
            losses += (common_sd[mine] * shift)[:, number]
        return Resampled(np.ones((here, count)), losses)

    return draw


@dataclass(frozen=True)
class Components:
    """Standard deviations of log loss: of a point alone and of what its cluster has in common, each
    with the degrees of freedom that it is known from."""

    own_sd: float
    own_freedom: float
    common_sd: float
    common_freedom: float


def variance_components(fit: Fit, number: NDArray[np.int64]) -> Components:
    """The residuals' scatter within and between clusters, by the method of moments.

    The fit has absorbed a part of both: with residuals r = (I - H) e the mean squares r'r and
    r'Mr (M: means by cluster) are set equal to what e = own + common noise makes of them.
    """
    slope = fit.law.log_loss(fit.theta[None], fit.points)[1][0]
    free = ~at_bounds(fit.law, fit.theta)
    basis = np.linalg.qr(slope[:, free])[0]
    count, size = len(number), np.bincount(number)
    sums = np.stack([np.bincount(number, weights=column) for column in basis.T])  # H Z, (P, m)
    of_means = sums / np.sqrt(size)
    own_between = len(size) - float((of_means**2).sum())  # tr M (I - H)
    common_all = count - float((sums**2).sum())
    common_between = common_all - float((sums**2).sum())
    common_between += float(((of_means @ of_means.T) * (sums @ sums.T)).sum())
    own_all = max(1.0, float(count - basis.shape[1]))
    residual = fit.residual
    squares = float((residual**2).sum())
    between = float((np.bincount(number, weights=residual) ** 2 / size).sum())
    system = np.array([[own_all, common_all], [own_between, common_between]])
    if own_between < 1e-6 or abs(np.linalg.det(system)) < 1e-9 * common_all * own_all:
        own, common = squares / own_all, 0.0
    else:
        own, common = np.linalg.solve(system, [squares, between])
        if common <= 0:
            own, common = squares / own_all, 0.0
        elif own <= 0:
            own, common = 0.0, between / max(common_between, 1e-300)
    return Components(
        float(np.sqrt(own)),
        max(1.0, own_all - own_between),
        float(np.sqrt(common)),
        max(1.0, own_between),
    )


def _freedom(fit: Fit) -> int:
    return max(1, len(fit.points) - len(fit.theta))


def scatter_factors(freedom: float, samples: int, generator: np.random.Generator) -> Array:
    """Factors (samples, 1) on a scatter that so many degrees of freedom have estimated: with them
    normal noise is Student's t."""
    return np.asarray(np.sqrt(freedom / generator.chisquare(freedom, (samples, 1))))


def resampled_runs(
    count: int,
    seed: int,
    *,
    strata: Sequence[object] | None = None,
    clusters: Sequence[object] | None = None,
) -> Draw:
    """Weights of points drawn with replacement.

    Of m clusters in a stratum m - 1 are drawn and weigh m / (m - 1) each (Rao and Wu's rescaling):
    drawing m would make the scatter too small by that factor, which matters for two or three seeds.
    One cluster alone is always there: its noise cannot be known.
    """
    cluster = _label_numbers(clusters if clusters is not None else range(count))
    stratum = _label_numbers(strata if strata is not None else [0] * count)
    first_of = np.unique(cluster, return_index=True)[1]
    stratum_of_cluster = stratum[first_of]
    members = [np.flatnonzero(stratum_of_cluster == s) for s in np.unique(stratum_of_cluster)]
    # A stream for each stratum: how many are drawn at once changes nothing.
    streams = [np.random.default_rng([seed, k] if k else seed) for k in range(len(members))]

    def draw(here: int) -> Resampled:
        weights = np.ones((here, len(first_of)))
        for mine, stream in zip(members, streams, strict=True):
            size = len(mine)
            if size > 1:
                drawn = stream.multinomial(size - 1, np.full(size, 1 / size), here)
                weights[:, mine] = drawn * size / (size - 1)
        return Resampled(weights[:, cluster])

    return draw


def resampling_weights(
    count: int,
    samples: int,
    seed: int,
    *,
    strata: Sequence[object] | None = None,
    clusters: Sequence[object] | None = None,
) -> Array:
    """(samples, count): weight of each point, see `resampled_runs`."""
    return resampled_runs(count, seed, strata=strata, clusters=clusters)(samples).weights


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
    low, high = np.percentile(finite, [tail, 100 - tail], method=RANK)
    return float(low), float(high)


def _band(loss_Kn: Array, level: float) -> tuple[Array, Array]:
    tail = 50 * (1 - level)
    low, high = np.percentile(loss_Kn, [tail, 100 - tail], axis=0, method=RANK)
    return low, high


def _label_numbers(labels: Sequence[object]) -> NDArray[np.int64]:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])
