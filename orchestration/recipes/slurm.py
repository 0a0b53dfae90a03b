"""A study on Slurm: a batch script that starts Ray on its nodes and runs the study."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from cola.study import StudySpec
from orchestration.planning.costs import run_costs
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import measured_rates
from orchestration.recipes.node_groups import NodeGroup
from orchestration.recipes.recipes import only_group, start_options
from orchestration.recipes.registry import Kind, RecipeRequest
from orchestration.remote.packaging import STOP_SECONDS
from orchestration.state.paths import output_root

HOURS_SPARE = 1.5  # times the planned hours are asked for; a chosen value
# Most hours of one job, which is queued again until the study is finished. A chosen value.
MOST_HOURS = 48


def text(request: RecipeRequest) -> str:
    """The script.

    Raises:
        SpecError: the study's runs ask for several groups of nodes.
    """
    group = only_group(KIND.name, request.groups)
    return batch_script(request.study, group, planned_hours(request.study, request.runs))


def planned_hours(study: StudySpec, runs: Sequence[PlannedRun]) -> int:
    """Hours for all runs one after another, HOURS_SPARE times what the plan expects."""
    rates = measured_rates(output_root(study))
    seconds = sum(
        run_costs(
            run.spec, run.resources, run.total_parameters, keep=study.checkpoint.keep, rates=rates
        ).seconds
        for run in runs
    )
    return max(1, math.ceil(HOURS_SPARE * seconds / 3600))


def batch_script(study: StudySpec, group: NodeGroup, hours: int) -> str:
    """A batch script over several nodes, queued again until the study is finished."""
    environment = Environment(
        loader=PackageLoader("orchestration"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (a shell script; every value below is checked or a number)
    )
    # The name has only [a-z0-9._-] (a rule of the specification), so the shell takes it literally;
    # the specification is in a quoted here-document.
    return environment.get_template("slurm.sh.j2").render(
        name=study.name,
        study=f"{study.name}.yaml",
        specification=study.to_yaml(),
        nodes=group.limit if group.least >= group.limit else f"{group.least}-{group.limit}",
        per_node=group.workers_per_node,
        start=shlex.join(start_options(group)),
        cpus=group.cpus,
        gpus=group.gpus,
        time=f"{min(hours, MOST_HOURS)}:00:00",
        grace=STOP_SECONDS,
    )


KIND = Kind("slurm", "a Slurm script", text)
