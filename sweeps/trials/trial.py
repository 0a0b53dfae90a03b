"""A trial: the runs of one point, one after the other, each exactly as a study's run.

It runs in a thread of a process of its own, so that whoever follows it can look at its evaluations
meanwhile. Ledger, leases and checkpoints are those of studies: what is finished is taken as it is,
what another trial is doing is waited for, what was interrupted goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cola.errors import StorageError
from cola.records import RunResult, TrialFinished, TrialSegment, TrialState
from cola.study import StudySpec
from cola.study.run import EvaluationSpec
from orchestration.checkpoint.manifest import verify
from orchestration.driver.attempt import assignment_of, open_attempt, outcome_of, read_outcome
from orchestration.driver.ray_trainer import ControllerDiedError, fit_run
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.shared_prefixes import PrefixPlan, prefix_at
from orchestration.state.event_log import Event, EventLog
from orchestration.state.journal import JournalReader
from orchestration.state.ledger import (
    LEASE_REFRESH_SECONDS,
    LeaseHeldError,
    LeaseLostError,
    Ledger,
    State,
    lease_is_fresh,
)
from orchestration.state.paths import RunFolder, output_root
from sweeps.trials.prefix_claims import PrefixClaims
from sweeps.trials.readings import (
    Position,
    last_metrics,
    means,
    numbers,
    position,
    published_position,
)

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
SWEEP_STOP = "stop"  # file in the sweep's folder: a person asked all of it to stop


class TrialSpec(BaseModel):
    """What a trial is told: its study (one run a seed) and where everything lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: int
    study: StudySpec
    fingerprint: str
    data_folder: str
    folder: str  # the sweep's
    evaluation: EvaluationSpec | None  # the finished models are measured with it
    likelihood: bool  # whether that takes their NLL too
    preemptible: bool
    in_process: bool  # runs train in the trial's own process, which outlives them
    driver: str  # who ordered it
    leg: TrialSegment | None = None  # the part of the runs that is carried out
    told: float = 0.0  # share of the first run's budget up to which evaluations are known


class TrialExecutor:
    """Carries out an order; `measure` is called for every finished model."""

    def __init__(
        self, order: TrialSpec, measure: Callable[[Path, EvaluationSpec, bool], dict[str, float]]
    ) -> None:
        self.order = order
        self.ledger = Ledger(output_root(order.study), lease_name(order.driver, order.trial))
        self.runs = [
            with_trial_name(run, order.trial) for run in plan_study(order.study, order.fingerprint)
        ]
        self._measure = measure
        self._claims = PrefixClaims(output_root(order.study), self.ledger)
        self._results: list[RunResult] = []
        self._flops = self._shared = self._hours = 0.0
        self._training = self._working = 0.0
        self._tries: Counter[str] = Counter()  # attempts made here, by run key
        self._running: PlannedRun | None = None
        self._taken_over: set[str] = set()  # keys of runs that another driver took from here
        self._stopping = threading.Event()
        self._refreshed = time.time()
        self._reader = JournalReader(RunFolder(self._folder(self.runs[0])).journal)
        self._error: str | None = None
        self._began = time.time()
        self.thread = threading.Thread(target=self._carry_out, daemon=True, name="trial")
        self.thread.start()

    def evaluations(self) -> list[dict[str, float]]:
        """New evaluations of the first seed's run before its last, each with the share `spent` of
        its budget."""
        run = self.runs[0].spec
        found = []
        for line in self._reader.new_lines():
            if line.kind == "evaluation" and line.step < self._last_step(self.runs[0]):
                share = run.train_flops_at(line.step, run.compute) / run.budget
                if share > self.order.told:
                    found.append({**numbers(line.values), "spent": share})
        return found

    def keep_alive(self) -> None:
        """Refresh the lease of the run that is under way, or leave it to whoever took it over."""
        running = self._running
        if running is None or time.time() - self._refreshed <= LEASE_REFRESH_SECONDS:
            return
        self._refreshed = time.time()
        try:
            self.ledger.refresh(running.key)
        except LeaseLostError as lost:
            self._lose(running, lost)
        except StorageError as error:  # a full disk: others may take over after 90 s, not now
            log.warning("%s: its lease is not refreshed: %s", running.name, error)

    def stop(self, reason: str, patience_seconds: float) -> None:
        """Have the run that is under way save and leave; the others are not begun."""
        self._stopping.set()
        running = self._running
        if running is not None and self.ledger.holds(running.key):
            request_stop(self._folder(running), reason)
        self.thread.join(patience_seconds)

    def outcome(self) -> TrialFinished | None:
        """How the trial ended; None where it goes on, or was stopped."""
        if self.thread.is_alive():
            return None
        states = {result.state for result in self._results}
        order: tuple[TrialState, ...] = ("failed", "diverged", "paused", "finished")
        state = next((s for s in order if s in states), None)
        if state in ("paused", "finished") and len(self._results) < len(self.runs):
            state = None
        if self._error is not None:
            state = "failed"
        if state is None:
            return None
        decisive = [result for result in self._results if result.state == state]
        reasons = [result.reason for result in decisive if result.reason]
        return TrialFinished(
            trial=self.order.trial,
            state=state,
            reason=self._error or (reasons[0] if reasons and state != "finished" else None),
            stop_code=decisive[0].stop_code if decisive else None,
            metrics=means([result.metrics for result in self._results]),
            runs=self._results,
            wall_seconds=time.time() - self._began,
            working_seconds=self._working,
            training_seconds=self._training,
            flops=self._flops,
            shared_flops=self._shared,
            accelerator_hours=self._hours,
            time=time.time(),
        )

    def _carry_out(self) -> None:
        try:
            left = list(self.runs)
            while left and not self._is_stopped():
                for run in left:
                    result = self._result(run)
                    if result is not None:
                        break
                else:
                    time.sleep(POLL_SECONDS)  # others are at all that is left
                    continue
                left.remove(run)
                self._results.append(result)
                if result.state not in ("finished", "paused"):
                    return
        except Exception as error:  # of any kind: it is the trial's reason, and others go on
            self._error = f"{type(error).__name__}: {error}".partition("\n")[0][:300]

    def _result(self, run: PlannedRun) -> RunResult | None:
        """What the run ended with, carried out here where nobody has; None where it is not over:
        another trial or a study is at it, or at its first stage, or this trial is to stop."""
        key = run.key
        entry = self.ledger.entry(key)
        if entry.state in ("finished", "diverged"):
            return self._described(run, entry.state, entry.reason, key not in self._tries)
        if entry.state == "interrupted" and self._is_at_end(run):
            return self._described(run, "paused", None, key not in self._tries)
        if lease_is_fresh(entry) and entry.lease and entry.lease.owner != self.ledger.owner:
            return None
        prefixes = self._prefix_plan_of(run)
        if prefixes is None:
            return None
        try:
            state, reason, again = self._attempt(run, prefixes)
        except LeaseHeldError:
            return None
        except LeaseLostError as lost:
            self._lose(run, lost)
            return None
        self._tries[key] += 1
        again = again and self._tries[key] <= run.resources.max_failures
        if again or (state == "interrupted" and not self._is_at_end(run)):
            return None
        if state == "interrupted":
            return self._described(run, "paused", None, False)
        return self._described(run, state, reason, False)

    def _prefix_plan_of(self, run: PlannedRun) -> PrefixPlan | None:
        """As PrefixClaims, with what a leg begins from and leaves to others."""
        leg, root = self.order.leg, output_root(self.order.study)
        begins = prefix_at(run.spec, leg.since) if leg is not None and leg.since > 0 else None
        if begins is not None and verify(begins.folder(root)) is not None:
            prefixes: PrefixPlan | None = PrefixPlan(resumes_from=((begins, run.key),))
        else:
            prefixes = self._claims.prefix_plan_of(run)
        if prefixes is None or leg is None or leg.until == 1:
            return prefixes
        return replace(prefixes, publishes=(*prefixes.publishes, prefix_at(run.spec, leg.until)))

    def _last_step(self, run: PlannedRun) -> int:
        """The step at which the trial's part of the run ends."""
        leg = self.order.leg
        return run.spec.step_at(leg.until) if leg is not None else run.spec.steps

    def _is_at_end(self, run: PlannedRun) -> bool:
        """Whether the trial's part of the run is done, and not the whole run."""
        last = self._last_step(run)
        return last < run.spec.steps and position(self._folder(run)).step >= last

    def _attempt(self, run: PlannedRun, prefixes: PrefixPlan) -> tuple[State, str | None, bool]:
        """One attempt; the last is whether its end was no fault of the run's.

        Raises:
            LeaseLostError: another driver took the run over.
        """
        key, data = run.key, Path(self.order.data_folder)
        entry = open_attempt(run, self.ledger, data)
        self._taken_over.discard(key)
        began, self._running = time.time(), run
        if self._is_stopped():
            request_stop(self._folder(run), "stopped on request")
        before = position(self._folder(run))
        if not before.step and prefixes.resumes_from:
            before = published_position(
                prefixes.resumes_from[0][0].folder(output_root(self.order.study))
            )
        error: Exception | None = None
        try:
            fit_run(
                assignment_of(
                    run,
                    self.order.study,
                    Path(self.order.folder),
                    data_folder=data,
                    attempt=len(entry.attempts),
                    prefixes=prefixes,
                    preemptible=self.order.preemptible,
                    in_process=self.order.in_process,
                    until=self._last_step(run),
                )
            )
        except Exception as caught:  # of Ray Train or its workers: the run's reason
            error = caught
        finally:
            self._running = None
            self._hours += (time.time() - began) / 3600 * run.resources.accelerators
        self.ledger.refresh(key)  # fails where the folder's outcome is another driver's
        state, reason = outcome_of(self._folder(run), error)
        if state == "interrupted":
            asked = stop_reason(self._folder(run))
            if asked is not None:  # not a node's notice: then the run goes on elsewhere
                self._stopping.set()
                reason = asked
        self.ledger.close(key, state, reason)
        self._account(run, before, began)
        return state, reason, isinstance(error, ControllerDiedError)

    def _account(self, run: PlannedRun, before: Position, began: float) -> None:
        """Add what an attempt cost: FLOPs of its steps, and seconds in them."""
        after = position(self._folder(run), since=began)
        done = run.spec.train_flops_at(before.step, "executed", charged=False)
        self._flops += max(
            0.0, run.spec.train_flops_at(after.step, "executed", charged=False) - done
        )
        # What a population's member takes of another is part of the population's own training.
        self._shared += done if before.shared and self.order.leg is None else 0.0
        self._training += max(0.0, after.elapsed - before.elapsed)
        self._working += after.working

    def _lose(self, run: PlannedRun, lost: LeaseLostError) -> None:
        """Record once that a run was taken over."""
        if run.key in self._taken_over:
            return
        self._taken_over.add(run.key)
        log.warning("%s: %s", run.name, lost)
        EventLog(Path(self.order.folder)).write(Event.LEASE_LOST, run.name, str(lost))

    def _is_stopped(self) -> bool:
        return self._stopping.is_set() or (Path(self.order.folder) / SWEEP_STOP).exists()

    def _described(
        self, run: PlannedRun, state: str, reason: str | None, reused: bool
    ) -> RunResult:
        metrics = last_metrics(self._folder(run), self._last_step(run))
        if state == "finished" and self.order.evaluation is not None:
            began = time.time()
            metrics |= self._measure(
                self._folder(run), self.order.evaluation, self.order.likelihood
            )
            self._working += time.time() - began
        outcome = read_outcome(self._folder(run))
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
        )

    def _folder(self, run: PlannedRun) -> Path:
        return self.ledger.run_folder(run.key)


def with_trial_name(run: PlannedRun, trial: int) -> PlannedRun:
    """The run under a name that tells the trial."""
    return replace(run, name=f"trial{trial:03d}-{run.name}")


def lease_name(driver: str, trial: int) -> str:
    """What the leases of a trial's runs end with: its driver finds them by it."""
    return f"{driver}-{trial}"


def request_stop(run_folder: Path, reason: str) -> None:
    """Workers leave after their next step, with a checkpoint; the file says why."""
    run_folder.mkdir(parents=True, exist_ok=True)
    RunFolder(run_folder).stop.write_text(reason)


def stop_reason(run_folder: Path) -> str | None:
    """Why the run was asked to stop."""
    path = RunFolder(run_folder).stop
    return (path.read_text() or None) if path.exists() else None
