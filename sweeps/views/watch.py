"""A sweep as its files show it: of one that runs, that has ended, that was killed, or that has not
begun."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from cola.errors import ColaError
from cola.records import Metric, SweepFile, TrialFinished, TrialRequested
from cola.terminal_tables import NONE
from orchestration.cleanup.overview import LEFT
from orchestration.planning.catalog import load_run_spec
from orchestration.planning.units import duration
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, StudyFolder, output_root
from orchestration.watch.curves import limit_for
from orchestration.watch.events import FollowedEvents
from orchestration.watch.followed_run import (
    ACTIVE,
    RUNNING,
    STOPPING,
    TONES,
    FollowedRun,
    problem_of,
    shown_as,
    state_of,
)
from orchestration.watch.picture import (
    ColumnHead,
    Curve,
    Picture,
    Row,
    Tone,
    curve_of,
    drawn_notes,
    in_words,
)
from sweeps.search.known_trials import describe_left_out, leave_out_trials
from sweeps.search.trial_log import SweepLog, best_trial
from sweeps.search.trial_states import (
    PRUNED,
    best_trials,
    counts_of,
    ended_trials,
    most_trials,
    score_sentence,
    seconds_left,
    shown_state,
    shown_value,
    with_kind,
)
from sweeps.space.catalog import sweep_folder
from sweeps.space.points import PointPlanner
from sweeps.space.space import describe_point
from sweeps.trials.stopping import is_sweep_stopping
from sweeps.trials.trial_spec import trial_prefix

MEASURED = "being measured"  # its runs are finished, and its outcome is to come
OPEN = "open"
TRIAL_TONES: dict[str, Tone] = {
    **TONES, OPEN: "waiting", MEASURED: "active", PRUNED: "ended early", "paused": "ended early",
}  # fmt: skip
MOST_REASONS = 3  # of excluded points, of each arm; a chosen value


class SweepWatch:
    """Follows the files of a sweep; `picture` is what they show at that time."""

    def __init__(self, planner: PointPlanner) -> None:
        self.planner, self.sweep = planner, planner.sweep
        self.folder = sweep_folder(planner.base)
        self._ledger = Ledger(output_root(planner.base))
        self._events = FollowedEvents(self.folder)
        self._followed: dict[str, FollowedRun] = {}  # by run key
        goal = self.sweep.metrics[0].name
        self._metric = goal if goal.startswith("val/") else Metric.NLL
        self._log, self._read_at = self._trial_log(), self._size()

    def picture(self) -> Picture:
        """What the files show now.

        Raises:
            StorageError: the log of trials, or that of events, cannot be read.
        """
        if self._size() != self._read_at:
            self._read_at = self._size()  # before the log: what is added meanwhile is read again
            self._log = self._trial_log()
        self._events.read()
        sweep, log = self.sweep, self._log
        requests = [r for n, r in sorted(log.requests.items()) if n not in log.left_out]
        problems = {r.trial: self._read(r, len(requests)) for r in requests}
        states = {r.trial: self._state(r) for r in requests}
        best = best_trials(sweep, log)
        curves = [curve for r in requests if (curve := self._curve(r)) is not None]
        running = sum(state in ACTIVE for state in states.values())
        left = seconds_left(sweep, log, running)
        tone, state = self._state_of_all(list(states.values()))
        if state == STOPPING:
            left = None
        return Picture(
            kind="sweep",
            name=sweep.name,
            folder=str(self.folder),
            tone=tone,
            state=state,
            headline=self._headline(states.values()),
            ends=None if left is None else time.time() + left,
            facts=self._facts(),
            notes=[*self._notes(), *drawn_notes(curves, self._not_finite(requests))],
            columns=self._columns(),
            rows=[self._row(r, states[r.trial], problems[r.trial], r.trial in best)
                  for r in requests],
            curves=curves,
            metric=in_words(self._metric),
            compute=self.planner.base.matching.convention,
            events=self._events.latest(),
            events_left_out=self._events.left_out,
        )  # fmt: skip

    def _size(self) -> int:
        """Of the log of trials, to which lines are only appended."""
        path = self.folder / SweepFile.TRIALS
        return path.stat().st_size if path.is_file() else 0

    def _trial_log(self) -> SweepLog:
        log = SweepLog(self.folder)
        leave_out_trials(self.planner, log)
        return log

    def _read(self, request: TrialRequested, trials: int) -> str | None:
        """Follow the trial's runs that have begun; what keeps one from being read."""
        for key in request.run_keys:
            folder = self._ledger.run_folder(key)
            try:
                if key not in self._followed:
                    if not RunFolder(folder).spec.is_file():
                        continue
                    spec = load_run_spec(folder)
                    found = FollowedRun(spec, folder, self._metric, limit_for(trials))
                    self._followed[key] = found
                problem = problem_of(self._ledger.known_entry(key), folder)
                if problem is not None:
                    return problem
                self._followed[key].read()
            except ColaError as error:
                return str(error)
        return None

    def _state(self, request: TrialRequested) -> str:
        outcome = self._log.outcomes.get(request.trial)
        if outcome is not None:
            return shown_state(outcome)
        found = [state_of(self._ledger.known_entry(key), self._ledger) for key in request.run_keys]
        for state in (*reversed(ACTIVE), LEFT):
            if state in found:
                return state
        return MEASURED if found and set(found) == {"finished"} else OPEN

    def _state_of_all(self, states: Sequence[str]) -> tuple[Tone, str]:
        """The state of the sweep by those of its trials, and whether its best point is written."""
        if set(states) & set(ACTIVE):
            return "active", STOPPING if is_sweep_stopping(self.folder) else RUNNING
        if LEFT in states:
            return "trouble", "its driver has ended without a word"
        if not states:
            return "waiting", "not begun"
        written = any(self.folder.glob("best*.yaml")) or (self.folder / SweepFile.TUNED).is_file()
        if written and not self._log.open_count:
            return "done", "complete"
        return "ended early", "not running"

    def _columns(self) -> list[ColumnHead]:
        arms = [ColumnHead("arm")] if self.sweep.arms else []
        value = ColumnHead(in_words(self.sweep.metrics[0].name), "number")
        return [ColumnHead("progress", "share"), value, *arms, ColumnHead("point"),
                ColumnHead("took", "number")]  # fmt: skip

    def _row(self, request: TrialRequested, state: str, problem: str | None, is_best: bool) -> Row:
        outcome = self._log.outcomes.get(request.trial)
        cells: list[str | float | None] = [
            1.0 if state == "finished" else self._share(request),
            self._value(request, outcome),
            *([request.arm] if self.sweep.arms else []),
            describe_point(request.point),
            NONE if outcome is None else duration(outcome.wall_seconds),
        ]
        waits = (
            self._events.wait_of_first(trial_prefix(request.trial))
            if outcome is None
            else outcome.reason
        )
        tone, words = TRIAL_TONES.get(state, "waiting"), shown_as(state, self._share(request))
        return Row(str(request.trial), f"trial {request.trial}", tone,
                   f"{words}, best" if is_best else words, cells,
                   problem or waits)  # fmt: skip

    def _share(self, request: TrialRequested) -> float:
        """Share of the steps of the trial's runs that is done; runs that have not begun count as
        its first."""
        found = [self._followed[key].progress for key in request.run_keys if key in self._followed]
        return sum(run.share for run in found) / len(request.run_keys) if found else 0.0

    def _value(self, request: TrialRequested, outcome: TrialFinished | None) -> str:
        goal = self.sweep.metrics[0].name
        first = self._followed.get(request.run_keys[0]) if request.run_keys else None
        if outcome is not None:
            return shown_value(outcome, goal, None if first is None else first.progress.kind)
        latest = first.curves.evaluations[-1:] if first is not None else []
        if first is None or not latest or goal != self._metric:
            return NONE
        return f"{with_kind(latest[0].value, goal, first.progress.kind)} so far"

    def _curve(self, request: TrialRequested) -> Curve | None:
        """Of the trial's first run, which is what its scheduler judges."""
        first = self._followed.get(request.run_keys[0]) if request.run_keys else None
        if first is None:
            return None
        name = f"trial {request.trial}: {describe_point(request.point)}"
        return curve_of(str(request.trial), name, request.arm or "trials", first.curves)

    def _not_finite(self, requests: Sequence[TrialRequested]) -> dict[str, int]:
        return {
            f"trial {request.trial}": self._followed[key].curves.not_finite
            for request in requests
            for key in request.run_keys[:1]
            if key in self._followed
        }

    def _headline(self, states: Iterable[str]) -> str:
        most, counts = most_trials(self.sweep, self._log), counts_of(self._log)
        of = "" if most is None else f" of at most {most}"
        ended = f"{len(ended_trials(self._log))}{of} trials ended"
        others = Counter(state for state in states if state not in counts)
        return ", ".join([ended, *(f"{n} {state}" for state, n in (counts + others).items())])

    def _facts(self) -> list[tuple[str, str]]:
        """The best trials, what was spent of each arm's budget, and where the page is."""
        facts, log, goal = [], self._log, self.sweep.metrics[0]
        for arm in self.sweep.spaces():
            found = best_trial(log, arm, goal) if len(self.sweep.metrics) == 1 else None
            if found is not None:
                facts.append(("so far", score_sentence(*found, goal)))
        facts += [("budget", self._budget(arm)) for arm in self.sweep.spaces()]
        page = StudyFolder(self.folder).report_page
        return [*facts, *([("report", str(page))] if page.is_file() else [])]

    def _budget(self, arm: str) -> str:
        """What an arm's trials that have ended took, of its limits."""
        limits = self.sweep.budget
        ended = [outcome for _, outcome in self._log.ended_trials(arm)]
        flops = sum(outcome.flops for outcome in ended)
        hours = sum(outcome.accelerator_hours for outcome in ended)
        trials, most = f"{len(ended)}", self.sweep.trials_an_arm
        parts = [
            f"{trials} trials" if most is None else f"{trials} of {most} trials",
            f"{flops:.3g} FLOPs" if limits.flops is None
            else f"{flops:.3g} of {limits.flops:.3g} FLOPs",
            f"{hours:.3g} accelerator hours" if limits.accelerator_hours is None
            else f"{hours:.3g} of {limits.accelerator_hours:g} accelerator hours",
        ]  # fmt: skip
        if limits.wall_seconds is not None:
            parts.append(f"at most {duration(limits.wall_seconds)}")
        name = f"{arm}: " if arm else ""
        return f"{name}{', '.join(parts)} (trials that have ended)"

    def _notes(self) -> list[str]:
        """What is excluded, left out or not drawn."""
        notes = []
        for arm in self.sweep.spaces():
            excluded = self._log.exclusions(arm).most_common()
            for reason, count in excluded[:MOST_REASONS]:
                points = f"{count} point{'s' * (count != 1)}"
                notes.append(f"{points} excluded{f' of {arm}' if arm else ''}: {reason}")
            if len(excluded) > MOST_REASONS:
                notes.append(f"{len(excluded) - MOST_REASONS} more reasons of exclusions")
        left_out = describe_left_out(self._log)
        if left_out is not None:
            notes.append(left_out)
        if len(self.planner.base.seeds) > 1:
            notes.append("curves are of each trial's first seed")
        return notes
