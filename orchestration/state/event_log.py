"""A study's event log: one JSON line for every start, end, fault, retry and refusal, with its
reason."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from cola.jsonl import LineWriter, read_lines
from orchestration.state.paths import StudyFolder


class Event:
    """Names of a study's events; the end of a run is logged under its state in the ledger."""

    LAUNCHED = "launched"
    NOT_STARTED = "not started"  # refused or given up; the reason says what would help
    SKIPPED = "skipped"  # another driver has the run
    WAITING = "waiting"  # for room on a cluster
    WORKERS_STARTED = "workers started"
    WORKERS_RESTARTED = "workers restarted"  # within the same attempt
    WORKERS_FAILED = "workers failed"
    LEASE_LOST = "lease lost"  # another driver has taken the run over
    HUNG = "hung"  # a worker made no step for too long and was killed
    RETRIED = "retried"
    STOP_REQUESTED = "stop requested"
    DRIVER_LOST = "driver lost"
    FINISHED = "finished"


class EventLog:
    """Appends to `events.jsonl` in the study's folder; lines of several processes may alternate."""

    def __init__(self, study_folder: Path) -> None:
        self._path = StudyFolder(study_folder).events
        self._writer = f"{socket.gethostname()}:{os.getpid()}"

    def write(
        self, event: str, run: str | None = None, reason: str | None = None, **values: Any
    ) -> None:
        """Append one event, with the name of its run, its reason and further values.

        Raises:
            OSError: where the disk does not take it.
        """
        line = {
            "time": time.time(),
            "driver": self._writer,
            "event": event,
            "run": run,
            "reason": reason,
            **values,
        }
        with LineWriter(self._path) as lines:
            lines.write(json.dumps(line))


def read_events(study_folder: Path) -> list[dict[str, Any]]:
    """All events in order; a line that a crash cut off is left out."""
    return read_lines(StudyFolder(study_folder).events)
