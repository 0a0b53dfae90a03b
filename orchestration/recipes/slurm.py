"""A study or sweep on Slurm: a batch script that starts Ray on its nodes and runs it."""

from __future__ import annotations

import math
import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined

from cola.errors import SpecError
from orchestration.planning.units import rungs_as_text
from orchestration.recipes.node_groups import NodeGroup
from orchestration.recipes.recipes import only_group, start_options
from orchestration.recipes.registry import Kind, RecipeRequest
from orchestration.recipes.sources import setup_with
from orchestration.remote.clusters import ClusterSpec
from orchestration.slurm.times import (
    START_SECONDS,
    check_limit,
    seconds_of,
    warning_seconds,
)
from orchestration.state.paths import output_root

HOURS_SPARE = 1.5  # times the planned hours are asked for; a chosen value
# Most hours of one job, which is queued again until the study is finished. A chosen value.
MOST_HOURS = 48
# Options of sbatch that the description of a cluster gives as they are.
OPTIONS = {
    "partition": "--partition",
    "account": "--account",
    "qos": "--qos",
    "constraint": "--constraint",
    "memory": "--mem",
}


def text(request: RecipeRequest, sources: str | None = None) -> str:
    """The script; `sources` is the folder of those that were sent.

    Raises:
        SpecError: the study's runs ask for several groups of nodes, or the time limit leaves no
            time to train.
    """
    group = only_group(KIND.name, request.groups)
    return batch_script(request, group, time_limit(request), sources=sources)


def time_limit(request: RecipeRequest) -> str:
    """The job's time limit: the cluster's, or by the plan's hours; of jobs by rung the shorter one.

    Raises:
        SpecError: it is not above the grace.
    """
    cluster, work = request.cluster, request.work
    limit = cluster.time
    if limit is None or work.rungs is not None:
        seconds = max(work.seconds() / cluster.allocations, *work.run_seconds().values(), 0.0)
        hours = planned_hours(seconds, cluster.grace_seconds)
        limit = min(f"{hours}:00:00", limit or f"{MOST_HOURS}:00:00", key=seconds_of)
    check_limit(seconds_of(limit), cluster.grace_seconds, where=f"--time={limit}")
    return limit


def planned_hours(seconds: float, grace: int) -> int:
    """Hours of a job: HOURS_SPARE times what the plan expects of its runs one after another, and
    what it needs beside."""
    beside = warning_seconds(grace) + START_SECONDS
    return max(1, math.ceil((HOURS_SPARE * seconds + beside) / 3600))


def long_runs(request: RecipeRequest) -> list[str]:
    """A sentence on each run of a study that one job of this limit cannot finish.

    Raises:
        SpecError: the limit leaves no time to train.
    """
    cluster = request.cluster
    limit = seconds_of(time_limit(request))
    left = limit - warning_seconds(cluster.grace_seconds) - START_SECONDS
    return [
        f"{name}: {seconds / 3600:.3g} hours by the plan, and a job trains for {left / 3600:.3g} "
        f"at most: it is saved before the limit, and resumed by the next start, about "
        f"{math.ceil(seconds / left)} in all"
        for name, seconds in request.work.run_seconds().items()
        if seconds > left
    ]


def batch_script(
    request: RecipeRequest, group: NodeGroup, time: str, *, sources: str | None = None
) -> str:
    """A batch script over several nodes, queued again until the work is finished."""
    environment = Environment(
        loader=PackageLoader("orchestration"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (a shell script; every value below is checked or a number)
    )
    work, cluster = request.work, request.cluster
    # The name has only [a-z0-9._-] (a rule of the specification), so the shell takes it literally;
    # the specification is in a quoted here-document.
    return environment.get_template("slurm.sh.j2").render(
        kind=work.kind,
        name=work.name,
        file=f"{work.name}.yaml",
        specification=work.specification,
        output=shlex.quote(str(output_root(work.study))),
        nodes=node_range(group),
        per_node=group.workers_per_node,
        start=shlex.join(start_options(group)),
        cpus=group.cpus,
        gpus=group.gpus,
        options=sbatch_options(cluster),
        time=time,
        grace=cluster.grace_seconds,
        warning=warning_seconds(cluster.grace_seconds),
        setup=setup_lines(cluster, sources),
        alone=cluster.allocations == 1 and work.rungs is None,
        rungs=None if work.rungs is None else rungs_as_text(work.rungs),
        jobs=cluster.allocations,
    )


def node_range(group: NodeGroup) -> str:
    """The nodes of a job, as Slurm writes them: 4, or 2-4."""
    return f"{group.limit}" if group.least >= group.limit else f"{group.least}-{group.limit}"


def sbatch_options(cluster: ClusterSpec) -> list[str]:
    """The options of sbatch that the cluster's description has."""
    given = {option: getattr(cluster, key) for key, option in OPTIONS.items()}
    options = [f"{option}={value}" for option, value in given.items() if value is not None]
    return [*options, "--exclusive"] if cluster.exclusive else options


def setup_lines(cluster: ClusterSpec, sources: str | None) -> list[str]:
    """The lines of bash that make the environment, with the folder of `sources` before its own.

    Raises:
        SpecError: one would be read as a directive of Slurm.
    """
    lines = setup_with(cluster, sources)
    for line in lines:
        if line.lstrip().startswith("#SBATCH"):
            raise SpecError(
                f"setup: {line}: comes after the first command, where Slurm reads no directives; "
                "use the keys partition, account, qos, constraint, time, memory, exclusive"
            )
    return lines


KIND = Kind("slurm", "a Slurm script", text)
