"""What of a run's compute trains the prior of latents, and what raises it."""

from __future__ import annotations

from typing import Any

import pytest

from cola.study import StudySpec
from cola.terminal_tables import NONE, wide_console
from orchestration.cli.plan_tables import plan_table
from orchestration.planning.corpus_size import CorpusSize
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import Plan, plan_as_json

LATENTS = {"latent_dim": 4, "block_size": 8}


def planned(tiny_study: dict[str, Any], cola: dict[str, Any]) -> tuple[Plan, PlannedRun]:
    ladder = [{"budget": 1e12, "core_parameters": 1_000_000}]
    study = StudySpec.parse(
        tiny_study | {"families": {"ar": {}, "cola": LATENTS | cola}, "ladder": ladder}
    )
    runs = plan_study(study, "x" * 64)
    (own,) = (run for run in runs if run.variant == "cola")
    return Plan.of(study, runs, CorpusSize(10_000_000, True), rates={}), own


def share(tiny_study: dict[str, Any], cola: dict[str, Any]) -> float:
    found = planned(tiny_study, cola)[1].prior_share
    assert found is not None
    return found


def test_seventy_percent_of_the_budget_can_be_the_prior_s(tiny_study: dict[str, Any]) -> None:
    """Each change leaves out what the prior does not need."""
    stage2: dict[str, Any] = {}
    objective: dict[str, Any] = {"stage2": stage2}
    cola: dict[str, Any] = {"objective": objective}
    shares = [share(tiny_study, cola)]
    stage2["lambda_mask"] = 0.0
    shares.append(share(tiny_study, cola))
    stage2["gradient_mode"] = "interval"
    shares.append(share(tiny_study, cola))
    stage2.update(gradient_mode="frozen_vae", lambda_mask=None)
    shares.append(share(tiny_study, cola))
    cola["vae_share"] = 0.15
    objective["stage1_share"] = 0.15
    shares.append(share(tiny_study, cola))
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] >= 0.7


def test_the_share_is_that_of_the_components_and_stands_in_the_plan(
    tiny_study: dict[str, Any],
) -> None:
    plan, run = planned(tiny_study, {"objective": {"stage2": {"self_conditioning": 0.5}}})
    rows = {row["family"]: row for row in plan_as_json(plan)["runs"]}
    per_token, tokens = rows["cola"]["train_flops_per_token"], run.spec.tokens_per_step
    prior = sum(
        rows["cola"]["stages"]["joint"] * tokens * value
        for name, value in per_token["joint"].items()
        if name.startswith(("dit_", "estimate_"))
    )
    assert prior / rows["cola"]["train_flops"]["executed"] == pytest.approx(run.prior_share)
    assert rows["cola"]["prior_share"] == run.prior_share
    assert rows["ar"]["prior_share"] is None
    decisions = [RunDecision(run, "start", "new") for run in plan.runs]
    table = plan_table(plan, decisions, wide_console(), wide=True).table
    (column,) = (column for column in table.columns if column.header == "prior share")
    assert [str(cell) for cell in column.cells] == [NONE, f"{run.prior_share:.0%}"]
