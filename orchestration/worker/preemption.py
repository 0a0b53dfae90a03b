"""Leaves a node before it is taken away: save a checkpoint, record why, restart elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cola.errors import RunError
from orchestration.state.journal import JournalWriter
from orchestration.training.train_loop import StepHook, TrainState

POLL_SECONDS = 3.0  # chosen: short beside the 30 s to 2 min of notice that clouds give

log = logging.getLogger(__name__)


class PreemptedError(RunError):
    """The workers left before one of their nodes is taken away; no step is lost."""


class LeaveBeforePreemption(StepHook):
    """Polls for a preemption notice every few seconds; on one, saves a checkpoint and leaves.

    `notice` is a collective call: every worker makes it equally often and gets the same answer.
    """

    question = "preemption notice"

    def __init__(
        self,
        notice: Callable[[], str | None],
        save: Callable[[TrainState], None],
        journal: JournalWriter | None,
    ) -> None:
        self._notice, self._save, self._journal = notice, save, journal
        self._polled_at = time.monotonic()

    def asks(self, state: TrainState) -> bool:
        """Whether it is time to poll, by rank 0's clock."""
        return time.monotonic() - self._polled_at >= POLL_SECONDS

    def __call__(self, state: TrainState) -> None:
        """Poll for a notice where it is time.

        Raises:
            PreemptedError: after the checkpoint, from which the restarted run resumes.
        """
        if not state.asked(self.question):
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
