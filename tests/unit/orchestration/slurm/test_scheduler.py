"""What answers of Slurm's commands mean (as release 22.05 prints them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola.errors import ClusterError
from orchestration.slurm.jobs import JobSite, described, end_of
from orchestration.slurm.record import JobRecord
from orchestration.slurm.scheduler import (
    command,
    fields_of,
    is_preempted,
    is_queued_again,
    kill_wait,
    refusal,
)

JOB = (
    "JobId=41 JobName=cola-tiny UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901758 "
    "JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 "
    "RunTime=00:00:05 TimeLimit=00:15:00 PreemptEligibleTime=2026-11-28T13:00:00 PreemptTime={} "
    "Command=(null) WorkDir=/shared/a=b"
)


def test_fields_of_a_job() -> None:
    fields = fields_of(JOB.format("None"))
    assert (fields["TimeLimit"], fields["Restarts"]) == ("00:15:00", "2")
    assert fields["WorkDir"] == "/shared/a=b"
    assert not is_preempted(fields)
    assert is_preempted(fields_of(JOB.format("2026-11-28T13:05:00")))
    assert not is_preempted({})
    assert is_queued_again(fields, "1")  # as after the loss of a node
    assert not is_queued_again(fields, "2")
    assert not is_queued_again({}, "0")


def test_a_refusal_is_one_line() -> None:
    shown = (
        "sbatch: error: invalid partition specified: gpu\n"
        "allocation failure: Invalid partition name specified\n"
    )
    assert refusal(shown) == (
        "invalid partition specified: gpu; allocation failure: Invalid partition name specified"
    )
    assert refusal("") == "failed without a message"


def test_a_machine_without_slurm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=r"squeue: no such command; call `cola` on a machine"):
        command(["squeue"])


def test_a_job_is_what_slurm_says_and_then_what_it_left(tmp_path: Path) -> None:
    queued = {"job": "41", "state": "PENDING", "reason": "Dependency"}
    (waits,) = described(JobSite(str(tmp_path)), "tiny", ["41"], queued={"41": queued})
    assert (str(waits), waits.active) == ("cola-tiny, job 41: pending (Dependency)", True)
    (gone,) = described(JobSite(str(tmp_path)), "tiny", ["41"], queued={})
    assert (gone.active, gone.succeeded, gone.state) == (False, False, "failed")
    record = JobRecord(name="tiny", kind="study", job="41")
    assert end_of(record)[0] == "ended from outside"
    assert end_of(record.model_copy(update={"state": "succeeded"})) == ("succeeded", None)


def test_how_soon_slurm_kills_is_read_from_its_configuration() -> None:
    assert kill_wait("JobRequeue              = 1\nKillWait                = 90 sec\n") == 90.0
    assert kill_wait("nothing of it") == 30.0
