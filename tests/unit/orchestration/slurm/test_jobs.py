"""Several jobs of one name: submitted, followed and stopped together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cola.errors import SpecError, StorageError
from orchestration.cli.destinations import current
from orchestration.slurm.batch import Batch, Script
from orchestration.slurm.jobs import (
    JobSite,
    Submitted,
    follow,
    jobs_of,
    known_jobs,
    rungs_taken,
    stop,
    submit,
)
from orchestration.slurm.machine import Answer, Given, ThisMachine, UnreachableError
from orchestration.slurm.record import JobRecord, log_file, submission_file, write_job


class Controller(ThisMachine):
    """A machine whose Slurm keeps `most` jobs of this user."""

    def __init__(self, most: int = 100) -> None:
        self.most, self.states, self.number, self.silent = most, dict[str, str](), 40, 0
        self.gone: set[str] = set()  # jobs that end by themselves before they are stopped

    def call(
        self, arguments: Sequence[str], *, given: Given = None, seconds: float = 60.0
    ) -> Answer:
        name, *options = arguments
        if name == "squeue":
            if self.silent:
                self.silent -= 1
                raise UnreachableError("ssh=login: no answer")
            lines = [f"{job}|{state}|None" for job, state in self.states.items()]
            return Answer(0, "\n".join(lines).encode(), "")
        if name == "scancel":
            (job,) = (option for option in options if option.isdigit())
            if job in self.gone:
                self.states.pop(job, None)
            if job not in self.states:
                return Answer(1, b"", "scancel: error: Invalid job id specified\n")
            assert (self.states.pop(job) == "RUNNING") == ("--signal=USR2" in options)
            return Answer(0, b"", "")
        assert name == "sbatch"
        if "--test-only" in options:
            return Answer(0, b"", "")
        if len(self.states) == self.most:
            return Answer(1, b"", "sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
        self.number += 1
        self.states[str(self.number)] = "PENDING"
        return Answer(0, f"{self.number}\n".encode(), "")


def submitted(
    site: JobSite, count: int, version: str = "1", *, share: int = 2, insists: bool = True
) -> Submitted:
    specification = f"concurrent_runs: {share}\n"
    script = f"#!/bin/bash\n{specification}true\n"
    scripts = [Script(script, count)]
    return submit(site, Batch("tiny", scripts, specification, version, insists=insists))


def numbers(found: Submitted) -> list[str]:
    return [job.job for job in found.jobs]


def test_as_many_jobs_are_added_as_are_missing(tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), Controller())
    first = submitted(site, 2)
    assert (numbers(first), first.attached, first.problem) == (["41", "42"], 0, None)
    assert "concurrent_runs: 2" in (site.folder("tiny") / "job.sh").read_text()
    more = submitted(site, 4)
    assert (numbers(more), more.attached) == (["41", "42", "43", "44"], 2)
    same = submitted(site, 1)
    assert (len(same.jobs), same.attached, same.other) == (4, 4, None)


def test_jobs_of_another_version_are_not_joined_by_more(tmp_path: Path) -> None:
    """Attaching says so; two versions of a study side by side are refused."""
    site = JobSite(str(tmp_path), Controller())
    submitted(site, 2)
    attached = submitted(site, 2, "2")
    assert (attached.attached, attached.other) == (2, "another version of it")
    with pytest.raises(SpecError, match=r"^--allocations 3: 2 jobs of tiny run another version"):
        submitted(site, 3, "2")
    # A cluster's own number of jobs is no wish that has to be met.
    attached = submitted(site, 3, "2", insists=False)
    assert (numbers(attached), attached.other is None) == (["41", "42"], False)
    assert '"version": "1"' in submission_file(site.folder("tiny")).read_text()


def test_jobs_that_share_out_concurrent_runs_get_no_more_beside_them(tmp_path: Path) -> None:
    """Of the same version all the same: two jobs of two runs each, and none of one."""
    site = JobSite(str(tmp_path), Controller())
    submitted(site, 2)
    with pytest.raises(SpecError, match=r"their shares of resources\.concurrent_runs; `cola stop`"):
        submitted(site, 4, share=1)
    found = submitted(site, 4, share=1, insists=False)
    assert (numbers(found), found.other) == (["41", "42"], None)
    assert "for more" in (found.problem or "")
    alone = submitted(site, 1, share=4)
    assert (alone.attached, alone.other) == (2, None)


def test_a_limit_on_jobs_leaves_those_that_it_takes(tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), Controller(most=2))
    found = submitted(site, 3)
    assert numbers(found) == ["41", "42"]
    assert found.problem == "sbatch: QOSMaxSubmitJobPerUserLimit; nothing was changed"
    with pytest.raises(SpecError, match="QOSMaxSubmitJobPerUserLimit"):
        submitted(site, 3)


def by_rung(site: JobSite, *scripts: tuple[str, int], version: str = "1") -> Submitted:
    jobs = [Script(f"#!/bin/bash\n# {rungs}\n", count, rungs) for rungs, count in scripts]
    return submit(site, Batch("tiny", jobs, "", version, insists=True))


def test_jobs_by_rung_are_added_for_rungs_that_none_takes(tmp_path: Path) -> None:
    slurm = Controller()
    site = JobSite(str(tmp_path), slurm)
    first = by_rung(site, ("0-2", 1), ("3", 2))
    assert [(job.job, job.rungs) for job in first.jobs] == [("41", "0-2"), ("42", "3"), ("43", "3")]
    assert (site.folder("tiny") / "job-rungs-0-2.sh").read_text() == "#!/bin/bash\n# 0-2\n"
    assert str(first.jobs[0]) == "cola-tiny, job 41, rungs 0-2: pending"
    assert rungs_taken(first.jobs) == {0, 1, 2, 3}
    del slurm.states["41"]
    assert rungs_taken(jobs_of(site, "tiny")) == {3}
    again = by_rung(site, ("0-1", 1), ("3", 2))
    assert (numbers(again), again.attached) == (["42", "43", "44"], 2)
    assert [job.rungs for job in again.jobs] == ["3", "3", "0-1"]
    with pytest.raises(SpecError, match="3 jobs of tiny run another version"):
        by_rung(site, ("4", 1), version="2")


def test_a_job_that_takes_all_rungs_leaves_none_for_others(tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), Controller())
    submitted(site, 1)
    assert rungs_taken(jobs_of(site, "tiny")) is None
    found = by_rung(site, ("0", 1), ("1", 1))
    assert (numbers(found), found.attached) == (["41"], 1)


def test_a_damaged_record_of_a_submission_is_named(tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), Controller())
    submitted(site, 1)
    submission_file(site.folder("tiny")).write_text('{"version": 1}')
    with pytest.raises(StorageError, match=r"submission\.json: is not record of a submission that"):
        jobs_of(site, "tiny")


def test_a_shared_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"shared=.*/no: is no folder on this machine; name one"):
        submitted(JobSite(str(tmp_path / "no"), Controller()), 1)


def test_all_present_jobs_are_stopped_each_as_its_state_asks(tmp_path: Path) -> None:
    slurm = Controller()
    site = JobSite(str(tmp_path), slurm)
    submitted(site, 3)
    slurm.states["41"] = slurm.states["43"] = "RUNNING"
    assert [job.job for job in current(known_jobs(site, "tiny"))] == ["41", "42", "43"]
    assert not any(job.active for job in stop(site, current(known_jobs(site, "tiny")), 10.0))
    assert slurm.states == {}


def test_a_job_that_has_ended_meanwhile_does_not_keep_the_others_from_being_stopped(
    tmp_path: Path,
) -> None:
    slurm = Controller()
    site = JobSite(str(tmp_path), slurm)
    submitted(site, 4)
    slurm.states["42"] = slurm.states["43"] = "RUNNING"
    jobs = known_jobs(site, "tiny")
    slurm.gone = {"41", "42"}
    assert not any(job.active for job in stop(site, jobs, 10.0))
    assert slurm.states == {}


def test_output_of_several_jobs_is_followed_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that does not answer for a moment loses nothing."""
    slurm = Controller()
    site = JobSite(str(tmp_path), slurm)
    jobs = submitted(site, 2).jobs
    folder = site.folder("tiny")

    def goes_on(seconds: float) -> None:
        if slurm.silent == 0 and slurm.states:
            with log_file(folder, "tiny", "41").open("a") as file:
                file.write(" and its end\nlast")
            log_file(folder, "tiny", "42").write_text("of 42\n")
            slurm.states.clear()

    monkeypatch.setattr("orchestration.slurm.jobs.time.sleep", goes_on)
    log_file(folder, "tiny", "41").write_text("whole\nbegun")
    for job in jobs:
        write_job(folder, JobRecord(name="tiny", kind="study", job=job.job, state="succeeded"))
    slurm.silent = 3
    assert "".join(follow(site, jobs)).splitlines() == [
        "41: whole", "41: begun and its end", "41: last", "42: of 42",
    ]  # fmt: skip
    assert [str(job) for job in jobs_of(site, "tiny")] == [
        f"cola-tiny, job {number}: succeeded" for number in (41, 42)
    ]
    slurm.silent = 10**6
    with pytest.raises(UnreachableError):
        list(follow(site, jobs))
