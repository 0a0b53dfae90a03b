"""Slurm's own commands: what they are asked, and what their answers mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cola.errors import ClusterError, SpecError, one_line
from orchestration.slurm.machine import HERE, Machine

KILL_WAIT_SECONDS = 30.0  # Slurm's own default
NOT_SET = ("", "None", "Unknown", "N/A", "(null)")


def command(arguments: Sequence[str], *, given: str | None = None, machine: Machine = HERE) -> str:
    """What a command of Slurm prints, with `given` as its input.

    Raises:
        ClusterError: it is not installed, refuses, or does not answer.
        UnreachableError: an ssh host that does not answer.
    """
    answer = machine.call(arguments, given=given)
    if answer.code != 0:
        raise ClusterError(f"{arguments[0]}: {refusal(answer.errors)}; nothing was changed")
    return answer.output.decode(errors="replace")


def refusal(errors: str) -> str:
    """Why a command of Slurm failed, in one line: its messages without their labels."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line).strip() for line in errors.splitlines()]
    said = [line for line in lines if line]
    return one_line("; ".join(dict.fromkeys(said)) or "failed without a message")


def fields_of(text: str) -> dict[str, str]:
    """The `Key=value` fields of one line of `scontrol --oneliner`; the first of a name counts."""
    found: dict[str, str] = {}
    for part in text.split():
        key, equals, value = part.partition("=")
        if equals:
            found.setdefault(key, value)
    return found


def job_fields(job: str) -> dict[str, str]:
    """What Slurm knows of a job.

    Raises:
        ClusterError: it knows none of this number, or does not answer.
    """
    return fields_of(command(["scontrol", "show", "job", "--oneliner", job]))


def is_preempted(fields: dict[str, str]) -> bool:
    """Whether Slurm takes the job's nodes for another job."""
    return fields.get("PreemptTime", "None") not in NOT_SET


def is_queued_again(fields: dict[str, str], restarts: str) -> bool:
    """Whether Slurm has counted one more start of the job than the `restarts` of this one."""
    return int(fields.get("Restarts", "0")) > int(restarts)


def kill_wait(configuration: str | None = None) -> float:
    """Seconds between Slurm's TERM and its KILL, by its configuration (None: asked for)."""
    text = configuration or command(["scontrol", "show", "config"])
    found = re.search(r"^KillWait\s*=\s*(\d+) sec", text, re.MULTILINE)
    return float(found[1]) if found is not None else KILL_WAIT_SECONDS


def host_names(nodelist: str) -> list[str]:
    """The names that a list such as n[1-3] stands for."""
    return command(["scontrol", "show", "hostnames", nodelist]).split()


def node_address(node: str) -> str:
    """The address (or name) under which Slurm reaches a node."""
    fields = fields_of(command(["scontrol", "show", "node", "--oneliner", node]))
    return fields.get("NodeAddr", node)


def queued_jobs(name: str, machine: Machine = HERE) -> list[dict[str, str]]:
    """This user's jobs of that name which wait or run, with `job`, `state` and `reason`."""
    text = command(
        ["squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%A|%T|%r"],
        machine=machine,
    )
    jobs = [dict(zip(("job", "state", "reason"), line.split("|"), strict=True))
            for line in text.splitlines()]  # fmt: skip
    return [job for job in jobs if job["state"] not in ENDED]


ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
)  # fmt: skip


def send_batch(script: str, folder: str, *, test: bool = False, machine: Machine = HERE) -> str:
    """The number of the job that this script becomes; "" with `test`, which submits nothing.

    Raises:
        SpecError: Slurm refuses what the script asks for: partition, account, QoS, limit, nodes.
        ClusterError: no answer, or no such command.
    """
    options = ["--test-only"] if test else ["--parsable"]
    try:
        shown = command(["sbatch", *options, f"--chdir={folder}"], given=script, machine=machine)
    except ClusterError as error:
        if "no such command" in str(error) or "not answered" in str(error):
            raise
        raise SpecError(str(error)) from None
    return "" if test else shown.strip().partition(";")[0]
