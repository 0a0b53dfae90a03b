"""A study's event log: one JSON line for every start, end, fault, retry and refusal, with its
reason."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cola.errors import one_line
from cola.files import file_lock
from cola.jsonl import LineReader, LineWriter, read_lines
from orchestration.state.paths import StudyFolder

log = logging.getLogger(__name__)

MOST_PENDING = 1000  # chosen: events that wait for a disk
LOCK_TRIES, LOCK_POLL_SECONDS = 50, 0.01  # chosen: a line is written within milliseconds


class Event:
    """Names of a study's events; the end of a run is logged under its state in the ledger."""

    LAUNCHED = "launched"
    NOT_STARTED = "not started"  # refused or given up; the reason says what would help
    SKIPPED = "skipped"  # another driver has the run
    SET_ASIDE = "set aside"  # its files are damaged; the reason says which, and the remedy
    WAITING = "waiting"  # for room on a cluster
    WORKERS_STARTED = "workers started"
    WORKERS_RESTARTED = "workers restarted"  # within the same attempt
    WORKERS_FAILED = "workers failed"
    LEASE_TAKEN = "lease taken"  # from a driver that is gone or silent
    LEASE_LOST = "lease lost"  # another driver has taken the run over
    LEASE_NOT_REFRESHED = "lease not refreshed"  # the output folder takes nothing: a full disk
    CHECKPOINT_DAMAGED = "checkpoint damaged"  # an older one is taken
    OUT_OF_MEMORY = "out of memory"  # of a worker's device; passes are halved
    HUNG = "hung"  # a worker made no step for too long and was killed
    RETRIED = "retried"
    STOP_REQUESTED = "stop requested"
    DRIVER_LOST = "driver lost"
    DRIVER_FAILED = "driver failed"  # by an error that it does not handle
    FROM_MIRROR = "taken from mirror"
    MIRROR_DAMAGED = "damaged in mirror"  # what lies there is not taken; the reason says what
    NOT_MIRRORED = "not mirrored"  # results wait in the output folder
    FINISHED = "finished"


class EventLog:
    """Appends to `events.jsonl` in the study's folder; lines of several processes may alternate.

    A full disk ends nothing: events that it does not take are kept, up to a limit, and written with
    the next one.
    """

    def __init__(self, study_folder: Path) -> None:
        self._path = StudyFolder(study_folder).events
        self._writer = f"{socket.gethostname()}:{os.getpid()}"
        self._pending: deque[str] = deque(maxlen=MOST_PENDING)

    @property
    def folder(self) -> Path:
        """The folder of the study or sweep whose events these are."""
        return self._path.parent

    def write(
        self, event: str, run: str | None = None, reason: str | None = None, **values: Any
    ) -> None:
        """Append one event, with the name of its run, its reason and further values."""
        line = {
            "time": time.time(),
            "driver": self._writer,
            "event": event,
            "run": run,
            "reason": reason,
            **values,
        }
        self._pending.append(json.dumps(line))
        try:
            with self._alone(), LineWriter(self._path) as lines:
                while self._pending:
                    lines.write(self._pending[0])
                    self._pending.popleft()
        except OSError as error:
            log.warning("%s: an event is not written: %s", self._path, one_line(error))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within, writers on other machines wait: on network storage their lines would overlap.

        One that holds the lock for too long is not waited for: it may be this very process, which
        a signal has interrupted, or one that is frozen.
        """
        lock = self._path.with_suffix(".lock")
        with ExitStack() as stack:
            for _ in range(LOCK_TRIES):
                try:
                    stack.enter_context(file_lock(lock, wait=False))
                    break
                except BlockingIOError:
                    time.sleep(LOCK_POLL_SECONDS)
            yield


class FailureReader:
    """Follows what the controllers of a study write about failed workers, from now on."""

    def __init__(self, study_folder: Path) -> None:
        self._lines = LineReader(StudyFolder(study_folder).events)
        self.new_failures()  # those of earlier drivers

    def new_failures(self) -> list[dict[str, Any]]:
        """Events of failed workers since the last call, and of groups short of memory: these name
        the ranks, unlike those that the driver writes for workers with a journal."""
        try:
            events = [record for _, record in self._lines.new_lines()]
        except OSError:  # the log's writers report it
            return []
        return [
            event
            for event in events
            if event.get("event") == Event.WORKERS_FAILED
            or (event.get("event") == Event.OUT_OF_MEMORY and "ranks" in event)
        ]


def read_events(study_folder: Path) -> list[dict[str, Any]]:
    """All events in order; a line that a crash cut off is left out."""
    return read_lines(StudyFolder(study_folder).events)
