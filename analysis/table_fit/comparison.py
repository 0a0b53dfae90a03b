"""Two groups against each other under the law that was fitted to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.choices import Progress
from analysis.fitting.compare import Crossover, compare_compute, crossover
from analysis.fitting.estimate import fit_law
from analysis.fitting.frontier import Frontier
from analysis.fitting.law import PowerOfCompute
from analysis.fitting.laws import LAWS, SharedLaw
from analysis.fitting.resampling import plan_of
from analysis.fitting.table import Table, inputs
from analysis.table_fit.request import Request

MEANING = "compute of the first over compute of the second for this loss, each at its best size"


def compare_laws(frontiers: Mapping[str, Frontier]) -> tuple[dict[str, Any], list[str]]:
    """Each pair of groups by label, and what to say of pairs that have no loss in common."""
    compared, notes = {}, []
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


def shared_exponents(
    table: Table, request: Request, *, progress: Progress | None = None
) -> dict[str, Any] | None:
    """One law for all groups whose exponents they have in common: floors and coefficients apart;
    None for a law that has no such form."""
    entry = LAWS.get(request.law)
    if entry is None or entry.shared is None:
        return None
    groups = table.groups()
    rows = pd.concat(groups.values(), ignore_index=True)
    number = np.repeat(np.arange(len(groups)), [len(each) for each in groups.values()])
    points = inputs(rows)
    law = SharedLaw(entry.shared(points), number, tuple(groups))
    # The exponents in common leave nothing to project out group by group.
    projected = request.estimator == "variable-projection"
    estimator = "least-squares" if projected else request.estimator
    fit = fit_law(request.law, points, estimator, starts=16, seed=request.seed, law=law)
    # Runs, budgets and places are a group's own.
    names = pd.Series(number.astype(str), index=rows.index)
    apart = rows.assign(budget=list(zip(number.tolist(), rows["budget"].tolist(), strict=True)))
    if "run" in rows:
        apart = apart.assign(run=names + "/" + rows["run"].astype(str))
    plan = plan_of(apart, request.kind)
    refits = plan.refit(fit, request.samples, request.seed, progress=progress)
    has_intervals = len(refits.theta_KP) > 0
    return {
        "estimator": estimator,
        "parameters": fit.parameters,
        "intervals": {n: list(i) for n, i in refits.intervals().items()} if has_intervals else {},
        "diagnostics": asdict(fit.diagnostics),
        "warnings": [*fit.warnings, *plan.notes, *([plan.none] if plan.none else [])],
    }
