"""What is finished and what is running: one small JSON file per run, kept outside Ray and MLflow.

The ledger decides what runs. A lease (refreshed every 30 s, stale after 90 s) keeps two drivers
from running the same run.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cola.errors import RunError
from cola.files import file_lock, write_atomically
from orchestration.state.paths import OutputFolder, RunFolder

LEASE_REFRESH_SECONDS = 30.0
LEASE_STALE_SECONDS = 90.0
State = Literal["new", "running", "finished", "interrupted", "failed", "diverged"]


class Lease(BaseModel):
    """Who runs the run now, and when they last said so (Unix seconds)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str
    refreshed: float


class Attempt(BaseModel):
    """One start of the run by a driver, and why it ended (None: it still runs or was killed)."""

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


class Ledger:
    """The ledger of an output folder: `<root>/runs/<run_key>/ledger.json`."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        """`name` (without colons): of who takes leases here, among those of this process."""
        self.runs = OutputFolder(root).runs
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{name or uuid.uuid4().hex[:8]}"

    def run_folder(self, run_key: str) -> Path:
        """Everything of one run."""
        return self.runs / run_key

    def entry(self, run_key: str) -> Entry:
        """The entry as it is now; a run never started has state new."""
        path = RunFolder(self.run_folder(run_key)).ledger
        try:
            return Entry.model_validate_json(path.read_text())
        except FileNotFoundError:
            return Entry(run_key=run_key)

    def acquire(self, run_key: str) -> Entry:
        """Take the lease and begin an attempt.

        Raises:
            LeaseHeldError: another driver holds a fresh lease.
        """
        with self._locked(run_key):
            entry = self.entry(run_key)
            if lease_is_fresh(entry) and entry.lease and entry.lease.owner != self.owner:
                raise LeaseHeldError(f"{run_key[:12]} is being run by {entry.lease.owner}")
            now = time.time()
            return self._write(
                entry.model_copy(
                    update={
                        "state": "running",
                        "attempts": [*entry.attempts, Attempt(started=now)],
                        "lease": Lease(owner=self.owner, refreshed=now),
                        "reason": None,
                    }
                )
            )

    def refresh(self, run_key: str) -> None:
        """Say that this driver still runs the run."""
        with self._locked(run_key):
            lease = Lease(owner=self.owner, refreshed=time.time())
            self._write(self.entry(run_key).model_copy(update={"lease": lease}))

    def close(self, run_key: str, state: State, reason: str | None = None) -> Entry:
        """End the attempt with its outcome and give the lease back."""
        with self._locked(run_key):
            entry = self.entry(run_key)
            attempts = list(entry.attempts)
            if attempts:
                ended = {"ended": time.time(), "reason": reason or state}
                attempts[-1] = attempts[-1].model_copy(update=ended)
            return self._write(
                entry.model_copy(
                    update={"state": state, "attempts": attempts, "lease": None, "reason": reason}
                )
            )

    def _write(self, entry: Entry) -> Entry:
        write_atomically(
            RunFolder(self.run_folder(entry.run_key)).ledger, entry.model_dump_json(indent=1)
        )
        return entry

    def _locked(self, run_key: str) -> AbstractContextManager[None]:
        return file_lock(RunFolder(self.run_folder(run_key)).ledger_lock)


def lease_is_fresh(entry: Entry) -> bool:
    """Whether some driver said within the last 90 s that it runs this run.

    A lease of a driver on this host whose process is gone is not fresh: a killed study can be
    started again at once.
    """
    if entry.lease is None or time.time() - entry.lease.refreshed > LEASE_STALE_SECONDS:
        return False
    host, pid, _ = entry.lease.owner.rsplit(":", 2)
    return host != socket.gethostname() or Path(f"/proc/{pid}").exists()
