"""A search that is asked for its next trial before there is a cluster to run it on."""

from __future__ import annotations

from cola.records import TrialFinished, TrialRequested
from sweeps.search.arm_search import Search
from sweeps.space.points import PlannedPoint


class SearchAhead:
    """Another search, whose next trial may be requested ahead: without one nothing is started."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._requested: tuple[TrialRequested, PlannedPoint] | None = None
        self.arm = search.arm

    @property
    def why_over(self) -> str | None:
        """See Search."""
        return self._search.why_over if self._requested is None else None

    def has_next(self) -> bool:
        """Request the next trial, which `next` then gives; whether there is one."""
        if self._requested is None:
            self._requested = self._search.next()
        return self._requested is not None

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """See Search."""
        requested, self._requested = self._requested, None
        return requested if requested is not None else self._search.next()

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """See Search."""
        return self._search.prunes(trial, spent, value)

    def ended(self, outcome: TrialFinished) -> None:
        """See Search."""
        self._search.ended(outcome)

    def interrupted(self, trial: int) -> None:
        """See Search."""
        self._search.interrupted(trial)
