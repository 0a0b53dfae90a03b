"""Trials of a sweep in the queue of a cluster that it shares with other drivers.

A trial holds the workers of one run from its grant to its end: its seeds are trained one after the
other, and a retry after the death of its process keeps them.
"""

from __future__ import annotations

import logging
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
from sweeps.trials.trial_spec import with_trial_name

log = logging.getLogger(__name__)


class TrialQueue:
    """Decides which trials may start.

    It speaks to the cluster's queue in a thread: the queue forgets drivers that are silent, and Ray
    Tune asks for trials only now and then.
    """

    def __init__(
        self,
        base: StudySpec,
        queue: ClusterQueue,
        events: EventLog,
        *,
        notify: Callable[[str], None],
    ) -> None:
        self._base = base
        self._client = QueueClient(
            base.name, queue, notify, events=events, wait_seconds=base.resources.wait_seconds
        )
        self._lock = threading.Lock()
        self._waiting: dict[str, RunRequest] = {}  # by the trial's number
        self._held: set[str] = set()
        self.gave_up = False  # the cluster has been too small for a trial for too long
        self._calls = PeriodicThread(self._call, SECONDS)

    def may_start(self, request: TrialRequested, planned: PlannedPoint) -> bool:
        """Whether the trial has its workers; requests them where it does not. Does not block."""
        self._calls.check()
        key = str(request.trial)
        with self._lock:
            if key in self._held:
                return True
            if key not in self._waiting:
                run_request = self._run_request(request, planned)
                if run_request is None:
                    return True
                self._waiting[key] = run_request
                self._calls.wake()
        return False

    def release(self, request: TrialRequested) -> None:
        """Give the trial's workers back."""
        with self._lock:
            self._held.discard(str(request.trial))
        self._calls.wake()

    def close(self) -> None:
        """Leave the cluster's queue; raises what ended the thread earlier."""
        try:
            self._calls.close()
        finally:
            self._client.leave()

    def _call(self) -> None:
        with self._lock:
            waiting, held = list(self._waiting.values()), frozenset(self._held)
        granted = self._client.admitted(waiting, held)
        given_up = self._client.given_up(waiting)
        with self._lock:
            for key in granted:
                log.info("trial %s has its workers", key)
                del self._waiting[key]
                self._held.add(key)
            for key in given_up:
                log.warning("trial %s is given up: the cluster is too small", key)
                del self._waiting[key]
                self.gave_up = True

    def _run_request(self, request: TrialRequested, planned: PlannedPoint) -> RunRequest | None:
        """What the trial asks its cluster for: the workers of one run, for the time of all.

        None for a trial that needs none: its runs are finished, and not measured again.
        """
        root = output_root(planned.study)
        ledger, rates = Ledger(root), measured_rates(root)
        unfinished, seconds = 0, 0.0
        for run in planned.runs:
            is_done = ledger.known_entry(run.key).state in ("finished", "diverged")
            unfinished += not is_done
            first = run.spec.steps if is_done else 0
            keep, parameters = self._base.checkpoint.keep, run.total_parameters
            seconds += run_costs(
                run.spec, run.resources, parameters, keep=keep, rates=rates, first_step=first
            ).seconds
        if not unfinished and planned.evaluation is None:
            return None
        if request.leg is not None:
            seconds *= request.leg.until - request.leg.since
        first_run = with_trial_name(planned.runs[0], request.trial)
        run_request = request_of(
            first_run, planned.study, self._client.owner, id=str(request.trial), seconds=seconds
        )
        if unfinished:
            return run_request
        # A finished model is measured by one worker.
        return replace(run_request, workers=1, min_workers=None)
