"""What is finished and what is running: one small JSON file per run, kept outside Ray and MLflow.

The ledger decides what runs. A lease (refreshed every 30 s, stale after 90 s) keeps two drivers
from running the same run. A driver that was frozen for longer may find its run taken over: then it
no longer owns the lease, cannot change the entry, and leaves the run to its successor. Workers see
the same by the number of attempts (`orchestration.state.fence`).

Clocks of hosts are never compared. Drivers of one machine share its monotonic clock, by which a
lease's age is exact. A lease of another machine is watched: it is stale once this driver has seen
it unchanged for 90 s of its own monotonic clock.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from cola.errors import RunError, StorageError
from cola.files import file_lock, read_record, storage_errors, write_atomically
from orchestration.state.paths import OutputFolder, RunFolder
from orchestration.state.process import ProcessIdentity, this_process
from orchestration.state.run_model import damage_of_model

log = logging.getLogger(__name__)

# Chosen values: two refreshes may be missed (a slow disk, a busy machine) before a lease is stale.
LEASE_REFRESH_SECONDS = 30.0
LEASE_STALE_SECONDS = 90.0
# Chosen: an entry is written within milliseconds, on a slow disk within seconds.
LOCK_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.02  # chosen: about what writing an entry takes
REMOVE = "remove it, and the run resumes from its newest checkpoint"
MAKE_ROOM = "free space in the output folder, or check its permissions"
# "unreadable" is never written: it stands for an entry that cannot be read.
State = Literal["new", "running", "finished", "interrupted", "failed", "diverged", "unreadable"]
# Of a lease, for whoever is not its owner. unknown: not yet known whether its owner lives.
Hold = Literal["free", "held", "unknown"]


class Lease(BaseModel):
    """Who runs the run now, and when they last confirmed it.

    `refreshed` is in Unix seconds by the owner's clock, for people. `confirmed` is in seconds of
    the monotonic clock of its process' machine. Files of older releases have neither it nor
    `process`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str
    refreshed: float
    process: ProcessIdentity | None = None
    confirmed: float | None = None


class Attempt(BaseModel):
    """One start of the run by a driver, and why it ended (None: it is running, or was killed)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    started: float
    ended: float | None = None
    reason: str | None = None


class Entry(BaseModel):
    """A run's ledger entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_key: str
    state: State = "new"
    attempts: list[Attempt] = []
    lease: Lease | None = None
    reason: str | None = None


class WatchedLease(NamedTuple):
    """A lease, since when it has not changed, and whether its owner was seen to refresh it."""

    lease: Lease
    since: float  # of the watcher's monotonic clock
    refreshed: bool


class LeaseHeldError(RunError):
    """Another driver runs this run."""


class RunFinishedError(LeaseHeldError):
    """Another driver has finished this run: nothing is left to train."""


class LeaseLostError(RunError):
    """The run is no longer this driver's: another one took it over while this one was silent."""


class Ledger:
    """The ledger of an output folder: `<root>/runs/<run_key>/ledger.json`.

    All methods that write an entry, and `entry`, raise StorageError where the file cannot be read,
    written or understood.
    """

    def __init__(
        self,
        root: Path,
        name: str | None = None,
        *,
        clock: Callable[[], float] | None = None,
        elapsed: Callable[[], float] | None = None,
        process: ProcessIdentity | None = None,
    ) -> None:
        """`name` (without colons) distinguishes this object's leases from others of this process.

        Tests replace the Unix time `clock`, the monotonic time `elapsed` (by default the same as a
        `clock` that is given), and the `process`.
        """
        self.runs = OutputFolder(root).runs
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{name or uuid.uuid4().hex[:8]}"
        self._clock, self._elapsed = clock or time.time, elapsed or clock or time.monotonic
        self._process = process or this_process()
        self._watched: dict[str, WatchedLease] = {}  # by run key

    def run_folder(self, run_key: str) -> Path:
        """Folder that holds everything of one run."""
        return self.runs / run_key

    def entry(self, run_key: str) -> Entry:
        """The entry as it is now; a run never started has state new."""
        path = RunFolder(self.run_folder(run_key)).ledger
        entry = read_record(path, Entry, what="a ledger entry", remedy=REMOVE)
        if entry is None:
            return Entry(run_key=run_key)
        if entry.run_key != run_key:
            raise StorageError(f"{path}: is that of run {entry.run_key[:12]}; {REMOVE}")
        return entry

    def known_entry(self, run_key: str) -> Entry:
        """As `entry`, but one that cannot be read has state unreadable, and the error for reason.

        For those who look at many runs: a damaged entry must not keep them from the others.
        """
        try:
            return self.entry(run_key)
        except StorageError as error:
            return Entry(run_key=run_key, state="unreadable", reason=str(error))

    def holds(self, run_key: str) -> bool:
        """Whether the run's lease is this driver's."""
        lease = self.known_entry(run_key).lease
        return lease is not None and lease.owner == self.owner

    def hold(self, entry: Entry) -> Hold:
        """Whether another driver keeps the run, as far as this one has seen until now.

        A driver whose process is gone, as seen from here, keeps nothing: a killed study can be
        started again at once. One that cannot be seen is watched from the first call on.
        """
        lease, me = entry.lease, self._process
        if lease is None or lease.owner == self.owner:
            return "free"
        alive = lease.process.is_alive(me) if lease.process is not None else None
        if alive is False:
            return "free"
        watched = self._watch(entry.run_key, lease)
        if self._elapsed() - watched.since > LEASE_STALE_SECONDS:
            return "free"
        if watched.refreshed:
            return "held"
        if lease.process is None or lease.confirmed is None or not lease.process.shares_clock(me):
            return "unknown"
        if self._elapsed() - lease.confirmed > LEASE_STALE_SECONDS:
            return "free"
        return "held" if alive else "unknown"

    def _watch(self, run_key: str, lease: Lease) -> WatchedLease:
        """What has been seen of this lease until now."""
        before = self._watched.get(run_key)
        if before is None or before.lease != lease:
            refreshed = before is not None and before.lease.owner == lease.owner
            self._watched[run_key] = WatchedLease(lease, self._elapsed(), refreshed)
        return self._watched[run_key]

    def is_held(self, entry: Entry) -> bool:
        """Whether another driver keeps the run, or may keep it."""
        return self.hold(entry) != "free"

    def acquire(self, run_key: str) -> Entry:
        """Take the lease and begin an attempt; one that its driver left open ends here.

        Raises:
            LeaseHeldError: another driver has the lease, or may have it.
            RunFinishedError: the run is finished, and its model is there and whole.
        """
        seen = self.entry(run_key)
        # Before the lock is taken: a large model takes longer than others wait for it.
        lacks_model = seen.state == "finished" and damage_of_model(self.run_folder(run_key))
        with self._locked(run_key):
            entry, now = self.entry(run_key), self._clock()
            # An entry that has changed is that of a driver that has just finished the run.
            if entry.state == "finished" and not (lacks_model and entry == seen):
                raise RunFinishedError(f"run {run_key[:12]}: is finished already")
            if self.is_held(entry) and entry.lease:
                raise LeaseHeldError(
                    f"run {run_key[:12]}: is being run by {entry.lease.owner}; wait for it, or "
                    "stop that driver"
                )
            if entry.lease is not None and entry.lease.owner != self.owner:
                log.info("run %s: lease taken over from %s", run_key[:12], entry.lease.owner)
            attempts = [*_without_open_attempt(entry), Attempt(started=now)]
            values = {"state": "running", "attempts": attempts, "reason": None}
            return self._write(entry.model_copy(update={**values, "lease": self._lease()}))

    def refresh(self, run_key: str) -> None:
        """Confirm that this driver still runs the run.

        Raises:
            LeaseLostError: another driver took it over; nothing is written.
        """
        with self._locked(run_key):
            entry = self._owned_entry(run_key)
            self._write(entry.model_copy(update={"lease": self._lease()}))

    def close(self, run_key: str, state: State, reason: str | None = None) -> Entry:
        """End the attempt with its outcome and give the lease back.

        Raises:
            LeaseLostError: another driver took the run over; nothing is written.
        """
        with self._locked(run_key):
            entry = self._owned_entry(run_key)
            ended = {"ended": self._clock(), "reason": reason or state}
            last = [attempt.model_copy(update=ended) for attempt in entry.attempts[-1:]]
            attempts = [*entry.attempts[:-1], *last]
            values = {"state": state, "attempts": attempts, "lease": None, "reason": reason}
            return self._write(entry.model_copy(update=values))

    def adopt(self, seen: Entry, entry: Entry, place: Callable[[], None]) -> None:
        """Take over the entry of another output folder's run, once `place` has put its files here.

        `seen` is the entry that was found here before. The lease of the other folder is no lease
        here, and what ran there counts as interrupted.

        Raises:
            LeaseHeldError: another driver has the run, or has changed its entry meanwhile.
        """
        key = entry.run_key
        with self._locked(key):
            present = self.entry(key)
            if present != seen or self.is_held(present):
                raise LeaseHeldError(f"run {key[:12]}: another driver has it")
            place()
            attempts = _without_open_attempt(entry)
            values: dict[str, object] = {"attempts": attempts, "lease": None}
            if entry.state == "running":
                owner = entry.lease.owner if entry.lease is not None else "its driver"
                values |= {"state": "interrupted", "reason": f"{owner} left it in the mirror"}
            self._write(entry.model_copy(update=values))

    def request_stop(self, run_key: str) -> bool:
        """Ask the run's workers to save a checkpoint and leave, unless another driver has the run.

        The file is the workers' of whatever attempt is newest, so it is written under the lock.
        False where that is held now: signal handlers, which may have interrupted its holder, must
        not wait for it.
        """
        folder = RunFolder(self.run_folder(run_key))
        with storage_errors(folder.stop, remedy=MAKE_ROOM):
            try:
                with file_lock(folder.ledger_lock, wait=False):
                    if self.holds(run_key):
                        folder.stop.touch()
            except BlockingIOError:
                return False
        return True

    def _lease(self) -> Lease:
        return Lease(
            owner=self.owner,
            refreshed=self._clock(),
            process=self._process,
            confirmed=self._elapsed(),
        )

    def _owned_entry(self, run_key: str) -> Entry:
        entry = self.entry(run_key)
        owner = entry.lease.owner if entry.lease is not None else "nobody"
        if owner != self.owner:
            raise LeaseLostError(
                f"run {run_key[:12]}: was taken over while this driver was silent for more than "
                f"{LEASE_STALE_SECONDS:g} s; {owner} has its lease now (state {entry.state})"
            )
        return entry

    def _write(self, entry: Entry) -> Entry:
        path = RunFolder(self.run_folder(entry.run_key)).ledger
        with storage_errors(path, remedy=MAKE_ROOM):
            write_atomically(path, entry.model_dump_json(indent=1))
        return entry

    @contextmanager
    def _locked(self, run_key: str) -> Iterator[None]:
        path = RunFolder(self.run_folder(run_key)).ledger_lock
        with ExitStack() as stack:
            with storage_errors(path, remedy=MAKE_ROOM):
                self._enter(stack, path)
            yield

    def _enter(self, stack: ExitStack, path: Path) -> None:
        """Take the lock; its holder may be frozen, or cut off from the storage, with it."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                stack.enter_context(file_lock(path, wait=False))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"{path}: has been locked by another process for {LOCK_SECONDS:g} s; look "
                        "for a driver of this run that is stopped or hangs, and end it"
                    ) from None
                time.sleep(LOCK_POLL_SECONDS)
            else:
                return


def _without_open_attempt(entry: Entry) -> list[Attempt]:
    """The attempts; the last one, if its driver never closed it, ends with its last refresh."""
    attempts = list(entry.attempts)
    if attempts and attempts[-1].ended is None and entry.lease is not None:
        lost = {"ended": entry.lease.refreshed, "reason": "its driver was lost"}
        attempts[-1] = attempts[-1].model_copy(update=lost)
    return attempts
