"""What is finished and what is running: one small JSON file per run, kept outside Ray and MLflow.

The ledger decides what runs. A lease (refreshed every 30 s, stale after 90 s) keeps two drivers
from running the same run. A driver that was frozen for longer may find its run taken over: then it
no longer owns the lease, cannot change the entry, and leaves the run to its successor. Workers see
the same by the number of attempts (`orchestration.state.fence`).
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cola.errors import RunError, StorageError, one_line
from cola.files import file_lock, write_atomically
from orchestration.state.paths import OutputFolder, RunFolder

log = logging.getLogger(__name__)

# Chosen values: two refreshes may be missed (a slow disk, a busy machine) before a lease is stale.
LEASE_REFRESH_SECONDS = 30.0
LEASE_STALE_SECONDS = 90.0
State = Literal["new", "running", "finished", "interrupted", "failed", "diverged"]


class Lease(BaseModel):
    """Who runs the run now, and when they last confirmed it (Unix seconds)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str
    refreshed: float


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


class LeaseHeldError(RunError):
    """Another driver runs this run."""


class LeaseLostError(RunError):
    """The run is no longer this driver's: another one took it over while this one was silent."""


class Ledger:
    """The ledger of an output folder: `<root>/runs/<run_key>/ledger.json`.

    All methods that read or write an entry raise StorageError where the file cannot be read,
    written or understood.
    """

    def __init__(
        self, root: Path, name: str | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`name` (without colons) tells the leases of this object from others of this process."""
        self.runs = OutputFolder(root).runs
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{name or uuid.uuid4().hex[:8]}"
        self._clock = clock

    def run_folder(self, run_key: str) -> Path:
        """Folder that holds everything of one run."""
        return self.runs / run_key

    def entry(self, run_key: str) -> Entry:
        """The entry as it is now; a run never started has state new."""
        path = RunFolder(self.run_folder(run_key)).ledger
        try:
            return Entry.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Entry(run_key=run_key)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise StorageError(
                f"{path}: is not a ledger entry that this version reads ({one_line(problem)}); "
                "remove it, and the run resumes from its newest checkpoint"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{path}: cannot be read ({one_line(error)}); check the output folder"
            ) from None

    def holds(self, run_key: str) -> bool:
        """Whether the run's lease is this driver's."""
        lease = self.entry(run_key).lease
        return lease is not None and lease.owner == self.owner

    def acquire(self, run_key: str) -> Entry:
        """Take the lease and begin an attempt; one that its driver left open ends here.

        Raises:
            LeaseHeldError: another driver holds a fresh lease.
        """
        with self._locked(run_key):
            entry, now = self.entry(run_key), self._clock()
            if lease_is_fresh(entry, now) and entry.lease and entry.lease.owner != self.owner:
                raise LeaseHeldError(
                    f"run {run_key[:12]}: is being run by {entry.lease.owner}; wait for it, or "
                    "stop that driver"
                )
            if entry.lease is not None and entry.lease.owner != self.owner:
                log.info("run %s: lease taken over from %s", run_key[:12], entry.lease.owner)
            attempts = [*_without_open_attempt(entry), Attempt(started=now)]
            lease = Lease(owner=self.owner, refreshed=now)
            values = {"state": "running", "attempts": attempts, "lease": lease, "reason": None}
            return self._write(entry.model_copy(update=values))

    def refresh(self, run_key: str) -> None:
        """Confirm that this driver still runs the run.

        Raises:
            LeaseLostError: another driver took it over; nothing is written.
        """
        with self._locked(run_key):
            entry = self._owned_entry(run_key)
            lease = Lease(owner=self.owner, refreshed=self._clock())
            self._write(entry.model_copy(update={"lease": lease}))

    def close(self, run_key: str, state: State, reason: str | None = None) -> Entry:
        """End the attempt with its outcome and give the lease back.

        Raises:
            LeaseLostError: another driver took the run over; nothing is written.
        """
        with self._locked(run_key):
            entry = self._owned_entry(run_key)
            ended = {"ended": self._clock(), "reason": reason or state}
            attempts = [*entry.attempts[:-1], entry.attempts[-1].model_copy(update=ended)]
            values = {"state": state, "attempts": attempts, "lease": None, "reason": reason}
            return self._write(entry.model_copy(update=values))

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
        try:
            write_atomically(path, entry.model_dump_json(indent=1))
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be written ({one_line(error)}); free space in the output folder, "
                "or check its permissions"
            ) from None
        return entry

    def _locked(self, run_key: str) -> AbstractContextManager[None]:
        return file_lock(RunFolder(self.run_folder(run_key)).ledger_lock)


def lease_is_fresh(entry: Entry, now: float | None = None) -> bool:
    """Whether some driver confirmed within the last 90 s that it runs this run.

    A lease of a driver on this host whose process is gone is not fresh: a killed study can be
    started again at once. `now` is in Unix seconds, by default the present.
    """
    if entry.lease is None:
        return False
    now = time.time() if now is None else now
    if now - entry.lease.refreshed > LEASE_STALE_SECONDS:
        return False
    host, pid, _ = entry.lease.owner.rsplit(":", 2)
    return host != socket.gethostname() or Path(f"/proc/{pid}").exists()


def _without_open_attempt(entry: Entry) -> list[Attempt]:
    """The attempts; the last one, if its driver never closed it, ends with its last refresh."""
    attempts = list(entry.attempts)
    if attempts and attempts[-1].ended is None and entry.lease is not None:
        lost = {"ended": entry.lease.refreshed, "reason": "its driver was lost"}
        attempts[-1] = attempts[-1].model_copy(update=lost)
    return attempts
