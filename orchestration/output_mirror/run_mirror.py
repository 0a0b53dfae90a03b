"""Copies runs to the output's mirror beside what the driver does, and again where that failed."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from cola.errors import StorageError, one_line
from orchestration.cleanup.contents import Thing
from orchestration.output_mirror.bring import Brought, bring_run
from orchestration.output_mirror.mirror import KEY, OutputMirror
from orchestration.state.event_log import Event, EventLog

log = logging.getLogger(__name__)

THREADS = 4  # chosen: a large model must not keep the records of others waiting
# Between two copies of a running run's records, which a driver elsewhere would resume from.
REFRESH_SECONDS = 20.0  # a chosen value: what its journal then lacks at most, for little traffic
MOST_FAILURES = 8  # chosen: a store that does not answer takes a minute to say so


@dataclass(frozen=True)
class Copy:
    """A folder to copy to the mirror, for messages its run's name, and what follows the copy."""

    folder: str  # within the output folder
    name: str | None = None  # None: what fails is not kept, as the next copy comes soon
    then: Callable[[], None] | None = None


class RunMirror:
    """The runs of a driver on their way to the mirror, and the files of its study or sweep; without
    a mirror what follows the copies still happens.

    Copies are made in threads. What they report waits until the driver calls one of these methods.
    """

    def __init__(
        self,
        mirror: OutputMirror | None,
        thing: Thing,
        events: EventLog,
        *,
        notify: Callable[[str], None],
    ) -> None:
        self._mirror, self._thing, self._events, self._notify = mirror, thing, events, notify
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="cola-mirror")
        self._jobs: dict[str, Future[None]] = {}  # the last one of each folder
        self._open: dict[str, Copy] = {}  # what has a name and has not arrived yet, by folder
        self._troubles: queue.SimpleQueue[tuple[Copy, str]] = queue.SimpleQueue()
        self._reported: set[Copy] = set()  # what failed, until a copy of its folder succeeds
        self._damaged: set[str] = set()  # folders whose copies are not to be kept
        self._next = 0.0  # of the monotonic clock
        self._last_failures = 0  # of copies when the driver leaves

    def take(self, name: str, key: str) -> Brought | None:
        """Take a run from the mirror, if that is ahead in it; report what came of it."""
        if self._mirror is None:
            return None
        try:
            found = bring_run(self._mirror, key)
        except StorageError as error:
            self._troubles.put((Copy(f"runs/{key}", name), str(error)))
            self.report()
            return None
        if found is not None:
            self.taken(name, found)
        return found

    def taken(self, name: str, found: Brought) -> None:
        """Report a run that was taken from the mirror, or is damaged there: then what the mirror
        holds of it is removed once it is trained."""
        if found.damage is None:
            self._notify(f"{name}: {found.state}, from the mirror")
            self._events.write(Event.FROM_MIRROR, name, found.state)
            return
        self._damaged.add(f"runs/{found.key}")
        self._notify(f"{name}: is damaged in the mirror, and not taken from it: {found.damage}")
        self._events.write(Event.MIRROR_DAMAGED, name, found.damage)

    def launched(self, key: str) -> None:
        """Copy a run's records at the start of an attempt: a later driver counts on from it."""
        self._submit_record(f"runs/{key}")
        self.record()

    def record(self) -> None:
        """Copy the files of the study or sweep itself."""
        self._submit_record(self._thing.folder)

    def refresh(self, keys: Iterable[str]) -> None:
        """Copy the records of running runs, where it is time."""
        self.report()
        if self._mirror is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REFRESH_SECONDS
        for folder in (*(f"runs/{key}" for key in keys), self._thing.folder):
            job = self._jobs.get(folder)
            if job is None or job.done():
                self._submit_record(folder)

    def ended(self, name: str, key: str, then: Callable[[], None] | None = None) -> None:
        """Copy a run that has ended, and those that failed before; `then` follows the copy."""
        for each in list(self._open.values()):
            if self._jobs[each.folder].done():
                self._submit(each)
        self._submit(Copy(f"runs/{key}", name, then))
        self.record()

    def finish(self, runs: Iterable[tuple[str, str]]) -> list[str]:
        """Wait until all is copied, with these runs (name and key) and the files of the study or
        sweep; names of what the mirror does not have."""
        for job in self._jobs.values():
            job.cancel()  # what has not begun is among those that follow
        wait(list(self._jobs.values()))
        copies = dict(self._open)
        if self._mirror is not None:
            for name, key in runs:
                copies.setdefault(f"runs/{key}", Copy(f"runs/{key}", name))
            copies[self._thing.folder] = Copy(self._thing.folder, self._thing.name)
        for each in copies.values():
            self._submit(each, is_last=True)
        self._pool.shutdown()
        self.report()
        return [each.name for each in self._open.values() if each.name is not None]

    def report(self) -> None:
        """Report what could not be copied: each run that ended once, and of what is copied again
        soon one for all."""
        while not self._troubles.empty():
            each, reason = self._troubles.get()
            known = {one.name for one in list(self._reported)}
            self._reported.add(each)
            if each.name in known:
                continue
            self._events.write(Event.NOT_MIRRORED, each.name, reason)
            what = "" if each.name is None else f"{each.name}: "
            self._notify(f"{what}not copied to the mirror, and tried again later: {reason}")

    def _submit_record(self, folder: str) -> None:
        if self._mirror is not None:
            self._submit(Copy(folder))

    def _submit(self, each: Copy, *, is_last: bool = False) -> None:
        before = self._jobs.get(each.folder)
        if each.name is not None:
            self._open[each.folder] = each
        self._jobs[each.folder] = self._pool.submit(self._copy, each, before, is_last=is_last)

    def _copy(self, each: Copy, before: Future[None] | None, *, is_last: bool) -> None:
        """Make one copy once the one `before` of its folder has ended, which began earlier."""
        if before is not None:
            wait([before])
        try:
            self._send(each.folder, is_last)
        except Exception as error:  # of whatever library the store has
            log.debug("%s is not copied", each.folder, exc_info=True)
            self._last_failures += is_last
            self._troubles.put((each, one_line(error)))
            return
        if each.name is not None:
            self._open.pop(each.folder, None)
        self._reported -= {one for one in list(self._reported) if one.folder == each.folder}
        if each.then is not None:
            each.then()

    def _send(self, folder: str, is_last: bool) -> None:
        """Copy what the mirror lacks of a folder.

        Raises:
            StorageError: the mirror does not take it, or took nothing of several others.
        """
        if self._mirror is None:
            return
        if is_last and self._last_failures >= MOST_FAILURES:
            raise StorageError(f"{KEY}={self._mirror.shown}: took nothing of several others")
        if folder == self._thing.folder:
            self._mirror.send_thing(self._thing)
            return
        if folder in self._damaged:
            self._mirror.discard(folder)
            self._damaged.discard(folder)
        self._mirror.send_run(folder.rpartition("/")[2])
