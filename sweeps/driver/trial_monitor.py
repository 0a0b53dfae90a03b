"""Supervises the workers of a sweep's trials, as a study's driver does for its runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from cola.records import TrialRequested
from orchestration.driver.monitor import RunMonitor, supervise_workers
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import Entry, Ledger
from orchestration.state.paths import output_root
from sweeps.space.points import PlannedPoint
from sweeps.trials.trial_spec import lease_name, with_trial_name

log = logging.getLogger(__name__)


class TrialMonitor:
    """Reports workers that restart, and kills those that hang.

    Where the worker is the trial's own process, that process is killed: it may be too stuck to
    notice. Whether the trial is retried is the search's decision.
    """

    def __init__(
        self,
        driver: str,
        running_trials: Callable[[], Iterable[tuple[TrialRequested, PlannedPoint]]],
        events: EventLog,
        *,
        notify: Callable[[str], None],
    ) -> None:
        """`driver` is the id in the specifications of its trials."""
        self._driver, self._running_trials = driver, running_trials
        self._events, self._notify = events, notify
        self._monitors: dict[tuple[str, int], RunMonitor] = {}  # by run key and attempt

    def check(self) -> None:
        """Check the workers of all runs that this driver's trials are training."""
        monitors: dict[tuple[str, int], RunMonitor] = {}
        for request, planned in self._running_trials():
            ledger = Ledger(output_root(planned.study))
            for run in planned.runs:
                entry = ledger.known_entry(run.key)
                if not is_run_by(entry, self._driver, request.trial):
                    self._report_loss(request, run.key, entry)
                    continue
                attempt = run.key, len(entry.attempts)
                monitor = self._monitors.get(attempt) or RunMonitor(
                    ledger.run_folder(run.key), len(entry.attempts), self._events.folder
                )
                monitors[attempt] = monitor
                supervise_workers(
                    with_trial_name(run, request.trial),
                    monitor,
                    self._events,
                    notify=partial(self._report, request.trial),
                )
        self._monitors = monitors

    def _report_loss(self, request: TrialRequested, key: str, entry: Entry) -> None:
        """Report once that another driver took over a run that was supervised until now."""
        supervised = any(run_key == key for run_key, _ in self._monitors)
        if supervised and entry.state == "running" and entry.lease is not None:
            self._report(request.trial, f"run {key[:12]} was taken over by {entry.lease.owner}")

    def _report(self, trial: int, line: str) -> None:
        log.warning("trial %d: %s", trial, line)
        self._notify(f"trial {trial}: {line}")


def is_run_by(entry: Entry, driver: str, trial: int) -> bool:
    """Whether the run is being trained by this trial of this driver."""
    if entry.state != "running" or entry.lease is None:
        return False
    return entry.lease.owner.endswith(f":{lease_name(driver, trial)}")
