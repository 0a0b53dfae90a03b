"""Forecasts and their scores in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from analysis.study_forecasts.scores import Score

DIGITS = ".4f"


def time_text(seconds: float) -> str:
    """A moment for people, in UTC; of a number that is none, the number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"at {seconds:g} s"


def ends_text(ends: Sequence[float | None]) -> str:
    """An interval, or that it is not known."""
    low, high = ends
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "not known"
    return f"{low:{DIGITS}} to {high:{DIGITS}}"


def line_sentence(line: Mapping[str, Any], label: str) -> str:
    """A registered forecast."""
    runs, beyond = line["rests_on"], line["extrapolation"]
    return (
        f"{label} at {line['target']:.3g} FLOPs: {line['value']:{DIGITS}} {line['unit']} (95% of "
        f"curves {ends_text(line['curve_interval_95'])}, of a new run "
        f"{ends_text(line['new_run_interval_95'])}), law {line['law']} from {len(runs)} runs, "
        f"{beyond:.3g} times beyond the largest"
    )


def score_sentence(score: Score) -> str:
    """A forecast and how it did, or why it does not count."""
    kind = "held out, not registered"
    if score.registered is not None:
        kind = f"registered {time_text(score.registered)}"
    text = (
        f"{score.label} at {score.target:.3g} FLOPs ({kind}): forecast "
        f"{score.value:{DIGITS}} {score.unit} (a new run {ends_text(score.of_new_run)}; law "
        f"{score.law} from {score.runs_below} runs, {score.extrapolation:.3g} times beyond them)"
    )
    if score.measured is not None:
        text += f", measured {score.measured:{DIGITS}}: {verdict(score)}"
    if score.problem is not None:
        text += f"; {score.problem}"
    return text


def verdict(score: Score) -> str:
    """Inside or outside, and by how much the forecast erred."""
    inside = score.inside(score.of_new_run)
    where = {None: "its interval is not known", True: "inside", False: "OUTSIDE"}[inside]
    widths = score.error_in_widths
    share = "" if widths is None else f", {abs(widths):.2f} of the interval's width"
    return f"{where}, error {score.error:+{DIGITS}} {score.unit}{share}"


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
