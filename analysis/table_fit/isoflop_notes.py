"""What a reader must know before quoting an IsoFLOP analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import seed_noise
from analysis.fitting.choices import Kind
from analysis.fitting.isoflop import ENOUGH_RUNS
from analysis.fitting.law import Array
from analysis.profiles.analysis import IsoFLOP, isoflop, relative_sd
from analysis.profiles.budgets import WIDEST
from analysis.profiles.method import Method
from analysis.profiles.profile import OTHER_CONVENTION, SAME_SIZE
from analysis.profiles.refits import IsoFLOPRefits, refit, simulated_losses
from analysis.profiles.window import SIGNIFICANT
from analysis.table_fit.lack_of_fit import repeated
from analysis.table_fit.predictions import times_text
from cola.errors import first_of

# Chosen values from which a note is due.
OFF_CENTRE = 0.25  # share of a profile's log width that the minimum keeps from either end
OTHER_SIZE = np.log(1.1)  # N* of parabola and interpolant
OTHER_EXPONENT = 0.01
BEYOND_NOISE = 2.0  # standard deviations that the difference must exceed, too
COMPARED_DRAWS = 200  # of that standard deviation
MATERIAL = 1e-3  # relative residuals of the parabolas
FAR = 10.0  # times beyond the largest budget
TOO_ALIKE = 3.0  # times: scatter of the profiles over that of repeated rows
NAMED = 4  # budgets that a note names before it counts


def notes(
    analysis: IsoFLOP,
    rows: pd.DataFrame,
    *,
    refits: IsoFLOPRefits | None,
    samples: int,
    kind: Kind | None,
) -> list[str]:
    """All of them, in the order of the analysis."""
    found = [
        *of_budgets(analysis, rows),
        *of_runs(rows),
        *of_repeats(analysis, rows),
        *troubles(analysis),
        *off_centre(analysis),
        *of_tokens(analysis),
    ]
    found += of_window(analysis) + of_methods(analysis, rows)
    if len(analysis.good) == 2:
        found.append("exponents rest on two budgets: nothing tests that they are power laws")
    return found + of_intervals(analysis, refits, samples, kind=kind)


def budgets_text(budgets: Sequence[float]) -> str:
    """The first few by their compute, and how many more."""
    shown = first_of([f"{budget:.3g}" for budget in budgets], NAMED)
    return f"{'budget' if len(budgets) == 1 else 'budgets'} {shown}"


def troubles(analysis: IsoFLOP) -> list[str]:
    """Why budgets have no minimum, each reason once."""
    by_reason: dict[str, list[float]] = {}
    for optimum in analysis.optima:
        if optimum.trouble is not None:
            by_reason.setdefault(optimum.trouble, []).append(optimum.compute)
    return [f"{budgets_text(budgets)}: {reason}" for reason, budgets in by_reason.items()]


def why_none(analysis: IsoFLOP, rows: pd.DataFrame) -> str:
    """Why there is no growth to be fitted, and what to do where budgets were taken from compute."""
    reasons = "; ".join(troubles(analysis)) or "there is one budget"
    advice = ""
    few = any(o.trouble and " at a budget" in o.trouble for o in analysis.optima)
    if few and not _nominal(rows) and _has_close_budgets(rows):
        advice = (
            f". Runs whose compute lies within a factor of {WIDEST:g} are one budget; where the "
            "table has a column of nominal budgets, name it with --budget"
        )
    return f"fewer than two budgets have a minimum inside ({reasons}){advice}"


def _nominal(rows: pd.DataFrame) -> bool:
    """Whether a budget's C is a value of its own, not the compute of its runs."""
    off = np.log(rows["compute"].to_numpy(float) / rows["budget"].to_numpy(float))
    means = pd.Series(off).groupby(rows["budget"].to_numpy(float)).mean()
    return bool((means.abs() > 1e-9).any())


def _has_close_budgets(rows: pd.DataFrame) -> bool:
    """Whether budgets of differing runs lie closer together than a budget may be wide."""
    ranges = rows.groupby("budget")["compute"].agg(["min", "max"]).sort_index()
    gaps = np.log(ranges["min"].to_numpy()[1:] / ranges["max"].to_numpy()[:-1])
    uneven = bool((ranges["max"] / ranges["min"] > 1.001).any())
    return uneven and bool((gaps < np.log(WIDEST)).any())


def of_budgets(analysis: IsoFLOP, rows: pd.DataFrame) -> list[str]:
    """Which compute is a budget's C, where its runs' differ from it."""
    found = []
    low, high = analysis.spread
    nominal = _nominal(rows)
    if max(high, 1 / low) > 1.01:
        which = "its value in the table" if nominal else "the geometric mean of its runs' compute"
        off = np.log(rows["compute"] / rows["budget"]).groupby(rows["budget"]).mean().abs()
        other = bool((off > OTHER_CONVENTION).any())
        then = (
            "this is taken for another way of counting FLOPs"
            if other
            else "the optima are carried to C along the fit"
        )
        found.append(
            f"C of a budget is {which}; its runs used {low:.3g} to {high:.3g} times that, and "
            f"{then}"
        )
    if not nominal and _has_close_budgets(rows):
        found.append(
            f"the runs' compute has no clear gaps: the {rows['budget'].nunique()} budgets are bins "
            f"of at most a factor of {WIDEST:g}; where the table has a column of nominal budgets, "
            "name it with --budget"
        )
    return found


def of_runs(rows: pd.DataFrame) -> list[str]:
    """Labels of --run that are no single runs."""
    if "run" not in rows:
        return []
    sizes = np.log(rows["parameters"]).groupby([rows["budget"], rows["run"]])
    if not ((sizes.max() - sizes.min()) > SAME_SIZE).any():
        return []
    return [
        "a label of --run covers several sizes of a budget (a seed?): each of its sizes counts as "
        "a run; noise that they have in common is not in the intervals"
    ]


def of_repeats(analysis: IsoFLOP, rows: pd.DataFrame) -> list[str]:
    """Rows of one size, data and compute that agree much better than runs do."""
    if "run" in rows or not analysis.windowed:
        return []
    repeats = seed_noise(rows["loss"].to_numpy(float), repeated(rows))
    scatter = relative_sd(analysis.windowed)
    if repeats is None or not scatter > max(TOO_ALIKE * repeats[0], MATERIAL):
        return []
    return [
        f"rows of equal size, tokens and compute agree within {repeats[0]:.2g} of the loss, and "
        f"profiles with their parabolas within {scatter:.2g}: if such rows are evaluations of one "
        "run, name it with --run, else the intervals are too narrow"
    ]


def off_centre(analysis: IsoFLOP) -> list[str]:
    """Minima near an end of their profile, where its shape decides the exponents."""
    beside = [o.compute for o in analysis.good if abs(o.position - 0.5) > 0.5 - OFF_CENTRE]
    if not beside:
        return []
    return [
        f"{budgets_text(beside)}: the minimum lies near an end of its sizes, where a parabola is "
        "biased; add sizes beyond it"
    ]


def of_tokens(analysis: IsoFLOP) -> list[str]:
    """Budgets whose loss has no minimum over tokens."""
    without = [o.compute for o in analysis.good if not np.isfinite(o.tokens)]
    if not without:
        return []
    return [
        f"{budgets_text(without)}: the loss has no minimum over tokens inside the profile, so b "
        "and D* are not known"
    ]


def of_window(analysis: IsoFLOP) -> list[str]:
    """The part of the profiles that was fitted, and whether parabolas fit it."""
    if analysis.method == "akima":
        return []
    found = []
    if np.isfinite(analysis.window):
        found.append(
            f"parabolas are fitted to the sizes within a factor of {analysis.window:g} of the "
            "minimum: over the whole profiles they do not fit"
        )
    sd = float(np.nanmedian([optimum.residual_sd for optimum in analysis.good]))
    misfit = analysis.misfit
    if misfit is not None and misfit.p < SIGNIFICANT and sd > MATERIAL:
        found.append(
            f"the profiles are not quite parabolas (p = {misfit.p:.1g}, residuals of "
            f"{sd:.2%}): compare --minimum akima"
        )
    return found


def of_methods(analysis: IsoFLOP, rows: pd.DataFrame) -> list[str]:
    """Where a parabola and an interpolant find different minima, by more than noise explains."""
    other: Method = "akima" if analysis.method == "parabola" else "parabola"
    one, two = analysis, isoflop(rows, other)
    same_budgets = [o.compute for o in one.good] == [o.compute for o in two.good]
    if not same_budgets or one.size is None or two.size is None:
        return []
    spread = _difference_by_noise(one, two)
    sizes = [np.log([o.parameters for o in each.good]) for each in (one, two)]
    apart = np.abs(sizes[0] - sizes[1])
    noise = BEYOND_NOISE * spread
    beside = np.flatnonzero(apart > np.maximum(OTHER_SIZE, noise[:-1]))
    found = []
    if len(beside):
        budgets = [one.good[i].compute for i in beside]
        times = float(np.exp(apart[beside].max()))
        found.append(
            f"{budgets_text(budgets)}: the minima of a parabola and of an Akima interpolant lie up "
            f"to a factor of {times:.3g} apart"
        )
    a = (one.size.exponent, two.size.exponent)
    if abs(a[0] - a[1]) > max(OTHER_EXPONENT, float(noise[-1])):
        found.append(
            f"a is {a[0]:.4g} with --minimum {one.method} and {a[1]:.4g} with {two.method}: the "
            "profiles' shape decides it"
        )
    return found


def _difference_by_noise(one: IsoFLOP, two: IsoFLOP) -> Array:
    """Standard deviation of the difference in log N* by budget, and in the exponent (last)."""
    parabola, akima = (one, two) if one.method == "parabola" else (two, one)
    losses = simulated_losses(parabola, COMPARED_DRAWS, np.random.default_rng(0))
    whole = simulated_losses(akima, COMPARED_DRAWS, np.random.default_rng(0))
    if losses is None or whole is None:
        return np.zeros(len(one.good) + 1)
    first = refit(parabola.fitted, "parabola", losses)
    second = refit(akima.fitted, "akima", whole)
    by_budget = np.sqrt(np.nanvar(first.size, 0) + np.nanvar(second.size, 0))
    exponent = np.sqrt(np.nanvar(first.exponent()) + np.nanvar(second.exponent()))
    return np.append(by_budget, exponent)


def of_intervals(
    analysis: IsoFLOP, refits: IsoFLOPRefits | None, samples: int, *, kind: Kind | None = None
) -> list[str]:
    """Why there are no intervals, where they were asked for; `kind`: the resampling asked for."""
    if not samples:
        return []
    if refits is None:
        return [
            "no intervals: the profiles have no run more than a parabola has coefficients, so that "
            "the runs' noise is not known"
        ]
    lost = np.isnan(refits.size).mean(0)
    if np.isnan(refits.exponent()).mean() <= 0.1:
        return []
    beside = [o.compute for o, share in zip(analysis.good, lost, strict=True) if share > 0.01]
    few = kind == "runs" and min(map(len, analysis.fitted)) < ENOUGH_RUNS
    remedy = "leave --resample runs out" if few else "add sizes or runs there"
    return [
        f"no intervals: in {np.isnan(refits.exponent()).mean():.0%} of the refits a profile has no "
        f"minimum ({budgets_text(beside)}); {remedy}"
    ]


def far_from_budgets(predictions: Sequence[dict[str, Any]], analysis: IsoFLOP) -> list[str]:
    """Predictions that rest on the power laws and not on data."""
    budgets = [optimum.compute for optimum in analysis.good]
    smallest, largest = min(budgets), max(budgets)
    found = []
    for each in predictions:
        above, below = each["c"] / largest, smallest / each["c"]
        if above > FAR:
            found.append(
                f"the prediction at {each['c']:.3g} lies {times_text(above)} times beyond the "
                "largest budget"
            )
        elif below > FAR:
            found.append(
                f"the prediction at {each['c']:.3g} lies {times_text(below)} times below the "
                "smallest budget"
            )
    return found
