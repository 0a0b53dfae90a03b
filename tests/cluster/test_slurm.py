"""Studies and sweeps on a real Slurm of two nodes: `make test-cluster`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.rig import Rig, missing
from tests.conftest import write_study

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
LONG = ("--set", "ladder.0.budget=2e12")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    rig = Rig()
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


@pytest.fixture
def study(rig: Rig, tiny_study: dict[str, Any]) -> str:
    """One small run whose corpus and output all nodes see."""
    text = Path(tiny_study["data"]["corpus"]["paths"][0]).read_text()
    (rig.shared / "corpus.txt").write_text(text)
    tiny_study["data"]["corpus"]["paths"] = [str(rig.shared / "corpus.txt")]
    changes = {"families": {"ar": {}}, "output": str(rig.outputs), "max_epochs": 1e5}
    return str(write_study(tiny_study | changes, rig.shared))


def test_the_cluster_is_checked(rig: Rig) -> None:
    shown = rig.run("cola", "cluster", "check", "rig")
    assert shown.count("ok ") == 5, shown
    assert "fail" not in shown


def test_a_study_finishes_and_leaves_nothing_behind(rig: Rig, study: str) -> None:
    shown = rig.run("cola", "submit", study, "--cluster", "rig")
    assert "cola-tiny, job" in shown
    assert "finished" in rig.run("cola", "status", "tiny", "--cluster", "rig")
    assert "succeeded" in rig.run("cola", "jobs", "tiny", "--cluster", "rig")
    assert rig.left_behind() == []


def test_scancel_saves_and_ends_the_study(rig: Rig, study: str) -> None:
    rig.run("cola", "submit", study, *LONG, "--set", "name=cancelled", "--cluster", "rig",
            "--detach")  # fmt: skip
    rig.wait_for("launched", "cancelled")
    job = rig.run("squeue", "--noheader", "--format=%A", "--name=cola-cancelled").strip()
    rig.run("scancel", job)
    rig.wait_for_end("cancelled")
    assert f"job {job}: cancelled; trainings save a checkpoint" in rig.log("cancelled")
    assert "stopped (cancelled)" in rig.run("cola", "jobs", "cancelled", "--cluster", "rig")
    assert rig.left_behind() == []
