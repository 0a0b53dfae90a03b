"""Many mirrors into one real MLflow server: every point once, whatever happens to the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cola.data import PreparedData
from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.doctor.finding import Finding
from orchestration.doctor.local_checks import tracking
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import run_study
from orchestration.results.fetch import fetch
from orchestration.results.publish import publish
from orchestration.results.sources import Origin, open_source
from orchestration.tracking.mlflow_server import free_port
from sweeps.cli import app
from tests.finished import finished_study
from tests.mirrors import Drivers, finished_runs, many_runs, stored_points, stored_runs
from tests.servers import kill, start_mlflow
from tests.waiting import until

pytestmark = pytest.mark.slow(seconds=40)


def test_24_runs_of_4_drivers_over_a_killed_server(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    store, port = f"sqlite:///{tmp_path / 'mlflow.db'}", free_port(0)
    server, uri = start_mlflow(store, tmp_path, port), f"http://127.0.0.1:{port}"
    try:
        assert tracking(uri) == Finding("tracking", "ok", uri)
        drivers = Drivers(uri, many_runs(tiny_study, 24), 4, tmp_path)
        drivers.write(range(1, 61))
        until(lambda: drivers.sent() >= 40, "journal lines to arrive")
        kill(server)
        drivers.write(range(61, 71))
        assert 40 <= drivers.sent() < 24 * 60, "it was killed in the middle"
        until(lambda: all(mirror.trouble for mirror, _ in drivers.mirrors), "the outage to show")
        server = start_mlflow(store, tmp_path, port)
        drivers.write(range(71, 81))
        assert drivers.finish(patience_seconds=120) == []
        assert stored_points(store) == drivers.expected
        assert stored_runs(store) == finished_runs(24)
        results_come_back(uri, tiny_study, data, tmp_path / "elsewhere")
    finally:
        kill(server)


def results_come_back(
    uri: str, values: dict[str, Any], data: PreparedData, elsewhere: Path
) -> None:
    """A finished study is published; a machine that reaches nothing but the server has its report,
    and all of its records."""
    tracking = {"tracking": {"uri": uri}, "families": ["ar"]}
    study, tiny = StudySpec.parse(values | tracking), Thing("study", "tiny")
    finished_study(study, data)
    assert run_study(study, None, StudyView()).complete
    origin = Origin(
        tiny, "--cluster ours", "/elsewhere", study.content_hash(), tracking=uri, storage=None
    )
    with pytest.raises(SpecError, match="holds no results of it"):
        open_source(origin)
    notes: list[str] = []
    publish(study, tiny, notes.append)
    assert notes == []
    elsewhere.mkdir()
    result = fetch(open_source(origin), elsewhere / "outputs", origin, models=False)
    assert (len(result.copied), result.states) == (9, {"finished": 1})
    with pytest.raises(SpecError, match="holds no models of tiny"):
        fetch(open_source(origin), elsewhere / "outputs", origin, models=True)
    arguments = ["report", "tiny", "--tracking-uri", uri, "--output", str(elsewhere / "empty")]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert f"report: {elsewhere / 'empty' / 'studies' / 'tiny' / 'report'}" in shown.stdout
