"""Checks of a cluster that a study is submitted to."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from cola.errors import ColaError
from cola.spec.resources import ResourcesSpec
from orchestration.doctor.finding import Finding
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.jobs import client_of, nodes_of, server_version

log = logging.getLogger(__name__)


def cluster(endpoint: Endpoint, runs: Sequence[ResourcesSpec]) -> Iterator[Finding]:
    """Check the answer and the token, the version of Ray, the nodes, and the room for runs."""
    try:
        client = client_of(endpoint)
    except ColaError as error:
        remedy = "give the address of a running cluster's dashboard, and its own token"
        yield Finding("cluster", "fail", str(error), remedy)
        return
    yield Finding("cluster", "ok", f"{endpoint.address} answers and takes the token")
    yield version(server_version(client), importlib.metadata.version("ray"))
    listed = nodes_of(client)
    log.debug("nodes: %s", listed)
    yield nodes(listed)
    if runs:
        yield room(listed, runs)


def version(remote: str, local: str) -> Finding:
    """Whether the cluster's version of Ray is this machine's."""
    if remote == local:
        return Finding("ray", "ok", f"{remote} there and here")
    remedy = f"use ray=={remote} here: --environment pinned is refused otherwise"
    return Finding("ray", "warn", f"{remote} there, {local} here", remedy)


def nodes(listed: Sequence[dict[str, Any]]) -> Finding:
    """Number of nodes that are alive, and their resources in all."""
    alive = alive_of(listed)
    cpus, gpus = (sum(resource(node, kind) for node in alive) for kind in ("CPU", "GPU"))
    dead = len(listed) - len(alive)
    detail = f"{len(alive)} alive with {cpus:g} CPUs and {gpus:g} GPUs"
    if dead:
        detail += f", {dead} gone"
    remedy = "" if alive else "start nodes (ray start --address=HEAD:6379)"
    return Finding("nodes", "ok" if alive else "fail", detail, remedy)


def room(listed: Sequence[dict[str, Any]], runs: Sequence[ResourcesSpec]) -> Finding:
    """Whether each of the runs fits the nodes that are alive and have its labels."""
    for run in sorted(runs, key=lambda resources: resources.workers):
        fits = sum(workers_that_fit(node, run) for node in alive_of(listed))
        needed = run.min_workers or run.workers
        if fits < needed:
            labels = f" with labels {run.labels}" if run.labels else ""
            return Finding(
                "room",
                "warn",
                f"a run needs {needed} workers{labels}, the nodes alive hold {fits}",
                "add nodes (a cluster that scales itself does), or lower resources.workers",
            )
    return Finding("room", "ok", "every run of the study fits")


def workers_that_fit(node: dict[str, Any], run: ResourcesSpec) -> int:
    """Number of a run's workers that a node holds; 0 where its labels differ."""
    labels = node.get("labels") or {}
    if any(labels.get(key) != value for key, value in run.labels.items()):
        return 0
    fits = int(resource(node, "CPU") // run.cpus_per_worker)
    if run.gpus_per_worker:
        fits = min(fits, int(resource(node, "GPU") / run.gpus_per_worker))
    return fits


def alive_of(listed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes that are alive."""
    return [node for node in listed if node["state"] == "ALIVE"]


def resource(node: dict[str, Any], kind: str) -> float:
    """A node's total of CPUs or GPUs."""
    return float((node.get("resources_total") or {}).get(kind, 0.0))
