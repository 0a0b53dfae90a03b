"""Preparation of public English texts that may not be committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cola.data import prepare
from tests.paths import SHARED
from tests.unit.data.test_prepare import english_rows, spec_of


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "books_pd.val.jsonl"])
def test_english_text(name: str, tmp_path: Path) -> None:
    path = SHARED / "corpora" / name
    settings = {"tokenizer": {"kind": "bpe", "vocab_size": 2048}, "sequence_length": 128}
    spec = spec_of(path, validation_fraction=0.05, **settings)
    data = prepare(spec, tmp_path / "cache")
    sizes = [data.meta[split]["bytes"] for split in ("train", "validation")]
    assert 0.005 < sizes[1] / sum(sizes) < 0.15
    texts = [path.read_text(encoding="utf-8")]
    if name.endswith(".jsonl"):
        texts = [json.loads(line)["text"] for line in texts[0].splitlines()]
    assert 2.5 < data.meta["train"]["bytes_per_token"] < 4.5
    for text in english_rows(data):
        assert any(text in whole for whole in texts)
