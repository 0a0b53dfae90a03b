"""The kinds of recipes there are, and the text of one.

A kind is a module of this folder with a `KIND`; it needs no entry elsewhere.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.recipes.node_groups import NodeGroup, node_groups
from orchestration.remote.packaging import check_study

log = logging.getLogger(__name__)

IMAGE = "cola-scaling:latest"


@dataclass(frozen=True)
class RecipeRequest:
    """What a recipe is made from: a study, its planned runs, and the nodes that hold them."""

    study: StudySpec
    runs: Sequence[PlannedRun]
    groups: Sequence[NodeGroup]
    image: str  # container image with this product in it


@dataclass(frozen=True)
class Kind:
    """One way to start a cluster.

    `output` completes "Print ..." in the command's help; `text` raises SpecError for a request that
    this kind of cluster cannot serve.
    """

    name: str
    output: str
    text: Callable[[RecipeRequest], str]


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
    study: StudySpec,
    gpus_per_node: int,
    *,
    cpus_per_node: int,
    limit: int | None = None,
    image: str = IMAGE,
) -> str:
    """The recipe's text, for nodes of that many GPUs and CPUs, at most `limit` of each group.

    Raises:
        SpecError: an unknown kind, a study with relative paths or a secret in it, nodes that are
            too small or too few, or different nodes where a kind starts only equal ones.
    """
    if kind not in kinds():
        raise SpecError(f"--kind {kind}: unknown; valid: {', '.join(kinds())}")
    check_study(study)
    runs = plan_study(study)
    groups = node_groups(runs, gpus_per_node, cpus_per_node, limit=limit)
    log.info("study %s: %d runs on %d groups of nodes", study.name, len(runs), len(groups))
    return kinds()[kind].text(RecipeRequest(study, runs, groups, image))
