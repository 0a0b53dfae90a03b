"""Jobs of Slurm by the name of their study or sweep: submit, list, follow, stop.

Everything of a name lies in one folder of the cluster's shared storage, `cola-jobs/NAME`: the
script, the specification, and a log and a record for every job.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cola.errors import ClusterError, SpecError
from cola.files import file_lock, storage_errors, write_atomically
from orchestration.slurm import scheduler
from orchestration.slurm.record import JobRecord, log_file, read_job

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0  # chosen: every question costs the controller some work
FOLDER = "cola-jobs"
SCRIPT = "job.sh"
ON_STORAGE = "check the folder that `shared` names, its permissions and its disk"
LOG_NAME = re.compile(r"-(\d+)\.log")


@dataclass(frozen=True)
class SlurmJob:
    """A job: `state` is Slurm's while it waits or runs, then that of its record."""

    folder: Path
    name: str
    job: str
    state: str
    reason: str | None
    active: bool

    @property
    def succeeded(self) -> bool:
        """Whether it has finished its study or sweep."""
        return self.state == "succeeded"

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"cola-{self.name}, job {self.job}: {self.state}{reason}"


def job_folder(shared: str, name: str) -> Path:
    """Where the jobs of a study or sweep have their files."""
    return Path(shared) / FOLDER / name


def submit(script: str, name: str, shared: str) -> tuple[SlurmJob, bool]:
    """The job of this name, and whether it was there before (this call attached to it).

    Raises:
        SpecError: Slurm refuses what the script asks for; nothing is submitted.
        StorageError: the shared folder cannot be written.
        ClusterError: Slurm does not answer.
    """
    folder = job_folder(shared, name)
    with storage_errors(folder, remedy=ON_STORAGE):
        if not Path(shared).is_dir():
            raise SpecError(f"shared={shared}: is no folder on this machine; name one that it has")
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / "submit.lock"):
            active = [job for job in jobs_of(name, shared) if job.active]
            if active:
                return active[-1], True
            scheduler.send_batch(script, str(folder), test=True)
            write_atomically(folder / SCRIPT, script)
            number = scheduler.send_batch(script, str(folder))
    log.info("cola-%s: job %s", name, number)
    return known_jobs(name, shared)[-1], False


def jobs_of(name: str, shared: str) -> list[SlurmJob]:
    """All jobs of a study or sweep of which something is left, first to last.

    Raises:
        ClusterError: Slurm does not answer.
    """
    folder = job_folder(shared, name)
    queued = {job["job"]: job for job in scheduler.queued_jobs(f"cola-{name}")}
    logs = (LOG_NAME.search(path.name) for path in folder.glob(f"cola-{name}-*.log"))
    numbers = sorted({*queued, *(match[1] for match in logs if match is not None)}, key=int)
    return [described(folder, name, number, queued=queued.get(number)) for number in numbers]


def described(folder: Path, name: str, job: str, *, queued: dict[str, str] | None) -> SlurmJob:
    """A job by what Slurm says of it (None: nothing any more) and by its record."""
    if queued is not None:
        reason = None if queued["reason"] in scheduler.NOT_SET else queued["reason"]
        return SlurmJob(folder, name, job, queued["state"].lower(), reason, active=True)
    state, reason = end_of(read_job(folder, name, job))
    return SlurmJob(folder, name, job, state, reason, active=False)


def end_of(record: JobRecord | None) -> tuple[str, str | None]:
    """The state and reason of a job that Slurm has ended."""
    if record is None:
        return "failed", "it ended before it began; its log says why"
    if record.state in ("running", "queued again"):
        return "ended from outside", "cancelled, lost with its node, or over its limit"
    return record.state, record.reason


def known_jobs(name: str, shared: str) -> list[SlurmJob]:
    """All jobs of a study or sweep, first to last; at least one.

    Raises:
        SpecError: there was none.
    """
    jobs = jobs_of(name, shared)
    if not jobs:
        raise SpecError(f"{name}: {shared}/{FOLDER} knows no job of it; submit it first")
    return jobs


def refreshed(job: SlurmJob) -> SlurmJob:
    """The job with its present state."""
    queued = {each["job"]: each for each in scheduler.queued_jobs(f"cola-{job.name}")}
    return described(job.folder, job.name, job.job, queued=queued.get(job.job))


def follow(job: SlurmJob) -> Iterator[str]:
    """The job's log as it grows, until the job has ended."""
    path, offset = log_file(job.folder, job.name, job.job), 0
    while True:
        ended = not refreshed(job).active
        if path.exists():
            with storage_errors(path, remedy=ON_STORAGE, done="read"), path.open("rb") as file:
                file.seek(offset)
                text = file.read()
            offset += len(text)
            if text:
                yield text.decode("utf-8", errors="replace")
        if ended:
            return
        time.sleep(POLL_SECONDS)


def stop(job: SlurmJob, wait_seconds: float | None = None) -> SlurmJob:
    """Ask a job to stop: its trainings save a checkpoint and leave. One that waits is cancelled.

    Raises:
        ClusterError: Slurm does not answer, or the job has not ended after `wait_seconds`.
    """
    signals = ["--batch", "--signal=USR2"] if job.state == "running" else []
    scheduler.command(["scancel", *signals, job.job])
    deadline = time.monotonic() + (wait_seconds or 0.0)
    while wait_seconds is not None and refreshed(job).active:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{job}: has not ended after {wait_seconds:g} s; `scancel {job.job}` ends it, and "
                "it resumes from its last checkpoint"
            )
        time.sleep(POLL_SECONDS)
    return refreshed(job)
