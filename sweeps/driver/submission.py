"""A sweep as it is sent to a cluster."""

from __future__ import annotations

import json

from cola.spec.resources import ResourcesSpec
from cola.spec.yaml_text import dump_yaml
from orchestration.remote.packaging import check_study
from orchestration.remote.submission import Submission
from sweeps.driver.plan import plan_sweep
from sweeps.space.base_study import written_study
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec


def sweep_submission(sweep: SweepSpec, overrides: list[str]) -> Submission:
    """The sweep with its base study in it, at its scale, with all overrides applied.

    Every value of the space has gone through its key's own type.

    Raises:
        SpecError: the sweep is invalid, or has relative paths or a secret in it.
    """
    check_study(written_study(sweep, overrides))
    planner = PointPlanner(sweep, overrides)
    plan = plan_sweep(planner)
    # A trial is a run at a time; those side by side need as many nodes.
    concurrent = planner.sweep.concurrent_trials or planner.base.resources.concurrent_runs
    needs = [run.resources for run in plan.runs] or [planner.base.resources]
    return Submission(
        kind="sweep",
        specification=dump_yaml(whole_sweep(planner)),
        study=planner.base,
        resources=[side_by_side(each, concurrent) for each in needs],
        seconds=lambda: plan.effort.seconds,
    )


def whole_sweep(planner: PointPlanner) -> dict[str, object]:
    """The sweep as one specification: what it names or changes elsewhere is in its base study."""
    values: dict[str, object] = json.loads(planner.sweep.model_dump_json())
    return values | {"study": json.loads(planner.base.model_dump_json()), "set": {}, "scales": {}}


def side_by_side(resources: ResourcesSpec, concurrent: int | None) -> ResourcesSpec:
    """What a run needs, where so many train at the same time."""
    return resources.model_copy(update={"concurrent_runs": concurrent})
