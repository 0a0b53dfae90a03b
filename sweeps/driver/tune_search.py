"""The sweep as Ray Tune's search algorithm: every trial that starts or ends passes through here."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.search import Searcher

from cola.records import TrialFinished, TrialRequested, TrialState
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from sweeps.driver.context import SweepContext
from sweeps.driver.trial_monitor import is_run_by
from sweeps.search.arm_search import Search
from sweeps.space.points import PlannedPoint
from sweeps.space.samplers import is_inference
from sweeps.trials.readings import flops_between, last_metrics, read_position
from sweeps.trials.retries import PROCESS_DIED, Retries
from sweeps.trials.stopping import request_stop
from sweeps.trials.trainable import OUTCOME, SPENT, STATE, TRIAL_SPEC
from sweeps.trials.trial_spec import TrialSpec

log = logging.getLogger(__name__)

Result = dict[str, Any]  # of Ray Tune: what a trial's process has reported


@dataclass(frozen=True)
class ArmTrial:
    """A trial with the arm that it belongs to; `began` is when its process did (Unix seconds)."""

    arm: Search
    request: TrialRequested
    planned: PlannedPoint
    began: float = 0.0

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.request.trial


class TuneSearch(Searcher):
    """Starts the trials of some arms and records how they end."""

    def __init__(self, arms: Sequence[Search], context: SweepContext) -> None:
        super().__init__(metric=None, mode=None)
        self._arms, self._context = list(arms), context
        self._goal = context.sweep.metrics[0].name  # compares trials while they run
        # Before any new one: a trial that waits for its workers, or whose process died.
        self._next: list[ArmTrial] = []
        self._retries = Retries()
        self._running: dict[str, ArmTrial] = {}  # this and the next by Tune's id of the trial
        self._last_results: dict[str, Result] = {}
        self._courses: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        self._verdicts: dict[int, bool] = {}  # of the pruner, at each trial's last evaluation
        self.stopping = False

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Refuse nothing: Tune's own space and goal are not used."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Configuration of the next trial; None while there is none, FINISHED after the last."""
        queue = self._context.queue
        if self.stopping or (queue is not None and queue.gave_up):
            return str(Searcher.FINISHED)
        if not self._next:
            self._request_next()
        if not self._next:
            # An arm may wait for a running trial, and a trial whose process dies runs again.
            return None if self._running else str(Searcher.FINISHED)
        trial = self._next[0]
        if queue is not None and not queue.may_start(trial.request, trial.planned):
            return None
        self._next.pop(0)
        self._running[trial_id] = replace(trial, began=time.time())
        self._context.progress.trial_started(trial.request, trial.planned)
        return {TRIAL_SPEC: self._spec(trial).model_dump_json()}

    def _request_next(self) -> None:
        """Put the next trial of the first arm that has one in the list of next ones."""
        for arm in list(self._arms):
            requested = arm.next()
            if requested is not None:
                self._next.append(ArmTrial(arm, *requested))
                return
            if arm.why_over is not None:
                log.info("arm %r is over: %s", arm.arm, arm.why_over)
                self._arms.remove(arm)
                self._context.progress.arm_over(arm)

    def on_trial_result(self, trial_id: str, result: Result) -> None:
        """Record an evaluation."""
        self.evaluated(trial_id, result)

    def evaluated(self, trial_id: str, result: Result) -> bool:
        """Record an evaluation, which may be reported twice; whether the trial ends there."""
        self._last_results[trial_id] = result
        if trial_id not in self._running or OUTCOME in result or self._goal not in result:
            return False
        trial = self._running[trial_id]
        evaluation = (result[SPENT], result[self._goal])
        if evaluation not in self._courses[trial.number]:
            self._courses[trial.number].append(evaluation)
            self._verdicts[trial.number] = trial.arm.prunes(trial.number, *evaluation)
        return self._verdicts[trial.number]

    def on_trial_complete(
        self, trial_id: str, result: Result | None = None, error: bool = False
    ) -> None:
        """Record a trial that ended, that its scheduler stopped, or whose process died."""
        if result:
            self.evaluated(trial_id, result)
        trial = self._running.pop(trial_id)
        self._context.view.left(trial.number)
        last = result or self._last_results.pop(trial_id, {})
        outcome: TrialFinished | None = None
        if OUTCOME in last and not error:
            outcome = self._reported_outcome(trial, last)
        elif last.get(STATE) == "interrupted" or self.stopping:
            log.info("trial %d was interrupted; the next driver resumes it", trial.number)
            trial.arm.interrupted(trial.number)
        elif error:
            if self._retries_dead(trial, last):
                return
            folder = self._context.folder
            reason = f"{PROCESS_DIED}; see error.txt below {folder}/tune, and Ray's logs"
            outcome = self._unreported_outcome(trial, "failed", reason, known={})
        else:
            outcome = self._stop_early(trial, last)
        if outcome is not None:
            self._record(trial, outcome)
        if self._context.queue is not None:
            self._context.queue.release(trial.request)

    def running_trials(self) -> list[tuple[TrialRequested, PlannedPoint]]:
        """Trials that have a process now."""
        return [(trial.request, trial.planned) for trial in list(self._running.values())]

    def request_stop(self) -> None:
        """Start no more trials, and ask the runs of running ones to save and leave."""
        self.stopping = True
        for trial in list(self._running.values()):
            self._ask_to_stop(trial, "stopped on request")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its search algorithm, and nobody reads that."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep resumes from its log, not from Tune's snapshots."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _record(self, trial: ArmTrial, outcome: TrialFinished) -> None:
        outcome = outcome.model_copy(update={"course": self._courses.pop(trial.number, [])})
        log.info("trial %d: %s (%s)", trial.number, outcome.state, outcome.reason or "no reason")
        self._context.trial_log.write(outcome)
        trial.arm.ended(outcome)
        self._context.progress.trial_ended(trial.request, trial.planned, outcome)

    def _reported_outcome(self, trial: ArmTrial, last: Result) -> TrialFinished:
        """The outcome of the trial's last process, with the work of processes that died."""
        outcome = self._retries.with_lost_work(TrialFinished.model_validate_json(last[OUTCOME]))
        seconds = time.time() - self._retries.began(trial.request, trial.began)
        return outcome.model_copy(update={"wall_seconds": seconds})

    def _retries_dead(self, trial: ArmTrial, last: Result) -> bool:
        """Whether the trial, whose process died, gets another one: then it is the next to start."""
        retry = self._retries.next_retry(
            trial.request,
            trial.planned,
            began=trial.began,
            reported_up_to=last.get(SPENT, 0.0),
        )
        if retry is None:
            return False
        self._context.progress.trial_retried(trial.request, trial.planned, retry)
        self._next.insert(0, trial)  # it keeps its workers
        return True

    def _stop_early(self, trial: ArmTrial, last: Result) -> TrialFinished:
        """Ask the runs of a trial that its scheduler ended to leave; its outcome so far."""
        share = last.get(SPENT, 0.0)
        reason = (
            f"stopped early by {self._context.sweep.scheduler.kind} at {share:.0%} of its budget"
        )
        self._ask_to_stop(trial, reason)
        return self._unreported_outcome(trial, "stopped", reason, known=last)

    def _ask_to_stop(self, trial: ArmTrial, reason: str) -> None:
        ledger = Ledger(output_root(trial.planned.study))
        for run in trial.planned.runs:
            if is_run_by(ledger.known_entry(run.key), self._context.driver, trial.number):
                request_stop(ledger.run_folder(run.key), reason)

    def _spec(self, trial: ArmTrial) -> TrialSpec:
        planned, context = trial.planned, self._context
        likelihood = any(
            key.startswith("evaluation.likelihood.") for key in planned.point if is_inference(key)
        )
        return TrialSpec(
            trial=trial.number,
            study=planned.study,
            fingerprint=planned.fingerprint,
            data_folder=str(context.corpora.of(planned.study).folder.resolve()),
            folder=str(context.folder),
            evaluation=planned.evaluation,
            likelihood=likelihood,
            preemptible=context.queue is not None,
            in_process=context.in_process,
            segment=trial.request.leg,
            driver=context.driver,
            reported_up_to=self._retries.reported_up_to(trial.request),
        )

    def _unreported_outcome(
        self, trial: ArmTrial, state: TrialState, reason: str, *, known: Result
    ) -> TrialFinished:
        """The outcome of a trial that reported none, by the journal of its first run.

        It has those metrics of the journal that `known`, its last result, had.
        """
        began = self._retries.began(trial.request, trial.began)
        run = trial.planned.runs[0]
        folder = Ledger(output_root(trial.planned.study)).run_folder(run.key)
        position = read_position(folder, since=began)
        seconds = time.time() - began
        return TrialFinished(
            trial=trial.number,
            state=state,
            reason=reason,
            metrics={key: value for key, value in last_metrics(folder).items() if key in known},
            runs=[],
            wall_seconds=seconds,
            working_seconds=position.working_seconds,
            training_seconds=position.elapsed_seconds,
            flops=flops_between(run.spec, 0, position.step),
            accelerator_hours=seconds / 3600 * run.resources.accelerators,
            time=time.time(),
        )
