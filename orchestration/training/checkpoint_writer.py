"""Saving the checkpoints of one attempt: local part, upload, agreement of all workers, retention.

What goes wrong with a checkpoint (a full disk, a network that is down) never ends training: all
workers drop that checkpoint, the journal says why, and the next one is tried at its time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch.distributed as dist

from orchestration.checkpoint.manifest import CheckpointNote, Cursor, seal
from orchestration.checkpoint.retention import CheckpointSummary, RetentionPolicy, to_delete
from orchestration.checkpoint.store import CheckpointStore, StoredCheckpoint, checkpoint_name
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.training.distributed import Place
from orchestration.training.train_loop import TrainState


@dataclass(frozen=True)
class _Upload:
    """A checkpoint on its way: `done` gives why this worker's part failed, or None."""

    name: str
    step: int
    done: Future[str | None]


class SupersededError(OSError):
    """A newer attempt at the run exists: this one's checkpoints count no more."""


class CheckpointWriter:
    """Saves checkpoints into a store; every worker has one and calls it at the same steps.

    With `upload` "async" a step waits only until the state is on this machine's disk, and the rest
    goes on in a thread: one at a time, so the next checkpoint waits for the one before. (Ray
    Train's own asynchronous mode ends training when an upload fails.) `whole` is told of each
    checkpoint that every worker has stored. `good` is the checkpoint that training went on from:
    until there is a newer one it stays, whatever else there is. Once `fence` knows of a newer
    attempt at the run, nothing is saved and nothing is removed: the checkpoints are its own now.
    """

    def __init__(
        self,
        store: CheckpointStore,
        attempt: int,
        place: Place,
        policy: RetentionPolicy,
        upload: Literal["sync", "async"],
        journal: JournalWriter | None,
        whole: Callable[[str, int], None] = lambda name, step: None,
        points: frozenset[int] = frozenset(),
        good: str | None = None,
        *,
        fence: AttemptFence | None = None,
    ) -> None:
        self._store, self._attempt, self._place = store, attempt, place
        self._policy, self._upload, self._journal = policy, upload, journal
        self._whole, self._points, self._good = whole, points, good
        self._fence = fence
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cola-upload")
        self._under_way: _Upload | None = None

    def __call__(self, state: TrainState) -> None:
        """Save this state; the checkpoint before is settled first."""
        self.settle()
        name = checkpoint_name(self._attempt, state.step)
        part, failure = self._saved_part(state, name)
        reasons = self._reasons(failure)
        if reasons or part is None:
            _remove(part)
            self._failed(name, state.step, reasons)
            return
        evaluated, nll = state.validation or (-1, None)
        note = CheckpointNote(
            validation_nll=nll if evaluated == state.step else None,
            evaluation_point=state.step in self._points,
        )
        done = self._pool.submit(self._sent, part, name, state.cursor(), note)
        self._under_way = _Upload(name, state.step, done)
        if self._upload == "sync":
            self.settle()

    def save_now(self, state: TrainState) -> None:
        """Save this state and wait until it is stored."""
        self(state)
        self.settle()

    def settle(self) -> None:
        """Wait for what is under way; keep it and drop older ones, or drop it where it failed."""
        upload, self._under_way = self._under_way, None
        if upload is None:
            return
        reasons = self._reasons(upload.done.result())
        if reasons:
            self._failed(upload.name, upload.step, reasons)
            return
        # Every worker is past loading what it went on from, and nothing else is being written.
        self._good = upload.name
        self._prune(self._policy, upload.step)
        self._whole(upload.name, upload.step)

    def close(self) -> None:
        """Settle, and end the thread."""
        self.settle()
        self._pool.shutdown()

    def _saved_part(self, state: TrainState, name: str) -> tuple[Path | None, str | None]:
        """This worker's part on the local disk, or why it is not there."""
        part, failure = None, None
        try:
            if self._place.rank == 0:
                self._check_fence()
                self._clear(name)
            part = Path(tempfile.mkdtemp(prefix="cola-checkpoint-"))
        except OSError as error:
            failure = _reason(error)
        # Saving has collective calls: it begins on all workers or on none.
        reasons = self._reasons(failure)
        if reasons or part is None:
            return part, failure
        try:
            state.save(part)
        except OSError as error:
            failure = _reason(error)
        return part, failure

    def _sent(self, part: Path, name: str, cursor: Cursor, note: CheckpointNote) -> str | None:
        """Seal and upload this worker's part (in the thread); why it failed, or None."""
        try:
            if self._place.rank == 0:  # without its manifest the other parts are no checkpoint
                self._check_fence()
            seal(part, cursor, self._place.rank, note=note)
            self._store.upload(part, name)
        except OSError as error:
            return _reason(error)
        finally:
            _remove(part)
        return None

    def _reasons(self, failure: str | None) -> list[str]:
        """What failed on any worker: the same list on all of them (a collective call)."""
        if self._place.world_size == 1:
            return [failure] if failure else []
        found: list[str | None] = [None] * self._place.world_size
        dist.all_gather_object(found, failure)
        return [f"worker {rank}: {reason}" for rank, reason in enumerate(found) if reason]

    def _failed(self, name: str, step: int, reasons: list[str]) -> None:
        """Leave nothing of it, make room for the next one, and say so."""
        if self._place.rank != 0 or self._is_superseded():
            return
        reasons = [*reasons, *self._attempted(lambda: self._clear(name))]
        self._prune(self._policy.sparing(), step)
        self._say("checkpoint failed", step, "; ".join(reasons))

    def _clear(self, name: str) -> None:
        """Remove what is there under this name: a resumed run passes no whole one that fits."""
        for stored in self._store.stored():
            if stored.name == name:
                self._store.delete(stored)

    def _prune(self, policy: RetentionPolicy, step: int) -> None:
        """Rank 0 removes what the policy does not keep, over all attempts."""
        if self._place.rank != 0 or self._is_superseded():
            return
        failures = self._attempted(lambda: self._delete_surplus(policy))
        if failures:
            self._say("checkpoints not pruned", step, failures[0])

    def _delete_surplus(self, policy: RetentionPolicy) -> None:
        stored = {item.name: item for item in self._store.stored()}
        known = [described(self._store, item) for item in stored.values()]
        for item in to_delete(known, policy, {self._good} if self._good else ()):
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
            return [_reason(error)]
        return []

    def _say(self, event: str, step: int, reason: str) -> None:
        if self._journal is not None:
            values = {"event": event, "attempt": self._attempt, "reason": reason}
            self._journal.write("event", step, time.time(), values)


def described(store: CheckpointStore, stored: StoredCheckpoint) -> CheckpointSummary:
    """What retention looks at of a checkpoint."""
    manifest = store.complete(stored)
    note = manifest.note if manifest is not None else CheckpointNote()
    return CheckpointSummary(
        stored.name,
        stored.attempt,
        stored.step,
        manifest is not None,
        note.validation_nll,
        note.evaluation_point,
    )


def _remove(part: Path | None) -> None:
    if part is not None:
        shutil.rmtree(part, ignore_errors=True)


def _reason(error: OSError) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
