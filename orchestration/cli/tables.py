"""Tables and the console that all commands print with."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from cola.families.registry import names
from orchestration.driver.status import PROBLEM, UNREADABLE_LINES, VARIANT, WORKERS


def print_runs(study: str, rows: list[dict[str, Any]], workers: bool) -> None:
    """Print the status of runs as a table, and with `workers` a table of their workers."""
    # A column adds nothing where every curve has its family's name.
    named = any(row.get(VARIANT) not in (None, *names()) for row in rows)
    left_out = {WORKERS, PROBLEM} | (set() if named else {VARIANT})
    if not any(row.get(UNREADABLE_LINES) for row in rows):
        left_out.add(UNREADABLE_LINES)
    plain = [{key: value for key, value in row.items() if key not in left_out} for row in rows]
    print_table(f"study {study}", plain)
    console = wide_console()
    for row in rows:
        if row.get(PROBLEM):  # whole, on one line: a cell of the table is cut
            line = f"{row['run']}: {row[PROBLEM]}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    beats = [worker_row(row["run"], beat) for row in rows for beat in row[WORKERS]]
    if workers and beats:
        print_table("workers, by their last heartbeat", beats)


def worker_row(run: str, beat: dict[str, Any]) -> dict[str, Any]:
    """One worker's row, with the age of its heartbeat by this machine's clock."""
    columns = ("rank", "host", "pid", "step", "seconds_per_step", "data_wait_fraction", "memory_gb")
    age = max(0.0, time.time() - beat["time"])
    return {"run": run} | {key: beat[key] for key in columns} | {"seconds_ago": round(age, 1)}


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows that have the same keys as a table."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*("–" if value is None else cell(value) for value in row.values()))
    wide_console().print(table)


def cell(value: object) -> str:
    """A cell's text."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def wide_console() -> Console:
    """A console whose tables are not cut: pipes and files have no width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(200, console.width))
