"""Checks of a Slurm cluster: its partition and limit, and whether nodes see the shared folder."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cola.errors import ClusterError, SpecError, one_line
from cola.files import storage_errors
from orchestration.slurm import scheduler
from orchestration.slurm.times import seconds_of

log = logging.getLogger(__name__)

NODE_SECONDS = 120  # for a node to become free for the check; a chosen value


def partition_limit(partition: str | None) -> tuple[str, float]:
    """The partition (None: the default one) and its time limit in seconds.

    Raises:
        SpecError: there is no such partition.
        ClusterError: Slurm does not answer.
    """
    limits: dict[str, float] = {}
    default = None
    for line in scheduler.command(["sinfo", "--noheader", "--format=%P|%l"]).splitlines():
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


def check_within_partition(limit: str | None, partition: str | None) -> str:
    """A sentence on the partition; `limit` is the time that jobs ask for, None where the plan says.

    Raises:
        SpecError: no such partition, or a longer limit than it allows: such jobs wait for ever.
        ClusterError: Slurm does not answer.
    """
    name, most = partition_limit(partition)
    if limit is not None and seconds_of(limit, "time") > most:
        raise SpecError(
            f"time={limit}: partition {name} allows {most / 60:g} minutes; ask for less, and jobs "
            "are queued again until the study is finished"
        )
    allowed = "without a time limit" if math.isinf(most) else f"up to {most / 60:g} minutes a job"
    return f"partition {name}, {allowed}"


def check_seen_by_nodes(shared: str, options: Sequence[str], setup: Sequence[str]) -> str:
    """A sentence on a node that reads what this machine has written, and finds `cola`.

    Raises:
        SpecError: a node does not see the folder, or has no command `cola`.
        StorageError: the folder cannot be written here.
        ClusterError: no node became free, or Slurm does not answer.
    """
    word = secrets.token_hex(8)
    path = Path(shared) / f".cola-check-{word}"
    with storage_errors(shared, remedy="name a folder that this user may write (shared)"):
        path.write_text(f"{word}\n", encoding="utf-8")
    look = [
        *setup,
        f"cat {shlex.quote(str(path))} 2>/dev/null || echo unseen",
        "command -v cola || echo missing",
    ]
    try:
        answer = on_a_node("\n".join(look), options)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    if word not in answer:
        raise SpecError(
            f"shared={shared}: a node does not see what this machine writes there; name a folder "
            "of the cluster's shared file system"
        )
    if answer[-1] == "missing":
        raise SpecError(
            "setup: a node finds no command `cola`; add the lines of bash that make its "
            "environment (module load ..., source .../bin/activate)"
        )
    return f"a node reads what is written at {shared}, and finds {answer[-1]}"


def on_a_node(script: str, options: Sequence[str]) -> list[str]:
    """What a script of bash prints on one node, line by line.

    Raises:
        ClusterError: no node became free in time, or the script could not be run.
    """
    command = [
        *("srun", "--quiet", "--nodes=1", "--ntasks=1", "--time=5"),
        *(f"--immediate={NODE_SECONDS}", *options, "bash", "-c", script),
    ]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=2 * NODE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"srun: {one_line(error)}; no node was looked at") from None
    lines = done.stdout.split("\n")
    said = [line.strip() for line in lines if line.strip()]
    if done.returncode != 0 or not said:
        raise ClusterError(
            f"srun: {scheduler.refusal(done.stderr)}; a node must become free within "
            f"{NODE_SECONDS} s for this check"
        )
    return said
