"""A run on pairs of text and image in this process, from the data to what a report reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cola.image_captions.scenes import scene_in
from cola.records import SCENE_ATTRIBUTES, Metric
from orchestration.state.journal import JournalReader
from orchestration.state.paths import RunFolder
from tests.unit.orchestration.worker.test_finish import ended

PAIRS = {
    "corpus": {"source": "generated-pairs", "documents": 400},
    "tokenizer": {"kind": "bpe", "vocab_size": 336},
    "sequence_length": 16,
    "validation_fraction": 0.1,
}
EVALUATION = {
    "validation_sequences": 8, "points": 1, "samples": 2, "prompt_tokens": 6,
    "diagnostic_sequences": 8, "generation": {"max_new_tokens": 8, "steps": 2},
    "likelihood": {"ode_steps": 1},
}  # fmt: skip


@pytest.mark.slow
def test_a_run_draws_images_and_writes_captions_for_the_report(
    tiny_study: dict[str, Any],
) -> None:
    settings = {"latent_dim": 4, "block_size": 8}
    study = tiny_study | {
        "families": {"multimodal": settings},
        "data": PAIRS,
        "evaluation": EVALUATION,
        "ladder": [{"budget": 1.0e9, "core_parameters": 70_000}],
    }
    difference, outcome, run = ended(study, lambda state: None)
    assert outcome.state == "finished"
    assert abs(difference) < 1e-6
    values: dict[str, float] = {}
    for line in JournalReader(RunFolder(run.folder).journal).new_lines():
        values |= line.values
    for name in ("image", "caption", "judge", "chance"):
        measured = [values[Metric.diagnostic(f"{name}_accuracy/{a}")] for a in SCENE_ATTRIBUTES]
        assert all(0 <= value <= 1 for value in measured)
    assert values[Metric.diagnostic("judge_accuracy/colour")] > 0.9
    assert values[Metric.diagnostic("chance_accuracy/scene")] < 0.5
    assert values[Metric.diagnostic("image_nats_per_level/alone")] > 0
    samples = [json.loads(line) for line in RunFolder(run.folder).samples.read_text().splitlines()]
    drawn = [sample for sample in samples if sample.get("image")]
    described = [sample for sample in samples if sample.get("prompt_image")]
    assert len(drawn) == len(described) == 2
    assert len(samples) == 6
    assert all(scene_in(sample["prompt"]) is not None for sample in drawn)
    assert all(scene_in(sample["reference"]) is not None for sample in described)
