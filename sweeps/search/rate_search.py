"""The search of a rate sweep: its largest budget comes last, after the forecast for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cola.records import TrialRequested
from sweeps.search.algorithms import Algorithm, Grid
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint, PointPlanner
from sweeps.space.rate_question import budget_of, held_out_budget
from sweeps.space.space import Point, grid

log = logging.getLogger(__name__)

Register = Callable[[str, float], None]  # arm, budget: writes the forecast beside the trials


class RateSearch(ArmSearch):
    """A grid in two parts: all budgets but the largest; once those have ended and the forecast is
    registered, the largest."""

    def __init__(
        self, arm: str, planner: PointPlanner, trial_log: SweepLog, *, register: Register
    ) -> None:
        """`register` is called before the first trial of the largest budget is requested."""
        space = planner.sweep.spaces()[arm]
        self._held_out = held_out_budget(planner.sweep.answer, space)
        self._register = register
        self._is_first_part = self._held_out is not None
        super().__init__(arm, planner, trial_log)

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """See Search. None without `why_over` while trials of the first part are running."""
        requested = super().next()
        if requested is not None or not self._is_first_part or not self._algorithm_is_over:
            return requested
        waiting = [r for r in self._log.open_trials(self.arm) if not self._is_held_out(r)]
        if waiting:
            self.why_over = None
            return None
        self._is_first_part, self.why_over = False, None
        if self._held_out is not None and not any(
            self._is_held_out(request) for request in self._log.requests.values()
        ):
            log.info("arm %r: the forecast for %g FLOPs is registered", self.arm, self._held_out)
            self._register(self.arm, self._held_out)
        self._algorithm = self._grid(held_out=True)
        return super().next()

    @property
    def _algorithm_is_over(self) -> bool:
        """Whether the search ended as every point of the part is done, not by its budget."""
        return self.why_over == "every point is done"

    def _is_held_out(self, request: TrialRequested) -> bool:
        return request.arm == self.arm and budget_of(request.point) == self._held_out

    def _resumed_algorithm(self) -> Algorithm:
        return super()._resumed_algorithm() if self._held_out is None else self._grid(False)

    def _grid(self, held_out: bool) -> Grid:
        space = self._sweep.spaces()[self.arm]
        points = [*self._sweep.start, *grid(space)]
        return ListedPoints([p for p in points if (budget_of(p) == self._held_out) == held_out])


class ListedPoints(Grid):
    """Some points of a grid, in order."""

    def __init__(self, points: list[Point]) -> None:
        self._points = iter(points)
