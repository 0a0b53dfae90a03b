"""How long a report takes to read many runs from a SQLite store, first and again from its cache.

    python -m tests.benchmarks.reading FOLDER [--runs 2000] [--points 100]

Writes a store of that size through MLflow's schema, then reads it twice.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path

from mlflow.tracking import MlflowClient

from analysis.report.runs import CURVE_METRICS, POINT_METRICS, read_study
from cola.records import SCHEMA_VERSION, Tag

STUDY = "many"


def write_store(folder: Path, runs: int, points: int) -> str:
    """A store with that many finished runs, each with that many values of every metric."""
    path = folder / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.create_experiment(STUDY, artifact_location=folder.as_uri())
    first = client.create_run(experiment, run_name="shape")
    metrics = sorted(POINT_METRICS.keys() | CURVE_METRICS.keys())
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        shape = connection.execute(
            "SELECT * FROM runs WHERE run_uuid = ?", [first.info.run_id]
        ).fetchone()
        marks = ",".join("?" * len(columns))
        for number in range(runs):
            run = uuid.uuid4().hex
            row = dict(zip(columns, shape, strict=True)) | {
                "run_uuid": run,
                "name": f"run-{number}",
            }
            connection.execute(f"INSERT INTO runs VALUES ({marks})", list(row.values()))
            write_run(connection, run, number, points, metrics)
        for table in ("tags", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [first.info.run_id])
    return f"sqlite:///{path}"


def write_run(
    connection: sqlite3.Connection, run: str, number: int, points: int, metrics: list[str]
) -> None:
    """Tags, parameters and histories of one run."""
    tags = {
        Tag.STUDY: STUDY,
        Tag.FAMILY: ("ar", "llada", "cola")[number % 3],
        Tag.RUN_KEY: run,
        Tag.RUNG: str(number // 3),
        Tag.BUDGET: repr(1e12 * (1 + number // 3)),
        Tag.SEED: "66",
        Tag.STATUS: "finished",
        Tag.NLL_KIND: "exact",
        Tag.COMPUTE: "executed",
        Tag.CORE_PARAMETERS: "200000",
        Tag.EMBEDDING_PARAMETERS: "100000",
        Tag.TOTAL_PARAMETERS: "300000",
        Tag.DATA_ORDER: json.dumps({"1": "a"}),
        Tag.SCHEMA_VERSION: SCHEMA_VERSION,
    }
    connection.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
        [(key, value, run) for key, value in tags.items()],
    )
    values = [
        (metric, 5.0 - 0.01 * step, step, run, False, step)
        for metric in metrics
        for step in range(1, points + 1)
    ]
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, is_nan, step) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        values,
    )
    connection.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [(metric, 5.0 - 0.01 * points, points, points, False, run) for metric in metrics],
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--points", type=int, default=100)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True)
    uri = write_store(folder, arguments.runs, arguments.points)
    for name in ("first", "from the cache"):
        start = time.perf_counter()
        frames = read_study(STUDY, uri, folder / "histories.parquet")
        took = time.perf_counter() - start
        print(f"{name}: {len(frames.runs)} runs, {len(frames.points)} points, {took:.1f} s")


if __name__ == "__main__":
    main()
