"""Every sweep that ships with the product is planned at every scale."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.sweep_report.data import value_label
from cola.errors import SpecError
from cola.families.registry import definition_of
from sweeps.cli import app
from sweeps.driver.plan import describe_plan, plan_sweep
from sweeps.space.catalog import load_sweep, shipped_sweeps
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SCALES

# Of run time one after the other, on two cores: half an hour, and an hour where every point of a
# profile is trained at three rates.
LAPTOP_SECONDS = {"latent-rate": 62 * 60 * 2}
SECONDS_OF_OTHERS = 30 * 60 * 2


# The rates of one study are searched on that study, which has one size.
OF_ONE_STUDY = ("tune-known-truth", "tune-laptop-evening")
SCALED = [
    (name, scale) for name in shipped_sweeps() if name not in OF_ONE_STUDY for scale in SCALES
]


@pytest.mark.parametrize(("name", "scale"), [*SCALED, *((name, None) for name in OF_ONE_STUDY)])
def test_a_shipped_sweep_is_planned(name: str, scale: str | None) -> None:
    sweep = load_sweep(name, scale)
    assert sweep.name == name
    plan = plan_sweep(PointPlanner(sweep, []))
    assert all(arm.points for arm in plan.arms)
    assert not any(arm.excluded for arm in plan.arms)
    limit = LAPTOP_SECONDS.get(name, SECONDS_OF_OTHERS)
    assert scale in ("node", "cluster") or plan.effort.seconds < limit
    text = "\n".join(describe_plan(plan))
    assert sweep.question in text
    arms = {"tune-families": 6, "rate-schedules": 3}.get(name)
    assert ("Equal effort" in text) == (arms is not None)
    assert arms is None or f"Equal effort: each of the {arms} arms" in text


def test_the_spaces_of_diffusion_are_compared_at_equal_compute_and_size() -> None:
    planner = PointPlanner(load_sweep("rq3-diffusion", "laptop"), [])
    (arm,) = (arm for arm in plan_sweep(planner).arms if arm.arm == "space")
    assert [value_label(point.point["families"]) for point in arm.points] == [
        "latent", "embedding", "mask"
    ]  # fmt: skip
    runs = [point.runs[0] for point in arm.points]
    assert {run.spec.family for run in runs} == {"cola", "embedding_diffusion", "bd3lm"}
    flops = [run.train_flops("executed") for run in runs]
    assert max(flops) < 1.01 * min(flops)
    cores = [definition_of(run.spec.family).parameter_counts(run.spec.model).core for run in runs]
    assert max(cores) < 1.03 * min(cores)


def test_questions_about_use_train_one_model_a_seed() -> None:
    plan = plan_sweep(PointPlanner(load_sweep("first-block", "laptop"), []))
    assert len(plan.runs) == 2
    assert len(plan.arms[0].points) == 16


def test_an_unknown_scale_or_sweep_says_what_there_is() -> None:
    with pytest.raises(SpecError, match="laptop, node, cluster"):
        load_sweep("first-block", "phone")
    with pytest.raises(SpecError, match="rq1-semantic-structure"):
        load_sweep("rq7", None)


def test_going_on_with_what_was_never_started_is_refused(tmp_path: Path) -> None:
    given = ["sweep", "first-block", "--resume", "--set", f"output={tmp_path}"]
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, SpecError)
    assert "first-block: --resume, but" in str(result.exception)
    assert not list(tmp_path.iterdir())
