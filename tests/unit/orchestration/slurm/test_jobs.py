"""Several jobs of one name: submitted, followed and stopped together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cola.errors import SpecError
from orchestration.slurm.jobs import (
    SCRIPT,
    JobSite,
    Submitted,
    current,
    follow,
    jobs_of,
    known_jobs,
    stop,
    submit,
)
from orchestration.slurm.machine import Answer, ThisMachine, UnreachableError
from orchestration.slurm.record import JobRecord, log_file, write_job


class Controller(ThisMachine):
    """A machine whose Slurm keeps `most` jobs of this user."""

    def __init__(self, most: int = 100) -> None:
        self.most, self.states, self.number, self.silent = most, dict[str, str](), 40, 0

    def call(
        self, arguments: Sequence[str], *, given: str | None = None, seconds: float = 60.0
    ) -> Answer:
        name, *options = arguments
        if name == "squeue":
            if self.silent:
                self.silent -= 1
                raise UnreachableError("ssh=login: no answer")
            lines = [f"{job}|{state}|None" for job, state in self.states.items()]
            return Answer(0, "\n".join(lines).encode(), "")
        if name == "scancel":
            for job in (option for option in options if option.isdigit()):
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


def submitted(site: JobSite, count: int, specification: str = "seeds: [1]\n") -> Submitted:
    script = f"#!/bin/bash\n{specification}true\n"
    return submit(site, script, "tiny", specification=specification, count=count)


def numbers(found: Submitted) -> list[str]:
    return [job.job for job in found.jobs]


def test_as_many_jobs_are_added_as_are_missing(tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), Controller())
    first = submitted(site, 2)
    assert (numbers(first), first.attached, first.problem) == (["41", "42"], 0, None)
    assert "seeds: [1]" in (site.folder("tiny") / SCRIPT).read_text()
    more = submitted(site, 4)
    assert (numbers(more), more.attached) == (["41", "42", "43", "44"], 2)
    same = submitted(site, 1)
    assert (len(same.jobs), same.attached, same.other_version) == (4, 4, False)


def test_jobs_of_another_version_are_not_joined_by_more(tmp_path: Path) -> None:
    """Attaching says so; two versions of a study side by side are refused."""
    site = JobSite(str(tmp_path), Controller())
    submitted(site, 2)
    attached = submitted(site, 2, "seeds: [2]\n")
    assert (attached.attached, attached.other_version) == (2, True)
    with pytest.raises(SpecError, match=r"^--allocations 3: 2 jobs of tiny run another version"):
        submitted(site, 3, "seeds: [2]\n")
    assert "seeds: [1]" in (site.folder("tiny") / SCRIPT).read_text()


def test_a_limit_on_jobs_leaves_those_that_it_takes(tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), Controller(most=2))
    found = submitted(site, 3)
    assert numbers(found) == ["41", "42"]
    assert found.problem == "sbatch: QOSMaxSubmitJobPerUserLimit; nothing was changed"
    with pytest.raises(SpecError, match="QOSMaxSubmitJobPerUserLimit"):
        submitted(site, 3)


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
