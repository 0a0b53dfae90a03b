"""Finished training curves of a study, with the learning rates of its specification."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import numpy as np
import pandas as pd
from pydantic import ValidationError

from analysis.curve_laws.curves import LEAST_POINTS, Curve
from analysis.curve_laws.groups import sized_by
from analysis.curve_laws.table import CurveSet
from analysis.fitting.law import Array
from analysis.report.runs import StudyFrames
from analysis.study_source import study_source
from cola.errors import FitError
from cola.records import Metric
from cola.spec.training import ScheduleSpec
from cola.study.schedule import learning_rate_factor

SCHEDULE, RATE = "training.schedule.", "training.optimizer.learning_rate"
STAGES, UNSET = "training.stages.", "None"
VALIDATION, TRAINING = "validation losses", "training losses, each of one batch"
METRICS = {Metric.NLL: VALIDATION, Metric.TRAIN_LOSS: TRAINING}


def study_curves(study: str, metric: str | None) -> CurveSet:
    """Curves of every family of a study; `metric`: which losses (None: validation losses where
    runs have enough of them, else training losses that are likelihoods).

    Raises:
        SpecError: there is no such study.
        FitError: it has no curve that the law is about, with the reasons.
    """
    if metric is not None and metric not in METRICS:
        raise FitError(f"--loss {metric}: curves of a study have {' and '.join(METRICS)}")
    source = study_source(study, None, None)
    if source.imported is not None:
        raise FitError(
            f"study {source.name}: its runs are imported, which have no curves; give a table of "
            "steps, rates and losses"
        )
    return curves_of(source.name, source.frames(), metric)


def curves_of(name: str, frames: StudyFrames, metric: str | None = None) -> CurveSet:
    """See `study_curves`."""
    notes: list[str] = []
    groups: dict[str, list[Curve]] = {}
    used: list[str] = []
    finished = frames.runs[frames.runs["status"] == "finished"]
    for variant, runs in finished.groupby("variant", sort=False):
        reason, rates = rates_of(runs)
        if not reason:
            which, reason = losses_of(frames, runs, metric)
        if reason:
            notes.append(f"{variant}: left out: {reason}")
            continue
        curves = [
            curve_of(frames, run, rates[run["run_id"]], which=which) for _, run in runs.iterrows()
        ]
        curves, more = of_one_law(curves)
        batches = {run["training"].get("training.batch_sequences") for _, run in runs.iterrows()}
        if len(batches) > 1:
            more.append("runs have batches of different size, and the law counts steps alike")
        if which == Metric.NLL and any(
            run["training"].get("training.ema_decay", "None") != "None"
            for _, run in runs.iterrows()
        ):
            more.append("losses are of averaged weights, which anneal by themselves")
        notes += [f"{variant}: {note}" for note in more]
        groups[str(variant)] = curves
        used.append(f"{variant}: {METRICS[which]}")
    if not groups:
        raise FitError(
            f"study {name}: no curve that law annealing is about ({'; '.join(notes) or 'no run'})"
        )
    return CurveSet(groups, "; ".join(used), tuple(notes))


def rates_of(runs: pd.DataFrame) -> tuple[str, dict[str, Array]]:
    """Why these runs have no law of one curve, or the rate of every step of each, by run_id."""
    found: dict[str, Array] = {}
    for _, run in runs.iterrows():
        stages, training = int(run["stages"]), run["training"]
        if stages > 1:
            return (
                f"its runs have {stages} stages, each with a schedule and a loss of its own, and "
                "the law is about one curve"
            ), {}
        if f"{SCHEDULE}kind" not in training or RATE not in training or not run["steps"]:
            return f"run {run['name']} records no schedule", {}
        try:
            found[run["run_id"]] = rates_by(training, int(run["steps"]), str(run["stage"]))
        except (ValidationError, ValueError, SyntaxError):
            return f"the schedule that run {run['name']} records is none of this release", {}
    return "", found


def rates_by(training: Mapping[str, str], steps: int, stage: str) -> Array:
    """The rate of every step by a run's recorded settings, of which its only stage may have some
    of its own.

    Raises:
        ValidationError, ValueError, SyntaxError: they are no schedule.
    """
    of_run, own = schedule_at(training, SCHEDULE), f"{STAGES}{stage}."
    assert of_run is not None  # the caller has seen its kind
    schedule = schedule_at(training, f"{own}schedule.") or of_run
    rate = training.get(f"{own}learning_rate", UNSET)
    peak = float(training[RATE] if rate == UNSET else rate)
    factors = np.array([learning_rate_factor(schedule, step, steps) for step in range(steps)])
    for change in of_run.rate_changes:
        at = round(steps * change.at)
        previous = [each.factor for each in of_run.rate_changes if each.at < change.at]
        factors[at:] *= change.factor / (previous[-1] if previous else 1.0)
    return peak * factors


def schedule_at(training: Mapping[str, str], prefix: str) -> ScheduleSpec | None:
    """The schedule whose recorded settings begin with this; None without any.

    Raises:
        ValidationError, ValueError, SyntaxError: they are no schedule.
    """
    values = {
        key.removeprefix(prefix): value if key.endswith(".kind") else ast.literal_eval(value)
        for key, value in training.items()
        if key.startswith(prefix)
    }
    return ScheduleSpec.model_validate(values) if values else None


def losses_of(frames: StudyFrames, runs: pd.DataFrame, metric: str | None) -> tuple[str, str]:
    """Which losses the curves of these runs are of, or why there are none."""
    ids = list(runs["run_id"])
    if metric is not None:
        counts = [len(logged(frames, run, metric)) for run in ids]
        if min(counts) < LEAST_POINTS:
            return metric, f"a run has {min(counts)} values of {metric}, {LEAST_POINTS} are needed"
        return metric, ""
    # A part of the validations lies in the warm-up, which the law is not about.
    if min(len(logged(frames, run, Metric.NLL)) for run in ids) > LEAST_POINTS:
        return Metric.NLL, ""
    if not (runs["nll_kind"] == "exact").all():
        return "", (
            f"its runs have fewer than {LEAST_POINTS + 1} validations, and its training loss is no "
            "likelihood; raise evaluation.points"
        )
    if min(len(logged(frames, run, Metric.TRAIN_LOSS)) for run in ids) <= LEAST_POINTS:
        return "", f"a run has fewer than {LEAST_POINTS + 1} losses; raise evaluation.points"
    return Metric.TRAIN_LOSS, ""


def logged(frames: StudyFrames, run_id: str, metric: str) -> pd.DataFrame:
    """Steps and losses of a run, `step` and `loss`."""
    table, column = (
        (frames.points, "nll") if metric == Metric.NLL else (frames.curves, "train_loss")
    )
    if table.empty:
        return pd.DataFrame(columns=["step", "loss"])
    mine = table[(table["run_id"] == run_id) & table[column].gt(0)].sort_values("step")
    return pd.DataFrame({"step": mine["step"].astype(int), "loss": mine[column].astype(float)})


def curve_of(frames: StudyFrames, run: pd.Series, rates: Array, *, which: str) -> Curve:
    """A run's curve. The last validation is taken, not the score of the test split."""
    found = logged(frames, run["run_id"], which)
    loss = found["loss"].to_numpy(float)
    if which == Metric.NLL and pd.notna(run["validation_nll"]):
        loss = np.append(loss[:-1], float(run["validation_nll"]))
    steps = found["step"].to_numpy(np.int64)
    inside = (steps >= 1) & (steps <= len(rates))
    return Curve(
        str(run["name"]), steps[inside], loss[inside], rates, float(run["core_parameters"])
    )


def of_one_law(curves: list[Curve]) -> tuple[list[Curve], list[str]]:
    """Curves of a law over sizes where they are of three sizes or more; else those of the largest
    size, and a note on the others."""
    if sized_by(curves):
        return curves, []
    largest = max(curve.parameters or 0.0 for curve in curves)
    mine = [curve for curve in curves if curve.parameters == largest]
    notes = []
    if len(mine) < len(curves):
        notes = [
            f"curves of {len(curves) - len(mine)} smaller runs are left out: a law over sizes "
            f"needs three sizes, these are of two"
        ]
    return [Curve(each.name, each.steps, each.loss, each.rates) for each in mine], notes
