"""Forecasts of a study against what its runs then measured; and laws against budgets held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.forecasts.register import lines_of, no_forecast, was_edited
from analysis.report.runs import StudyFrames
from analysis.study_forecasts.forecast import (
    ASSUMED,
    NEAR,
    Ends,
    Measured,
    best_runs,
    forecast_of,
    measured_study,
    resting,
)
from analysis.study_forecasts.registration import FORMAT, curves_of, plain, runs_at
from cola.errors import FitError, SpecError
from cola.families.registry import curve_label
from cola.records import STUDY_FORECASTS

ENDED = ("finished", "failed", "diverged")  # states of runs that no driver resumes
SPENT_APART = 0.01  # chosen: share of a budget by which a run's compute may differ unsaid


@dataclass(frozen=True)
class Score:
    """A forecast and what was measured. `registered`: Unix seconds; None: held out. `measured`: of
    the best size, the mean over its seeds. `problem`: why it does not count, or is not scored yet.
    """

    curve: str
    label: str
    metric: str
    unit: str
    target: float
    law: str
    value: float
    of_curve: Ends
    of_new_run: Ends
    extrapolation: float
    runs_below: int
    registered: float | None
    measured: float | None = None
    runs: tuple[str, ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def error(self) -> float | None:
        """Measured less forecast, in the metric's unit."""
        return None if self.measured is None else self.measured - self.value

    @property
    def error_in_widths(self) -> float | None:
        """The error over the width of the new run's interval."""
        width = self.of_new_run[1] - self.of_new_run[0]
        if self.error is None or not math.isfinite(width) or width <= 0:
            return None
        return self.error / width

    def inside(self, ends: Ends) -> bool | None:
        """Whether the measured value lies in an interval of the forecast; None: not known."""
        if self.measured is None or not all(map(math.isfinite, ends)):
            return None
        return ends[0] <= self.measured <= ends[1]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "curve": self.curve,
            "metric": self.metric,
            "unit": self.unit,
            "target": self.target,
            "kind": "held out, not registered" if self.registered is None else "registered",
            "registered": self.registered,
            "law": self.law,
            "runs_below": self.runs_below,
            "extrapolation": self.extrapolation,
            "forecast": self.value,
            "curve_interval_95": plain(self.of_curve),
            "new_run_interval_95": plain(self.of_new_run),
            "measured": self.measured,
            "runs": list(self.runs),
            "error": self.error,
            "error_in_band_widths": self.error_in_widths,
            "inside_curve_interval": self.inside(self.of_curve),
            "inside_new_run_interval": self.inside(self.of_new_run),
            "counts": self.problem is None,
            "problem": self.problem,
            "notes": list(self.notes),
        }


def registered_scores(frames: StudyFrames, folder: Path) -> list[Score]:
    """Of every curve, target and metric the newest registered forecast, scored where its run is
    finished.

    Raises:
        StorageError: a line of the file is no forecast, or the file cannot be read.
    """
    newest: dict[tuple[str, float, str], tuple[int, Mapping[str, Any]]] = {}
    path = folder / STUDY_FORECASTS
    for line in lines_of(path):
        try:
            read_line(line)
            key = str(line["curve"]), float(line["target"]), str(line["metric"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise no_forecast(path, line, "study") from None
        newest[key] = newest.get(key, (0, line))[0] + 1, line
    data: dict[str, Measured | SpecError] = {}
    for *_, metric in newest:
        data[metric] = _measured(frames, metric)
    order = sorted(newest, key=lambda key: (key[2], key[1], key[0]))
    return [_score(data[key[2]], *newest[key], frames) for key in order]


def _measured(frames: StudyFrames, metric: str) -> Measured | SpecError:
    try:
        return measured_study(frames, metric)
    except SpecError as error:
        return error


def read_line(line: Mapping[str, Any]) -> Score:
    """The forecast of a line, not scored yet.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the line is no forecast of a study.
    """
    if line["format"] != FORMAT:
        raise ValueError(f"format {line['format']}")
    str(line["digest"]), str(line["record_digest"])
    below = [str(run["run_key"]) for run in line["rests_on"]]
    return Score(
        str(line["curve"]),
        str(line["curve"]),
        str(line["metric"]),
        str(line["unit"]),
        float(line["target"]),
        str(line["law"]),
        float(line["value"]),
        _ends(line["curve_interval_95"]),
        _ends(line["new_run_interval_95"]),
        float(line["extrapolation"]),
        len(below),
        float(line["time"]),
        notes=tuple(map(str, line["notes"])),
    )


def _ends(values: Sequence[float | None]) -> Ends:
    low, high = (math.nan if end is None else float(end) for end in values)
    return low, high


def _score(
    data: Measured | SpecError, count: int, line: Mapping[str, Any], frames: StudyFrames, /
) -> Score:
    forecast = read_line(line)
    notes = [*forecast.notes, *_begun(line)]
    if count > 1:
        notes.append(f"the newest of {count} that were registered")
    if isinstance(data, SpecError):
        return _with(forecast, notes, problem=f"it cannot be scored: {data}")
    if forecast.curve not in data.curves:
        return _with(forecast, notes, problem="the study has no such curve by now")
    label = curve_label(forecast.curve, data.curves[forecast.curve])
    there = best_runs(data, forecast.curve, forecast.target)
    changes, added = changed_runs(data, line)
    notes += added
    if was_edited(line):
        problem: str | None = "its line was edited after it was written, so it does not count"
    elif late := _finished_before(data, forecast):
        problem = f"it was registered after {late} had finished, so it does not count"
    elif changes:
        problem = f"the runs that it rests on have changed ({changes}), so it does not count"
    elif there.empty:
        problem = "its run is not finished yet"
    elif left := _open_runs(data, forecast):
        problem = f"{left}, so it does not count yet"
    else:
        problem = None
    notes += _of_measurement(there, data, forecast)
    return _with(forecast, notes, problem=problem, label=label, there=there)


def _with(
    forecast: Score,
    notes: Sequence[str],
    *,
    problem: str | None,
    label: str | None = None,
    there: pd.DataFrame | None = None,
) -> Score:
    values = vars(forecast) | {"problem": problem, "notes": tuple(notes)}
    values["label"] = label or forecast.label
    if there is not None and len(there):
        values["measured"] = float(there["value"].mean())
        values["runs"] = tuple(sorted(map(str, there["name"])))
    return Score(**values)


def _begun(line: Mapping[str, Any]) -> list[str]:
    """What the runs at the target had done when the forecast was written."""
    begun = [run for run in line["target_runs"] if run["spent"] > 0]
    return [
        f"registered when {run['run']} had spent {float(run['spent']):.0%} of its budget"
        for run in begun
    ]


def _finished_before(data: Measured, forecast: Score) -> str | None:
    """The finished run at the target that ended before the forecast was written, if any."""
    there = runs_at(data, forecast.curve, forecast.target)
    ended = there.loc[there["status"] == "finished", ["name", "ended"]].dropna()
    late = ended[ended["ended"].astype(float) / 1000 <= (forecast.registered or 0.0)]
    return None if late.empty else str(late["name"].iloc[0])


def changed_runs(data: Measured, line: Mapping[str, Any]) -> tuple[str, list[str]]:
    """How the runs that a forecast rests on differ from what they were; and what came since."""
    current = resting(data.of(str(line["curve"])), data.compute)
    by_key = {run["run_key"]: run for run in current}
    before = {str(run["run_key"]): run for run in line["rests_on"]}
    gone = [str(run["run"]) for key, run in before.items() if key not in by_key]
    other = [str(run["run"]) for key, run in before.items() if _differ(by_key.get(key, run), run)]
    parts = [
        f"{what} {', '.join(names)}"
        for what, names in (("gone:", gone), ("other numbers:", other))
        if names
    ]
    below = float(line["target"]) / NEAR
    since = [r for r in current if r["run_key"] not in before and float(r["budget"]) < below]
    notes = []
    if since:
        runs = "run" if len(since) == 1 else "runs"
        notes.append(f"{len(since)} further {runs} of smaller budgets finished since")
    return "; ".join(parts), notes


def _differ(run: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a run has other numbers. A budget that is assumed moves with other runs: the run's
    compute counts there."""
    assumed = run.get(ASSUMED) or before.get(ASSUMED)
    return any(
        run.get(key) != before.get(key)
        for key in ("value", "compute", "parameters", *(() if assumed else ("budget",)))
    )


def _open_runs(data: Measured, forecast: Score) -> str | None:
    """That runs at the target may still end with a better value; None where all have ended."""
    runs = runs_at(data, forecast.curve, forecast.target)
    left = runs[~runs["status"].isin(ENDED)].sort_values("name")
    names = [f"{run['name']} is {run['status']}" for _, run in left.iterrows()]
    if not names:
        return None
    have = "has" if len(names) == 1 else "have"
    return f"{len(left)} of its {len(runs)} runs {have} not ended ({', '.join(names)})"


def _of_measurement(there: pd.DataFrame, data: Measured, forecast: Score) -> list[str]:
    """What to know of the measured runs."""
    notes = []
    if len(there) > 1:
        low, high = forecast.of_new_run
        inside = int(there["value"].between(low, high).sum())
        notes.append(f"measured: mean of {len(there)} runs, {inside} of them inside by themselves")
    runs = runs_at(data, forecast.curve, forecast.target)
    if len(there) and runs.loc[runs["status"] == "finished", "ended"].isna().any():
        notes.append("when the run ended is not recorded: nothing shows that the forecast is older")
    if len(there):
        spent = float(there[f"train_flops_{data.compute}"].mean()) / forecast.target
        if abs(spent - 1) > SPENT_APART:
            notes.append(f"the run used {spent:.3f} times the target's compute")
    return notes


def held_out_scores(
    data: Measured, rungs: int, curves: Sequence[str] = (), law: str | None = None
) -> tuple[list[Score], list[str]]:
    """The law of the smaller budgets against each curve's `rungs` largest finished ones, and curves
    that have too few budgets.

    Raises:
        SpecError: no curve has enough of them.
    """
    scores, skipped = [], []
    for variant in curves_of(data, curves):
        budgets = sorted(set(data.of(variant)["budget"]))
        below = budgets[: max(0, len(budgets) - rungs)]
        for target in budgets[len(below) :]:
            try:
                if not below:
                    raise FitError(f"no budget is left of its {len(budgets)} finished ones")
                scores.append(_held_out(data, variant, float(target), law=law, largest=below[-1]))
            except FitError as error:
                skipped.append(f"{data.label(variant)} at {target:.3g} FLOPs: {error}")
    if not scores:
        raise SpecError(f"--hold-out: no curve can be scored ({'; '.join(skipped) or 'no runs'})")
    return scores, skipped


def _held_out(
    data: Measured, variant: str, target: float, *, law: str | None, largest: float
) -> Score:
    kept = data.found.rows["budget"] <= largest
    mine = data.found.rows["variant"] == variant
    rows = data.found.rows[~mine | kept]
    part = Measured(
        data.frames, type(data.found)(data.quantity, rows, ()), data.fitted, data.compute
    )
    found = forecast_of(part, variant, target, law)
    there = best_runs(data, variant, target)
    unscored = Score(
        variant, data.label(variant), data.quantity.key, data.quantity.unit, target, found.law,
        found.value, found.of_curve, found.of_new_run, found.beyond, len(found.rests_on), None,
    )  # fmt: skip
    notes = [n for n in _of_measurement(there, data, unscored) if not n.startswith("when the run")]
    notes = [*found.notes, *notes]
    return _with(unscored, notes, problem=None, label=unscored.label, there=there)
