"""Submit, attach, stop, status and resume against a token-protected head."""

from __future__ import annotations

import json
import secrets
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_study
from tests.ray_nodes import RayNodes
from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=130), pytest.mark.ray, pytest.mark.deepspeed]


class Head(RayNodes):
    """A head with two cores; `cola` speaks to its dashboard."""

    def start(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        return self.run(*arguments, "--address", self.url, **changes)

    def cola(self, *arguments: str, code: int = 0, **changes: str) -> str:
        return self.result(self.start(*arguments, **changes), code)

    def result(self, process: subprocess.Popen[str], code: int = 0) -> str:
        shown, _ = process.communicate(timeout=300)
        assert process.returncode == code, shown
        return shown

    def jobs(self) -> list[dict[str, Any]]:
        """All that the cluster reports of its jobs."""
        asked = urllib.request.Request(
            f"{self.url}/api/jobs/",
            headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.loads(answer.read())


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    secret = {"MLFLOW_TRACKING_PASSWORD": secrets.token_hex(16)}
    with Head(tmp_path, head_cpus=2, takes_jobs=True, environment=secret) as cluster:
        yield cluster


def ledgers(outputs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in outputs.glob("runs/*/ledger.json")]


def test_a_study_on_a_cluster(head: Head, tiny_study: dict[str, Any], tmp_path: Path) -> None:
    tiny_study["families"] = {"ar": {}}
    tiny_study["ladder"] = [{"budget": 1.6e11, "core_parameters": 60_000}]
    outputs = Path(tiny_study["output"])
    study = str(write_study(tiny_study, tmp_path))

    assert "refuses this token" in head.cola("jobs", "tiny", code=4, RAY_AUTH_TOKEN="0" * 32)
    # Two at the same time end with one job.
    both = [head.start("submit", study, "--detach") for _ in range(2)]
    shown = sorted(line for each in both for line in head.result(each).splitlines())
    assert shown == ["cola-tiny-1: runs already, attached", "cola-tiny-1: submitted"]
    until(lambda: [e["state"] for e in ledgers(outputs)] == ["running"], "a run that runs")
    # By name alone, from the cluster's storage.
    status = json.loads(head.cola("status", "tiny", "--json"))
    assert status["job"] == {"id": "cola-tiny-1", "status": "running"}
    assert [run["state"] for run in status["runs"]] == ["running"]
    saved = "runs/*/ray/attempt-*/step-*/manifest-00000.json"
    until(lambda: bool(list(outputs.glob(saved))), "a checkpoint")
    stopped = head.cola("stop", "tiny", "--wait")
    assert "asked to stop" in stopped
    assert "cola-tiny-1: stopped" in stopped
    logs = head.cola("logs", "tiny", code=1)
    assert "stopping: running trainings save a checkpoint and leave" in logs
    assert [entry["state"] for entry in ledgers(outputs)] == ["interrupted"]
    resumed = head.cola("resume", study)
    assert "cola-tiny-2: submitted" in resumed
    assert "resumes from its checkpoint (stopped on request)" in resumed
    assert [entry["state"] for entry in ledgers(outputs)] == ["finished"]
    page = outputs / "studies" / "tiny" / "report" / "report.html"
    assert f"report: {page}" in resumed
    here = tmp_path / "fetched"
    fetched = json.loads(head.cola("fetch", "tiny", "--to", str(here), "--json"))
    assert (fetched["from"], fetched["runs"]) == (str(outputs), {"finished": 1})
    copied = here / page.relative_to(outputs)
    assert copied.read_bytes() == page.read_bytes()
    texts = [path.read_bytes() for path in outputs.rglob("*") if path.is_file()]
    texts += [json.dumps(head.jobs()).encode(), resumed.encode()]
    for name in ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        assert not any(head.environment[name].encode() in text for text in texts), name
