"""Jobs of a study by rung: those of small runs are small and short, those of large runs wait.

Rungs whose runs need the same nodes and hours share jobs. Each job takes the runs of its own rungs
alone, so that none holds more nodes than its runs use.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cola.errors import SpecError
from cola.terminal_tables import aligned
from orchestration.planning.shared_prefixes import prefix_plans
from orchestration.planning.units import rungs_as_text
from orchestration.recipes.node_groups import NodeGroup
from orchestration.recipes.registry import RecipeRequest, request_of
from orchestration.recipes.slurm import MOST_HOURS, long_runs, node_range, planned_hours, time_limit
from orchestration.remote.clusters import ClusterSpec
from orchestration.remote.submission import Submission, of_rungs, side_by_side
from orchestration.slurm.times import seconds_of
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root

COLUMNS = ("rungs", "jobs", "runs", "nodes", "GPUs", "hours by the plan", "limit")


@dataclass(frozen=True)
class RungSize:
    """Rungs whose runs need the same nodes, and as many hours for the longest run of each."""

    rungs: frozenset[int]
    runs: int
    seconds: float  # of all runs, one after another
    groups: Sequence[NodeGroup]
    hours: float

    @property
    def nodes(self) -> int:
        """Most nodes of a job."""
        return max(group.limit for group in self.groups)


@dataclass(frozen=True)
class RungJobs:
    """Equal jobs that take the runs of some rungs alone."""

    request: RecipeRequest
    count: int

    @property
    def rungs(self) -> str:
        """The rungs, as 0-2,5."""
        return rungs_as_text(self.request.work.rungs or ())

    def row(self) -> list[str]:
        """The cells of a table for people, of one job; hours are those of its share."""
        work, (group, *_) = self.request.work, self.request.groups
        hours = work.seconds() / self.count / 3600
        gpus = f"{group.gpus * group.limit}"
        limit = time_limit(self.request)
        runs = f"{len(work.runs)}"
        return [self.rungs, f"{self.count}", runs, node_range(group), gpus, f"{hours:.3g}", limit]


def jobs_by_rung(
    work: Submission,
    cluster: ClusterSpec,
    wanted: int | None,
    *,
    rungs: frozenset[int],
    beside: int = 0,
    allocations: int | None = None,
) -> list[RungJobs]:
    """Jobs for these rungs of a study, the smallest first: `wanted` in all, None: one a size.

    `beside` counts other jobs of the study, which share `resources.concurrent_runs` with them. No
    rungs have more jobs than runs, and all together no more than `resources.concurrent_runs`.
    `allocations` is what the command line asks for.

    Raises:
        SpecError: nodes that are too small or too few, more jobs than runs may train at a time, or
            fewer than there are kinds of nodes.
    """
    sizes, at_once = sizes_of(work, cluster, rungs), work.study.resources.concurrent_runs
    if at_once is not None and beside >= at_once:
        raise SpecError(
            f"resources.concurrent_runs={at_once}: {beside} jobs of {work.name} wait or run, which "
            f"leaves none for rungs {rungs_as_text(rungs)}; submit it again when one of them has "
            "ended"
        )
    most = len(sizes) if at_once is None else at_once - beside
    limit = limit_of_jobs(work, cluster, allocations)
    sizes = fewer_sizes(work, cluster, sizes, most=wanted or most, limit=limit)
    counts = job_counts(sizes, wanted or len(sizes))
    total = sum(counts) + beside
    shared = side_by_side(work, total)[0] if total > 1 else work
    jobs = []
    for size, count in zip(sizes, counts, strict=True):
        some = cluster.model_copy(update={"allocations": count})
        jobs.append(RungJobs(request_of(of_rungs(shared, size.rungs), some), count))
    return jobs


def unfinished_rungs(work: Submission) -> frozenset[int]:
    """The rungs of a study that have a run which is not finished, as far as this machine sees its
    output."""
    ledger = Ledger(output_root(work.study))
    return frozenset(
        run.rung for run in work.runs if ledger.known_entry(run.key).state != "finished"
    )


def finished_rungs(work: Submission) -> list[str]:
    """A sentence on rungs of a study that need no job, if there are any."""
    left_out = frozenset(run.rung for run in work.runs) - unfinished_rungs(work)
    return [f"rungs {rungs_as_text(left_out)}: finished"] if left_out else []


def sizes_of(work: Submission, cluster: ClusterSpec, rungs: frozenset[int]) -> list[RungSize]:
    """The sizes that rungs ask for, the smallest first.

    Raises:
        SpecError: nodes that are too small or too few.
    """
    sizes: list[RungSize] = []
    for rung in sorted(rungs):
        size = size_of(work, cluster, frozenset({rung}))
        for same in (s for s in sizes if (s.groups, s.hours) == (size.groups, size.hours)):
            sizes.remove(same)
            size = size_of(work, cluster, same.rungs | size.rungs)
            break
        sizes.append(size)
    return sorted(sizes, key=lambda size: (size.nodes, size.hours, min(size.rungs)))


def size_of(work: Submission, cluster: ClusterSpec, rungs: frozenset[int]) -> RungSize:
    """What the runs of these rungs need together."""
    own = of_rungs(work, rungs)
    groups = request_of(own, cluster.model_copy(update={"allocations": 1})).groups
    most = MOST_HOURS if cluster.time is None else seconds_of(cluster.time, "time") / 3600
    hours = min(planned_hours(max(own.run_seconds().values()), cluster.grace_seconds), most)
    return RungSize(rungs, len(own.runs), own.seconds(), groups, hours)


def limit_of_jobs(work: Submission, cluster: ClusterSpec, allocations: int | None) -> str:
    """What limits the number of a study's jobs: an option with its value, or a key."""
    if allocations is not None:
        return f"--allocations {allocations}"
    at_once = work.study.resources.concurrent_runs
    described = "allocations" in cluster.model_fields_set
    if described and (at_once is None or cluster.allocations < at_once):
        return f"allocations={cluster.allocations}"
    return f"resources.concurrent_runs={at_once}"


def fewer_sizes(
    work: Submission, cluster: ClusterSpec, sizes: Sequence[RungSize], *, most: int, limit: str
) -> list[RungSize]:
    """At most so many sizes: of those with the same labels neighbours are put together, first those
    that waste the least time of nodes. `limit` names what asks for so few.

    Raises:
        SpecError: runs ask for more kinds of nodes.
    """
    kinds = list(dict.fromkeys(map(labels_of, sizes)))
    if len(kinds) > most:
        raise SpecError(
            f"{limit}: leaves {most} jobs for rungs that ask for nodes of {len(kinds)} different "
            f"labels (resources.larger), which need a job each; allow {len(kinds) - most} more"
        )
    found = list(sizes)
    while len(found) > most:
        alike = [[size for size in found if labels_of(size) == labels] for labels in kinds]
        pairs = [pair for some in alike for pair in itertools.pairwise(some)]
        small, large = min(
            pairs, key=lambda pair: pair[0].seconds * (pair[1].nodes - pair[0].nodes)
        )
        found[found.index(large)] = size_of(work, cluster, small.rungs | large.rungs)
        found.remove(small)
    return found


def labels_of(size: RungSize) -> frozenset[tuple[tuple[str, str], ...]]:
    """The labels of all groups of nodes."""
    return frozenset(tuple(sorted(group.labels.items())) for group in size.groups)


def job_counts(sizes: Sequence[RungSize], wanted: int) -> list[int]:
    """How many jobs each size has: one, and further ones where each of its jobs has most to do."""
    counts = [1] * len(sizes)
    for _ in range(wanted - len(sizes)):
        growing = [
            (size.seconds * size.nodes / count, index)
            for index, (size, count) in enumerate(zip(sizes, counts, strict=True))
            if count < size.runs
        ]
        if growing:
            counts[max(growing)[1]] += 1
    return counts


def table_of(jobs: Sequence[RungJobs]) -> list[str]:
    """The jobs as the lines of a table."""
    return aligned([COLUMNS, *(each.row() for each in jobs)])


def sentences_of(jobs: Sequence[RungJobs]) -> list[str]:
    """What there is to know of jobs before they are submitted: runs that one cannot finish, and
    steps that may be trained twice.

    Raises:
        SpecError: a limit leaves no time to train.
    """
    found = [sentence for each in jobs for sentence in long_runs(each.request)]
    place = {run.key: each.rungs for each in jobs for run in each.request.work.runs}
    prefixes = prefix_plans([run for each in jobs for run in each.request.work.runs])
    apart = [
        key
        for key, plan in prefixes.items()
        if any(place[publisher] != place[key] for _, publisher in plan.resumes_from)
    ]
    if apart:
        found.append(
            f"{len(apart)} runs share their first steps with a run of other jobs: those that start "
            "before these steps are published train them too, with the same result"
        )
    return found
