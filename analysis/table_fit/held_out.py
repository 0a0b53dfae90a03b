"""Rows that are predicted, not fitted: how a law does on more compute than it has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import Refits
from analysis.fitting.table import inputs
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
        low, high = refits.prediction_band(points, request.seed)
        inside = (points.loss >= low) & (points.loss <= high)
        found["share_inside_95%_interval"] = float(inside.mean())
    return found
