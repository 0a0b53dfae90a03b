"""Trials of a sweep in the states that views show, as its driver leaves them."""

from __future__ import annotations

from cola.records import TrialFinished, TrialRequested, TrialState
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint, PointPlanner, trial_request
from sweeps.space.space import Point


def asked(
    log: SweepLog, planner: PointPlanner, point: Point
) -> tuple[TrialRequested, PlannedPoint]:
    """Log that the point is the next trial."""
    planned = planner.plan("", point)
    request = trial_request(planned, log.next_number(), None)
    log.write(request)
    return request, planned


def ended(
    log: SweepLog, trial: int, state: TrialState = "finished", *, reason: str | None = None,
    seconds: float = 10.0, **metrics: float,
) -> TrialFinished:  # fmt: skip
    """Log how a trial ended; `nll` is its first metric."""
    named = {"val/nll_nats_per_token": metrics["nll"]} if "nll" in metrics else {}
    outcome = TrialFinished(
        trial=trial, state=state, reason=reason, metrics=named, runs=[], wall_seconds=seconds,
        working_seconds=seconds, training_seconds=seconds, flops=1e9, accelerator_hours=0.5,
        time=0.0,
    )  # fmt: skip
    log.write(outcome)
    return outcome
