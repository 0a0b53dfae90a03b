"""Profiles of the bound over the rate at every budget of a sweep, and how their minima grow.

The machinery is that of IsoFLOP profiles with the measured rate (nats a token that latents cost) in
place of the size. Of keys of training the best value counts at each point. Points whose latents
say next to nothing, and profiles without a minimum inside, are named and enter nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.isoflop import bootstrap_isoflop, data_seed
from analysis.profiles.analysis import IsoFLOP, Optimum, PowerFit, isoflop, power_fit
from analysis.profiles.profile import LEAST_SIZES, Profile, profiles_of
from analysis.profiles.refits import IsoFLOPRefits
from analysis.sweep_report.data import ArmFrame, point_label
from analysis.tables.json_numbers import without_nan
from cola import records
from cola.rate_points import LADDER, budget_of, is_of_training
from cola.records import SOLVER_TOLERANCE, Metric
from cola.spec.base import canonical_json

Array = NDArray[np.float64]
Interval = tuple[float, float]

# Nats a token: below, latents hold nothing. Chosen: channels that held nothing cost 0.00 to 0.04,
# the narrowest one in use 0.48.
SILENT_RATE = 0.05
REFITS = 2000  # chosen: draws behind an interval
RATE, DISTORTION = Metric.val_nats(records.RATE), Metric.val_nats(records.DISTORTION)
RECONSTRUCTION = Metric.val("reconstruction")
SOLVER_DIFFERENCE = Metric.val(records.SOLVER_DIFFERENCE)
QUANTITIES = ("rate", "distortion", "bound")


@dataclass(frozen=True)
class RatePoints:
    """Runs that profiles are made of: trial, seed, point, budget, rate, distortion, bound and the
    other metrics. Those of `silent` latents are left out of profiles.

    notes: what was chosen or is missing, a sentence each.
    """

    runs: pd.DataFrame
    silent: pd.DataFrame
    notes: tuple[str, ...] = ()

    def below(self, budget: float) -> RatePoints:
        """The points of smaller budgets."""
        runs, dead = self.runs, self.silent
        return RatePoints(runs[runs["budget"] < budget], dead[dead["budget"] < budget], self.notes)


@dataclass(frozen=True)
class Best:
    """Rate, distortion and bound at the minimum of a budget's profile, each with its 95% interval
    (NaN: not known). trouble: why there is none; widen: what would help."""

    budget: float
    rates: int
    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    trouble: str | None = None
    widen: str | None = None


@dataclass(frozen=True)
class Law:
    """coefficient (C / scale)^exponent of a quantity at the minima, with the exponent's interval;
    draws: (exponents, log levels at the scale) of the refits."""

    fit: PowerFit
    interval: Interval
    draws: tuple[Array, Array]

    def at(self, compute: float) -> Array:
        """The law's value at this C in every refit."""
        slope, level = self.draws
        return np.asarray(np.exp(level + slope * np.log(compute / self.fit.scale)))


@dataclass(frozen=True)
class RateAnalysis:
    """Minima by budget, and the laws of their growth by quantity (none with fewer than two)."""

    best: tuple[Best, ...]
    laws: dict[str, Law]
    analysis: IsoFLOP | None
    refits: IsoFLOPRefits | None
    runs: pd.DataFrame

    @property
    def good(self) -> list[Best]:
        """Budgets with a minimum inside their profile."""
        return [best for best in self.best if best.trouble is None]


def estimates_json(
    values: Mapping[str, float], intervals: Mapping[str, Interval]
) -> dict[str, Any]:
    """Values by quantity with their intervals; numbers that are not known are null."""
    return {
        name: without_nan({"estimate": value, "interval": intervals[name]})
        for name, value in values.items()
    }


def rate_points(arm: ArmFrame, metrics: Sequence[str] = ()) -> RatePoints:
    """The runs of the best trial at every point of the rate, with these metrics beside the bound;
    no runs where trials have no distortion."""
    done = arm.finished
    parts = [name for name in (DISTORTION, RECONSTRUCTION) if name in done]
    if done.empty or Metric.NLL not in done or not parts:
        note = (
            f"no trial that finished has {Metric.NLL} with {DISTORTION}, or with {RECONSTRUCTION}: "
            "rates are not known (importance_samples above 1 gives no parts)"
        )
        return RatePoints(pd.DataFrame({"budget": []}), pd.DataFrame({"budget": []}), (note,))
    measured = done[np.isfinite(done[Metric.NLL]) & np.isfinite(done[parts[0]])]
    chosen, notes = best_of_training(arm, measured)
    rows = [
        _row(arm, trial, run, distortion=parts[0], metrics=metrics)
        for _, trial in chosen.iterrows()
        for _, run in arm.runs[arm.runs["trial"] == trial["trial"]].iterrows()
        if run["state"] == "finished"
    ]
    columns = ["trial", "seed", "point", "budget", "rate", "distortion", "bound", *metrics]
    table = pd.DataFrame(rows, columns=columns)
    table = table[np.isfinite(table[["rate", "distortion", "bound"]].astype(float)).all(axis=1)]
    is_dead = table["rate"] < SILENT_RATE
    notes += [*_about_numbers(done, measured)]
    return RatePoints(table[~is_dead], table[is_dead], tuple(notes))


def _about_numbers(done: pd.DataFrame, measured: pd.DataFrame) -> Iterator[str]:
    """Trials whose numbers are missing, or are no bounds."""
    if SOLVER_DIFFERENCE in measured:
        far = int((measured[SOLVER_DIFFERENCE].abs() > SOLVER_TOLERANCE).sum())
        if far:
            yield (
                f"the NLL of {far} of {len(measured)} trials is an estimate and no bound: its "
                f"solver moves it by more than {SOLVER_TOLERANCE} nats a latent"
            )
    left = len(done) - len(measured)
    if left:
        yield f"{left} finished trials have no finite bound or distortion and are left out"


def _row(
    arm: ArmFrame, trial: pd.Series, run: pd.Series, *, distortion: str, metrics: Sequence[str]
) -> dict[str, Any]:
    rate = run.get(RATE, np.nan)
    rate = rate if np.isfinite(rate) else run[Metric.NLL] - run[distortion]
    return {
        "trial": int(trial["trial"]),
        "seed": int(run["seed"]),
        "point": point_without_budget(arm, trial),
        "budget": budget_of(trial),
        "rate": float(rate),
        "distortion": float(run[distortion]),
        "bound": float(run[Metric.NLL]),
        **{name: float(run.get(name, np.nan)) for name in metrics},
    }


def best_of_training(arm: ArmFrame, done: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The trial with the lowest bound at every budget and point of the rate, and what is to be
    known of that choice."""
    if done.empty:
        return done, []
    training = [key for key in arm.keys if is_of_training(key)]
    others = [key for key in arm.keys if not is_of_training(key)]
    labels = done.apply(lambda row: canonical_json([row[key] for key in others]), axis=1)
    chosen, edges, several = [], 0, 0
    for _, group in done.groupby(labels, sort=False):
        best = group.loc[group[Metric.NLL].idxmin()]
        chosen.append(best)
        several += len(group) > 1
        edges += any(_is_at_edge(group, best, key) for key in training)
    notes = []
    if not several:
        notes.append(
            "settings of training are the same at all points of a budget, not tuned at each"
        )
    if edges:
        notes.append(
            f"the best setting of training lies on the edge of those tried at {edges} of "
            f"{len(chosen)} points; wider ranges may lower them"
        )
    return pd.DataFrame(chosen, columns=done.columns), notes


def _is_at_edge(group: pd.DataFrame, best: pd.Series, key: str) -> bool:
    values = group[key].dropna()
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values) or len(set(numbers)) < 2:
        return False
    return bool(best[key] in (min(numbers), max(numbers)))


def analyse(points: RatePoints) -> RateAnalysis:
    """The minimum of every budget's profile, and how rate, distortion and bound grow there."""
    runs = points.runs
    if runs.empty:
        return RateAnalysis((), {}, None, None, runs)
    table = profile_table(runs, runs["bound"])
    analysis = isoflop(table)
    refits = bootstrap_isoflop(analysis, REFITS, data_seed(table, 0))
    profiles = {profile.compute: profile for profile in profiles_of(table)}
    draws = {} if refits is None else draws_of(refits)
    best, kept, place = [], [], 0
    for optimum in analysis.optima:
        found = _without(optimum, profiles[optimum.compute])
        if optimum.trouble is None:
            mine = {name: values[:, place] for name, values in draws.items()}
            found = _best(optimum, profiles[optimum.compute], mine)
            kept += [place] if found.trouble is None else []
            place += 1
        best.append(found)
    refits = None if refits is None else _at(refits, kept)
    draws = {name: values[:, kept] for name, values in draws.items()}
    good = [each for each in best if each.trouble is None]
    laws = {
        name: _law(good, name, draws.get(name))
        for name in QUANTITIES
        if len(good) > 1 and all(each.values[name] > 0 for each in good)
    }
    return RateAnalysis(tuple(best), laws, analysis, refits, runs)


def _at(refits: IsoFLOPRefits, kept: list[int]) -> IsoFLOPRefits:
    """The refits of some of their budgets."""
    parts = (values[:, kept] for values in (refits.size, refits.tokens, refits.loss))
    return IsoFLOPRefits(refits.compute[kept], *parts)


def profile_table(runs: pd.DataFrame, loss: pd.Series) -> pd.DataFrame:
    """Runs as profiles take them: the rate for the size, tokens as 6 N D = C has them."""
    return pd.DataFrame(
        {
            "budget": runs["budget"],
            "parameters": runs["rate"],
            "tokens": runs["budget"] / (6 * runs["rate"]),
            "compute": runs["budget"],
            "loss": loss,
        }
    )


def draws_of(refits: IsoFLOPRefits) -> dict[str, Array]:
    """Rate, distortion and bound at the minima of every refit, (K, b)."""
    rate, bound = np.exp(refits.size), np.exp(refits.loss)
    return {"rate": rate, "distortion": bound - rate, "bound": bound}


def _best(optimum: Optimum, profile: Profile, draws: dict[str, Array]) -> Best:
    """The minimum, if its interval lies inside the profile; where none is known, if its lowest
    point does."""
    values = {
        "rate": optimum.parameters,
        "distortion": optimum.loss - optimum.parameters,
        "bound": optimum.loss,
    }
    unknown = (float("nan"), float("nan"))
    intervals = {
        name: percentiles(draws[name]) if name in draws else unknown for name in QUANTITIES
    }
    rates, lowest = _rates_and_lowest(profile)
    low, high = intervals["rate"]
    if np.isfinite([low, high]).all():
        if not rates[0] < low <= high < rates[-1]:
            trouble = f"the minimum's interval, {low:.3g} to {high:.3g}, reaches the profile's edge"
            side = 0 if low <= rates[0] else len(rates) - 1
            return Best(optimum.compute, optimum.sizes, trouble=trouble, widen=_widen(rates, side))
    elif lowest in (0, len(rates) - 1):
        trouble = "the lowest bound is at the edge of the profile"
        return Best(optimum.compute, optimum.sizes, trouble=trouble, widen=_widen(rates, lowest))
    return Best(optimum.compute, optimum.sizes, values, intervals)


def _without(optimum: Optimum, profile: Profile) -> Best:
    """A profile without a minimum inside, and what would give it one."""
    rates, lowest = _rates_and_lowest(profile)
    if profile.sizes < LEAST_SIZES:
        widen = f"give it at least {LEAST_SIZES} different rates"
        trouble = f"it has {profile.sizes} of the {LEAST_SIZES} different rates that it takes"
        return Best(optimum.compute, profile.sizes, trouble=trouble, widen=widen)
    trouble = (optimum.trouble or "").replace("sizes", "rates").replace("size", "rate")
    return Best(optimum.compute, profile.sizes, trouble=trouble, widen=_widen(rates, lowest))


def _rates_and_lowest(profile: Profile) -> tuple[Array, int]:
    """The different rates of a profile from small to large, and the place of the lowest bound."""
    rates = np.exp(profile.means_by_size(profile.log_n))
    return rates, int(profile.means_by_size(profile.loss).argmin())


def _widen(rates: Array, lowest: int) -> str:
    """To which side a profile is to be widened for a minimum inside."""
    if lowest == 0:
        return f"widen it towards lower rates than {rates[0]:.3g}"
    if lowest == len(rates) - 1:
        return f"widen it towards higher rates than {rates[-1]:.3g}"
    return f"widen it on both sides of {rates[0]:.3g} to {rates[-1]:.3g}"


def _law(good: Sequence[Best], name: str, draws: Array | None) -> Law:
    compute = np.array([best.budget for best in good])
    fit = power_fit(compute, np.array([best.values[name] for best in good]))
    if draws is None:
        return Law(fit, (float("nan"), float("nan")), (np.zeros(0), np.zeros(0)))
    x = np.log(compute / fit.scale)
    with np.errstate(invalid="ignore"):
        y = np.log(draws)
    slope, level = y @ x / (x @ x), y.mean(1)
    return Law(fit, percentiles(slope), (slope, level))


def point_without_budget(arm: ArmFrame, trial: pd.Series) -> str:
    """A trial's point for people, of which a profile has the budget already."""
    return point_label(replace(arm, keys=[key for key in arm.keys if key != LADDER]), trial)
