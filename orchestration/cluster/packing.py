"""Runs as workers to be packed on nodes: which nodes suit a run, and how many workers they hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SLACK = 1e-6  # shares of a CPU or GPU are floats

Free = dict[str, tuple[float, float]]  # node id -> CPUs and GPUs


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
class Request:
    """A run that waits, with what each of its workers takes.

    `size` orders (as training FLOPs), `seconds` is the expected duration, `since` the time at which
    it began to wait, `at_once` how many runs its owner may have at a time. An elastic run does with
    `min_workers`. How often, and since when, it was overtaken is the queue's to fill in.
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
    def least(self) -> int:
        """The workers without which it cannot start."""
        return self.min_workers or self.workers


@dataclass(frozen=True)
class Holding:
    """A run that was admitted: its workers' nodes where Ray has placed them, else none."""

    request: Request
    workers: int
    ends: float  # expected
    nodes: tuple[str, ...] = ()

    @property
    def placed(self) -> bool:
        """Whether its workers have their nodes."""
        return bool(self.nodes)


@dataclass(frozen=True)
class Group:
    """A placement group that Ray has placed: the node of each bundle of (CPUs, GPUs)."""

    id: str
    bundles: tuple[tuple[float, float], ...]
    nodes: tuple[str, ...]

    def carries(self, request: Request, workers: int) -> bool:
        """Whether it can be that of a run with so many workers (fewer, where it is elastic)."""
        fewest = min(workers, request.least)
        return fewest <= len(self.bundles) <= max(workers, request.workers) and all(
            abs(cpus - request.cpus) < SLACK and abs(gpus - request.gpus) < SLACK
            for cpus, gpus in self.bundles
        )


@dataclass(frozen=True)
class ClusterState:
    """What Ray says of the cluster at a moment."""

    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels suit, in Ray's syntax: value, !value, in(a,b), !in(a,b)."""
    return all(_suits(labels.get(key), wanted) for key, wanted in selector.items())


def _suits(label: str | None, wanted: str) -> bool:
    negated = wanted.startswith("!")
    wanted = wanted.removeprefix("!")
    if wanted.startswith("in(") and wanted.endswith(")"):
        values = [value.strip() for value in wanted[3:-1].split(",")]
    else:
        values = [wanted]
    return (label in values) != negated


def room(request: Request, free: tuple[float, float]) -> int:
    """How many of the run's workers fit into so many CPUs and GPUs."""
    fits = [
        math.floor((present + SLACK) / needed)
        for present, needed in zip(free, (request.cpus, request.gpus), strict=True)
        if needed > 0
    ]
    return max(0, min(fits)) if fits else request.workers


def eligible(request: Request, nodes: Iterable[Node]) -> list[Node]:
    """Nodes on which a worker of the run could be, were they empty."""
    return [
        node
        for node in nodes
        if matches(request.labels, node.labels) and room(request, (node.cpus, node.gpus))
    ]


def most_workers(request: Request, nodes: Iterable[Node], free: Free) -> int:
    """How many of its workers find a place in what is free, at most those it asks for."""
    found = sum(room(request, free[node.id]) for node in eligible(request, nodes))
    return min(found, request.workers)


def pack(
    request: Request, workers: int, nodes: Sequence[Node], free: Free
) -> tuple[str, ...] | None:
    """A node for each of so many workers, or None where they do not fit.

    GPUs are left to those who need them, labels too; then the fullest node comes first.
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


def without(free: Free, request: Request, placed: Iterable[str], sign: int = -1) -> Free:
    """What is free once workers of the run take (sign +1: give back) their places."""
    changed = dict(free)
    for node in placed:
        if node in changed:  # else it died
            cpus, gpus = changed[node]
            changed[node] = (cpus + sign * request.cpus, gpus + sign * request.gpus)
    return changed


def both(one: Free, other: Free) -> Free:
    """What is free in both."""
    return {
        node: (min(free[0], other[node][0]), min(free[1], other[node][1]))
        for node, free in one.items()
    }


def free_now(nodes: Sequence[Node], holdings: Iterable[Holding]) -> Free:
    """What placed runs and strangers leave of each node.

    A placed run keeps its share also while Ray says that it is free (its workers start again).
    """
    whole: Free = {node.id: (node.cpus, node.gpus) for node in nodes}
    ours = whole
    for holding in holdings:
        ours = without(ours, holding.request, holding.nodes)
    reported: Free = {node.id: (node.free_cpus, node.free_gpus) for node in nodes}
    return both(ours, reported)
