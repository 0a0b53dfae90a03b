"""A driver in the queue of its cluster: requests its runs, reports what they wait for."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from orchestration.cluster.admission import Wait
from orchestration.cluster.admission_queue import QueueReply
from orchestration.cluster.packing import RunAllocation, RunRequest
from orchestration.state.event_log import Event, EventLog

# Chosen values.
SECONDS = 1.0  # between two calls
QUIET_SECONDS = 5.0  # shorter waits are not reported
REPEAT_SECONDS = 30.0  # between two reports on a busy cluster


class ClusterQueue(Protocol):
    """The cluster-wide admission queue."""

    def update(
        self,
        owner: str,
        now: float,
        requests: Sequence[RunRequest],
        *,
        held: Sequence[RunAllocation],
    ) -> QueueReply | None:
        """Which runs may start, or None where the queue does not answer."""

    def leave(self, owner: str) -> None:
        """Remove this owner."""


class QueueClient:
    """What one driver, of a study or of a sweep, requests and holds.

    A run is given up after the cluster has been too small for it for `wait_seconds` without a
    break. `notify` gets sentences for the user.
    """

    def __init__(
        self,
        name: str,
        queue: ClusterQueue,
        notify: Callable[[str], None],
        *,
        events: EventLog,
        wait_seconds: float,
    ) -> None:
        self._queue, self._notify, self._events = queue, notify, events
        self._limit = wait_seconds
        self.owner = f"{name}@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._held: dict[str, RunAllocation] = {}
        self._small_since: dict[str, float] = {}
        self._idle_since = time.time()  # none of the driver's runs is running
        self._reported: dict[str, tuple[str, float]] = {}  # last report on a run, and when
        self._unanswered = False
        self._called, self._before = 0.0, (frozenset[str](), frozenset[str]())

    def admitted(self, requests: Sequence[RunRequest], running: Iterable[str]) -> dict[str, int]:
        """Workers of each request that may start now, by the request's id.

        `running` are the ids of those that started and have not ended. The queue is called at once
        where something has changed since the last call, else every second.
        """
        now = time.time()
        waiting = {request.id: request for request in requests}
        ids = frozenset(running), frozenset(waiting)
        if ids[0]:
            self._idle_since = now
        if ids == self._before and now - self._called < SECONDS:
            return {}
        self._called, self._before = now, ids
        self._held = {key: holding for key, holding in self._held.items() if key in ids[0]}
        reply = self._queue.update(self.owner, now, requests, held=list(self._held.values()))
        if reply is None:
            if not self._unanswered:
                self._notify("the cluster's queue does not answer; it is asked again")
            self._unanswered = True
            return {}
        self._unanswered = False
        self._report(waiting, reply.waits, now)
        for key, workers in reply.granted.items():
            self._hold(waiting[key], workers, now)
        return reply.granted

    def given_up(self, requests: Iterable[RunRequest]) -> list[str]:
        """Ids of those that have waited too long for a larger cluster; reports why."""
        now, ids = time.time(), []
        for request in requests:
            since = self._small_since.get(request.id)
            if since is None or now - since < self._limit:
                continue
            reason, _ = self._reported[request.id]
            why = (
                f"resources.workers={request.workers}: {reason}, for resources.wait_seconds="
                f"{self._limit:g} by now; add nodes, or lower what a run needs"
            )
            self._notify(f"{request.name}: not started: {why}")
            self._events.write(Event.NOT_STARTED, request.name, why)
            ids.append(request.id)
        return ids

    def leave(self) -> None:
        """Leave the queue: the driver waits for nothing more."""
        self._queue.leave(self.owner)

    def _hold(self, request: RunRequest, workers: int, now: float) -> None:
        ends = now + request.seconds * request.workers / workers
        self._held[request.id] = RunAllocation(request, workers, ends)
        self._reported.pop(request.id, None)
        self._small_since.pop(request.id, None)

    def _report(self, waiting: dict[str, RunRequest], waits: dict[str, Wait], now: float) -> None:
        """Report what each run that is too large waits for, and the first one that others hold up.

        A driver's own runs that wait for each other are not reported.
        """
        for index, (key, wait) in enumerate(waits.items()):
            if wait.too_large:
                self._small_since.setdefault(key, now)
            else:
                self._small_since.pop(key, None)
            waited = now - waiting[key].since >= QUIET_SECONDS
            idle = now - self._idle_since >= QUIET_SECONDS
            if wait.too_large or (index == 0 and waited and (idle or wait.others)):
                self._report_wait(waiting[key], wait, now)

    def _report_wait(self, request: RunRequest, wait: Wait, now: float) -> None:
        last, when = self._reported.get(request.id, ("", 0.0))
        if last == wait.why or (not wait.too_large and now - when < REPEAT_SECONDS):
            return
        self._reported[request.id] = wait.why, now
        self._notify(f"{request.name}: {wait.why}")
        self._events.write(Event.WAITING, request.name, wait.why)
