"""The sweep as Ray Tune's search algorithm: every trial that starts or ends passes through here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cola.data import PreparedData
from cola.records import TrialFinished, TrialRequested
from cola.study import StudySpec
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from sweeps.driver.progress import TrialProgress
from sweeps.driver.trial_monitor import is_run_by
from sweeps.driver.trial_queue import TrialQueue
from sweeps.search.arm_search import Search
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint
from sweeps.space.spec import is_inference
from sweeps.trials.readings import last_metrics, position
from sweeps.trials.retries import PROCESS_DIED, Retries
from sweeps.trials.trainable import ENDED, ORDER, SPENT, STATE
from sweeps.trials.trial import TrialSpec, request_stop


class TuneSearch(Searcher):
    """Goes through some arms; keeps log and mirror of what their trials do."""

    def __init__(
        self,
        arms: Sequence[Search],
        log: SweepLog,
        folder: str,
        data_of: Callable[[StudySpec], PreparedData],
        tracked: TrialProgress,
        queue: TrialQueue | None,
        in_process: bool,
        scheduler: str,
        goal: str,
        driver: str,
    ) -> None:
        """`queue`: that of a cluster which others share. `goal`: the metric by which trials are
        compared while they run."""
        super().__init__(metric=None, mode=None)
        self._arms, self._log, self._folder = list(arms), log, folder
        self._data_of, self._tracked = data_of, tracked
        self._queue, self._in_process = queue, in_process
        self._scheduler, self._goal, self._driver = scheduler, goal, driver
        # Next before any new one: it waits for its workers, or its process died.
        self._first: list[tuple[Search, TrialRequested, PlannedPoint]] = []
        self._retries = Retries()
        self._running: dict[str, tuple[Search, TrialRequested, PlannedPoint, float]] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._courses: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        self._verdicts: dict[int, bool] = {}
        self.stopping = False

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Tune's own space and goal are not used."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's order; None where it is to wait, FINISHED once every arm is over."""
        if self._is_over():
            return str(Searcher.FINISHED)
        if not self._first:
            self._take_next()
        if not self._first:
            # A trial that runs may be what an arm waits for, or be tried again if its process dies.
            return None if self._running else str(Searcher.FINISHED)
        arm, asked, candidate = self._first[0]
        if self._queue is not None and not self._queue.may_start(asked, candidate):
            return None
        self._first.pop(0)
        self._running[trial_id] = (arm, asked, candidate, time.time())
        self._tracked.started(asked, candidate)
        return {ORDER: self._order(asked, candidate).model_dump_json()}

    def _take_next(self) -> None:
        """The next trial of the first arm that has one now."""
        for arm in list(self._arms):
            found = arm.next()
            if found is not None:
                self._first.append((arm, *found))
                return
            if arm.why_over is not None:
                self._arms.remove(arm)
                self._tracked.arm_over(arm)

    def _is_over(self) -> bool:
        """Whether nothing new may start."""
        return self.stopping or (self._queue is not None and self._queue.gave_up)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An evaluation."""
        self.evaluated(trial_id, result)

    def evaluated(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take up an evaluation, which may come twice; whether the arm's pruner ends the trial."""
        self._last[trial_id] = result
        if trial_id not in self._running or ENDED in result or self._goal not in result:
            return False
        arm, asked, _, _ = self._running[trial_id]
        found = (result[SPENT], result[self._goal])
        if found not in self._courses[asked.trial]:
            self._courses[asked.trial].append(found)
            self._verdicts[asked.trial] = arm.prunes(asked.trial, *found)
        return self._verdicts[asked.trial]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The trial ended by itself, was stopped by the scheduler, or its process died."""
        if result:
            self.evaluated(trial_id, result)
        arm, asked, candidate, began = self._running.pop(trial_id)
        last = result or self._last.pop(trial_id, {})
        ended: TrialFinished | None = None
        if ENDED in last and not error:
            ended = self._retries.whole(TrialFinished.model_validate_json(last[ENDED]))
            took = time.time() - self._retries.began(asked, began)
            ended = ended.model_copy(update={"wall_seconds": took})
        elif last.get(STATE) == "interrupted" or self.stopping:
            arm.interrupted(asked.trial)  # it is open: the next driver takes it up
        elif error:
            number = self._retries.again(asked, candidate, began, last.get(SPENT, 0.0))
            if number is not None:
                self._tracked.again(asked, candidate, number)
                self._first.insert(0, (arm, asked, candidate))  # it has its workers
                return
            reason = f"{PROCESS_DIED}; see error.txt below {self._folder}/tune, and Ray's logs"
            ended = self._unfinished(asked, candidate, "failed", reason, {}, began)
        else:
            ended = self._stopped_early(asked, candidate, last, began)
        if ended is not None:
            ended = ended.model_copy(update={"course": self._courses.pop(asked.trial, [])})
            self._log.write(ended)
            arm.ended(ended)
            self._tracked.ended(asked, candidate, ended)
        if self._queue is not None:
            self._queue.ended(asked)

    def under_way(self) -> list[tuple[TrialRequested, PlannedPoint]]:
        """Trials that run now."""
        return [(asked, candidate) for _, asked, candidate, _ in list(self._running.values())]

    def request_stop(self) -> None:
        """Nothing new starts; runs under way save and leave."""
        self.stopping = True
        for _, asked, candidate, _ in self._running.values():
            ledger = Ledger(output_root(candidate.study))
            for run in candidate.runs:
                if is_run_by(ledger.entry(run.key), self._driver, asked.trial):
                    request_stop(ledger.run_folder(run.key), "stopped on request")

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of what it was given, which nothing reads."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshots of a search are not used: the sweep's log is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _stopped_early(
        self, asked: TrialRequested, candidate: PlannedPoint, last: dict[str, Any], began: float
    ) -> TrialFinished:
        """The scheduler has seen enough: runs that go on are asked to leave."""
        share = last.get(SPENT, 0.0)
        reason = f"stopped early by {self._scheduler} at {share:.0%} of its budget"
        ledger = Ledger(output_root(candidate.study))
        for run in candidate.runs:
            if is_run_by(ledger.entry(run.key), self._driver, asked.trial):
                request_stop(ledger.run_folder(run.key), reason)
        return self._unfinished(asked, candidate, "stopped", reason, last, began)

    def _order(self, asked: TrialRequested, candidate: PlannedPoint) -> TrialSpec:
        likelihood = any(
            key.startswith("evaluation.likelihood.") for key in candidate.point if is_inference(key)
        )
        return TrialSpec(
            trial=asked.trial,
            study=candidate.study,
            fingerprint=candidate.fingerprint,
            data_folder=str(self._data_of(candidate.study).folder.resolve()),
            folder=self._folder,
            evaluation=candidate.evaluation,
            likelihood=likelihood,
            preemptible=self._queue is not None,
            in_process=self._in_process,
            leg=asked.leg,
            driver=self._driver,
            told=self._retries.told(asked),
        )

    def _unfinished(
        self,
        asked: TrialRequested,
        candidate: PlannedPoint,
        state: Any,
        reason: str,
        last: dict[str, Any],
        began: float,
    ) -> TrialFinished:
        """What is known of a trial that did not say how it ended."""
        began = self._retries.began(asked, began)
        ledger = Ledger(output_root(candidate.study))
        run = candidate.runs[0]
        folder = ledger.run_folder(run.key)
        at = position(folder, since=began)
        known = last_metrics(folder)
        needs = run.resources
        units = needs.accelerators
        return TrialFinished(
            trial=asked.trial,
            state=state,
            reason=reason,
            metrics={key: value for key, value in known.items() if key in last},
            runs=[],
            wall_seconds=time.time() - began,
            working_seconds=at.working,
            training_seconds=at.elapsed,
            flops=run.spec.train_flops_at(at.step, "executed", charged=False),
            accelerator_hours=(time.time() - began) / 3600 * units,
            time=time.time(),
        )


class PrunerScheduler(FIFOScheduler):
    """Ends a trial where the search, which has the trials' Optuna study, says so."""

    def __init__(self, search: TuneSearch) -> None:
        super().__init__()
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """After each evaluation."""
        ends = self._search.evaluated(trial.trial_id, result)
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)
