"""Copies runs to the output's mirror beside what the driver does, and again where that failed."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from cola.errors import StorageError, one_line
from orchestration.cleanup.contents import Thing
from orchestration.output_mirror.mirror import KEY, OutputMirror
from orchestration.state.event_log import Event, EventLog

log = logging.getLogger(__name__)

THREADS = 4  # chosen: a large model must not keep the records of others waiting
# Between two copies of a running run's records, which a driver elsewhere would resume from.
REFRESH_SECONDS = 60.0  # a chosen value: as often as checkpoints are saved by default
MOST_FAILURES = 8  # chosen: a store that does not answer takes a minute to say so


@dataclass(frozen=True)
class Ended:
    """A run that has ended, and what is to be done once the mirror has it."""

    name: str
    key: str
    then: Callable[[], None] | None = None


class RunMirror:
    """The runs of a driver on their way to the mirror; without one everything else still happens.

    Copies are made in threads. What they report waits until the driver's own thread calls `report`,
    `refresh` or `finish`.
    """

    def __init__(
        self, mirror: OutputMirror | None, events: EventLog, *, notify: Callable[[str], None]
    ) -> None:
        self._mirror, self._events, self._notify = mirror, events, notify
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="cola-mirror")
        self._jobs: dict[str, Future[None]] = {}  # the last one of each run, by key
        self._failed: dict[str, tuple[Ended, str]] = {}  # with the reason, by run key
        self._troubles: deque[tuple[str | None, str]] = deque()  # name of a run, reason
        self._trouble: str | None = None  # what was reported last
        self._damaged: set[str] = set()  # keys of runs whose copies are not to be kept
        self._next = 0.0  # of the monotonic clock
        self._last_failures = 0  # of copies when the driver leaves

    def replace(self, keys: Iterable[str]) -> None:
        """Have what the mirror holds of these runs, which is damaged, removed when they start."""
        self._damaged.update(keys)

    def launched(self, key: str) -> None:
        """Copy a run's records at the start of an attempt: a later driver counts on from it."""
        if self._mirror is not None:
            self._submit(Ended("", key))

    def refresh(self, keys: Iterable[str]) -> None:
        """Copy the records of running runs, where it is time."""
        self.report()
        if self._mirror is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REFRESH_SECONDS
        for key in keys:
            job = self._jobs.get(key)
            if job is None or job.done():
                self._submit(Ended("", key))

    def ended(self, name: str, key: str, then: Callable[[], None] | None = None) -> None:
        """Copy a run that has ended, and those that failed before; `then` follows the copy."""
        for each, _ in list(self._failed.values()):
            self._submit(each)
        self._submit(Ended(name, key, then))

    def finish(self, runs: Iterable[tuple[str, str]] = (), thing: Thing | None = None) -> list[str]:
        """Wait until all is copied, with these runs (name and key) and the files of the study or
        sweep; names of what the mirror does not have."""
        wait(self._jobs.values())
        known = {each.key: each for each, _ in self._failed.values()}
        for name, key in runs if self._mirror is not None else ():
            known.setdefault(key, Ended(name, key))
        for each in known.values():
            self._submit(each, is_last=True)
        self._pool.shutdown()
        self.report()
        unsent = [each.name for each, _ in self._failed.values() if each.name]
        if self._mirror is not None and thing is not None:
            try:
                self._mirror.send_thing(thing)
            except Exception as error:  # of whatever library the store has
                self._troubles.append((None, one_line(error)))
                unsent.append(thing.name)
                self.report()
        return unsent

    def report(self) -> None:
        """Report what could not be copied: each cause once, until a copy succeeds."""
        while self._troubles:
            name, reason = self._troubles.popleft()
            self._events.write(Event.NOT_MIRRORED, name, reason)
            if reason != self._trouble:
                self._trouble = reason
                what = "" if name is None else f"{name}: "
                self._notify(f"{what}not copied to the mirror, and tried again later: {reason}")

    def _submit(self, each: Ended, *, is_last: bool = False) -> None:
        before = self._jobs.get(each.key)
        self._jobs[each.key] = self._pool.submit(self._copy, each, before, is_last=is_last)

    def _copy(self, each: Ended, before: Future[None] | None, *, is_last: bool) -> None:
        """Copy one run once its copy `before` has ended; that one began earlier, in any case."""
        if before is not None:
            wait([before])
        try:
            self._send(each.key, is_last)
        except Exception as error:  # of whatever library the store has
            log.debug("%s is not copied", each.key, exc_info=True)
            self._last_failures += is_last
            reason = one_line(error)
            if each.name:
                self._failed[each.key] = (each, reason)
            self._troubles.append((each.name or None, reason))
            return
        self._failed.pop(each.key, None)
        self._trouble = None
        if each.then is not None:
            each.then()

    def _send(self, key: str, is_last: bool) -> None:
        """Copy what the mirror lacks of a run.

        Raises:
            StorageError: the mirror does not take it, or took nothing of several others.
        """
        if self._mirror is None:
            return
        if is_last and self._last_failures >= MOST_FAILURES:
            raise StorageError(f"{KEY}={self._mirror.shown}: took nothing of other runs")
        if key in self._damaged:
            self._mirror.discard(f"runs/{key}")
            self._damaged.discard(key)
        self._mirror.send_run(key)
