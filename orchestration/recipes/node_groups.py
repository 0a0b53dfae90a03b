"""The nodes that a study's runs need: one group of equal nodes for each set of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cola.errors import SpecError
from cola.spec.resources import ResourcesSpec

ACCELERATOR_LABEL = "ray.io/accelerator-type"


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes, of `cpus` and `gpus` each.

    `nodes` of them hold all workers of the largest run, and `least` its `min_workers`; there may be
    up to `limit`.
    """

    labels: dict[str, str]
    least: int
    nodes: int
    limit: int
    workers_per_node: int
    cpus: int
    gpus: int


def node_groups(
    runs: Sequence[ResourcesSpec], gpus_per_node: int, cpus_per_node: int, *, limit: int | None
) -> list[NodeGroup]:
    """The groups, each sized for the largest of its runs, in the order of the plan.

    Args:
        runs: what each run needs.
        limit: most nodes of a group; None for what one run needs, times
            `resources.concurrent_runs`.

    Raises:
        SpecError: a node holds no worker, or the limit is below what one run needs.
    """
    by_labels: dict[tuple[tuple[str, str], ...], list[ResourcesSpec]] = {}
    for run in runs:
        by_labels.setdefault(tuple(sorted(run.labels.items())), []).append(run)
    return [
        node_group(dict(labels), resources, gpus_per_node, cpus_per_node=cpus_per_node, limit=limit)
        for labels, resources in by_labels.items()
    ]


def node_group(
    labels: dict[str, str],
    runs: Sequence[ResourcesSpec],
    gpus_per_node: int,
    *,
    cpus_per_node: int,
    limit: int | None,
) -> NodeGroup:
    """The fewest nodes that hold one run's workers.

    Raises:
        SpecError: see `node_groups`.
    """
    largest = max(runs, key=lambda resources: resources.workers)
    per_node = min(workers_per_node(largest, gpus_per_node, cpus_per_node), largest.workers)
    nodes = math.ceil(largest.workers / per_node)
    least = max(math.ceil((run.min_workers or run.workers) / per_node) for run in runs)
    if limit is not None and limit < least:
        raise SpecError(
            f"--nodes {limit}: a run of resources.workers={largest.workers} needs {least} nodes "
            f"of {per_node} workers each; allow as many, or set resources.min_workers"
        )
    allowed = limit or nodes * (largest.concurrent_runs or 1)
    return NodeGroup(
        labels=labels,
        least=least,
        nodes=min(nodes, allowed),
        limit=allowed,
        workers_per_node=per_node,
        cpus=math.ceil(per_node * largest.cpus_per_worker),
        gpus=math.ceil(per_node * largest.gpus_per_worker),
    )


def workers_per_node(resources: ResourcesSpec, gpus_per_node: int, cpus_per_node: int) -> int:
    """Number of workers that a node holds.

    Raises:
        SpecError: it holds none.
    """
    workers = int(cpus_per_node // resources.cpus_per_worker)
    if resources.gpus_per_worker:
        workers = min(workers, int(gpus_per_node / resources.gpus_per_worker))
    if workers < 1:
        raise SpecError(
            f"a node of {cpus_per_node} CPUs and {gpus_per_node} GPUs holds no worker of "
            f"resources.cpus_per_worker={resources.cpus_per_worker:g} and "
            f"gpus_per_worker={resources.gpus_per_worker:g}; give --cpus-per-node, "
            "--gpus-per-node"
        )
    return workers


def own_labels(group: NodeGroup) -> dict[str, str]:
    """Labels to start the nodes with: all but the accelerator's, which Ray detects itself."""
    return {key: value for key, value in group.labels.items() if key != ACCELERATOR_LABEL}
