"""What a driver does for the workers of a run that goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from orchestration.events import EventLog
from orchestration.plan import PlannedRun
from orchestration.processes import end_workers
from orchestration.run_watch import RunWatch


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
