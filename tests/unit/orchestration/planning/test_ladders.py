"""Budgets of a family's own, ladders in steps and tokens, schedules that end after the run."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from cola.families.registry import definition_of
from cola.spec.training import ScheduleSpec
from cola.study import StudySpec
from cola.study.schedule import final_learning_rates, learning_rate_factor
from cola.terminal_tables import wide_console
from orchestration.cli.plan_tables import family_table, plan_table
from orchestration.planning.catalog import load_study
from orchestration.planning.corpus_size import CorpusSize
from orchestration.planning.decisions import RunDecision
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import Plan, matching_sentences, plan_as_json, warnings
from orchestration.planning.rehearsal import rehearsal_of

SIZE = {"core_parameters": 60_000}
LADDER = [{"budget": 2.0e10, **SIZE}, {"budget": 8.0e10, **SIZE}]
COLA = {"latent_dim": 4, "block_size": 8, "log_snr": 3.0}


def study_of(tiny_study: dict[str, Any], **changes: Any) -> StudySpec:
    return StudySpec.parse(tiny_study | {"ladder": LADDER} | changes)


def families(**cola: Any) -> dict[str, Any]:
    return {"ar": {}, "cola": COLA | cola}


def runs_of(study: StudySpec, variant: str) -> list[PlannedRun]:
    return [run for run in plan_study(study, "x" * 64) if run.variant == variant]


def plan_of(study: StudySpec, tokens: int = 10_000_000) -> Plan:
    return Plan.of(study, plan_study(study, "x" * 64), CorpusSize(tokens, True), rates={})


def shown(plan: Plan) -> str:
    console = wide_console()
    decisions = [RunDecision(run, "start", "new") for run in plan.runs]
    with console.capture() as captured:
        for table in (
            plan_table(plan, decisions, console, wide=True),
            family_table(plan, console, wide=True),
        ):
            if table is not None:
                table.print(console)
    return captured.get()


def test_a_factor_multiplies_every_budget_and_leaves_sizes_and_others_alone(
    tiny_study: dict[str, Any],
) -> None:
    plain = study_of(tiny_study, families=families())
    study = study_of(tiny_study, families=families(budget_factor=20))
    before, after = runs_of(plain, "cola"), runs_of(study, "cola")
    assert [run.spec.budget for run in after] == [4.0e11, 1.6e12]
    assert [run.rung for run in after] == [0, 1]
    assert [run.spec.model for run in after] == [run.spec.model for run in before]
    for mine, other in zip(after, before, strict=True):
        assert mine.train_flops("executed") <= mine.spec.budget
        assert mine.spec.steps == pytest.approx(20 * other.spec.steps, abs=40)
    assert [run.key for run in runs_of(study, "ar")] == [run.key for run in runs_of(plain, "ar")]
    plan = plan_of(study)
    said = " ".join(matching_sentences(plan))
    assert "Cola DLM 4e+11, 1.6e+12 (20 times)" in said
    assert "share no budget (Cola DLM begins at 5 times AR's largest)" in said
    assert "Matched: core parameters (within" in said
    values = plan_as_json(plan)
    assert values["budgets"] == {
        "count": "flops",
        "flops_convention": "executed",
        "of": {"ar": [2.0e10, 8.0e10], "cola": [4.0e11, 1.6e12]},
        "shared_by_all": [],
    }
    sums = values["families"]["cola"]
    assert sums["steps"] == sum(run.spec.steps for run in after)
    assert sums["most_epochs"] == after[-1].tokens / 10_000_000
    assert "4e+11, 1.6e+12" in shown(plan)


def test_a_factor_scales_the_budgets_of_a_design(tiny_study: dict[str, Any]) -> None:
    design = {"kind": "grid", "budgets": [2.0e10, 8.0e10], "core_parameters": [60_000, 90_000]}
    study = study_of(tiny_study, ladder=[], design=design, families=families(budget_factor=2))
    assert [rung.budget for rung in study.rungs_of("cola")] == [4e10, 4e10, 1.6e11, 1.6e11]
    assert len({run.name for run in plan_study(study, "x" * 64)}) == 8
    assert any(text.startswith("AR and Cola DLM share no") for text in sentences(study))


def sentences(study: StudySpec) -> list[str]:
    return matching_sentences(plan_of(study))


def test_a_family_s_own_ladder_pairs_where_budgets_are_equal(tiny_study: dict[str, Any]) -> None:
    own = [{"budget": 8.0e10, **SIZE}, {"budget": 3.2e11, "core_parameters": 90_000}]
    own.append({"budget": 6.4e11, "core_parameters": 90_000})
    study = study_of(tiny_study, families=families(ladder=own))
    runs = plan_study(study, "x" * 64)
    assert [run.name for run in runs] == [
        "ar-2e+10-seed66",
        "cola-8e+10-seed66",
        "ar-8e+10-seed66",
        "cola-3.2e+11-seed66",
        "cola-6.4e+11-seed66",
    ]
    said = sentences(study)
    assert "AR and Cola DLM pair at 8e+10 executed FLOPs." in said
    assert said[0].startswith("Matched: core parameters (within 0.")
    assert "% at equal budgets), data order" in said[0]
    assert StudySpec.parse(study.model_dump(mode="json")) == study


def test_ladders_that_all_entries_share_say_nothing_of_it(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study)
    assert not any("share" in text or "pair" in text for text in sentences(study))
    assert "budget_factor" not in study.to_yaml()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": families(budget_factor=0)}, "families.cola.budget_factor: .*greater than 0"),
        ({"families": families(budget_factor=-2)}, "families.cola.budget_factor: .*greater than 0"),
        ({"families": families(budget_factor=float("inf"))}, "families.cola.budget_factor: "),
        ({"families": families(budget_factor=1e25)}, "families.cola.budget_factor=1e.25: .*range"),
        (
            {"families": families(budget_factor=2, ladder=LADDER)},
            "families.cola.budget_factor=2: .*give one of them",
        ),
        ({"families": families(ladder=[])}, "families.cola.ladder: .*at least 1"),
        (
            {"families": families(ladder=LADDER[::-1])},
            r"families.cola.ladder: rung 1 \(2e.10\) is below",
        ),
        (
            {"families": families(ladder=[LADDER[0], LADDER[0]])},
            "families.cola.ladder: rung 1 is listed before",
        ),
        (
            {"families": {"ar": {"ladder": LADDER}, "cola": COLA | {"ladder": LADDER}}},
            "ladder: every entry of families has a ladder of its own",
        ),
        (
            {"families": families(ladder=LADDER), "ladder": []},
            r"give either ladder .* \(or families.ar.ladder\)",
        ),
        (
            {"families": families(ladder=[{"budget": 1e15, **SIZE}])},
            r"families.cola.ladder: its budgets \(1e.15 to 1e.15\) overlap .*matching.budgets: off",
        ),
        (
            {"ladder": [{"budget": 1e10, "steps": 5, **SIZE}]},
            "ladder.0: give one of budget, steps, tokens; budget and steps are given",
        ),
        ({"ladder": [SIZE]}, "ladder.0: give one of budget, steps, tokens"),
        (
            {"ladder": [{"steps": 5, **SIZE}]},
            "ladder.0.steps=5: matching.compute=executed takes budgets in executed FLOPs; give "
            "ladder.0.budget in its place, or matching.compute: steps",
        ),
        (
            {"matching": {"compute": "steps"}},
            r"ladder.0.budget=2e.10: matching.compute=steps takes steps; give ladder.0.steps",
        ),
        (
            {"matching": {"compute": "steps"}, "ladder": [], "design": {"budgets": [1e10]}},
            "design: its budgets are FLOPs, and matching.compute=steps",
        ),
        (
            {
                "matching": {"compute": "steps"},
                "ladder": [{"steps": 500, **SIZE}],
                "families": families(budget_factor=20),
            },
            r"families.ar: its steps \(500\) are those of no other entry \(10000\)",
        ),
        (
            {
                "matching": {"compute": "steps"},
                "ladder": [{"steps": 500, **SIZE}],
                "rules": {"batch_tokens": {"kind": "power_law", "coefficient": 512}},
            },
            "rules.batch_tokens: with matching.compute=steps",
        ),
        ({"matching": {"flops": "nominal"}}, "matching: flops=nominal: .*executed FLOPs already"),
        ({"matching": {"compute": "flops"}}, "matching.compute: .*'steps' or 'tokens'"),
        (
            {"training": {"schedule": {"kind": "wsd", "horizon_steps": 100}}},
            "training.schedule: horizon_steps=100 goes with kind: cosine alone",
        ),
        (
            {"training": {"schedule": {"horizon_steps": 100, "warmup_steps": 100}}},
            "training.schedule: warmup_steps=100 must be less than horizon_steps=100",
        ),
        (
            {"training": {"schedule": {"horizon_steps": 0}}},
            "training.schedule.horizon_steps: .*greater than 0",
        ),
        (
            {"families": families(rules={"stage_learning_rates": {"train": LADDER}})},
            "families.cola.rules.stage_learning_rates.train",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_key(
    tiny_study: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        study_of(tiny_study, **changes)
    assert "\n" not in str(refused.value)


def test_ladders_may_lie_apart_where_the_study_says_so(tiny_study: dict[str, Any]) -> None:
    own = families(ladder=[{"budget": 1e12, **SIZE}])
    study = study_of(tiny_study, families=own, matching={"budgets": "offset"})
    assert any("begins at 12.5 times AR's largest" in text for text in sentences(study))
    assert "core parameters (entries have no budget in common)" in sentences(study)[1]


@pytest.mark.parametrize("convention", ["executed", "nominal"])
def test_rungs_in_steps_are_equal_for_all_and_flops_follow(
    tiny_study: dict[str, Any], convention: str
) -> None:
    matching = {"compute": "steps", "flops": convention}
    study = study_of(tiny_study, matching=matching, ladder=[{"steps": 101, **SIZE}])
    plan = plan_of(study)
    assert {run.spec.steps for run in plan.runs} == {101}
    assert [run.name for run in plan.runs] == [
        f"{name}-101steps-seed66" for name in ("ar", "llada", "cola")
    ]
    assert {stage.name: stage.steps for stage in plan.runs[2].spec.stages} == {
        "vae": 20,
        "joint": 81,
    }
    for run in plan.runs:
        assert run.spec.compute == convention
        assert run.spec.budget == run.train_flops(convention)
        assert run.budget_deviation_steps == 0
    said = matching_sentences(plan)
    assert "steps (within 0.0%), tokens (within 0.0%)" in said[0]
    assert any(text.startswith("Runs are matched in steps") and convention in text for text in said)
    assert plan_as_json(plan)["runs"][0]["counted"] == {"unit": "steps", "amount": 101}
    assert f"budgets count steps; {convention} FLOPs follow" in shown(plan)
    assert {run.spec.compute for run in plan_study(rehearsal_of(study))} == {convention}


def test_rungs_in_tokens_are_met_to_less_than_a_step(tiny_study: dict[str, Any]) -> None:
    own = families(training={"batch_sequences": 24})
    ladder = [{"tokens": 100_000, **SIZE}]
    study = study_of(tiny_study, matching={"compute": "tokens"}, ladder=ladder, families=own)
    for run in plan_study(study, "x" * 64):
        assert 0 <= 100_000 - run.tokens < run.spec.tokens_per_step
        assert run.name == f"{run.variant}-1e+05tokens-seed66"
    assert "tokens (within" in sentences(study)[0]


def test_rules_read_the_flops_that_follow(tiny_study: dict[str, Any]) -> None:
    rule = {"kind": "power_law", "coefficient": 1e-3, "budget_exponent": 1.0}
    study = study_of(
        tiny_study,
        matching={"compute": "steps"},
        ladder=[{"steps": 500, **SIZE}],
        families={"ar": {}},
        rules={"learning_rate": rule},
    )
    (run,) = plan_study(study, "x" * 64)
    rate = run.spec.training.optimizer.learning_rate
    assert rate == pytest.approx(1e-3 * run.spec.budget / 1e15)


@pytest.mark.parametrize(
    ("unit", "amount", "message"),
    [
        ("steps", 2, "ladder.0.steps=2 is below one step of every stage .* at least 5 steps"),
        ("tokens", 300, "ladder.0.tokens=300 is below .* needs at least 1280 tokens"),
    ],
)
def test_rungs_below_a_step_of_a_stage_name_the_least(
    tiny_study: dict[str, Any], unit: str, amount: int, message: str
) -> None:
    changes = {"matching": {"compute": unit}, "ladder": [{unit: amount, **SIZE}]}
    with pytest.raises(SpecError, match=message):
        plan_study(study_of(tiny_study, families={"cola": COLA}, **changes), "x" * 64)


def test_the_paper_s_axis_has_equal_steps_and_the_rate_of_its_300_000th() -> None:
    study = load_study("paper-2b-steps", [])
    runs = plan_study(study)
    assert {run.spec.steps for run in runs} == {300_000}
    assert {run.tokens for run in runs} == {300_000 * 1408 * 512}
    for run in runs:
        final = list(final_learning_rates(run.spec).values())[-1]
        assert final == pytest.approx(1.218e-4, abs=5e-8)
    cola = next(run for run in runs if run.variant == "cola")
    assert 1.9e21 < cola.train_flops("nominal") < 2.1e21  # the paper's 2,000 EFLOPs
    plan = Plan.of(study, runs, CorpusSize(350_000_000_000, True), rates={})
    assert "0.00015 to 0.0001218" in shown(plan)


def test_a_horizon_stretches_the_cosine_and_every_stage_warms_up() -> None:
    schedule = ScheduleSpec(warmup_steps=10, horizon_steps=1_000, final_ratio=0.1)
    ends_there = ScheduleSpec(warmup_steps=10, final_ratio=0.1)
    for step in range(300):
        factor = learning_rate_factor(schedule, step, 300)
        assert factor == learning_rate_factor(ends_there, step, 1_000)
    later = [learning_rate_factor(schedule, step, 200, first_step=100) for step in range(200)]
    assert later[0] == pytest.approx(0.1 * learning_rate_factor(ends_there, 100, 1_000))
    assert later[10:] == [learning_rate_factor(ends_there, 110 + i, 1_000) for i in range(190)]


@pytest.mark.parametrize(
    ("training", "key"),
    [
        ({"schedule": {"horizon_steps": 100}}, "training.schedule.horizon_steps=100"),
        (
            {"stages": {"joint": {"schedule": {"horizon_steps": 100}}}},
            "training.stages.joint.schedule.horizon_steps=100",
        ),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_a_horizon_before_the_run_s_end_is_refused(
    tiny_study: dict[str, Any], training: dict[str, Any], key: str, own: bool
) -> None:
    changes: dict[str, Any] = {"families": {"cola": COLA | ({"training": training} if own else {})}}
    if not own:
        changes["training"] = tiny_study["training"] | training
    ladder = [{"steps": 400, **SIZE}, {"steps": 500, **SIZE}]
    study = study_of(tiny_study, matching={"compute": "steps"}, ladder=ladder, **changes)
    prefix = "families.cola." if own else ""
    with pytest.raises(SpecError, match=f"^{prefix}{key}: .* give at least 500"):
        plan_study(study, "x" * 64)


def test_the_paper_s_ladder_keeps_the_vae_s_share_up_to_the_paper_s_row() -> None:
    study = load_study("paper-ladder", [])
    runs = runs_of(study, "cola")
    counts = [definition_of("cola").parameter_counts(run.spec.model) for run in runs]
    shares = [count.vae_core / count.core for count in counts]
    assert shares[-1] == pytest.approx(0.0957, abs=1e-4)
    assert max(shares) - min(shares) < 0.02
    models = [run.spec.model for run in runs]
    for part, key in (("dit", "hidden_size"), ("vae", "hidden_size"), ("dit", "num_layers")):
        sizes = [getattr(getattr(model, part), key) for model in models]
        assert sizes == sorted(sizes)
    # The rule of the ladder's other rungs gives the row too, but for the width of the VAE's heads.
    sized = definition_of("cola").size(2_024_000_000, 100_278, study.families["cola"])
    heads = {"num_heads": models[-1].vae.num_heads}
    assert sized.model_copy(update={"vae": sized.vae.model_copy(update=heads)}) == models[-1]
    plan = Plan.of(study, runs, CorpusSize(350_000_000_000, True), rates={})
    assert not any("share of cola's core" in text for text in warnings(plan))


def test_shapes_that_change_along_a_ladder_are_warned_of() -> None:
    study = load_study("paper-ladder", ["families.cola.vae_share=0.3"])
    plan = Plan.of(study, plan_study(study), CorpusSize(350_000_000_000, True), rates={})
    found = [text for text in warnings(plan) if "share of cola's core" in text]
    assert len(found) == 1
    assert "from 9.6% (cola-2e+21-seed66) to 3" in found[0]
