"""A fit of curves in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DIGITS = ".5g"
MOST_RUNS = 12  # of curves that are listed one by one


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What is beside the table of parameters."""
    yield found["formula"]
    yield (
        f"scatter {found['diagnostics']['residual_sd']:.2%} of the loss; neighbours along a curve "
        f"correlate by {found['diagnostics']['correlation_of_neighbours']:.2f}"
    )
    curves = found["curves"]
    yield from (curve(each) for each in curves[:MOST_RUNS])
    if len(curves) > MOST_RUNS:
        yield f"... and {len(curves) - MOST_RUNS} curves more (--json lists them)"
    yield from held_out(found)
    yield from (prediction(each) for each in found.get("predictions", []))


def curve(found: Mapping[str, Any]) -> str:
    """A curve: schedule, length, end."""
    size = f", N {found['parameters']:.3g}" if "parameters" in found else ""
    return (
        f"{found['run']}: {found['schedule']}, {found['steps']:,} steps, peak {found['peak']:.3g}"
        f"{size}; {found['points']} points, end {found['end_loss']:{DIGITS}}, of which annealing "
        f"has gained {found['gain_of_annealing']:.3g}"
    )


def held_out(found: Mapping[str, Any]) -> Iterator[str]:
    """How runs are predicted by the others."""
    runs = found["held_out_runs"]
    for each in runs[:MOST_RUNS]:
        if "reason" in each:
            yield f"{each['run']} predicted by the others: not possible, {each['reason']}"
            continue
        yield (
            f"{each['run']} ({each['schedule']}) predicted by the others: mean error "
            f"{each['mean_absolute_error']:.2%} along the curve, {each['end_error']:+.2%} at its "
            "end"
        )
    known = [each for each in runs if "reason" not in each]
    if len(known) > 1:
        mean = sum(each["mean_absolute_error"] for each in known) / len(known)
        end = sum(abs(each["end_error"]) for each in known) / len(known)
        yield f"runs held out: mean error {mean:.2%} along curves, {end:.2%} at their ends"
    for each in found["held_out_schedules"]:
        what = f"fitted to schedules of kind {each['fitted_to']}, {each['runs']} others"
        if "reason" in each:
            yield f"{what}: not possible, {each['reason']}"
            continue
        yield (
            f"{what}: mean error {each['mean_absolute_error']:.2%} along curves, "
            f"{each['end_error']:.2%} at their ends"
        )


def prediction(found: Mapping[str, Any]) -> str:
    """The end loss of a schedule."""
    named = ", ".join(f"{name}={value}" for name, value in found["schedule"].items())
    text = f"prediction at {named}: end loss {found['loss']:{DIGITS}}"
    if "confidence_interval" in found:
        curve_ends, run_ends = (
            "{:.5g} to {:.5g}".format(*found[name])
            for name in ("confidence_interval", "prediction_interval")
        )
        text += f" (curve {curve_ends}, a new run {run_ends})"
    beyond = found["extrapolation"]
    return text + (f"; {beyond:.3g} times the largest S1" if beyond > 1.001 else "")
