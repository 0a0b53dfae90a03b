"""Saves the checkpoints of one attempt: local part, upload, agreement of all workers, retention.

A checkpoint that fails (a full disk, a network that is down) never ends training: all workers drop
it, the journal records why, and the next one is tried at its time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from cola.errors import one_line
from orchestration.checkpoint.manifest import CheckpointNote, Cursor, seal
from orchestration.checkpoint.retention import RetentionPolicy, to_delete
from orchestration.checkpoint.store import CheckpointStore, checkpoint_name
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.state.scratch import Scratch
from orchestration.training.distributed import WorkerRank, gather_objects
from orchestration.training.train_loop import TrainState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Upload:
    """A checkpoint that is being uploaded: `done` gives why this worker's part failed, or None."""

    name: str
    step: int
    done: Future[str | None]


class SupersededError(OSError):
    """A newer attempt at the run exists, so this attempt's checkpoints no longer count."""


class CheckpointWriter:
    """Saves checkpoints into a store; every worker has one and calls it at the same steps.

    With `upload` "async" a step waits only until the state is on this machine's disk. A thread
    uploads one checkpoint at a time, so a new checkpoint waits for the upload before it. (Ray
    Train's asynchronous mode would end training when an upload fails.) `on_stored` gets name and
    step of each checkpoint that every worker has stored. `points` are evaluation steps, whose
    checkpoints the policy may keep. The checkpoint `resumed_from` is kept until a newer one is
    stored, whatever the policy says. Once `fence` finds a newer attempt at the run, nothing more is
    saved or removed: the checkpoints belong to that attempt.
    """

    def __init__(
        self,
        store: CheckpointStore,
        attempt: int,
        worker: WorkerRank,
        *,
        policy: RetentionPolicy,
        upload: Literal["sync", "async"],
        journal: JournalWriter | None,
        on_stored: Callable[[str, int], None] = lambda name, step: None,
        points: frozenset[int] = frozenset(),
        resumed_from: str | None = None,
        fence: AttemptFence | None = None,
    ) -> None:
        self._store, self._attempt, self._worker = store, attempt, worker
        self._policy, self._upload, self._journal = policy, upload, journal
        self._on_stored, self._points, self._trusted = on_stored, points, resumed_from
        self._fence = fence
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cola-upload")
        self._pending: _Upload | None = None

    def __call__(self, state: TrainState) -> None:
        """Save this state, once the upload before it is settled."""
        self.settle()
        name = checkpoint_name(self._attempt, state.step)
        part, failure = self._save_part(state, name)
        reasons = self._reasons(failure)
        if reasons or part is None:
            _remove(part)
            self._drop(name, state.step, reasons)
            return
        found = state.validation
        note = CheckpointNote(
            validation_nll=found.nll if found and found.step == state.step else None,
            evaluation_point=state.step in self._points,
        )
        done = self._pool.submit(self._upload_part, part, name, state.cursor(), note=note)
        self._pending = _Upload(name, state.step, done)
        if self._upload == "sync":
            self.settle()

    def save_now(self, state: TrainState) -> None:
        """Save this state and wait until it is stored."""
        self(state)
        self.settle()

    def settle(self) -> None:
        """Wait for the pending upload; then prune older checkpoints, or drop it where it failed."""
        upload, self._pending = self._pending, None
        if upload is None:
            return
        reasons = self._reasons(upload.done.result())
        if reasons:
            self._drop(upload.name, upload.step, reasons)
            return
        # By now every worker has loaded the checkpoint it resumed from, and none is being written.
        self._trusted = upload.name
        self._prune(self._policy, upload.step)
        log.info("stored checkpoint %s", upload.name)
        self._on_stored(upload.name, upload.step)

    def close(self) -> None:
        """Settle the pending upload and end the thread."""
        self.settle()
        self._pool.shutdown()

    def _save_part(self, state: TrainState, name: str) -> tuple[Scratch | None, str | None]:
        """This worker's part on the local disk (None: not begun), and why it failed, if it did."""
        part: Scratch | None = None
        failure: str | None = None
        try:
            if self._worker.rank == 0:
                self._check_fence()
                self._clear(name)
            part = Scratch("checkpoint")
        except OSError as error:
            failure = one_line(error)
        # Saving makes collective calls: it begins on all workers or on none.
        reasons = self._reasons(failure)
        if reasons or part is None:
            return part, failure
        try:
            state.save(part.path)
        except OSError as error:
            failure = one_line(error)
        return part, failure

    def _upload_part(
        self, part: Scratch, name: str, cursor: Cursor, *, note: CheckpointNote
    ) -> str | None:
        """Seal and upload this worker's part (in the thread); why it failed, or None."""
        try:
            if self._worker.rank == 0:  # without its manifest the other parts are no checkpoint
                self._check_fence()
            seal(part.path, cursor, self._worker.rank, note=note)
            self._store.upload(part.path, name)
        except OSError as error:
            return one_line(error)
        finally:
            _remove(part)
        return None

    def _reasons(self, failure: str | None) -> list[str]:
        """Failures of all workers, the same list on each of them (collective)."""
        if self._worker.world_size == 1:
            return [failure] if failure else []
        failures = gather_objects(failure, self._worker)
        return [f"worker {rank}: {reason}" for rank, reason in enumerate(failures) if reason]

    def _drop(self, name: str, step: int, reasons: list[str]) -> None:
        """Remove what is there of a failed checkpoint, make room for the next, record why."""
        if self._worker.rank != 0 or self._is_superseded():
            return
        reasons = [*reasons, *self._attempted(lambda: self._clear(name))]
        self._prune(self._policy.sparing(), step)
        self._record("checkpoint failed", step, "; ".join(reasons))

    def _clear(self, name: str) -> None:
        """Remove a checkpoint of this name: only a damaged one can be here, as none was loaded."""
        for stored in self._store.stored():
            if stored.name == name:
                self._store.delete(stored)

    def _prune(self, policy: RetentionPolicy, step: int) -> None:
        """Rank 0 removes what the policy does not keep, over all attempts."""
        if self._worker.rank != 0 or self._is_superseded():
            return
        failures = self._attempted(lambda: self._delete_surplus(policy))
        if failures:
            self._record("checkpoints not pruned", step, failures[0])

    def _delete_surplus(self, policy: RetentionPolicy) -> None:
        stored = {item.name: item for item in self._store.stored()}
        summaries = [self._store.summary(item) for item in stored.values()]
        for item in to_delete(summaries, policy, {self._trusted} if self._trusted else ()):
            log.debug("deleting checkpoint %s", item.name)
            self._store.delete(stored[item.name])

    def _is_superseded(self) -> bool:
        return self._fence is not None and self._fence.superseded(recheck=True)

    def _check_fence(self) -> None:
        if self._is_superseded():
            raise SupersededError(f"attempt {self._attempt} is not the newest one any more")

    def _attempted(self, action: Callable[[], None]) -> list[str]:
        try:
            action()
        except OSError as error:
            return [one_line(error)]
        return []

    def _record(self, event: str, step: int, reason: str) -> None:
        log.warning("step %d: %s: %s", step, event, reason)
        if self._journal is not None:
            values = {"event": event, "attempt": self._attempt, "reason": reason}
            self._journal.write("event", step, time.time(), values=values)


def _remove(part: Scratch | None) -> None:
    if part is not None:
        part.remove()
