"""The Ray cluster of a study: starting a private one or joining one, what it has, what is free."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cola import process_environment
from cola.errors import ClusterError, SpecError, one_line
from cola.logs import VARIABLE, inherited_variables
from cola.spec.resources import ResourcesSpec
from orchestration.cluster.interpreter import check_interpreter
from orchestration.cluster.packing import ClusterState, Node, PlacedGroup, matches
from orchestration.cluster.temporary_folder import (
    FALLBACK,
    SESSION_LOCK,
    ray_folder,
    remove_old_sessions,
    too_long,
)
from orchestration.cluster.token_file import choose_authentication, make_token_private
from orchestration.compat.ray import (
    ended_jobs,
    free_resources_by_node,
    head_refusal,
    loopback_only,
    without_unused_processes,
)
from orchestration.state.scratch import held_lock, remove_abandoned

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0  # for a head to answer; a chosen value
DOCTOR = "`cola doctor` shows whether Ray can start on this machine"


class NoClusterError(ClusterError):
    """No Ray cluster answers at the address."""


@dataclass(frozen=True)
class ClusterResources:
    """The cluster's total resources (not what is free now), and the labels of its nodes."""

    cpus: float
    gpus: float
    labels: tuple[dict[str, str], ...] = ({},)
    dashboard: str | None = None  # URL


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[ClusterResources]:
    """A Ray session: a private cluster on this machine, or the one at `address`.

    The private cluster's Ray servers listen on loopback only; it is stopped at the end.

    Raises:
        SpecError: Ray cannot be imported in this environment, or `address` is a dashboard's.
        NoClusterError: when none answers at `address`, or none can be started here.
    """
    check_interpreter()
    process_environment.ray_driver()
    with contextlib.ExitStack() as stack:
        if address is None:
            make_token_private()
            short = str(FALLBACK) if too_long() else None
            stack.enter_context(process_environment.private_cluster(short))
            stack.enter_context(loopback_only())
            stack.enter_context(without_unused_processes())
        else:
            check_joined(address)
            choose_authentication()
            check_taken(address)
        yield stack.enter_context(_session(address))


def check_joined(address: str | None) -> None:
    """Check that an address is one of a cluster that a driver joins.

    Raises:
        SpecError: it is a dashboard's, which takes jobs.
    """
    if address is not None and address.startswith(("http://", "https://")):
        raise SpecError(
            f"--address {address}: is a dashboard, which takes jobs: `cola submit THING --address "
            f"{address}` sends a study or sweep there; this command joins a cluster from one of "
            "its nodes, at HOST:PORT of its head (6379 by default)"
        )


def check_taken(address: str) -> None:
    """Check that a cluster's head takes this process and its token.

    Raises:
        NoClusterError: it does not; the message says whether it is about the token.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        return  # `auto`, or one of Ray's other forms
    answer = head_refusal(address, HEAD_SECONDS)
    if answer is None:
        return
    if any(word in answer.lower() for word in ("unauthenticated", "token")):
        raise NoClusterError(
            f"--address {address}: the cluster wants another token, or one at all; set "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own"
        )
    raise NoClusterError(
        f"--address {address}: no Ray cluster answers ({one_line(answer, 200)}); check the "
        "address, and that the cluster is up"
    )


@contextlib.contextmanager
def _session(address: str | None) -> Iterator[ClusterResources]:
    import ray

    log.info("Ray: %s", "starting a private cluster" if address is None else f"joining {address}")
    try:
        if address is None:
            context = ray.init(
                address="local",
                include_dashboard=False,  # which nobody looks at; it takes 3 s of CPU to start
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(_prepared_folder()),
            )
        else:
            context = ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=log_environment(),
            )
    except Exception as error:  # of Ray itself: a node that is too slow raises a plain one
        raise NoClusterError(
            f"--address {address or 'local'}: no Ray cluster answers ({one_line(error, 200)}); "
            + (DOCTOR if address is None else "check the address, and that the cluster is up")
        ) from None
    lock = None if address is not None else _session_lock(context)
    try:
        total = ray.cluster_resources()
        labels = tuple(dict(node["Labels"]) for node in ray.nodes() if node["Alive"])
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else None
        yield ClusterResources(total.get("CPU", 0.0), total.get("GPU", 0.0), labels, dashboard)
    finally:
        ray.shutdown()
        if lock is not None:
            lock.close()


def _prepared_folder() -> Path:
    """The folder of a new private cluster, without the sessions of drivers that have ended."""
    problem = too_long()
    if problem is not None:
        log.warning("%s", problem)
    folder = ray_folder()
    remove_abandoned()
    remove_old_sessions(folder)
    return folder


def _session_lock(context: Any) -> IO[str] | None:
    """The lock by which others see that this session's driver lives."""
    try:
        return held_lock(Path(context.address_info["session_dir"]) / SESSION_LOCK)
    except OSError as error:
        log.info("Ray's session is not locked, so nobody removes it later: %s", error)
        return None


def log_environment() -> dict[str, dict[str, str]] | None:
    """Hands COLA_LOG to the session's processes on a joined cluster; a private one's inherit it.

    None where it is unset, or where the Ray job that this process belongs to has set it for all of
    them: Ray refuses a variable that both name.
    """
    variables = inherited_variables()
    if not variables or VARIABLE in os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""):
        return None
    return {"env_vars": variables}


def cluster_state() -> ClusterState:
    """The nodes that are alive, with what is free on each, the placement groups that have their
    nodes, and the jobs that have ended. It can be called in a driver and in an actor."""
    import ray
    from ray.util import placement_group_table

    free = free_resources_by_node()
    nodes = []
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] in free:
            total, left = node["Resources"], free[node["NodeID"]]
            nodes.append(
                Node(
                    id=node["NodeID"],
                    cpus=total.get("CPU", 0.0),
                    gpus=total.get("GPU", 0.0),
                    free_cpus=left.get("CPU", 0.0),
                    free_gpus=left.get("GPU", 0.0),
                    labels=dict(node["Labels"]),
                )
            )
    groups = tuple(
        PlacedGroup(
            key,
            tuple((b.get("CPU", 0.0), b.get("GPU", 0.0)) for _, b in sorted(g["bundles"].items())),
            tuple(node for _, node in sorted(g["bundles_to_node_id"].items())),
        )
        for key, g in placement_group_table().items()
        if g["state"] == "CREATED"
    )
    return ClusterState(tuple(nodes), groups, ended_jobs())


def check_fits(resources: ResourcesSpec, cluster: ClusterResources) -> None:
    """Refuse a run for which a cluster that does not grow is too small: it would wait for ever.

    Raises:
        ClusterError: when the run (an elastic one: its minimum) needs more than the cluster has.
    """
    name = "workers" if resources.min_workers is None else "min_workers"
    workers = resources.min_workers or resources.workers
    needs = {
        "CPUs": (workers * resources.cpus_per_worker, cluster.cpus),
        "GPUs": (workers * resources.gpus_per_worker, cluster.gpus),
    }
    for kind, (needed, present) in needs.items():
        if needed > present:
            raise ClusterError(
                f"resources.{name}={workers}: a run needs {needed:g} {kind}, the "
                f"cluster has {present:g}; lower resources.{name} or "
                f"resources.{kind.lower()}_per_worker"
            )
    if not any(matches(resources.labels, labels) for labels in cluster.labels):
        raise ClusterError(
            f"resources.labels={dict(resources.labels)}: the cluster has no node with them; leave "
            "them out, or give the --address of a cluster that has"
        )
