"""The hook that writes a worker's heartbeat (see `orchestration.state.heartbeat`)."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from orchestration.state.fence import AttemptFence
from orchestration.state.heartbeat import Beat
from orchestration.state.paths import RunFolder

if TYPE_CHECKING:
    from orchestration.training.train_loop import TrainState

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0  # chosen: short beside any `resources.hang_seconds`


@dataclass(frozen=True)
class WorkerIdentity:
    """A worker of one attempt, and Ray's id of its node."""

    attempt: int
    rank: int
    node_id: str


class Heartbeat:
    """Writes this worker's heartbeat file, at most every few seconds.

    Training does not depend on it: what a full disk does not take is left out. A superseded
    attempt, which `fence` knows of, writes none.
    """

    def __init__(
        self,
        run_folder: Path,
        worker: WorkerIdentity,
        step: int,
        *,
        fence: AttemptFence | None = None,
    ) -> None:
        self._worker, self._fence = worker, fence
        self._path = RunFolder(run_folder).heartbeats / f"rank-{worker.rank:05d}.json"
        self._last = (step, 0.0, 0.0)
        self._written = 0.0
        self._write(step, None, None)

    def __call__(self, state: TrainState) -> None:
        """Write this worker's step and speed, where a heartbeat is due."""
        if time.monotonic() - self._written < EVERY_SECONDS:
            return
        last_step, elapsed, data = self._last
        steps, seconds = state.step - last_step, state.elapsed_seconds - elapsed
        if elapsed and steps and seconds > 0:
            self._write(state.step, seconds / steps, (state.data_seconds - data) / seconds)
        else:
            self._write(state.step, None, None)
        self._last = (state.step, state.elapsed_seconds, state.data_seconds)

    def keep_alive(self) -> None:
        """Write that this worker is alive after the last step, where a heartbeat is due."""
        if time.monotonic() - self._written >= EVERY_SECONDS:
            self._write(self._last[0], None, None)

    def _write(self, step: int, seconds: float | None, data_share: float | None) -> None:
        self._written = time.monotonic()
        if self._fence is not None and self._fence.superseded():
            return
        beat = Beat(
            attempt=self._worker.attempt,
            rank=self._worker.rank,
            pid=os.getpid(),
            host=socket.gethostname(),
            node_id=self._worker.node_id,
            step=step,
            time=time.time(),
            seconds_per_step=seconds,
            data_wait_fraction=data_share,
            memory_gb=psutil.Process().memory_info().rss / 1e9,
        )
        # Without fsync: nobody misses a heartbeat that a crash loses.
        temporary = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(exist_ok=True)
            temporary.write_text(beat.model_dump_json())
            temporary.replace(self._path)
        except OSError as error:
            log.debug("%s: is not written: %s", self._path, error)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
