"""Checks of a Slurm cluster: its partition and limit, and whether nodes see the shared folder."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path

from cola.errors import ClusterError, ColaError, SpecError
from orchestration.slurm import scheduler
from orchestration.slurm.jobs import JobSite
from orchestration.slurm.machine import Machine
from orchestration.slurm.times import seconds_of

log = logging.getLogger(__name__)

# Prints the interpreter for sources that are sent, where it has libraries of each kind.
LIBRARIES = "{ python3 -c 'import mlflow, ray, torch' 2> /dev/null && command -v python3; }"
NODE_SECONDS = 120  # for a node to become free for the check; a chosen value


def partition_limit(partition: str | None, machine: Machine) -> tuple[str, float]:
    """The partition (None: the default one) and its time limit in seconds.

    Raises:
        SpecError: there is no such partition.
        ClusterError: Slurm does not answer.
    """
    limits: dict[str, float] = {}
    default = None
    asked = ["sinfo", "--noheader", "--format=%P|%l"]
    for line in scheduler.command(asked, machine=machine).splitlines():
        name, _, limit = line.strip().partition("|")
        if name.endswith("*"):
            default = name.rstrip("*")
        limits[name.rstrip("*")] = seconds_of(limit, "sinfo") if limit != "n/a" else math.inf
    wanted = partition or default
    if wanted is None:
        raise SpecError(f"partition: the cluster has no default; name one of {', '.join(limits)}")
    for name in wanted.split(","):
        if name not in limits:
            raise SpecError(f"partition={name}: unknown; the cluster has {', '.join(limits)}")
    return wanted, min(limits[name] for name in wanted.split(","))


def check_within_partition(limit: str | None, partition: str | None, machine: Machine) -> str:
    """A sentence on the partition; `limit` is the time that jobs ask for, None where the plan says.

    Raises:
        SpecError: no such partition, or a longer limit than it allows: such jobs wait for ever.
        ClusterError: Slurm does not answer.
    """
    name, most = partition_limit(partition, machine)
    if limit is not None and seconds_of(limit, "time") > most:
        raise SpecError(
            f"time={limit}: partition {name} allows {most / 60:g} minutes; ask for less, and jobs "
            "are queued again until the study is finished"
        )
    allowed = "without a time limit" if math.isinf(most) else f"up to {most / 60:g} minutes a job"
    return f"partition {name}, {allowed}"


def check_seen_by_nodes(
    site: JobSite, options: Sequence[str], setup: Sequence[str], *, sends_sources: bool = False
) -> str:
    """A sentence on a node that reads what the site's machine has written, and finds `cola`, or the
    libraries for sources that are sent.

    Raises:
        SpecError: a node does not see the folder, or has no command `cola`.
        StorageError: the folder cannot be written there.
        ClusterError: no node became free, or Slurm does not answer.
    """
    word, shared, machine = secrets.token_hex(8), site.shared, site.machine
    if not machine.has_folder(Path(shared)):
        raise SpecError(
            f"shared={shared}: is no folder on {machine.where}; name one that it and all nodes see"
        )
    path = Path(shared) / f".cola-check-{word}"
    machine.write(path, f"{word}\n")
    look = [
        *setup,
        f"cat {shlex.quote(str(path))} 2>/dev/null || echo unseen",
        f"{LIBRARIES if sends_sources else 'command -v cola'} || echo missing",
    ]
    try:
        answer = on_a_node("\n".join(look), options, machine)
    finally:
        with contextlib.suppress(ColaError):
            machine.call(["rm", "-f", "--", str(path)])
    if word not in answer:
        raise SpecError(
            f"shared={shared}: a node does not see what {machine.where} writes there; name a "
            "folder of the cluster's shared file system"
        )
    if answer[-1] == "missing":
        what = "no python3 with the product's libraries" if sends_sources else "no command `cola`"
        raise SpecError(
            f"setup: a node finds {what}; add the lines of bash that make its "
            "environment (module load ..., source .../bin/activate)"
        )
    return f"a node reads what is written at {shared}, and finds {answer[-1]}"


def on_a_node(script: str, options: Sequence[str], machine: Machine) -> list[str]:
    """What a script of bash prints on one node, line by line.

    Raises:
        ClusterError: no node became free in time, or the script could not be run.
    """
    command = [
        *("srun", "--quiet", "--nodes=1", "--ntasks=1", "--time=5"),
        *(f"--immediate={NODE_SECONDS}", *options, "bash", "-c", script),
    ]
    done = machine.call(command, seconds=2 * NODE_SECONDS)
    lines = done.output.decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    if done.code != 0 or not said:
        raise ClusterError(
            f"srun: {scheduler.refusal(done.errors)}; a node must become free within "
            f"{NODE_SECONDS} s for this check"
        )
    return said
