"""Many mirrors into one real MLflow server: every point once, whatever happens to the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestration.tracking.mlflow_server import free_port
from tests.mirrors import Drivers, finished_runs, many_runs, stored_points, stored_runs
from tests.servers import kill, start_mlflow
from tests.waiting import until

pytestmark = pytest.mark.slow


def test_24_runs_of_4_drivers_over_a_killed_server(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    store, port = f"sqlite:///{tmp_path / 'mlflow.db'}", free_port(0)
    server = start_mlflow(store, tmp_path, port)
    try:
        drivers = Drivers(f"http://127.0.0.1:{port}", many_runs(tiny_study, 24), 4, tmp_path)
        drivers.write(range(1, 61))
        until(lambda: drivers.sent() >= 40, "journal lines to arrive")
        kill(server)
        drivers.write(range(61, 71))
        assert 40 <= drivers.sent() < 24 * 60, "it was killed in the middle"
        until(lambda: all(mirror.trouble for mirror, _ in drivers.mirrors), "the outage to show")
        server = start_mlflow(store, tmp_path, port)
        drivers.write(range(71, 81))
        assert drivers.finish(patience_seconds=120) == []
    finally:
        kill(server)
    assert stored_points(store) == drivers.expected
    assert stored_runs(store) == finished_runs(24)
