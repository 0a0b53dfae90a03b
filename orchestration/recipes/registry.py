"""The kinds of recipes there are, and the text of one.

A kind is a module of this folder with a `KIND`; it needs no entry elsewhere.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from cola.errors import SpecError
from orchestration.recipes.node_groups import NodeGroup, node_groups
from orchestration.remote.clusters import ClusterSpec
from orchestration.remote.submission import Submission

log = logging.getLogger(__name__)

IMAGE = "cola-scaling:latest"


@dataclass(frozen=True)
class ClusterRequest:
    """What a recipe is made from that is the same for every study and sweep."""

    cluster: ClusterSpec
    image: str  # container image with this product in it


@dataclass(frozen=True)
class RecipeRequest(ClusterRequest):
    """What a recipe is made from: a study or sweep, the nodes that hold its runs, the cluster."""

    work: Submission
    groups: Sequence[NodeGroup]


@dataclass(frozen=True)
class Kind:
    """One way to start a cluster.

    `output` completes "Print ..." in the command's help; `text` raises SpecError for a request that
    this kind of cluster cannot serve. `alone` is the text where neither a study nor a sweep is
    given; None where the kind needs one.
    """

    name: str
    output: str
    text: Callable[[RecipeRequest], str]
    alone: Callable[[ClusterRequest], str] | None = None


@cache
def kinds() -> dict[str, Kind]:
    """All kinds by name, in the order of their modules' names."""
    folder = importlib.import_module("orchestration.recipes")
    names = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    modules = [importlib.import_module(f"{folder.__name__}.{name}") for name in names]
    declared = [module.KIND for module in modules if hasattr(module, "KIND")]
    return {kind.name: kind for kind in declared}


def recipe(
    kind: str,
    work: Submission | None,
    cluster: ClusterSpec,
    *,
    image: str | None = None,
) -> str:
    """The recipe's text, for the cluster's nodes; `image` comes before the cluster's own.

    Raises:
        SpecError: an unknown kind, one that needs a study or sweep or takes none, nodes that are
            too small or too few, or different nodes where a kind starts only equal ones.
    """
    if kind not in kinds():
        raise SpecError(f"--kind {kind}: unknown; valid: {', '.join(kinds())}")
    alone = kinds()[kind].alone
    if alone is not None and work is not None:
        raise SpecError(f"--kind {kind}: takes no study or sweep ({work.name}); leave it out")
    if alone is not None:
        return alone(ClusterRequest(cluster, image or cluster.image or IMAGE))
    if work is None:
        raise SpecError(
            f"--kind {kind}: is for a study or sweep; name it: `cola recipe THING --kind {kind}`"
        )
    return kinds()[kind].text(request_of(work, cluster, image=image))


def of_one_job(group: NodeGroup, concurrent_runs: int | None) -> NodeGroup:
    """The nodes of one of several jobs: those of its own runs, not all that one job might have."""
    return replace(group, limit=min(group.limit, group.nodes * (concurrent_runs or 1)))


def request_of(
    work: Submission, cluster: ClusterSpec, *, image: str | None = None
) -> RecipeRequest:
    """What a recipe is made from.

    Raises:
        SpecError: nodes that are too small or too few.
    """
    groups = node_groups(
        work.resources, cluster.gpus_per_node, cluster.cpus_per_node, limit=cluster.nodes
    )
    if cluster.allocations > 1 or work.rungs is not None:
        groups = [of_one_job(group, work.resources[0].concurrent_runs) for group in groups]
    log.info("%s %s: %d groups of nodes", work.kind, work.name, len(groups))
    return RecipeRequest(cluster, image or cluster.image or IMAGE, work, groups)
