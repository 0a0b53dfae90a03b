"""Jobs on a real Slurm of this one machine: what its commands say is what `cola` reads of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cola.errors import SpecError
from orchestration.slurm import scheduler
from orchestration.slurm.batch import Batch, Script
from orchestration.slurm.checks import check_within_partition
from orchestration.slurm.jobs import JobSite, jobs_of, rungs_taken, stop, submit
from orchestration.slurm.machine import HERE
from orchestration.slurm.ports import free_ports
from tests.waiting import until

ABSENT = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} not installed (apt-get install slurm-wlm)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd takes jobs as root alone"),
]
# No control groups, no credentials: one machine, one user, for seconds.
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctl.pid
SlurmdPidFile={folder}/d.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 NodeHostname={host} Sockets=1 CoresPerSocket=2 ThreadsPerCore=1
PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the node of a running Slurm; its commands find it."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "shared"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(host=host, folder=folder, ports=free_ports("127.0.0.1", 2))
    (folder / "slurm.conf").write_text(text)
    # Not asked for what this machine may not have.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        for command in (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", host]):
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        state = ["sinfo", "--noheader", "--format=%T"]
        until(lambda: HERE.call(state).output.strip() == b"idle", "the node of Slurm", 30)
        yield folder / "shared"


def script(rungs: str | None, cores: int, body: str) -> Script:
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=cola-tiny",
        f"#SBATCH --cpus-per-task={cores}",
        "#SBATCH --time=5",
        "#SBATCH --output=cola-tiny-%j.log",
        body,
    ]
    return Script("\n".join(lines) + "\n", 1, rungs)


def test_jobs_by_rung_are_submitted_listed_and_stopped(shared: Path) -> None:
    """A small one starts beside another; a large one waits for its node."""
    site = JobSite(str(shared))
    # It does not hear a request to stop at first, as a job that is starting.
    waits = "trap '' USR2; sleep 8; trap 'exit 0' USR2; while true; do sleep 0.1; done"
    scripts = [script("0-1", 1, waits), script("2", 2, waits)]
    batch = Batch("tiny", scripts, "", "1")
    small, large = submit(site, batch).jobs
    until(lambda: [job.state for job in jobs_of(site, "tiny")] == ["running", "pending"], "it", 20)
    assert [job.rungs for job in jobs_of(site, "tiny")] == ["0-1", "2"]
    assert rungs_taken(jobs_of(site, "tiny")) == {0, 1, 2}
    assert submit(site, batch).attached == 2
    assert [str(job) for job in jobs_of(site, "tiny")] == [
        f"cola-tiny, job {small.job}, rungs 0-1: running",
        f"cola-tiny, job {large.job}, rungs 2: pending (Resources)",
    ]
    ended = stop(site, jobs_of(site, "tiny"), 60.0)
    assert not any(job.active for job in ended)
    assert scheduler.queued_jobs("cola-tiny") == []


def test_what_slurm_refuses_is_one_line_and_nothing_is_submitted(shared: Path) -> None:
    site = JobSite(str(shared))
    too_large = script("3", 64, "true")
    with pytest.raises(SpecError, match=r"^sbatch: .*configuration is not available; nothing was"):
        submit(site, Batch("large", [script("0", 1, "true"), too_large], "", "1"))
    assert jobs_of(site, "large") == []
    assert "partition all, up to 60 minutes" in check_within_partition("1:00:00", None, HERE)
    with pytest.raises(SpecError, match=r"^partition=no: unknown; the cluster has all$"):
        check_within_partition(None, "no", HERE)
    with pytest.raises(SpecError, match="time=2:00:00: partition all allows 60 minutes"):
        check_within_partition("2:00:00", None, HERE)
