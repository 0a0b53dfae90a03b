"""Prefixes that runs share: equal keys mean equal training, and a trajectory has them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cola.data import PreparedData
from cola.errors import SpecError
from cola.spec.training import RateChange, ScheduleSpec
from cola.study import RunSpec, StudySpec
from cola.study.schedule import learning_rate_factor, rate_change_factor
from orchestration.planning.corpus_size import CorpusSize
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import Plan
from orchestration.planning.shared_prefixes import (
    Prefix,
    branch_steps,
    has_prefix,
    prefix_key,
    prefix_plans,
)
from tests.unit.orchestration.training.test_train_loop import Losses, SaveAndStop, trained

BUDGETS = [2.5e9, 5.0e9, 1.0e10]


def trajectory(tiny_study: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {key: value for key, value in tiny_study.items() if key != "ladder"} | changes
    values["design"] = {"kind": "trajectory", "budgets": BUDGETS, "core_parameters": 60_000}
    schedule = {"kind": "wsd", "decay_fraction": 0.2, "warmup_fraction": 0.1}
    values["training"] = values["training"] | {"schedule": schedule}
    return values


def runs_of(plan: list[PlannedRun], family: str) -> list[RunSpec]:
    return [run.spec for run in plan if run.spec.family == family]


@pytest.fixture
def plan(tiny_study: dict[str, Any]) -> list[PlannedRun]:
    return plan_study(StudySpec.parse(trajectory(tiny_study)))


schedules = st.builds(
    ScheduleSpec,
    kind=st.sampled_from(["cosine", "wsd", "constant"]),
    warmup_fraction=st.floats(0, 0.3),
    warmup_steps=st.none() | st.integers(0, 20),
    decay_fraction=st.floats(0, 0.5),
    rate_changes=st.sets(st.sampled_from([0.2, 0.5, 0.7])).map(
        lambda shares: tuple(RateChange(at=share, factor=2.0) for share in sorted(shares))
    ),
)


@given(one=schedules, other=schedules, lengths=st.tuples(*[st.integers(20, 90)] * 2))
def test_equal_keys_mean_equal_rates(
    one: ScheduleSpec, other: ScheduleSpec, lengths: tuple[int, int]
) -> None:
    run = bare_run()
    pair = [with_schedule(run, s, n) for s, n in zip((one, other), lengths, strict=True)]
    for step in range(0, min(lengths), 7):
        if len({prefix_key(run, step) for run in pair}) == 1:
            rates = [
                [
                    learning_rate_factor(run.training.schedule, i, run.steps)
                    * rate_change_factor(run, i)
                    for i in range(step)
                ]
                for run in pair
            ]
            assert rates[0] == rates[1]


@functools.cache
def bare_run() -> RunSpec:
    study = {
        "name": "x",
        "families": ["ar"],
        "ladder": [{"budget": 1e12, "core_parameters": 60_000}],
        "data": {"corpus": {"source": "python-stdlib"}},
    }
    return plan_study(StudySpec.parse(study))[0].spec


def with_schedule(run: RunSpec, schedule: ScheduleSpec, steps: int) -> RunSpec:
    training = run.training.model_copy(update={"schedule": schedule})
    stages = [run.stages[0].model_copy(update={"steps": steps})]
    return run.model_copy(update={"training": training, "stages": stages})


def test_every_point_of_a_trajectory_shares_a_prefix_with_the_longest(
    plan: list[PlannedRun],
) -> None:
    prefixes = prefix_plans(plan)
    for family in ("ar", "llada", "cola"):
        *points, longest = runs_of(plan, family)
        stable = [max(branch_steps(run)) for run in points]
        published = [prefix.step for prefix in prefixes[longest.run_key].publishes]
        assert set(stable) <= set(published)
        for run, step in zip(points, stable, strict=True):
            assert prefixes[run.run_key].first_step == step
            assert all(
                publisher == longest.run_key for _, publisher in prefixes[run.run_key].resumes_from
            )
            assert run.steps - step == round(0.2 * run.stages[-1].steps)
    first = {stage.steps for run in runs_of(plan, "cola") for stage in run.stages[:1]}
    assert len(first) == 1  # one VAE for all points


def test_what_changes_the_result_changes_the_key(plan: list[PlannedRun]) -> None:
    run = runs_of(plan, "cola")[0]
    step = run.stages[0].steps
    prefix = Prefix(prefix_key(run, step), step)
    assert has_prefix(run, prefix)
    dit = run.model.dit.model_copy(update={"num_layers": 7})  # type: ignore[union-attr]
    assert has_prefix(
        run.model_copy(update={"model": run.model.model_copy(update={"dit": dit})}), prefix
    )
    vae = run.model.vae.model_copy(update={"log_snr": 1.0})  # type: ignore[union-attr]
    others = [
        {"seed": run.seed + 1},
        {"data_fingerprint": "other"},
        {"training": run.training.model_copy(update={"batch_sequences": 16})},
        {"model": run.model.model_copy(update={"vae": vae})},
    ]
    for change in others:
        assert not has_prefix(run.model_copy(update=change), prefix)


def test_budgets_hold_whether_the_vae_is_charged_or_amortised(tiny_study: dict[str, Any]) -> None:
    found = {}
    for how in ("charged", "amortised"):
        values = trajectory(tiny_study, matching={"stage1": how})
        found[how] = runs_of(plan_study(StudySpec.parse(values)), "cola")
        for run in found[how]:
            spent = run.train_flops_at(run.steps, "executed")
            step = spent - run.train_flops_at(run.steps - 1, "executed")
            assert run.budget - step <= spent <= run.budget * (1 + 1e-9)
    for charged, amortised in zip(*found.values(), strict=True):
        assert amortised.stages[0].charged == pytest.approx(1 / 3)
        assert amortised.stages[0].steps == charged.stages[0].steps
        assert amortised.stages[1].steps > charged.stages[1].steps


def test_the_plan_counts_a_shared_prefix_once(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(trajectory(tiny_study))
    runs = plan_study(study)
    plan = Plan.of(study, runs, CorpusSize(None, False), rates={})
    whole = sum(run.train_flops("executed") for run in runs)
    # The longest of each family, and a fifth of each other's last stage.
    assert 0.62 * whole < plan.distinct_train_flops < 0.72 * whole
    assert sum("are those of" in plan.describe_prefix(run) for run in runs) == 6


def test_a_study_that_cannot_share_is_refused(tiny_study: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"amortised.*no two runs of this study share"):
        StudySpec.parse(tiny_study | {"matching": {"stage1": "amortised"}})
    values = trajectory(tiny_study)
    values["training"] = tiny_study["training"]
    with pytest.raises(SpecError, match=r"schedule\.kind='cosine'.* use 'wsd'"):
        StudySpec.parse(values)


def test_a_run_whose_rate_changes_resumes_from_one_whose_rate_does_not(
    tiny_study: dict[str, Any],
    data: PreparedData,
    tmp_path: Path,
) -> None:
    """The change is not part of what came before it, and is of what comes after."""
    ladder = [{"budget": 2.5e9, "core_parameters": 60_000}]
    study = StudySpec.parse(tiny_study | {"families": ["ar"], "ladder": ladder})
    plain = plan_study(study)[0].spec
    schedule = plain.training.schedule.model_copy(
        update={"rate_changes": (RateChange(at=0.75, factor=0.5),)}
    )
    training = plain.training.model_copy(update={"schedule": schedule})
    changed = plain.model_copy(update={"training": training})
    step = plain.step_at(0.75)
    assert has_prefix(changed, Prefix(prefix_key(plain, step), step))
    assert prefix_key(changed, step + 1) != prefix_key(plain, step + 1)
    unchanged, alone, branched, stop = Losses(), Losses(), Losses(), SaveAndStop(tmp_path, step)
    trained(plain, data, unchanged)
    trained(changed, data, alone)
    trained(plain, data, stop)
    assert stop.cursor is not None
    trained(changed, data, branched, resume=(tmp_path, stop.cursor))
    assert branched.values == {s: v for s, v in alone.values.items() if s > step}
    # The first step at another rate is the one after which losses differ.
    differ = [s for s in alone.values if alone.values[s] != unchanged.values[s]]
    assert min(differ) == step + 2


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ar", "cola"])
def test_a_point_that_branches_equals_one_trained_alone(
    family: str,
    plan: list[PlannedRun],
    data: PreparedData,
    tmp_path: Path,
) -> None:
    point, longest = (runs_of(plan, family)[index] for index in (0, -1))
    alone, branched = Losses(), Losses()
    expected = trained(point, data, alone).engine.full_state_dict()
    for step in branch_steps(point):
        (tmp_path / str(step)).mkdir()
        stop = SaveAndStop(tmp_path / str(step), step)
        trained(longest, data, stop)
        assert stop.cursor is not None
        found = trained(point, data, branched, resume=(tmp_path / str(step), stop.cursor))
        state = found.engine.full_state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert branched.values == {s: v for s, v in alone.values.items() if s > step}
        branched.values.clear()
