"""Trials of earlier calls in a sweep whose space has been edited since."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from cola.errors import SpecError, first_of
from cola.records import RATE_CHANGES, SweepFile, TrialRequested
from sweeps.search.trial_log import SweepLog
from sweeps.space.domains import Choice
from sweeps.space.points import PlannedPoint, PointPlanner
from sweeps.space.space import Point, describe_point, why_outside
from sweeps.space.typed_space import typed_point

log = logging.getLogger(__name__)

MOST_NAMED = 5  # trials in a sentence; a chosen value


def leave_out_trials(planner: PointPlanner, trial_log: SweepLog) -> None:
    """Leave trials out of the search whose points are not in the present space.

    They stay in the log with what they measured; those without an outcome are not resumed.
    """
    spaces = planner.sweep.spaces()
    for number, request in sorted(trial_log.requests.items()):
        if request.arm not in spaces:
            reason: str | None = f"the sweep has no arm {request.arm!r}"
        else:
            space = spaces[request.arm]
            if request.beyond:  # its numbers lie outside on purpose
                space = {k: Choice(values=[v]) for k, v in request.point.items() if k in space}
            reason = why_outside(space, known_point(request), frozenset({RATE_CHANGES}))
        if reason is not None:
            trial_log.left_out[number] = reason
            log.info("trial %d is left out: %s", number, reason)


def known_point(request: TrialRequested) -> Point:
    """The point of a trial, with values in the form in which the space has them."""
    return typed_point(request.point)


def describe_left_out(trial_log: SweepLog) -> str | None:
    """A sentence on trials that the search leaves out, and on damaged lines of the log; None where
    there are none."""
    left_out = trial_log.left_out
    lines = trial_log.unreadable
    damaged = f"{lines} lines of {SweepFile.TRIALS} are no records of trials and left out"
    if not left_out:
        return damaged if lines else None
    named = [
        f"{number} ({describe_point(trial_log.requests[number].point)}: {reason})"
        for number, reason in left_out.items()
    ]
    return (
        f"{len(left_out)} of {len(trial_log.requests)} known trials are outside of the space and "
        f"left out of the search: {first_of(named, MOST_NAMED)}" + (f"; {damaged}" if lines else "")
    )


def planned_trials(
    planner: PointPlanner, requests: Iterable[TrialRequested]
) -> Iterator[tuple[TrialRequested, PlannedPoint]]:
    """Trials of earlier calls with their runs, without those that no study can have any more."""
    for request in requests:
        try:
            yield request, planner.plan(request.arm, request.point)
        except SpecError as error:
            log.warning("trial %d cannot be planned any more: %s", request.trial, error)
