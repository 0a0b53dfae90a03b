"""Specifications refuse what they do not know and say what would be valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.spec import apply_overrides, load_yaml
from cola.study import StudySpec
from orchestration.planning.catalog import load_study, shipped_studies

SMALLEST: dict[str, Any] = {
    "name": "tiny",
    "families": ["ar", "llada", "cola"],
    "ladder": [{"budget": 1e12, "core_parameters": 200_000}],
}


TRAJECTORY: dict[str, Any] = {"kind": "trajectory", "core_parameters": 200_000}


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        StudySpec.parse(values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_smallest_study_has_defaults_for_the_rest() -> None:
    study = StudySpec.parse(SMALLEST)
    assert list(study.families) == ["ar", "llada", "cola"]
    assert study.data.sequence_length == 256


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"laddder": []}, "did you mean ladder?"),
        ({"families": ["ar", "gpt"]}, "families.gpt: unknown family 'gpt'; valid: ar, llada, cola"),
        ({"families": {}}, "name at least one family"),
        ({"ladder": [{"budget": -1, "core_parameters": 1e5}]}, "ladder.0.budget"),
        ({"ladder": [{"budget": 1e40, "core_parameters": 1e5}]}, "ladder.0.budget"),
        ({"ladder": []}, "ladder"),
        ({"name": "Bad Name"}, "name"),
        ({"seeds": [1, 2, 1]}, "seeds: lists 1 more than once; list each value once (in"),
        (
            {"ladder": [], "design": TRAJECTORY | {"budgets": [1e12, 2e12, 2e12, 1e12]}},
            "design.budgets: lists 1e+12, 2e+12 more than once; list each value once (in",
        ),
        ({"data": {"corpus": {"source": "gutenberg"}}}, "data.corpus"),
        (
            {"data": {"tokenizer": {"vocab_size": 512}}},
            "data.tokenizer: say which it is by data.tokenizer.kind: bpe, file, hub",
        ),
        ({"data": {"sequence_lenght": 5}}, "did you mean data.sequence_length?"),
        ({"training": {"batch_sequences": 3}, "resources": {"workers": 4}}, "must be at most"),
        ({"resources": {"micro_batch_sequences": 500}}, "must be at most the"),
        ({"resources": {"zero_stage": 4}}, "resources.zero_stage"),
        (
            {"data": {"sequence_length": 64}, "evaluation": {"prompt_tokens": 64}},
            "must fit data.sequence_length=64",
        ),
        ({"training": {"optimizer": {"learning_rate": float("nan")}}}, "learning_rate"),
        ({"evaluation": {"tasks": ["trivia"]}}, "'trivia' is no task; valid: likelihood, cloze"),
        (
            {"evaluation": {"tasks": ["cloze", "speed", "cloze"]}},
            "evaluation.tasks: lists cloze more than once; list each value once (in",
        ),
        (
            {"evaluation": {"tasks": ["speed"], "prompt_tokens": 256, "samples": 0}},
            "evaluation.prompt_tokens=256 must be less than data.sequence_length=256",
        ),
        (
            {"evaluation": {"tasks": ["infilling"], "gap_tokens": 255}},
            "must end before data.sequence_length=256",
        ),
        (
            {
                "evaluation": {"tasks": ["mmlu"], "samples": 0},
                "data": {"sequence_length": 32},
            },
            "mmlu generates 32 tokens",
        ),
        (
            {"families": {"cola": {"block_size": 24}}},
            "must be a multiple of families.cola.patch_size",
        ),
    ],
)
def test_bad_input_is_one_clear_line(change: dict[str, Any], expected: str) -> None:
    assert expected in refused(SMALLEST | change)


def test_a_misspelt_key_deep_inside_a_union_is_named_by_its_path() -> None:
    timestep = {"kind": "logit_normal", "timestep_lok": 2.0}
    cola = {"objective": {"stage2": {"timestep": timestep}}}
    message = refused(SMALLEST | {"families": {"cola": cola}})
    path = "families.cola.objective.stage2.timestep"
    assert message.startswith(f"{path}.timestep_lok: unknown key; did you mean {path}.timestep_loc")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["families.cola.objective.stage2.lambda_ref=0.5"],
            "lambda_ref=0.5 has no effect in gradient_mode='detach_target'",
        ),
        (["training.ema_decay=0.99", "resources.zero_stage=3"], "training.ema_decay needs whole"),
        (
            ["evaluation.likelihood.importance_samples=4"],
            "importance_samples=4 with divergence='hutchinson'",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: list[str], said: str) -> None:
    study = SMALLEST | {"families": {"cola": {"objective": {"stage2": {}}}}}
    study |= {"training": {}, "resources": {}, "evaluation": {"likelihood": {}}}
    with pytest.raises(SpecError, match=said):
        StudySpec.parse(apply_overrides(study, settings))


def test_overrides_reach_into_mappings_and_lists() -> None:
    changed = apply_overrides(SMALLEST, ["ladder.0.budget=2e12", "data.sequence_length=128"])
    assert changed["ladder"][0]["budget"] in (2e12, "2e12")
    study = StudySpec.parse(changed)
    assert (study.ladder[0].budget, study.data.sequence_length) == (2e12, 128)
    assert SMALLEST["ladder"][0]["budget"] == 1e12


@pytest.mark.parametrize("bad", ["ladder", "ladder.7.budget=1", "name.x=1", "=3", "a=: :"])
def test_overrides_that_lead_nowhere_are_refused(bad: str) -> None:
    with pytest.raises(SpecError, match="--set"):
        apply_overrides(SMALLEST, [bad])


def test_files_that_are_not_studies_are_refused(tmp_path: Path) -> None:
    for name, text in {"list.yaml": "- 1", "broken.yaml": "a: [", "empty.yaml": ""}.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(SpecError, match=name):
            load_yaml(path)
    with pytest.raises(SpecError, match=r"shipped: .*demo"):
        load_study(str(tmp_path / "absent.yaml"), [])


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_every_shipped_study_is_valid_and_named_after_its_file(name: str) -> None:
    assert load_study(name, []).name == name


@given(st.permutations(sorted(SMALLEST)))
def test_the_content_hash_does_not_depend_on_the_order_of_keys(keys: list[str]) -> None:
    shuffled = {key: SMALLEST[key] for key in keys}
    assert StudySpec.parse(shuffled).content_hash() == StudySpec.parse(SMALLEST).content_hash()


def test_the_content_hash_changes_with_any_setting() -> None:
    base = StudySpec.parse(SMALLEST).content_hash()
    for change in ({"seeds": [67]}, {"data": {"seed": 1}}, {"families": ["ar"]}):
        assert StudySpec.parse(SMALLEST | change).content_hash() != base


@pytest.mark.parametrize("families", [["ar"], ["llada", "cola"], ["ar", "llada", "cola"]])
def test_a_study_is_read_again_as_it_was_written(families: list[str]) -> None:
    values = {
        "name": "again",
        "families": families,
        "ladder": [{"budget": 1e12, "core_parameters": 100_000}],
        "training": {"optimizer": {"grad_clip": None}},
        "matching": {"compute": "nominal"},
    }
    study = StudySpec.parse(values)
    assert StudySpec.parse(yaml.safe_load(study.to_yaml())) == study


def test_larger_runs_get_what_their_size_asks_for() -> None:
    larger = [
        {"core_parameters": 10**9, "workers": 64, "zero_stage": 2},
        {"core_parameters": 10**7, "workers": 8},
    ]
    values = SMALLEST | {
        "training": {"batch_sequences": 64},
        "resources": {"workers": 1, "zero_stage": 1, "larger": larger},
    }
    resources = StudySpec.parse(values).resources
    chosen = {size: resources.at(size) for size in (10**6, 10**7, 10**9)}
    assert [(r.workers, r.zero_stage) for r in chosen.values()] == [(1, 1), (8, 1), (64, 2)]
    with pytest.raises(SpecError, match=r"resources.workers=64 must be at most training.batch"):
        StudySpec.parse(values | {"training": {"batch_sequences": 32}})
    larger[1]["min_workers"] = 9
    with pytest.raises(SpecError, match=r"larger.1.min_workers=9 must be at most workers=8"):
        StudySpec.parse(values)
