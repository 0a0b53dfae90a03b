"""Copies of runs' journals for trackers beside MLflow, where a study asks for them.

A thread of the driver writes them, so that neither training nor MLflow waits for a tracker. One
that fails costs a warning, and the next `cola run` goes on where it stopped: what it has of a run
is in a file, by the kinds and steps of journal lines, as in MLflow.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cola.errors import one_line
from cola.files import write_atomically
from cola.study import RunSpec
from orchestration.state.journal import JournalReader, Line
from orchestration.state.paths import RunFolder

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks at the journals; a chosen value
MARKS = "sent"  # folder of what trackers have


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker gets it."""

    spec: RunSpec
    name: str
    folder: Path
    tags: Mapping[str, str]


class Sink(Protocol):
    """One run in a tracker. Any method may raise errors of the tracker's library."""

    def write(self, lines: Sequence[Line]) -> None:
        """Take further lines of the journal; all of their numbers are finite."""

    def close(self, state: str) -> None:
        """End the run in this state, with all of it stored."""


class Tracker(Protocol):
    """A tracker of one study."""

    name: str

    def open(self, run: TrackedRun) -> Sink:
        """The run in this tracker, created where there is none."""


@dataclass
class RunCopy:
    """A run that one tracker gets. `steps`: what it has, by kind of lines; `state`: how it ended
    there."""

    run: TrackedRun
    tracker: Tracker
    mark: Path
    reader: JournalReader
    steps: dict[str, int] = field(default_factory=dict)
    state: str | None = None
    sink: Sink | None = None
    closing: str | None = None
    done: bool = False

    @classmethod
    def of(cls, run: TrackedRun, tracker: Tracker, folder: Path) -> RunCopy:
        """The copy as earlier drivers left it."""
        mark = folder / MARKS / f"{tracker.name}-{run.spec.run_key}.json"
        reader = JournalReader(RunFolder(run.folder).journal)
        found = cls(run, tracker, mark, reader)
        try:
            values = json.loads(mark.read_text(encoding="utf-8"))
            found.steps = {str(kind): int(step) for kind, step in values["steps"].items()}
            found.state = values["state"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            found.steps, found.state = {}, None  # none, or a damaged one: all of it is sent
        return found

    def send(self, closing: str | None) -> None:
        """Send what the tracker lacks; with `closing`, then end the run in that state."""
        lines = [line for line in self.reader.new_lines() if line.kind != "event"]
        lines = [line for line in lines if line.step > self.steps.get(line.kind, -1)]
        if lines or (closing is not None and closing != self.state):
            if self.sink is None:
                self.sink = self.tracker.open(self.run)
            if lines:
                self.sink.write([finite(line) for line in lines])
        for line in lines:
            self.steps[line.kind] = max(line.step, self.steps.get(line.kind, -1))
        if closing is not None:
            if self.sink is not None:
                self.sink.close(closing)
            self.state, self.done = closing, True
        if lines or closing is not None:
            self.mark.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.mark, json.dumps({"steps": self.steps, "state": self.state}))


def finite(line: Line) -> Line:
    """The line with its numbers alone: those that are not finite are strings in journals."""
    values = {name: v for name, v in line.values.items() if isinstance(v, int | float)}
    return Line(line.number, line.kind, line.step, line.time, values)


class Trackers:
    """Copies the journals of a study's runs to every tracker, in a thread."""

    def __init__(self, trackers: Sequence[Tracker], folder: Path) -> None:
        """`folder` holds what trackers have of runs; without trackers nothing is done."""
        self._trackers, self._folder = trackers, folder
        self._copies: dict[tuple[str, str], RunCopy] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to copy."""
        if self._trackers:
            self._thread = threading.Thread(target=self._follow, daemon=True, name="trackers")
            self._thread.start()

    def follow(self, run: TrackedRun) -> None:
        """Copy this run from now on (again, where it was closed before)."""
        with self._lock:
            for tracker in self._trackers:
                copy = RunCopy.of(run, tracker, self._folder)
                self._copies[tracker.name, run.spec.run_key] = copy

    def close_run(self, run_key: str, state: str) -> None:
        """Copy the rest of a run that ended in `state`, then end it."""
        with self._lock:
            for (_, key), copy in self._copies.items():
                if key == run_key:
                    copy.closing = state

    def leave_run(self, run_key: str) -> None:
        """Stop copying a run that another driver took over."""
        with self._lock:
            for name in [name for name in self._copies if name[1] == run_key]:
                del self._copies[name]

    def finish(self, patience_seconds: float) -> None:
        """Copy the rest for at most `patience_seconds`; what is left then is named in a warning."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(timeout=patience_seconds)
        with self._lock:
            late = sorted({c.tracker.name for c in self._copies.values() if not c.done})
        if self._thread.is_alive() and late:
            log.warning(
                "%s: did not take everything in %.0f s; the next `cola run` sends the rest",
                ", ".join(late), patience_seconds,
            )  # fmt: skip

    def _follow(self) -> None:
        while True:
            stopping = self._stop.is_set()
            with self._lock:
                copies = [(copy, copy.closing) for copy in self._copies.values() if not copy.done]
            for copy, closing in copies:
                self._send(copy, closing)
            if stopping:
                return
            self._stop.wait(LOOK_SECONDS)

    def _send(self, copy: RunCopy, closing: str | None) -> None:
        try:
            copy.send(closing)
        except Exception as error:  # of the tracker's library, or of the disk
            copy.done = True
            log.warning(
                "%s: %s is not copied on (%s); the next `cola run` sends the rest",
                copy.tracker.name, copy.run.name, one_line(error),
            )  # fmt: skip
