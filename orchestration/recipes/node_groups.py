"""The nodes that a study's runs need: one group of equal nodes for every choice of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cola.errors import SpecError
from cola.spec.resources import ResourcesSpec
from orchestration.planning.plan import PlannedRun

ACCELERATOR_LABEL = "ray.io/accelerator-type"


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes. `nodes` hold the largest run's workers, `least` those that it can go on with,
    and `limit` is how many there may be; `cpus` and `gpus` are of one node."""

    labels: dict[str, str]
    least: int
    nodes: int
    limit: int
    workers_per_node: int
    cpus: int
    gpus: int


def node_groups(
    runs: Sequence[PlannedRun], gpus_per_node: int, cpus_per_node: int, limit: int | None
) -> list[NodeGroup]:
    """The groups, each sized for the largest of its runs, in the order of the plan.

    Args:
        limit: at most so many nodes in a group; None for what one run needs, times
            `resources.concurrent_runs`.

    Raises:
        SpecError: a node that holds no worker, or a limit below what one run needs.
    """
    by_labels: dict[tuple[tuple[str, str], ...], list[ResourcesSpec]] = {}
    for run in runs:
        by_labels.setdefault(tuple(sorted(run.resources.labels.items())), []).append(run.resources)
    return [
        node_group(dict(labels), resources, gpus_per_node, cpus_per_node, limit)
        for labels, resources in by_labels.items()
    ]


def node_group(
    labels: dict[str, str],
    runs: Sequence[ResourcesSpec],
    gpus_per_node: int,
    cpus_per_node: int,
    limit: int | None,
) -> NodeGroup:
    """As few nodes as hold one run's workers.

    Raises:
        SpecError: see `node_groups`.
    """
    largest = max(runs, key=lambda resources: resources.workers)
    each = min(workers_on(largest, gpus_per_node, cpus_per_node), largest.workers)
    nodes = math.ceil(largest.workers / each)
    least = max(math.ceil((run.min_workers or run.workers) / each) for run in runs)
    if limit is not None and limit < least:
        raise SpecError(
            f"--nodes {limit}: a run of resources.workers={largest.workers} needs {least} nodes "
            f"of {each} workers each; allow as many, or set resources.min_workers"
        )
    allowed = limit or nodes * (largest.concurrent_runs or 1)
    return NodeGroup(
        labels=labels,
        least=least,
        nodes=min(nodes, allowed),
        limit=allowed,
        workers_per_node=each,
        cpus=math.ceil(each * largest.cpus_per_worker),
        gpus=math.ceil(each * largest.gpus_per_worker),
    )


def workers_on(resources: ResourcesSpec, gpus_per_node: int, cpus_per_node: int) -> int:
    """Workers that a node holds.

    Raises:
        SpecError: it holds not one.
    """
    each = int(cpus_per_node // resources.cpus_per_worker)
    if resources.gpus_per_worker:
        each = min(each, int(gpus_per_node / resources.gpus_per_worker))
    if each < 1:
        raise SpecError(
            f"a node of {cpus_per_node} CPUs and {gpus_per_node} GPUs holds no worker of "
            f"resources.cpus_per_worker={resources.cpus_per_worker:g} and "
            f"gpus_per_worker={resources.gpus_per_worker:g}; give --cpus-per-node, "
            "--gpus-per-node"
        )
    return each


def own_labels(group: NodeGroup) -> dict[str, str]:
    """Labels that the nodes have to be started with; the accelerator Ray finds out by itself."""
    return {key: value for key, value in group.labels.items() if key != ACCELERATOR_LABEL}
