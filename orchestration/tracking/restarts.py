"""Starts of a run's workers, read from its journal: when, from which step, how each ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestration.state.journal import Line

ORDERLY = ("finished", "interrupted", "diverged")  # events by which workers report their end


@dataclass
class Restart:
    """One start of the workers; the first start is number 1. Times are Unix seconds.

    `state` is None while they run, then finished, interrupted, diverged or failed.
    """

    number: int
    attempt: int | None
    workers: int | None
    first_step: int
    last_step: int
    began: float
    ended: float
    state: str | None = None
    cause: str = ""

    def end(self, state: str, cause: str) -> None:
        """Mark the start as ended, at its last journal line."""
        self.state, self.cause = state, cause


@dataclass
class Restarts:
    """All starts of one run, from its journal's lines in order."""

    starts: list[Restart] = field(default_factory=list)

    def read(self, line: Line) -> None:
        """Take the next line of the journal."""
        event = line.values.get("event") if line.kind == "event" else None
        if event == "start":
            self._start(line)
        elif self.starts and self.starts[-1].state is None:
            last = self.starts[-1]
            last.last_step, last.ended = max(last.last_step, line.step), line.time
            if event in ORDERLY:
                last.end(str(event), str(event))

    def close(self, state: str, reason: str) -> None:
        """End a start whose workers could not report their end: the run ended in `state`."""
        if self.starts and self.starts[-1].state is None:
            self.starts[-1].end(state, reason or state)

    def _start(self, line: Line) -> None:
        attempt, workers = line.values.get("attempt"), line.values.get("workers")
        if self.starts and self.starts[-1].state is None:
            same = self.starts[-1].attempt == attempt
            lost = "its workers were lost" if same else "its driver was lost"
            self.starts[-1].end("failed" if same else "interrupted", lost)
        self.starts.append(
            Restart(
                len(self.starts) + 1, attempt, workers, line.step, line.step, line.time, line.time
            )
        )
