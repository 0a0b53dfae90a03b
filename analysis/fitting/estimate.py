"""Fitting a law to points: estimators, many starts, and what to think of the result."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress
from scipy.stats import t as student_t

from analysis.fitting.constraints import (
    FREE,
    ConstrainedLaw,
    Constraints,
    constrained,
    inner_names,
)
from analysis.fitting.law import Array, Inputs, Law, predicted
from analysis.fitting.laws import LAWS
from analysis.fitting.power_law import PowerLaw, variable_projection
from analysis.fitting.solver import Resampled, Solutions, minimise
from cola.errors import FitError

HUBER_DELTA = 1e-3  # of log loss (arXiv 2203.15556, section D.2)
# Huber thresholds that an estimator passes through; each starts where the one before ended. A Huber
# density whose scale is free too (arXiv 2404.10102) has its threshold at delta times its scale,
# some 1e-9 here: least absolute deviations, which the last threshold approximates.
ESTIMATORS: dict[str, tuple[float, ...]] = {
    "huber": (np.inf, HUBER_DELTA),
    "least-squares": (np.inf,),
    "huber-density": (np.inf, HUBER_DELTA, 1e-4, 1e-5, 1e-6),
    "variable-projection": (),
}
STARTS = 64  # chosen: random starts of a fit
AGREES = 1e-6  # relative difference of objectives that counts as the same optimum
# Chosen values above or below which a warning is due.
FEW_AGREE, FAR_FROM_REST, ILL_CONDITIONED = 0.1, 0.01, 1e10
RESOLVED = 1e-6  # chosen: scatter of log loss below which data count as noiseless
# Chosen: N and D that keep this close to one line (sd across it over the sd along it) grow
# together; with fewer sizes than that at each amount of compute also those that keep this close in
# logs: optima of budgets, which scatter by up to about 10%.
LINE_SHARE, LINE_WIDTH, FEW_SIZES = 0.03, 0.25, 3
REPEATED, LEAST_REPEATED = 1.5, 4  # chosen: epochs that count as repeated data, and runs of them
DECAYS = ("R_D", "R_N")
NEAR_LINE = 0.25  # chosen: share below which a table of one size a budget may be one of optima


@dataclass(frozen=True)
class Diagnostics:
    """How the optimum was found. distance_to_rest: the Newton step left, in standard errors.
    condition: of the Gauss-Newton matrix, columns scaled to 1. residual_sd: of log residuals,
    degrees of freedom taken out."""

    starts: int
    agreeing_starts: float
    distance_to_rest: float
    condition: float
    residual_sd: float
    objective: float


@dataclass(frozen=True)
class Fit:
    """A fitted law. `theta`: internal parameters (P,)."""

    law: Law
    theta: Array
    points: Inputs
    estimator: str
    diagnostics: Diagnostics
    warnings: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> dict[str, float]:
        """By name, in the units of the data."""
        values = self.law.public(self.theta[None])[0]
        return {name: float(value) for name, value in zip(self.law.names, values, strict=True)}

    @property
    def is_sized(self) -> bool:
        """Whether the law takes parameters and tokens."""
        return is_sized(self.law.name)

    def loss(self, points: Inputs) -> Array:
        """Predicted loss (n,)."""
        return predicted(self.law, self.theta[None], points)[0]

    @property
    def residual(self) -> Array:
        """log predicted - log measured, (n,)."""
        return np.log(self.loss(self.points)) - np.log(self.points.loss)


def fit_law(
    name: str,
    points: Inputs,
    estimator: str = "huber",
    *,
    starts: int = STARTS,
    seed: int = 0,
    law: Law | None = None,
    constraints: Constraints = FREE,
    also: Array | None = None,
) -> Fit:
    """The best optimum over many starts; `also`: (k, P) starts beside the random ones.

    Raises:
        FitError: for data that cannot carry the law, or constraints that the law does not take.
    """
    check(name, points, constraints)
    bound: Law = constrained(LAWS[name].make(points), constraints) if law is None else law
    start = bound.starts(points, starts, np.random.default_rng(seed))
    if also is not None:
        start = np.concatenate([start, also])
    solutions = solve(bound, points, start, estimator=estimator)
    best = int(solutions.objective.argmin())
    return assess(bound, points, estimator, solutions=solutions, best=best, start=start[best])


def solve(
    law: Law, points: Inputs, start_BP: Array, *, estimator: str, data: Resampled | None = None
) -> Solutions:
    """The estimator's optimum from every start (or for every resampled problem).

    Raises:
        FitError: variable projection of a law that has no linear parameters, or of resampled data.
    """
    if estimator == "variable-projection":
        if not isinstance(law, PowerLaw) or data is not None:
            raise FitError(f"variable projection does not go with law {law.name} here")
        # It minimises relative errors: judged by its own objective.
        theta = variable_projection(law, points, start_BP[:8])
        error = predicted(law, theta, points) / points.loss - 1
        return Solutions(theta, 0.5 * (error**2).sum(1), np.zeros(len(theta)))
    theta = start_BP
    steps = ESTIMATORS[estimator]
    if data is not None:
        steps = steps[1:] or steps  # refits start at an optimum already
    for delta in steps:
        solutions = minimise(law, points, theta, delta=delta, data=data)
        theta = solutions.theta
    return solutions


def assess(
    law: Law, points: Inputs, estimator: str, *, solutions: Solutions, best: int, start: Array
) -> Fit:
    """The best solution with its diagnostics and warnings."""
    theta, objective = solutions.theta[best], float(solutions.objective[best])
    log_loss, slope = law.log_loss(theta[None], points)
    residual = log_loss - np.log(points.loss)
    free = max(1, len(points) - len(theta))
    last = (ESTIMATORS[estimator] or (np.inf,))[-1]
    columns = slope[0] / np.maximum(np.linalg.norm(slope[0], axis=0), 1e-300)
    diagnostics = Diagnostics(
        starts=len(solutions.objective),
        agreeing_starts=float((solutions.objective <= objective * (1 + AGREES) + 1e-15).mean()),
        distance_to_rest=distance_to_rest(law, theta, residual[0], slope=slope[0], delta=last),
        condition=float(np.linalg.cond(columns.T @ columns)),
        residual_sd=float(np.sqrt((residual**2).sum() / free)),
        objective=objective,
    )
    fit = Fit(law, theta, points, estimator, diagnostics)
    return Fit(law, theta, points, estimator, diagnostics, tuple(warnings(fit, start)))


def distance_to_rest(
    law: Law, theta: Array, residual: Array, *, slope: Array, delta: float
) -> float:
    """Length of the Newton step that is left at (P,) `theta`, in standard errors: 0 at an optimum.

    Residuals (n,) are judged against their own scatter, or against what counts as noiseless: a
    gradient over an objective of almost nothing says nothing. Parameters on a bound do not count.
    """
    free = ~at_bounds(law, theta)
    jacobian = slope[:, free]
    pull = np.clip(residual, -delta, delta)
    gradient = jacobian.T @ pull
    inside = np.abs(residual) <= delta
    # Where few points bend Huber's loss its curvature is not known: the reweighted one bounds it.
    weight = np.where(inside, 1.0, delta / np.maximum(np.abs(residual), 1e-300))
    curvature = (jacobian * weight[:, None]).T @ jacobian
    left = float(gradient @ np.linalg.pinv(curvature, rcond=1e-12, hermitian=True) @ gradient)
    scatter = max(float(np.sqrt((pull**2).mean())), min(RESOLVED, delta))
    return float(np.sqrt(max(0.0, left))) / scatter


def warnings(fit: Fit, start: Array) -> list[str]:
    """What a reader must know before quoting the fit."""
    messages, diagnostics = [], fit.diagnostics
    messages += [bound_note(fit, name) for name in on_bounds(fit.law, fit.theta)]
    still = np.flatnonzero(fit.theta == start)
    inside = [i for i in still if not at_bounds(fit.law, fit.theta)[i]]
    if inside and diagnostics.residual_sd > RESOLVED and fit.estimator != "variable-projection":
        messages.append("some parameters have not moved from where the search began")
    if diagnostics.agreeing_starts < FEW_AGREE:
        messages.append(f"only {diagnostics.agreeing_starts:.0%} of the starts reach this optimum")
    if diagnostics.distance_to_rest > FAR_FROM_REST and fit.estimator != "variable-projection":
        messages.append(
            "the search did not come to rest: the next step would be "
            f"{diagnostics.distance_to_rest:.2g} standard errors"
        )
    if diagnostics.condition > ILL_CONDITIONED:
        messages.append("parameters trade off against each other almost freely (ill-conditioned)")
    if fit.law.name == "compute-power":
        messages.append("a power law without a floor falls to 0: it must not be extrapolated far")
    if fit.is_sized and near_a_line(fit.points):
        messages.append(
            "nearly one size at each amount of compute: if the rows are the optima of their "
            "budgets, this law does not fit them (their losses are of the best size, not of the "
            "size that is given); fit law compute"
        )
    return messages


def is_sized(name: str) -> bool:
    """Whether a law by this name takes parameters and tokens."""
    return name in LAWS and LAWS[name].needs_size


def bound_note(fit: Fit, name: str) -> str:
    """What it means that a parameter sits on its bound: E on the upper one is a misfit."""
    index = inner_names(fit.law).index(name)
    low, high = (side[index] for side in fit.law.bounds)
    above = abs(fit.theta[index] - high) < abs(fit.theta[index] - low)
    own = isinstance(fit.law, ConstrainedLaw) and name in fit.law.bounded
    if name.startswith("E") and above and not own:
        return (
            f"{name} sits on its upper bound, the smallest measured loss: the losses end in a "
            "level that this law does not fit, its other parameters mean nothing"
        )
    if isinstance(fit.law, ConstrainedLaw) and name in fit.law.bounded:
        return f"{name} sits on the bound that --bound gives it: its interval ends there"
    if name in DECAYS:
        return f"{name} sits on its bound: the data show no such decay, or too little of it"
    return f"{name} sits on its bound: the data do not decide it"


def on_bounds(law: Law, theta: Array) -> list[str]:
    """Names of the parameters at the edge of what the law allows."""
    names = inner_names(law)
    return [names[i] for i in np.flatnonzero(at_bounds(law, theta)) if i < len(names)]


def at_bounds(law: Law, theta: Array) -> NDArray[np.bool_]:
    low, high = law.bounds
    near = 1e-6 * np.maximum(1.0, np.abs(high - low))
    return np.asarray((theta - low < near) | (high - theta < near))


def check(name: str, points: Inputs, constraints: Constraints = FREE) -> None:
    """Check that these points determine the law, or what constraints leave of it.

    Raises:
        FitError: a column is missing or not positive, too few points differ, or the loss does not
            fall.
    """
    columns = {"loss": points.loss, "compute": points.compute}
    if LAWS[name].needs_size:
        if points.parameters is None or points.tokens is None:
            raise FitError(
                f"law {name} needs the number of parameters and of tokens of each point; give "
                "them, or fit law compute"
            )
        columns |= {"parameters": points.parameters, "tokens": points.tokens}
    if LAWS[name].needs_unique:
        columns |= {"unique tokens": _repeated_tokens(name, points)}
    for column, values in columns.items():
        wrong = int((~(np.isfinite(values) & (values > 0))).sum())
        if wrong:
            raise FitError(f"{wrong} values of {column} are missing or not positive numbers")
    if LAWS[name].needs_size:
        _check_plane(name, points, constraints)
    else:
        _check_line(name, points, constraints)


def _repeated_tokens(name: str, points: Inputs) -> Array:
    """Unique tokens of each point.

    Raises:
        FitError: too few points repeat their data for the law to be about them.
    """
    if points.unique is None or points.tokens is None:
        raise FitError(
            f"law {name} needs the unique tokens of each point's data (--unique); give their "
            "column, or fit law chinchilla"
        )
    times = points.tokens / points.unique
    repeated, different = int((times > REPEATED).sum()), count_distinct(times[times > REPEATED])
    if repeated < LEAST_REPEATED or different < 2:
        raise FitError(
            f"law {name} needs at least {LEAST_REPEATED} points with more than {REPEATED:g} epochs "
            f"over their unique tokens, of different numbers of epochs; these are {repeated}, of "
            f"{different}. Add such runs, or fit law chinchilla"
        )
    return points.unique


def _check_line(name: str, points: Inputs, constraints: Constraints) -> None:
    budgets = count_distinct(points.compute)
    least = max(2, LAWS[name].least_budgets - len(constraints.pinned))
    if budgets < least:
        raise FitError(
            f"law {name} needs at least {least} different amounts of compute, the data have "
            f"{budgets}; add budgets, or fit another law"
        )
    slope = np.polyfit(np.log(points.compute), np.log(points.loss), 1)[0]
    if slope >= 0:
        raise FitError("the loss does not fall with compute: there is no scaling law to fit")


def _check_plane(name: str, points: Inputs, constraints: Constraints) -> None:
    parameters, tokens = points.sizes()
    logs = np.log(np.stack([parameters, tokens], axis=1))
    different = len(np.unique(np.round(logs, 2), axis=0))
    free = len(LAWS[name].make(points).names) - len(constraints.pinned)
    if different < free + 1:
        raise FitError(
            f"law {name} has {free} free parameters and needs at least {free + 1} different pairs "
            f"of parameters and tokens, the data have {different}; add runs of other sizes, or fit "
            "law compute"
        )
    for column, values in (("parameters", parameters), ("tokens", tokens)):
        if count_distinct(values) < 2:
            raise FitError(
                f"all points have the same {column} ({values[0]:.4g}): law {name} needs them to "
                "differ; fit law compute"
            )
    along, across = spread_of_sizes(points)
    optima = sizes_at_once(points) < FEW_SIZES and across < LINE_WIDTH
    if optima or across < LINE_SHARE * along:
        raise FitError(
            f"parameters and tokens grow together in these data (they keep within "
            f"{np.expm1(across):.0%} of one line): their effects cannot be separated. Add other "
            f"sizes at the same budget, or fit law compute. {optima_exponents(points)}"
        )
    design = np.column_stack([np.ones(len(logs)), logs])
    slopes = np.linalg.lstsq(design, np.log(points.loss), rcond=None)[0][1:]
    if (slopes >= 0).all():
        raise FitError("the loss falls neither with parameters nor with tokens")


def spread_of_sizes(points: Inputs) -> tuple[float, float]:
    """Standard deviations of (log N, log D) along their main direction and across it."""
    logs = np.log(np.stack(points.sizes(), axis=1))
    spread = np.linalg.svd(logs - logs.mean(0), compute_uv=False) / np.sqrt(len(logs) - 1)
    return float(spread[0]), float(spread[1])


def sizes_at_once(points: Inputs) -> float:
    """Different pairs of N and D for each different amount (within about 10%) of compute."""
    pairs = np.unique(np.round(np.log(np.stack(points.sizes(), axis=1)), 2), axis=0)
    return len(pairs) / len(np.unique(np.round(np.log(points.compute), 1)))


def near_a_line(points: Inputs) -> bool:
    """Whether the points have one size an amount of compute and keep near one line."""
    along, across = spread_of_sizes(points)
    return across < NEAR_LINE * along and sizes_at_once(points) < FEW_SIZES / 2


def optima_exponents(points: Inputs) -> str:
    """If the rows are optima of budgets: exponents of N* and D* in compute, with 95% intervals."""
    if count_distinct(points.compute) < 3:
        return ""
    logs, found = np.log(points.compute), []
    for name, values in zip(("N ~ C^", "D ~ C^"), points.sizes(), strict=True):
        line = linregress(logs, np.log(values))
        half = float(student_t.ppf(0.975, len(logs) - 2)) * line.stderr
        low, high = line.slope - half, line.slope + half
        found.append(f"{name}{line.slope:.4g} [{low:.4g}, {high:.4g}]")
    return f"If these are the optima of budgets, they grow as {', '.join(found)} (log regression)."


def count_distinct(values: Array) -> int:
    """How many amounts differ by more than about 1%."""
    return len(np.unique(np.round(np.log(values), 2)))
