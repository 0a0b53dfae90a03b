"""The search of a rate sweep: its largest budget comes last, after the forecast for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cola.rate_points import budget_of
from cola.records import TrialFinished, TrialRequested
from sweeps.search.algorithms import Grid
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint, PointPlanner
from sweeps.space.rate_question import held_out_budget
from sweeps.space.space import Point, grid

log = logging.getLogger(__name__)

Register = Callable[[str, float], None]  # arm, budget: writes the forecast beside the trials


class RateSearch:
    """A grid in two parts: all budgets but the largest; once those have ended and the forecast is
    registered, the largest. See `Search`."""

    def __init__(
        self, arm: str, planner: PointPlanner, trial_log: SweepLog, *, register: Register
    ) -> None:
        """`register` is called before the first trial of the largest budget is requested."""
        self.arm, self._planner, self._log, self._register = arm, planner, trial_log, register
        self._held_out = held_out_budget(planner.sweep.answer, planner.sweep.spaces()[arm])
        self._first = PartSearch(arm, planner, trial_log, mine=self._is_of_first)
        self._last: PartSearch | None = None

    @property
    def why_over(self) -> str | None:
        """See Search."""
        if self._last is not None:
            return self._last.why_over
        return None if self._waits else self._first.why_over

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """See Search. None without `why_over` while trials of the first part are running."""
        if self._last is None:
            requested = self._first.next()
            if requested is not None or not self._waits or self._is_running_first():
                return requested
            self._last = self._opened_last_part()
        return self._last.next()

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """See Search."""
        return self._part_of(trial).prunes(trial, spent, value)

    def ended(self, outcome: TrialFinished) -> None:
        """See Search."""
        self._part_of(outcome.trial).ended(outcome)

    def interrupted(self, trial: int) -> None:
        """See Search."""
        self._part_of(trial).interrupted(trial)

    @property
    def _waits(self) -> bool:
        """Whether the first part is drawn and another one comes."""
        return self._held_out is not None and self._first.is_drawn

    def _opened_last_part(self) -> PartSearch:
        """The search of the largest budget; its forecast is registered unless a trial of it is
        known already."""
        known = [r for r in self._log.requests.values() if r.arm == self.arm]
        if self._held_out is not None and all(self._is_of_first(r.point) for r in known):
            self._register(self.arm, self._held_out)
            log.info("arm %r: the forecast for %g FLOPs is registered", self.arm, self._held_out)
        return PartSearch(
            self.arm, self._planner, self._log, mine=lambda point: not self._is_of_first(point)
        )

    def _is_running_first(self) -> bool:
        return any(self._is_of_first(r.point) for r in self._log.open_trials(self.arm))

    def _is_of_first(self, point: Point) -> bool:
        return self._held_out is None or budget_of(point) != self._held_out

    def _part_of(self, trial: int) -> PartSearch:
        is_last = self._last is not None and not self._is_of_first(self._log.requests[trial].point)
        return self._last if is_last and self._last is not None else self._first


class PartSearch(ArmSearch):
    """A grid's points that are `mine`, open trials first."""

    def __init__(
        self,
        arm: str,
        planner: PointPlanner,
        trial_log: SweepLog,
        *,
        mine: Callable[[Point], bool],
    ) -> None:
        space, start = planner.sweep.spaces()[arm], planner.sweep.start
        self._points = ListedPoints([p for p in [*start, *grid(space)] if mine(p)])
        super().__init__(arm, planner, trial_log)
        self._open = [request for request in self._open if mine(request.point)]

    @property
    def is_drawn(self) -> bool:
        """Whether all points have been drawn."""
        return self._points.is_empty

    def _resumed_algorithm(self) -> Grid:
        return self._points


class ListedPoints(Grid):
    """Some points of a grid, in order."""

    def __init__(self, points: list[Point]) -> None:
        self._points = iter(points)
        self.is_empty = False

    def draw(self, draw: str) -> Point | None:
        """See Algorithm."""
        point = super().draw(draw)
        self.is_empty = point is None
        return point
