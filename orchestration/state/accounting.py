"""How many accelerator hours runs have taken, by the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from cola.spec.resources import ResourcesSpec
from orchestration.state.ledger import Entry


def accelerator_hours(runs: Iterable[tuple[Entry, ResourcesSpec]], now: float) -> float:
    """Hours of GPUs (of cores where a run has none) over all attempts, running ones up to `now`.

    Every run counts with all of its workers, even where an elastic one had fewer. An attempt whose
    driver was lost counts until its lease was last refreshed.
    """
    return sum(_seconds(entry, now) / 3600 * spec.accelerators for entry, spec in runs)


def _seconds(entry: Entry, now: float) -> float:
    total = 0.0
    for index, attempt in enumerate(entry.attempts):
        last = index == len(entry.attempts) - 1
        if attempt.ended is not None:
            end = attempt.ended
        elif last and entry.lease is not None:
            end = now if entry.state == "running" else entry.lease.refreshed
        else:
            end = attempt.started
        total += max(0.0, end - attempt.started)
    return total
