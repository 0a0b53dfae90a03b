"""Keeps the leases of a driver's runs, and finds out about those of other drivers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from cola.errors import StorageError
from orchestration.planning.plan import PlannedRun
from orchestration.state.ledger import (
    LEASE_REFRESH_SECONDS,
    LEASE_STALE_SECONDS,
    LeaseLostError,
    Ledger,
    State,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0  # between tries on a disk that takes nothing; a chosen value
# Without a refresh for that long a driver gives up: others may take over after 90 s.
GIVE_UP_SECONDS = 60.0
WATCH_SECONDS = 0.5  # between two looks at a lease; a chosen value
LOOK_SECONDS = 5.0  # between two looks at the runs of other drivers; a chosen value
# Of a run that its driver has given back, or was lost with: another one takes it up.
LEFT: tuple[State, ...] = ("running", "interrupted")


class LeaseKeeper:
    """Refreshes the leases of one driver's runs, by its monotonic clock.

    `trouble` is the last refresh's error while there is one, and `gave_up` why no refresh succeeded
    for too long.
    """

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._clock = ledger, clock
        self._next = clock() + LEASE_REFRESH_SECONDS
        self._confirmed: dict[str, float] = {}  # by run key
        self._reported = False
        self.trouble: str | None = None
        self.gave_up: str | None = None

    def confirmed(self, run_key: str) -> None:
        """Note that the run's lease was written just now."""
        self._confirmed[run_key] = self._clock()

    def refresh(self, runs: Sequence[PlannedRun]) -> list[tuple[PlannedRun, LeaseLostError]]:
        """Refresh the leases of the runs, where it is due; returns those that are lost."""
        if self._clock() < self._next:
            return []
        lost, trouble = [], None
        for run in runs:
            try:
                self._ledger.refresh(run.key)
            except LeaseLostError as error:
                lost.append((run, error))
            except StorageError as error:
                trouble = f"the lease of {run.name} is not refreshed: {error}"
                log.log(logging.WARNING if self.trouble is None else logging.DEBUG, "%s", trouble)
                self._check(run, str(error))
            else:
                self.confirmed(run.key)
        self.trouble = trouble
        self._reported = self._reported and trouble is not None
        self._next = self._clock() + (LEASE_REFRESH_SECONDS if trouble is None else RETRY_SECONDS)
        return lost

    def new_trouble(self) -> str | None:
        """The trouble where it was not returned before, else None."""
        if self.trouble is None or self._reported:
            return None
        self._reported = True
        return self.trouble

    def _check(self, run: PlannedRun, problem: str) -> None:
        silent = self._clock() - self._confirmed.setdefault(run.key, self._clock())
        if silent >= GIVE_UP_SECONDS and self.gave_up is None:
            self.gave_up = f"no lease was refreshed for {GIVE_UP_SECONDS:g} s: {problem}"


class OtherDrivers:
    """The runs of a study that other drivers train, while this one trains the rest."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._clock = ledger, clock
        self._runs: dict[str, PlannedRun] = {}  # by run key
        self._trained_again: set[str] = set()  # keys of finished runs whose model is lost
        self._next = self._next_taken = clock()
        self.undecided = False  # of one of them it is not known yet whether its driver lives

    def add(self, run: PlannedRun) -> None:
        """Leave a run to the driver that has its lease."""
        self._runs[run.key] = run
        self._next, self.undecided = self._clock(), True

    def train_again(self, run: PlannedRun) -> None:
        """Expect that the run is finished already, by whomever, and trained again here."""
        self._trained_again.add(run.key)

    def have(self, run: PlannedRun) -> bool:
        """Whether another driver trains the run by now, or has finished it.

        The ledger would find the latter too, once it has read the whole model.
        """
        entry = self._ledger.known_entry(run.key)
        finished = entry.state == "finished" and run.key not in self._trained_again
        return finished or self._ledger.is_held(entry)

    def __contains__(self, run_key: object) -> bool:
        return run_key in self._runs

    def reason(self, run: PlannedRun) -> str:
        """Why a run is left alone."""
        entry = self._ledger.known_entry(run.key)
        if entry.lease is None:
            return f"another driver has had it ({entry.state})"
        if self._ledger.hold(entry) == "unknown":
            return (
                f"{entry.lease.owner} has its lease, and cannot be seen from here: watching for "
                f"up to {LEASE_STALE_SECONDS:g} s whether it lives"
            )
        return f"{entry.lease.owner} trains it"

    def taken(self, waiting: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Those of the runs that another driver trains by now, or has finished.

        Nothing is looked at more often than LOOK_SECONDS.
        """
        if not waiting or self._clock() < self._next_taken:
            return []
        self._next_taken = self._clock() + LOOK_SECONDS
        return [run for run in waiting if self.have(run)]

    def released(self, *, at_once: bool = False) -> list[PlannedRun]:
        """Runs whose drivers have left or are lost before they had ended, once each.

        Runs that have ended are forgotten. Nothing is looked at more often than LOOK_SECONDS,
        unless `at_once`.
        """
        if not self._runs or (self._clock() < self._next and not at_once):
            return []
        self._next, self.undecided = self._clock() + LOOK_SECONDS, False
        released = []
        for key, run in list(self._runs.items()):
            entry = self._ledger.known_entry(key)
            hold = self._ledger.hold(entry)
            if hold != "free":
                self.undecided = self.undecided or hold == "unknown"
                continue
            del self._runs[key]
            if entry.state in LEFT:
                released.append(run)
        return released


def watch_unseen_drivers(
    ledger: Ledger,
    plan: Sequence[PlannedRun],
    notify: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until it is known of every run's lease whether a driver keeps it; whether it had to.

    Drivers of other machines and of other containers cannot be seen: what they refresh can. That
    takes LEASE_STALE_SECONDS at most.
    """
    began, announced = clock(), False
    while clock() - began <= LEASE_STALE_SECONDS + 2 * WATCH_SECONDS:
        entries = [ledger.known_entry(run.key) for run in plan]
        unknown = [entry for entry in entries if ledger.hold(entry) == "unknown"]
        if not unknown:
            return announced
        if not announced:
            owners = sorted({entry.lease.owner for entry in unknown if entry.lease is not None})
            notify(
                f"{len(unknown)} runs were last run by {', '.join(owners[:3])}, which cannot be "
                f"seen from here: watching for up to {LEASE_STALE_SECONDS:g} s whether it lives"
            )
            announced = True
        sleep(WATCH_SECONDS)
    return announced
