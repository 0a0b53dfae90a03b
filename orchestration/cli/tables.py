"""The state of a study's runs as tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from cola.families.registry import names
from cola.terminal import say
from cola.terminal_tables import NONE, Column, cell, fitted, wide_console
from orchestration.driver.status import PROBLEM, UNREADABLE_LINES, VARIANT, WORKERS


def print_runs(study: str, rows: Sequence[Mapping[str, Any]], workers: bool, *, wide: bool) -> None:
    """Print the status of runs as a table, and with `workers` a table of their workers."""
    console = wide_console()
    title = f"study {study}: losses in nats a token"
    fitted(title, status_columns(rows), console, wide=wide).print(console)
    for row in rows:
        if row.get(PROBLEM):
            say(console, f"{row['run']}: {row[PROBLEM]}")
    beats = [worker_row(row["run"], beat) for row in rows for beat in row[WORKERS]]
    if workers and beats:
        ranks = {"pid": 4, "data_wait_fraction": 3, "memory_gb": 2, "host": 1}
        columns = [
            Column(
                key.replace("_", " "),
                [cell(beat[key]) for beat in beats],
                ranks.get(key, 0),
                left=key in ("run", "host"),
            )
            for key in beats[0]
        ]
        title = "workers, by their last heartbeat"
        fitted(title, columns, console, wide=wide).print(console)


def status_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """What is shown of each run; a column adds nothing where every row has the same."""

    def column(name: str, key: str, rank: int, *, left: bool = False) -> Column:
        return Column(name, [cell(row[key]) for row in rows], rank, left)

    found = [column("run", "run", 0, left=True), column("state", "state", 0, left=True)]
    if any(row.get(VARIANT) not in (None, *names()) for row in rows):
        found.append(column("variant", VARIANT, 3, left=True))
    found += [
        column("family", "family", 5, left=True),
        Column("step", [f"{cell(row['step'])}/{cell(row['steps'])}" for row in rows]),
        column("checkpoint", "checkpoint", 6),
        column("train loss", "train_loss", 4),
        Column("validation NLL", [measured(row) for row in rows], 1),
        column("test NLL", "test_nll_nats_per_token", 3),
        column("rate", "rate_nats_per_token", 7),
        column("attempts", "attempts", 8),
    ]
    if any(row.get(UNREADABLE_LINES) for row in rows):
        found.append(column("unreadable lines", UNREADABLE_LINES, 1))
    # A problem is a sentence of its own, below the table.
    reasons = [NONE if row.get(PROBLEM) else cell(row["reason"]) for row in rows]
    return found if set(reasons) <= {NONE} else [*found, Column("reason", reasons, wraps=True)]


def measured(row: Mapping[str, Any]) -> str:
    """A run's validation NLL, with whether it is exact or a bound."""
    if row["nll_nats_per_token"] is None:
        return NONE
    return f"{cell(row['nll_nats_per_token'])} {cell(row['nll_kind'])}"


def worker_row(run: str, beat: dict[str, Any]) -> dict[str, Any]:
    """One worker's row, with the age of its heartbeat by this machine's clock."""
    columns = ("rank", "host", "pid", "step", "seconds_per_step", "data_wait_fraction", "memory_gb")
    age = max(0.0, time.time() - beat["time"])
    return {"run": run} | {key: beat[key] for key in columns} | {"seconds_ago": round(age, 1)}
