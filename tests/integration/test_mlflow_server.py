"""Many mirrors into one real MLflow server: every point once, whatever happens to the server."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from cola.records import Kind, Metric, Tag
from cola.spec import RunSpec, StudySpec
from orchestration.journal import JournalWriter
from orchestration.ledger import Ledger
from orchestration.mlflow_server import free_port
from orchestration.plan import plan_study
from orchestration.tracking import Mirror, MirroredStudy, open_mirror
from tests.servers import kill, mlflow_server, postgres, start_mlflow, why_no_postgres

pytestmark = pytest.mark.slow
Point = tuple[str, str, int, int, float]  # run key, metric, step, time in ms, value


class Drivers:
    """Drivers of one study, each with runs of its own, whose journals this process writes."""

    def __init__(self, uri: str, specs: list[RunSpec], drivers: int, folder: Path) -> None:
        self.specs, self.folder = specs, folder
        self.expected: set[Point] = set()
        (folder / "study.yaml").write_text("name: many\n")
        self.ledger = Ledger(folder)
        self.journals = [JournalWriter(self.of(s) / "journal.jsonl") for s in specs]
        keys = [spec.run_key for spec in specs]
        self.mirrors: list[tuple[Mirror, list[RunSpec]]] = []
        for number in range(drivers):
            mirror = open_mirror(uri, "many", folder / "artifacts")
            mirror.start(MirroredStudy(folder, self.ledger, keys))
            mine = specs[number::drivers]
            for spec in mine:
                self.ledger.acquire(spec.run_key)
                tags = {Tag.STATUS: "running"}
                mirror.follow(spec.run_key[:8], spec, self.of(spec), tags)
            self.mirrors.append((mirror, mine))

    def of(self, spec: RunSpec) -> Path:
        return self.ledger.run_folder(spec.run_key)

    def write(self, steps: Iterable[int]) -> None:
        for step in steps:
            for spec, journal in zip(self.specs, self.journals, strict=True):
                values = {Metric.TRAIN_LOSS: 1 / step, Metric.TOKENS: 100.0 * step}
                journal.write("train", step, 1000.0 + step, values)
                stamp = 1000 * (1000 + step)
                self.expected |= {(spec.run_key, k, step, stamp, v) for k, v in values.items()}

    def finish(self) -> None:
        for mirror, mine in self.mirrors:
            for spec in mine:
                self.ledger.close(spec.run_key, "finished")
                mirror.close_run(spec.run_key, "finished", {})
        for mirror, _ in self.mirrors:
            assert mirror.finish(patience_seconds=60) == []
        for journal in self.journals:
            journal.close()


QUERY = f"""
SELECT t.value, m.key, m.step, m.timestamp, m.value FROM metrics m JOIN tags t
ON t.run_uuid = m.run_uuid AND t.key = '{Tag.RUN_KEY}' WHERE m.key IN (:loss, :tokens)
"""
KINDS = f"""
SELECT t.value, r.status, count(*) FROM runs r JOIN tags t
ON t.run_uuid = r.run_uuid AND t.key = '{Tag.KIND}' GROUP BY t.value, r.status
"""


def assert_every_point_once(store: str, drivers: Drivers) -> None:
    engine = sqlalchemy.create_engine(store)
    with engine.connect() as connection:
        names = {"loss": Metric.TRAIN_LOSS, "tokens": Metric.TOKENS}
        rows = [tuple(row) for row in connection.execute(sqlalchemy.text(QUERY), names)]
        runs = {tuple(row) for row in connection.execute(sqlalchemy.text(KINDS))}
    engine.dispose()
    assert len(rows) == len(set(rows))
    assert set(rows) == drivers.expected
    assert runs == {(Kind.STUDY, "FINISHED", 1), (Kind.RUN, "FINISHED", len(drivers.specs))}


@pytest.fixture
def specs(tiny_study: dict[str, Any]) -> list[RunSpec]:
    many = tiny_study | {"families": ["ar"], "seeds": list(range(64))}
    return [run.spec for run in plan_study(StudySpec.parse(many))]


def test_64_runs_of_8_drivers_at_once(specs: list[RunSpec], tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with mlflow_server(store, tmp_path) as uri:
        drivers = Drivers(uri, specs, 8, tmp_path)
        drivers.write(range(1, 31))
        drivers.finish()
    assert_every_point_once(store, drivers)


def until_sent(drivers: Drivers, line: int) -> None:
    """Until MLflow has that many lines of some run."""
    deadline = time.monotonic() + 60
    while not any(
        run.place is not None and run.place.sent >= line
        for mirror, _ in drivers.mirrors
        for run in mirror._runs.values()
    ):
        assert time.monotonic() < deadline, "waited in vain"
        signal.sigtimedwait([], 0.1)


def test_a_killed_server_loses_and_doubles_nothing(specs: list[RunSpec], tmp_path: Path) -> None:
    store, port = f"sqlite:///{tmp_path / 'mlflow.db'}", free_port(0)
    server = start_mlflow(store, tmp_path, port)
    try:
        drivers = Drivers(f"http://127.0.0.1:{port}", specs[:4], 2, tmp_path)
        drivers.write(range(1, 401))
        until_sent(drivers, 40)
        kill(server)  # in the middle of 40 batches
        drivers.write(range(401, 431))
        until_troubled(drivers)
        server = start_mlflow(store, tmp_path, port)
        drivers.write(range(431, 461))
        drivers.finish()
    finally:
        kill(server)
    assert_every_point_once(store, drivers)


def until_troubled(drivers: Drivers) -> None:
    """Until every driver has found that the server is gone."""
    deadline = time.monotonic() + 60
    while not all(mirror.trouble for mirror, _ in drivers.mirrors):
        assert time.monotonic() < deadline, "waited in vain"
        signal.sigtimedwait([], 0.1)


@pytest.mark.skipif(why_no_postgres() != "", reason=why_no_postgres())
def test_postgres_behind_the_server(
    specs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres() as store, mlflow_server(store, tmp_path) as uri:
        monkeypatch.setenv("COLA_TRACKING", uri)
        drivers = Drivers("env:COLA_TRACKING", specs[:16], 4, tmp_path)
        drivers.write(range(1, 31))
        drivers.finish()
        assert_every_point_once(store, drivers)
