"""Keeps the workers of an older attempt from writing once a newer attempt at the run exists.

A driver that was frozen, or cut off from the output folder, can be replaced while its workers are
still training. The ledger counts attempts, so each worker compares that count with its own number
before it writes what attempts share: journal, checkpoints, exported model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cola.errors import StorageError
from cola.files import read_json
from orchestration.state.paths import RunFolder

log = logging.getLogger(__name__)

# Chosen value: a successor needs longer than that to start its own workers.
CHECK_SECONDS = 2.0


class AttemptFence:
    """Compares one attempt's number with the ledger of its run."""

    def __init__(
        self, run_folder: Path, attempt: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self.attempt, self._clock = RunFolder(run_folder).ledger, attempt, clock
        self._checked: float | None = None
        self._superseded = False

    def superseded(self, *, recheck: bool = False) -> bool:
        """Whether a newer attempt exists.

        The ledger is read every few seconds at most, or now with `recheck`. One that cannot be
        read changes nothing: training does not end for a storage that is slow to answer.
        """
        if not self._superseded and (recheck or self._is_due()):
            self._checked = self._clock()
            newest = self._newest_attempt()
            self._superseded = newest > self.attempt
            if self._superseded:
                log.warning(
                    "%s: attempt %d stops, attempt %d has taken over",
                    self._path.parent, self.attempt, newest,
                )  # fmt: skip
        return self._superseded

    def _is_due(self) -> bool:
        # In both directions: a clock that is set back must not suspend the checks.
        return self._checked is None or abs(self._clock() - self._checked) >= CHECK_SECONDS

    def _newest_attempt(self) -> int:
        try:
            attempts = read_json(self._path).get("attempts", [])
        except StorageError as error:
            log.debug("%s", error)
            return 0
        return len(attempts) if isinstance(attempts, list) else 0
