"""A driver's place in the queue of its cluster: asks for its runs, says what they wait for."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from orchestration.cluster.admission import Wait
from orchestration.cluster.admission_queue import Answer
from orchestration.cluster.packing import Holding, Request
from orchestration.state.event_log import Event, EventLog

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


class QueuePlace:
    """What one driver, of a study or of a sweep, asks for and holds.

    A run for which the cluster has been too small for `wait_seconds` on end is given up.
    """

    def __init__(
        self,
        name: str,
        queue: Queue,
        say: Callable[[str], None],
        events: EventLog,
        wait_seconds: float,
    ) -> None:
        self._queue, self._say, self._events = queue, say, events
        self._limit = wait_seconds
        self.owner = f"{name}@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._held: dict[str, Holding] = {}
        self._small_since: dict[str, float] = {}
        self._idle_since = time.time()  # nothing of the driver's runs
        self._told: dict[str, tuple[str, float]] = {}  # what was said of a run, and when
        self._silent = False
        self._asked, self._before = 0.0, (frozenset[str](), frozenset[str]())

    def admitted(self, requests: Sequence[Request], running: Iterable[str]) -> dict[str, int]:
        """Workers of each request, by its id, that may start now.

        `running` are the ids of those that started and have not ended. Asks at once where something
        has changed since the last time, else every second.
        """
        now = time.time()
        asked = {request.id: request for request in requests}
        alive, wanted = frozenset(running), frozenset(asked)
        if alive:
            self._idle_since = now
        if (alive, wanted) == self._before and now - self._asked < SECONDS:
            return {}
        self._asked, self._before = now, (alive, wanted)
        self._held = {key: holding for key, holding in self._held.items() if key in alive}
        answer = self._queue.update(self.owner, now, requests, list(self._held.values()))
        if answer is None:
            if not self._silent:
                self._say("the cluster's queue does not answer; it is asked again")
            self._silent = True
            return {}
        self._silent = False
        self._tell(asked, answer.waits, now)
        for key, workers in answer.granted.items():
            self._hold(asked[key], workers, now)
        return answer.granted

    def given_up(self, requests: Iterable[Request]) -> list[str]:
        """Ids of those that are not waited for any longer; says why."""
        now, found = time.time(), []
        for request in requests:
            since = self._small_since.get(request.id)
            if since is None or now - since < self._limit:
                continue
            said, _ = self._told[request.id]
            why = (
                f"resources.workers={request.workers}: {said}, for resources.wait_seconds="
                f"{self._limit:g} by now; add nodes, or lower what a run needs"
            )
            self._say(f"{request.name}: not started: {why}")
            self._events.write(Event.NOT_STARTED, request.name, why)
            found.append(request.id)
        return found

    def leave(self) -> None:
        """The driver wants nothing more."""
        self._queue.leave(self.owner)

    def _hold(self, request: Request, workers: int, now: float) -> None:
        ends = now + request.seconds * request.workers / workers
        self._held[request.id] = Holding(request, workers, ends)
        self._told.pop(request.id, None)
        self._small_since.pop(request.id, None)

    def _tell(self, asked: dict[str, Request], waits: dict[str, Wait], now: float) -> None:
        """Say what each run that is too large waits for, and the first one that others hold up.

        That a driver's own runs go one after the other is nothing to tell.
        """
        for place, (key, wait) in enumerate(waits.items()):
            if wait.too_large:
                self._small_since.setdefault(key, now)
            else:
                self._small_since.pop(key, None)
            waited = now - asked[key].since >= QUIET_SECONDS
            idle = now - self._idle_since >= QUIET_SECONDS
            if wait.too_large or (place == 0 and waited and (idle or wait.others)):
                self._tell_of(asked[key], wait, now)

    def _tell_of(self, request: Request, wait: Wait, now: float) -> None:
        said, when = self._told.get(request.id, ("", 0.0))
        if said == wait.why or (not wait.too_large and now - when < REPEAT_SECONDS):
            return
        self._told[request.id] = wait.why, now
        self._say(f"{request.name}: {wait.why}")
        self._events.write(Event.WAITING, request.name, wait.why)
