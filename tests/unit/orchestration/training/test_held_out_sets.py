"""A finished model on further held-out texts: what is recorded, and what the plan counts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.held_out_sets.measured import texts_of
from analysis.held_out_sets.shift import mean_of
from cola.data import PreparedData
from cola.errors import SpecError
from cola.families.registry import family_of
from cola.records import OWN_TEXT, Metric
from cola.study import RunSpec, StudySpec
from orchestration.planning.costs import evaluation_flops, predictive_flops, task_flops
from orchestration.planning.plan import plan_study
from orchestration.state.paths import RunFolder
from orchestration.training.final_tasks import task_metrics
from orchestration.training.train_loop import initial_model

TASKS = {"tasks": ["predictive"], "task_items": 6, "predictive": {"draws": 2, "prompts": 6}}


def run_of(tiny_study: dict[str, Any], **evaluation: Any) -> RunSpec:
    changes = {"evaluation": tiny_study["evaluation"] | evaluation, "families": {"ar": {}}}
    (planned,) = plan_study(StudySpec.parse(tiny_study | changes))
    return planned.spec


def measured(run: RunSpec, data: PreparedData, folder: Path) -> dict[str, float]:
    family = family_of(run.family)
    return task_metrics(
        family,
        initial_model(family, run),
        run,
        data=data,
        run_folder=folder,
        device=torch.device("cpu"),
        keep_alive=lambda: None,
    )


def test_every_text_is_measured_beside_the_studys_own(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    (tmp_path / "wiki.txt").write_text("Ein ganz anderer Text, von Fluss und Lampe. " * 30)
    texts = {
        "wiki": {"source": "files", "paths": [str(tmp_path / "wiki.txt")]},
        "typos": {"source": "perturbed", "rate": 0.1},
    }
    run = run_of(tiny_study, held_out=texts, **TASKS)
    metrics = measured(run, data, tmp_path / "run")
    for text in (OWN_TEXT, *texts):
        for task, name in (("likelihood", "bits_per_byte"), ("predictive", "brier_1")):
            assert math.isfinite(metrics[Metric.held_out(text, task, name)]), (text, task)
    assert metrics["held_out/own/predictive/brier_1"] == metrics["eval/predictive/brier_1"]
    recorded = json.loads(RunFolder(tmp_path / "run").evaluation.read_text())
    found = texts_of([recorded])
    assert list(found) == [OWN_TEXT, "typos", "wiki"]
    for text, result in found.items():
        assert result.kind == "exact"
        bits = metrics[Metric.held_out(text, "likelihood", "bits_per_byte")]
        assert mean_of(result.bits).mean == pytest.approx(bits)
        assert result.brier is not None
        brier = metrics[Metric.held_out(text, "predictive", "brier_1")]
        assert mean_of(result.brier).mean == pytest.approx(brier)
    assert found["typos"].bits.documents_of == OWN_TEXT == found[OWN_TEXT].bits.documents_of


def test_the_plan_counts_each_text_and_keys_stay_without_any(tiny_study: dict[str, Any]) -> None:
    plain = run_of(tiny_study, **TASKS)
    texts = {name: {"source": "perturbed", "seed": seed} for seed, name in enumerate("ab")}
    run = run_of(tiny_study, held_out=texts, **TASKS)
    more = 3 * evaluation_flops(run) + 2 * predictive_flops(run)
    assert task_flops(run) - task_flops(plain) == pytest.approx(more)
    assert run.run_key != plain.run_key
    values = plain.model_dump(mode="json")
    assert "held_out_fingerprints" not in values
    assert "held_out" not in values["evaluation"]
    assert RunSpec.model_validate(run.model_dump(mode="json")).run_key == run.run_key


def test_a_key_has_the_texts_content_not_its_place(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    keys = []
    for name, content in (("a", "One text."), ("b", "One text."), ("c", "Another text.")):
        (tmp_path / f"{name}.txt").write_text(content)
        text = {"source": "files", "paths": [str(tmp_path / f"{name}.txt")]}
        keys.append(run_of(tiny_study, held_out={"wiki": text}).run_key)
    assert keys[0] == keys[1] != keys[2]


def test_names_of_texts_are_checked(tiny_study: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="'own' is the study's own test split"):
        run_of(tiny_study, held_out={"own": {"source": "perturbed"}})
    with pytest.raises(SpecError, match=r"evaluation\.held_out.*source"):
        run_of(tiny_study, held_out={"wiki": {"source": "hub"}})
