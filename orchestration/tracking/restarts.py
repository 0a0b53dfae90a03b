"""Starts of a run's workers, as its journal tells them: when, from where, how each ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestration.state.journal import Line

ORDERLY = ("finished", "interrupted", "diverged")


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
        """They are gone; the last line that they wrote is when."""
        self.state, self.cause = state, cause


@dataclass
class Restarts:
    """All starts of one run, fed with its journal line by line."""

    found: list[Restart] = field(default_factory=list)

    def read(self, line: Line) -> None:
        """Take the next line of the journal."""
        event = line.values.get("event") if line.kind == "event" else None
        if event == "start":
            self._start(line)
        elif self.found and self.found[-1].state is None:
            last = self.found[-1]
            last.last_step, last.ended = max(last.last_step, line.step), line.time
            if event in ORDERLY:
                last.end(str(event), str(event))

    def close(self, state: str, reason: str) -> None:
        """The run ended in `state`: so did workers that could not say it themselves."""
        if self.found and self.found[-1].state is None:
            self.found[-1].end(state, reason or state)

    def _start(self, line: Line) -> None:
        attempt, workers = line.values.get("attempt"), line.values.get("workers")
        if self.found and self.found[-1].state is None:
            same = self.found[-1].attempt == attempt
            lost = "its workers were lost" if same else "its driver was lost"
            self.found[-1].end("failed" if same else "interrupted", lost)
        self.found.append(
            Restart(
                len(self.found) + 1, attempt, workers, line.step, line.step, line.time, line.time
            )
        )
