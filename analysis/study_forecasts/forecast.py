"""What the runs of smaller budgets let expect of a larger one: a curve's value with its bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.laws import LAWS
from analysis.metric_laws.bounded import Range
from analysis.metric_report.curves import MetricCurve, fit_curve, predictions
from analysis.metric_report.measurements import Measurements, measured
from analysis.metric_report.quantities import AVERAGE, GROUPS, Quantity, quantities
from analysis.plotting.variants import variants_of
from analysis.report.family_fits import best_size_runs, fit_points
from analysis.report.reference import informative, lines_of
from analysis.report.runs import StudyFrames
from cola.errors import FitError, SpecError
from cola.families.registry import curve_label
from cola.records import Metric

NEAR = 1.05  # chosen: a run is of the target where its budget lies within this factor of it
ASSUMED = "budget_assumed"
Ends = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """A study's finished runs by one metric. fitted: by run_id, whether a loss's fit sees the run.
    compute: the convention of FLOPs."""

    frames: StudyFrames
    found: Measurements
    fitted: pd.Series
    compute: str

    @property
    def quantity(self) -> Quantity:
        """What was measured."""
        return self.found.quantity

    @property
    def curves(self) -> dict[str, str]:
        """Families by curve."""
        return variants_of(self.frames.runs)

    def label(self, variant: str) -> str:
        """The curve's name for people."""
        return curve_label(variant, self.curves[variant])

    def of(self, variant: str) -> pd.DataFrame:
        """The curve's finished and measured runs."""
        return self.found.rows[self.found.rows["variant"] == variant]


@dataclass(frozen=True)
class Forecast:
    """A value at `target` FLOPs with 95% intervals of the curve and of a new run; `beyond`: the
    target over the largest compute that the fit has seen."""

    target: float
    law: str
    parameters: Mapping[str, float]
    value: float
    of_curve: Ends
    of_new_run: Ends
    beyond: float
    rests_on: list[dict[str, Any]]
    notes: tuple[str, ...]


def measured_study(frames: StudyFrames, metric: str | None = None) -> Measured:
    """The finished runs by a metric; None: the loss that the report fits.

    Raises:
        SpecError: no run is finished, or none has the metric.
    """
    if frames.points.empty or not frames.points["is_final"].any():
        raise SpecError(
            "no run is finished yet, so that a forecast has nothing to rest on; wait for the runs "
            "of the smaller budgets"
        )
    final = frames.points[frames.points["is_final"]]
    recorded = {key for run in final["run_id"] for key in frames.metrics.get(run, {})}
    default = Metric.TEST_NLL if frames.split == "test" else Metric.NLL
    found = measured(frames, one_quantity(metric or default, recorded))
    fitted = pd.Series(
        informative(final, lines_of(frames.runs)).to_numpy(), index=final["run_id"], dtype=bool
    )
    return Measured(frames, found, fitted, str(frames.runs["compute"].iloc[0]))


def one_quantity(name: str, recorded: set[str]) -> Quantity:
    """The metric of this name; of a group of tasks their average.

    Raises:
        SpecError: no run has it, or it has no known range.
    """
    group, _, part = name.partition("/")
    if name in GROUPS or (group in GROUPS and part == AVERAGE):
        return quantities([group], recorded)[0][-1]
    return quantities([name], recorded)[0][0]


def forecast_of(data: Measured, variant: str, target: float, law: str | None = None) -> Forecast:
    """The curve through the runs below the target, at the target.

    Raises:
        FitError: they carry no curve.
    """
    mine = data.of(variant)
    below = mine[mine["budget"] < target / NEAR]
    if below.empty:
        raise FitError(f"no finished run has a budget below {target:.3g} FLOPs")
    fit = curve_below(data, below, variant, law=law)
    if fit.curve is None:
        raise FitError("; ".join(fit.notes) or "no curve")
    (predicted,) = predictions(fit.curve, [target])
    larger = int((mine["budget"] > target * NEAR).sum())
    notes = list(fit.notes)
    if larger:
        runs = "run of a larger budget is" if larger == 1 else "runs of larger budgets are"
        notes.append(f"{larger} finished {runs} not used")
    return Forecast(
        target,
        fit.law,
        {name: each.value for name, each in fit.parameters.items()},
        predicted.value.value,
        (predicted.value.low, predicted.value.high),
        (predicted.new_low, predicted.new_high),
        predicted.beyond,
        resting(below, data.compute),
        tuple(notes),
    )


def curve_below(
    data: Measured, below: pd.DataFrame, variant: str, *, law: str | None
) -> MetricCurve:
    """The fit of these runs of a curve.

    Raises:
        FitError: they lack the budgets that the law needs.
    """
    if law is not None:
        check_law(law, data.quantity)
    part = replace(data.found, rows=below)
    family = data.curves[variant]
    return fit_curve(part, data.fitted, data.compute, variant=variant, family=family, law=law)


def check_law(law: str, quantity: Quantity) -> None:
    """Refuse a law that forecasts of this metric do not take.

    Raises:
        SpecError: with those that they take.
    """
    taken = [name for name, entry in LAWS.items() if not entry.needs_size]
    if law not in taken:
        raise SpecError(
            f"--law {law}: forecasts of a study go through the best size of every budget; give "
            f"{', '.join(taken)}, or leave it out"
        )
    if quantity.range is not None:
        raise SpecError(
            f"--law {law}: {quantity.key} has a ceiling and follows a sigmoid; leave it out"
        )


def resting(rows: pd.DataFrame, compute: str) -> list[dict[str, Any]]:
    """The runs that a forecast rests on, with what it reads of them, in order. `budget_assumed`: of
    an imported run whose budget is the mean compute of the runs near it."""
    return [
        {
            "run": str(run["name"]),
            "run_key": str(run["run_key"]),
            "budget": repr(float(run["budget"])),
            "value": repr(float(run["value"])),
            "compute": repr(float(run[f"train_flops_{compute}"])),
            "parameters": repr(float(run["core_parameters"])),
        }
        | ({ASSUMED: True} if bool(run.get(ASSUMED, False)) else {})
        for _, run in rows.sort_values(["budget", "run_key"]).iterrows()
    ]


def best_runs(data: Measured, variant: str, target: float) -> pd.DataFrame:
    """The finished runs of a curve at the target: of its best size there, all seeds."""
    mine = data.of(variant)
    there = mine[is_at(mine["budget"], target)]
    if there.empty:
        return there
    nearest = there["budget"].iloc[np.abs(np.log(there["budget"] / target)).argmin()]
    there = there[there["budget"] == nearest]
    sign = -1.0 if better_is_higher(data.quantity.range) else 1.0
    points = fit_points(there.assign(worse=sign * there["value"]), data.compute, "worse")
    return there.loc[best_size_runs(points).index]


def better_is_higher(values: Range | None) -> bool:
    """Whether larger values of a quantity of this range are the better ones; losses have none."""
    return values is not None and values.better == "higher"


def is_at(budgets: pd.Series, target: float) -> pd.Series:
    """Which budgets are those of the target."""
    return (budgets < target * NEAR) & (budgets > target / NEAR)
