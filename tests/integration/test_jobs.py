"""Submit, attach, stop, status and resume against a token-protected head."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_study

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.deepspeed]
BINARIES = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running head and what its clients need to know."""

    address: str
    environment: dict[str, str]

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BINARIES / "cola", *arguments, "--address", self.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **changes},
        )

    def cola(self, *arguments: str, code: int = 0, **changes: str) -> str:
        return self.result(self.start(*arguments, **changes), code)

    def result(self, process: subprocess.Popen[str], code: int = 0) -> str:
        shown, said = process.communicate(timeout=300)
        assert process.returncode == code, shown + said
        return shown + said

    def jobs(self) -> list[dict[str, Any]]:
        """All that the cluster tells of its jobs."""
        asked = urllib.request.Request(
            f"{self.address}/api/jobs/",
            headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.loads(answer.read())


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    gcs, dashboard, agent, client = free_ports(4)
    environment = {
        **os.environ,
        "PATH": f"{BINARIES}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "MLFLOW_TRACKING_PASSWORD": secrets.token_hex(16),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "COLUMNS": "200",
    }
    command = [
        BINARIES / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
        "--num-cpus=2", f"--temp-dir=/tmp/ray-jobs-{os.getpid()}",
    ]  # fmt: skip
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for_port(dashboard, process)
        yield Head(address, environment)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: int = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the head ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        signal.sigtimedwait([], 0.5)
    raise AssertionError("the head's dashboard does not listen")


def ledgers(outputs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in outputs.glob("runs/*/ledger.json")]


def test_a_study_on_a_cluster(head: Head, tiny_study: dict[str, Any], tmp_path: Path) -> None:
    tiny_study["families"] = {"ar": {}}
    tiny_study["ladder"] = [{"budget": 3e11, "core_parameters": 60_000}]
    outputs = Path(tiny_study["output"])
    study = str(write_study(tiny_study, tmp_path))

    assert "refuses this token" in head.cola("jobs", "tiny", code=2, RAY_AUTH_TOKEN="0" * 32)
    # Two at the same time end with one job.
    both = [head.start("submit", study, "--detach") for _ in range(2)]
    said = sorted(line for each in both for line in head.result(each).splitlines())
    assert said == ["cola-tiny-1: runs already, attached", "cola-tiny-1: submitted"]
    deadline = time.monotonic() + 120
    while not list(outputs.glob("runs/*/ray/attempt-*/step-*/manifest-00000.json")):
        assert time.monotonic() < deadline, head.cola("logs", "tiny", code=1)
        signal.sigtimedwait([], 0.5)
    # By name alone, from the cluster's storage.
    status = json.loads(head.cola("status", "tiny", "--json"))
    assert status["job"] == {"id": "cola-tiny-1", "status": "running"}
    assert [run["state"] for run in status["runs"]] == ["running"]
    stopped = head.cola("stop", "tiny", "--wait")
    assert "asked to stop" in stopped
    assert "cola-tiny-1: stopped" in stopped
    told = head.cola("logs", "tiny", code=1)
    assert "stopping: running trainings save a checkpoint and leave" in told
    assert [entry["state"] for entry in ledgers(outputs)] == ["interrupted"]
    resumed = head.cola("resume", study)
    assert "cola-tiny-2: submitted" in resumed
    assert "goes on from its checkpoint (stopped on request)" in resumed
    assert [entry["state"] for entry in ledgers(outputs)] == ["finished"]
    texts = [path.read_bytes() for path in outputs.rglob("*") if path.is_file()]
    texts += [json.dumps(head.jobs()).encode(), resumed.encode()]
    for name in ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        assert not any(head.environment[name].encode() in text for text in texts), name
