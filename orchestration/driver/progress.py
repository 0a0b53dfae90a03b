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

from cola.families.registry import curve_label
from cola.records import Metric, NllKind
from cola.terminal import say
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun
from orchestration.state.journal import JournalReader
from orchestration.state.last_validation import run_nll_kind
from orchestration.state.paths import RunFolder

log = logging.getLogger(__name__)

PLAIN_LINE_SECONDS = 15.0  # between two lines of a run without a terminal; a chosen value
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
    starts: int = 0

    @property
    def share(self) -> float:
        """Share of the steps that is done, 0 to 1."""
        return self.step / self.run.spec.steps


class StudyView:
    """Follows the runs' journals and prints their progress."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._rows: dict[str, RunProgress] = {}
        self._live: Live | None = None
        self._began = time.monotonic()
        self._data_reported = -1.0  # fraction of the last line about the data
        self._trouble: str | None = None

    def data_progress(self, message: str, fraction: float) -> None:
        """Print the progress of preparing the data at every fifth of it."""
        if fraction - self._data_reported >= 0.2 or (fraction >= 1.0 > self._data_reported):
            self._data_reported = fraction
            self.note(f"data: {message} {fraction:.0%}")

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
            if row.state in ("starting", "training"):
                self._read(row)
                if self._live is None:
                    self._report(row)
        if self._live is not None:
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
        if row.state not in ("starting", "training"):
            return
        row.starts += 1
        if row.starts > 1:
            self.event(row.run, f"its workers restarted from step {step}")
        elif step:
            self.event(row.run, f"training resumes at step {step} of {row.run.spec.steps}")

    def _report(self, row: RunProgress) -> None:
        since = time.monotonic() - row.last_reported_at
        if row.state != "training" or since < PLAIN_LINE_SECONDS:
            return
        row.last_reported_at = time.monotonic()
        self.event(
            row.run,
            f"step {row.step}/{row.run.spec.steps}, loss {_shown(row.loss, '.4f')}, "
            f"{_shown(row.tokens_per_second, ',.0f')} tokens/s, study ETA {self._eta()}",
        )

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
        minutes, seconds = divmod(int(left / rate), 60)
        return f"{minutes} min {seconds:02d} s"

    def _table(self) -> Table:
        states = [row.state for row in self._rows.values()]
        done = sum(state in DONE for state in states)
        active = sum(state in ("starting", "training") for state in states)
        table = Table(
            title=f"{done} done, {active} running, {len(states) - done - active} queued, "
            f"ETA {self._eta()}" + (f" | MLflow: {self._trouble}" if self._trouble else "")
        )
        for column in ("run", "state", "progress", "train loss", "val NLL", "tokens/s"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        for row in self._rows.values():
            label = curve_label(row.run.variant, row.run.spec.family)
            table.add_row(
                f"{label} {row.run.spec.budget:.3g} seed {row.run.spec.seed}",
                row.state,
                "100%" if row.state == "reuse" else f"{row.share:.0%}",
                _shown(row.loss, ".4f"),
                _shown(row.nll, ".4f") + (f" ({row.kind})" if row.kind else ""),
                _shown(row.tokens_per_second, ",.0f"),
            )
        return table


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
