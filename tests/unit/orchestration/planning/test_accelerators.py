"""MFUs of plans: measured ones by family, stage and size, and what is said of the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.planning.accelerators import (
    ACCELERATORS,
    measurements,
    mfu_at,
    nearest_rows,
    utilization,
)
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.rates import FIRST_STEP, first_step_of, rate_key, rate_of
from tests.sizes import size_model, train_flops_per_token


@pytest.mark.parametrize("row", measurements(), ids=lambda row: f"{row.family}-{row.stage}")
def test_the_mfus_that_ship_are_those_of_the_tokens_a_second(row: Any) -> None:
    """By the product's own count of FLOPs, to the digits that are given."""
    from cola.families.registry import definition_of

    family: Any = definition_of(row.family)
    settings = family.settings.parse({})
    model = (
        family.paper_row(row.vocabulary, settings)
        if row.core_parameters > 1e9
        else size_model(row.family, int(row.core_parameters), row.vocabulary)
    )
    assert family.parameter_counts(model).core == pytest.approx(row.core_parameters, rel=0.01)
    flops = train_flops_per_token(
        model, family.objective(), row.sequence_length, stage=row.stage, convention="executed"
    ).total
    peak = ACCELERATORS[row.accelerator].peak(row.precision)
    assert row.tokens_per_second * flops / peak == pytest.approx(row.mfu, rel=0.015)


def test_between_measured_sizes_the_mfu_lies_between_theirs() -> None:
    rows, missing = nearest_rows("ar", "train", compiled=False)
    assert missing == []
    sizes = (1e6, 130e6, 400e6, 1e9, 1.812e9, 1e11)
    found = [mfu_at(size, rows) for size in sizes]
    assert found[1] == 0.058
    assert found[4:] == [0.115, 0.115]
    assert all(low <= high for low, high in pairwise(found))
    assert found[0] == pytest.approx(0.058 / 130**0.5)


def runs_of(tiny_study: dict[str, Any], **resources: Any) -> list[PlannedRun]:
    changed = tiny_study | {"resources": {"gpus_per_worker": 1, "compile": True, **resources}}
    return plan_study(StudySpec.parse(changed))


def test_what_was_not_measured_is_named(tiny_study: dict[str, Any]) -> None:
    (run,) = [run for run in runs_of(tiny_study, accelerator="A100") if run.variant == "cola"]
    joint, vae = (utilization(run.spec, run.resources, stage) for stage in ("joint", "vae"))
    assert joint.basis == "measured (H100 80 GB, torch 2.11, bfloat16, compiled)"
    expected = ["accelerator A100", "float32", "cores below 130 M"]
    assert list(joint.extrapolated[:3]) == expected
    assert "vocabulary 320 (measured: 100,278)" in joint.extrapolated
    assert vae.extrapolated[0] == "compile"  # this stage was measured in eager execution alone
    unknown, missing = nearest_rows("of-a-plug-in", "train", compiled=True)
    assert missing == ["family of-a-plug-in"]
    assert {row.family for row in unknown} == {"ar", "llada", "cola"}


def test_rates_of_a_kind_of_gpu_serve_plans_of_other_machines(tiny_study: dict[str, Any]) -> None:
    (run, *_) = runs_of(tiny_study, accelerator="H100")
    rates = {rate_key(run.spec, run.resources, "train", machine="H100"): 7e12}
    assert rate_of(rates, run.spec, run.resources, "train") == 7e12
    own = rates | {rate_key(run.spec, run.resources, "train"): 8e12}
    assert rate_of(own, run.spec, run.resources, "train") == 8e12
    other = run.resources.model_copy(update={"accelerator": "A100"})
    assert rate_of(rates, run.spec, other, "train") is None
    for change in ({"micro_batch_sequences": 2}, {"compile": False}, {"gpus_per_worker": 0.5}):
        changed = run.resources.model_copy(update=change)
        assert rate_of(rates, run.spec, changed, "train") is None
    assert first_step_of(rates, run.spec, run.resources, "train") == 0
    first = {rate_key(run.spec, run.resources, FIRST_STEP + "train"): 33.0}
    assert first_step_of(first, run.spec, run.resources, "train") == 33
