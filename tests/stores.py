"""Empty MLflow stores, copied: MLflow makes each by all migrations of its history."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import tempfile
from pathlib import Path

from cola.spec.address import sqlite_uri


@functools.cache
def _empty() -> bytes:
    from mlflow.tracking import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=sqlite_uri(file)).search_experiments(max_results=1)
        with contextlib.closing(sqlite3.connect(file)) as connection:
            return connection.serialize()


def new_store(file: Path) -> str:
    """The address of the store in this file, which is made, empty, where there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_empty())
    return sqlite_uri(file)
