"""Where the runs of a study stand: rows for people and for machines."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from cola.families.registry import definition_of, names
from cola.records import Metric
from orchestration.decisions import checkpoints_of
from orchestration.heartbeat import read_beats
from orchestration.journal import JournalReader
from orchestration.ledger import Ledger
from orchestration.plan import PlannedRun

VARIANT, WORKERS = "variant", "workers"


def run_status(run: PlannedRun, ledger: Ledger, storage: str | None) -> dict[str, object]:
    """One run's row of the status table; the checkpoint is the step it could go on from.

    Its workers are what each of them last said of itself (see `orchestration.heartbeat`).
    """
    entry = ledger.entry(run.key)
    last: dict[str, object] = {}
    running = entry.state == "running"
    goes_on = entry.state not in ("new", "finished")
    folder = ledger.run_folder(run.key)
    kept = checkpoints_of(folder, storage) if goes_on else []
    for line in JournalReader(folder / "journal.jsonl").new_lines():
        if line.kind != "event":
            last |= {"step": line.step, **line.values}
    return {
        "run": run.name,
        "family": definition_of(run.spec.family).label,
        VARIANT: run.variant,
        "state": entry.state,
        "step": last.get("step", 0),
        "steps": run.spec.steps,
        "checkpoint": max((cursor.step for cursor in kept), default=None),
        "train_loss": last.get(Metric.TRAIN_LOSS),
        "nll_nats_per_token": last.get(Metric.NLL),
        "attempts": len(entry.attempts),
        "reason": entry.reason,
        WORKERS: [beat.model_dump() for beat in read_beats(folder)] if running else [],
    }


def print_runs(study: str, rows: list[dict[str, Any]], workers: bool) -> None:
    """The status of runs as a table; with `workers` a second one of those of the running runs."""
    # A column says nothing new where every curve has its family's name.
    named = any(row.get(VARIANT) not in (None, *names()) for row in rows)
    left_out = {WORKERS} if named else {WORKERS, VARIANT}
    plain = [{key: value for key, value in row.items() if key not in left_out} for row in rows]
    print_table(f"study {study}", plain)
    beats = [worker_row(row["run"], beat) for row in rows for beat in row[WORKERS]]
    if workers and beats:
        print_table("workers, as they last said", beats)


def worker_row(run: str, beat: dict[str, Any]) -> dict[str, Any]:
    """One worker's row, with the age of what it said by this machine's clock."""
    told = ("rank", "host", "pid", "step", "seconds_per_step", "data_wait_fraction", "memory_gb")
    age = max(0.0, time.time() - beat["time"])
    return {"run": run} | {key: beat[key] for key in told} | {"seconds_ago": round(age, 1)}


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Rows with the same keys as a table."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*("–" if value is None else shown(value) for value in row.values()))
    wide_console().print(table)


def shown(value: object) -> str:
    """A cell's text."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def wide_console() -> Console:
    """A console whose tables are not cut: pipes and files have no width of their own."""
    console = Console()
    return console if console.is_terminal else Console(width=max(200, console.width))
