"""A study as its files show it: of one that runs, on whatever machine, that has ended, that was
killed, or that has not begun."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from cola.errors import SpecError, StorageError, first_of
from cola.records import Metric
from cola.study import StudySpec
from cola.terminal_tables import NONE
from orchestration.cleanup.overview import LEFT
from orchestration.driver.progress import shown, shown_nll
from orchestration.planning.costs import run_costs
from orchestration.planning.divergence_retry import with_retries
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.rates import measured_rates
from orchestration.planning.shared_prefixes import prefix_plans
from orchestration.planning.units import duration
from orchestration.results.saved_runs import saved_runs
from orchestration.state.accounting import accelerator_hours
from orchestration.state.ledger import Entry, Ledger
from orchestration.state.paths import StudyFolder, output_root, study_folder
from orchestration.state.run_progress import seconds_left
from orchestration.watch.curves import limit_for
from orchestration.watch.events import FollowedEvents
from orchestration.watch.followed_run import (
    ACTIVE,
    NOT_BEGUN,
    RUNNING,
    STOPPING,
    TONES,
    TRAINING,
    FollowedRun,
    as_it_ended,
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
from orchestration.watch.waits import Waits

COLUMNS = (
    ColumnHead("progress", "share"),
    ColumnHead("step", "number"),
    ColumnHead("train loss", "number"),
    ColumnHead("validation NLL", "number"),
    ColumnHead("test NLL", "number"),
    ColumnHead("tokens/s", "number"),
    ColumnHead("time left", "number"),
    ColumnHead("attempts", "number"),
)


class StudyWatch:
    """Follows the files of a study; `picture` is what they show at that time."""

    def __init__(self, study: StudySpec) -> None:
        """Plan the study, or take its last plan where its corpus is not on this machine.

        Raises:
            SpecError: it cannot be planned, and has no last plan.
            StorageError: its last plan is damaged.
        """
        self.study, self.folder = study, study_folder(study)
        self._ledger = Ledger(output_root(study))
        self._planned, self._unplanned = known_runs(study)
        self._events = FollowedEvents(self.folder)
        self._followed: dict[str, FollowedRun] = {}  # by run key
        self._prefixes = prefix_plans(self._planned)

    def picture(self) -> Picture:
        """What the files show now.

        Raises:
            StorageError: the event log or a plan cannot be read.
        """
        now = time.time()
        if self._unplanned:  # runs that begin get a specification of their own
            self._planned, self._unplanned = known_runs(self.study)
            self._prefixes = prefix_plans(self._planned)
        self._events.read()
        runs = with_retries(self._planned, self.study.retry_diverged, self._ledger)
        entries = {run.key: self._ledger.known_entry(run.key) for run in runs}
        states = {key: state_of(entry, self._ledger) for key, entry in entries.items()}
        problems = {run.key: self._read(run, entries[run.key]) for run in runs}
        waits = Waits(self.study, runs, states, prefixes=self._prefixes, events=self._events)
        rows = [
            self._row(run, states[run.key], entries[run.key],
                      problems[run.key] or waits.of(run) or entries[run.key].reason)
            for run in runs
        ]  # fmt: skip
        rows += [self._unplanned_row(name) for name in self._unplanned]
        curves = [self._curve(run) for run in runs if run.key in self._followed]
        left = self._seconds_left(runs, states)
        not_finite = {run.name: self._followed[run.key].curves.not_finite for run in runs}
        tone, state = state_of_all([*states.values(), *("new" for _ in self._unplanned)])
        if state == RUNNING and self._events.is_stopping:
            state, left = STOPPING, None
        return Picture(
            kind="study",
            name=self.study.name,
            folder=str(self.folder),
            tone=tone,
            state=state,
            headline=headline([row.state for row in rows]),
            ends=None if left is None else now + left,
            facts=self._facts(runs, entries, states, now=now),
            notes=[*self._notes(runs), *drawn_notes(curves, not_finite)],
            columns=COLUMNS,
            rows=rows,
            curves=curves,
            metric=in_words(Metric.NLL),
            compute=self.study.matching.convention,
            events=self._events.latest(),
            events_left_out=self._events.left_out,
        )

    def _read(self, run: PlannedRun, entry: Entry) -> str | None:
        """Follow the run, and read what is new of it; what keeps it from being read."""
        if run.key not in self._followed:
            limit = limit_for(len(self._planned))
            folder = self._ledger.run_folder(run.key)
            self._followed[run.key] = FollowedRun(run.spec, folder, Metric.NLL, limit)
        followed = self._followed[run.key]
        problem = problem_of(entry, followed.folder)
        if problem is None:
            try:
                followed.read()
            except StorageError as error:
                problem = str(error)
        return problem

    def _row(self, run: PlannedRun, state: str, entry: Entry, why: str | None) -> Row:
        found = self._followed[run.key].progress
        rate = found.flops_per_second
        trains = state == TRAINING and found.share < 1
        left = duration(found.flops_left / rate) if trains and rate > 0 else NONE
        speed = shown(found.tokens_per_second, ",.0f") if trains else NONE
        cells: list[str | float | None] = [
            1.0 if state == "finished" else found.share,
            f"{found.step:,} of {run.spec.steps:,}",
            shown(found.loss, ".4f"),
            shown_nll(found),
            shown(found.test_nll, ".4f"),
            speed,
            left,
            str(len(entry.attempts)),
        ]
        tone = TONES.get(state, "waiting")
        return Row(run.key, run.name, tone, shown_as(state, found.share), cells, why)

    def _unplanned_row(self, name: str) -> Row:
        cells: list[str | float | None] = [0.0, *[NONE] * (len(COLUMNS) - 1)]
        return Row(name, name, "waiting", NOT_BEGUN, cells)

    def _curve(self, run: PlannedRun) -> Curve:
        return curve_of(run.key, run.name, run.variant, self._followed[run.key].curves)

    def _seconds_left(self, runs: Sequence[PlannedRun], states: Mapping[str, str]) -> float | None:
        """Until the last run is trained, at the present rate in all."""
        found = {run.key: self._followed[run.key].progress for run in runs}
        return seconds_left(
            (progress for key, progress in found.items()
             if states[key] in (*ACTIVE, "new", "interrupted", LEFT)),
            (progress for key, progress in found.items() if states[key] == TRAINING),
        )  # fmt: skip

    def _facts(
        self,
        runs: Sequence[PlannedRun],
        entries: Mapping[str, Entry],
        states: Mapping[str, str],
        *,
        now: float,
    ) -> list[tuple[str, str]]:
        """What has been spent and is planned, who runs it, and where its report is."""
        facts = [("compute", self._compute(runs, states))]
        used = accelerator_hours(
            ((as_it_ended(entries[run.key], states[run.key]), run.resources) for run in runs), now
        )
        facts.append(("budget", self._budget(used)))
        if not any(state in ACTIVE for state in states.values()):
            rates, keep = measured_rates(output_root(self.study)), self.study.checkpoint.keep
            to_come = [run for run in runs if states[run.key] == "new"]
            seconds = sum(
                run_costs(run.spec, run.resources, run.total_parameters, keep=keep, rates=rates,
                          first_step=self._first_step(run)).seconds
                for run in to_come
            )  # fmt: skip
            if to_come:
                facts.append(("planned", f"{duration(seconds)} for what has not begun "
                              f"({len(to_come)}), one after another, by the plan"))  # fmt: skip
        owners = {
            lease.owner.rpartition(":")[0]
            for run in runs
            if (lease := entries[run.key].lease) is not None and states[run.key] in ACTIVE
        }
        if owners:
            facts.append(("driver", first_of(sorted(owners))))
        page = StudyFolder(self.folder).report_page
        if page.is_file():
            facts.append(("report", str(page)))
        return facts

    def _first_step(self, run: PlannedRun) -> int:
        prefixes = self._prefixes.get(run.key)
        return 0 if prefixes is None else prefixes.first_step

    def _compute(self, runs: Sequence[PlannedRun], states: Mapping[str, str]) -> str:
        convention = self.study.matching.convention
        total = sum(run.train_flops(convention) for run in runs)
        done = sum(
            run.train_flops(convention) if states[run.key] == "finished"
            else run.spec.train_flops_at(self._followed[run.key].progress.step, convention)
            for run in runs
        )  # fmt: skip
        return f"{done:.3g} of {total:.3g} training FLOPs ({convention})"

    def _budget(self, hours: float) -> str:
        needs = self.study.resources
        unit = "GPU hours" if needs.gpus_per_worker else "core hours"
        most = needs.max_accelerator_hours
        text = f"{hours:,.3g} {unit}" if most is None else f"{hours:,.3g} of {most:g} {unit}"
        price = needs.price_per_hour
        return text if price is None else f"{text}, {hours * price:,.2f} in money"

    def _notes(self, runs: Sequence[PlannedRun]) -> list[str]:
        notes = [
            f"{run.name}: {count} lines of its journal are unreadable and left out"
            for run in runs
            if (count := self._followed[run.key].progress.unreadable)
        ]
        if self._unplanned:
            notes.append(f"{len(self._unplanned)} runs have not begun: of them only names are known"
                         ", as the corpus is not on this machine")  # fmt: skip
        return notes


def known_runs(study: StudySpec) -> tuple[list[PlannedRun], tuple[str, ...]]:
    """The study's runs; where its corpus is not on this machine, those of its last plan that have
    begun, and the names of the others.

    Raises:
        SpecError: it cannot be planned, and has no last plan.
        StorageError: its last plan is damaged.
    """
    folder = StudyFolder(study_folder(study))
    if not folder.fetched.exists():
        try:
            return plan_study(study), ()
        except SpecError:
            if not folder.plan.exists():
                raise
    known = saved_runs(study, folder.path)
    return list(known.started), known.not_started


def state_of_all(states: Sequence[str]) -> tuple[Tone, str]:
    """The state of a study by those of its runs."""
    found = set(states)
    if found <= {"finished"}:
        return "done", "finished"
    if found & set(ACTIVE):
        return "active", RUNNING
    if LEFT in found:
        return "trouble", "its driver has ended without a word"
    if found <= {"new"}:
        return "waiting", NOT_BEGUN
    trouble = found & {"failed", "diverged", "unreadable"}
    return ("trouble" if trouble else "ended early"), "not running"


def headline(states: Sequence[str]) -> str:
    """How many runs are in which state."""
    counts = Counter(states)
    parts = [f"{counts.pop('finished', 0)} of {len(states)} runs finished"]
    return ", ".join([*parts, *(f"{count} {state}" for state, count in sorted(counts.items()))])
