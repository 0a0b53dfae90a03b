"""Metric histories of many runs at once: by SQL from a SQLite store, else through MLflow's client.

Finished runs do not change: their histories are kept in a cache file and never read again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from cola.errors import one_line
from cola.spec.address import sqlite_file

log = logging.getLogger(__name__)

COLUMNS = ["run_id", "metric", "step", "value"]
MANY = 500  # run ids in one SQL statement
# Of a run, repeated at each of its steps.
RUN_COLUMNS = [
    "run_id", "name", "family", "variant", "run_key", "rung", "budget", "seed", "status",
]  # fmt: skip
PARAMETERS = ("core_parameters", "head_parameters", "total_parameters")


def read_histories(
    client: Any,
    tracking_uri: str,
    runs: Sequence[str],
    *,
    finished: Sequence[str],
    metrics: Sequence[str],
    cache: Path | None,
) -> pd.DataFrame:
    """Columns run_id, metric, step, value of these runs' metrics; where a step was logged twice the
    last value counts."""
    cached = _cached(cache, metrics)
    known = set(cached["run_id"])
    missing = [run for run in runs if run not in known]
    log.debug("histories: %d runs from the cache, %d to read", len(known), len(missing))
    database = sqlite_file(tracking_uri)
    if database is not None and database.is_file():
        fresh = _by_sql(database, missing, metrics)
    else:
        fresh = _by_client(client, missing, metrics)
    histories = pd.concat([cached, fresh], ignore_index=True)
    if cache is not None and set(missing) & set(finished):
        _keep(cache, histories[histories["run_id"].isin(finished)], metrics)
    return histories[histories["run_id"].isin(runs)]


def _by_sql(database: Path, runs: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """MLflow keeps one row a logged value; it is opened for reading alone."""
    uri = f"file:{quote(str(database))}?mode=ro"
    names = ",".join("?" * len(metrics))
    parts = []
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        for start in range(0, len(runs), MANY):
            some = runs[start : start + MANY]
            slots = ",".join("?" * len(some))
            # Only numbers of placeholders are put into the text; values are bound.
            query = (
                "SELECT run_uuid, key, step, value FROM metrics WHERE is_nan = 0 "  # noqa: S608
                f"AND run_uuid IN ({slots}) AND key IN ({names}) ORDER BY timestamp"
            )
            rows = connection.execute(query, [*some, *metrics]).fetchall()
            parts.append(pd.DataFrame(rows, columns=COLUMNS))
    histories = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return histories.drop_duplicates(["run_id", "metric", "step"], keep="last")


def _by_client(client: Any, runs: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    rows = [
        (run, metric, entry.step, entry.value)
        for run in runs
        for metric in metrics
        for entry in client.get_metric_history(run, metric)
    ]
    histories = pd.DataFrame(rows, columns=COLUMNS)
    return histories.drop_duplicates(["run_id", "metric", "step"], keep="last")


def _cached(cache: Path | None, metrics: Sequence[str]) -> pd.DataFrame:
    """What an earlier call kept; nothing where it kept other metrics or the file is unreadable."""
    empty = pd.DataFrame(columns=COLUMNS)
    if cache is None or not cache.exists():
        return empty
    try:
        histories = pd.read_parquet(cache)
    except (OSError, ValueError) as error:
        log.warning("%s: unreadable cache (%s); histories are read again", cache, one_line(error))
        return empty
    if list(histories.columns) != COLUMNS or histories.attrs.get("metrics") != sorted(metrics):
        return empty
    return histories


def _keep(cache: Path, found: pd.DataFrame, metrics: Sequence[str]) -> None:
    found = found.copy()
    found.attrs["metrics"] = sorted(metrics)
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
    found.to_parquet(temporary, index=False)
    temporary.replace(cache)


def joined_histories(
    histories: pd.DataFrame, runs: pd.DataFrame, metrics: dict[str, str], *, needed: str
) -> pd.DataFrame:
    """One row a run and step with the metrics side by side; rows without the needed one are left
    out."""
    mine = histories[histories["metric"].isin(metrics)]
    wide = mine.pivot(index=["run_id", "step"], columns="metric", values="value")
    wide = wide.reindex(columns=list(metrics)).set_axis(list(metrics.values()), axis=1)
    wide = wide.astype(float).dropna(subset=[needed]).reset_index()
    about = runs[[*RUN_COLUMNS, "nll_kind", *PARAMETERS]]
    joined = wide.merge(about, on="run_id", how="inner")
    order = dict(zip(runs["run_id"], range(len(runs)), strict=True))
    by = joined["run_id"].map(order)
    return joined.assign(_by=by).sort_values(["_by", "step"]).drop(columns="_by")
