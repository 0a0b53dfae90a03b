"""Two groups against each other under the law that was fitted to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, Progress, percentiles
from analysis.fitting.estimate import fit_law
from analysis.fitting.law import Array, PowerOfCompute
from analysis.fitting.laws import LAWS, SharedLaw
from analysis.fitting.resampling import plan_of
from analysis.fitting.table import Table, inputs
from analysis.table_fit.frontier import Frontier
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
    """How much less compute the second needs than the first, and by how much exponents differ.

    The multiplier is taken in the middle of the losses that both frontiers reach within their
    measured compute; where they reach none in common it is bounded from one side.
    """
    reached = [f.loss(np.array(f.span))[0] for f in (first, second)]
    lowest, highest = max(r.min() for r in reached), min(r.max() for r in reached)
    if lowest < highest:
        found = multiplier_at(first, second, float(np.sqrt(lowest * highest)))
    else:
        found = bounded(first, second, reached)
    found["meaning"] = MEANING
    return found | {"difference": exponent_differences(first, second)}


def multiplier_at(first: Frontier, second: Frontier, loss: float) -> dict[str, Any]:
    """The multiplier at one loss with its interval; an end is infinite (null in JSON) where the
    floor of so many refits lies above the loss."""
    one, other = first.compute_for(loss), second.compute_for(loss)
    rows = min(len(one), len(other))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = one[:rows] / other[:rows]
    return {"at_loss": loss, "multiplier": float(ratio[0]), "interval": ends(ratio[1:])}


def bounded(first: Frontier, second: Frontier, reached: list[Array]) -> dict[str, Any]:
    """One side of the multiplier: at the best loss of the worse group the better one needs less
    than its smallest measured compute. supported_by: share of refits that agree on the order."""
    better, worse = (second, first) if reached[1].max() <= reached[0].min() else (first, second)
    most = worse.span[1] / better.span[0]
    ends_of = [
        better.loss(np.array([better.span[0]]))[1:, 0],
        worse.loss(np.array([worse.span[1]]))[1:, 0],
    ]
    rows = min(map(len, ends_of))
    agree = float((ends_of[0][:rows] <= ends_of[1][:rows]).mean()) if rows else None
    loss = float(worse.loss(np.array([worse.span[1]]))[0, 0])
    interval = [most, None] if better is second else [0.0, 1 / most]
    return {
        "at_loss": loss,
        "multiplier": None,
        "interval": interval,
        "bound": "more than" if better is second else "less than",
        "supported_by": agree,
    }


def ends(values: Array) -> list[float]:
    """95% interval of values that may be infinite; empty without any."""
    known = values[~np.isnan(values)]
    if not len(values):
        return []
    if len(known) < 0.9 * len(values):
        return [float("nan"), float("nan")]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf")
    return [float(low), float(high)]


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
