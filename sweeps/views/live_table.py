"""What a person sees while a sweep runs: one live table of its trials, or plain lines without a
terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rich.table import Table

from cola.errors import StorageError
from cola.records import Metric, NllKind, TrialFinished, TrialRequested
from cola.terminal_tables import NONE, Column, fitted
from orchestration.driver.live_screen import LiveScreen, clock_since, minutes
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from orchestration.state.run_progress import RunProgress
from orchestration.watch.picture import in_words
from sweeps.search.trial_log import SweepLog
from sweeps.search.trial_states import (
    best_trials,
    counts_of,
    ended_trials,
    most_trials,
    seconds_left,
    shown_state,
    shown_value,
    with_kind,
)
from sweeps.space.points import PlannedPoint
from sweeps.space.space import describe_point
from sweeps.space.spec import SweepSpec


@dataclass
class RunningTrial:
    """A trial that has a process, with what the journals of its runs say."""

    runs: Sequence[RunProgress]
    launched_at: float  # monotonic seconds

    @property
    def share(self) -> float:
        """Share of the steps of all of its runs that is done, 0 to 1."""
        return sum(run.step for run in self.runs) / sum(run.spec.steps for run in self.runs)

    @property
    def state(self) -> str:
        """Whether it starts, and for how long, trains, and how far it is, or is measured."""
        if any(run.step for run in self.runs):
            return f"training {self.share:.0%}" if self.share < 1 else "finishing"
        return f"starting {clock_since(self.launched_at)}"


class SweepView:
    """Follows a sweep's trials and shows them."""

    def __init__(self, screen: LiveScreen, sweep: SweepSpec, trial_log: SweepLog) -> None:
        self._screen, self._sweep, self._log = screen, sweep, trial_log
        self._metric = sweep.metrics[0].name
        self._running: dict[int, RunningTrial] = {}  # by the trial's number
        self._kinds: dict[int, NllKind] = {}  # of the NLL of trials that have left

    def note(self, text: str) -> None:
        """Print a line with the minutes and seconds since the start."""
        self._screen.note(text)

    def live(self) -> AbstractContextManager[None]:
        """Show the table inside the block, if the console is a terminal."""
        return self._screen.live(self._table)

    def started(self, request: TrialRequested, planned: PlannedPoint) -> None:
        """Show the trial as one that runs, from now on."""
        ledger = Ledger(output_root(planned.study))
        runs = [RunProgress(run.spec, ledger.run_folder(run.key)) for run in planned.runs]
        self._running[request.trial] = RunningTrial(runs, time.monotonic())

    def left(self, trial: int) -> None:
        """The trial has no process any more."""
        left = self._running.pop(trial, None)
        if left is not None and left.runs[0].kind is not None:
            self._kinds[trial] = left.runs[0].kind

    def stopping(self) -> None:
        """Print that the sweep stops, and from now on what it waits for."""
        text = "stopping: running trainings save a checkpoint and leave"
        self._screen.stop(text, self._active)

    def refresh(self) -> None:
        """Read what the runs have written, and show it."""
        for trial in list(self._running.values()):
            for run in trial.runs:
                try:
                    run.new_lines()
                except StorageError:  # its trial reports it
                    continue
        self._screen.update()

    def _active(self) -> list[str]:
        return [f"trial {number} ({t.state})" for number, t in list(self._running.items())]

    def _title(self) -> str:
        """What has ended and how, what runs, and for how long; of a stop, what it waits for."""
        sweep, log, running = self._sweep, self._log, len(self._running)
        most, counts = most_trials(sweep, log), counts_of(log)
        of = "" if most is None else f" of at most {most}"
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        ended = f"{len(ended_trials(log))}{of} trials ended" + (f" ({states})" if states else "")
        left = seconds_left(sweep, log, running)
        shown_left = None if left is None else f"about {minutes(left)}"
        return self._screen.title(f"{ended}, {running} running", shown_left)

    def _table(self) -> Table:
        """The trials; where the terminal has not as many lines, those that run first, then the best
        and the latest."""
        best, numbers, room = (
            best_trials(self._sweep, self._log),
            self._numbers(),
            self._screen.room,
        )
        title = self._title()
        if len(numbers) > room:
            numbers.sort(key=lambda n: (n not in self._running, n not in best, -n))
            title += f" | {len(numbers) - room} more trials"
            numbers = sorted(numbers[:room])
        rows = [(n, self._log.requests[n], self._log.outcomes.get(n)) for n in numbers]
        arms = Column("arm", [each.arm for _, each, _ in rows], rank=1, left=True)
        columns = [
            Column("trial", [str(number) for number in numbers]),
            *([arms] if self._sweep.arms else []),
            Column("point", [describe_point(each.point) for _, each, _ in rows], wraps=True),
            Column("state", [self._state(n, ended, best) for n, _, ended in rows], left=True),
            Column(in_words(self._metric), [self._value(n, ended) for n, _, ended in rows]),
        ]
        return fitted(title, columns, self._screen.console, wide=False).table

    def _numbers(self) -> list[int]:
        """Trials of the present search, and what still runs of others."""
        left_out = self._log.left_out
        return sorted(n for n in list(self._log.requests)
                      if n not in left_out or n in self._running)  # fmt: skip

    def _state(self, number: int, ended: TrialFinished | None, best: set[int]) -> str:
        running = self._running.get(number)
        if running is not None:
            return running.state
        return shown_state(ended) + (", best" if number in best else "")

    def _value(self, number: int, ended: TrialFinished | None) -> str:
        """The first metric at the end; of a trial that runs, its last validation of the first seed,
        where that is the metric."""
        if ended is not None:
            return shown_value(ended, self._metric, self._kinds.get(number))
        running = self._running.get(number)
        first = None if running is None else running.runs[0]
        if first is None or first.nll is None or self._metric != Metric.NLL:
            return NONE
        return with_kind(first.nll, self._metric, first.kind)
