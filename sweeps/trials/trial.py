"""A trial: the training runs of one point, each exactly as a study's run.

They run in a thread, so that the process can report their evaluations meanwhile. Ledger, leases and
checkpoints are those of studies: finished runs are reused, runs that another trial or a study
trains are waited for, interrupted ones resume.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from cola.errors import ColaError, RunError, StorageError, one_line
from cola.records import Metric, RunResult, TrialFinished, TrialState
from cola.study.run import EvaluationSpec
from orchestration.checkpoint.finished import remove_surplus
from orchestration.checkpoint.manifest import verify
from orchestration.cleanup.contents import choices_by_key
from orchestration.driver.attempt import assignment_of, open_attempt, outcome_of, read_outcome
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.shared_prefixes import PrefixPlan, prefix_at
from orchestration.state.event_log import Event, EventLog
from orchestration.state.journal import JournalReader
from orchestration.state.last_validation import run_nll_kind
from orchestration.state.ledger import (
    LEASE_REFRESH_SECONDS,
    LeaseHeldError,
    LeaseLostError,
    Ledger,
    State,
)
from orchestration.state.paths import RunFolder, output_root
from orchestration.trainers.ray_trainer import ControllerDiedError, fit_run
from sweeps.trials.costs import TrialCosts
from sweeps.trials.prefix_claims import PrefixClaims
from sweeps.trials.readings import (
    Position,
    last_metrics,
    mean_metrics,
    numbers,
    published_position,
    read_position,
)
from sweeps.trials.stopping import is_sweep_stopping, request_stop, stop_reason
from sweeps.trials.trial_spec import TrialSpec, lease_name, trial_errors, with_trial_name

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # chosen: short beside the shortest runs, which take seconds
# A trial of several runs has the state of the first of these that one of its runs has.
STATES: tuple[TrialState, ...] = ("failed", "diverged", "paused", "finished")


class TrialExecutor:
    """Trains a trial's runs in a thread, which starts at once."""

    def __init__(
        self, spec: TrialSpec, measure: Callable[[Path, EvaluationSpec, bool], dict[str, float]]
    ) -> None:
        """`measure` gives more metrics of a finished model: of the run in this folder, with these
        settings, with or without its NLL."""
        self.spec = spec
        self.ledger = Ledger(output_root(spec.study), lease_name(spec.driver, spec.trial))
        self.runs = [
            with_trial_name(run, spec.trial) for run in plan_study(spec.study, spec.fingerprint)
        ]
        self._measure = measure
        self._claims = PrefixClaims(output_root(spec.study), self.ledger)
        self._results: list[RunResult] = []
        self._costs = TrialCosts()
        self._attempts: Counter[str] = Counter()  # made by this process, by run key
        self._running: PlannedRun | None = None
        self._taken_over: set[str] = set()  # keys of runs that another driver took from here
        self._stopping = threading.Event()
        self._refreshed = time.monotonic()
        self._reader = JournalReader(RunFolder(self._folder(self.runs[0])).journal)
        self._error: str | None = None
        self._began = time.time()
        self.thread = threading.Thread(target=self._run_all, daemon=True, name="trial")
        self.thread.start()

    def evaluations(self) -> list[dict[str, float]]:
        """New evaluations of the first seed's run, each with the share `spent` of its budget.

        The last one is left out: it is part of the trial's outcome.
        """
        run = self.runs[0].spec
        evaluations = []
        for line in self._reader.new_lines():
            if line.kind == "evaluation" and line.step < self._last_step(self.runs[0]):
                share = run.train_flops_at(line.step, run.compute) / run.budget
                if share > self.spec.reported_up_to:
                    evaluations.append({**numbers(line.values), "spent": share})
        return evaluations

    def keep_alive(self) -> None:
        """Refresh the lease of the present run, or leave it to the driver that took it over."""
        running = self._running
        if running is None or time.monotonic() - self._refreshed <= LEASE_REFRESH_SECONDS:
            return
        self._refreshed = time.monotonic()
        try:
            self.ledger.refresh(running.key)
        except LeaseLostError as lost:
            self._lose(running, lost)
        except StorageError as error:  # a full disk: others may take over after 90 s, not now
            log.warning("%s: its lease is not refreshed: %s", running.name, error)

    def stop(self, reason: str, patience_seconds: float) -> None:
        """Ask the present run to save and leave, start no other, and wait for the thread to end."""
        self._stopping.set()
        running = self._running
        if running is not None and self.ledger.holds(running.key):
            request_stop(self._folder(running), reason)
        self.thread.join(patience_seconds)

    def outcome(self) -> TrialFinished | None:
        """How the trial ended; None while it runs, and where it was stopped before its end."""
        if self.thread.is_alive():
            return None
        state = self._state()
        if state is None:
            return None
        decisive = [result for result in self._results if result.state == state]
        reasons = [result.reason for result in decisive if result.reason]
        return TrialFinished(
            trial=self.spec.trial,
            state=state,
            reason=self._error or (reasons[0] if reasons and state != "finished" else None),
            stop_code=decisive[0].stop_code if decisive else None,
            metrics=mean_metrics([result.metrics for result in self._results]),
            runs=self._results,
            wall_seconds=time.time() - self._began,
            time=time.time(),
            **asdict(self._costs),
        )

    def _state(self) -> TrialState | None:
        """The trial's state; None where a stop left some of its runs undone."""
        if self._error is not None:
            return "failed"
        run_states = {result.state for result in self._results}
        state = next((state for state in STATES if state in run_states), None)
        if state in ("paused", "finished") and len(self._results) < len(self.runs):
            return None
        return state

    def _run_all(self) -> None:
        """Train the runs until all have ended, one fails or diverges, or the trial stops."""
        try:
            waiting = list(self.runs)
            while waiting and not self._is_stopped():
                ended = self._first_ended(waiting)
                if ended is None:
                    time.sleep(POLL_SECONDS)  # others are training all that is left
                    continue
                run, result = ended
                log.info("%s: %s (%s)", run.name, result.state, result.reason or "no reason")
                waiting.remove(run)
                self._results.append(result)
                if result.state not in ("finished", "paused"):
                    return
        except Exception as error:  # of any kind: it is the trial's reason, and the sweep continues
            log.exception("trial %d failed", self.spec.trial)
            self._error = str(self._explained(error))

    def _first_ended(self, runs: list[PlannedRun]) -> tuple[PlannedRun, RunResult] | None:
        """The first of the runs that can be ended now, with its result; None where none can."""
        for run in runs:
            result = self._result(run)
            if result is not None:
                return run, result
        return None

    def _result(self, run: PlannedRun) -> RunResult | None:
        """The run's result, for which it is trained here unless it has ended.

        None where it has not ended after that: another trial or a study trains it or its first
        stage, it is to be tried again, or this trial is to stop.
        """
        key = run.key
        reused = key not in self._attempts
        entry = self.ledger.entry(key)
        if entry.state in ("finished", "diverged"):
            return self._described(run, entry.state, entry.reason, reused=reused)
        if entry.state == "interrupted" and self._is_at_segment_end(run):
            return self._described(run, "paused", None, reused=reused)
        if self.ledger.is_held(entry):
            return None
        prefixes = self._prefix_plan_of(run)
        if prefixes is None:
            return None
        try:
            state, reason, is_excused = self._attempt(run, prefixes)
        except LeaseHeldError:
            return None
        except LeaseLostError as lost:
            self._lose(run, lost)
            return None
        self._attempts[key] += 1
        if is_excused and self._attempts[key] <= run.resources.max_failures:
            return None
        if state != "interrupted":
            return self._described(run, state, reason, reused=False)
        if self._is_at_segment_end(run):
            return self._described(run, "paused", None, reused=False)
        return None

    def _prefix_plan_of(self, run: PlannedRun) -> PrefixPlan | None:
        """The prefixes that the run resumes from and publishes, at a segment's ends too.

        None while another run trains one that it could resume from.
        """
        segment, root = self.spec.segment, output_root(self.spec.study)
        start = prefix_at(run.spec, segment.since) if segment and segment.since > 0 else None
        if start is not None and verify(start.folder(root)) is not None:
            prefixes: PrefixPlan | None = PrefixPlan(resumes_from=((start, run.key),))
        else:
            prefixes = self._claims.prefix_plan_of(run)
        if prefixes is None or segment is None or segment.until == 1:
            return prefixes
        end = prefix_at(run.spec, segment.until)
        return replace(prefixes, publishes=(*prefixes.publishes, end))

    def _last_step(self, run: PlannedRun) -> int:
        """The step at which the trial's part of the run ends."""
        segment = self.spec.segment
        return run.spec.step_at(segment.until) if segment is not None else run.spec.steps

    def _is_at_segment_end(self, run: PlannedRun) -> bool:
        """Whether the run is at the end of the trial's segment, which is not that of the run."""
        last = self._last_step(run)
        return last < run.spec.steps and read_position(self._folder(run)).step >= last

    def _attempt(self, run: PlannedRun, prefixes: PrefixPlan) -> tuple[State, str | None, bool]:
        """State and reason at the end of one attempt, and whether the run is not to blame for it.

        Raises:
            LeaseHeldError: another driver runs it.
            LeaseLostError: another driver took the run over.
        """
        key, folder = run.key, self._folder(run)
        entry = open_attempt(run, self.ledger, Path(self.spec.data_folder))
        log.info("%s: attempt %d", run.name, len(entry.attempts))
        self._taken_over.discard(key)
        began, self._running = time.time(), run
        if self._is_stopped():
            request_stop(folder, "stopped on request")
        before = self._position_before(run, prefixes)
        try:
            error = self._train(run, prefixes, attempt=len(entry.attempts))
        finally:
            self._running = None
            self._costs.add_devices(run, began)
        self.ledger.refresh(key)  # fails where the folder's outcome is another driver's
        state, reason = outcome_of(folder, error, attempt=len(entry.attempts))
        if state == "interrupted":
            request = stop_reason(folder)
            if request is not None:  # not a node's notice, after which the run resumes elsewhere
                self._stopping.set()
                reason = request
        self.ledger.close(key, state, reason)
        if state == "finished":
            self._remove_checkpoints(folder)
        self._costs.add_steps(
            run,
            before,
            read_position(folder, since=began),
            # What a population's member resumes from another is the population's own training.
            charges_shared=self.spec.segment is None,
        )
        return state, reason, isinstance(error, ControllerDiedError)

    def _remove_checkpoints(self, folder: Path) -> None:
        """Remove what a finished run leaves for restarts; what fails here is no failure of it."""
        try:
            others = choices_by_key(output_root(self.spec.study)).get(folder.name, [])
            remove_surplus(folder, self.spec.study.checkpoint, others)
        except Exception as error:  # stores raise errors of their own libraries
            log.warning("%s: its checkpoints are not removed: %s", folder.name, one_line(error))
            log.debug("%s: its checkpoints are not removed", folder.name, exc_info=True)

    def _train(self, run: PlannedRun, prefixes: PrefixPlan, *, attempt: int) -> Exception | None:
        """Train the run until its workers leave; the error of Ray Train or of a worker, if any."""
        try:
            assignment = assignment_of(
                run,
                self.spec.study,
                Path(self.spec.folder),
                data_folder=Path(self.spec.data_folder),
                attempt=attempt,
                prefixes=prefixes,
                preemptible=self.spec.preemptible,
                in_process=self.spec.in_process,
                until=self._last_step(run),
            )
            fit_run(assignment)
        except Exception as error:  # of any kind: it is the run's reason
            return self._explained(error)
        return None

    def _explained(self, error: Exception) -> ColaError:
        """The error as one line with its cause and the file that has its traceback.

        The project's own errors are such lines already.
        """
        if isinstance(error, ColaError):
            return error
        reason = f"{type(error).__name__}: {one_line(error)}"
        path = trial_errors(Path(self.spec.folder), self.spec.trial)
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)))
        except OSError as full:
            return RunError(f"{reason}; its traceback cannot be written ({full.strerror})")
        return RunError(f"{reason}; traceback: {path}")

    def _position_before(self, run: PlannedRun, prefixes: PrefixPlan) -> Position:
        """Where an attempt starts: at the end of the run's journal, or of a prefix."""
        position = read_position(self._folder(run))
        if position.step or not prefixes.resumes_from:
            return position
        prefix, _ = prefixes.resumes_from[0]
        return published_position(prefix.folder(output_root(self.spec.study)))

    def _lose(self, run: PlannedRun, lost: LeaseLostError) -> None:
        """Record once that a run was taken over."""
        if run.key in self._taken_over:
            return
        self._taken_over.add(run.key)
        log.warning("%s: %s", run.name, lost)
        EventLog(Path(self.spec.folder)).write(Event.LEASE_LOST, run.name, str(lost))

    def _is_stopped(self) -> bool:
        return self._stopping.is_set() or is_sweep_stopping(Path(self.spec.folder))

    def _described(
        self, run: PlannedRun, state: str, reason: str | None, *, reused: bool
    ) -> RunResult:
        folder = self._folder(run)
        metrics = last_metrics(folder, self._last_step(run))
        if state == "finished" and self.spec.evaluation is not None:
            began = time.time()
            measured = self._measure(folder, self.spec.evaluation, self.spec.likelihood)
            # The run's test and its tasks are of its own settings, not of these.
            if self.spec.likelihood:
                metrics = {key: v for key, v in metrics.items() if not key.startswith("test/")}
            if self.spec.evaluation.generation != run.spec.evaluation.generation:
                metrics = {key: v for key, v in metrics.items() if not key.startswith("eval/")}
            metrics |= measured
            self._costs.working_seconds += time.time() - began
        outcome = read_outcome(folder)
        evaluation = self.spec.evaluation if self.spec.likelihood else None
        anew = None if evaluation is None else evaluation.likelihood
        return RunResult(
            name=run.name,
            run_key=run.key,
            family=run.spec.family,
            seed=run.spec.seed,
            state=state,
            reason=reason,
            stop_code=outcome.stop_code if outcome is not None and state != "failed" else None,
            reused=reused,
            metrics=metrics,
            nll_kind=run_nll_kind(run.spec, metrics, anew) if Metric.NLL in metrics else None,
        )

    def _folder(self, run: PlannedRun) -> Path:
        return self.ledger.run_folder(run.key)
