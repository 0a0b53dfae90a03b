"""A finished model on sequences beyond the length of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.held_out_sets.contexts import context_sentences, context_table
from cola.data import PreparedData
from cola.errors import SpecError
from cola.families.registry import family_of
from cola.held_out_sets.long_contexts import long_rows
from cola.spec import DataSpec
from cola.study import RunSpec, StudySpec
from orchestration.planning.costs import task_flops
from orchestration.planning.plan import plan_study
from orchestration.training.final_tasks import task_metrics
from orchestration.training.train_loop import initial_model
from tests.conftest import data_of


def run_of(tiny_study: dict[str, Any], family: str = "ar", **evaluation: Any) -> RunSpec:
    entry = tiny_study["families"][family]
    changes = {"evaluation": tiny_study["evaluation"] | evaluation, "families": {family: entry}}
    (planned,) = plan_study(StudySpec.parse(tiny_study | changes))
    return planned.spec


def test_longer_sequences_are_of_the_test_splits_text(
    data: PreparedData, corpus_file: Path
) -> None:
    rows = long_rows(DataSpec.parse(data_of(corpus_file)), data, 96, sequences=3)
    assert rows.rows_NL.shape == (3, 96)
    own = data.test.rows(np.arange(len(data.test)))
    decode = data.tokenizer.decode
    short = {decode(row.tolist())[8:40] for row in own}  # short sequences begin at other places
    texts = [decode(row.tolist()) for row in rows.rows_NL]
    assert sum(any(part in text for part in short) for text in texts) == 3
    for text, size in zip(texts, rows.bytes_N, strict=True):
        assert size == len(text.encode())


@pytest.mark.parametrize("family", ["ar", "cola"])
def test_a_model_is_measured_within_and_beyond_its_length(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path, family: str
) -> None:
    run = run_of(tiny_study, family, context_lengths=[64], task_items=4)
    metrics = task_metrics(
        family_of(family),
        initial_model(family_of(family), run),
        run,
        data=data,
        run_folder=tmp_path,
        device=torch.device("cpu"),
        keep_alive=lambda: None,
    )
    place = "held_out/own/64"
    more = metrics[f"{place}/likelihood/nll_more_beyond"]
    beyond, within = (metrics[f"{place}/likelihood/nll_{name}"] for name in ("beyond", "within"))
    assert more == pytest.approx(beyond - within)
    assert metrics[f"{place}/likelihood/nll_from_32_to_64"] == beyond
    gain = metrics[f"{place}/continuation/accuracy"] - metrics[f"{place}/continuation/cut_accuracy"]
    assert metrics[f"{place}/continuation/gain"] == pytest.approx(gain)
    table = context_table([("Name", "exact", metrics), ("Other", "bound", {})])
    assert table is not None
    assert [row[:2] for row in table.rows] == [["64", "Name"]]
    sentences = context_sentences([("Name", "exact", metrics), ("Other", "bound", {})])
    assert sentences[0] == "Not measured at 64 tokens: Other."
    assert sentences[1].startswith("Name at 64 tokens: ")


def test_lengths_are_beyond_training_and_cost_flops(tiny_study: dict[str, Any]) -> None:
    assert task_flops(run_of(tiny_study, context_lengths=[64])) > 0
    assert task_flops(run_of(tiny_study)) == 0
    with pytest.raises(SpecError, match="context_lengths: 32 is not above"):
        run_of(tiny_study, context_lengths=[32])
    with pytest.raises(SpecError, match=r"context_lengths=68 must be a multiple of families\.cola"):
        run_of(tiny_study, "cola", context_lengths=[68])
