"""What a study asks of a cluster that it is submitted to."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import Any

from cola.errors import SpecError
from cola.spec.resources import ResourcesSpec
from orchestration.doctor.finding import Finding
from orchestration.remote.endpoint import Endpoint
from orchestration.remote.jobs import client_of, nodes_of, server_version


def cluster(endpoint: Endpoint, runs: Sequence[ResourcesSpec]) -> Iterator[Finding]:
    """Whether it answers and takes the token, its version of Ray, its nodes, and room for runs."""
    try:
        client = client_of(endpoint)
    except SpecError as error:
        remedy = "give the address of a running cluster's dashboard, and its own token"
        yield Finding("cluster", "fail", str(error), remedy)
        return
    yield Finding("cluster", "ok", f"{endpoint.address} answers and takes the token")
    yield version(server_version(client), importlib.metadata.version("ray"))
    found = nodes_of(client)
    yield nodes(found)
    if runs:
        yield room(found, runs)


def version(there: str, here: str) -> Finding:
    """Ray's, on both sides."""
    if there == here:
        return Finding("ray", "ok", f"{there} there and here")
    remedy = f"use ray=={there} here: --environment pinned is refused otherwise"
    return Finding("ray", "warn", f"{there} there, {here} here", remedy)


def nodes(found: Sequence[dict[str, Any]]) -> Finding:
    """Who is alive, and what they have in all."""
    alive = alive_of(found)
    cpus, gpus = (sum(has(node, kind) for node in alive) for kind in ("CPU", "GPU"))
    lost = len(found) - len(alive)
    said = f"{len(alive)} alive with {cpus:g} CPUs and {gpus:g} GPUs"
    if lost:
        said += f", {lost} gone"
    remedy = "" if alive else "start nodes (ray start --address=HEAD:6379)"
    return Finding("nodes", "ok" if alive else "fail", said, remedy)


def room(found: Sequence[dict[str, Any]], runs: Sequence[ResourcesSpec]) -> Finding:
    """Whether each of the study's runs fits the nodes that are alive, by their labels too."""
    for run in sorted(runs, key=lambda resources: resources.workers):
        fits = sum(workers_on(node, run) for node in alive_of(found))
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


def workers_on(node: dict[str, Any], run: ResourcesSpec) -> int:
    """How many of a run's workers a node holds."""
    labels = node.get("labels") or {}
    if any(labels.get(key) != value for key, value in run.labels.items()):
        return 0
    fits = int(has(node, "CPU") // run.cpus_per_worker)
    if run.gpus_per_worker:
        fits = min(fits, int(has(node, "GPU") / run.gpus_per_worker))
    return fits


def alive_of(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes that are up."""
    return [node for node in found if node["state"] == "ALIVE"]


def has(node: dict[str, Any], kind: str) -> float:
    """How much of a resource a node has."""
    return float((node.get("resources_total") or {}).get(kind, 0.0))
