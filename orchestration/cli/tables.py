"""Tables that fit the terminal, and the console that all commands print with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from cola.families.registry import names
from cola.terminal import say
from orchestration.driver.status import PROBLEM, UNREADABLE_LINES, VARIANT, WORKERS

PIPE_WIDTH = 200  # columns, at least, of what goes to a file or another program; a chosen value
FEW, FEW_BELOW = 7, 120  # at most so many columns on terminals narrower than this; chosen values
LEAST_CLAUSE = 24  # characters a line of a column that wraps, if it has as many; a chosen value
EDGE, BETWEEN = 1, 3  # characters of a table's frame: at its left, and with every column
NONE = "–"


@dataclass(frozen=True)
class Column:
    """A column of a table. `rank` 0 is always shown; of the others, those of the highest rank are
    left out first where there is no room. `wraps`: its cells are clauses that break at words."""

    name: str
    cells: Sequence[str]
    rank: int = 0
    left: bool = False
    wraps: bool = False

    @property
    def least(self) -> int:
        """Characters that it needs."""
        widest = max(map(len, (self.name, *self.cells)))
        return min(widest, LEAST_CLAUSE) if self.wraps else widest


@dataclass(frozen=True)
class FittedTable:
    """A table of the columns that have room, its width, the names of the others, and a sentence on
    all rows."""

    table: Table
    width: int
    left_out: Sequence[str]
    below: str | None = None

    def print(self, console: Console) -> None:
        """Print it, and what is left out; no cell is cut, whatever the console's width."""
        before = console.width
        console.width = max(before, self.width)
        console.print(self.table)
        console.width = before
        if self.below is not None:
            say(console, self.below)
        if self.left_out:
            say(
                console,
                f"Not shown at this width: {', '.join(self.left_out)};"
                f" --wide shows them, --json has everything.",
            )


def fitted(title: str, columns: Sequence[Column], console: Console, *, wide: bool) -> FittedTable:
    """The columns that the console has room for, all of them with `wide`."""
    kept = list(columns)
    most = FEW if console.is_terminal and console.width < FEW_BELOW else len(kept)

    def needed() -> int:
        return EDGE + sum(column.least + BETWEEN for column in kept)

    while not wide and (needed() > console.width or len(kept) > most):
        last = max(kept, key=lambda column: column.rank)
        if last.rank == 0:
            break
        kept.remove(last)
    table = Table(title=title)
    for column in kept:
        table.add_column(
            column.name,
            justify="left" if column.left or column.wraps else "right",
            no_wrap=not column.wraps,
            min_width=column.least,
        )
    for cells in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*cells)
    left_out = [column.name for column in columns if column not in kept]
    return FittedTable(table, needed(), left_out)


def print_runs(
    study: str, rows: Sequence[Mapping[str, Any]], workers: bool, *, wide: bool = False
) -> None:
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


def cell(value: object) -> str:
    """A cell's text."""
    if value is None:
        return NONE
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def wide_console() -> Console:
    """A console whose tables are not cut: pipes and files have no width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(PIPE_WIDTH, console.width))
