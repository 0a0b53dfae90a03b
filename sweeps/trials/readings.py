"""What a run's journal shows of it: how far it is, what it measured, what it spent."""

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
    """The last step of a run, and the seconds spent in steps and in the workers' loop."""

    step: int
    elapsed_seconds: float
    working_seconds: float
    shared: bool = False  # another run trained these steps


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """The finite numbers among journal values."""
    return {key: float(v) for key, v in values.items() if isinstance(v, int | float)}


def last_metrics(run_folder: Path, until: int | None = None) -> dict[str, float]:
    """The last value of every metric in a run's journal, up to the step `until`."""
    metrics: dict[str, float] = {}
    for line in JournalReader(RunFolder(run_folder).journal).new_lines():
        if line.kind != "event" and (until is None or line.step <= until):
            metrics |= numbers(line.values)
    return metrics


def read_position(run_folder: Path, since: float = 0.0) -> Position:
    """Where a run's journal ends; `working_seconds` count from `since` (Unix seconds)."""
    step, elapsed, times = 0, 0.0, []
    for line in JournalReader(RunFolder(run_folder).journal).new_lines():
        step = max(step, line.step)
        elapsed = max(elapsed, line.values.get(Metric.ELAPSED_SECONDS, 0.0))
        if line.time >= since:
            times.append(line.time)
    return Position(step, elapsed, times[-1] - times[0] if times else 0.0)


def published_position(folder: Path) -> Position:
    """Where a published prefix ends; step 0 where the folder holds no whole one."""
    cursor = verify(folder)
    if cursor is None:
        return Position(0, 0.0, 0.0)
    return Position(cursor.step, cursor.elapsed_seconds, 0.0, shared=True)


def flops_between(spec: RunSpec, first: int, last: int) -> float:
    """Executed FLOPs of the steps after `first`, up to `last`; 0 where there are none."""
    spent = spec.train_flops_at(last, "executed", charged=False)
    return max(0.0, spent - spec.train_flops_at(first, "executed", charged=False))


def flops_since(spec: RunSpec, run_folder: Path, since: float) -> float:
    """Executed FLOPs of the steps that a run's workers made from `since` on (Unix seconds)."""
    lines = JournalReader(RunFolder(run_folder).journal).new_lines()
    steps = [line.step for line in lines if line.time >= since]  # the first: where they began
    return flops_between(spec, min(steps), max(steps)) if steps else 0.0


def mean_metrics(tables: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric that all tables have; empty without a table."""
    if not tables:
        return {}
    shared = set.intersection(*(set(table) for table in tables))
    return {key: sum(table[key] for table in tables) / len(tables) for key in sorted(shared)}
