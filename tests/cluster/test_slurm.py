"""Studies and sweeps on a real Slurm of two nodes: `make test-cluster`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.slurm.times import TEARDOWN_SECONDS
from orchestration.state.event_log import read_events
from orchestration.state.heartbeat import read_beats
from tests.cluster.rig import JOB_SECONDS, Rig, missing
from tests.conftest import write_study

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
LONG = ("--set", "ladder.0.budget=8e12")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    rig = Rig()
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


@pytest.fixture(autouse=True)
def no_jobs_after(rig: Rig) -> Iterator[None]:
    """A test's jobs end with it, so that one that fails leaves the nodes to the others."""
    yield
    rig.cancel_all()


def on_shared(rig: Rig, study: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One small run whose corpus and output all nodes see."""
    text = Path(study["data"]["corpus"]["paths"][0]).read_text()
    (rig.shared / "corpus.txt").write_text(text)
    study["data"]["corpus"]["paths"] = [str(rig.shared / "corpus.txt")]
    changes = {"families": {"ar": {}}, "output": str(folder / "outputs"), "max_epochs": 1e5}
    return study | changes


@pytest.fixture
def study(rig: Rig, tiny_study: dict[str, Any]) -> str:
    """Its file."""
    return str(write_study(on_shared(rig, tiny_study, rig.shared), rig.shared))


@pytest.fixture
def sweep(rig: Rig, tiny_study: dict[str, Any]) -> str:
    """A sweep of two trials, each of which takes a whole node."""
    base = on_shared(rig, tiny_study, rig.shared)
    del base["name"]
    base["resources"] = {"cpus_per_worker": 2}
    # Long enough that they still train when Slurm notices a lost node (SlurmdTimeout in `up`).
    base["ladder"] = [{"budget": 4.0e11, "core_parameters": 60_000}]
    space = {"training.optimizer.learning_rate": [1e-3, 2e-3]}
    values = {"name": "rates", "study": base, "space": space, "algorithm": {"kind": "grid"}}
    path = rig.shared / "rates.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


def started(rig: Rig, name: str, things: str = "studies") -> list[dict[str, Any]]:
    """The starts of a study's or sweep's workers, first to last."""
    found = read_events(rig.outputs / things / name)
    return [event for event in found if event["event"] == "workers started"]


def test_the_cluster_is_checked(rig: Rig) -> None:
    shown = rig.run("cola", "cluster", "check", "rig")
    assert shown.count("ok ") == 5, shown
    assert "fail" not in shown


def test_a_run_trains_over_two_nodes_and_leaves_nothing_behind(rig: Rig, study: str) -> None:
    two = ("--set", "resources.workers=2", "--set", "resources.cpus_per_worker=2")
    shown = rig.run("cola", "submit", study, *two, "--cluster", "rig")
    assert "cola-tiny, job" in shown
    assert " on n1, n2" in shown
    assert "finished" in rig.run("cola", "status", "tiny", "--cluster", "rig")
    assert "succeeded" in rig.run("cola", "jobs", "tiny", "--cluster", "rig")
    (run,) = (rig.outputs / "runs").iterdir()
    assert sorted(beat.host for beat in read_beats(run)) == ["n1", "n2"]  # ranks go to either
    assert rig.left_behind() == []


def test_a_job_returns_after_its_warning_and_after_a_lost_node(rig: Rig, study: str) -> None:
    """The warning before the limit, then its node's loss, then `cola stop`: one job all along."""
    rig.run("cola", "submit", study, *LONG, "--set", "name=limited", "--cluster", "short",
            "--detach")  # fmt: skip
    rig.wait_for("the time limit is near; trainings save a checkpoint and leave", "limited")
    rig.wait_for("queued again (the time limit is near)", "limited", 60)
    rig.start_now("limited")
    rig.until(lambda: len(started(rig, "limited")) == 2, "the return", "limited")
    first, second = started(rig, "limited")
    assert (first["step"], second["repeated"]) == (0, 0)
    assert second["step"] > 0  # it resumes at the step that was saved
    (job,) = rig.jobs("limited")
    lost = int(job.split()[1].removeprefix("n"))
    rig.lose(lost)
    rig.start_now("limited")
    rig.until(lambda: len(started(rig, "limited")) == 3, "the return elsewhere", "limited")
    assert started(rig, "limited")[2]["step"] >= second["step"]
    (job,) = rig.jobs("limited")
    assert job.split()[1] == f"n{3 - lost}"
    shown = rig.run("cola", "stop", "limited", "--cluster", "short", "--wait")
    assert "stopped (asked to stop)" in shown
    assert rig.jobs("limited") == []  # it does not return
    seconds = rig.teardown_seconds("limited")
    assert len(seconds) == 2
    assert max(seconds) < TEARDOWN_SECONDS
    rig.bring_back(lost)


def test_scancel_saves_and_ends_the_study(rig: Rig, study: str) -> None:
    rig.run("cola", "submit", study, *LONG, "--set", "name=cancelled", "--cluster", "rig",
            "--detach")  # fmt: skip
    rig.until(lambda: bool(started(rig, "cancelled")), "the training", "cancelled")
    job = rig.run("squeue", "--noheader", "--format=%A", "--name=cola-cancelled").strip()
    rig.run("scancel", job)
    rig.wait_for_end("cancelled")
    assert f"job {job}: cancelled; trainings save a checkpoint" in rig.log("cancelled")
    assert "stopped (cancelled)" in rig.run("cola", "jobs", "cancelled", "--cluster", "rig")
    assert rig.left_behind() == []


def test_two_users_jobs_share_a_node(rig: Rig, study: str, tiny_study: dict[str, Any]) -> None:
    """Each has a Ray of its own, and neither meets the other's."""
    own = on_shared(rig, tiny_study, rig.other_shared) | {"name": "theirs"}
    theirs = str(write_study(own, rig.other_shared))
    rig.run("scontrol", "update", "nodename=n2", "state=drain", "reason=one node")
    try:
        shorter = ("--set", "ladder.0.budget=4e10")
        rig.run("cola", "submit", study, *shorter, "--set", "name=mine", "--cluster", "rig",
                "--detach")  # fmt: skip
        rig.as_other_user("cola", "submit", theirs, "--cluster", "rig", "--detach")
        rig.until(
            lambda: [job.split()[:2] for job in rig.jobs("mine") + rig.jobs("theirs")]
            == [["RUNNING", "n1"]] * 2,
            "both jobs at once", "theirs", 60,
        )  # fmt: skip
        rig.wait_for_end("theirs")
        rig.wait_for_end("mine")
    finally:
        rig.run("scontrol", "update", "nodename=n2", "state=resume")
    assert "succeeded" in rig.run("cola", "jobs", "mine", "--cluster", "rig")
    assert "succeeded" in rig.as_other_user("cola", "jobs", "theirs", "--cluster", "rig")
    assert rig.left_behind() == []


def test_a_sweep_is_stopped_resumed_and_survives_a_host(rig: Rig, sweep: str) -> None:
    """Trials on both nodes; the second one is lost while they train, and the first goes on; then
    the sweep's driver is killed there."""
    rig.run("cola", "submit", sweep, "--cluster", "pair", "--detach")
    rig.until(lambda: len(started(rig, "rates", "sweeps")) >= 2, "two trials", "rates")
    shown = rig.run("cola", "stop", "rates", "--cluster", "pair", "--wait")
    assert "stopped (asked to stop)" in shown
    resumed = rig.run("cola", "resume", sweep, "--cluster", "pair", "--detach")
    assert "submitted" in resumed
    rig.until(lambda: len(started(rig, "rates", "sweeps")) >= 4, "the resumed trials", "rates")
    (job,) = rig.jobs("rates")
    assert job.split()[1] == "n1"
    rig.lose(2)
    rig.start_now("rates")
    rig.wait_for("start 2", "rates")  # the first start is seen for a while after its end
    before = len(started(rig, "rates", "sweeps"))
    rig.until(lambda: len(started(rig, "rates", "sweeps")) > before, "a trial again", "rates")
    rig.kill_driver(1)
    followed = rig.run("cola", "logs", "rates", "--cluster", "pair", seconds=2 * JOB_SECONDS)
    assert "start 2" in followed
    assert "restarting it (1 of 3)" in followed
    assert "2 finished" in followed
    rig.bring_back(2)
    status = json.loads(rig.run("cola", "sweep", "status", sweep, "--json"))
    assert [trial["state"] for trial in status["trials"]] == ["finished"] * 2
    steps = [event["step"] for event in started(rig, "rates", "sweeps")]
    assert sum(step > 0 for step in steps) >= 2  # resumed, not begun again
    rig.remove_abandoned(2)
    assert rig.left_behind() == []


def test_jobs_side_by_side_train_each_run_once(rig: Rig, study: str) -> None:
    """Two jobs of one study: no run twice, whoever takes which; both end well."""
    two = ("--set", "seeds=[0, 1]", "--set", "name=shared", "--allocations", "2")
    shown = rig.run("cola", "submit", study, *two, "--cluster", "rig")
    assert shown.count(": submitted") == 2
    assert rig.log("shared").count(": launched") == 2
    assert rig.run("cola", "jobs", "shared", "--cluster", "rig").count("succeeded") == 2
    assert rig.run("cola", "status", "shared", "--cluster", "rig").count("finished") == 2


def test_small_rungs_run_on_a_node_beside_a_job_of_two(rig: Rig, study: str) -> None:
    """Each job takes the runs of its rungs alone; the last one writes the report."""
    ladder = "[{budget: 2e10, core_parameters: 60000}, {budget: 8e10, core_parameters: 120000}]"
    larger = "[{core_parameters: 100000, workers: 2}]"
    by_rung = (
        *("--set", "name=rungs", "--set", "seeds=[2]", "--set", f"ladder={ladder}"),
        *("--set", "resources.cpus_per_worker=2", "--set", f"resources.larger={larger}"),
        "--by-rung",
    )
    shown = rig.run("cola", "submit", study, *by_rung, "--cluster", "rig", seconds=2 * JOB_SECONDS)
    assert "rungs 0: submitted" in shown
    assert "rungs 1: submitted" in shown
    assert rig.log("rungs").count(": launched") == 2
    jobs = rig.run("cola", "jobs", "rungs", "--cluster", "rig").splitlines()
    assert [line.partition(", ")[2].partition(", ")[2] for line in jobs] == [
        "rungs 0: succeeded", "rungs 1: succeeded",
    ]  # fmt: skip
    records = sorted(rig.shared.glob("cola-jobs/rungs/cola-rungs-*.json"))
    nodes = [json.loads(path.read_text())["nodes"] for path in records]
    assert [len(names) for names in nodes] == [1, 2]
    assert (rig.outputs / "studies/rungs/report/report.html").exists()
