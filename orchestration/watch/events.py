"""A study's or sweep's event log, followed while it grows: the latest lines, and what each run
waits for by them."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from cola.errors import StorageError, one_line
from cola.jsonl import LineReader
from orchestration.state.event_log import Event
from orchestration.state.paths import StudyFolder
from orchestration.state.run_progress import number
from orchestration.watch.picture import EventLine

SHOWN = 200  # events of the page; a chosen value
# Why a run is not training, until another event of it.
WAITS = (Event.WAITING, Event.NOT_STARTED, Event.SKIPPED, Event.SET_ASIDE)


class FollowedEvents:
    """The events of a folder so far."""

    def __init__(self, folder: Path) -> None:
        self._path = StudyFolder(folder).events
        self._reader = LineReader(self._path)
        self._restarts = 0
        self._latest: deque[EventLine] = deque(maxlen=SHOWN)
        self._count = 0
        self._last: dict[str, EventLine] = {}  # by the run's name
        self.is_stopping = False  # a stop was asked for, and nothing was launched since

    def read(self) -> None:
        """Take in the lines since the last call.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            lines = [record for _, record in self._reader.new_lines()]
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot be read ({one_line(error)}); check its permissions"
            ) from None
        if self._reader.restarts > self._restarts:
            self._restarts, self._count = self._reader.restarts, 0
            self._latest.clear()
            self._last.clear()
        for line in lines:
            self._add(line)

    def latest(self) -> list[EventLine]:
        """The latest events, the newest first."""
        return list(reversed(self._latest))

    @property
    def left_out(self) -> int:
        """How many earlier events there are."""
        return self._count - len(self._latest)

    def wait_of_first(self, prefix: str) -> str | None:
        """Why the first run waits whose name begins so; None where none does."""
        names = (name for name in self._last if name.startswith(prefix))
        return next(filter(None, map(self.wait_of, names)), None)

    def wait_of(self, run: str) -> str | None:
        """Why a run waits, where the last event of it says so."""
        last = self._last.get(run)
        if last is None or last.event not in WAITS:
            return None
        if last.event == Event.WAITING:
            return last.reason
        return f"{last.event}: {last.reason}" if last.reason else last.event

    def _add(self, line: dict[str, Any]) -> None:
        time, event = number(line.get("time")), line.get("event")
        if time is None or not isinstance(event, str):
            return
        run, reason = line.get("run"), line.get("reason")
        found = EventLine(
            time, event, None if run is None else str(run), None if reason is None else str(reason)
        )
        self._count += 1
        self._latest.append(found)
        self.is_stopping = event == Event.STOP_REQUESTED or (
            self.is_stopping and event != Event.LAUNCHED
        )
        if found.run is not None:
            self._last[found.run] = found
