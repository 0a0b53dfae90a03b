"""Leaving a node before it is taken away: save, say so, and let the run start again elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from cola.errors import RunError
from orchestration.state.journal import JournalWriter
from orchestration.training.distributed import broadcast_from_rank_0
from orchestration.training.train_loop import TrainState

LOOK_SECONDS = 3.0


class PreemptedError(RunError):
    """The workers left because a node of theirs is taken away; nothing is lost."""


class LeaveBeforePreemption:
    """Hook: looks for a notice every few seconds; on one, saves a checkpoint and leaves.

    `notice` is a collective call: every worker makes it equally often and gets the same answer.
    """

    def __init__(
        self,
        notice: Callable[[], str | None],
        save: Callable[[TrainState], None],
        journal: JournalWriter | None,
    ) -> None:
        self._notice, self._save, self._journal = notice, save, journal
        self._looked = time.monotonic()

    def __call__(self, state: TrainState) -> None:
        """Rank 0's clock decides for all when to look.

        Raises:
            PreemptedError: after the checkpoint; what starts again goes on from it.
        """
        due = int(time.monotonic() - self._looked >= LOOK_SECONDS)
        if not broadcast_from_rank_0(due, state.worker, state.engine.device):
            return
        self._looked = time.monotonic()
        reason = self._notice()
        # A run that ends with this step has its own way out.
        if reason is None or state.stop is not None or state.step == state.run.steps:
            return
        self._save(state)
        if self._journal is not None:
            values = {"event": "preempted", "reason": reason}
            self._journal.write("event", state.step, time.time(), values)
        raise PreemptedError(reason)
