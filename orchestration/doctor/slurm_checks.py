"""Checks of a Slurm cluster that studies are submitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cola.errors import ColaError
from orchestration.doctor.finding import Finding
from orchestration.recipes.job_site import job_site
from orchestration.recipes.slurm import sbatch_options
from orchestration.remote.clusters import ClusterSpec
from orchestration.slurm import scheduler
from orchestration.slurm.checks import check_seen_by_nodes, check_within_partition
from orchestration.slurm.jobs import FOLDER
from orchestration.slurm.times import check_limit, seconds_of


def slurm_cluster(cluster: ClusterSpec) -> Iterator[Finding]:
    """Check Slurm's answer, the partition, what jobs ask for, the grace, and a node's view.

    A check is left out where one before it failed: its answer would be the same.
    """
    checks: list[tuple[str, Callable[[ClusterSpec], str]]] = [
        ("slurm", version),
        ("partition", partition),
        ("time limit", limit),
        ("request", request),
        ("shared folder", seen_by_nodes),
    ]
    for name, check in checks:
        try:
            yield Finding(name, "ok", check(cluster))
        except ColaError as error:
            yield Finding(name, "fail", str(error), "correct it in clusters.yaml, and check again")
            return


def version(cluster: ClusterSpec) -> str:
    """The release of Slurm that answers."""
    machine = job_site(cluster).machine
    scheduler.command(["scontrol", "ping"], machine=machine)
    release = scheduler.command(["sinfo", "--version"], machine=machine).strip()
    return f"{release}, on {machine.where}"


def partition(cluster: ClusterSpec) -> str:
    """Whether the partition is there, and allows the time that jobs ask for."""
    return check_within_partition(cluster.time, cluster.partition, job_site(cluster).machine)


def limit(cluster: ClusterSpec) -> str:
    """Whether a job trains for a while before it is warned."""
    if cluster.time is None:
        return "by each plan, of 1 hour at least"
    seconds, grace = seconds_of(cluster.time, "time"), cluster.grace_seconds
    check_limit(seconds, grace, where=f"time={cluster.time}")
    return f"{cluster.time}, of which {grace} s are for saving"


def request(cluster: ClusterSpec) -> str:
    """Whether Slurm takes a job with the account, QoS, constraint and memory."""
    options = [*sbatch_options(cluster), f"--time={cluster.time or '1:00:00'}", "--nodes=1"]
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "true"]
    machine = job_site(cluster).machine
    scheduler.send_batch("\n".join(lines) + "\n", str(cluster.shared), test=True, machine=machine)
    return "Slurm would take a job of one node"


def seen_by_nodes(cluster: ClusterSpec) -> str:
    """Whether a node reads what this machine writes, and finds `cola`."""
    said = check_seen_by_nodes(
        job_site(cluster), sbatch_options(cluster), cluster.setup,
        sends_sources=cluster.send_sources,
    )  # fmt: skip
    return f"{said}; jobs lie in {cluster.shared}/{FOLDER}"
