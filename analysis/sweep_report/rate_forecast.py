"""A forecast of a budget's best rate that is written down before the budget is trained, and scored.

`forecasts.jsonl` in the sweep's folder has a line for each: its time, the budget, the forecast with
intervals, the trials that it rests on with a digest of them, and a digest of the line itself. Lines
are only appended. A forecast counts where it is older than every trial of its budget, was not
edited, and its trials are as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.forecasts.register import (
    lines_of,
    no_forecast,
    register,
    rests_on_others,
    was_edited,
)
from analysis.sweep_report.data import ArmFrame, read_sweep
from analysis.sweep_report.rate_profiles import (
    DISTORTION,
    QUANTITIES,
    RATE,
    RECONSTRUCTION,
    Array,
    Best,
    Interval,
    RateAnalysis,
    analyse,
    draws_of,
    estimates_json,
    rate_points,
)
from cola.errors import SpecError
from cola.rate_points import budget_of
from cola.records import Metric, SweepFile

log = logging.getLogger(__name__)

# What a trial's place in a profile rests on.
MEASURED = (Metric.NLL, RATE, DISTORTION, RECONSTRUCTION)


@dataclass(frozen=True)
class Forecast:
    """What the minima of smaller budgets let expect of a larger one, with 95% intervals for what
    its own profile will have; why: where there is none."""

    budget: float
    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    why: str | None = None


def forecast_of(analysis: RateAnalysis, budget: float) -> Forecast:
    """The laws of rate and bound at a budget, and the distortion that they leave.

    Intervals have the laws' uncertainty and that of one profile's minimum, as the largest one's.
    """
    if not analysis.laws or analysis.refits is None:
        few = len(analysis.good)
        why = (
            f"{few} of {len(analysis.best)} smaller budgets have a minimum inside their profile, "
            "and a law takes two"
            if few < 2
            else "the profiles have no more points than their parabolas need, so that nothing is "
            "known of the noise"
        )
        return Forecast(budget, why=why)
    minima, values, draws = draws_of(analysis.refits), {}, {}
    for name in ("rate", "bound"):
        law = analysis.laws[name]
        values[name] = float(law.fit.at(np.array([budget]))[0])
        with np.errstate(invalid="ignore"):
            last = np.log(minima[name][:, -1])
        # Another refit's: the noise of a new profile has nothing to do with that of the old ones.
        own = np.roll(last - np.nanmedian(last), len(last) // 2)
        draws[name] = law.at(budget) * np.exp(own)
    values["distortion"] = values["bound"] - values["rate"]
    draws["distortion"] = draws["bound"] - draws["rate"]
    return Forecast(budget, values, {name: percentiles(draw) for name, draw in draws.items()})


def register_forecast(folder: Path, arm_name: str, budget: float) -> str:
    """Write the forecast for a budget of an arm beside the sweep's trials; a sentence about it.

    A forecast that is there already, from the same trials, is not written again.

    Raises:
        StorageError: the file cannot be written.
    """
    path = folder / SweepFile.FORECASTS
    try:
        frames = read_sweep(folder)
    except SpecError as error:
        return f"no forecast for {budget:.3g} FLOPs: {error}"
    arm = next(arm for arm in frames.arms if arm.name == arm_name)
    rests_on = resting_trials(arm, budget)
    forecast = forecast_of(analyse(rate_points(arm).below(budget)), budget)
    record = {
        "arm": arm_name,
        "budget": budget,
        "rests_on": rests_on,
        **{
            f"{name}_nats_per_token": found
            for name, found in estimates_json(forecast.values, forecast.intervals).items()
        },
        "why_none": forecast.why,
    }
    if not register(path, record, ("arm", "budget")):
        return f"the forecast for {budget:.3g} FLOPs is registered already in {path}"
    log.info("sweep folder %s: forecast for %g FLOPs registered", folder, budget)
    return f"registered in {path}: {forecast_sentence(forecast)}"


def forecast_sentence(forecast: Forecast) -> str:
    """What is expected of the budget, in words."""
    where = f"at {forecast.budget:.3g} FLOPs"
    if forecast.why is not None:
        return f"no forecast {where}: {forecast.why}"
    parts = [
        f"a {'best rate' if name == 'rate' else name} of "
        f"{with_interval(forecast.values[name], forecast.intervals[name])}"
        for name in QUANTITIES
    ]
    return f"{where} expected are {parts[0]}, {parts[1]} and {parts[2]} nats a token"


def with_interval(value: float, interval: Interval) -> str:
    """A number with its 95% interval, where that is known."""
    low, high = interval
    if not np.isfinite([low, high]).all():
        return f"{value:.3f} (95%: not known)"
    return f"{value:.3f} (95%: {low:.3f} to {high:.3f})"


def resting_trials(arm: ArmFrame, budget: float) -> list[dict[str, Any]]:
    """The ended trials of smaller budgets with what they measured, in order."""
    identities = {request.trial: request.identity for request in arm.requests}
    rows = []
    for _, trial in arm.trials.sort_values("trial").iterrows():
        if budget_of(trial) < budget:
            measured = {
                name: float(trial[name])
                for name in MEASURED
                if name in trial and not pd.isna(trial[name])
            }
            number = int(trial["trial"])
            rows.append(
                {"trial": number, "identity": identities.get(number, ""), "state": trial["state"],
                 "metrics": {k: repr(v) for k, v in measured.items()}}
            )  # fmt: skip
    return rows


@dataclass(frozen=True)
class Score:
    """A registered forecast against the budget's own profile, by quantity.

    problem: why it does not count, or cannot be scored yet.
    """

    budget: float
    registered: float | None  # Unix seconds
    forecast: Forecast | None
    measured: Best | None
    problem: str | None = None

    def inside(self, name: str) -> bool | None:
        """Whether the measured value lies in the forecast's interval; None: not known."""
        if self.problem or self.forecast is None or self.measured is None:
            return None
        low, high = self.forecast.intervals[name]
        if not np.isfinite([low, high]).all():
            return None
        return bool(low <= self.measured.values[name] <= high)


def scores(folder: Path, arm: ArmFrame, analysis: RateAnalysis) -> list[Score]:
    """Every budget's newest forecast that is older than its trials, against what was measured.

    Raises:
        StorageError: a line of the file is no forecast.
    """
    path = folder / SweepFile.FORECASTS
    newest: dict[float, tuple[Mapping[str, Any], Forecast]] = {}
    for line in lines_of(path):
        try:
            arm_name, forecast = str(line["arm"]), _read(line)
            float(line["time"]), line["digest"], line["record_digest"]
        except (KeyError, TypeError, ValueError):
            raise no_forecast(path, line, "sweep") from None
        if arm_name == arm.name:
            newest[forecast.budget] = line, forecast
    best = {each.budget: each for each in analysis.best}
    return [_score(arm, *newest[budget], best.get(budget)) for budget in sorted(newest)]


def _score(
    arm: ArmFrame, line: Mapping[str, Any], forecast: Forecast, measured: Best | None, /
) -> Score:
    budget, written = forecast.budget, float(line["time"])
    begun = [r.time for r in arm.requests if budget_of(r.point) == budget]
    problem = None
    if was_edited(line):
        problem = "its line was edited after it was written, so it does not count"
    elif begun and min(begun) <= written:
        problem = "it was written after a trial of that budget had begun, so it does not count"
    elif rests_on_others(line, resting_trials(arm, budget)):
        problem = "the trials that it rests on are other ones by now, so it does not count"
    elif forecast.why is not None:
        problem = f"none could be made: {forecast.why}"
    elif not begun or measured is None:
        problem = "the budget is not trained yet"
    elif measured.trouble is not None:
        problem = f"the budget's profile has no minimum inside ({measured.trouble})"
    return Score(budget, written, forecast, measured, problem)


def _read(line: Mapping[str, Any]) -> Forecast:
    values, intervals = {}, {}
    for name in QUANTITIES:
        entry = line.get(f"{name}_nats_per_token")
        if isinstance(entry, Mapping):
            values[name] = float(entry["estimate"])
            low, high = entry["interval"]
            intervals[name] = (
                float("nan") if low is None else float(low),
                float("nan") if high is None else float(high),
            )
    why = line.get("why_none")
    return Forecast(float(line["budget"]), values, intervals, str(why) if why else None)


def drawn_line(analysis: RateAnalysis, name: str, compute: Array) -> tuple[Array, Array] | None:
    """95% band of a law at these C; None without refits."""
    law = analysis.laws.get(name)
    if law is None or not len(law.draws[0]):
        return None
    bands = [percentiles(law.at(float(c))) for c in compute]
    return np.array([low for low, _ in bands]), np.array([high for _, high in bands])
