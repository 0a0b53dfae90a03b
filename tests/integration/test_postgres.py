"""Mirrors of several drivers into one MLflow server on PostgreSQL: every point once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.mirrors import Drivers, finished_runs, many_runs, stored_points, stored_runs
from tests.servers import mlflow_server, postgres

pytestmark = pytest.mark.slow


def test_postgres_behind_the_server(
    tiny_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres() as store, mlflow_server(store, tmp_path) as uri:
        monkeypatch.setenv("COLA_TRACKING", uri)
        drivers = Drivers("env:COLA_TRACKING", many_runs(tiny_study, 8), 4, tmp_path)
        drivers.write(range(1, 61))
        assert drivers.finish(patience_seconds=120) == []
        assert stored_points(store) == drivers.expected
        assert stored_runs(store) == finished_runs(8)
