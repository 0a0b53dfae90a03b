"""How large a corpus is: counted from what is prepared, where that is whole, else estimated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.data import PreparedData, prepare
from cola.study import StudySpec
from orchestration.planning.corpus_size import corpus_size


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
