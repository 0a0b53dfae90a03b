"""Jobs of Slurm by the name of their study or sweep: submit, list, follow, stop.

Everything of a name lies in one folder of the cluster's shared storage, `cola-jobs/NAME`: the
script, the specification, and a log and a record for every job. Several jobs of a study run side by
side on one ledger: each is a job of its own, not a task of an array, so that it starts, returns and
is stopped by itself, as one alone does.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cola.errors import ClusterError, SpecError
from orchestration.slurm import scheduler
from orchestration.slurm.machine import HERE, Machine, UnreachableError
from orchestration.slurm.record import JobRecord, log_file, parsed_job, record_file

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0  # chosen: every question costs the controller some work
MOST_UNREACHED = 5  # looks in a row at a host that does not answer; a chosen value
FOLDER = "cola-jobs"
SCRIPT = "job.sh"
VERSION = "version"  # digest of what the last script runs
LOG_NAME = re.compile(r"-(\d+)\.log")


@dataclass(frozen=True)
class JobSite:
    """Where jobs lie: the folder that all nodes see, and the machine that submits them."""

    shared: str
    machine: Machine = HERE

    def folder(self, name: str) -> Path:
        """Where the jobs of a study or sweep have their files."""
        return job_folder(self.shared, name)


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
        """Whether it has finished its study or sweep, or left the rest to other jobs of it."""
        return self.state == "succeeded"

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"cola-{self.name}, job {self.job}: {self.state}{reason}"


@dataclass(frozen=True)
class Submitted:
    """The jobs of a name that wait or run, of which the first `attached` were there before.

    `other_version`: those run another version of the specification. `problem` is why there are
    fewer than asked for.
    """

    jobs: Sequence[SlurmJob]
    attached: int
    other_version: bool = False
    problem: str | None = None


def job_folder(shared: str, name: str) -> Path:
    """Where the jobs of a study or sweep have their files."""
    return Path(shared) / FOLDER / name


@dataclass(frozen=True)
class Batch:
    """Jobs that are wanted: `count` of one script.

    `specification` is the YAML in it, in which jobs side by side share out what is of the whole
    study, and `version` the digest of the whole. `insists`: fewer jobs will not do.
    """

    name: str
    script: str
    specification: str
    version: str
    count: int = 1
    insists: bool = False


def submit(site: JobSite, batch: Batch) -> Submitted:
    """Have as many jobs of this name as are wanted, with those that wait or run already.

    Raises:
        SpecError: Slurm refuses what the script asks for, or those that run cannot be joined by
            more; nothing is submitted.
        StorageError: the shared folder cannot be written.
        ClusterError: Slurm does not answer.
    """
    if not site.machine.has_folder(Path(site.shared)):
        raise SpecError(
            f"shared={site.shared}: is no folder on {site.machine.where}; name one that it has"
        )
    name, folder = batch.name, site.folder(batch.name)
    with site.machine.lock(folder / "submit.lock"):
        active = [job for job in jobs_of(site, name) if job.active]
        other = bool(active) and not runs(site, name, VERSION, batch.version)
        if len(active) >= batch.count:
            return Submitted(active, len(active), other)
        if other or (active and not runs(site, name, SCRIPT, batch.specification)):
            why = "another version of it" if other else "their shares of resources.concurrent_runs"
            if batch.insists:
                raise SpecError(
                    f"--allocations {batch.count}: {len(active)} jobs of {name} run {why}; `cola "
                    f"stop` them first, or attach to them with --allocations {len(active)}"
                )
            problem = None if other else f"the first ones run {why}; `cola stop` them for more"
            return Submitted(active, len(active), other, problem)
        scheduler.send_batch(batch.script, str(folder), test=True, machine=site.machine)
        site.machine.write(folder / SCRIPT, batch.script)
        site.machine.write(folder / VERSION, batch.version)
        sent, problem = send(site, batch.script, str(folder), count=batch.count - len(active))
    log.info("cola-%s: jobs %s", name, ", ".join(sent))
    known = [job for job in known_jobs(site, name) if job.job in sent]
    return Submitted([*active, *known], len(active), problem=problem)


def send(site: JobSite, script: str, folder: str, *, count: int) -> tuple[list[str], str | None]:
    """Submit a script so many times; the jobs' numbers, and why they are fewer (a limit on jobs).

    Raises:
        SpecError: Slurm takes none.
    """
    sent: list[str] = []
    for _ in range(count):
        try:
            sent.append(scheduler.send_batch(script, folder, machine=site.machine))
        except (SpecError, ClusterError) as error:
            if not sent:
                raise
            return sent, str(error)
    return sent, None


def runs(site: JobSite, name: str, file: str, text: str) -> bool:
    """Whether a file of the last submission of a name has this text; a script that was submitted by
    hand left none."""
    content = site.machine.read(site.folder(name) / file)
    return content is None or text.encode() in content


def jobs_of(site: JobSite, name: str) -> list[SlurmJob]:
    """All jobs of a study or sweep of which something is left, first to last.

    Raises:
        ClusterError: Slurm does not answer.
    """
    folder = site.folder(name)
    queued = {job["job"]: job for job in scheduler.queued_jobs(f"cola-{name}", site.machine)}
    files = (file for file in site.machine.names(folder) if file.startswith(f"cola-{name}-"))
    logs = (LOG_NAME.fullmatch(file.removeprefix(f"cola-{name}")) for file in files)
    numbers = sorted({*queued, *(match[1] for match in logs if match is not None)}, key=int)
    return [described(site, name, number, queued=queued.get(number)) for number in numbers]


def described(site: JobSite, name: str, job: str, *, queued: dict[str, str] | None) -> SlurmJob:
    """A job by what Slurm says of it (None: nothing any more) and by its record."""
    folder = site.folder(name)
    if queued is not None:
        reason = None if queued["reason"] in scheduler.NOT_SET else queued["reason"]
        return SlurmJob(folder, name, job, queued["state"].lower(), reason, active=True)
    path = record_file(folder, name, job)
    state, reason = end_of(parsed_job(site.machine.read(path), str(path)))
    return SlurmJob(folder, name, job, state, reason, active=False)


def end_of(record: JobRecord | None) -> tuple[str, str | None]:
    """The state and reason of a job that Slurm has ended."""
    if record is None:
        return "failed", "it ended before it began; its log says why"
    if record.state in ("running", "queued again"):
        return "ended from outside", "cancelled, lost with its node, or over its limit"
    return record.state, record.reason


def known_jobs(site: JobSite, name: str) -> list[SlurmJob]:
    """All jobs of a study or sweep, first to last; at least one.

    Raises:
        SpecError: there was none.
    """
    jobs = jobs_of(site, name)
    if not jobs:
        raise SpecError(f"{name}: {site.shared}/{FOLDER} knows no job of it; submit it first")
    return jobs


def refreshed(site: JobSite, jobs: Sequence[SlurmJob]) -> list[SlurmJob]:
    """The jobs, which are of one name, with their present states."""
    if not jobs:
        return []
    name = jobs[0].name
    queued = {each["job"]: each for each in scheduler.queued_jobs(f"cola-{name}", site.machine)}
    return [described(site, name, job.job, queued=queued.get(job.job)) for job in jobs]


def follow(site: JobSite, jobs: Sequence[SlurmJob]) -> Iterator[str]:
    """The output of jobs as it grows, until all have ended; of several each line with its job.

    Raises:
        UnreachableError: an ssh host has not answered several times in a row.
    """
    offsets, unreached = {job.job: 0 for job in jobs}, 0
    while True:
        try:
            ended = not any(job.active for job in refreshed(site, jobs))
            for job in jobs:
                text = new_output(site, job, offsets[job.job], whole_lines=not ended)
                offsets[job.job] += len(text)
                if text:
                    shown = text.decode("utf-8", errors="replace")
                    yield shown if len(jobs) == 1 else labelled(job, shown)
            unreached = 0
        except UnreachableError:
            unreached += 1
            if unreached >= MOST_UNREACHED:
                raise
            ended = False
        if ended:
            return
        time.sleep(POLL_SECONDS)


def new_output(site: JobSite, job: SlurmJob, offset: int, *, whole_lines: bool) -> bytes:
    """What a job has printed since this byte."""
    text = site.machine.read(log_file(job.folder, job.name, job.job), offset) or b""
    return text[: text.rfind(b"\n") + 1] if whole_lines else text


def labelled(job: SlurmJob, text: str) -> str:
    """Lines with the number of the job that has printed them."""
    return "".join(f"{job.job}: {line}\n" for line in text.splitlines())


def stop(
    site: JobSite, jobs: Sequence[SlurmJob], wait_seconds: float | None = None
) -> list[SlurmJob]:
    """Ask jobs to stop: their trainings save a checkpoint and leave. Those that wait are cancelled.

    Raises:
        ClusterError: Slurm does not answer, or a job has not ended after `wait_seconds`.
    """
    waiting = [job for job in jobs if job.state != "running"]
    running = [job for job in jobs if job.state == "running"]
    for job in waiting:  # first: one of them may begin when another has left
        ask(site, job)
    for job in running:
        ask(site, job, "--batch", "--signal=USR2")
    deadline = time.monotonic() + (wait_seconds or 0.0)
    while wait_seconds is not None:
        left = [job for job in refreshed(site, jobs) if job.active]
        if not left:
            break
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{left[0]}: has not ended after {wait_seconds:g} s; `scancel {left[0].job}` ends "
                "it, and it resumes from its last checkpoint"
            )
        time.sleep(POLL_SECONDS)
    return refreshed(site, jobs)


def ask(site: JobSite, job: SlurmJob, *options: str) -> None:
    """Send one job a signal, or cancel it; one that has ended meanwhile needs neither.

    Raises:
        ClusterError: Slurm does not answer, or refuses.
    """
    try:
        scheduler.command(["scancel", *options, job.job], machine=site.machine)
    except ClusterError:
        (now,) = refreshed(site, [job])
        if now.active:
            raise
