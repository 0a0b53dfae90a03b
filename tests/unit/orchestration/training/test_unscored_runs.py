"""Runs of a model without a likelihood: trained, validated, tested and answered without an NLL."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cola.data import PreparedData
from cola.families.registry import family_of
from cola.records import Metric
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.training.final_tasks import task_metrics
from orchestration.training.hooks import Evaluate
from orchestration.training.validation import text_samples
from orchestration.worker.export_check import exported_nll_difference
from tests.unit.orchestration.training.test_train_loop import trained


@pytest.mark.slow
def test_a_generator_is_measured_by_what_it_has(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    prior = {"latent_dim": 4, "block_size": 8, "log_snr": 3.0, "prior": {"kind": "drifting"}}
    asked = {"tasks": ["predictive", "cloze", "continuation"], "task_items": 4}
    study = StudySpec.parse(
        tiny_study
        | {"families": {"cola": prior}, "ladder": [{"budget": 2.5e9, "core_parameters": 70_000}]}
        | {"evaluation": tiny_study["evaluation"] | asked}
    )
    (planned,) = plan_study(study)
    run = planned.spec
    state = trained(run, data, Evaluate(run, data, None))
    assert state.stop == "finished"
    assert state.validation is not None
    assert state.validation.nll is None
    found = state.validation.metrics
    assert not {Metric.NLL, Metric.BITS_PER_BYTE, Metric.TEST_NLL} & found.keys()
    for name in ("val/energy_score", "val/distortion_nats_per_token"):
        assert math.isfinite(found[name])
        assert math.isfinite(found[Metric.on_test(name)])
    family = family_of("cola")
    family.save(state.model, tmp_path / "model")
    no_news = exported_nll_difference(state, tmp_path / "model", data, keep_alive=lambda: None)
    assert no_news is None
    samples = text_samples(family, state.model, run, data=data, step=state.step)
    assert len(samples) == 2
    answered = task_metrics(
        family, state.model, run, data=data, run_folder=tmp_path, device=torch.device("cpu"),
        keep_alive=lambda: None,
    )  # fmt: skip
    assert {name.split("/")[1] for name in answered} >= {"predictive", "continuation"}
    assert not any(name.endswith("word_nats") for name in answered)
