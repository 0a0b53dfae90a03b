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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola.errors import ClusterError, SpecError
from orchestration.planning.units import rungs_in
from orchestration.slurm import scheduler
from orchestration.slurm.batch import Batch, Script
from orchestration.slurm.machine import HERE, Machine, UnreachableError
from orchestration.slurm.record import (
    JobRecord,
    LastSubmission,
    log_file,
    parsed_job,
    parsed_submission,
    record_file,
    submission_file,
)

log = logging.getLogger(__name__)

STOP = ("--batch", "--signal=USR2")  # what a job takes for a request to stop
# Until it is repeated: a job that is just starting does not hear it. A chosen value.
REPEAT_SECONDS = 10.0
POLL_SECONDS = 2.0  # chosen: every question costs the controller some work
MOST_UNREACHED = 5  # looks in a row at a host that does not answer; a chosen value
FOLDER = "cola-jobs"
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
    rungs: str | None = None  # that it takes alone; None: all

    @property
    def succeeded(self) -> bool:
        """Whether it has finished its study or sweep, or left the rest to other jobs of it."""
        return self.state == "succeeded"

    def as_json(self) -> dict[str, Any]:
        """The job as plain values."""
        return {"id": self.job, "state": self.state, "reason": self.reason, "rungs": self.rungs}

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        rungs = "" if self.rungs is None else f", rungs {self.rungs}"
        return f"cola-{self.name}, job {self.job}{rungs}: {self.state}{reason}"


@dataclass(frozen=True)
class Submitted:
    """The jobs of a name that wait or run, of which the first `attached` were there before.

    `other` is what those run in place of what was asked for: another version, or other sources.
    `problem` is why there are fewer than asked for.
    """

    jobs: Sequence[SlurmJob]
    attached: int
    other: str | None = None
    problem: str | None = None


def job_folder(shared: str, name: str) -> Path:
    """Where the jobs of a study or sweep have their files."""
    return Path(shared) / FOLDER / name


def check_shared(site: JobSite) -> None:
    """Check that the shared folder is there, as a misspelt one is not to be made.

    Raises:
        SpecError: it is not.
    """
    if not site.machine.has_folder(Path(site.shared)):
        raise SpecError(
            f"shared={site.shared}: is no folder on {site.machine.where}; name one that it has"
        )


def submit(site: JobSite, batch: Batch) -> Submitted:
    """Have as many jobs of this name as are wanted, with those that wait or run already.

    Raises:
        SpecError: Slurm refuses what a script asks for, or those that run cannot be joined by more;
            nothing is submitted.
        StorageError: the shared folder cannot be written.
        ClusterError: Slurm does not answer.
    """
    check_shared(site)
    name, folder = batch.name, site.folder(batch.name)
    with site.machine.lock(folder / "submit.lock"):
        active = active_jobs(site, name)
        last = last_submission(site, name)
        beside = last if active else None
        other = None if beside is None else batch.other(beside)
        missing = batch.missing(len(active), rungs_taken(active))
        if not missing:
            return Submitted(active, len(active), other)
        if other is not None or (beside is not None and beside.share != batch.share):
            why = other or "their shares of resources.concurrent_runs"
            if batch.insists:
                raise SpecError(
                    f"--allocations {batch.total(len(active))}: {len(active)} jobs of {name} run "
                    f"{why}; `cola stop` them first, or attach to them with --allocations "
                    f"{len(active)}"
                )
            problem = (
                None
                if other is not None
                else f"the first ones run {why}; `cola stop` them for more"
            )
            return Submitted(active, len(active), other, problem)
        for script in missing:
            scheduler.send_batch(script.text, str(folder), test=True, machine=site.machine)
        sent, problem = send(site, batch, missing, last.rungs if last is not None else {})
    log.info("cola-%s: jobs %s", name, ", ".join(sent))
    known = [job for job in known_jobs(site, name) if job.job in sent]
    return Submitted([*active, *known], len(active), problem=problem)


def send(
    site: JobSite, batch: Batch, scripts: Sequence[Script], rungs: Mapping[str, str]
) -> tuple[list[str], str | None]:
    """Submit the scripts; the jobs' numbers, and why they are fewer (a limit on jobs).

    `rungs` are those of earlier jobs.

    Raises:
        SpecError: Slurm takes none.
        StorageError: the shared folder cannot be written.
    """
    folder, sent, problem = site.folder(batch.name), list[str](), None
    last = LastSubmission(
        version=batch.version, share=batch.share, sources=batch.sources, rungs=dict(rungs)
    )
    write_submission(site, folder, last)
    for script in scripts:
        site.machine.write(folder / script.file, script.text)
    for script in [each for each in scripts for _ in range(each.count)]:
        try:
            job = scheduler.send_batch(script.text, str(folder), machine=site.machine)
        except (SpecError, ClusterError) as error:
            if not sent:
                raise
            problem = str(error)
            break
        sent.append(job)
        if script.rungs is not None:
            last = last.model_copy(update={"rungs": last.rungs | {job: script.rungs}})
            write_submission(site, folder, last)
    return sent, problem


def write_submission(site: JobSite, folder: Path, last: LastSubmission) -> None:
    """Write what the jobs of a name run.

    Raises:
        StorageError: the shared folder cannot be written.
    """
    site.machine.write(submission_file(folder), last.model_dump_json(indent=1) + "\n")


def last_submission(site: JobSite, name: str) -> LastSubmission | None:
    """What the jobs of a name run; a script that was submitted by hand left nothing.

    Raises:
        StorageError: its file is damaged.
    """
    path = submission_file(site.folder(name))
    return parsed_submission(site.machine.read(path), str(path))


def rungs_taken(jobs: Sequence[SlurmJob]) -> frozenset[int] | None:
    """The rungs whose runs jobs that wait or run take; None: those of all rungs."""
    taken = [job.rungs for job in jobs if job.active]
    if None in taken:
        return None
    return frozenset().union(*(rungs_in(rungs) for rungs in taken if rungs is not None))


def jobs_of(site: JobSite, name: str) -> list[SlurmJob]:
    """All jobs of a study or sweep of which something is left, first to last.

    Raises:
        ClusterError: Slurm does not answer.
        StorageError: a record is damaged.
    """
    queued = queue_of(site, name)
    prefix = f"cola-{name}"
    files = (file for file in site.machine.names(site.folder(name)) if file.startswith(prefix))
    logs = (LOG_NAME.fullmatch(file.removeprefix(prefix)) for file in files)
    numbers = sorted({*queued, *(match[1] for match in logs if match is not None)}, key=int)
    return described(site, name, numbers, queued=queued)


def active_jobs(site: JobSite, name: str) -> list[SlurmJob]:
    """The jobs of a study or sweep that wait or run."""
    return [job for job in jobs_of(site, name) if job.active]


def queue_of(site: JobSite, name: str) -> dict[str, dict[str, str]]:
    """What Slurm has of a name's jobs, by their numbers."""
    return {job["job"]: job for job in scheduler.queued_jobs(f"cola-{name}", site.machine)}


def described(
    site: JobSite, name: str, jobs: Sequence[str], *, queued: Mapping[str, dict[str, str]]
) -> list[SlurmJob]:
    """Jobs by what Slurm says of them in its queue and, of those that it has ended, by their
    records, which are read at once."""
    folder = site.folder(name)
    records = {job: record_file(folder, name, job) for job in jobs if job not in queued}
    paths = [submission_file(folder), *records.values()] if jobs else []
    contents = site.machine.read_all(paths)
    last = parsed_submission(contents.get(submission_file(folder)), str(submission_file(folder)))
    found = []
    for job in jobs:
        if job in queued:
            state, reason = state_in_queue(queued[job])
        else:
            path = records[job]
            state, reason = end_of(parsed_job(contents.get(path), str(path)))
        rungs = None if last is None else last.rungs.get(job)
        found.append(SlurmJob(folder, name, job, state, reason, job in queued, rungs))
    return found


def state_in_queue(queued: Mapping[str, str]) -> tuple[str, str | None]:
    """The state and reason of a job that waits or runs."""
    reason = queued["reason"]
    return queued["state"].lower(), None if reason in scheduler.NOT_SET else reason


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
    return described(site, name, [job.job for job in jobs], queued=queue_of(site, name))


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
        ask(site, job, *STOP)
    asked = time.monotonic()
    deadline = asked + (wait_seconds or 0.0)
    while wait_seconds is not None:
        left = [job for job in refreshed(site, jobs) if job.active]
        if not left:
            break
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{left[0]}: has not ended after {wait_seconds:g} s; `scancel {left[0].job}` ends "
                "it, and it resumes from its last checkpoint"
            )
        if time.monotonic() - asked > REPEAT_SECONDS:
            for job in left:
                if job.state == "running":
                    ask(site, job, *STOP)
            asked = time.monotonic()
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
