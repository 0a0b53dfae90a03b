"""The doctor finds what is wrong and says what to do; the MLflow server listens on loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cola.spec import SpecError, StudySpec
from orchestration.doctor import clock, examine, storage, tracking
from orchestration.mlflow_server import free_port, serve, server_command


def test_this_environment_can_run_a_study(tiny_study: dict[str, Any]) -> None:
    found = {finding.name: finding for finding in examine(StudySpec.parse(tiny_study))}
    assert {"python", "packages", "collectives", "storage", "clock", "devices"} <= set(found)
    assert all(finding.verdict != "fail" for finding in found.values()), found
    assert all(finding.remedy for finding in found.values() if finding.verdict != "ok")


def test_what_is_wrong_is_found(tmp_path: Path, tiny_study: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    assert storage(tmp_path / "file" / "outputs").verdict == "fail"
    assert clock(tmp_path).verdict == "ok"
    port = free_port(0)
    silent = tracking(f"http://user:password@127.0.0.1:{port}")
    assert silent.verdict == "warn"
    assert "password" not in silent.found
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


@pytest.mark.slow
def test_the_server_answers_on_loopback(tmp_path: Path) -> None:
    port = free_port(0)
    process = subprocess.Popen(server_command(tmp_path / "mlflow.db", tmp_path / "a", port))
    try:
        deadline = time.monotonic() + 90
        while tracking(f"http://127.0.0.1:{port}").verdict != "ok":
            assert time.monotonic() < deadline, "the server does not answer"
            signal.sigtimedwait([], 0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.wait(30)
