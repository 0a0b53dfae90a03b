"""Rows that are not fitted: larger ones are predicted, small ones are left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, Refits
from analysis.fitting.cross_validation import best_window
from analysis.fitting.table import Table, inputs
from analysis.table_fit.request import Request
from cola.errors import FitError


def split_off(
    rows: pd.DataFrame, hold_out: float | None
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Rows to fit, and those of at least this much compute to predict; None without a limit.

    Raises:
        FitError: when nothing is left on one side.
    """
    if hold_out is None:
        return rows, None
    later = rows["compute"] >= hold_out
    if later.all() or not later.any():
        side = "all" if later.all() else "none"
        low, high = rows["compute"].min(), rows["compute"].max()
        raise FitError(
            f"--hold-out {hold_out:g}: {side} of the rows have at least that much compute (they "
            f"have {low:.4g} to {high:.4g}); give a value between"
        )
    return rows[~later].reset_index(drop=True), rows[later].reset_index(drop=True)


def windowed(table: Table, request: Request) -> tuple[Table, dict[str, Any] | None]:
    """The table from the asked compute on, with a note of what that leaves out; and where it begins
    with, under `auto`, the error of every start that was tried. None: all rows were asked for.

    Raises:
        FitError: when nothing is left, or a start cannot be told from the rows.
    """
    if request.start is None:
        return table, None
    if request.start == "auto":
        return _best_part(table, request)
    start, rows = request.start, table.rows
    below = int((rows["compute"] < start).sum())
    if below in (0, len(rows)):
        low, high = rows["compute"].min(), rows["compute"].max()
        raise FitError(
            f"--from {start:g}: {'all' if below else 'none'} of the rows have less compute (they "
            f"have {low:.4g} to {high:.4g}); give a value between"
        )
    note = f"{below} rows of less than {start:.4g} FLOPs are left out"
    return _from(table, start, note), {"from": start, "rows_left_out": below}


def _best_part(table: Table, request: Request) -> tuple[Table, dict[str, Any]]:
    if len(table.groups()) > 1:
        raise FitError(
            "--from auto: is chosen for one group, and groups are fitted to the same budgets; give "
            "a compute"
        )
    rows = split_off(table.rows, request.hold_out)[0]
    found = best_window(request.law, rows, request.estimator, constraints=request.constraints)
    below = int((rows["compute"] < found.start).sum())
    tried = [{"from": c, "mean_absolute_error": e} for c, e in found.errors.items()]
    window = {"from": found.start, "rows_left_out": below, "tried": tried}
    whole = found.errors.get(float(rows["compute"].min()))
    before = "" if whole is None else f", {whole:.2%} from all rows"
    best = f"the largest budgets are predicted with a mean error of {found.errors[found.start]:.2%}"
    if not below:
        return replace(table, notes=(*table.notes, f"no rows are left out: {best} so")), window
    note = (
        f"{below} rows of less than {found.start:.4g} FLOPs are left out: {best} from the others"
        f"{before}; intervals take this choice as given"
    )
    return _from(table, found.start, note), window


def _from(table: Table, start: float, note: str) -> Table:
    below = table.rows["compute"] < start
    counts = table.counts.without(note, table.rows.loc[below, "line"].tolist())
    return Table(table.rows[~below].reset_index(drop=True), (*table.notes, note), counts)


def held_out(refits: Refits, later: pd.DataFrame, request: Request) -> dict[str, Any]:
    """How the law predicts rows that it was not fitted to: (predicted - measured) / measured."""
    points = inputs(later)
    errors = refits.fit.loss(points) / points.loss - 1
    found = {
        "from": request.hold_out,
        "points": len(points),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "signed_error": float(errors.mean()),
    }
    if len(refits.theta_KP):
        low, high = refits.prediction_band(points, request.seed, LEVEL)
        inside = (points.loss >= low) & (points.loss <= high)
        found["share_inside_95%_interval"] = float(inside.mean())
    return found
