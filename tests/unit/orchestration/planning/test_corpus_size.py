"""How large a corpus is, whatever became of the files that say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cola.data import open_prepared, prepare
from cola.errors import StorageError
from cola.study import StudySpec
from orchestration.planning.corpus_size import corpus_size


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1]", b"{}", b'{"train": 3}', b"null"])
def test_damaged_counts_of_prepared_data_are_made_anew(
    tiny_study: dict[str, Any], tmp_path: Path, content: bytes
) -> None:
    study, cache = StudySpec.parse(tiny_study), tmp_path / "cache"
    folder = prepare(study.data, cache).folder
    counted = corpus_size(study, cache)
    assert counted.exact
    (folder / "meta.json").write_bytes(content)
    assert not corpus_size(study, cache).exact
    with pytest.raises(StorageError, match="is not a folder of prepared data"):
        open_prepared(folder)
    prepare(study.data, cache)
    assert corpus_size(study, cache).tokens == counted.tokens
    assert json.loads((folder / "meta.json").read_text())["train"]["tokens"] == counted.tokens
