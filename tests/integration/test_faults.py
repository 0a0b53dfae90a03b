"""Faults on a cluster of several nodes: what was lost comes back, and no loss differs by a bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration.state.event_log import read_events
from orchestration.state.heartbeat import read_beats
from tests.conftest import write_study
from tests.ray_nodes import RayNodes
from tests.undisturbed import losses_of, undisturbed_losses
from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=200), pytest.mark.ray, pytest.mark.deepspeed]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RayNodes]:
    with RayNodes(tmp_path) as cluster:
        yield cluster
    assert not cluster.temporary.exists()


def runs(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("runs/*"))


def states(outputs: Path) -> list[str]:
    return [json.loads((run / "ledger.json").read_text())["state"] for run in runs(outputs)]


def checkpoints(outputs: Path) -> list[str]:
    found = outputs.glob("runs/*/ray/attempt-*/step-*/manifest-00000.json")
    return sorted(path.parent.name for path in found)


def events(outputs: Path) -> list[str]:
    return [event["event"] for event in read_events(outputs / "studies" / "tiny")]


def test_nodes_come_and_go(nodes: RayNodes, tiny_study: dict[str, Any], tmp_path: Path) -> None:
    """A node added late, one killed, one drained, the head restarted: the losses stay the same."""
    tiny_study["families"] = {"ar": {}}
    tiny_study["ladder"] = [{"budget": 2e11, "core_parameters": 60_000}]
    tiny_study["checkpoint"] = {"every_seconds": 1.0}
    tiny_study["resources"] = {"workers": 1, "wait_seconds": 120}
    outputs = Path(tiny_study["output"])
    study = str(write_study(tiny_study, tmp_path))

    process = nodes.run("run", study, "--address", nodes.address)
    until(lambda: "waiting" in events(outputs), "the study to wait for a node")
    nodes.add("first")
    until(lambda: "launched" in events(outputs), "the run to find a node")
    for name in ("second", "third"):  # while the workers start
        nodes.add(name)
    until(lambda: bool(checkpoints(outputs)), "a checkpoint")

    (run,) = runs(outputs)
    nodes.kill(nodes.holding(read_beats(run)[0].pid))
    until(lambda: "workers restarted" in events(outputs), "the run on another node")
    saved = max(checkpoints(outputs))
    until(lambda: max(checkpoints(outputs)) > saved, "a checkpoint on that node")

    node = read_beats(run)[0].node_id
    nodes.ray(
        "drain-node", f"--address={nodes.address}", f"--node-id={node}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test",
        "--deadline-remaining-seconds=60",
    )  # fmt: skip
    until(lambda: events(outputs).count("workers restarted") == 2, "the run on the last node")
    drained = [e for e in read_events(outputs / "studies" / "tiny") if "repeated" in e][-1]
    assert drained["repeated"] == 0, "a notice leaves time for a checkpoint"

    nodes.stop()
    nodes.start_head()
    nodes.add("fourth")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "restarting it" in output
    assert states(outputs) == ["finished"]

    (expected,) = undisturbed_losses([run], tmp_path / "undisturbed", log_every_steps=5)
    assert losses_of(run / "journal.jsonl") == expected
