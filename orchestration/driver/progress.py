"""What a person sees while a study runs: one live table, or plain lines without a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cola.errors import first_of
from cola.records import Metric, NllKind
from cola.terminal import say
from cola.terminal_tables import Column, fitted
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun
from orchestration.state.journal import JournalReader
from orchestration.state.last_validation import run_nll_kind
from orchestration.state.paths import RunFolder

log = logging.getLogger(__name__)

PLAIN_LINE_SECONDS = 15.0  # between two lines of a run without a terminal; a chosen value
PLAIN_START_SECONDS = 60.0  # between two lines on a run that starts, and on a stop; a chosen value
OTHER_LINES = 10  # of a terminal, that are not rows of the live table; a chosen value
DONE = ("finished", "failed", "diverged", "interrupted", "reuse", "set aside")
# Actions of runs that this driver does not train.
LEFT_ALONE = ("reuse", "busy", "set aside", "left")


@dataclass
class RunProgress:
    """What the view has read of one run."""

    run: PlannedRun
    reader: JournalReader
    state: str
    step: int = 0
    loss: float | None = None
    nll: float | None = None
    test_nll: float | None = None
    kind: NllKind | None = None  # of `nll`
    tokens_per_second: float | None = None
    last_reported_at: float = 0.0  # monotonic seconds
    launched_at: float = 0.0  # monotonic seconds
    starts: int = 0

    @property
    def share(self) -> float:
        """Share of the steps that is done, 0 to 1."""
        return self.step / self.run.spec.steps

    @property
    def is_active(self) -> bool:
        """Whether its workers start or train."""
        return self.state in ("starting", "training")

    @property
    def shown_state(self) -> str:
        """The state; of a run that starts, with the time since its launch."""
        return f"starting {_clock(self.launched_at)}" if self.state == "starting" else self.state


class StudyView:
    """Follows the runs' journals and prints their progress."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._rows: dict[str, RunProgress] = {}
        self._live: Live | None = None
        self._began = time.monotonic()
        self._data_reported = -1.0  # fraction of the last line about the data
        self._trouble: str | None = None
        self._stopping_since: float | None = None
        self._stop_reported_at = 0.0

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
        row = RunProgress(run, JournalReader(RunFolder(folder).journal), state)
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
        nll = "" if row.nll is None else f", validation NLL {row.nll:.4f} nats/token ({row.kind})"
        nll += f", test NLL {row.test_nll:.4f}" if row.test_nll is not None else ""
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
        self._stopping_since = self._stop_reported_at = time.monotonic()
        self.note(
            f"stopping{why}: running trainings save a checkpoint and leave{self._waits_for()}"
        )

    def _waits_for(self) -> str:
        """A clause that names the runs that have not left yet; empty where there are none."""
        active = [f"{row.run.name} ({row.state})" for row in self._rows.values() if row.is_active]
        return f"; waits for {first_of(active)}" if active else ""

    def event(self, run: PlannedRun, text: str) -> None:
        """Print a line about one run."""
        self.note(f"{run.name}: {text}")

    def note(self, text: str) -> None:
        """Print a line with the minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        line = f"[{minutes:02d}:{seconds:02d}] {text}"
        try:
            say(self.console, line)
        except OSError as error:  # lines may go to a file, on a disk that is full
            log.debug("not printed (%s): %s", error, line)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the table inside the block, if the console is a terminal."""
        if not self.console.is_terminal:
            yield
            return
        # Logs that go to a file stay out of the table's console.
        logs_share_terminal = sys.stderr.isatty()
        with Live(
            self._table(),
            console=self.console,
            refresh_per_second=2,
            redirect_stderr=logs_share_terminal,
        ) as self._live:
            yield
        self._live = None

    def refresh(self, trouble: str | None) -> None:
        """Read what the runs have written, and print it; `trouble` is MLflow's, if any."""
        if trouble and trouble != self._trouble:
            self.note(f"MLflow does not answer, metrics wait on disk: {trouble}")
        self._trouble = trouble
        for row in self._rows.values():
            if row.is_active:
                self._read(row)
                if self._live is None:
                    self._report(row)
        if self._live is None:
            self._report_stop()
        else:
            self._live.update(self._table())

    def _read(self, row: RunProgress) -> None:
        for line in row.reader.new_lines():
            if line.kind == "train":
                row.state, row.step = "training", line.step
                row.loss = _number(line.values.get(Metric.TRAIN_LOSS))
                row.tokens_per_second = _number(line.values.get(Metric.TOKENS_PER_SECOND))
            elif line.kind == "event" and line.values.get("event") == "start":
                self._show_start(row, line.step)
            elif line.kind == "evaluation":
                row.nll = _number(line.values.get(Metric.NLL))
                row.test_nll = _number(line.values.get(Metric.TEST_NLL))
                row.kind = run_nll_kind(row.run.spec, line.values)

    def _show_start(self, row: RunProgress, step: int) -> None:
        """Print from where workers train; nothing of what earlier attempts did."""
        if not row.is_active:
            return
        row.starts += 1
        if row.starts > 1:
            self.event(row.run, f"its workers restarted from step {step}")
        elif step:
            self.event(row.run, f"training resumes at step {step} of {row.run.spec.steps}")

    def _report(self, row: RunProgress) -> None:
        since = time.monotonic() - row.last_reported_at
        if since < (PLAIN_START_SECONDS if row.state == "starting" else PLAIN_LINE_SECONDS):
            return
        row.last_reported_at = time.monotonic()
        if row.state == "starting":
            self.event(row.run, f"its workers are starting, {_clock(row.launched_at)} since launch")
            return
        self.event(
            row.run,
            f"step {row.step}/{row.run.spec.steps}, loss {_shown(row.loss, '.4f')}, "
            f"{_shown(row.tokens_per_second, ',.0f')} tokens/s, study ETA {self._eta()}",
        )

    def _report_stop(self) -> None:
        """A line now and then on what a stop waits for."""
        if self._stopping_since is None:
            return
        if time.monotonic() - self._stop_reported_at >= PLAIN_START_SECONDS and self._waits_for():
            self._stop_reported_at = time.monotonic()
            self.note(f"stopping for {_clock(self._stopping_since)}{self._waits_for()}")

    def _eta(self) -> str:
        """Time left here, if the runs to come train as fast in all as those that train now."""
        left = rate = 0.0
        for row in self._rows.values():
            spec = row.run.spec
            if row.state not in (*DONE, "busy", "left"):
                left += row.run.train_flops("executed") - spec.train_flops_at(row.step, "executed")
            if row.state == "training" and row.tokens_per_second:
                rate += row.tokens_per_second * row.run.train_flops("executed") / row.run.tokens
        if rate <= 0:
            return "unknown yet"
        return _minutes(left / rate)

    def _title(self) -> str:
        """What is done and left, and for how long; of a stop, what it waits for."""
        states = [row.state for row in self._rows.values()]
        done = sum(state in DONE for state in states)
        active = sum(row.is_active for row in self._rows.values())
        left = len(states) - done - active
        title = f"{done} done, {active} running, {left} queued, {_clock(self._began)}"
        if self._stopping_since is not None:
            title += f" | stopping for {_clock(self._stopping_since)}{self._waits_for()}"
        elif active or left:
            title += f", ETA {self._eta()}"
        return title + (f" | MLflow: {self._trouble}" if self._trouble else "")

    def _table(self) -> Table:
        """The runs; where the terminal has not as many lines, those that train first."""
        rows, room = list(self._rows.values()), max(1, self.console.height - OTHER_LINES)
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
                ["100%" if row.state == "reuse" else f"{row.share:.0%}" for row in rows],
            ),
            Column("train loss", [_shown(row.loss, ".4f") for row in rows], 2),
            Column(
                "val NLL",
                [_shown(row.nll, ".4f") + (f" ({row.kind})" if row.kind else "") for row in rows],
                1,
            ),
            Column("tokens/s", [_shown(row.tokens_per_second, ",.0f") for row in rows], 3),
        ]
        return fitted(title, columns, self.console, wide=False).table


def _clock(since: float) -> str:
    """Time since a monotonic moment."""
    return _minutes(time.monotonic() - since)


def _minutes(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
