"""What a trial reads of its runs: how far they are, what they measured, what they spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola.records import Metric
from cola.study import RunSpec
from orchestration.checkpoint.manifest import verify
from orchestration.state.journal import JournalReader
from orchestration.state.paths import RunFolder


@dataclass(frozen=True)
class Position:
    """The last step of a run, seconds inside of its steps, and of its workers' loop."""

    step: int
    elapsed: float
    working: float
    shared: bool = False  # another run carried out these steps


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """The finite numbers among journal values."""
    return {key: float(v) for key, v in values.items() if isinstance(v, int | float)}


def last_metrics(run_folder: Path, until: int | None = None) -> dict[str, float]:
    """The last value of every metric in a run's journal (up to the step `until`)."""
    found: dict[str, float] = {}
    for line in JournalReader(RunFolder(run_folder).journal).new_lines():
        if line.kind != "event" and (until is None or line.step <= until):
            found |= numbers(line.values)
    return found


def position(run_folder: Path, since: float = 0.0) -> Position:
    """How far a run's journal is; its workers' loop is counted from `since` (Unix seconds)."""
    step, elapsed, times = 0, 0.0, []
    for line in JournalReader(RunFolder(run_folder).journal).new_lines():
        step = max(step, line.step)
        elapsed = max(elapsed, line.values.get(Metric.ELAPSED_SECONDS, 0.0))
        if line.time >= since:
            times.append(line.time)
    return Position(step, elapsed, times[-1] - times[0] if times else 0.0)


def published_position(folder: Path) -> Position:
    """Where a first stage that another run has published ends."""
    cursor = verify(folder)
    if cursor is None:
        return Position(0, 0.0, 0.0)
    return Position(cursor.step, cursor.elapsed_seconds, 0.0, shared=True)


def flops_since(spec: RunSpec, run_folder: Path, since: float) -> float:
    """Executed FLOPs of the steps that a run's workers made from `since` on (Unix seconds)."""
    lines = JournalReader(RunFolder(run_folder).journal).new_lines()
    steps = [line.step for line in lines if line.time >= since]  # the first: where they began
    return (
        spec.train_flops_at(max(steps), "executed", charged=False)
        - spec.train_flops_at(min(steps), "executed", charged=False)
        if steps
        else 0.0
    )


def means(tables: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric that all tables have."""
    if not tables:
        return {}
    shared = set.intersection(*(set(table) for table in tables))
    return {key: sum(table[key] for table in tables) / len(tables) for key in sorted(shared)}
