"""Forecasts and their scores in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from analysis.metric_report.quantities import scale_and_digits
from analysis.study_forecasts.scores import Score

MORE_DIGITS = 1  # than reports show: forecasts are compared with what is measured


def time_text(seconds: float) -> str:
    """A moment for people, in UTC; of a number that is none, the number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"at {seconds:g} s"


def number_text(value: float, unit: str, *, sign: str = "") -> str:
    """A value in the unit, without it."""
    scale, digits = scale_and_digits(unit)
    return f"{scale * value:{sign}.{digits + MORE_DIGITS}f}"


def ends_text(ends: Sequence[float | None], unit: str) -> str:
    """An interval, or that it is not known."""
    low, high = ends
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "not known"
    return f"{number_text(low, unit)} to {number_text(high, unit)}"


def line_sentence(line: Mapping[str, Any], label: str) -> str:
    """A registered forecast."""
    runs, beyond, unit = line["rests_on"], line["extrapolation"], str(line["unit"])
    return (
        f"{label} at {line['target']:.3g} FLOPs: {number_text(line['value'], unit)} {unit} (95% "
        f"of curves {ends_text(line['curve_interval_95'], unit)}, of a new run "
        f"{ends_text(line['new_run_interval_95'], unit)}), law {line['law']} from {len(runs)} "
        f"runs, {beyond:.3g} times beyond the largest"
    )


def score_sentence(score: Score) -> str:
    """A forecast and how it did, or why it does not count."""
    kind = "held out, not registered"
    if score.registered is not None:
        kind = f"registered {time_text(score.registered)}"
    text = (
        f"{score.label} at {score.target:.3g} FLOPs ({kind}): forecast "
        f"{number_text(score.value, score.unit)} {score.unit} (a new run "
        f"{ends_text(score.of_new_run, score.unit)}; law {score.law} from {score.runs_below} runs, "
        f"{score.extrapolation:.3g} times beyond them)"
    )
    if score.measured is not None:
        text += f", measured {number_text(score.measured, score.unit)}: {verdict(score)}"
    if score.problem is not None:
        text += f"; {score.problem}"
    return text


def verdict(score: Score) -> str:
    """Inside or outside, and by how much the forecast erred."""
    inside = score.inside(score.of_new_run)
    where = {None: "its interval is not known", True: "inside", False: "outside"}[inside]
    widths = score.error_in_widths
    share = "" if widths is None else f", {abs(widths):.2g} of the interval's width"
    error = number_text(score.error or 0.0, score.unit, sign="+")
    return f"{where}, error {error} {score.unit}{share}"


def sentences_of(scores: Sequence[Score], damaged: int = 0) -> list[str]:
    """Every score with its notes, then how many were inside."""
    found = []
    for score in scores:
        notes = "".join(f"; {note}" for note in score.notes)
        found.append(f"{score_sentence(score)}{notes}.")
    counted = [s for s in scores if s.problem is None and s.inside(s.of_new_run) is not None]
    if counted:
        inside = sum(bool(s.inside(s.of_new_run)) for s in counted)
        found.append(f"{inside} of {len(counted)} scored forecasts hold what was measured.")
    if damaged:
        lines = "line is" if damaged == 1 else "lines are"
        found.append(f"{damaged} {lines} damaged and left out of the file of forecasts.")
    return found
