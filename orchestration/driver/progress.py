"""What a person sees while a study runs: one live table, or plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cola.terminal import say
from cola.terminal_tables import NONE, Column, fitted
from orchestration.driver.live_screen import LiveScreen, clock_since, minutes
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun
from orchestration.state.run_progress import RunProgress, seconds_left

PLAIN_LINE_SECONDS = 15.0  # between two lines of a run without a terminal; a chosen value
PLAIN_START_SECONDS = 60.0  # between two lines on a run that starts; a chosen value
DONE = ("finished", "failed", "diverged", "interrupted", "reuse", "set aside")
# Actions of runs that this driver does not train.
LEFT_ALONE = ("reuse", "busy", "set aside", "left")


@dataclass
class RunRow:
    """What the view shows of one run."""

    run: PlannedRun
    progress: RunProgress
    state: str
    last_reported_at: float = 0.0  # monotonic seconds
    launched_at: float = 0.0  # monotonic seconds
    starts: int = 0

    @property
    def is_active(self) -> bool:
        """Whether its workers start or train."""
        return self.state in ("starting", "training")

    @property
    def shown_state(self) -> str:
        """The state; of a run that starts, with the time since its launch."""
        clock = f" {clock_since(self.launched_at)}" if self.state == "starting" else ""
        return self.state + clock


class StudyView:
    """Follows the runs' journals and prints their progress."""

    def __init__(self, console: Console | None = None) -> None:
        self._screen = LiveScreen(console)
        self._rows: dict[str, RunRow] = {}
        self._data_reported = -1.0  # fraction of the last line about the data
        self._trouble: str | None = None

    @property
    def console(self) -> Console:
        """Where it prints."""
        return self._screen.console

    def data_progress(self, message: str, fraction: float) -> None:
        """Print the progress of preparing the data at every fifth of it."""
        if fraction - self._data_reported >= 0.2 or (fraction >= 1.0 > self._data_reported):
            self._data_reported = fraction
            self.note(f"data {fraction:.0%}: {message}")

    def decided(self, decisions: Sequence[RunDecision]) -> None:
        """Print what will happen to each run, and why."""
        for decision in decisions:
            say(self.console, f"{decision.run.name:28} {decision.action:9} {decision.why}")

    def add(self, run: PlannedRun, folder: Path, action: str) -> None:
        """Show this run from now on."""
        state = action if action in LEFT_ALONE else "queued"
        row = RunRow(run, RunProgress(run.spec, folder), state)
        if action != "set aside":
            self._read(row)  # what earlier attempts did
        row.state = state
        self._rows[run.key] = row

    def started(self, run: PlannedRun) -> None:
        """Print that the run was launched."""
        row = self._rows[run.key]
        self._read(row)  # what others have done since it was queued
        row.state, row.starts = "starting", 0
        row.launched_at = row.last_reported_at = time.monotonic()
        self.event(run, "launched")

    def ended(self, run: PlannedRun, state: str, reason: str | None) -> None:
        """Print how the run ended, with its last validation NLL and its test NLL."""
        row = self._rows[run.key]
        self._read(row)
        row.state = state
        found, nll = row.progress, ""
        if found.nll is not None:
            nll = f", validation NLL {found.nll:.4f} nats/token ({found.kind})"
        if found.test_nll is not None:
            nll += f", test NLL {found.test_nll:.4f}"
        self.event(run, f"{state}{nll}" + (f" ({reason})" if reason else ""))

    def left(self, run: PlannedRun, text: str) -> None:
        """Another driver trains the run, or has finished it."""
        self._rows[run.key].state = "busy"
        self.event(run, text)

    def lost(self, run: PlannedRun, reason: str) -> None:
        """Another driver has the run now."""
        self._rows[run.key].state = "busy"
        self.event(run, f"lost: {reason}; its workers here stop, the run is left to that driver")

    def stopping(self, why: str) -> None:
        """Print that the study stops, and from now on what it waits for."""
        text = f"stopping{why}: running trainings save a checkpoint and leave"
        self._screen.stop(text, self._active)

    def _active(self) -> list[str]:
        """Runs whose workers have not left yet, with their states."""
        return [f"{row.run.name} ({row.state})" for row in self._rows.values() if row.is_active]

    def event(self, run: PlannedRun, text: str) -> None:
        """Print a line about one run."""
        self.note(f"{run.name}: {text}")

    def note(self, text: str) -> None:
        """Print a line with the minutes and seconds since the start."""
        self._screen.note(text)

    def live(self) -> AbstractContextManager[None]:
        """Show the table inside the block, if the console is a terminal."""
        return self._screen.live(self._table)

    def refresh(self, trouble: str | None) -> None:
        """Read what the runs have written, and print it; `trouble` is MLflow's, if any."""
        if trouble and trouble != self._trouble:
            self.note(f"MLflow does not answer, metrics wait on disk: {trouble}")
        self._trouble = trouble
        for row in self._rows.values():
            if row.is_active:
                self._read(row)
                if not self._screen.is_live:
                    self._report(row)
        self._screen.update()

    def _read(self, row: RunRow) -> None:
        for line in row.progress.new_lines():
            if line.kind == "train":
                row.state = "training"
            elif line.kind == "event" and line.values.get("event") == "start":
                self._show_start(row, line.step)

    def _show_start(self, row: RunRow, step: int) -> None:
        """Print from where workers train; nothing of what earlier attempts did."""
        if not row.is_active:
            return
        row.starts += 1
        if row.starts > 1:
            self.event(row.run, f"its workers restarted from step {step}")
        elif step:
            self.event(row.run, f"training resumes at step {step} of {row.run.spec.steps}")

    def _report(self, row: RunRow) -> None:
        since = time.monotonic() - row.last_reported_at
        if since < (PLAIN_START_SECONDS if row.state == "starting" else PLAIN_LINE_SECONDS):
            return
        row.last_reported_at = time.monotonic()
        if row.state == "starting":
            since_launch = f"{clock_since(row.launched_at)} since launch"
            self.event(row.run, f"its workers are starting, {since_launch}")
            return
        found = row.progress
        self.event(
            row.run,
            f"step {found.step}/{found.spec.steps}, loss {shown(found.loss, '.4f')}, "
            f"{shown(found.tokens_per_second, ',.0f')} tokens/s, study ETA {self._eta()}",
        )

    def _eta(self) -> str:
        """Time left here, if the runs to come train as fast in all as those that train now."""
        rows = self._rows.values()
        left = seconds_left(
            (row.progress for row in rows if row.state not in (*DONE, "busy", "left")),
            (row.progress for row in rows if row.state == "training"),
        )
        return "unknown yet" if left is None else minutes(left)

    def _title(self) -> str:
        """What is done and left, and for how long; of a stop, what it waits for."""
        states = [row.state for row in self._rows.values()]
        done = sum(state in DONE for state in states)
        active = sum(row.is_active for row in self._rows.values())
        left = len(states) - done - active
        counts = f"{done} done, {active} running, {left} queued"
        title = self._screen.title(counts, self._eta() if active or left else None)
        return title + (f" | MLflow: {self._trouble}" if self._trouble else "")

    def _table(self) -> Table:
        """The runs; where the terminal has not as many lines, those that train first."""
        rows, room = list(self._rows.values()), self._screen.room
        title = self._title()
        if len(rows) > room:
            rows.sort(key=lambda row: (not row.is_active, row.state in DONE))
            title += f" | {len(rows) - room} more runs"
            rows = rows[:room]
        columns = [
            Column("run", [row.run.name for row in rows], left=True),
            Column("state", [row.shown_state for row in rows], left=True),
            Column(
                "progress",
                ["100%" if row.state == "reuse" else f"{row.progress.share:.0%}" for row in rows],
            ),
            Column("train loss", [shown(row.progress.loss, ".4f") for row in rows], 2),
            Column("val NLL", [shown_nll(row.progress) for row in rows], 1),
            Column("tokens/s", [shown(row.progress.tokens_per_second, ",.0f") for row in rows], 3),
        ]
        return fitted(title, columns, self.console, wide=False).table


def shown(value: float | None, form: str) -> str:
    """A number in this form; a dash where there is none."""
    return NONE if value is None else format(value, form)


def shown_nll(found: RunProgress) -> str:
    """A run's validation NLL, with what it is."""
    return shown(found.nll, ".4f") + (f" ({found.kind})" if found.kind else "")
