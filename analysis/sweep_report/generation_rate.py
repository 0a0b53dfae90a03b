"""Whether generation is best at another rate than the bound: the same profiles by other metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.isoflop import bootstrap_isoflop, data_seed
from analysis.profiles.analysis import isoflop
from analysis.sweep_report.data import Goal
from analysis.sweep_report.rate_profiles import (
    REFITS,
    Array,
    Interval,
    RateAnalysis,
    profile_table,
)

# Profiles take positive losses with relative noise: a metric is shifted and scaled to this level,
# which moves no minimum.
LEVEL, UNIT = 10.0, 1.0


@dataclass(frozen=True)
class RateRatio:
    """The rate at which a metric is best over that of the bound, at a budget; or why not known."""

    budget: float
    rate: float = float("nan")
    rate_interval: Interval = (float("nan"), float("nan"))
    ratio: float = float("nan")
    interval: Interval = (float("nan"), float("nan"))
    trouble: str | None = None


@dataclass(frozen=True)
class Generation:
    """A metric's best rates against the bound's: by budget, and their geometric mean."""

    metric: str
    ratios: tuple[RateRatio, ...] = ()
    mean: float = float("nan")
    interval: Interval = (float("nan"), float("nan"))
    missing: str | None = None
    compared: tuple[float, ...] = field(default=())  # budgets behind the mean

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "metric": self.metric,
            "missing": self.missing,
            "budgets": [
                {
                    "budget": each.budget,
                    "best_rate": each.rate,
                    "best_rate_interval": each.rate_interval,
                    "over_bound": each.ratio,
                    "over_bound_interval": each.interval,
                    "trouble": each.trouble,
                }
                for each in self.ratios
            ],
            "mean_over_bound": self.mean,
            "mean_over_bound_interval": self.interval,
            "compared_budgets": list(self.compared),
        }


def compare_generation(analysis: RateAnalysis, goal: Goal) -> Generation:
    """The best rate by a metric against that by the bound, wherever both profiles have one."""
    runs = analysis.runs
    if runs.empty or goal.name not in runs or runs[goal.name].notna().sum() == 0:
        return Generation(goal.name, missing=f"no run that a profile has measured {goal.name}")
    runs = runs.dropna(subset=[goal.name])
    value = goal.sign * runs[goal.name]
    spread = float(value.std(ddof=0))
    scaled = LEVEL + UNIT * (value - value.mean()) / (spread or 1.0)
    table = profile_table(runs, scaled)
    profiles = isoflop(table)
    refits = bootstrap_isoflop(profiles, REFITS, data_seed(table, 1))
    drawn = {} if refits is None else dict(zip(refits.compute, refits.size.T, strict=True))
    bound = {best.budget: best for best in analysis.good}
    of_bound = (
        {}
        if analysis.refits is None
        else dict(zip(analysis.refits.compute, analysis.refits.size.T, strict=True))
    )
    ratios, logs = [], []
    for optimum in profiles.optima:
        budget = optimum.compute
        if optimum.trouble is not None:
            words = optimum.trouble.replace("the loss", goal.label).replace("size", "rate")
            ratios.append(RateRatio(budget, trouble=f"{words}{_edge(runs, budget, goal)}"))
            continue
        rate = optimum.parameters
        interval = percentiles(np.exp(drawn[budget])) if budget in drawn else RateRatio.interval
        if budget not in bound:
            trouble = "the bound's profile has no minimum inside"
            ratios.append(RateRatio(budget, rate, interval, trouble=trouble))
            continue
        ratio = rate / bound[budget].values["rate"]
        apart = np.full(REFITS, np.nan)
        if budget in drawn and budget in of_bound:
            apart = drawn[budget] - of_bound[budget]
        ratios.append(RateRatio(budget, rate, interval, ratio, percentiles(np.exp(apart))))
        logs.append((budget, np.log(ratio), apart))
    return _with_mean(goal, ratios, logs)


def _with_mean(
    goal: Goal, ratios: list[RateRatio], logs: list[tuple[float, float, Array]]
) -> Generation:
    if not logs:
        return Generation(goal.name, tuple(ratios))
    mean = float(np.exp(np.mean([log for _, log, _ in logs])))
    draws = np.exp(np.mean([apart for _, _, apart in logs], axis=0))
    budgets = tuple(budget for budget, _, _ in logs)
    return Generation(goal.name, tuple(ratios), mean, percentiles(draws), compared=budgets)


def _edge(runs: pd.DataFrame, budget: float, goal: Goal) -> str:
    """The rate with the best value, where it is the first or the last of the profile."""
    mine = runs[runs["budget"] == budget].sort_values("rate")
    best = int((goal.sign * mine[goal.name]).to_numpy().argmin())
    rates = mine["rate"].to_numpy(float)
    if best == len(rates) - 1 and best > 0:
        return f" (best at the highest rate, {rates[-1]:.3g}: widen towards higher ones)"
    if best == 0 and len(rates) > 1:
        return f" (best at the lowest rate, {rates[0]:.3g}: widen towards lower ones)"
    return ""


def generation_sentences(found: Sequence[Generation]) -> list[str]:
    """Whether generation wants another rate than the bound, metric by metric."""
    return [_sentence(each) for each in found]


def _sentence(found: Generation) -> str:
    name = found.metric
    if found.missing is not None:
        return f"Generation by {name}: {found.missing}."
    parts = [_at_budget(each) for each in found.ratios]
    if not found.compared:
        return (
            f"The data do not decide whether generation ({name}) is best at another rate than the "
            f"bound: {'; '.join(parts)}."
        )
    low, high = found.interval
    known = np.isfinite([low, high]).all()
    ends = f"95%: {low:.3g} to {high:.3g}" if known else "95%: not known"
    over = f"over {len(found.compared)} budget{'s' * (len(found.compared) > 1)}"
    ratio = f"its best rate is {found.mean:.3g} times the bound's ({ends}) {over}"
    if known and low > 1:
        head = f"Generation ({name}) is best at a higher rate than the bound"
    elif known and high < 1:
        head = f"Generation ({name}) is best at a lower rate than the bound"
    else:
        head = (
            f"The data do not decide whether generation ({name}) is best at another rate than the "
            "bound"
        )
    return f"{head}: {ratio}; {'; '.join(parts)}."


def _at_budget(each: RateRatio) -> str:
    where = f"at {each.budget:.3g} FLOPs"
    if each.trouble is not None and not np.isfinite(each.rate):
        return f"{where} {each.trouble}"
    low, high = each.rate_interval
    ends = f" ({low:.3g} to {high:.3g})" if np.isfinite([low, high]).all() else ""
    why = f", but {each.trouble}" if each.trouble is not None else ""
    return f"{where} best at {each.rate:.3g}{ends}{why}"
