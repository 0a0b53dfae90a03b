"""Several jobs of one study on a real Slurm."""

from __future__ import annotations

import json

import pytest

from tests.cluster.rig import JOB_SECONDS, Rig, missing
from tests.cluster.test_slurm import rig, study  # noqa: F401 (fixtures)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("rig"),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


def test_jobs_side_by_side_train_each_run_once(
    rig: Rig,  # noqa: F811
    study: str,  # noqa: F811
) -> None:
    """Two jobs of one study: no run twice, whoever takes which; both end well."""
    two = ("--set", "seeds=[0, 1]", "--set", "name=shared", "--allocations", "2")
    shown = rig.run("cola", "submit", study, *two, "--cluster", "rig")
    assert shown.count(": submitted") == 2
    assert rig.log("shared").count(": launched") == 2
    assert rig.run("cola", "jobs", "shared", "--cluster", "rig").count("succeeded") == 2
    assert rig.run("cola", "status", "shared", "--cluster", "rig").count("finished") == 2


def test_small_rungs_run_on_a_node_beside_a_job_of_two(
    rig: Rig,  # noqa: F811
    study: str,  # noqa: F811
) -> None:
    """Each job takes the runs of its rungs alone; the last one writes the report."""
    ladder = "[{budget: 2e10, core_parameters: 60000}, {budget: 8e10, core_parameters: 120000}]"
    larger = "[{core_parameters: 100000, workers: 2}]"
    by_rung = (
        *("--set", "name=rungs", "--set", f"ladder={ladder}"),
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
