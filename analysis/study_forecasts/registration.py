"""Writes forecasts of a study's larger budgets down before their runs have finished."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.forecasts.register import register
from analysis.study_forecasts.forecast import (
    Forecast,
    Measured,
    check_law,
    forecast_of,
    is_at,
)
from cola.errors import FitError, SpecError
from cola.records import STUDY_FORECASTS

log = logging.getLogger(__name__)

FORMAT = 1
SAME = ("curve", "target", "metric", "law", "law_given")  # keys of a forecast that is there already


@dataclass(frozen=True)
class Asked:
    """What is to be forecast: targets in FLOPs; `curves` by name, all where it is empty."""

    targets: Sequence[float]
    curves: Sequence[str] = ()
    metric: str | None = None
    law: str | None = None


@dataclass(frozen=True)
class Registered:
    """What was written, line by line; `new`: whether each was not there before. `skipped`: curves
    without a forecast, and why."""

    path: Path
    lines: list[dict[str, Any]]
    new: list[bool]
    skipped: list[str]


def register_forecasts(study: str, data: Measured, folder: Path, asked: Asked) -> Registered:
    """Write a forecast a curve and target into the study's folder.

    Raises:
        SpecError: nothing can be registered: the runs at the targets are finished, or the runs
            below carry no curve; a curve that the study does not have.
        StorageError: the file cannot be written.
    """
    path = folder / STUDY_FORECASTS
    lines, new, skipped = [], [], []
    if asked.law is not None:
        check_law(asked.law, data.quantity)
    for target in asked.targets:
        for variant in curves_of(data, asked.curves):
            where = f"{data.label(variant)} at {target:.3g} FLOPs"
            done = finished_at(data, variant, target)
            if done:
                skipped.append(f"{where}: {', '.join(done)} finished already")
                continue
            try:
                found = forecast_of(data, variant, target, asked.law)
            except FitError as error:
                skipped.append(f"{where}: {error}")
                continue
            record = record_of(study, data, variant, found, given=asked.law is not None)
            new.append(register(path, record, SAME))
            lines.append(record)
    if not lines:
        raise SpecError(
            f"study {study}: nothing can be forecast ({'; '.join(skipped)}); give a --target that "
            "no run has reached, or score finished ones held out: `cola forecast score "
            f"{study} --hold-out top`"
        )
    log.info("study %s: %d forecasts in %s", study, len(lines), path)
    return Registered(path, lines, new, skipped)


def curves_of(data: Measured, names: Sequence[str]) -> list[str]:
    """The curves of these names (a curve's, its label or its family's); all without names.

    Raises:
        SpecError: a name that no curve has.
    """
    if not names:
        return list(data.curves)
    chosen: list[str] = []
    for name in names:
        mine = [c for c, family in data.curves.items() if name in (c, data.label(c), family)]
        if not mine:
            raise SpecError(
                f"--family {name}: the study has no such curve; it has {', '.join(data.curves)}"
            )
        chosen += [curve for curve in mine if curve not in chosen]
    return chosen


def runs_at(data: Measured, variant: str, target: float) -> pd.DataFrame:
    """All runs of a curve at the target, in any state."""
    runs = data.frames.runs
    mine = runs[runs["variant"] == variant]
    return mine[is_at(mine["budget"], target)]


def finished_at(data: Measured, variant: str, target: float) -> list[str]:
    """Names of the curve's finished runs at the target."""
    there = runs_at(data, variant, target)
    return sorted(map(str, there.loc[there["status"] == "finished", "name"]))


def record_of(
    study: str, data: Measured, variant: str, found: Forecast, *, given: bool
) -> dict[str, Any]:
    """A forecast as its file has it, without time and digests."""
    return {
        "format": FORMAT,
        "study": study,
        "curve": variant,
        "family": data.curves[variant],
        "metric": data.quantity.key,
        "unit": data.quantity.unit,
        "compute": data.compute,
        "target": found.target,
        "law": found.law,
        "law_given": given,
        "parameters": {name: float(value) for name, value in found.parameters.items()},
        "value": found.value,
        "curve_interval_95": plain(found.of_curve),
        "new_run_interval_95": plain(found.of_new_run),
        "extrapolation": found.beyond,
        "target_runs": target_runs(data, variant, found.target),
        "notes": list(found.notes),
        "rests_on": found.rests_on,
    }


def target_runs(data: Measured, variant: str, target: float) -> list[dict[str, Any]]:
    """The runs at the target when the forecast is written: their state, and the share of their
    budget that they had spent."""
    found = []
    for _, run in runs_at(data, variant, target).iterrows():
        spent = run[f"train_flops_{data.compute}"]
        share = 0.0 if pd.isna(spent) else float(spent) / float(run["budget"])
        found.append({"run": str(run["name"]), "status": str(run["status"]), "spent": share})
    return found


def plain(ends: tuple[float, float]) -> list[float | None]:
    """An interval for JSON; null where an end is not known."""
    return [None if pd.isna(end) else float(end) for end in ends]
