"""Two groups against each other under the law that was fitted to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from analysis.fitting.law import Array, Inputs, PowerOfCompute, SizedLaw
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
    level = first.refits.level
    found = compare_compute(first, second, level)
    crossing = crossover(first, second, level)
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
    """Of gamma, the exponent of the reducible loss in compute, where both laws have one of their
    own."""
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
    if not difference.any():  # in common
        return {}
    interval = list(percentiles(difference[1:], first.refits.level)) if rows > 1 else []
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
    own = own_fits(request, law, points)
    fit = fit_law(
        request.law, points, estimator, starts=STARTS, seed=request.seed, law=law,
        constraints=request.constraints, also=joined(law, own)[None],
    )  # fmt: skip
    # Runs, budgets and places are a group's own.
    labels = pd.Series(number.astype(str), index=rows.index)
    apart = rows.assign(budget=list(zip(number.tolist(), rows["budget"].tolist(), strict=True)))
    if "run" in rows:
        apart = apart.assign(run=labels + "/" + rows["run"].astype(str))
    plan = plan_of(apart, request.kind)
    refits = plan.refit(fit, request.samples, request.seed, progress=progress)
    refits = replace(refits, level=request.level)
    has_intervals = len(refits.theta_KP) > 0
    nested = any(plan_of(each, request.kind).nested for each in groups.values())
    test, untested = (None, NESTED) if nested else sharing_test(law, fit, own)
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
    if untested:
        result["warnings"].append(f"whether the rows reject it is not tested: {untested}")
    if test is not None and test["rejected"]:
        result["warnings"].append(
            f"the rows reject {', '.join(names)} in common (F = {test['F']:.3g} with "
            f"{test['degrees_of_freedom'][0]} and {test['degrees_of_freedom'][1]} degrees of "
            f"freedom, p = {test['p']:.2g}): rely on the groups' own fits"
        )
    return SharedFit(result, _frontiers(law, refits, groups))


EXPONENTS = ("alpha", "beta", "gamma")
STARTS = 16  # chosen: random starts beside those from the groups' own fits
NESTED = (
    "several rows are of one run (--run) and not independent, as the F test takes them to be; "
    "give one row a run to test it"
)
REJECTED = 0.05  # chance of so large an F, were the parameters common, below which they are not


def own_fits(request: Request, law: SharedLaw, points: Inputs) -> list[Fit]:
    """Each family's own least-squares fit of log loss, in the units of the law in common.

    Raises:
        FitError: for a family that cannot be fitted.
    """
    return [
        fit_law(
            request.law, points.subset(law.group == family), "least-squares", starts=STARTS,
            seed=request.seed, law=alone(law, family), constraints=request.constraints,
        )
        for family in range(len(law.families))
    ]  # fmt: skip


def alone(law: SharedLaw, family: int) -> SharedLaw:
    """The law of one of the families by itself: its own parameters, then those to be shared."""
    count = int((law.group == family).sum())
    ceilings = None if law.ceilings is None else (law.ceilings[family],)
    return replace(
        law, group=np.zeros(count, np.int64), families=(law.families[family],), ceilings=ceilings
    )


def joined(law: SharedLaw, own: Sequence[Fit]) -> Array:
    """Internal parameters of the law in common: the families' own, and the mean of the shared."""
    split = _own_count(law)
    mean = np.mean([fit.theta[split:] for fit in own], axis=0)
    return np.clip(np.concatenate([*(fit.theta[:split] for fit in own), mean]), *law.bounds)


def _own_count(law: SharedLaw) -> int:
    """How many internal parameters a family has of its own."""
    return sum(name not in law.shared for name in inner_names(law.base))


def sharing_test(
    law: SharedLaw, shared: Fit, own: Sequence[Fit]
) -> tuple[dict[str, Any] | None, str]:
    """F test of the parameters in common against fits apart, both by least squares of log loss
    (likelihood ratio for normal noise); None, and why, where too few rows are left to judge by."""
    free = sum(len(fit.theta) for fit in own)
    left, fewer = len(shared.points) - free, free - len(shared.theta)
    if left < 1 or fewer < 1:
        return None, f"{len(shared.points)} rows for {free} parameters of fits apart leave none"
    start = np.stack([shared.theta, joined(law, own)])
    found = solve(law, shared.points, start, estimator="least-squares")
    best = int(found.objective.argmin())
    # Fits apart contain the law in common: none is worse than what it finds from there.
    within, split, common = 0.0, _own_count(law), found.theta[best]
    for family, fit in enumerate(own):
        mine = common[family * split : (family + 1) * split]
        nested = np.concatenate([mine, common[len(own) * split :]])
        again = solve(fit.law, fit.points, nested[None], estimator="least-squares")
        within += min(2 * float(again.objective[0]), float((fit.residual**2).sum()))
    more = max(0.0, 2 * float(found.objective[best]) - within)
    ratio = more / fewer / max(within / left, 1e-300)
    chance = float(f_distribution.sf(ratio, fewer, left))
    test = {
        "F": ratio,
        "degrees_of_freedom": [fewer, left],
        "p": chance,
        "rejected": chance < REJECTED,
        "meaning": "the parameters in common against each group's own, least squares of log loss",
    }
    return test, ""


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
        mine = Refits(own, law.theta_of(refits.theta_KP, family), refits.noise, level=refits.level)
        found[name] = Frontier(mine, factor)
    return found
