"""L = E + K C^-gamma of every family with one floor E: the text's entropy is the same for all.

Families have their own noise; a refit draws each family's losses by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting.bootstrap import Refits, percentiles, resampled_runs, scatter_factors
from analysis.fitting.compare import Estimate
from analysis.fitting.constraints import SharedLaw, shared_law
from analysis.fitting.estimate import Fit, count_distinct, fit_law, solve
from analysis.fitting.frontier import Frontier
from analysis.fitting.law import Array
from analysis.fitting.laws import LAWS
from analysis.fitting.solver import Resampled
from analysis.fitting.table import inputs
from analysis.table_fit.comparison import alone
from cola.errors import FitError

LAW, FLOOR = "compute", "E"
STARTS, FOLD_STARTS = 16, 8  # chosen: random starts of a fit, and of one that is tested
DRAWS, REJECTED = 400, 0.05  # simulations of a test, and the chance below which it rejects
LEAST_BUDGETS, LEAST_FREE = 3, 2  # chosen: of a family; degrees of freedom that are left
SEVERAL = 5  # chosen: runs in every budget from which runs, not residuals, are drawn


@dataclass(frozen=True)
class CommonFloor:
    """The fit of all families, with `frontiers` by family. test: F test of the floor in common,
    None where it cannot be tested."""

    floor: Estimate
    frontiers: Mapping[str, Frontier]
    gammas: Mapping[str, Estimate]
    test: Mapping[str, object] | None

    @property
    def rejected(self) -> bool:
        """Whether the runs reject the floor in common."""
        return self.test is not None and bool(self.test["rejected"])


def common_floor(families: Mapping[str, pd.DataFrame], samples: int, seed: int) -> CommonFloor:
    """Fit families (rows as fits take them: loss, compute, budget) with one floor.

    Raises:
        FitError: there are fewer than two, or their runs do not determine it.
    """
    fit, law = joint_fit(families, STARTS, seed)
    theta = refitted(fit, law, families, samples, seed=seed)
    names = law.names
    drawn = law.public(theta)

    def estimate(name: str) -> Estimate:
        column = names.index(name)
        return Estimate(fit.parameters[name], *percentiles(drawn[:, column]))

    frontiers = {}
    for number, (name, rows) in enumerate(families.items()):
        own = Fit(
            law.base, law.theta_of(fit.theta[None], number)[0], inputs(rows), fit.estimator,
            fit.diagnostics,
        )  # fmt: skip
        noise = float(own_scatter(fit, law)[number])
        frontiers[name] = Frontier(Refits(own, law.theta_of(theta, number), noise))
    gammas = {name: estimate(f"gamma[{name}]") for name in families}
    return CommonFloor(estimate(FLOOR), frontiers, gammas, floor_test(fit, law, seed))


def joint_fit(
    families: Mapping[str, pd.DataFrame], starts: int, seed: int = 0
) -> tuple[Fit, SharedLaw]:
    """The least-squares fit of log loss.

    Raises:
        FitError: there are fewer than two families, or their runs do not determine it.
    """
    if len(families) < 2:
        raise FitError("fewer than two families have a curve")
    for name, rows in families.items():
        compute, loss = (np.log(rows[column].to_numpy(float)) for column in ("compute", "loss"))
        budgets = count_distinct(np.exp(compute))
        if budgets < LEAST_BUDGETS:
            raise FitError(f"{name} has {budgets} budgets, {LEAST_BUDGETS} are needed")
        if np.polyfit(compute, loss, 1)[0] >= 0:
            raise FitError(f"the loss of {name} does not fall with compute")
    rows = pd.concat(families.values(), ignore_index=True)
    group = np.repeat(np.arange(len(families)), [len(each) for each in families.values()])
    points = inputs(rows)
    base = LAWS[LAW].make(points)
    law = shared_law(base, points, group=group, families=tuple(families), shared=(FLOOR,))
    if len(points) - len(law.free_names) < LEAST_FREE:
        raise FitError(f"{len(points)} runs do not determine {len(law.free_names)} parameters")
    return fit_law(LAW, points, "least-squares", starts=starts, seed=seed, law=law), law


def own_scatter(fit: Fit, law: SharedLaw) -> Array:
    """Standard deviation of each family's log loss, its degrees of freedom taken out."""
    squares = np.bincount(law.group, weights=fit.residual**2)
    return np.asarray(np.sqrt(squares / freedom_of(law)))


def freedom_of(law: SharedLaw) -> Array:
    """Degrees of freedom of each family: its runs less two parameters and its part of the floor."""
    count = np.bincount(law.group)
    return np.asarray(np.maximum(1.0, count - 2 - 1 / len(law.families)))


def refitted(
    fit: Fit, law: SharedLaw, families: Mapping[str, pd.DataFrame], samples: int, *, seed: int
) -> Array:
    """Internal parameters of refits (samples, P): runs drawn within budgets where each has several,
    else losses simulated round the fit with every family's own scatter (Student's t)."""
    generator = np.random.default_rng(seed)
    budgets = [list(rows["budget"]) for rows in families.values()]
    several = all(int(pd.Series(each).value_counts().min()) >= SEVERAL for each in budgets)
    if several:
        strata = [(n, budget) for n, each in enumerate(budgets) for budget in each]
        data = resampled_runs(len(fit.points), seed, strata=strata)(samples)
    else:
        losses = simulated(fit, law, samples, generator)
        data = Resampled(np.ones_like(losses), losses)
    start = np.tile(fit.theta, (samples, 1))
    return solve(law, fit.points, start, estimator="least-squares", data=data).theta


def simulated(fit: Fit, law: SharedLaw, samples: int, generator: np.random.Generator) -> Array:
    """Log losses (samples, n) round the fit with every family's own scatter, which is known from
    few runs and drawn too (Student's t)."""
    factors = np.concatenate(
        [scatter_factors(float(each), samples, generator) for each in freedom_of(law)], axis=1
    )
    noise = generator.standard_normal((samples, len(fit.points)))
    scatter = (factors * own_scatter(fit, law))[:, law.group]
    return np.asarray(np.log(fit.loss(fit.points)) + scatter * noise)


def floor_test(fit: Fit, law: SharedLaw, seed: int) -> Mapping[str, object] | None:
    """Whether the runs reject the floor in common against one of each family; None where a family
    has too few budgets for a floor of its own.

    The statistic is that of an F test; its chance is that among losses simulated with the floor in
    common and every family's own scatter, which may differ between families.
    """
    parts = [fit.points.subset(law.group == family) for family in range(len(law.families))]
    try:
        own = [
            fit_law(LAW, part, "least-squares", starts=STARTS, law=alone(law, family))
            for family, part in enumerate(parts)
        ]
    except FitError:
        return None
    free = sum(len(each.theta) for each in own)
    left, fewer = len(fit.points) - free, free - len(fit.theta)
    if left < 1:
        return None
    measured = np.log(fit.points.loss)[None]
    drawn = simulated(fit, law, DRAWS, np.random.default_rng([seed, 2]))
    values = []
    for losses in (measured, drawn):
        common = _objective([fit], [np.arange(len(fit.points))], losses)
        mine = [np.flatnonzero(law.group == family) for family in range(len(own))]
        apart = np.minimum(_objective(own, mine, losses, also=_alone_starts(fit, law)), common)
        values.append((common - apart) / fewer / np.maximum(apart / left, 1e-300))
    ratio = float(values[0][0])
    chance = (1 + float((values[1] >= ratio).sum())) / (1 + DRAWS)
    return {
        "F": ratio,
        "degrees_of_freedom": [fewer, left],
        "p": chance,
        "rejected": chance < REJECTED,
        "meaning": "the floor in common against each family's own, least squares of log loss; p "
        f"from {DRAWS} simulations with every family's own scatter",
    }


def _alone_starts(fit: Fit, law: SharedLaw) -> list[Array]:
    """Each family's parameters in the fit of all, as its own law has them."""
    own = (len(fit.theta) - 1) // len(law.families)
    return [
        np.concatenate([fit.theta[n * own : (n + 1) * own], fit.theta[-1:]])
        for n in range(len(law.families))
    ]


def _objective(
    fits: Sequence[Fit],
    rows: Sequence[NDArray[np.int64]],
    losses: Array,
    *,
    also: Sequence[Array] | None = None,
) -> Array:
    """Sum over fits of the least objective for each row of log losses (K, n); `also`: further
    starts."""
    total = np.zeros(len(losses))
    for at, (fit, mine) in enumerate(zip(fits, rows, strict=True)):
        data = Resampled(np.ones((len(losses), len(mine))), losses[:, mine])
        starts = [fit.theta] if also is None else [fit.theta, also[at]]
        found = [
            solve(
                fit.law, fit.points, np.tile(start, (len(losses), 1)), estimator="least-squares",
                data=data,
            ).objective
            for start in starts
        ]  # fmt: skip
        total += np.min(found, axis=0)
    return total


@dataclass(frozen=True)
class HeldOut:
    """Mean absolute relative errors on each family's next budget, of the same points: with the
    floor in common and with each family's own law."""

    common: float
    own: float
    points: int


def held_out(families: Mapping[str, pd.DataFrame], laws: Mapping[str, str]) -> HeldOut | None:
    """Both forms fitted to all budgets up to one and judged on the next, for every budget that
    leaves enough; None where none does. laws: each family's own."""
    budgets = sorted({budget for rows in families.values() for budget in rows["budget"]})
    common: list[float] = []
    own: list[float] = []
    for before, following in pairwise(budgets):
        train = {name: rows[rows["budget"] <= before] for name, rows in families.items()}
        test = {name: rows[rows["budget"] == following] for name, rows in families.items()}
        try:
            fit, law = joint_fit(train, FOLD_STARTS)
        except FitError:
            continue
        for number, name in enumerate(families):
            if test[name].empty:
                continue
            alone_fit = own_fit(laws[name], train[name])
            if alone_fit is None:
                continue
            points = inputs(test[name])
            theta = law.theta_of(fit.theta[None], number)
            loss = np.exp(law.base.log_loss(theta, points)[0][0])
            common += np.abs(loss / points.loss - 1).tolist()
            own += np.abs(alone_fit.loss(points) / points.loss - 1).tolist()
    if not common:
        return None
    return HeldOut(float(np.mean(common)), float(np.mean(own)), len(common))


def own_fit(law: str, rows: pd.DataFrame) -> Fit | None:
    """A family's own law, or a power law where there are too few budgets for it."""
    for name in dict.fromkeys((law, "compute-power")):
        try:
            return fit_law(name, inputs(rows), "least-squares", starts=FOLD_STARTS)
        except FitError:
            continue
    return None


def named(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
