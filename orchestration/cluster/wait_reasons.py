"""The sentences that say what a waiting run waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from orchestration.cluster.packing import (
    FreeResources,
    Node,
    RunAllocation,
    RunRequest,
    eligible,
    matches,
)

HOLDERS_NAMED = 2  # chosen value: as many as fit one line


def too_large(request: RunRequest, nodes: Sequence[Node]) -> str:
    """Why the cluster could not hold the run even if it were empty."""
    matching = [node for node in nodes if matches(request.labels, node.labels)]
    if not matching:
        return f"waits for a node with {labels(request)}: the cluster has no node with that label"
    usable = eligible(request, nodes)
    if not usable:
        largest = max(matching, key=lambda node: (node.gpus, node.cpus))
        return (
            f"waits for a node with {_units(request.cpus, request.gpus)} for one worker"
            f"{_on(request)}: the largest has {_units(largest.cpus, largest.gpus)}"
        )
    kind, each = _scarce(request)
    total = sum(_of(kind, node.cpus, node.gpus) for node in usable)
    return (
        f"waits for {each * request.min_workers_needed:g} {kind}{_on(request)}: "
        f"the cluster holds {total:g} in all"
    )


def busy(
    request: RunRequest,
    nodes: Sequence[Node],
    free: FreeResources,
    *,
    holdings: Iterable[RunAllocation],
    now: float,
) -> str:
    """How much is free of what the run needs, and who holds the rest until when."""
    kind, each = _scarce(request)
    usable = {node.id for node in eligible(request, nodes)}
    spare = sum(max(0.0, _of(kind, *free[node])) for node in usable)
    holders = []
    for holding in holdings:
        here = sum(node in usable for node in holding.nodes) if holding.placed else holding.workers
        taken = here * _of(kind, holding.request.cpus, holding.request.gpus)
        if taken:
            holders.append((holding.ends, named(holding.request, request), taken))
    clauses = [
        f"{name} holds {taken:g} of them {until(ends, now)}"
        for ends, name, taken in sorted(holders)[:HOLDERS_NAMED]
    ]
    if len(holders) > HOLDERS_NAMED:
        clauses.append(f"{len(holders) - HOLDERS_NAMED} more runs hold others")
    if not holders:
        clauses = ["other programs hold the others"]
    needed = f"waits for {each * request.workers:g} {kind}{_on(request)}: {spare:g} are free"
    return ", ".join([needed, *clauses])


def its_turn(request: RunRequest, first: RunRequest) -> str:
    """Why a run that would fit waits: another one comes first."""
    return f"waits for its turn: what is free is kept for {named(first, request)}"


def own_limit(request: RunRequest) -> str:
    """Why a run waits whose study may not have more runs at a time."""
    return (
        "waits for another run of its study to end "
        f"(resources.concurrent_runs={request.at_once} are running)"
    )


def labels(request: RunRequest) -> str:
    """The labels that the run's nodes must have."""
    return ", ".join(f"{key}={value}" for key, value in sorted(request.labels.items()))


def named(request: RunRequest, reader: RunRequest) -> str:
    """The run's name, with its study where that is another than the reader's."""
    return request.name if request.study == reader.study else f"{request.study}/{request.name}"


def until(ends: float, now: float) -> str:
    """When a run is expected to end, as a clock shows it."""
    if ends <= now:
        return "for longer than planned"
    day = "" if ends - now < 12 * 3600 else "%d %b "
    return time.strftime(f"until about {day}%H:%M", time.localtime(ends))


def _scarce(request: RunRequest) -> tuple[str, float]:
    """The resource in which the run's needs are counted, and how much of it a worker takes."""
    return ("GPUs", request.gpus) if request.gpus else ("CPUs", request.cpus)


def _of(kind: str, cpus: float, gpus: float) -> float:
    return gpus if kind == "GPUs" else cpus


def _on(request: RunRequest) -> str:
    return f" on nodes with {labels(request)}" if request.labels else ""


def _units(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
