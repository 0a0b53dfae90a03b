"""Monitors the workers of a running attempt: reports restarts, kills hung workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cola.errors import StorageError
from orchestration.cluster.processes import end_workers
from orchestration.planning.plan import PlannedRun
from orchestration.state.event_log import Event, EventLog, FailureReader
from orchestration.state.heartbeat import Beat, read_beats
from orchestration.state.journal import JournalReader
from orchestration.state.paths import RunFolder

log = logging.getLogger(__name__)

# Allowed for the first step, before which engines are built and kernels compiled, however short
# resources.hang_seconds is. A chosen value.
START_SECONDS = 300.0


def supervise_workers(
    run: PlannedRun, monitor: RunMonitor, events: EventLog, *, notify: Callable[[str], None]
) -> None:
    """Report failed and restarted workers, and kill hung ones, so that they are restarted."""
    report_failures(run, monitor, notify=notify)
    try:
        report_starts(run, monitor, events, notify=notify)
    except StorageError as error:  # the next call reads it again
        log.debug("%s: %s", run.name, error)
    end_hung_workers(run, monitor, events, notify=notify)


def report_failures(run: PlannedRun, monitor: RunMonitor, *, notify: Callable[[str], None]) -> None:
    """Report each failure of workers, and each shortage of memory of one of several workers, that
    the run's controller or this driver has written down."""
    for failure in monitor.failures(run.name):
        logs = f"; logs: {failure['logs']}" if failure.get("logs") else ""
        notify(f"{failure['event']}: {failure.get('reason')}{logs}")


def report_starts(
    run: PlannedRun, monitor: RunMonitor, events: EventLog, *, notify: Callable[[str], None]
) -> None:
    """Write an event for each start of workers, and report what they could not resume from; the
    same for passes that a device had no memory for."""
    for start in monitor.starts():
        event = Event.WORKERS_RESTARTED if start.again else Event.WORKERS_STARTED
        events.write(event, run.name, **asdict(start))
        log.info("%s: %s at step %d", run.name, event, start.step)
        if start.damaged:
            names = ", ".join(start.damaged)
            text = f"checkpoint {names} is damaged; training resumes from step {start.step}"
            notify(text)
            events.write(Event.CHECKPOINT_DAMAGED, run.name, text)
    for reason in monitor.shortages():
        notify(f"{Event.OUT_OF_MEMORY}: {reason}")
        events.write(Event.OUT_OF_MEMORY, run.name, reason, attempt=monitor.attempt)


def end_hung_workers(
    run: PlannedRun, monitor: RunMonitor, events: EventLog, *, notify: Callable[[str], None]
) -> None:
    """Kill the workers of a run if none of them makes steps any more."""
    limit = run.resources.hang_seconds
    hung = monitor.hung(limit) if limit is not None else []
    if not hung:
        return
    monitor.forget(hung)
    # Processes that have gone in the meantime are being replaced: they hang no more.
    if not end_workers(beat.process for beat in hung):
        return
    for beat in hung:
        who = f"rank {beat.rank} (process {beat.pid} on {beat.host})"
        reason = f"{who} has made no step for {limit:g} s, at step {beat.step}"
        notify(f"hung: {reason}; its workers are restarted")
        events.write(Event.HUNG, run.name, reason)
        log.warning("%s: hung: %s", run.name, reason)


@dataclass(frozen=True)
class WorkerStart:
    """A start of the workers from `step`; `again`: not the first one in this attempt.

    `repeated` steps are trained a second time. It is a lower bound: only steps that the former
    workers reported in a heartbeat or the journal are known. `damaged` names newer checkpoints
    that could not be used.
    """

    step: int
    again: bool
    repeated: int
    workers: int | None
    damaged: tuple[str, ...] = ()


class RunMonitor:
    """Follows one attempt's journal and heartbeats, and in `log_folder` its workers' failures."""

    def __init__(self, run_folder: Path, attempt: int, log_folder: Path | None = None) -> None:
        self._folder, self.attempt = run_folder, attempt
        self._failures = None if log_folder is None else FailureReader(log_folder)
        self._reader = JournalReader(RunFolder(run_folder).journal)
        self._furthest = 0
        self._starts = 0
        self._shortages: list[str] = []
        # By rank: the last heartbeat, and when (monotonic) it was first read.
        self._last_beats: dict[int, tuple[Beat, float]] = {}
        self._first_steps: dict[tuple[str, int], int] = {}  # by process
        self._replaced: set[tuple[str, int]] = set()

    def starts(self) -> list[WorkerStart]:
        """Starts of this attempt's workers since the last call."""
        starts = []
        self._read_beats()
        for line in self._reader.new_lines():
            ours = line.kind == "event" and line.values.get("attempt") == self.attempt
            event = line.values.get("event") if ours else None
            if event == "start":
                self._starts += 1
                repeated = max(0, self._furthest - line.step)
                workers = line.values.get("workers")
                damaged = tuple(map(str, line.values.get("damaged", ())))
                again = self._starts > 1
                starts.append(WorkerStart(line.step, again, repeated, workers, damaged))
                self._furthest = line.step
            elif event == Event.OUT_OF_MEMORY:
                self._shortages.append(str(line.values.get("reason")))
            self._furthest = max(self._furthest, line.step)
        return starts

    def shortages(self) -> list[str]:
        """Shortages of memory in the journal that `starts` read since the last call."""
        found, self._shortages = self._shortages, []
        return found

    def failures(self, name: str) -> list[dict[str, Any]]:
        """What `FailureReader` has of this attempt at the run so named since the last call."""
        new = self._failures.new_failures() if self._failures is not None else []
        return [
            event
            for event in new
            if event.get("run") == name and event.get("attempt") == self.attempt
        ]

    def hung(self, seconds: float) -> list[Beat]:
        """The workers if none of them has made a step for `seconds`; otherwise an empty list.

        Where one worker hangs the others wait for it in a collective, so all are silent. The first
        step may take START_SECONDS in any case.
        """
        self._read_beats()
        last_beats = self._last_beats.values()
        silent = [beat for beat, since in last_beats if self._is_silent(beat, since, seconds)]
        return silent if silent and len(silent) == len(last_beats) else []

    def forget(self, beats: list[Beat]) -> None:
        """Ignore these workers' processes from now on: they are being replaced."""
        self._replaced |= {beat.process for beat in beats}
        self._last_beats = {
            rank: (beat, since)
            for rank, (beat, since) in self._last_beats.items()
            if beat.process not in self._replaced
        }

    def _is_silent(self, beat: Beat, since: float, seconds: float) -> bool:
        if beat.step == self._first_steps[beat.process]:
            seconds = max(seconds, START_SECONDS)
        return time.monotonic() - since >= seconds

    def _read_beats(self) -> None:
        for beat in read_beats(self._folder, self.attempt):
            if beat.process in self._replaced:
                continue
            self._first_steps.setdefault(beat.process, beat.step)
            before = self._last_beats.get(beat.rank)
            if before is None or before[0] != beat:
                self._last_beats[beat.rank] = (beat, time.monotonic())
                self._furthest = max(self._furthest, beat.step)
