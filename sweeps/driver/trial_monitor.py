"""A sweep's driver looks after the workers of its trials, as a study's does after those of its
runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from cola.records import TrialRequested
from orchestration.driver.monitor import RunMonitor, supervise_workers
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import Entry, Ledger
from orchestration.state.paths import output_root
from sweeps.space.points import PlannedPoint
from sweeps.trials.trial import lease_name, with_trial_name


class TrialMonitor:
    """Tells of workers that start again, and ends those that hang.

    Where the worker is the trial's own process, that process is ended: it may be too stuck to see
    it itself. What becomes of the trial then is the search's to decide.
    """

    def __init__(
        self,
        driver: str,
        under_way: Callable[[], Iterable[tuple[TrialRequested, PlannedPoint]]],
        events: EventLog,
        say: Callable[[str], None],
    ) -> None:
        """`driver`: as trials are told in their orders."""
        self._driver, self._under_way = driver, under_way
        self._events, self._say = events, say
        self._watches: dict[tuple[str, int], RunMonitor] = {}  # by run key and attempt

    def look(self) -> None:
        """Look at all runs that trials of this driver carry out now."""
        found: dict[tuple[str, int], RunMonitor] = {}
        for asked, candidate in self._under_way():
            ledger = Ledger(output_root(candidate.study))
            for run in candidate.runs:
                entry = ledger.entry(run.key)
                if not is_run_by(entry, self._driver, asked.trial):
                    self._report_loss(asked, run.key, entry)
                    continue
                attempt = run.key, len(entry.attempts)
                watch = self._watches.get(attempt)
                if watch is None:
                    watch = RunMonitor(ledger.run_folder(run.key), len(entry.attempts))
                found[attempt] = watch
                notify = partial(self._tell, asked)
                named_run = with_trial_name(run, asked.trial)
                supervise_workers(named_run, watch, self._events, notify=notify)
        self._watches = found

    def _tell(self, asked: TrialRequested, said: str) -> None:
        self._say(f"trial {asked.trial}: {said}")

    def _report_loss(self, asked: TrialRequested, key: str, entry: Entry) -> None:
        """Say once that another driver took over a run that was followed until now."""
        followed = any(run_key == key for run_key, _ in self._watches)
        if followed and entry.state == "running" and entry.lease is not None:
            self._tell(asked, f"run {key[:12]} was taken over by {entry.lease.owner}")


def is_run_by(entry: Entry, driver: str, trial: int) -> bool:
    """Whether a trial of this driver runs the run now: those of studies, and of other sweeps, are
    supervised by their own drivers."""
    if entry.state != "running" or entry.lease is None:
        return False
    return entry.lease.owner.endswith(f":{lease_name(driver, trial)}")
