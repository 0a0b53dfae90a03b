"""The doctor finds what is wrong and says what to do; the MLflow server listens on loopback."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from cola.spec import SpecError, StudySpec
from orchestration.doctor import Finding, clock, examine, storage, tracking
from orchestration.mlflow_server import (
    backend,
    free_port,
    serve,
    server_command,
    server_environment,
)
from tests.servers import mlflow_server


def test_this_environment_can_run_a_study(tiny_study: dict[str, Any]) -> None:
    found = {finding.name: finding for finding in examine(StudySpec.parse(tiny_study))}
    assert {"python", "packages", "collectives", "storage", "clock", "devices"} <= set(found)
    assert all(finding.verdict != "fail" for finding in found.values()), found
    assert all(finding.remedy for finding in found.values() if finding.verdict != "ok")


def test_what_is_wrong_is_found(tmp_path: Path, tiny_study: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    assert storage(tmp_path / "file" / "outputs").verdict == "fail"
    assert clock(tmp_path).verdict == "ok"
    silent = tracking(f"http://127.0.0.1:{free_port(0)}")
    assert (silent.verdict, "cannot be reached" in silent.found) == ("warn", True)
    unset = tracking("env:COLA_NOT_SET")
    assert (unset.verdict, "is not set" in unset.found) == ("warn", True)
    large = StudySpec.parse(tiny_study | {"resources": {"workers": 8, "cpus_per_worker": 64}})
    devices = {finding.name: finding for finding in examine(large)}["devices"]
    assert (devices.verdict, "cola submit" in devices.remedy) == ("warn", True)


def test_a_port_is_taken_or_free(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(SpecError, match="is taken"):
            free_port(held.getsockname()[1])
    with pytest.raises(SpecError, match=r"holds no mlflow\.db"):
        serve(tmp_path, 0, print)


def test_only_a_database_is_served_and_no_password_is_on_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="holds a password") as refusal:
        serve(tmp_path, 0, print, "postgresql://me:s3cret@host/db")
    assert "s3cret" not in str(refusal.value)
    with pytest.raises(SpecError, match="is not a database"):
        serve(tmp_path, 0, print, "http://127.0.0.1:5000")
    monkeypatch.setenv("COLA_STORE", "postgresql://me:s3cret@host/db")
    address = backend(tmp_path, "env:COLA_STORE")
    assert address.shown == "env:COLA_STORE"
    assert not any("s3cret" in part for part in server_command(tmp_path, 5000))
    passed = server_environment(address.uri)["MLFLOW_BACKEND_STORE_URI"]
    assert passed == "postgresql+psycopg2://me:s3cret@host/db"


@pytest.mark.slow
def test_the_server_answers_on_loopback(tmp_path: Path) -> None:
    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path) as uri:
        assert uri.startswith("http://127.0.0.1:")
        assert tracking(uri) == Finding("tracking", "ok", uri)
