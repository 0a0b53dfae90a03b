"""The sweep as Ray Tune's search algorithm: every trial that starts or ends passes through here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from cola.data import PreparedData
from cola.records import TrialAsked, TrialEnded
from cola.spec import StudySpec
from orchestration.ledger import Ledger
from orchestration.plan import output_root
from sweeps.log import SweepLog
from sweeps.points import Candidate
from sweeps.search import Search
from sweeps.spec import is_inference
from sweeps.tracked import Tracked
from sweeps.trainable import ENDED, ORDER, SPENT, STATE
from sweeps.trial import TrialOrder, ask_to_stop, flops_at, last_metrics, position


class TuneSearch(Searcher):
    """Goes through some arms; keeps log and mirror of what their trials do."""

    def __init__(
        self,
        arms: Sequence[Search],
        log: SweepLog,
        folder: str,
        data_of: Callable[[StudySpec], PreparedData],
        tracked: Tracked,
        preemptible: bool,
        in_process: bool,
        scheduler: str,
        goal: str,
    ) -> None:
        """`goal`: the metric by which trials are compared while they run."""
        super().__init__(metric=None, mode=None)
        self._arms, self._log, self._folder = list(arms), log, folder
        self._data_of, self._tracked = data_of, tracked
        self._preemptible, self._in_process = preemptible, in_process
        self._scheduler, self._goal = scheduler, goal
        self._running: dict[str, tuple[Search, TrialAsked, Candidate, float]] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._courses: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._verdicts: dict[str, bool] = {}
        self.stopping = False

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Tune's own space and goal are not used."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's order; FINISHED once every arm is over, None while all that are left
        wait for trials that run."""
        for arm in () if self.stopping else list(self._arms):
            found = arm.next()
            if found is not None:
                asked, candidate = found
                self._running[trial_id] = (arm, asked, candidate, time.time())
                self._tracked.started(asked, candidate)
                return {ORDER: self._order(asked, candidate).model_dump_json()}
            if arm.why_over is not None:
                self._arms.remove(arm)
                self._tracked.arm_over(arm)
        return None if self._arms and not self.stopping else str(Searcher.FINISHED)

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
        if found not in self._courses[trial_id]:
            self._courses[trial_id].append(found)
            self._verdicts[trial_id] = arm.prunes(asked.trial, *found)
        return self._verdicts[trial_id]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The trial ended by itself, was stopped by the scheduler, or its process died."""
        if result:
            self.evaluated(trial_id, result)
        arm, asked, candidate, began = self._running.pop(trial_id)
        last = result or self._last.pop(trial_id, {})
        if ENDED in last and not error:
            ended = TrialEnded.model_validate_json(last[ENDED])
            ended = ended.model_copy(update={"wall_seconds": time.time() - began})
        elif last.get(STATE) == "interrupted" or self.stopping:
            arm.interrupted(asked.trial)
            return
        elif error:
            reason = "the trial's process died; see the logs of Ray"
            ended = self._unfinished(asked, candidate, "failed", reason, {}, began)
        else:
            share = last.get(SPENT, 0.0)
            reason = f"stopped early by {self._scheduler} at {share:.0%} of its budget"
            ledger = Ledger(output_root(candidate.study))
            for run in candidate.runs:
                if ledger.entry(run.key).state == "running":
                    ask_to_stop(ledger.run_folder(run.key), reason)
            ended = self._unfinished(asked, candidate, "stopped", reason, last, began)
        ended = ended.model_copy(update={"course": self._courses.pop(trial_id, [])})
        self._log.write(ended)
        arm.ended(ended)
        self._tracked.ended(asked, candidate, ended)

    def request_stop(self) -> None:
        """Nothing new starts; runs under way save and leave."""
        self.stopping = True
        for _, _, candidate, _ in self._running.values():
            ledger = Ledger(output_root(candidate.study))
            for run in candidate.runs:
                if ledger.entry(run.key).state == "running":
                    ask_to_stop(ledger.run_folder(run.key), "stopped on request")

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of what it was given, which nothing reads."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshots of a search are not used: the sweep's log is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _order(self, asked: TrialAsked, candidate: Candidate) -> TrialOrder:
        likelihood = any(
            key.startswith("evaluation.likelihood.") for key in candidate.point if is_inference(key)
        )
        return TrialOrder(
            trial=asked.trial,
            study=candidate.study,
            fingerprint=candidate.fingerprint,
            data_folder=str(self._data_of(candidate.study).folder.resolve()),
            folder=self._folder,
            evaluation=candidate.evaluation,
            likelihood=likelihood,
            preemptible=self._preemptible,
            in_process=self._in_process,
            leg=asked.leg,
        )

    def _unfinished(
        self,
        asked: TrialAsked,
        candidate: Candidate,
        state: Any,
        reason: str,
        last: dict[str, Any],
        began: float,
    ) -> TrialEnded:
        """What is known of a trial that did not say how it ended."""
        ledger = Ledger(output_root(candidate.study))
        run = candidate.runs[0]
        folder = ledger.run_folder(run.key)
        at = position(folder, since=began)
        known = last_metrics(folder)
        needs = run.resources
        units = needs.workers * (needs.gpus_per_worker or needs.cpus_per_worker)
        return TrialEnded(
            trial=asked.trial,
            state=state,
            reason=reason,
            metrics={key: value for key, value in known.items() if key in last},
            runs=[],
            wall_seconds=time.time() - began,
            working_seconds=at.working,
            training_seconds=at.elapsed,
            flops=flops_at(run.spec, at.step),
            accelerator_hours=(time.time() - began) / 3600 * units,
            time=time.time(),
        )
