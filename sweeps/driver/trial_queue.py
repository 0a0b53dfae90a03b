"""Trials of a sweep in the queue of a cluster that it shares with other drivers.

A trial holds the workers of one run from its grant to its end: its seeds go one after the other,
and where its process dies it goes on with what it was given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from cola.records import TrialRequested
from cola.study import StudySpec
from orchestration.cluster.packing import RunRequest
from orchestration.cluster.queue_client import SECONDS, ClusterQueue, QueueClient
from orchestration.driver.launch_queue import request_of
from orchestration.planning.costs import run_costs
from orchestration.planning.rates import measured_rates
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from sweeps.driver.periodic import PeriodicThread
from sweeps.space.points import PlannedPoint
from sweeps.trials.trial import with_trial_name


class TrialQueue:
    """Which trials may start. Speaks to the queue in a thread of its own: drivers that are silent
    are forgotten, and Ray Tune asks for trials only now and then."""

    def __init__(
        self, base: StudySpec, queue: ClusterQueue, say: Callable[[str], None], events: EventLog
    ) -> None:
        self._base = base
        self._place = QueueClient(
            base.name, queue, say, events=events, wait_seconds=base.resources.wait_seconds
        )
        self._lock = threading.Lock()
        self._waiting: dict[str, RunRequest] = {}  # by the trial's number
        self._held: set[str] = set()
        self.gave_up = False  # the cluster is too small for a trial, for too long
        self._calls = PeriodicThread(self._call, SECONDS)

    def may_start(self, asked: TrialRequested, candidate: PlannedPoint) -> bool:
        """Whether the trial has its workers; asks for them where nobody has. Does not block."""
        self._calls.check()
        key = str(asked.trial)
        with self._lock:
            if key in self._held:
                return True
            if key not in self._waiting:
                request = self._request(key, asked, candidate)
                if request is None:
                    return True
                self._waiting[key] = request
                self._calls.soon()
        return False

    def ended(self, asked: TrialRequested) -> None:
        """The trial gives its workers back."""
        with self._lock:
            self._held.discard(str(asked.trial))
        self._calls.soon()

    def close(self) -> None:
        """The sweep wants nothing more."""
        try:
            self._calls.close()
        finally:
            self._place.leave()

    def _call(self) -> None:
        with self._lock:
            waiting, held = list(self._waiting.values()), frozenset(self._held)
        granted = self._place.admitted(waiting, held)
        given_up = self._place.given_up(waiting)
        with self._lock:
            for key in granted:
                del self._waiting[key]
                self._held.add(key)
            for key in given_up:
                del self._waiting[key]
                self.gave_up = True

    def _request(
        self, key: str, asked: TrialRequested, candidate: PlannedPoint
    ) -> RunRequest | None:
        """None for a trial that takes nothing: its runs are finished, and not measured again."""
        root = output_root(candidate.study)
        ledger, rates = Ledger(root), measured_rates(root)
        left, seconds = 0, 0.0
        for run in candidate.runs:
            done = ledger.entry(run.key).state in ("finished", "diverged")
            left += not done
            first = run.spec.steps if done else 0
            keep, parameters = self._base.checkpoint.keep, run.total_parameters
            seconds += run_costs(
                run.spec, run.resources, parameters, keep=keep, rates=rates, first_step=first
            ).seconds
        if not left and candidate.evaluation is None:
            return None
        if asked.leg is not None:  # of runs it carries out a part
            seconds *= asked.leg.until - asked.leg.since
        first_seed = with_trial_name(candidate.runs[0], asked.trial)
        request = request_of(
            first_seed, candidate.study, self._place.owner, id=key, seconds=seconds
        )
        # A finished model is measured by one worker.
        return request if left else replace(request, workers=1, min_workers=None)
