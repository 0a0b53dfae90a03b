"""Two groups against each other under the law that was fitted to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from analysis.fitting.bootstrap import Refits, percentiles
from analysis.fitting.choices import Progress
from analysis.fitting.compare import Crossover, compare_compute, crossover
from analysis.fitting.constraints import SharedLaw, constrained, inner_names, shared_law
from analysis.fitting.estimate import Fit, fit_law, solve
from analysis.fitting.frontier import Frontier
from analysis.fitting.law import PowerOfCompute, SizedLaw
from analysis.fitting.laws import LAWS
from analysis.fitting.resampling import plan_of
from analysis.fitting.table import Table, inputs
from analysis.table_fit.convention import convention_of
from analysis.table_fit.held_out import split_off
from analysis.table_fit.request import Request

MEANING = "compute of the first over compute of the second for this loss, each at its best size"


def compare_laws(frontiers: Mapping[str, Frontier]) -> tuple[dict[str, Any], list[str]]:
    """Each pair of groups by label, and what to say of pairs that have no loss in common."""
    compared, notes = {}, []
    if any(
        f.refits.fit.is_sized and not isinstance(f.refits.fit.law, SizedLaw)
        for f in frontiers.values()
    ):
        return {}, [
            "groups are not compared: under this law the best loss at a compute depends on the "
            "unique tokens of the data"
        ]
    for (one, first), (other, second) in combinations(frontiers.items(), 2):
        label = f"{one} / {other}"
        compared[label] = {"first": one, "second": other} | compare_pair(first, second)
        if compared[label]["multiplier"] is None:
            notes.append(
                f"{label}: the losses of the two do not overlap, so the multiplier is only bounded"
            )
    return compared, notes


def compare_pair(first: Frontier, second: Frontier) -> dict[str, Any]:
    """How much less compute the second needs than the first, where the curves cross, and by how
    much exponents differ (see `compare_compute`, `crossover`)."""
    found = compare_compute(first, second)
    crossing = crossover(first, second)
    return {
        "at_loss": found.at,
        "multiplier": found.value,
        "interval": found.interval,
        **({} if found.bound is None else {"bound": found.bound}),
        **({} if found.bound is None else {"supported_by": found.supported_by}),
        "meaning": MEANING,
        "crossover": None if crossing is None else crossing_as_json(crossing),
        "difference": exponent_differences(first, second),
    }


def crossing_as_json(crossing: Crossover) -> dict[str, Any]:
    """Compute at which two curves cross, and how far that can be relied on."""
    return {
        "compute": crossing.compute.value,
        "interval": [crossing.compute.low, crossing.compute.high],
        "share_of_refits": crossing.share,
        "beyond": crossing.beyond,
    }


def exponent_differences(first: Frontier, second: Frontier) -> dict[str, Any]:
    """Of gamma, the exponent of the reducible loss in compute, where both laws have one."""
    laws = [f.refits.fit.law for f in (first, second)]
    if not all(isinstance(law, PowerOfCompute) for law in laws):
        return {}
    gammas = [
        law.growth(f.theta)[1]
        for law, f in zip(laws, (first, second), strict=True)
        if isinstance(law, PowerOfCompute)
    ]
    rows = min(map(len, gammas))
    difference = gammas[0][:rows] - gammas[1][:rows]
    interval = list(percentiles(difference[1:])) if rows > 1 else []
    return {"gamma": {"estimate": float(difference[0]), "interval": interval}}


@dataclass(frozen=True)
class SharedFit:
    """`result`: what is printed; `frontiers`: each group's curve under the law in common."""

    result: dict[str, Any]
    frontiers: dict[str, Frontier]


def shared_fit(
    table: Table, request: Request, *, progress: Progress | None = None
) -> SharedFit | None:
    """One law for all groups that have the asked parameters in common (default: the exponents),
    and whether the rows reject that; None for a law that has no such form.

    Raises:
        FitError: for parameters that cannot be shared.
    """
    entry = LAWS.get(request.law)
    if entry is None or (entry.shared is None and not request.share):
        return None
    groups = {n: split_off(each, request.hold_out)[0] for n, each in table.groups().items()}
    rows = pd.concat(groups.values(), ignore_index=True)
    number = np.repeat(np.arange(len(groups)), [len(each) for each in groups.values()])
    points = inputs(rows)
    base = constrained(entry.make(points), request.constraints)
    names = request.share or tuple(n for n in EXPONENTS if n in inner_names(base))
    if not names:
        return None
    law = shared_law(base, points, group=number, families=tuple(groups), shared=names)
    # What is in common leaves nothing to project out group by group.
    projected = request.estimator == "variable-projection"
    estimator = "least-squares" if projected else request.estimator
    fit = fit_law(request.law, points, estimator, starts=16, seed=request.seed, law=law)
    # Runs, budgets and places are a group's own.
    labels = pd.Series(number.astype(str), index=rows.index)
    apart = rows.assign(budget=list(zip(number.tolist(), rows["budget"].tolist(), strict=True)))
    if "run" in rows:
        apart = apart.assign(run=labels + "/" + rows["run"].astype(str))
    plan = plan_of(apart, request.kind)
    refits = plan.refit(fit, request.samples, request.seed, progress=progress)
    has_intervals = len(refits.theta_KP) > 0
    test = sharing_test(request, groups, fit)
    result: dict[str, Any] = {
        "shared": list(names),
        "estimator": estimator,
        "parameters": fit.parameters,
        "intervals": {
            n: list(i)
            for n, i in refits.intervals().items()
            if has_intervals and n in law.free_names
        },
        "pinned": dict(request.constraints.pinned),
        "diagnostics": asdict(fit.diagnostics),
        "test": test,
        "warnings": [*fit.warnings, *plan.notes, *([plan.none] if plan.none else [])],
    }
    if test is not None and test["rejected"]:
        result["warnings"].append(
            f"the rows reject {', '.join(names)} in common (F = {test['F']:.3g} with "
            f"{test['degrees_of_freedom'][0]} and {test['degrees_of_freedom'][1]} degrees of "
            f"freedom, p = {test['p']:.2g}): rely on the groups' own fits"
        )
    return SharedFit(result, _frontiers(law, refits, groups))


EXPONENTS = ("alpha", "beta", "gamma")
REJECTED = 0.05  # chance of so large an F, were the parameters common, below which they are not


def sharing_test(
    request: Request, groups: Mapping[str, pd.DataFrame], shared: Fit
) -> dict[str, Any] | None:
    """F test of the parameters in common against fits apart, both by least squares of log loss
    (likelihood ratio for normal noise); None where too few rows are left to judge by."""
    apart = [
        fit_law(
            request.law, inputs(rows), "least-squares", starts=16, seed=request.seed,
            constraints=request.constraints,
        )
        for rows in groups.values()
    ]  # fmt: skip
    free = sum(len(fit.theta) for fit in apart)
    left, fewer = len(shared.points) - free, free - len(shared.theta)
    if left < 1 or fewer < 1:
        return None
    # From the separate fits' least squares, which contain the law in common.
    start = np.concatenate([shared.theta[None], shared.theta[None]])
    one = solve(shared.law, shared.points, start, estimator="least-squares")
    within = sum(float((fit.residual**2).sum()) for fit in apart)
    more = max(0.0, 2 * float(one.objective.min()) - within)
    ratio = more / fewer / max(within / left, 1e-300)
    chance = float(f_distribution.sf(ratio, fewer, left))
    return {
        "F": ratio,
        "degrees_of_freedom": [fewer, left],
        "p": chance,
        "rejected": chance < REJECTED,
        "meaning": "the parameters in common against each group's own, least squares of log loss",
    }


def _frontiers(
    law: SharedLaw, refits: Refits, groups: Mapping[str, pd.DataFrame]
) -> dict[str, Frontier]:
    """Each group's curve under the law in common."""
    found, fit = {}, refits.fit
    for family, (name, rows) in enumerate(groups.items()):
        theta = law.theta_of(fit.theta[None], family)[0]
        own = Fit(law.base, theta, inputs(rows), fit.estimator, fit.diagnostics)
        convention = convention_of(rows)
        factor = 6.0 if convention is None else convention.factor
        mine = Refits(own, law.theta_of(refits.theta_KP, family), refits.noise)
        found[name] = Frontier(mine, factor)
    return found
