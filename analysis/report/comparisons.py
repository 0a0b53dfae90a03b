"""What a report says of each pair of curves: multiplier, crossover, exponents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, percentiles
from analysis.fitting.compare import (
    Crossover,
    Estimate,
    Multiplier,
    compare_compute,
    crossover,
    multiplier_curve,
)
from analysis.fitting.frontier import Frontier
from analysis.regressions.log_regression import regress
from analysis.report.family_fits import FamilyFit, best_size_runs, fit_points
from cola.errors import FitError

AFTER = 1.5  # chosen: factor in compute after a crossing at which curves are told apart
PAIRED_BUDGETS = 4  # chosen: budgets in common, so that two degrees of freedom are left
BEYOND_DATA = 1.05  # budgets are not spent to the last step
PLAIN = 1e6  # chosen: factors up to it are written out


@dataclass(frozen=True)
class Pair:
    """Two curves compared: compute of `one` over that of `other`, and where they cross. `curve` is
    empty where they reach no loss in common. `sentences` for people. floor: whether the two have
    one in common. one_sided: what the multiplier is at the true NLL where one of them is scored by
    a bound: at least its interval's low end, or at most its high end."""

    one: FamilyFit
    other: FamilyFit
    multiplier: Multiplier
    crossing: Crossover | None
    curve: pd.DataFrame
    sentences: tuple[str, ...]
    floor: Literal["shared", "own"] = "own"
    one_sided: Literal["at least", "at most"] | None = None


def compare_pairs(
    fits: Mapping[str, FamilyFit],
    final: pd.DataFrame,
    compute: str,
    shared: Mapping[str, Frontier] | None = None,
) -> list[Pair]:
    """Every pair of families, or variants, that both have a curve; `shared`: curves with a floor in
    common, by variant, in place of each family's own."""
    return [
        pair
        for one, other in combinations(fits.values(), 2)
        if (pair := compare_pair(one, other, final, compute=compute, shared=shared)) is not None
    ]


def compare_pair(
    one: FamilyFit,
    other: FamilyFit,
    final: pd.DataFrame,
    *,
    compute: str,
    shared: Mapping[str, Frontier] | None = None,
) -> Pair | None:
    """What two curves say of each other; None where one of them could not be fitted."""
    if one.refits is None or other.refits is None:
        return None
    name = f"{other.label} against {one.label}"
    in_common = shared is not None and {one.variant, other.variant} <= set(shared)
    curves = Frontier(one.refits), Frontier(other.refits)
    if shared is not None and in_common:
        curves = shared[one.variant], shared[other.variant]
    side = one_sided(one, other)
    multiplier = compare_compute(*curves)
    said = describe_multiplier(
        multiplier, f"{multiplier.at:.3f} nats per token", (one.label, other.label)
    )
    at_true = at_true_nll(multiplier, side)
    sentences = [f"{name}: {said}{bound_caveat(one, other)}{at_true}"]
    crossing = crossover(*curves)
    if crossing is not None:
        later = true_crossing(crossing, curves, side)
        sentences.append(f"{name}: {describe_crossover(crossing)}{later}")
    sentences += exponent_sentence(one, other, final, compute=compute)
    return Pair(
        one, other, multiplier, crossing, multiplier_curve(*curves), tuple(sentences),
        "shared" if in_common else "own", side,
    )  # fmt: skip


def one_sided(one: FamilyFit, other: FamilyFit) -> Literal["at least", "at most"] | None:
    """What the true multiplier is against the measured one, where one of the two is scored by an
    upper bound, which takes more compute to a loss than the model does."""
    if {one.kind, other.kind} != {"exact", "bound"}:
        return None
    return "at least" if other.kind == "bound" else "at most"


def at_true_nll(multiplier: Multiplier, side: str | None) -> str:
    """The end of the interval that holds at the true NLL, as a sentence."""
    if side is None:
        return ""
    if multiplier.value is None:
        if multiplier.bound != side:
            return " So at its true NLL the multiplier is not bounded."
        return " That holds at its true NLL too."
    end = multiplier.low if side == "at least" else multiplier.high
    if not 0 < end < np.inf:
        return " So at its true NLL the multiplier is not bounded."
    less = end >= 1
    word = side if less else {"at least": "at most", "at most": "at least"}[side]
    return (
        f" So at its true NLL it is {word} {times_text(end if less else 1 / end)} times "
        f"{'less' if less else 'more'} compute (one-sided, 97.5%)."
    )


def true_crossing(crossing: Crossover, curves: tuple[Frontier, Frontier], side: str | None) -> str:
    """Before or after which compute curves cross at the true NLL of a bound, as a sentence."""
    if side is None or np.isnan(crossing.compute.low):
        return ""
    bound, exact = (1, 0) if side == "at least" else (0, 1)
    after = np.array([crossing.compute.value * AFTER])
    leads = curves[bound].values(after)[0, 0] < curves[exact].values(after)[0, 0]
    # The true curve lies below the bound's: what it passes it passes earlier, and leaves later.
    if leads:
        return (
            f" At the true NLL they cross before {crossing.compute.high:.2g} FLOPs, if they do "
            "(one-sided, 97.5%)."
        )
    return (
        f" At the true NLL they cross beyond {crossing.compute.low:.2g} FLOPs, if they do "
        "(one-sided, 97.5%)."
    )


def times_text(times: float) -> str:
    """A factor, without digits that mean nothing."""
    if times < 100:
        return f"{times:.2f}"
    return f"{float(f'{times:.3g}'):,.0f}" if times < PLAIN else f"{times:.3g}"


def describe_multiplier(multiplier: Multiplier, place: str, labels: tuple[str, str]) -> str:
    """How much less or more compute the second of two curves needs at one value (`place`, with its
    unit)."""
    if multiplier.value is None:
        return describe_bound(multiplier, place, labels)
    if not 0 < multiplier.value < np.inf:
        return f"the compute for {place} cannot be read off both curves."
    less, ratio = ("less", multiplier) if multiplier.value >= 1 else ("more", multiplier.inverse)
    if np.isnan(ratio.low) or np.isnan(ratio.high):
        doubt = "no interval: too few refits reach it"
    else:
        decided = ratio.low > 1 or ratio.high < 1
        doubt = f"95% interval {ends_text(ratio.low, ratio.high)}"
        doubt += "" if decided else "; the interval contains 1, so the data do not decide it"
    times = multiplier.value if less == "less" else 1 / multiplier.value
    return f"{times_text(times)} times {less} compute for {place} ({doubt})."


def bounds_compute(multiplier: Multiplier) -> bool:
    """Whether it is a bound that says something: at least more than 1, or at most less than 1."""
    if multiplier.bound == "at least":
        return multiplier.low > 1
    return multiplier.bound == "at most" and multiplier.high < 1


def describe_bound(multiplier: Multiplier, place: str, labels: tuple[str, str]) -> str:
    """What is known of the multiplier where the two curves reach no value in common."""
    leads = multiplier.bound == "at least"  # the second curve does
    least, less = (multiplier.low, "less") if leads else (1 / multiplier.high, "more")
    apart = "the two reach no value in common within their budgets"
    if not bounds_compute(multiplier):
        better = labels[1] if leads else labels[0]
        return (
            f"no multiplier: {apart}, and {better}, the better one, has no budget below the "
            "other's largest to bound one with; give it smaller budgets."
        )
    agree = multiplier.supported_by
    support = "" if agree is None else f"; {agree:.0%} of the refits agree on the order"
    doubt = "" if agree is None or agree >= LEVEL else ", so the data do not decide it"
    times = f"{least:,.0f}" if least >= 100 else f"{least:.3g}"
    return f"at least {times} times {less} compute for {place} ({apart}{support}{doubt})."


def ends_text(low: float, high: float) -> str:
    """An interval, an infinite end of which is open."""
    if not np.isfinite(high):
        return f"from {times_text(low)}, without an end"
    return f"{times_text(low)} to {times_text(high)}"


def describe_crossover(crossing: Crossover) -> str:
    """Where the curves meet, and how sure it is that they do."""
    text, at = f"the fitted curves cross at {crossing.compute.value:.2g} FLOPs", crossing.compute
    if np.isnan(at.low):
        text += f", but only {crossing.share:.0%} of the refits cross: the data do not decide it"
    else:
        text += f" (95% interval {at.low:.2g} to {at.high:.2g}; {crossing.share:.0%} of the refits "
        text += "cross at all)"
    if crossing.beyond > BEYOND_DATA:
        text += f"; {crossing.beyond:.3g} times beyond what both were measured at: this rests on "
        text += "the laws, not on data"
    return f"{text}."


def exponent_sentence(
    one: FamilyFit, other: FamilyFit, final: pd.DataFrame, *, compute: str
) -> tuple[str, ...]:
    """Difference of the exponents of both families' plain power laws: paired by budget where they
    have enough in common, else by each family's own refits."""
    rows = [
        best_size_runs(fit_points(final[final["variant"] == fit.variant], compute))
        for fit in (one, other)
    ]
    try:
        difference = exponent_difference(*rows)
        method = "paired by budget"
    except FitError:
        refits = [fit.refits for fit in (one, other)]
        if any(of_one is None or of_one.fit.law.name != "compute-power" for of_one in refits):
            return ()
        gammas = [of_one.public[:, -1] for of_one in refits if of_one is not None]
        values = [of_one.fit.parameters["gamma"] for of_one in refits if of_one is not None]
        difference = Estimate(values[0] - values[1], *percentiles(gammas[0] - gammas[1]))
        method = "from each family's own scatter"
    if not np.isfinite(difference.low):
        return ()
    return (
        f"{other.label} against {one.label}: the exponents of plain power laws differ by "
        f"{-difference.value:+.4f} (95% interval {-difference.high:+.4f} to "
        f"{-difference.low:+.4f}, {method}).",
    )


def exponent_difference(one: pd.DataFrame, other: pd.DataFrame) -> Estimate:
    """Exponent of the first family's plain power law less that of the second, from the ratio of
    their losses (means over runs) at each common budget, so that what a budget does to both
    cancels; with Student's t interval.

    Raises:
        FitError: too few budgets are common to know the scatter.
    """
    means = [
        np.log(rows[["loss", "compute"]]).groupby(rows["budget"]).mean() for rows in (one, other)
    ]
    first, second = (each.loc[means[0].index.intersection(means[1].index)] for each in means)
    if len(first) < PAIRED_BUDGETS:
        raise FitError(f"{len(first)} common budgets are too few to compare in pairs")
    compute = np.exp((first["compute"] + second["compute"]) / 2).to_numpy(float)
    ratio = regress(("C",), [compute], np.exp(first["loss"] - second["loss"]).to_numpy(float))
    low, high = ratio.intervals["C"]
    return Estimate(-ratio.exponents["C"], -high, -low)


def bound_caveat(one: FamilyFit, other: FamilyFit) -> str:
    """What a bound or an estimate does to a comparison of compute."""
    kinds = {fit.label: fit.kind for fit in (one, other)}
    estimates = [label for label, kind in kinds.items() if kind == "estimate"]
    bounds = [label for label, kind in kinds.items() if kind == "bound"]
    if estimates:
        return (
            f" ({' and '.join(estimates)} by an estimate of the NLL, on either side of the true "
            "one: what this does to the comparison is not known.)"
        )
    if len(bounds) == 2:
        return (
            f" ({' and '.join(bounds)} by upper bounds of the NLL: each needs less at its true "
            "NLL, and their ratio may be larger or smaller.)"
        )
    if bounds:
        return f" ({bounds[0]} by an upper bound of the NLL: at its true NLL it needs less.)"
    return ""
