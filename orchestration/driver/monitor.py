"""Watches the workers of a running attempt: reports restarts, kills hung workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestration.cluster.processes import end_workers
from orchestration.planning.plan import PlannedRun
from orchestration.state.event_log import EventLog
from orchestration.state.heartbeat import Beat, read_beats
from orchestration.state.journal import JournalReader
from orchestration.state.paths import RunFolder


def look_after(
    run: PlannedRun, watch: RunWatch, events: EventLog, say: Callable[[str], None]
) -> None:
    """Tell of workers that started again; end those that hang, so that they start again."""
    limit = run.resources.hang_seconds
    for start in watch.starts():
        event = "workers restarted" if start.again else "workers started"
        events.write(event, run.name, **asdict(start))
    hung = watch.hung(limit) if limit is not None else []
    if not hung:
        return
    watch.ended(hung)
    # Processes that are gone already are being replaced: those hang no more.
    if not end_workers(beat.process for beat in hung):
        return
    for beat in hung:
        who = f"rank {beat.rank} (process {beat.pid} on {beat.host})"
        reason = f"{who} has made no step for {limit:g} s, at step {beat.step}"
        say(f"hung: {reason}; its workers are started again")
        events.write("hung", run.name, reason)


START_SECONDS = 300.0


@dataclass(frozen=True)
class Start:
    """The workers started (`again`: for another time in this attempt) from `step`.

    `repeated` steps are carried out a second time, by the workers' last signs of life and log
    lines: a lower bound.
    """

    step: int
    again: bool
    repeated: int
    workers: int | None


class RunWatch:
    """Follows one attempt's journal and heartbeats."""

    def __init__(self, run_folder: Path, attempt: int) -> None:
        self._folder, self._attempt = run_folder, attempt
        self._reader = JournalReader(RunFolder(run_folder).journal)
        self._furthest = 0
        self._starts = 0
        # By rank: what it said last, and since when (monotonic) it has said nothing else.
        self._heard: dict[int, tuple[Beat, float]] = {}
        self._first_steps: dict[tuple[str, int], int] = {}  # by process: the step at which it began
        self._ended: set[tuple[str, int]] = set()

    def starts(self) -> list[Start]:
        """Starts of this attempt's workers since the last call."""
        found = []
        self._listen()
        for line in self._reader.new_lines():
            start = line.kind == "event" and line.values.get("event") == "start"
            if start and line.values.get("attempt") == self._attempt:
                self._starts += 1
                repeated = max(0, self._furthest - line.step)
                workers = line.values.get("workers")
                found.append(Start(line.step, self._starts > 1, repeated, workers))
                self._furthest = line.step
            self._furthest = max(self._furthest, line.step)
        return found

    def hung(self, seconds: float) -> list[Beat]:
        """Workers that have made no step for that long: all of them, or none.

        Where one worker hangs the others wait for it, so all stand still. The first step, before
        which engines and kernels are made, may take START_SECONDS in any case.
        """
        self._listen()
        heard = self._heard.values()
        silent = [beat for beat, since in heard if self._silent(beat, since, seconds)]
        return silent if silent and len(silent) == len(heard) else []

    def ended(self, beats: list[Beat]) -> None:
        """These workers' processes are being replaced: what they said last counts no more."""
        self._ended |= {beat.process for beat in beats}
        self._heard = {r: h for r, h in self._heard.items() if h[0].process not in self._ended}

    def _silent(self, beat: Beat, since: float, seconds: float) -> bool:
        if beat.step == self._first_steps[beat.process]:
            seconds = max(seconds, START_SECONDS)
        return time.monotonic() - since >= seconds

    def _listen(self) -> None:
        for beat in read_beats(self._folder, self._attempt):
            if beat.process in self._ended:
                continue
            self._first_steps.setdefault(beat.process, beat.step)
            before = self._heard.get(beat.rank)
            if before is None or before[0] != beat:
                self._heard[beat.rank] = (beat, time.monotonic())
                self._furthest = max(self._furthest, beat.step)
