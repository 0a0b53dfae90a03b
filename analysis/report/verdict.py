"""What a study found, in one sentence: the title of its report."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.plotting.style import DEVIATES
from analysis.report.comparisons import Pair, times_text
from analysis.report.family_fits import FamilyFit, falls_with_budget
from analysis.report.findings import Findings
from analysis.report.reference import informative


def verdict(found: Findings, points: pd.DataFrame, split: str) -> str:
    """The study's finding, as far as its runs and their errors decide it."""
    counts = found.final[informative(found.final, found.lines)]
    if counts.empty:
        return "No run is better than token frequencies: nothing can be said yet of how these scale"
    if len(found.fits) == 1:
        return _of_one(next(iter(found.fits.values())), found, points, split)
    if counts["variant"].nunique() == 1:
        label = found.labels[str(counts["variant"].iloc[0])]
        return f"Only {label} is better than token frequencies: the others do not compare yet"
    return _of_several(found, counts)


def _of_one(fit: FamilyFit, found: Findings, points: pd.DataFrame, split: str) -> str:
    """Whether the loss of a study's only curve falls, and as what."""
    means = _best_means(found.final)
    name = f"{fit.label}'s {split} loss{_by(fit)}"
    if len(means) == 1:
        return f"{name} is {means['nll'].iloc[0]:.2f} nats per token at its one budget"
    first, last = means["nll"].iloc[0], means["nll"].iloc[-1]
    budgets = means["budget"]
    times = times_text(budgets.iloc[-1] / budgets.iloc[0]).removesuffix(".00")
    change = f"from {first:.2f} to {last:.2f} nats per token over {times} times the compute"
    if not falls_with_budget(points, fit.variant):
        return f"{name} does not fall at every budget: it goes {change}"
    gamma = None if fit.fit is None else fit.fit.parameters.get("gamma")
    plain = fit.fit is not None and not fit.fit.parameters.get("E")
    law = f", as C^-{gamma:.3f}" if gamma is not None and plain else ""
    return f"{name} falls {change}{law}"


def _of_several(found: Findings, counts: pd.DataFrame) -> str:
    """Which curve leads where budgets are shared, and by how much compute."""
    means = _best_means(counts)
    shared = means[means.groupby("budget")["variant"].transform("nunique") > 1]
    if shared.empty:
        return _by_compute(found) or "The families have no budget in common"
    # Of offset ladders the largest budgets are of few families: where most of them meet counts.
    met = shared.groupby("budget")["variant"].nunique()
    top = shared[shared["budget"] == met[met == met.max()].index.max()].sort_values("nll")
    first, second = top.iloc[0], top.iloc[1]
    leader = found.fits[str(first["variant"])]
    place = f"at {first['budget']:.3g} FLOPs"
    names = [f"{_named(found, row)} {row['nll']:.2f}" for _, row in top.iterrows()]
    if second["nll"] - first["nll"] <= DEVIATES * np.hypot(first["error"], second["error"]):
        one, other = (_named(found, row) for row in (first, second))
        return f"{one} and {other} are equal within the error of their scores {place}"
    always = bool((shared.loc[shared.groupby("budget")["nll"].idxmin(), "variant"]
                   == leader.variant).all())  # fmt: skip
    where = "at every shared budget" if always else place
    ahead = _multiplier(found, leader)
    return (
        f"{leader.label}{_by(leader)} has the lowest loss {where}"
        f"{f' and needs {ahead}' if ahead else ''} "
        f"({', '.join(names)} nats per token{f' {place}' if always else ''})"
    )


def _multiplier(found: Findings, leader: FamilyFit) -> str:
    """How much less compute the leader needs than the curve that comes nearest; empty where that is
    not decided of every other curve."""
    ratios: dict[str, float] = {}
    for pair in found.pairs:
        if leader.variant not in (pair.one.variant, pair.other.variant):
            continue
        other = pair.other if pair.one is leader else pair.one
        ratio = _towards(pair, leader)
        if ratio is None:
            return ""
        ratios[other.variant] = ratio
    if not ratios:
        return ""
    nearest = min(ratios, key=ratios.__getitem__)
    other = found.fits[nearest]
    return f"{times_text(ratios[nearest])} times less compute than {other.label}{_by(other)}"


def _by_compute(found: Findings) -> str:
    """What the first decided pair says, of ladders that share no budget."""
    for pair in found.pairs:
        for leader, other in ((pair.other, pair.one), (pair.one, pair.other)):
            ratio = _towards(pair, leader)
            if ratio is not None:
                return (
                    f"{leader.label}{_by(leader)} needs {times_text(ratio)} times less compute "
                    f"than {other.label}{_by(other)} for the same loss"
                )
    return ""


def _towards(pair: Pair, leader: FamilyFit) -> float | None:
    """How much less compute the leader needs; None where that is not decided."""
    ratio = pair.multiplier if pair.other is leader else pair.multiplier.inverse
    if ratio.value is None or not np.isfinite(ratio.value) or not ratio.low > 1:
        return None
    return float(ratio.value)


def _best_means(final: pd.DataFrame) -> pd.DataFrame:
    """variant, budget, nll (mean over seeds of the best size), error (of it), nll_kind."""
    sized = final.groupby(["variant", "budget", "core_parameters"], sort=False, as_index=False).agg(
        nll=("nll", "mean"), error=("nll_standard_error", "max"), nll_kind=("nll_kind", "first")
    )
    best = sized.loc[sized.groupby(["variant", "budget"])["nll"].idxmin()]
    return best.sort_values("budget").fillna({"error": 0.0}).reset_index(drop=True)


def _named(found: Findings, row: pd.Series) -> str:
    fit = found.fits[str(row["variant"])]
    return f"{fit.label}{_by(fit)}"


def _by(fit: FamilyFit) -> str:
    """What its loss is where it is not exact."""
    return "" if fit.kind == "exact" else f" ({fit.kind})"
