"""Many mirrors into one real MLflow server: every point once, whatever happens to the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import plan_study
from orchestration.tracking.mlflow_server import free_port
from tests.mirrors import Drivers, finished_runs, stored_points, stored_runs, until
from tests.servers import kill, mlflow_server, postgres, start_mlflow, why_no_postgres

pytestmark = pytest.mark.slow


@pytest.fixture
def specs(tiny_study: dict[str, Any]) -> list[RunSpec]:
    many = tiny_study | {"families": ["ar"], "seeds": list(range(64))}
    return [run.spec for run in plan_study(StudySpec.parse(many))]


def test_64_runs_of_8_drivers_over_a_killed_server(specs: list[RunSpec], tmp_path: Path) -> None:
    store, port = f"sqlite:///{tmp_path / 'mlflow.db'}", free_port(0)
    server = start_mlflow(store, tmp_path, port)
    try:
        drivers = Drivers(f"http://127.0.0.1:{port}", specs, 8, tmp_path)
        drivers.write(range(1, 61))
        until(lambda: drivers.sent() >= 40)
        kill(server)
        drivers.write(range(61, 71))
        assert 40 <= drivers.sent() < 64 * 60, "it was killed in the middle"
        until(lambda: all(mirror.trouble for mirror, _ in drivers.mirrors))
        server = start_mlflow(store, tmp_path, port)
        drivers.write(range(71, 81))
        assert drivers.finish(patience_seconds=120) == []
    finally:
        kill(server)
    assert stored_points(store) == drivers.expected
    assert stored_runs(store) == finished_runs(64)


@pytest.mark.skipif(why_no_postgres() != "", reason=why_no_postgres())
def test_postgres_behind_the_server(
    specs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres() as store, mlflow_server(store, tmp_path) as uri:
        monkeypatch.setenv("COLA_TRACKING", uri)
        drivers = Drivers("env:COLA_TRACKING", specs[:8], 4, tmp_path)
        drivers.write(range(1, 61))
        assert drivers.finish(patience_seconds=120) == []
        assert stored_points(store) == drivers.expected
        assert stored_runs(store) == finished_runs(8)
