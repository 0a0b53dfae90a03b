"""An elastic run on two nodes, one of which dies: it goes on with the worker that is left."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cola.data import open_prepared
from cola.spec import RunSpec
from orchestration.engine import TorchEngine
from orchestration.journal import JournalReader
from orchestration.train_loop import LoopSettings, Place, TrainState, train
from tests.conftest import write_study

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.deepspeed]
BINARIES = Path(sys.executable).parent


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@contextmanager
def node(log: Path, environment: dict[str, str], *options: str) -> Iterator[psutil.Process]:
    """A node of one core, killed with all of its processes on the way out."""
    command = [str(BINARIES / "ray"), "start", "--block", "--num-cpus=1", *options]
    command.append(f"--dashboard-agent-listen-port={free_port()}")
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            kill_tree(process.pid)
            process.wait(30)


def kill_tree(pid: int) -> None:
    """As when a machine loses its power."""
    found = psutil.Process(pid)
    for each in [*found.children(recursive=True), found]:
        if each.is_running():
            each.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], psutil.Process]]:
    """Address, environment and the second node of a cluster of two."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # a second node may join
        "RAY_USAGE_STATS_ENABLED": "0",
        "COLUMNS": "200",
        # Short, so that a dead node is seen soon.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }
    port = free_port()
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        head = (
            "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}",
            f"--temp-dir=/tmp/ray-elastic-{os.getpid()}",
        )  # fmt: skip
        stack.enter_context(node(tmp_path / "head.log", environment, *head))
        wait_for("Ray runtime started", tmp_path / "head.log")
        joining = (f"--address={address}", "--node-ip-address=127.0.0.2")
        second = stack.enter_context(node(tmp_path / "second.log", environment, *joining))
        wait_for("Ray runtime started", tmp_path / "second.log")
        yield address, environment, second


def wait_for(text: str, log: Path, seconds: int = 90) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        signal.sigtimedwait([], 0.2)


def undisturbed(run_folder: Path) -> dict[int, float]:
    """Losses by step of the same run on one process, without Ray and DeepSpeed."""
    run = RunSpec.model_validate_json((run_folder / "spec.json").read_text())
    data = open_prepared(Path(json.loads((run_folder / "data.json").read_text())["folder"]))
    found: dict[int, float] = {}

    def record(state: TrainState) -> None:
        found[state.step] = state.result.values["loss"]

    train(run, data.train, TorchEngine, LoopSettings(0), Place(), [record])
    return found


def test_a_run_goes_on_without_the_node_that_died(
    cluster: tuple[str, dict[str, str], psutil.Process], tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    address, environment, second = cluster
    tiny_study["families"] = {"ar": {}}
    tiny_study["ladder"] = [{"budget": 1.5e11, "core_parameters": 60_000}]
    tiny_study["resources"] = {"workers": 2, "min_workers": 1, "zero_stage": 2}
    outputs, study = Path(tiny_study["output"]), write_study(tiny_study, tmp_path)
    log = (tmp_path / "study.log").open("w")
    process = subprocess.Popen(
        [BINARIES / "cola", "run", study, "--address", address],
        stdout=log, stderr=subprocess.STDOUT, env=environment,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not list(outputs.glob("runs/*/ray/attempt-*/step-*/manifest-00000.json")):
            assert process.poll() is None, (tmp_path / "study.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "study.log").read_text()
            signal.sigtimedwait([], 0.2)
        kill_tree(second.pid)
        assert process.wait(240) == 0, (tmp_path / "study.log").read_text()
    finally:
        process.kill()
        process.wait(30)
        log.close()
    (journal,) = outputs.glob("runs/*/journal.jsonl")
    lines = list(JournalReader(journal).new_lines())
    starts = [line for line in lines if line.values.get("event") == "start"]
    assert [line.values["workers"] for line in starts] == [2, 1]
    assert starts[1].step > 0
    found = {line.step: line.values["train/loss"] for line in lines if line.kind == "train"}
    expected = undisturbed(journal.parent)
    assert max(found) == max(expected) > starts[1].step
    assert found == pytest.approx({step: expected[step] for step in found}, abs=1e-3)
