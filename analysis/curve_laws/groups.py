"""What `cola fit --law annealing` finds in the curves of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from analysis.curve_laws.areas import annealing_area, forward_area
from analysis.curve_laws.curves import Curve, points_of, thinned
from analysis.curve_laws.fit import LEAST_RUNS, CurveFit, fit_curves, refits_of
from analysis.curve_laws.law import SIZED, TEXTS, AnnealingLaw
from analysis.curve_laws.predictions import Schedule, prediction
from analysis.curve_laws.table import CurveSet
from analysis.fitting.bootstrap import LEVEL, Refits
from analysis.fitting.choices import Progress
from analysis.fitting.constraints import FREE, ConstrainedLaw, Constraints
from analysis.fitting.estimate import count_distinct
from cola.errors import FitError, SpecError

FOLD_STARTS = 16  # chosen: of a fit that one run is held out of
MOST_FOLDS = 24  # chosen: more runs are held out in as many sets
END = 0.03  # chosen: share of a curve's points, its last, whose mean is its end loss
MANY_TIMES = 10.0  # chosen: ends of an interval so far apart say little
LEAST_SIZES = 3  # different N from which a law over sizes is fitted


@dataclass(frozen=True)
class CurveRequest:
    """The options of the command."""

    estimator: str = "huber"
    samples: int = 1000
    seed: int = 0
    predict: tuple[Schedule, ...] = ()
    constraints: Constraints = FREE
    progress: Progress | None = None
    level: float = LEVEL  # share that intervals are to hold


@dataclass(frozen=True)
class GroupFit:
    """`result`: what is printed; `found` and `refits`: for a figure."""

    result: dict[str, Any]
    found: CurveFit
    refits: Refits


def fit_groups(curves: CurveSet, request: CurveRequest) -> tuple[dict[str, Any], list[GroupFit]]:
    """Every group; one group's result is the object itself.

    Raises:
        FitError: a group's curves do not determine the law.
        SpecError: a prediction lacks a size, or has one without an effect.
    """
    fits: dict[str, GroupFit] = {}
    for name, mine in curves.groups.items():
        try:
            fits[name] = fit_group(mine, request)
        except FitError as error:
            where = f"group {name}: " if len(curves.groups) > 1 else ""
            raise FitError(f"{where}{error}") from None
    results = {name: fit.result for name, fit in fits.items()}
    common = {"losses": curves.losses}
    if curves.counts is not None:
        common["rows"] = curves.counts.as_json()  # type: ignore[assignment]
    if len(results) == 1:
        (only,) = results.values()
        combined = only | {"warnings": [*curves.notes, *only["warnings"]]}
    else:
        warnings = [f"{name}: {w}" for name, each in results.items() for w in each["warnings"]]
        combined = {"law": "annealing", "groups": results, "warnings": [*curves.notes, *warnings]}
        for key in ("parameters", "intervals", "diagnostics"):
            combined[key] = {name: each[key] for name, each in results.items()}
    return combined | common, list(fits.values())


def fit_group(curves: Sequence[Curve], request: CurveRequest) -> GroupFit:
    """One group of curves: over sizes where these are known.

    Raises:
        FitError: they do not determine the law.
        SpecError: a prediction lacks a size, or has one without an effect.
    """
    sized = all(curve.parameters is not None for curve in curves)
    for schedule in request.predict:
        check_size(schedule, sized=sized)
    curves, notes = thinned(curves)
    found = fit_curves(
        curves, request.estimator, sized=sized, seed=request.seed, constraints=request.constraints
    )
    refits = refits_of(found, request.samples, request.seed, progress=request.progress)
    refits = replace(refits, level=request.level)
    law, fit = found.fit.law, found.fit
    has_intervals = len(refits.theta_KP) > 0
    free = law.free_names if isinstance(law, ConstrainedLaw) else law.names
    runs, schedules = left_out(found, request), by_schedule(found, request)
    errors = [each["end_error"] for each in runs if "end_error" in each]
    result: dict[str, Any] = {
        "law": "annealing",
        "formula": text_of(found),
        "estimator": request.estimator,
        "convention": "loss in nats a token; S1 and S2 are sums over optimiser steps",
        "points": len(found.points),
        "curves": [described(curve, found) for curve in curves],
        "parameters": fit.parameters,
        "intervals": (
            {n: list(i) for n, i in refits.intervals().items() if n in free}
            if has_intervals
            else {}
        ),
        "pinned": dict(request.constraints.pinned),
        "diagnostics": asdict(fit.diagnostics)
        | {
            "correlation_of_neighbours": found.correlation,
            "common_sd_of_runs": None if np.isnan(found.common_sd) else found.common_sd,
        },
        "held_out_runs": runs,
        "held_out_schedules": schedules,
    }
    if request.predict:
        result["predictions"] = [
            prediction(found, refits, schedule, errors) for schedule in request.predict
        ]
    result["warnings"] = [*notes, *fit.warnings, *notes_on(found, refits)]
    return GroupFit(result, found, refits)


def check_size(schedule: Schedule, *, sized: bool) -> None:
    """Raises: SpecError, for a size that the law lacks, or that has no effect."""
    if sized and schedule.size is None:
        raise SpecError(f"--predict {schedule.text}: the law is over sizes; add n=PARAMETERS")
    if not sized and schedule.size is not None:
        raise SpecError(
            f"--predict {schedule.text}: n has no effect, as the law is of one size; leave it out, "
            "or give --n"
        )


def text_of(found: CurveFit) -> str:
    """The formula for people."""
    base = found.fit.law.base if isinstance(found.fit.law, ConstrainedLaw) else found.fit.law
    return base.text if isinstance(base, AnnealingLaw) else TEXTS[SIZED]


def described(curve: Curve, found: CurveFit) -> dict[str, Any]:
    """A curve: its schedule and areas, its end, and what annealing has gained by then."""
    last = int(curve.steps[-1])
    timescale = 1 / (1 - found.fit.parameters["lambda"])
    gain = found.fit.parameters["C"] * float(annealing_area(curve.rates, timescale)[last - 1])
    if found.sized and curve.parameters is not None:
        gain *= curve.parameters ** -found.fit.parameters["gamma"]
    return {
        "run": curve.name,
        **({} if curve.parameters is None else {"parameters": curve.parameters}),
        "schedule": curve.schedule,
        "steps": last,
        "peak": curve.peak,
        "points": int((curve.steps > curve.warmup).sum()),
        "in_warmup": int((curve.steps <= curve.warmup).sum()),
        "S1": float(forward_area(curve.rates)[last - 1]),
        "end_loss": end_of(curve)[1],
        "gain_of_annealing": gain,
    }


def end_of(curve: Curve) -> tuple[int, float]:
    """How many last points are a curve's end, and their mean loss."""
    count = max(1, round(END * len(curve.steps)))
    return count, float(curve.loss[-count:].mean())


def left_out(found: CurveFit, request: CurveRequest) -> list[dict[str, Any]]:
    """Each run predicted by the others: mean and signed relative errors along its curve, and that
    of its end loss; why not, where the others do not determine the law."""
    curves = found.curves
    if len(curves) < 2:
        return []
    sets = np.array_split(np.arange(len(curves)), min(len(curves), MOST_FOLDS))
    rows = []
    for held in sets:
        others = [curve for at, curve in enumerate(curves) if at not in held]
        mine = [curves[at] for at in held]
        rows += _predicted(others, mine, found, request)
    return rows


def by_schedule(found: CurveFit, request: CurveRequest) -> list[dict[str, Any]]:
    """Runs of other schedules predicted by those of one kind, where that is not one run by one."""
    kinds = dict.fromkeys(curve.schedule for curve in found.curves)
    rows = []
    for kind in kinds if len(kinds) > 1 and len(found.curves) > 2 else ():
        own = [curve for curve in found.curves if curve.schedule == kind]
        others = [curve for curve in found.curves if curve.schedule != kind]
        errors = _predicted(own, others, found, request)
        row: dict[str, Any] = {"fitted_to": kind, "runs": len(others)}
        reasons = [each["reason"] for each in errors if "reason" in each]
        if reasons:
            rows.append(row | {"reason": reasons[0]})
            continue
        for name in ("mean_absolute_error", "signed_error"):
            row[name] = float(np.mean([each[name] for each in errors]))
        row["end_error"] = float(np.mean([abs(each["end_error"]) for each in errors]))
        rows.append(row)
    return rows


def _predicted(
    fitted: Sequence[Curve], held: Sequence[Curve], found: CurveFit, request: CurveRequest
) -> list[dict[str, Any]]:
    try:
        alone = fit_curves(
            fitted, request.estimator, sized=found.sized, seed=request.seed, starts=FOLD_STARTS,
            constraints=request.constraints, scale=found.scale,
        )  # fmt: skip
    except FitError as error:
        return [{"run": curve.name, "reason": str(error)} for curve in held]
    rows = []
    for curve in held:
        points = points_of([curve], found.scale)
        errors = alone.fit.loss(points) / points.loss - 1
        count, end = end_of(curve)
        last = alone.fit.loss(points.subset(np.arange(len(points))[-count:]))
        rows.append(
            {
                "run": curve.name,
                "schedule": curve.schedule,
                "points": len(points),
                "mean_absolute_error": float(np.abs(errors).mean()),
                "signed_error": float(errors.mean()),
                "end_error": float(last.mean()) / end - 1,
            }
        )
    return rows


def notes_on(found: CurveFit, refits: Refits) -> list[str]:
    """What to know of the fit before it is quoted."""
    notes = []
    skipped = sum(int((curve.steps <= curve.warmup).sum()) for curve in found.curves)
    if skipped:
        notes.append(f"{skipped} losses during warm-ups are not fitted: the law begins after them")
    runs = len(found.curves)
    if len(refits.theta_KP) and runs < LEAST_RUNS:
        notes.append(
            f"intervals hold the noise along the curves, not what runs differ by: that is known "
            f"from {LEAST_RUNS} runs on, and these are {runs}"
        )
    if runs == 1:
        notes.append("one run: no run is held out, so that no error of a prediction is known")
    flat = [curve.name for curve in found.curves if curve.schedule == "constant"]
    if flat:
        notes.append(f"runs at a constant rate say nothing of annealing: {', '.join(flat[:8])}")
    ends = refits.intervals().get("C") if len(refits.theta_KP) else None
    if ends and ends[1] > MANY_TIMES * max(ends[0], 1e-300) and found.fit.parameters["C"] > 0:
        notes.append(
            "C and lambda make up for each other in these curves: the gain by annealing is known "
            "from them together, neither alone; add a decay of another length, or --pin lambda="
        )
    if found.fit.parameters["C"] <= 0:
        notes.append("C is 0: the curves show no gain by annealing, and lambda means nothing")
    return notes


def sized_by(curves: Sequence[Curve]) -> bool:
    """Whether curves are of enough sizes for the law over sizes."""
    sizes = [curve.parameters for curve in curves if curve.parameters is not None]
    return len(sizes) == len(curves) and count_distinct(np.array(sizes)) >= LEAST_SIZES
