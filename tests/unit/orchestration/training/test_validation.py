"""A finished model is scored on validation and on the test split; errors are over documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cola.data import PackedTokens, PreparedData
from cola.evaluation.clusters import clustered_mean
from cola.families.registry import family_of
from cola.records import Metric
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalReader, JournalWriter
from orchestration.training.distributed import WorkerRank
from orchestration.training.hooks import Evaluate
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import (
    LoopSettings,
    Progress,
    TrainState,
    initial_model,
    open_stage,
)
from orchestration.training.validation import evaluation_steps, final_rows


@pytest.fixture
def state(tiny_study: dict[str, Any]) -> TrainState:
    """An AR model as it begins; no step is trained."""
    study = tiny_study | {"families": {"ar": {}}}
    (planned,) = plan_study(StudySpec.parse(study))
    family = family_of("ar")
    return open_stage(
        planned.spec,
        family,
        initial_model(family, planned.spec),
        engine_factory=TorchEngine,
        settings=LoopSettings(0),
        worker=WorkerRank(),
        index=0,
        before=Progress(),
    )


def evaluated(state: TrainState, data: PreparedData, step: int, *, folder: Path) -> dict[str, Any]:
    """What the run's journal has of an evaluation after this step."""
    path = folder / f"journal-{step}.jsonl"
    journal = JournalWriter(path)
    state.step = step
    Evaluate(state.run, data, journal)(state)
    journal.close()
    (line,) = JournalReader(path).new_lines()
    return dict(line.values)


def test_the_test_split_is_scored_after_the_last_step_alone(
    state: TrainState, data: PreparedData, tmp_path: Path
) -> None:
    first, last = evaluation_steps(state.run)
    before, found = (evaluated(state, data, step, folder=tmp_path) for step in (first, last))
    assert not [key for key in before if key.startswith("test/")]
    assert before[Metric.NLL] == found[Metric.NLL]
    rows = final_rows(state, data)
    assert list(rows) == list(range(8))
    assert found[Metric.TEST_SEQUENCES] == 8
    nll = np.array([row["nll"] for row in rows.values()])
    expected = clustered_mean(nll, data.test.documents_of(np.arange(8)))
    assert found[Metric.TEST_NLL] == pytest.approx(nll.mean())
    assert found[Metric.TEST_NLL_STANDARD_ERROR] == pytest.approx(expected.standard_error)
    assert found[Metric.on_test(Metric.CLUSTERS)] == expected.clusters
    bits = nll.sum() * 32 / np.log(2) / data.test.bytes_of(np.arange(8)).sum()
    assert found[Metric.TEST_BITS_PER_BYTE] == pytest.approx(bits)
    assert found[Metric.TEST_NLL] != found[Metric.NLL]


def test_data_without_a_test_split_give_no_test_score(
    state: TrainState, data: PreparedData, tmp_path: Path
) -> None:
    none = PackedTokens(data.folder, "test", 32, data.meta["dtype"], [])
    found = evaluated(
        state, replace(data, test=none), evaluation_steps(state.run)[-1], folder=tmp_path
    )
    assert Metric.NLL in found
    assert not [key for key in found if key.startswith("test/")]


def test_fewer_test_sequences_than_asked_for_are_all_scored(
    state: TrainState, data: PreparedData
) -> None:
    settings = state.run.evaluation.model_copy(update={"validation_sequences": 10**6})
    state.run = state.run.model_copy(update={"evaluation": settings})
    assert len(final_rows(state, data)) == len(data.test)
