"""Text of known entropy in a run: the excess over it, and what latents hold of its topics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cola.data import PreparedData, prepare
from cola.evaluation.clusters import clustered_mean
from cola.evaluation.reference_lines import reference_lines
from cola.families.registry import family_of
from cola.hidden_topics.truth import true_nll
from cola.records import Metric
from cola.spec import DataSpec
from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import plan_study
from orchestration.training.distributed import WorkerRank
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import (
    LoopSettings,
    Progress,
    initial_model,
    open_stage,
)
from orchestration.training.validation import diagnostics, final_rows, summary_of

DATA = {
    "corpus": {"source": "generated", "documents": 300, "document_tokens": 64, "symbols": 12},
    "tokenizer": {"kind": "symbols"},
    "sequence_length": 32,
    "validation_fraction": 0.2,
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(DataSpec.parse(DATA), tmp_path_factory.mktemp("generated"))


def planned_run(tiny_study: dict[str, Any], family: str) -> RunSpec:
    families = {family: tiny_study["families"][family]}
    (planned,) = plan_study(StudySpec.parse(tiny_study | {"families": families, "data": DATA}))
    return planned.spec


def test_the_excess_is_the_loss_less_the_sources_own(
    tiny_study: dict[str, Any], generated: PreparedData
) -> None:
    run, family = planned_run(tiny_study, "ar"), family_of("ar")
    state = open_stage(
        run,
        family,
        initial_model(family, run),
        engine_factory=TorchEngine,
        settings=LoopSettings(0),
        worker=WorkerRank(),
        index=0,
        before=Progress(),
    )
    rows = final_rows(state, generated)
    found = summary_of(rows, generated, family, split="test")
    excess = found[Metric.on_test("val/excess_nats_per_token")]
    truth = reference_lines(generated, len(rows), "test").truth
    assert truth is not None
    assert excess == pytest.approx(found[Metric.TEST_NLL] - truth, abs=1e-6)
    ids = np.arange(len(rows))
    own_N = true_nll(generated.source, generated.test.rows(ids)).mean(1)
    nll_N = np.array([row["nll"] for row in rows.values()])
    wanted = clustered_mean(nll_N - own_N, generated.test.documents_of(ids)).standard_error
    assert found[Metric.on_test("val/excess_standard_error")] == pytest.approx(wanted)


def test_a_model_with_latents_is_probed_for_topics(
    tiny_study: dict[str, Any], generated: PreparedData
) -> None:
    run, family = planned_run(tiny_study, "cola"), family_of("cola")
    found = diagnostics(family, initial_model(family, run), run, data=generated)
    assert 0 <= found["diagnostic/topic_probe/accuracy"] <= 1
    assert found["diagnostic/topic_probe/majority"] >= 1 / 8 - 0.1
    assert "diagnostic/history_gap_at_time/0.9" in found
