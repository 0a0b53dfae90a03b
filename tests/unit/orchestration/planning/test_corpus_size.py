"""How large a corpus is: counted from what is prepared, where that is whole, else estimated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.fitting.laws import LAWS
from cola.data import PreparedData, prepare
from cola.study import StudySpec
from orchestration.planning.corpus_size import REPEATS, corpus_size, repeat_cautions, worth


@pytest.fixture
def study(tiny_study: dict[str, Any]) -> StudySpec:
    return StudySpec.parse(tiny_study)


@pytest.fixture
def prepared(study: StudySpec, tmp_path: Path) -> PreparedData:
    return prepare(study.data, tmp_path)


def test_prepared_tokens_are_counted(
    study: StudySpec, prepared: PreparedData, tmp_path: Path
) -> None:
    size = corpus_size(study, tmp_path)
    assert (size.tokens, size.exact) == (prepared.meta["train"]["tokens"], True)
    assert size.summary.documents == prepared.meta["corpus_documents"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 0}', None])
def test_a_damaged_preparation_counts_for_nothing(
    content: str | None, study: StudySpec, prepared: PreparedData, tmp_path: Path
) -> None:
    meta = prepared.folder / "meta.json"
    if content is None:
        meta.unlink()
    else:
        meta.write_text(content)
    size = corpus_size(study, tmp_path)
    assert size == corpus_size(study, tmp_path / "empty")
    assert not size.exact


def test_epochs_are_warned_of_by_what_the_law_of_repeated_data_makes_of_them() -> None:
    row = np.array([[0.0, 1.0, 1.0, 1.0, 1.0, REPEATS, 5.31]])  # loss: 1 / N + 1 / D'
    formula = LAWS["repeated"].formula
    assert formula is not None
    for epochs in (1.0, 4.0, 16.0, 100.0):
        logs = (np.log([[value]]) for value in (1e5, epochs * 1e6, 1e6))
        tokens = 1 / (formula(row, *logs)[0, 0] - 1e-5)
        assert worth(epochs) == pytest.approx(tokens / 1e6, rel=1e-6)
    assert worth(0.5) == 0.5
    assert repeat_cautions("ar", 2.0) == repeat_cautions("ar", None) == []
    (caution,) = repeat_cautions("ar", 16.0)
    assert "ar reads the corpus 16.0 times, which is worth 10.6 times as much new text" in caution
