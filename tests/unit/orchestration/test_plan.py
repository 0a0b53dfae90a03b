"""Plans: budgets kept to the step, the same rule for every family, keys that mean results."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cola.optim import learning_rate_factor
from cola.spec import SpecError, StudySpec
from cola.spec.run import ScheduleSpec
from orchestration.catalog import load_study, shipped_studies
from orchestration.plan import PlannedRun, plan_study


def plan(values: dict[str, Any], **changes: Any) -> list[PlannedRun]:
    return plan_study(StudySpec.parse(values | changes))


def test_every_run_spends_its_budget_to_less_than_a_step(tiny_study: dict[str, Any]) -> None:
    ladder = [{"budget": b, "core_parameters": 60_000} for b in (1e10, 3.3e10, 1.7e11)]
    for compute in ("executed", "nominal"):
        runs = plan(tiny_study, ladder=ladder, matching={"compute": compute})
        assert len(runs) == 9
        for run in runs:
            assert 0 <= run.budget_deviation_steps < 1
            assert run.train_flops(compute) <= run.spec.budget * (1 + 1e-9)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.floats(5e9, 1e13), share=st.floats(0.05, 0.9))
def test_stages_share_the_budget(tiny_study: dict[str, Any], budget: float, share: float) -> None:
    families = {"cola": {"latent_dim": 4, "block_size": 8, "objective": {"stage1_share": share}}}
    (run,) = plan(
        tiny_study,
        families=families,
        ladder=[{"budget": budget, "core_parameters": 60_000}],
    )
    first, second = run.spec.stages
    spent = first.steps * first.train_flops_per_token_executed * run.spec.tokens_per_step
    step = first.train_flops_per_token_executed * run.spec.tokens_per_step
    assert share * budget - step <= spent <= share * budget * (1 + 1e-9)
    assert second.steps >= 1


def test_scratch_has_no_first_stage(tiny_study: dict[str, Any]) -> None:
    cola = {
        "latent_dim": 4,
        "block_size": 8,
        "objective": {"stage2": {"gradient_mode": "scratch"}},
    }
    (run,) = plan(tiny_study, families={"cola": cola})
    assert [stage.name for stage in run.spec.stages] == ["joint"]


def test_a_budget_below_one_step_names_the_least_that_works(tiny_study: dict[str, Any]) -> None:
    for family in ("ar", "llada", "cola"):
        study = tiny_study | {"families": {family: tiny_study["families"][family]}}
        with pytest.raises(SpecError, match=r"ladder\.0\.budget=1e\+06 is below") as caught:
            plan(study, ladder=[{"budget": 1e6, "core_parameters": 60_000}])
        needed = float(str(caught.value).split("at least ")[1].split()[0])
        (run,) = plan(study, ladder=[{"budget": needed * 1.01, "core_parameters": 60_000}])
        assert run.spec.steps >= 1
        with pytest.raises(SpecError):
            plan(study, ladder=[{"budget": needed * 0.9, "core_parameters": 60_000}])


def test_the_run_key_changes_with_the_result_and_not_with_resources(
    tiny_study: dict[str, Any],
) -> None:
    def keys(**changes: Any) -> list[str]:
        return [run.spec.run_key for run in plan(tiny_study, **changes)]

    base = keys()
    assert len(set(base)) == 3
    for same in (
        {"resources": {"workers": 2, "zero_stage": 3}},
        {"tracking": {"log_every_steps": 1}},
        {"output": "/elsewhere"},
        {"name": "other"},
        {"checkpoint": {"every_seconds": 5}},
    ):
        assert keys(**same) == base
    for other in ({"seeds": [1]}, {"data": tiny_study["data"] | {"seed": 1}}):
        assert not set(keys(**other)) & set(base)


def test_families_read_the_same_data_in_the_same_order(tiny_study: dict[str, Any]) -> None:
    specs = [run.spec for run in plan(tiny_study)]
    assert len({spec.data.content_hash() for spec in specs}) == 1
    assert len({spec.data_fingerprint for spec in specs}) == 1
    assert len({spec.training.content_hash() for spec in specs}) == 1


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_every_shipped_study_can_be_planned(name: str) -> None:
    runs = plan_study(load_study(name, []))
    cores: dict[int, list[int]] = {}
    for run in runs:
        cores.setdefault(run.rung, []).append(run.core_parameters)
    assert all(max(found) / min(found) <= 1.03 for found in cores.values())


@given(
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.integers(1, 400),
    st.floats(0, 0.5),
    st.floats(0, 1),
)
def test_the_schedule_stays_between_its_ends(
    kind: Any, total: int, warmup: float, final: float
) -> None:
    schedule = ScheduleSpec(kind=kind, warmup_fraction=warmup, final_ratio=final)
    factors = [learning_rate_factor(schedule, step, total) for step in range(total)]
    assert all(0 < factor <= 1 or (final == 0 and factor >= 0) for factor in factors)
    rising = factors[: round(warmup * total)]
    assert rising == sorted(rising)
    falling = factors[round(warmup * total) :]
    assert falling == sorted(falling, reverse=True)
    if kind != "constant" and len(falling) > 1:
        assert falling[-1] == pytest.approx(final, abs=1e-9)
