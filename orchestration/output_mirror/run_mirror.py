"""Copies runs to the output's mirror beside what the driver does, and again where that failed."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from cola.errors import StorageError, first_of, one_line
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


P = ParamSpec("P")
T = TypeVar("T")


def locked(
    method: Callable[Concatenate[RunMirror, P], T],
) -> Callable[Concatenate[RunMirror, P], T]:
    """A method of RunMirror that one thread runs at a time."""

    @wraps(method)
    def call(self: RunMirror, /, *args: P.args, **options: P.kwargs) -> T:
        with self._lock:
            return method(self, *args, **options)

    return call


class RunMirror:
    """The runs of a driver on their way to the mirror, and the files of its study or sweep; without
    a mirror what follows the copies still happens.

    Copies are made in threads. What they report waits until the driver calls one of these methods,
    which may be called from several threads.
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
        self._lock = threading.RLock()  # of the public methods; copies do not take it
        self._jobs: dict[str, Future[None]] = {}  # the last one of each folder
        self._pending: list[Future[None]] = []  # all that may not have ended
        self._launched: set[str] = set()  # folders of the runs that this driver launched
        self._ended: set[str] = set()  # of those the ones whose last attempt has ended
        self._is_finishing = False
        self._unsent: list[str] | None = None  # names, once the last copies are made
        self._open: dict[str, Copy] = {}  # what has a name and has not arrived yet, by folder
        self._troubles: queue.SimpleQueue[tuple[Copy, str]] = queue.SimpleQueue()
        self._reported: set[Copy] = set()  # what failed, until a copy of its folder succeeds
        self._damaged: dict[str, Brought] = {}  # folders whose copies are not to be kept
        self._known_damage: dict[str, Brought] = {}  # by run key, as it was reported
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

    @locked
    def taken(self, name: str, found: Brought) -> None:
        """Report a run that was taken from the mirror, or is damaged there: then what the mirror
        holds of it is removed once it is trained."""
        if found.damage is None:
            self._notify(f"{name}: {found.state}, from the mirror")
            self._events.write(Event.FROM_MIRROR, name, found.state)
            return
        before = self._known_damage.get(found.key)
        self._known_damage[found.key] = found
        if before == found:
            return  # reported already
        if not found.usable:
            self._damaged[f"runs/{found.key}"] = found
        self._notify(f"{name}: is damaged in the mirror, and not taken from it: {found.damage}")
        self._events.write(Event.MIRROR_DAMAGED, name, found.damage)

    @locked
    def launched(self, key: str) -> None:
        """Copy a run's records at the start of an attempt: a later driver counts on from it."""
        self._launched.add(f"runs/{key}")
        self._ended.discard(f"runs/{key}")
        self._submit_record(f"runs/{key}")
        self.record()

    @locked
    def record(self) -> None:
        """Copy the files of the study or sweep itself."""
        self._submit_record(self._thing.folder)

    @locked
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

    @locked
    def ended(self, name: str, key: str, then: Callable[[], None] | None = None) -> None:
        """Copy a run that has ended, and those that failed before; `then` follows the copy."""
        self._launched.add(f"runs/{key}")
        self._ended.add(f"runs/{key}")
        for each in list(self._open.values()):
            if self._jobs[each.folder].done():
                self._submit(each)
        self._submit(Copy(f"runs/{key}", name, then))
        self.record()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Where the block fails, the last copies are made all the same if it has launched a run,
        and what did not arrive is reported."""
        try:
            yield
        except BaseException:
            unsent = self._unsent
            if self._launched and not self._is_finishing:
                unsent = self.finish(())
            self._pool.shutdown(cancel_futures=True)
            if unsent:
                self._notify(
                    f"the output's mirror does not have all of {first_of(unsent)}; the output "
                    "folder keeps them, and the same command copies the rest"
                )
            raise

    @locked
    def finish(self, runs: Iterable[tuple[str, str]]) -> list[str]:
        """Wait until all is copied: the runs that this driver launched, those of `runs` (name and
        key) that are finished here, and the files of the study or sweep. Nothing is copied
        afterwards.

        Returns the names of what the mirror does not have.
        """
        self._is_finishing = True
        # What has not begun is among those that follow, and what has begun precedes them.
        wait([job for job in self._pending if not job.cancel()])
        copies = dict(self._open)
        if self._mirror is not None:
            names = {f"runs/{key}": name for name, key in runs}
            own = {folder: folder.rpartition("/")[2][:12] for folder in self._launched}
            for folder, name in (own | names).items():
                if folder in self._launched or self._mirror.has_finished(folder):
                    copies.setdefault(folder, Copy(folder, name))
            copies[self._thing.folder] = Copy(self._thing.folder, self._thing.name)
        for each in copies.values():
            self._submit(each, is_last=True)
        self._pool.shutdown()
        self.report()
        self._unsent = [each.name for each in self._open.values() if each.name is not None]
        return self._unsent

    @locked
    def report(self) -> None:
        """Report what could not be copied: each run that ended once, and of what is copied again
        soon one for all."""
        while True:
            try:
                each, reason = self._troubles.get_nowait()
            except queue.Empty:
                return
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
        if self._unsent is not None:
            return
        before = self._jobs.get(each.folder)
        if each.name is not None:
            self._open[each.folder] = each
        job = self._pool.submit(self._copy, each, before, is_last=is_last)
        self._jobs[each.folder] = job
        self._pending = [*(one for one in self._pending if not one.done()), job]

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
        if self._open.get(each.folder) is each:
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
        key = folder.rpartition("/")[2]
        is_finished = self._mirror.has_finished(folder)
        known, damaged = self._known_damage.get(key), self._damaged.get(folder)
        if known is not None and known.usable and (not is_finished or known.state == "finished"):
            return  # whole for a newer release, or being written
        if damaged is not None and (folder in self._ended or is_finished):
            self._mirror.discard(folder, damaged.listed)
            self._damaged.pop(folder, None)
        elif damaged is not None and damaged.listed is None:
            return  # until the run has ended here, its list may be restored
        self._mirror.send_run(key)
