"""Runs as workers to be packed on nodes: which nodes suit a run, and how many workers they hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SLACK = 1e-6  # chosen value: shares of a CPU or GPU are floats, whose sums are rounded

FreeResources = dict[str, tuple[float, float]]  # node id -> CPUs and GPUs


@dataclass(frozen=True)
class Node:
    """A node of the cluster: what it has in all, and what Ray says is free."""

    id: str
    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)
    alive: bool = True


@dataclass(frozen=True)
class RunRequest:
    """A run that waits, with what each of its workers takes.

    `size` orders runs (as training FLOPs), `seconds` is the expected duration, `since` the time at
    which it began to wait, `at_once` how many runs its owner may have at a time. An elastic run
    needs only `min_workers`. The queue fills in how often, and since when, it was overtaken.
    """

    id: str
    owner: str
    name: str  # for people
    study: str
    workers: int
    cpus: float
    gpus: float
    size: float
    seconds: float
    since: float
    labels: Mapping[str, str] = field(default_factory=dict)
    min_workers: int | None = None
    priority: int = 0
    at_once: int | None = None
    overtaken: int = 0
    overtaken_since: float | None = None

    @property
    def min_workers_needed(self) -> int:
        """Minimum number of workers needed to start."""
        return self.min_workers or self.workers


@dataclass(frozen=True)
class RunAllocation:
    """What an admitted run takes: its workers' nodes once Ray has placed them, until then none."""

    request: RunRequest
    workers: int
    ends: float  # expected
    nodes: tuple[str, ...] = ()

    @property
    def placed(self) -> bool:
        """Whether Ray has given its workers their nodes."""
        return bool(self.nodes)


@dataclass(frozen=True)
class PlacedGroup:
    """A placement group that Ray has placed: the node of each bundle of (CPUs, GPUs)."""

    id: str
    bundles: tuple[tuple[float, float], ...]
    nodes: tuple[str, ...]

    def suits(self, request: RunRequest, workers: int) -> bool:
        """Whether this placement group could belong to a run with `workers` workers (elastic runs
        may have fewer)."""
        fewest = min(workers, request.min_workers_needed)
        return fewest <= len(self.bundles) <= max(workers, request.workers) and all(
            abs(cpus - request.cpus) < SLACK and abs(gpus - request.gpus) < SLACK
            for cpus, gpus in self.bundles
        )


@dataclass(frozen=True)
class ClusterState:
    """Snapshot of a cluster, as Ray reports it."""

    nodes: tuple[Node, ...]
    groups: tuple[PlacedGroup, ...]
    ended_jobs: frozenset[str] = frozenset()  # ids of Ray jobs


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels match, in Ray's syntax: value, !value, in(a,b), !in(a,b)."""
    return all(_matches(labels.get(key), condition) for key, condition in selector.items())


def _matches(label: str | None, condition: str) -> bool:
    negated = condition.startswith("!")
    condition = condition.removeprefix("!")
    if condition.startswith("in(") and condition.endswith(")"):
        values = [value.strip() for value in condition[3:-1].split(",")]
    else:
        values = [condition]
    return (label in values) != negated


def room(request: RunRequest, free: tuple[float, float]) -> int:
    """Number of the run's workers that fit into these free CPUs and GPUs."""
    fits = [
        math.floor((present + SLACK) / needed)
        for present, needed in zip(free, (request.cpus, request.gpus), strict=True)
        if needed > 0
    ]
    return max(0, min(fits)) if fits else request.workers


def eligible(request: RunRequest, nodes: Iterable[Node]) -> list[Node]:
    """Nodes that could hold a worker of the run if they were empty."""
    return [
        node
        for node in nodes
        if matches(request.labels, node.labels) and room(request, (node.cpus, node.gpus))
    ]


def most_workers(request: RunRequest, nodes: Iterable[Node], free: FreeResources) -> int:
    """Number of the request's workers that fit into the free resources, capped at
    `request.workers`."""
    fitting = sum(room(request, free[node.id]) for node in eligible(request, nodes))
    return min(fitting, request.workers)


def pack(
    request: RunRequest, workers: int, nodes: Sequence[Node], *, free: FreeResources
) -> tuple[str, ...] | None:
    """A node for each of `workers` workers, or None where they do not fit.

    Nodes with GPUs or labels that the run does not need come last; then the fullest comes first.
    """

    def preference(node: Node) -> tuple[bool, int, float, float, str]:
        cpus, gpus = free[node.id]
        wasted = node.gpus > 0 and request.gpus == 0
        spare = sum(key not in request.labels for key in node.labels)
        return wasted, spare, gpus, cpus, node.id

    chosen: list[str] = []
    for node in sorted(eligible(request, nodes), key=preference):
        chosen += [node.id] * min(room(request, free[node.id]), workers - len(chosen))
    return tuple(chosen) if len(chosen) == workers else None


def without(
    free: FreeResources, request: RunRequest, placed: Iterable[str], *, sign: int = -1
) -> FreeResources:
    """Free resources once workers of the run take (sign +1: release) theirs on these nodes."""
    changed = dict(free)
    for node in placed:
        if node in changed:  # else it died
            cpus, gpus = changed[node]
            changed[node] = (cpus + sign * request.cpus, gpus + sign * request.gpus)
    return changed


def free_in_both(one: FreeResources, other: FreeResources) -> FreeResources:
    """Resources that are free in both views of the cluster."""
    return {
        node: (min(free[0], other[node][0]), min(free[1], other[node][1]))
        for node, free in one.items()
    }


def free_now(nodes: Sequence[Node], holdings: Iterable[RunAllocation]) -> FreeResources:
    """What placed runs and foreign processes leave of each node.

    A placed run keeps its share also while Ray reports it free (its workers are restarting).
    """
    ours: FreeResources = {node.id: (node.cpus, node.gpus) for node in nodes}
    for holding in holdings:
        ours = without(ours, holding.request, holding.nodes)
    reported: FreeResources = {node.id: (node.free_cpus, node.free_gpus) for node in nodes}
    return free_in_both(ours, reported)
