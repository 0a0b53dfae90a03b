"""Leaves a node before it is taken away: save a checkpoint, record why, restart elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cola.errors import RunError
from orchestration.state.journal import JournalWriter
from orchestration.training.distributed import broadcast_from_rank_0
from orchestration.training.train_loop import TrainState

POLL_SECONDS = 3.0  # chosen: short beside the 30 s to 2 min of notice that clouds give

log = logging.getLogger(__name__)


class PreemptedError(RunError):
    """The workers left before one of their nodes is taken away; no step is lost."""


class LeaveBeforePreemption:
    """Polls for a preemption notice every few seconds; on one, saves a checkpoint and leaves.

    `notice` is a collective call: every worker makes it equally often and gets the same answer.
    """

    def __init__(
        self,
        notice: Callable[[], str | None],
        save: Callable[[TrainState], None],
        journal: JournalWriter | None,
    ) -> None:
        self._notice, self._save, self._journal = notice, save, journal
        self._polled_at = time.monotonic()

    def __call__(self, state: TrainState) -> None:
        """Poll for a notice, at the times of rank 0's clock.

        Raises:
            PreemptedError: after the checkpoint, from which the restarted run resumes.
        """
        due = int(time.monotonic() - self._polled_at >= POLL_SECONDS)
        if not broadcast_from_rank_0(due, state.worker, state.engine.device):
            return
        self._polled_at = time.monotonic()
        reason = self._notice()
        # A run that ends with this step leaves anyway.
        if reason is None or state.stop is not None or state.step == state.run.steps:
            return
        log.warning("step %d: %s; saving and leaving", state.step, reason)
        self._save(state)
        if self._journal is not None:
            values = {"event": "preempted", "reason": reason}
            self._journal.write("event", state.step, time.time(), values=values)
        raise PreemptedError(reason)
