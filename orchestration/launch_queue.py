"""A study's place in the queue of its cluster: asks for its runs, says what they wait for."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from cola.spec import StudySpec
from orchestration.admission import Wait
from orchestration.admission_queue import Answer
from orchestration.events import EventLog
from orchestration.packing import Holding, Request
from orchestration.plan import PlannedRun
from orchestration.progress import StudyView

SECONDS = 1.0  # between two calls
QUIET_SECONDS = 5.0  # a wait that is over before is nothing to tell
REPEAT_SECONDS = 30.0  # between two sentences on a busy cluster


class Queue(Protocol):
    """Of the cluster."""

    def update(
        self, owner: str, now: float, requests: Sequence[Request], held: Sequence[Holding]
    ) -> Answer | None:
        """What may start, or None where the queue does not answer."""

    def leave(self, owner: str) -> None:
        """This owner asks no more."""


class LaunchQueue:
    """Which runs of a study may start now.

    A run for which the cluster has been too small for `resources.wait_seconds` on end is refused.
    """

    def __init__(
        self,
        study: StudySpec,
        queue: Queue,
        view: StudyView,
        events: EventLog,
        seconds_of: Callable[[PlannedRun], float],
    ) -> None:
        self._study, self._queue, self._seconds_of = study, queue, seconds_of
        self._view, self._events = view, events
        self.owner = f"{study.name}@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._requests: dict[str, Request] = {}  # by run key, of those that wait
        self._held: dict[str, Holding] = {}
        self._small_since: dict[str, float] = {}
        self._idle_since = time.time()  # nothing of the study runs
        self._told: dict[str, tuple[str, float]] = {}  # what was said of a run, and when
        self._silent = False
        self._asked, self._before = 0.0, (frozenset[str](), frozenset[str]())

    def admitted(
        self, ready: Sequence[PlannedRun], running: Iterable[PlannedRun]
    ) -> dict[str, int]:
        """Workers of each run, by its key, that may start now.

        Asks at once where something has changed since the last time, else every second.
        """
        now = time.time()
        alive = frozenset(run.key for run in running)
        wanted = frozenset(run.key for run in ready)
        if alive:
            self._idle_since = now
        if (alive, wanted) == self._before and now - self._asked < SECONDS:
            return {}
        self._asked, self._before = now, (alive, wanted)
        self._held = {key: holding for key, holding in self._held.items() if key in alive}
        for run in ready:
            if run.key not in self._requests:
                self._requests[run.key] = self._request(run, now)
        requests = [self._requests[run.key] for run in ready]
        answer = self._queue.update(self.owner, now, requests, list(self._held.values()))
        if answer is None:
            if not self._silent:
                self._view.note("the cluster's queue does not answer; it is asked again")
            self._silent = True
            return {}
        self._silent = False
        self._tell({run.key: run for run in ready}, answer.waits, now)
        for key, workers in answer.granted.items():
            self._hold(self._requests.pop(key), workers, now)
        return answer.granted

    def kept(self, waiting: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Those that go on waiting; says why the others are given up."""
        limit, now = self._study.resources.wait_seconds, time.time()
        kept = []
        for run in waiting:
            since = self._small_since.get(run.key)
            if since is None or now - since < limit:
                kept.append(run)
                continue
            said, _ = self._told[run.key]
            why = (
                f"resources.workers={run.resources.workers}: {said}, for resources.wait_seconds="
                f"{limit:g} by now; add nodes, or lower what a run needs"
            )
            self._view.event(run, f"not started: {why}")
            self._events.write("not started", run.name, why)
        return kept

    def close(self) -> None:
        """The study wants nothing more."""
        self._queue.leave(self.owner)

    def _hold(self, request: Request, workers: int, now: float) -> None:
        ends = now + request.seconds * request.workers / workers
        self._held[request.id] = Holding(request, workers, ends)
        self._told.pop(request.id, None)
        self._small_since.pop(request.id, None)

    def _request(self, run: PlannedRun, now: float) -> Request:
        needs = run.resources
        return Request(
            id=run.key,
            owner=self.owner,
            name=run.name,
            study=self._study.name,
            workers=needs.workers,
            cpus=needs.cpus_per_worker,
            gpus=needs.gpus_per_worker,
            size=run.train_flops("executed"),
            seconds=self._seconds_of(run),
            since=now,
            labels=dict(needs.labels),
            min_workers=needs.min_workers,
            priority=self._study.resources.priority,
            at_once=self._study.resources.concurrent_runs,
        )

    def _tell(self, ready: dict[str, PlannedRun], waits: dict[str, Wait], now: float) -> None:
        """Say what each run that is too large waits for, and the first one that others hold up.

        That a study's own runs go one after the other is nothing to tell.
        """
        for place, (key, wait) in enumerate(waits.items()):
            if wait.too_large:
                self._small_since.setdefault(key, now)
            else:
                self._small_since.pop(key, None)
            waited = now - self._requests[key].since >= QUIET_SECONDS
            idle = now - self._idle_since >= QUIET_SECONDS
            if wait.too_large or (place == 0 and waited and (idle or wait.others)):
                self._say(ready[key], wait, now)

    def _say(self, run: PlannedRun, wait: Wait, now: float) -> None:
        key = run.key
        said, when = self._told.get(key, ("", 0.0))
        if said == wait.why or (not wait.too_large and now - when < REPEAT_SECONDS):
            return
        self._told[key] = wait.why, now
        self._view.event(run, wait.why)
        self._events.write("waiting", run.name, wait.why)
