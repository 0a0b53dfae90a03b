"""The process of a Slurm job: it starts Ray, runs the study or sweep, and decides about a return.

Slurm speaks to it by signals: USR1 is the warning before the time limit, USR2 is `cola stop`, TERM
is `scancel` or a preemption. After each of them trainings save a checkpoint and leave; the job is
queued again after a warning or a preemption alone. A lost node is Slurm's own affair: it queues the
job again by itself, and sends TERM to what is left of it. Starts that take no step are counted, and
end the job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cola.errors import INTERRUPTED, ClusterError, SpecError
from orchestration.cluster.interpreter import check_interpreter
from orchestration.slurm import scheduler
from orchestration.slurm.nodes import JobNodes
from orchestration.slurm.ports import own_address
from orchestration.slurm.record import (
    MOST_IDLE_STARTS,
    JobRecord,
    JobState,
    WorkKind,
    read_job,
    work_done,
    write_job,
)
from orchestration.slurm.times import check_limit, seconds_of

log = logging.getLogger(__name__)

WARNING, STOP = signal.SIGUSR1, signal.SIGUSR2
TAKEN = (WARNING, STOP, signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.5  # a chosen value
END_SECONDS = 8.0  # for ending Ray before Slurm kills; a chosen value, 3 s on an idle machine
Leave = Literal["limit", "preempted", "requeued", "stop", "cancelled"]
SENTENCES: dict[Leave, str] = {
    "limit": "the time limit is near",
    "preempted": "another job takes the nodes",
    "requeued": "Slurm has queued the job again, as after the loss of a node",
    "stop": "asked to stop",
    "cancelled": "cancelled",
}
RETURNING: tuple[Leave, ...] = ("limit", "preempted", "requeued")


@dataclass(frozen=True)
class Work:
    """What a job runs: a study's or sweep's file, and what its script says of the nodes."""

    file: str
    kind: WorkKind
    name: str
    output: Path
    grace: int  # seconds for saving, after a signal
    cpus: int  # of each node
    ray: Sequence[str]  # options of `ray start`
    rungs: str | None = None  # of a study: its rungs that the job takes alone

    def command(self, address: str) -> list[str]:
        """The driver's command line, by the program that this process was started by."""
        cola = shutil.which("cola", path=str(Path(sys.executable).parent)) or "cola"
        verbs = ["run"] if self.kind == "study" else ["sweep", "run"]
        only = [] if self.rungs is None else ["--rungs", self.rungs]
        return [cola, *verbs, self.file, "--address", address, *only]


def reason_to_leave(number: int, why_terminated: Callable[[], Leave]) -> Leave:
    """What a signal means; of TERM Slurm itself is asked."""
    if number == WARNING:
        return "limit"
    if number == STOP or number == signal.SIGINT:
        return "stop"
    return why_terminated()


def outcome(code: int, leave: Leave | None, may_return: bool) -> tuple[JobState, str | None]:
    """A job's end and its reason, from the driver's exit code and why it was asked to leave."""
    if code == 0:
        return "succeeded", None
    if leave is None:
        return "failed", f"exit code {code}"
    if leave not in RETURNING:
        return "stopped", SENTENCES[leave]
    if may_return:
        return "queued again", SENTENCES[leave]
    return "failed", no_progress(MOST_IDLE_STARTS)


def no_progress(starts: int) -> str:
    """Why a job does not return."""
    return (
        f"{starts} starts in a row took no step; give it more time (--time) or checkpoints more "
        "often (checkpoint.every_seconds), then submit it again"
    )


def run_job(work: Work, notify: Callable[[str], None]) -> int:
    """Run the work in this allocation; the exit code of the job.

    Raises:
        SpecError: outside of a job, a time limit that leaves no time to train, or an environment in
            which Ray cannot be imported.
        ClusterError: Slurm does not answer, or Ray does not start.
    """
    with taken_signals():
        environment = allocation()
        check_interpreter()
        job, folder = environment["SLURM_JOB_ID"], Path.cwd()
        fields = scheduler.job_fields(job)
        limit = seconds_of(fields.get("TimeLimit", "UNLIMITED"), "TimeLimit")
        check_limit(limit, work.grace, where=f"job {job}")
        nodes = scheduler.host_names(environment["SLURM_JOB_NODELIST"])
        record = first_record(work, job, folder).started(done(work), nodes)
        write_job(folder, record)
        if record.idle_starts >= MOST_IDLE_STARTS:
            notify(f"job {job}: {no_progress(record.idle_starts)}")
            ended(folder, record, "failed", no_progress(record.idle_starts), 1)
            return 1
        start = f", start {record.starts}" if record.starts > 1 else ""
        notify(f"job {job} on {', '.join(nodes)}{start}")
        return run_on_nodes(work, record, folder, here=own_node(environment), notify=notify)


def run_on_nodes(
    work: Work, record: JobRecord, folder: Path, *, here: str, notify: Callable[[str], None]
) -> int:
    """Run the work with Ray on the job's nodes, and end it with the job's record."""
    host = own_address(len(record.nodes), scheduler.node_address(here))
    others = [node for node in record.nodes if node != here]
    ray = JobNodes(record.job, host, others, work.ray, work.cpus)
    began = time.monotonic()
    try:
        ray.start()
        code, leave = follow(work, ray, record.job, notify=notify)
        if leave is None and code != 0 and ray.lost_head:
            raise ClusterError(
                f"job {record.job}: Ray's head ended, and the {work.kind} with it; the lines above "
                "say why, and submitting it again resumes it"
            )
        began = time.monotonic()
    except ClusterError as error:
        ended(folder, record, "failed", str(error), ClusterError.exit_code)
        raise
    finally:
        ray.end()
    state, reason = outcome(code, leave, record.may_start_again(done(work)))
    if leave is not None:
        seconds = f"Ray ended after {time.monotonic() - began:.1f} s"
        notify(f"job {record.job}: {state} ({reason or 'it had finished'}); {seconds}")
    ended(folder, record, state, reason, code)
    if state == "queued again" and leave != "requeued":
        scheduler.command(["scontrol", "requeue", record.job])
    return 0 if state == "queued again" else code


def follow(
    work: Work, ray: JobNodes, job: str, *, notify: Callable[[str], None]
) -> tuple[int, Leave | None]:
    """The driver's exit code, and why it was asked to leave, if it was.

    A driver that has not left within the grace is killed: what it had not saved is repeated.
    """
    driver = ray.run(work.command(ray.address))
    leave: Leave | None = None
    deadline = float("inf")
    while driver.poll() is None:
        taken = signal.sigtimedwait(TAKEN, POLL_SECONDS)
        if taken is not None:
            found = reason_to_leave(taken.si_signo, lambda: why_terminated(job))
            if leave is None:
                notify(f"job {job}: {SENTENCES[found]}; trainings save a checkpoint and leave")
                driver.send_signal(signal.SIGINT)
                deadline = time.monotonic() + seconds_to_leave(found, work.grace)
            # Who cancels a job that is leaving already does not want it back.
            leave = found if leave is None or found not in RETURNING else leave
        if time.monotonic() > deadline:
            notify(f"job {job}: not saved in time; steps since the last checkpoint are repeated")
            driver.kill()
            deadline = float("inf")
    return exit_code(driver), leave


def seconds_to_leave(leave: Leave, grace: int) -> float:
    """How long the driver has to save: after `scancel` Slurm kills the job soon."""
    if leave != "cancelled":
        return float(grace)
    wait = scheduler.KILL_WAIT_SECONDS
    with contextlib.suppress(ClusterError):
        wait = scheduler.kill_wait()
    return min(float(grace), max(wait - END_SECONDS, wait / 2))


def exit_code(driver: subprocess.Popen[bytes]) -> int:
    """The driver's exit code; one that a signal ended counts as interrupted."""
    code = driver.wait()
    return code if code >= 0 else INTERRUPTED


def why_terminated(job: str) -> Leave:
    """What TERM means, by what Slurm says of the job; cancelled, where it does not answer."""
    with contextlib.suppress(ClusterError):
        fields = scheduler.job_fields(job)
        if scheduler.is_preempted(fields):
            return "preempted"
        if scheduler.is_queued_again(fields, os.environ.get("SLURM_RESTART_COUNT", "0")):
            return "requeued"
    return "cancelled"


def first_record(work: Work, job: str, folder: Path) -> JobRecord:
    """The job's record of its starts before, or a new one."""
    known = read_job(folder, work.name, job)
    return known or JobRecord(name=work.name, kind=work.kind, job=job)


def ended(folder: Path, record: JobRecord, state: JobState, reason: str | None, code: int) -> None:
    """Write how a job ended."""
    end = {"state": state, "reason": reason, "exit_code": code}
    write_job(folder, record.model_copy(update=end))


def done(work: Work) -> int:
    """Steps and trials of the work so far."""
    return work_done(work.output, work.name, work.kind)


def allocation() -> Mapping[str, str]:
    """The variables of the job that this process belongs to.

    Raises:
        SpecError: it belongs to none.
    """
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST"):
        if not os.environ.get(name):
            raise SpecError(
                f"{name}: is not set, so this is no job of Slurm; call `sbatch` with a script of "
                "`cola recipe --kind slurm`, or `cola submit --cluster NAME`"
            )
    return os.environ


def own_node(environment: Mapping[str, str]) -> str:
    """Slurm's name of this node."""
    return environment.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]


@contextlib.contextmanager
def taken_signals() -> Iterator[None]:
    """Within, Slurm's signals wait until they are asked for; none ends this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
