"""Which runs of a study are tried once more: after a fault, or at a lower learning rate."""

from __future__ import annotations

from collections import Counter

from cola.spec.resources import DivergenceRetry
from orchestration.planning.divergence_retry import next_retry
from orchestration.planning.plan import PlannedRun


class RetryPolicy:
    """Counts this driver's retries; the ledger knows those at a lower rate."""

    def __init__(self, after_divergence: DivergenceRetry | None) -> None:
        """`after_divergence`: the study's `retry_diverged`."""
        self._after_divergence = after_divergence
        self._faults: Counter[str] = Counter()  # by run key

    @property
    def has_lost_controllers(self) -> bool:
        """Whether a controller died, which leaves its placement group behind."""
        return bool(self._faults)

    def after_fault(self, run: PlannedRun) -> int | None:
        """Number of the retry of a run whose end was not its own fault.

        None where it has had `resources.max_failures` of them.
        """
        self._faults[run.key] += 1
        number = self._faults[run.key]
        return number if number <= run.resources.max_failures else None

    def at_lower_rate(self, run: PlannedRun) -> PlannedRun | None:
        """The run that replaces a diverged one; None where the study allows no more tries."""
        return next_retry(run, self._after_divergence)
