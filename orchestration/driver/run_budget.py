"""The accelerator hours that a study may take."""

from __future__ import annotations

import time
from collections.abc import Iterable

from cola.spec.resources import ResourcesSpec
from orchestration.planning.plan import PlannedRun
from orchestration.state.accounting import accelerator_hours
from orchestration.state.ledger import Ledger


class RunBudget:
    """`resources.max_accelerator_hours`, against all attempts at the study's runs."""

    def __init__(self, limit: float | None, runs: Iterable[PlannedRun], ledger: Ledger) -> None:
        """`limit`: in accelerator hours; None for no limit."""
        self._limit, self._ledger = limit, ledger
        self._resources: dict[str, ResourcesSpec] = {run.key: run.resources for run in runs}

    def add(self, run: PlannedRun) -> None:
        """Count another run: a new try of one that diverged."""
        self._resources[run.key] = run.resources

    def is_spent(self) -> bool:
        """Whether the ledger's attempts, running ones up to now, have reached the limit."""
        if self._limit is None:
            return False
        entries = ((self._ledger.known_entry(key), needs) for key, needs in self._resources.items())
        return accelerator_hours(entries, time.time()) >= self._limit

    @property
    def reason(self) -> str:
        """Why nothing more starts once the budget is spent, with the key to change."""
        return f"resources.max_accelerator_hours={self._limit:g} are spent"
