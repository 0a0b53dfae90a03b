"""What a study's finished runs measured of a quantity, a row a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.metric_laws.bounded import items_behind
from analysis.metric_report.quantities import Quantity
from analysis.report.runs import StudyFrames

COLUMNS = ("value", "error", "chance", "items")


@dataclass(frozen=True)
class Measurements:
    """Rows of finished runs with the final points' columns and value, error, chance, items (NaN
    where one was not recorded), and what was left out."""

    quantity: Quantity
    rows: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def chance(self) -> float | None:
        """The value of guessing; None where no run has one."""
        known = self.rows["chance"].dropna()
        return float(known.median()) if len(known) else None


def measured(frames: StudyFrames, quantity: Quantity) -> Measurements:
    """The quantity of every finished run that has it."""
    scored = frames.points[frames.points["is_final"]]
    final = scored if frames.unscored.empty else pd.concat([scored, frames.unscored])
    values = [_of_run(frames.metrics.get(run, {}), quantity) for run in final["run_id"]]
    rows = pd.concat(
        [final.reset_index(drop=True), pd.DataFrame(values, columns=list(COLUMNS))], axis=1
    )
    found = rows[np.isfinite(rows["value"])]
    return Measurements(quantity, found, tuple(_left_out(rows, found, quantity)))


def _of_run(metrics: Mapping[str, float], quantity: Quantity) -> tuple[float, ...]:
    """Value, error, chance and items of one run."""
    if quantity.parts:
        return _average([_of_run(metrics, part) for part in quantity.parts])
    keys = (quantity.key, quantity.error, quantity.chance, quantity.items)
    value, error, chance, count = (metrics.get(key or "", np.nan) for key in keys)
    if quantity.key.endswith("/accuracy") and f"{_folder(quantity)}/choice_accuracy" in metrics:
        chance = np.nan  # it is that of choosing an option, which an answer's exact text is not
    if quantity.range is None:
        return value, error, np.nan, np.nan
    items = float(items_behind(np.array(value), np.array(error)))
    return value, error, chance, items if np.isfinite(items) else count


def _folder(quantity: Quantity) -> str:
    return quantity.key.rpartition("/")[0]


def _average(parts: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The mean of tasks: errors of different tasks are independent, a task without a chance has 0.
    NaN where one of them was not scored."""
    value, error, chance, _ = np.array(parts, float).T
    mean = float(value.mean())
    spread = float(np.sqrt((error**2).sum()) / len(parts))
    guess = np.nan if np.isnan(chance).all() else float(np.nan_to_num(chance).mean())
    items = float(items_behind(np.array(mean), np.array(spread)))
    return mean, spread, guess, items


def _left_out(rows: pd.DataFrame, found: pd.DataFrame, quantity: Quantity) -> list[str]:
    notes = []
    if len(found) < len(rows):
        names = ", ".join(sorted(rows.loc[~rows.index.isin(found.index), "name"]))
        what = "all of its tasks" if quantity.parts else "it"
        notes.append(
            f"{len(rows) - len(found)} of {len(rows)} finished runs were not measured on {what}, "
            f"or have no number: {names}"
        )
    chances = found["chance"].dropna()
    if len(chances) and chances.max() - chances.min() > 1e-6:
        low, high = quantity.number(float(chances.min())), quantity.number(float(chances.max()))
        notes.append(
            f"the runs' chance differs ({low} to {high}): they were not asked the same items; the "
            "median is taken"
        )
    if quantity.range is not None and chances.empty:
        floor = quantity.range.low if quantity.range.better == "higher" else quantity.range.high
        notes.append(f"no chance is recorded: the curves start from {quantity.shown(floor)}")
    if quantity.range is not None and len(found) and found["items"].isna().any():
        notes.append(
            "the number of items is not recorded for all runs: errors are the scatter of runs "
            "round their curve"
        )
    return notes
