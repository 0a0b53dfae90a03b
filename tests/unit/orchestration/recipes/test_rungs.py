"""Jobs by rung: small runs in small short jobs, large ones in large long jobs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.cli.clusters import job_of
from orchestration.cli.destinations import SlurmDestination
from orchestration.planning.catalog import load_study
from orchestration.recipes import slurm
from orchestration.recipes.rungs import COLUMNS, table_of, unfinished_rungs
from orchestration.remote.clusters import ClusterSpec
from orchestration.remote.submission import Submission, study_submission
from orchestration.slurm.jobs import SlurmJob
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root

NODES = {"kind": "slurm", "shared": "/", "gpus_per_node": 8, "cpus_per_node": 96}


def to(allocations: int | None = None, by_rung: bool = True, **keys: Any) -> SlurmDestination:
    return SlurmDestination(ClusterSpec.parse(NODES | keys), allocations, by_rung)


@pytest.fixture(scope="module")
def ladder() -> Submission:
    """Three entries of eight rungs, the lower four on 2 GPUs and the upper ones on 64."""
    larger = "[{core_parameters: 400000000, workers: 64}]"
    changes = [
        "output=/none",
        "resources.workers=2",
        "resources.mfu=0.4",
        f"resources.larger={larger}",
    ]
    return study_submission(load_study("paper-ladder", changes))


def shapes(destination: SlurmDestination, work: Submission) -> dict[str, tuple[int, str]]:
    """By rungs: the number of jobs, and nodes, GPUs and limit of each by its script."""
    found = {}
    for jobs in destination.jobs_by_rung(work, ()):
        text = slurm.text(jobs.request)
        assert f"    --rungs {jobs.rungs} \\\n" in text
        assert "singleton" not in text
        lines = [line for line in text.splitlines() if line.startswith("#SBATCH --")]
        values = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines)
        own = f"{values['nodes']} x {values['gpus-per-node']}, {values['time']}"
        found[jobs.rungs] = (jobs.count, own)
    return found


def test_each_size_of_run_has_a_job_of_its_own(ladder: Submission) -> None:
    assert shapes(to(), ladder) == {
        "0": (1, "1 x 2, 3:00:00"),
        "1": (1, "1 x 2, 7:00:00"),
        "2": (1, "1 x 2, 21:00:00"),
        "3": (1, "1 x 2, 48:00:00"),
        "4": (1, "8 x 8, 7:00:00"),
        "5": (1, "8 x 8, 20:00:00"),
        "6": (1, "8 x 8, 48:00:00"),
        "7": (1, "8 x 8, 48:00:00"),
    }


def test_nodes_and_time_of_the_cluster_are_the_most_of_any_job(ladder: Submission) -> None:
    """Runs that are longer than its limit share jobs, and are named with their starts."""
    destination = to(time="12:00:00", nodes=8)
    found = shapes(destination, ladder)
    assert found["0"] == (1, "1 x 2, 3:00:00")
    assert found["6-7"] == (1, "8 x 8, 12:00:00")
    assert shapes(to(time="7-00:00:00"), ladder)["7"] == (1, "8 x 8, 132:00:00"), "1.5 x 87.8 hours"
    notes = destination.notes_by_rung(ladder, ())
    assert any("cola-2e+21-seed66: 42.9 hours by the plan" in note for note in notes)
    with pytest.raises(SpecError, match=r"--nodes 4: a run of resources.workers=64 needs 8 nodes"):
        to(nodes=4).jobs_by_rung(ladder, ())


def test_fewer_jobs_than_sizes_put_together_what_wastes_least(ladder: Submission) -> None:
    """Small runs are not given the nodes of large ones before there is nothing else."""
    assert set(shapes(to(3), ladder)) == {"0-3", "4-6", "7"}
    assert shapes(to(2), ladder) == {
        "0-3": (1, "1 x 2, 48:00:00"),
        "4-7": (1, "8 x 8, 48:00:00"),
    }


def test_more_jobs_than_sizes_go_where_there_is_most_to_do(ladder: Submission) -> None:
    counts = {rungs: count for rungs, (count, _) in shapes(to(12), ladder).items()}
    assert sum(counts.values()) == 12
    assert (counts["7"], counts["6"], counts["0"]) == (3, 3, 1)
    assert sum(count for count, _ in shapes(to(100), ladder).values()) == len(ladder.runs) == 24


def test_the_table_says_what_is_submitted(ladder: Submission) -> None:
    header, first, *_, last = table_of(to(12).jobs_by_rung(ladder, ()))
    assert re.split("  +", header) == list(COLUMNS)
    assert first.split()[:5] == ["0", "1", "3", "1", "2"]
    assert last.split()[:5] == ["7", "3", "3", "8", "64"]
    assert float(last.split()[5]) == pytest.approx(87.8 / 3, rel=0.01)


def test_rungs_that_jobs_have_need_no_more(ladder: Submission) -> None:
    def running(rungs: str | None) -> SlurmJob:
        return SlurmJob(output_root(ladder.study), "x", "1", "running", None, True, rungs)

    found = to().jobs_by_rung(ladder, [running("0-3"), running("7")])
    assert [each.rungs for each in found] == ["4", "5", "6"]
    assert to().jobs_by_rung(ladder, [running(None)]) == []
    (note,) = to().notes_by_rung(ladder, [running(None)])
    assert note == "all rungs of paper-ladder are taken by the 1 jobs that are there"


def test_runs_at_a_time_are_shared_out_among_all_jobs(tiny_study: dict[str, Any]) -> None:
    larger = [{"core_parameters": 100_000, "workers": 4}]
    study = StudySpec.parse(tiny_study | {
        "families": {"ar": {}},
        "seeds": [0, 1, 2],
        "ladder": [{"budget": 2e10, "core_parameters": 60_000},
                   {"budget": 8e10, "core_parameters": 120_000}],
        "resources": {"concurrent_runs": 4, "larger": larger},
    })  # fmt: skip
    work = study_submission(study)
    small, large = to().jobs_by_rung(work, ())
    assert [each.request.groups[0].cpus for each in (small, large)] == [1, 4]
    text = slurm.text(large.request)
    assert "concurrent_runs: 2\n" in text
    assert "#SBATCH --nodes=1-2\n" in text
    with pytest.raises(SpecError, match=r"--allocations 5: resources.concurrent_runs=4 lets fewer"):
        to(5).jobs_by_rung(work, ())
    limited = replace(work, study=study.model_copy(update={
        "resources": study.resources.model_copy(update={"concurrent_runs": 1})}))  # fmt: skip
    assert to().why_one_size(limited) == "one run trains at a time"
    # A rung whose runs are finished needs no job.
    ledger = Ledger(output_root(study))
    for run in work.runs:
        if run.rung == 0:
            ledger.acquire(run.key)
            ledger.close(run.key, "finished")
    assert unfinished_rungs(work) == {1}
    assert to().why_one_size(work) == "all runs that are not finished fit jobs of one size"


def three_rungs(tiny_study: dict[str, Any], **resources: Any) -> Submission:
    """One run at each of three rungs."""
    ladder = [{"budget": 2e10 * 2**rung, "core_parameters": 60_000 * 2**rung} for rung in range(3)]
    changes = {"families": {"ar": {}}, "seeds": [0], "ladder": ladder, "resources": resources}
    return study_submission(StudySpec.parse(tiny_study | changes))


def test_jobs_that_are_there_leave_fewer_runs_at_a_time(tiny_study: dict[str, Any]) -> None:
    larger = [
        {"core_parameters": 100_000, "workers": 2},
        {"core_parameters": 200_000, "workers": 4},
    ]
    work = three_rungs(tiny_study, concurrent_runs=2, larger=larger)

    def running(job: str, rungs: str) -> SlurmJob:
        return SlurmJob(output_root(work.study), "tiny", job, "running", None, True, rungs)

    (only,) = to().jobs_by_rung(work, [running("1", "2")])
    assert (only.rungs, only.count, only.request.work.study.resources.concurrent_runs) == (
        "0-1", 1, 1,
    )  # fmt: skip
    with pytest.raises(SpecError, match=r"^resources\.concurrent_runs=2: 2 jobs of tiny wait or "
                       r"run, which leaves none for rungs 0; submit it again"):  # fmt: skip
        to().jobs_by_rung(work, [running("1", "2"), running("2", "1")])


def test_sizes_are_put_together_by_their_labels(tiny_study: dict[str, Any]) -> None:
    """Nodes of other labels between two sizes keep neither apart."""
    larger = [
        {"core_parameters": 100_000, "workers": 2, "labels": {"chip": "b"}},
        {"core_parameters": 200_000, "workers": 4, "labels": {"chip": "a"}},
    ]
    keys = {"labels": {"chip": "a"}, "larger": larger}
    work = three_rungs(tiny_study, **keys)
    assert [each.rungs for each in to().jobs_by_rung(work, ())] == ["0", "1", "2"]
    assert [each.rungs for each in to(2).jobs_by_rung(work, ())] == ["1", "0,2"]
    few = r"leaves 1 jobs for rungs that ask for nodes of 2 different labels \(resources\.larger\)"
    with pytest.raises(SpecError, match=rf"^--allocations 1: {few}.*; allow 1 more$"):
        to(1).jobs_by_rung(work, ())
    with pytest.raises(SpecError, match=rf"^allocations=1: {few}"):
        SlurmDestination(ClusterSpec.parse(NODES | {"allocations": 1})).jobs_by_rung(work, ())
    limited = three_rungs(tiny_study, concurrent_runs=1, **keys)
    with pytest.raises(SpecError, match=rf"^resources\.concurrent_runs=1: {few}"):
        to().jobs_by_rung(limited, ())


def test_rungs_of_a_recipe_may_be_written_in_any_way(ladder: Submission) -> None:
    work, cluster = job_of(to(2), ladder, "0-3")
    assert work.rungs == {0, 1, 2, 3}
    again, same = job_of(to(2), ladder, "0,1, 3,2")
    assert (again.rungs, same) == (work.rungs, cluster)
    with pytest.raises(SpecError, match=r"^--rungs 0-2: .* print one with --rungs 0-3 or --rungs"):
        job_of(to(2), ladder, "0-2")


def test_where_all_runs_fit_one_size_nothing_changes(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"seeds": [0, 1]})
    work = study_submission(study)
    same = to(2, by_rung=False).request(work)
    assert to(2).request(work) == same
    (note, *_) = to(2).notes(work)
    assert note == "jobs are of one size: all runs that are not finished fit jobs of one size"
    assert slurm.text(same[0]).count("--rungs") == 0
    with pytest.raises(SpecError, match="--by-rung: is for several jobs, and --allocations 1"):
        to(1).notes(work)
    with pytest.raises(SpecError, match="--by-rung: is for studies, and tiny is a sweep"):
        to().notes(replace(work, kind="sweep"))


def test_steps_that_jobs_share_are_named(tiny_study: dict[str, Any]) -> None:
    """Points of a trajectory share its stable phase: one job for all of them trains that once."""
    del tiny_study["ladder"]
    study = StudySpec.parse(tiny_study | {
        "families": {"ar": {}},
        "training": tiny_study["training"] | {"schedule": {"kind": "wsd"}},
        "design": {"kind": "trajectory", "core_parameters": 60_000, "budgets": [2e10, 8e10]},
    })  # fmt: skip
    work = study_submission(study)
    hours = {run.name: 3600.0 * (1 + 9 * run.rung) for run in work.runs}
    slow = replace(work, seconds=lambda: sum(hours.values()), run_seconds=lambda: hours)
    *_, note = to().notes_by_rung(slow, ())
    assert note.startswith("1 runs share their first steps with a run of other jobs: those that")
