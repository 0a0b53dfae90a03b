"""Plans: budgets kept to the step, the same rule for every family, keys that mean results."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.families.interface.family import Batch, StageModule
from cola.families.registry import definition_of, family_of
from cola.seeding import Stream
from cola.spec.design import TunedRule
from cola.spec.training import ScheduleSpec
from cola.study import StudySpec
from cola.study.schedule import learning_rate_factor
from orchestration.planning.accelerators import STARTUP_SECONDS, WARM_STARTUP_SECONDS
from orchestration.planning.catalog import load_study, shipped_studies
from orchestration.planning.corpus_size import CorpusSize, check_epochs
from orchestration.planning.costs import run_costs
from orchestration.planning.memory import BUCKET, state_bytes
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import (
    Plan,
    capacity_sentences,
    matching_sentences,
    plan_as_json,
    total_sentence,
    warnings,
)
from orchestration.planning.rates import rate_key
from orchestration.planning.rehearsal import rehearsal_of
from tests.sizes import FAMILIES


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
    study = load_study(name, [])
    cores: dict[int, list[int]] = {}
    for run in plan_study(study):
        target = study.rungs_of(run.variant)[run.rung].target
        if target is not None:  # the paper's own row differs by its VAE's core
            cores.setdefault(target, []).append(run.core_parameters)
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


def shipped(name: str, *settings: str) -> Plan:
    study = load_study(name, list(settings))
    return Plan.of(study, plan_study(study), CorpusSize(350_000_000_000, True), rates={})


@pytest.mark.parametrize("name", ["paper-2b", "paper-ladder"])
def test_the_papers_studies_are_planned_in_seconds(name: str) -> None:
    began = time.perf_counter()
    plan = shipped(name)
    assert time.perf_counter() - began < 10
    top = [run for run in plan.runs if run.spec.budget == 2e21]
    assert [round(run.total_parameters / 1e9, 1) for run in top] == [2.2, 2.2, 2.3]
    for run in plan.runs:
        assert run.train_flops("nominal") == pytest.approx(run.spec.budget, rel=0.01)
        assert len(run.memory) == 4
        assert run.memory[1].fits
    values = plan_as_json(plan)
    assert len(values["runs"]) == len(plan.runs)
    assert values["totals"]["accelerator_hours"] == pytest.approx(
        sum(run["accelerator_hours"] for run in values["runs"])
    )
    assert {"core", "embedding", "total"} == set(values["runs"][0]["parameters"])
    assert json.dumps(values)


def test_time_and_money_follow_from_the_accelerator() -> None:
    base = shipped("paper-2b", "resources.price_per_hour=2", "resources.mfu=0.4")
    other = shipped("paper-2b", "resources.price_per_hour=2", "resources.mfu=0.2")
    for slow, fast in zip(other.costs, base.costs, strict=True):
        assert slow.seconds == pytest.approx(2 * fast.seconds, rel=0.01)
        assert fast.price == pytest.approx(2 * fast.accelerator_hours)
    run, cost = base.runs[0], base.costs[0]
    rate = 64 * 989e12 * 0.4
    assert cost.seconds == pytest.approx(run.train_flops("executed") / rate, rel=0.01)


def test_hours_on_a_gpu_rest_on_measured_rates() -> None:
    """The paper's row on an H100 without `compile`: 9,200 tokens a second of AR, 9,600 of LLaDA."""
    plan_of = shipped("paper-2b", "resources.compile=false", "evaluation.points=1")
    hours = {
        run.variant: cost.seconds / 3600
        for run, cost in zip(plan_of.runs, plan_of.costs, strict=True)
    }
    for variant, rate in (("ar", 9200), ("llada", 9600)):
        (tokens,) = [run.tokens for run in plan_of.runs if run.variant == variant]
        assert hours[variant] == pytest.approx(tokens / rate / 64 / 3600, rel=0.02)
    assert (
        "MFU 0.111 to 0.175 of the H100's peak, measured (H100 80 GB, torch 2.11, bfloat16, "
        in (total_sentence(plan_of))
    )
    (cola,) = [run for run in plan_as_json(plan_of)["runs"] if run["family"] == "cola"]
    assert cola["utilization"]["vae"]["extrapolated"] == ["cores above 130 M"]
    assert cola["utilization"]["joint"]["extrapolated"] == []


def test_a_measured_rate_replaces_the_assumed_one(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"families": {"ar": {}}})
    (run,) = plan_study(study)
    rates = {rate_key(run.spec, study.resources, "train"): 1e9}
    rates[rate_key(run.spec, study.resources, "evaluation")] = 7.0
    (cost,) = Plan.of(study, [run], CorpusSize(None, False), rates=rates).costs
    assert cost.calibrated
    # Two validations and the test.
    expected = STARTUP_SECONDS + 3 * 7.0 + run.train_flops("executed") / 1e9
    assert cost.seconds == pytest.approx(expected)


def test_a_run_that_finds_a_process_starts_sooner(tiny_study: dict[str, Any]) -> None:
    """Of two runs of one worker the second finds the first one's; with two workers none does."""
    study = tiny_study | {"families": {"ar": {}, "llada": {}}}
    for workers, starts in (
        (1, [STARTUP_SECONDS, WARM_STARTUP_SECONDS]),
        (2, 2 * [STARTUP_SECONDS]),
    ):
        spec = StudySpec.parse(study | {"resources": {"workers": workers}})
        runs = plan_study(spec)
        trained = [
            run_costs(run.spec, run.resources, run.total_parameters, keep=1, rates={}).seconds
            - STARTUP_SECONDS
            for run in runs
        ]
        costs = Plan.of(spec, runs, CorpusSize(None, False), rates={}).costs
        assert [cost.seconds for cost in costs] == pytest.approx(
            [seconds + start for seconds, start in zip(trained, starts, strict=True)]
        )


def test_what_fits_no_device_is_refused_with_the_nearest_that_does() -> None:
    device = ["resources.accelerator=L40S", "data.sequence_length=12288"]
    refusal = (
        r"cola at rung 0 needs 63 GB .* activation checkpointing; the device has 48 GB\. It fits "
        r"at resources\.zero_stage=2"
    )
    with pytest.raises(SpecError, match=refusal):
        shipped("paper-2b", "resources.zero_stage=0", *device)
    share = r"the device has 48 GB, of which gpus_per_worker=0\.5 gives it 24 GB\. It fits at "
    with pytest.raises(SpecError, match=share):
        shipped("paper-2b", *device, "resources.gpus_per_worker=0.5")
    device.append("resources.activation_checkpointing=never")
    refusal = r"ar at rung 0 needs 96 GB .* It fits with resources\.activation_checkpointing=auto"
    with pytest.raises(SpecError, match=refusal):
        shipped("paper-2b", "resources.zero_stage=0", *device)
    settings = [*device, "data.sequence_length=65536"]
    with pytest.raises(SpecError, match=r"fits at no stage: raise resources\.workers"):
        shipped("paper-2b", *settings)


def test_repeated_data_is_refused_beyond_what_is_allowed(tiny_study: dict[str, Any]) -> None:
    study = StudySpec.parse(tiny_study | {"max_epochs": 4})
    check_epochs(study, "ar", 400, corpus=CorpusSize(100, True))
    check_epochs(study, "ar", 10_000, corpus=CorpusSize(100, False))  # an estimate warns
    with pytest.raises(SpecError, match=r"would read the corpus 4\.1 times .* max_epochs=4\.1"):
        check_epochs(study, "ar", 410, corpus=CorpusSize(100, True))


def test_an_isoflop_design_spreads_sizes_round_the_optimum(tiny_study: dict[str, Any]) -> None:
    design = {"budgets": [4e11, 1e11], "sizes": 3, "spread": 4, "tokens_per_parameter": 10}
    study = {key: value for key, value in tiny_study.items() if key != "ladder"}
    runs = plan(study, design=design)
    assert len(runs) == 2 * 3 * 3
    assert len({run.name for run in runs}) == len(runs)
    rungs = StudySpec.parse(study | {"design": design}).rungs_of("ar")
    targets = [rung.core_parameters for rung in rungs]
    optimum = (1e11 / 60) ** 0.5
    assert targets[1] == pytest.approx(optimum, rel=0.05)
    assert [targets[0] / targets[1], targets[2] / targets[1]] == pytest.approx([0.5, 2], rel=0.1)
    for run in runs:
        assert run.train_flops("executed") <= run.spec.budget * (1 + 1e-9)
    with pytest.raises(SpecError, match=r"give either ladder .* or design"):
        plan(tiny_study, design=design)


def test_rules_set_rate_and_batch_alike_for_all_families(tiny_study: dict[str, Any]) -> None:
    ladder = [{"budget": b, "core_parameters": n} for b, n in ((1e11, 60_000), (4e11, 120_000))]
    rules = {
        "learning_rate": {"kind": "power_law", "coefficient": 1e-3, "parameters_exponent": -0.5},
        "batch_tokens": {
            "kind": "tuned",
            "points": [{"budget": 1e11, "value": 256}, {"budget": 4e11, "value": 1024}],
        },
    }
    runs = plan(tiny_study, ladder=ladder, rules=rules)
    for run in runs:
        target = ladder[run.rung]["core_parameters"] / 1e6
        rate = run.spec.training.optimizer.learning_rate
        assert rate == pytest.approx(1e-3 * target**-0.5)
        assert run.spec.training.batch_sequences == (8, 32)[run.rung]
    tuned = TunedRule.parse(rules["batch_tokens"])
    values = [tuned.value(1, budget) for budget in (1e10, 2e11, 1e13)]
    assert values == pytest.approx([256, 512, 1024])  # held at the ends, not extrapolated


def test_total_parameters_can_be_matched_instead(tiny_study: dict[str, Any]) -> None:
    ladder = [{"budget": 1e12, "total_parameters": 1_200_000}]
    runs = plan(tiny_study, ladder=ladder, matching={"parameters": "total"})
    totals = [run.total_parameters for run in runs]
    assert max(totals) / min(totals) < 1.02
    plan_of = Plan.of(
        StudySpec.parse(tiny_study | {"ladder": ladder, "matching": {"parameters": "total"}}),
        runs,
        CorpusSize(None, False),
        rates={},
    )
    assert matching_sentences(plan_of)[0].startswith("Matched: total parameters (within")


def test_latents_wider_than_any_token_s_worth_are_warned_of() -> None:
    wide = shipped("demo", "families.cola.patch_size=1", "families.cola.log_snr=5.0")
    cases = ((shipped("demo"), "1.06 to 1.60", False), (wide, "10.01 to 15.02", True))
    for plan_of, nats, warned in cases:
        (sentence,) = capacity_sentences(plan_of)
        assert f"in nats a token: cola {nats}. A token is worth at most 7.62" in sentence
        said = [text for text in warnings(plan_of) if "the latents of cola hold up to" in text]
        assert len(said) == warned
    capacities = {
        row["family"]: row["channel_capacity_nats_per_token"] for row in plan_as_json(wide)["runs"]
    }
    assert capacities == {"ar": None, "llada": None, "cola": pytest.approx(15.02, abs=0.01)}


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_a_rehearsal_is_small_and_keeps_what_is_special(name: str) -> None:
    study = load_study(name, [])
    small = rehearsal_of(study)
    runs = plan_study(small)
    assert {run.variant for run in runs} == set(study.families)
    assert max(run.core_parameters for run in runs) < 200_000
    assert all(5 <= run.spec.steps <= 2_000 for run in runs)
    shared = {"ladder": None, "budget_factor": None, "rules": None}
    assert small.families == {
        name: settings.model_copy(update=shared) for name, settings in study.families.items()
    }
    assert small.resources.zero_stage == study.resources.zero_stage
    assert small.training.precision == study.training.precision
    assert small.resources.gpus_per_worker == 0


def test_activations_are_estimated_from_above(tiny_study: dict[str, Any]) -> None:
    """Against the tensors that a forward pass really keeps; no more than three times them."""
    families = {name: tiny_study["families"].get(name, {}) for name in FAMILIES}
    ladder = [{"budget": 1e12, "core_parameters": 400_000}]
    for run in plan(tiny_study, ladder=ladder, families=families):
        spec = run.spec
        networks = family_of(spec.family)
        stage = spec.stages[-1].name
        module = networks.stage_module(networks.build(spec.model), spec.objective, stage)
        tokens = torch.zeros(4, spec.data.sequence_length, dtype=torch.long)
        batch = Batch(tokens, Stream(0, 0, range(4)), list(range(4)), 4)
        kept = saved_bytes(module, module.draw(batch)) / tokens.numel()
        family = definition_of(spec.family)
        estimate = family.activation_bytes(spec.model, spec.objective, "float32")
        assert kept < estimate < 3 * kept, spec.family


def saved_bytes(module: StageModule, draws: dict[str, torch.Tensor]) -> int:
    """Bytes of distinct storages that autograd keeps, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(**draws)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_states_agree_with_deepspeeds_estimator() -> None:
    """DeepSpeed assumes 16-bit weights, which take 2 bytes less on every worker, and for them
    with a 32-bit copy (4) and 16-bit gradients (2) more, which are sharded.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    parameters = 10_000_000_000
    for workers in (1, 8, 64):
        _, theirs = estimate_zero2_model_states_mem_needs(
            parameters, num_gpus_per_node=workers, num_nodes=1, cpu_offload=False
        )
        ours = state_bytes(parameters, workers, 2) - 2 * BUCKET
        assert ours == pytest.approx(theirs + 2 * parameters - 6 * parameters / workers)
