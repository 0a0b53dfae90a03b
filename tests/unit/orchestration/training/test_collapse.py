"""Runs whose latents collapse are stopped, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from cola.data import PreparedData
from cola.families.cola.spec import ColaModelSpec, ColaObjective
from cola.spec.objectives import JointObjective
from cola.spec.training import OptimizerSpec, ScheduleSpec
from cola.study import RunSpec
from orchestration.training.hooks import StopOnCollapse
from tests.unit.orchestration.training.test_train_loop import Losses, trained


def cola_run(run: RunSpec, log_snr: float | None, steps: int, **stage2: Any) -> RunSpec:
    """20 steps of stage 1 and `steps` of stage 2 with these settings, without a schedule, at a rate
    at which what collapses does so soon."""
    assert isinstance(run.model, ColaModelSpec)
    assert isinstance(run.objective, ColaObjective)
    vae = run.model.vae.model_copy(update={"log_snr": log_snr})
    joint = JointObjective(**stage2)
    plans = [
        stage.model_copy(update={"steps": count})
        for stage, count in zip(run.stages, (20, steps), strict=True)
    ]
    training = run.training.model_copy(
        update={
            "optimizer": OptimizerSpec(learning_rate=1e-2),
            "schedule": ScheduleSpec(kind="constant", warmup_fraction=0.0),
        }
    )
    return run.model_copy(
        update={
            "model": run.model.model_copy(update={"vae": vae}),
            "objective": run.objective.model_copy(update={"stage2": joint}),
            "stages": plans,
            "training": training,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("log_snr", "stage2"),
    [
        (None, {"gradient_mode": "joint", "lambda_ref": 0.0}),  # sigma shrinks (model.md, Eq. 28)
        (
            3.0,
            {"gradient_mode": "joint", "lambda_vae": 0.0, "lambda_ref": 0.0},
        ),  # the latents turn constant
    ],
)
def test_a_collapse_ends_the_run_and_is_named(
    log_snr: float | None,
    stage2: dict[str, Any],
    runs: dict[str, RunSpec],
    data: PreparedData,
) -> None:
    run = cola_run(runs["cola"], log_snr, 300, **stage2)
    state = trained(run, data, StopOnCollapse(2))
    assert state.stop == "diverged"
    assert 20 < state.step < run.steps
    assert state.stop_code == "collapsed"
    assert "latents collapsed" in str(state.stop_reason)
    assert "fm " in str(state.stop_reason)


@pytest.mark.slow
def test_a_healthy_run_is_not_stopped(runs: dict[str, RunSpec], data: PreparedData) -> None:
    run = cola_run(runs["cola"], None, 60, gradient_mode="detach_target")
    losses = Losses()
    state = trained(run, data, StopOnCollapse(1), losses)
    assert (state.stop, len(losses.values)) == ("finished", run.steps)


def test_a_family_without_latents_is_left_alone(
    runs: dict[str, RunSpec], data: PreparedData
) -> None:
    assert trained(runs["ar"], data, StopOnCollapse(1)).stop == "finished"
